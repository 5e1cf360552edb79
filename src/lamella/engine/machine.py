"""Facts for ``info`` and ``version``: the store's contents, this machine, the tools at hand."""

from __future__ import annotations

import contextlib
import os
import platform
from typing import TYPE_CHECKING

from lamella._version import __version__

if TYPE_CHECKING:
    from lamella.engine.opened import Opened

TOOLS = ("crun", "runc", "conmon")


def describe_versions() -> dict[str, object]:
    """Return the versions of lamella, of what it stands on and of the tools it drives."""
    document: dict[str, object] = {
        "Version": __version__,
        "Python": platform.python_version(),
        "OS/Arch": f"linux/{_architecture()}",
        "Kernel": os.uname().release,
    }
    return document | {tool: tool_version(tool) for tool in TOOLS}


def tool_version(name: str) -> str:
    """Ask a tool for its version; ``not installed`` if there is none."""
    from lamella.errors import Unavailable
    from lamella.linux import spawn

    try:
        path = spawn.find_tool(name, package=name)
    except Unavailable:
        return "not installed"
    done = spawn.run([path, "--version"], env={}, timeout=10)
    first = done.stdout.decode("utf-8", "replace").partition("\n")[0]
    return first.removeprefix(f"{name} version ").strip() or "unknown"


def describe_store(opened: Opened) -> dict[str, object]:
    """Return counts, places and warnings, under Docker's names where it has them."""
    from lamella.engine.fleet import list_containers
    from lamella.engine.images import list_images

    containers = list_containers(opened, resting=True)
    states = [container.state for container in containers]
    images = list_images(opened, steps=True)
    layers = opened.parts.layers.sizes()
    partial = _partial_blobs(opened)
    return {
        "Containers": len(containers),
        "ContainersRunning": states.count("running"),
        "ContainersPaused": states.count("paused"),
        "ContainersStopped": sum(state not in {"running", "paused"} for state in states),
        "Images": len(images),
        "Layers": len(layers),
        "LayersSize": sum(layers.values()),
        "PartialBlobs": len(partial),
        "PartialBlobsSize": sum(partial),
        "Driver": opened.parts.root.driver.name,
        "DockerRootDir": str(opened.root),
        "StateDir": str(opened.state),
        "ServerVersion": __version__,
        "KernelVersion": os.uname().release,
        "OSType": "linux",
        "Architecture": os.uname().machine,
        "NCPU": os.cpu_count() or 1,
        "DefaultRuntime": _runtime_name(opened),
        "Warnings": [*_warnings(opened), *opened.parts.problems],
    }


def _partial_blobs(opened: Opened) -> list[int]:
    """Return the bytes on disk of each blob that a pull began and did not end; ``image prune`` frees them."""
    from lamella.transports.blobs import SUFFIX, blobs_directory

    sizes = []
    with contextlib.suppress(FileNotFoundError), os.scandir(blobs_directory(opened.parts.root)) as entries:
        for entry in entries:
            if entry.name.endswith(SUFFIX):
                with contextlib.suppress(FileNotFoundError):
                    sizes.append(entry.stat(follow_symlinks=False).st_blocks * 512)
    return sizes


def _runtime_name(opened: Opened) -> str:
    from lamella.errors import Unavailable

    try:
        return opened.site.runtime.name
    except Unavailable:
        return ""


def _warnings(opened: Opened) -> list[str]:
    from lamella.errors import Unavailable
    from lamella.linux import spawn
    from lamella.store.dockerd import find_dockerd

    found = []
    for attempt in (lambda: opened.site.runtime, lambda: spawn.find_tool("conmon", package="conmon")):
        try:
            attempt()
        except Unavailable as error:
            found.append(str(error))
    pid = find_dockerd(opened.root)
    if pid is not None:
        found.append(f"dockerd{f' (pid {pid})' if pid else ''} is running on this data-root: it can be read only")
    return found


def _architecture() -> str:
    from lamella.model.platform import host_platform

    return host_platform().architecture

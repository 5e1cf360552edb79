"""A container's file system as a descriptor, its volumes included: the door for everything that copies.

A running one is entered through its first process's root, which is in the container's own mount namespace; one at
rest through a private mount namespace that nobody else sees.  Nothing is mounted on the host's side, and paths below
the descriptor are resolved by ``Root``.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from lamella.container.site import Site
from lamella.container.state import State
from lamella.container.status import recorded_state
from lamella.container.volumes import Volumes, runtime_mounts
from lamella.errors import Conflict
from lamella.fs.rooted import Root
from lamella.linux import libc
from lamella.model.containerconfig import parse_host_config
from lamella.runtime.rundir import is_running
from lamella.runtime.spec import MountPoint
from lamella.store.containerdb import ContainerRecord


@contextmanager
def opened_container(site: Site, record: ContainerRecord) -> Generator[Root]:
    """Hold the root of a container's file system open; raise Conflict for one whose removal has begun."""
    if recorded_state(record) in (State.DEAD, State.REMOVING):
        raise Conflict(f"container {record.name} is being removed")
    identity = site.run_directory(record.id).read_identity()
    if identity is not None and is_running(identity.pid, identity.started):
        running = _enter_running(identity.pid, identity.started)
        if running is not None:
            with running:
                yield running
            return
    host = parse_host_config(record.host_config)
    table = record.config.get("MountPoints")
    volumes = Volumes(site.store.root.path)
    mounts = runtime_mounts(table if isinstance(table, dict) else {}, {}, host.mounts, volumes)
    binds = [mount for mount in mounts if mount.kind == "bind"]
    layer = site.store.rwlayers.get(record.id)
    with site.store.rwlayers.mounted(layer) as merged:
        if not binds:
            with Root(merged) as root:
                yield root
            return
        with _private_view(merged, binds) as root:
            yield root


def _enter_running(pid: int, started: int) -> Root | None:
    """Open a process's root, unless the number stands for another process by now."""
    try:
        root = Root(Path(f"/proc/{pid}/root"), follow=True)
    except (FileNotFoundError, ProcessLookupError):
        return None
    if not is_running(pid, started):
        root.close()
        return None
    return root


@contextmanager
def _private_view(merged: Path, binds: Sequence[MountPoint]) -> Generator[Root]:
    """Mount *binds* over *merged* in a mount namespace of their own, and open it.

    A thread makes the namespace and ends; a descriptor keeps it, and closing that undoes all mounts in it.
    """
    import threading

    opened: list[int] = []
    failure: list[BaseException] = []

    def work() -> None:
        try:
            libc.unshare(libc.CLONE_FS | libc.CLONE_NEWNS)
            libc.mount("none", "/", "none", libc.MS_REC | libc.MS_SLAVE)
            opened.append(os.open("/proc/thread-self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC))
            opened.append(os.open(merged, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
            with Root(opened[1]) as root:
                for bind in sorted(binds, key=lambda bind: bind.destination.count("/")):
                    _bind(root, bind)
        except BaseException as problem:  # noqa: BLE001 - carried to the calling thread and raised there
            failure.append(problem)

    thread = threading.Thread(target=work, name="lamella-view")
    thread.start()
    thread.join()
    with ExitStack() as scope:
        for fd in opened:
            scope.callback(os.close, fd)
        if failure:
            raise failure[0]
        with Root(opened[1]) as root:
            yield root


def _bind(root: Root, bind: MountPoint) -> None:
    """Mount one bind on its place, resolved inside *root*; the place is made if it is not there."""
    place = bind.destination.encode("utf-8", "surrogateescape")
    if os.path.isdir(bind.source):
        root.make_directories(place)
    try:
        target = root.open(place, os.O_PATH)
    except FileNotFoundError:
        # A file to be mounted on a name that is not there yet: nothing to copy to or from in its place.
        return
    try:
        path = f"/proc/self/fd/{target}"
        libc.mount(os.fsencode(bind.source), path, "none", libc.MS_BIND | libc.MS_REC)
        if "ro" in bind.options:
            # The descriptor is below the new mount: it is named anew to reach what is on top.
            again = root.open(place, os.O_PATH)
            try:
                libc.mount("none", f"/proc/self/fd/{again}", "none", libc.MS_BIND | libc.MS_REMOUNT | libc.MS_RDONLY)
            finally:
                os.close(again)
    finally:
        os.close(target)

"""The processes of a container, as the host sees them: ``ps`` lists them all, and those that are its own are kept."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress

from lamella.container.site import Site
from lamella.container.state import State
from lamella.container.status import live_state
from lamella.errors import Conflict, InvalidArgument
from lamella.linux import spawn
from lamella.model.ids import ContainerID
from lamella.runtime.oci_cli import TOOL_ENVIRONMENT

_TIMEOUT = 60.0


def list_processes(
    site: Site, container: ContainerID, options: Sequence[str] = ()
) -> tuple[list[str], list[list[str]]]:
    """Return the titles and rows that ``ps`` with *options* (``-ef`` without) prints for a running container.

    Raises Conflict if it does not run, InvalidArgument for options that leave the PID out or that ``ps`` refuses.
    """
    record = site.store.containers.get(container)
    found = site.run_directory(container).read_identity()
    if found is None or live_state(site, record) not in (State.RUNNING, State.PAUSED):
        raise Conflict(f"container {record.id} is not running")
    line = [spawn.find_tool("ps", package="procps"), *(options or ("-ef",))]
    done = spawn.run(line, env=TOOL_ENVIRONMENT, timeout=_TIMEOUT)
    lines = done.stdout.decode("utf-8", "surrogateescape").splitlines()
    if done.code != 0 or not lines:
        said = " ".join(done.stderr.decode("utf-8", "replace").split())
        raise InvalidArgument(f"ps: {said or done.code}")
    titles = lines[0].split()
    if "PID" not in titles:
        raise InvalidArgument(f"Couldn't find PID field in ps output: {lines[0]}")
    at, last = titles.index("PID"), len(titles) - 1
    own = _own_processes(container, found.pid)
    rows = [text.split(None, last) for text in lines[1:]]
    return titles, [row for row in rows if len(row) > last and row[at] in own]


def _own_processes(container: ContainerID, first: int) -> set[str]:
    """Find the processes in the container's control group, or in its PID namespace if that is its own."""
    space = _namespace(first)
    apart = space is not None and space != _namespace(os.getpid())
    found = {str(first)}
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        if apart and _namespace(int(pid)) == space:
            found.add(pid)
            continue
        with suppress(OSError), open(f"/proc/{pid}/cgroup", encoding="ascii", errors="replace") as file:
            if container in file.read():
                found.add(pid)
    return found


def _namespace(pid: int) -> str | None:
    try:
        return os.readlink(f"/proc/{pid}/ns/pid")
    except OSError:
        return None

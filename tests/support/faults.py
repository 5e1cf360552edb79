"""Dying at the N-th change that an operation makes to the file system.

The interpreter itself announces most changing calls to audit hooks, so no call in the package can bypass the count;
those it does not announce (writes, syncs, mounts) are counted by wrappers.  Before call N the process is gone, as if
by SIGKILL.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lamella.linux import libc

_EVENTS = frozenset({
    "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.chmod", "os.chown", "os.truncate",
    "os.utime", "os.setxattr", "os.removexattr", "fcntl.flock",
})  # fmt: skip
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
KILLED = 137
FAILED = 99


def run(
    operation: Callable[[], object],
    *,
    die_at: int = 0,
    log: Path | None = None,
    at_death: Callable[[], object] | None = None,
) -> int:
    """Run an operation in a child that dies before its ``die_at``-th change; return the exit code.

    ``at_death``, which may cut the power, is done just before the end, whether that comes by death or by success;
    with it the syncs are real.
    """
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    code = FAILED
    try:
        count = _install(die_at, at_death)
        operation()
        if log is not None:
            made = count[0]
            log.write_text(str(made))
        if at_death is not None:
            at_death()
        code = 0
    except BaseException:  # noqa: BLE001  (a forked child must never return into the test runner)
        traceback.print_exc()
    finally:
        os._exit(code)


def count_changes(operation: Callable[[], object], log: Path) -> int:
    """Return how many changes an operation makes."""
    assert run(operation, log=log) == 0
    return int(log.read_text())


def _not_done(_fd: int) -> None:
    """Stand in for a sync."""


def _install(die_at: int, at_death: Callable[[], object] | None) -> list[int]:
    count = [0]

    def tick() -> None:
        count[0] += 1
        if count[0] == die_at:
            if at_death is not None:
                at_death()
            os._exit(KILLED)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in _EVENTS or (event == "open" and len(arguments) > 2 and arguments[2] and arguments[2] & _WRITING):
            tick()

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*arguments: Any, **named: Any) -> Any:
            tick()
            return function(*arguments, **named)

        return wrapper

    os.write = counted(os.write)
    os.mknod = counted(os.mknod)
    libc.mount = counted(libc.mount)
    libc.umount2 = counted(libc.umount2)
    # Death, unlike a power cut, loses nothing that was written: the syncs count, but need not be done.
    real = at_death is not None
    os.fsync = counted(os.fsync if real else _not_done)
    os.fdatasync = counted(os.fdatasync if real else _not_done)
    libc.syncfs = counted(libc.syncfs if real else _not_done)
    sys.addaudithook(hook)
    return count

"""Locks between processes: flock(2) on files that may themselves be removed.

The kernel drops a lock with its owner, so no lock outlives a crash and no process ids are compared.  Two threads that
lock the same path exclude each other too, since each opens the file for itself.  Which lock guards what, and their
order, is for the callers to say.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from lamella.errors import Unavailable


@contextmanager
def locked(path: Path, *, shared: bool = False, timeout: float | None = None) -> Generator[int]:
    """Hold the lock *path* (made if absent, its directory must exist) and yield its descriptor.

    Waits in the kernel without *timeout*; with it, gives up after that many seconds with :class:`Unavailable`.
    """
    fd = _acquire(path, shared=shared, timeout=timeout)
    try:
        yield fd
    finally:
        unlock(fd)


def try_lock(path: Path, *, shared: bool = False) -> int | None:
    """Take the lock if it is free now and return its descriptor (to be given to :func:`unlock`), else None."""
    while True:
        fd = _open(path)
        try:
            fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return None
        except BaseException:
            os.close(fd)
            raise
        if _is_current(fd, path):
            return fd
        os.close(fd)


def take_lock(path: Path, *, shared: bool = False) -> int:
    """Wait for the lock and return its descriptor, to be given to :func:`unlock`."""
    return _acquire(path, shared=shared, timeout=None)


def unlock(fd: int) -> None:
    """Release a lock and close its descriptor, even if a forked child still holds a copy of it."""
    try:
        fcntl.flock(fd, fcntl.LOCK_UN)
    finally:
        os.close(fd)


def is_locked(path: Path) -> bool:
    """Tell whether somebody holds *path*, shared or not; the question takes the lock for an instant itself."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def _acquire(path: Path, *, shared: bool, timeout: float | None) -> int:
    operation = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    while True:
        fd = _open(path)
        try:
            if timeout is None:
                fcntl.flock(fd, operation)
            else:
                _lock_within(fd, operation, timeout, path)
            if _is_current(fd, path):
                return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)


def _lock_within(fd: int, operation: int, timeout: float, path: Path) -> None:
    import time

    deadline = time.monotonic() + timeout
    pause = 0.001
    while True:
        try:
            fcntl.flock(fd, operation | fcntl.LOCK_NB)
        except BlockingIOError:
            left = deadline - time.monotonic()
            if left <= 0:
                raise Unavailable(
                    f"{path} is locked by another process and was not released within {timeout:g} s;"
                    f" see who holds it with: fuser -v {path}"
                ) from None
            time.sleep(min(pause, left))
            pause = min(pause * 2, 0.05)
        else:
            return


def _open(path: Path) -> int:
    # Read access is all flock needs, and it works for an existing file of a read-only mount.
    return os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def _is_current(fd: int, path: Path) -> bool:
    """Tell whether *path* still names the locked file: its last owner may have removed it while we waited."""
    try:
        named = os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return os.path.samestat(named, os.fstat(fd))

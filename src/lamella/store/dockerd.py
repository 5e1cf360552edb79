"""Seeing whether a dockerd lives on a data-root, and keeping one from starting while lamella writes.

dockerd holds its volume database ``volumes/metadata.db`` (bbolt) under an exclusive ``flock`` for as long as it runs,
in whatever namespace and with whatever pid file.  lamella takes the shared side of that lock while it writes: two
lamellas go together, a dockerd and a lamella do not.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from lamella.errors import InUse

DATABASE = "volumes/metadata.db"


@contextlib.contextmanager
def kept_out(root: Path) -> Iterator[None]:
    """Keep dockerd off ``root`` for the scope; raises InUse if one is running there."""
    fd = take(root)
    try:
        yield
    finally:
        if fd is not None:
            os.close(fd)


def take(root: Path) -> int | None:
    """Take the shared side of dockerd's lock and return its descriptor, None where no dockerd ever was."""
    try:
        fd = os.open(root / DATABASE, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO}:
            return None
        raise
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        pid = _holder(fd)
        os.close(fd)
        who = f"dockerd (pid {pid})" if pid is not None else "dockerd"
        raise InUse(f"{who} is running on {root}; stop it first") from None
    except BaseException:
        os.close(fd)
        raise
    return fd


def find_dockerd(root: Path) -> int | None:
    """Return the pid of the dockerd that runs on ``root``, 0 if it cannot be told, None if there is none."""
    try:
        fd = take(root)
    except InUse:
        return _holder_of(root) or 0
    if fd is not None:
        os.close(fd)
    return None


def _holder_of(root: Path) -> int | None:
    try:
        fd = os.open(root / DATABASE, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return _holder(fd)
    finally:
        os.close(fd)


def _holder(fd: int) -> int | None:
    """Find who holds an exclusive flock on the file, in ``/proc/locks``.

    A line reads ``3: FLOCK  ADVISORY  WRITE 812 fe:00:1234 0 EOF``; device numbers are hexadecimal.  btrfs shows
    another device there than ``stat`` does, so the inode decides when no line has both.
    """
    status = os.fstat(fd)
    device = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}"
    by_inode: int | None = None
    try:
        with open("/proc/locks", encoding="ascii", errors="replace") as table:
            lines = table.readlines()
    except OSError:
        return None
    for line in lines:
        fields = line.split()
        if len(fields) < 8 or fields[1] != "FLOCK" or fields[3] != "WRITE" or not fields[4].isdigit():
            continue
        place, _, inode = fields[5].rpartition(":")
        if inode != str(status.st_ino):
            continue
        if place == device:
            return int(fields[4]) or None
        by_inode = int(fields[4]) or None
    return by_inode

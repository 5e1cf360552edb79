"""Opening a path inside a directory as if that directory were ``/``.

``RESOLVE_IN_ROOT`` gives chroot's meaning without chroot: absolute links and ``..`` stay inside, whoever made them and
whenever.  The kernel refuses magic links, so nothing leads out through ``/proc`` either.
"""

from __future__ import annotations

import errno
import os
from functools import cache

from lamella.linux import libc

# EAGAIN means that something on the machine was renamed or mounted while `..` was resolved; more than two in a row has
# not been seen under a storm of mounts.
_ATTEMPTS = 128


@cache
def _how(flags: int, mode: int, resolve: int) -> libc.OpenHow:
    """Build the request once for each kind of open, so that a call makes no object."""
    return libc.OpenHow(flags | os.O_CLOEXEC, mode, resolve)


def open_resolved(dir_fd: int, path: bytes, flags: int, mode: int, resolve: int) -> int:
    """Open *path* at *dir_fd* under the RESOLVE_ bits *resolve*, close-on-exec, retrying what only lost a race."""
    how = _how(flags, mode, resolve)
    for attempt in range(_ATTEMPTS):
        try:
            return libc.openat2(dir_fd, path or b".", how)
        except OSError as problem:
            if problem.errno not in (errno.EAGAIN, errno.EINTR) or attempt == _ATTEMPTS - 1:
                raise
    raise AssertionError("unreachable")


def open_in_root(root_fd: int, path: bytes, flags: int, mode: int = 0, *, cross_mounts: bool = True) -> int:
    """Open *path* with *root_fd* as its ``/`` and return a close-on-exec descriptor.

    *path* may be absolute, contain ``..`` and lead through links: all of it stays inside.  *mode* may be given only
    with ``O_CREAT`` or ``O_TMPFILE``.  Without *cross_mounts* a mount point on the way is ``OSError`` EXDEV.
    """
    resolve = libc.RESOLVE_IN_ROOT | libc.RESOLVE_NO_MAGICLINKS
    if not cross_mounts:
        resolve |= libc.RESOLVE_NO_XDEV
    return open_resolved(root_fd, path, flags, mode, resolve)


def open_child_directory(dir_fd: int, name: bytes, *, cross_mounts: bool = True) -> int:
    """Open the directory *name* of *dir_fd* for reading, following nothing."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    if cross_mounts:
        return os.open(name, flags, dir_fd=dir_fd)
    return open_resolved(dir_fd, name, flags, 0, libc.RESOLVE_NO_XDEV | libc.RESOLVE_NO_SYMLINKS)

"""The init layer: the names below a container's own layer that the runtime mounts things on.

Filled through the mount, as dockerd does: each component of a path is first unlinked, which removes a link or a file
that the image put there and fails on a directory, and is made if it is then absent.  So a hostile ``/etc`` that is a
link is replaced, never followed: no component below the mount is ever resolved through a link.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from pathlib import Path

_DIRECTORY, _FILE, _LINK = "directory", "file", "link"
#: In dockerd's order of making.
_CONTENT: tuple[tuple[tuple[bytes, ...], str], ...] = (
    ((b"dev", b"pts"), _DIRECTORY),
    ((b"dev", b"shm"), _DIRECTORY),
    ((b"proc",), _DIRECTORY),
    ((b"sys",), _DIRECTORY),
    ((b".dockerenv",), _FILE),
    ((b"etc", b"resolv.conf"), _FILE),
    ((b"etc", b"hosts"), _FILE),
    ((b"etc", b"hostname"), _FILE),
    ((b"dev", b"console"), _FILE),
    ((b"etc", b"mtab"), _LINK),
)
_MTAB = b"/proc/mounts"


def fill_init_layer(merged: Path) -> None:
    """Make the names of an init layer in the mounted container root ``merged``."""
    root = os.open(merged, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        for path, kind in _CONTENT:
            _make(root, path, kind)
    finally:
        os.close(root)


def _make(root: int, path: tuple[bytes, ...], kind: str) -> None:
    with contextlib.ExitStack() as stack:
        parent = root
        for name in path[:-1]:
            parent = _directory(parent, name)
            stack.callback(os.close, parent)
        name = path[-1]
        if kind == _DIRECTORY:
            stack.callback(os.close, _directory(parent, name))
            return
        if not _clear(parent, name):
            return
        if kind == _LINK:
            os.symlink(_MTAB, name, dir_fd=parent)
            return
        fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o755, dir_fd=parent)
        try:
            os.fchmod(fd, 0o755)
            os.fchown(fd, 0, 0)
        finally:
            os.close(fd)


def _directory(parent: int, name: bytes) -> int:
    """Open the directory ``name``, making it anew where something else stood."""
    if _clear(parent, name):
        os.mkdir(name, 0o755, dir_fd=parent)
        fd = _open(parent, name)
        os.fchmod(fd, 0o755)
        return fd
    return _open(parent, name)


def _clear(parent: int, name: bytes) -> bool:
    """Remove what is no directory, and tell whether the name is free now."""
    try:
        os.unlink(name, dir_fd=parent)
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno not in {errno.EISDIR, errno.EPERM}:
            raise
        if not stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
            raise
        return False
    return True


def _open(parent: int, name: bytes) -> int:
    return os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)

"""Ordered walks by descriptor.

A walk is a loop over a stack of open directories, so a tree may be as deep as it likes; only the deepest few stay
open, and a shallower one is opened again through ``..`` with its identity checked.  No link is ever followed.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from lamella.linux.openat2 import open_child_directory

# Directories kept open at once; deeper trees cost one more open for each level on the way back.
_OPEN_LIMIT = 64


class WalkEntry(NamedTuple):
    """One name of a walk; *dir_fd* is its directory, open until the next entry is asked for."""

    path: bytes
    dir_fd: int
    name: bytes
    stat: os.stat_result


class DirectoryStack:
    """The open directories from a base down to the one being worked in, a bounded number of them open.

    The base descriptor stays the caller's.
    """

    def __init__(self, base_fd: int) -> None:
        status = os.fstat(base_fd)
        self._fds: list[int] = [base_fd]
        self._identities: list[tuple[int, int]] = [(status.st_dev, status.st_ino)]
        # Levels from 1 up to this one have been closed to stay within the limit.
        self._closed = 0

    @property
    def fd(self) -> int:
        """Return the descriptor of the directory on top."""
        return self._fds[-1]

    @property
    def depth(self) -> int:
        """Return the number of levels above the base."""
        return len(self._fds) - 1

    def enter(self, name: bytes, expected: os.stat_result | None = None, *, cross_mounts: bool = True) -> None:
        """Go down into the directory *name*; ESTALE if it is no longer the one *expected* describes."""
        fd = open_child_directory(self.fd, name, cross_mounts=cross_mounts)
        status = os.fstat(fd)
        if expected is not None and not os.path.samestat(status, expected):
            os.close(fd)
            raise OSError(errno.ESTALE, "directory was replaced while it was read", name)
        self._fds.append(fd)
        self._identities.append((status.st_dev, status.st_ino))
        if self.depth - self._closed > _OPEN_LIMIT:
            self._closed += 1
            os.close(self._fds[self._closed])
            self._fds[self._closed] = -1

    def leave(self) -> None:
        """Go back up one level."""
        child = self._fds.pop()
        self._identities.pop()
        try:
            if self._fds[-1] == -1:
                fd = open_child_directory(child, b"..")
                status = os.fstat(fd)
                if (status.st_dev, status.st_ino) != self._identities[-1]:
                    os.close(fd)
                    raise OSError(errno.ESTALE, "directory was moved while it was read")
                self._fds[-1] = fd
                self._closed -= 1
        finally:
            os.close(child)

    def close(self) -> None:
        """Close what is open above the base."""
        while len(self._fds) > 1:
            fd = self._fds.pop()
            if fd != -1:
                os.close(fd)
        del self._identities[1:]
        self._closed = 0


@contextmanager
def directory_stack(base_fd: int) -> Generator[DirectoryStack]:
    """Hold a :class:`DirectoryStack` for the length of the block."""
    stack = DirectoryStack(base_fd)
    try:
        yield stack
    finally:
        stack.close()


def walk(
    dir_fd: int, *, prune: Callable[[WalkEntry], bool] | None = None, cross_mounts: bool = True
) -> Iterator[WalkEntry]:
    """Yield every name below *dir_fd*, itself excepted, in byte order of the names of each directory.

    A directory comes before its content, and its content before its next sibling.  A directory *prune* says yes to
    is yielded and not entered; without *cross_mounts* the same goes for mount points.  Names that vanish meanwhile are
    passed over, a directory replaced by something else is ``OSError``; no name from outside the tree is ever given.
    """
    with directory_stack(dir_fd) as stack:
        pending = [_names(dir_fd)]
        prefixes = [b""]
        while pending:
            names = pending[-1]
            if not names:
                pending.pop()
                prefixes.pop()
                if pending:
                    stack.leave()
                continue
            name = names.pop()
            fd = stack.fd
            try:
                status = os.stat(name, dir_fd=fd, follow_symlinks=False)
            except FileNotFoundError:
                continue
            path = prefixes[-1] + name
            entry = WalkEntry(path, fd, name, status)
            yield entry
            if stat.S_ISDIR(status.st_mode) and not (prune is not None and prune(entry)):
                try:
                    stack.enter(name, status, cross_mounts=cross_mounts)
                except FileNotFoundError:
                    continue
                except OSError as problem:
                    if cross_mounts or problem.errno != errno.EXDEV:
                        raise
                    continue
                pending.append(_names(stack.fd))
                prefixes.append(path + b"/")


def _names(fd: int) -> list[bytes]:
    """List the names of a directory, the last in byte order first."""
    # listdir moves the offset of the open directory: rewinding lets one descriptor be walked twice.
    os.lseek(fd, 0, os.SEEK_SET)
    return sorted(map(os.fsencode, os.listdir(fd)), reverse=True)

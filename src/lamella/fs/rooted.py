"""A directory descriptor under which every path stays.

All access to names that came from an image or a container goes through :class:`Root`: paths are bytes, resolved by the
kernel with the directory as ``/`` (links and ``..`` included), so no check can be outrun by whoever writes there.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from types import TracebackType
from typing import Self

from lamella.errors import InvalidArgument
from lamella.linux.openat2 import open_in_root

# Links followed on the way to one path, as the kernel counts them.
_MAX_LINKS = 40


class Root:
    """A directory that is ``/`` for every path given to its methods; owns its descriptor."""

    def __init__(self, directory: Path | int, *, follow: bool = False) -> None:
        """Open *directory*; a descriptor is duplicated.  A final symbolic link is refused unless *follow*."""
        if isinstance(directory, int):
            self.fd = os.dup(directory)
        else:
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
            self.fd = os.open(directory, flags)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the descriptor; closing again is harmless."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def open(self, path: bytes, flags: int, mode: int = 0) -> int:
        """Open *path* and return a close-on-exec descriptor; *flags* may add ``O_NOFOLLOW`` for the last name."""
        return open_in_root(self.fd, path, flags, mode)

    def open_parent(self, path: bytes) -> tuple[int, bytes]:
        """Open the directory *path* lies in, and return it with the last name, which nothing was followed for.

        The caller closes the descriptor and touches the name only relative to it, without following.
        """
        directory, _, name = path.rstrip(b"/").rpartition(b"/")
        if name in (b"", b".", b".."):
            raise InvalidArgument(f"path {os.fsdecode(path)!r} has no last name: give the name of a file or directory")
        return open_in_root(self.fd, directory, os.O_PATH | os.O_DIRECTORY), name

    def lstat(self, path: bytes) -> os.stat_result:
        """Return the status of *path* itself."""
        return self._stat(path, os.O_PATH | os.O_NOFOLLOW)

    def stat(self, path: bytes) -> os.stat_result:
        """Return the status of what *path* leads to."""
        return self._stat(path, os.O_PATH)

    def _stat(self, path: bytes, flags: int) -> os.stat_result:
        fd = open_in_root(self.fd, path, flags)
        try:
            return os.fstat(fd)
        finally:
            os.close(fd)

    def readlink(self, path: bytes) -> bytes:
        """Return the text of the symbolic link *path*."""
        fd = open_in_root(self.fd, path, os.O_PATH | os.O_NOFOLLOW)
        try:
            if not stat.S_ISLNK(os.fstat(fd).st_mode):
                raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), path)
            return os.readlink(b"", dir_fd=fd)
        finally:
            os.close(fd)

    def read_file(self, path: bytes, limit: int) -> bytes:
        """Return the content of the regular file *path* leads to; more than *limit* bytes is InvalidArgument."""
        # O_NONBLOCK: a FIFO of that name must not make us wait for its other end.
        fd = open_in_root(self.fd, path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise InvalidArgument(f"{os.fsdecode(path)!r} is not a regular file")
            if status.st_size <= limit:
                pieces = []
                left = limit + 1
                while left and (piece := os.read(fd, min(left, 1 << 20))):
                    pieces.append(piece)
                    left -= len(piece)
                if left:
                    return b"".join(pieces)
            raise InvalidArgument(f"{os.fsdecode(path)!r} is larger than {limit} bytes")
        finally:
            os.close(fd)

    def make_directories(self, path: bytes, mode: int = 0o755, uid: int = 0, gid: int = 0) -> bytes:
        """Make the directory *path* and what is missing above it; return the path with all links resolved.

        Links are followed inside the root even when they dangle: what they name is made.  Existing directories keep
        their owner and mode; anything else in the way is NotADirectoryError.
        """
        pending = [part for part in path.split(b"/") if part not in (b"", b".")][::-1]
        done: list[bytes] = []
        links = 0
        while pending:
            name = pending.pop()
            if name == b"..":
                del done[-1:]
                continue
            parent = open_in_root(self.fd, b"/".join(done), os.O_PATH | os.O_DIRECTORY)
            try:
                target = self._make_one(parent, name, mode, uid, gid)
            finally:
                os.close(parent)
            if target is None:
                done.append(name)
                continue
            links += 1
            if links > _MAX_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
            if target.startswith(b"/"):
                done.clear()
            pending += [part for part in target.split(b"/") if part not in (b"", b".")][::-1]
        return b"/".join(done)

    @staticmethod
    def _make_one(parent: int, name: bytes, mode: int, uid: int, gid: int) -> bytes | None:
        """Make the directory *name* in *parent* unless it is one; return the text of a link that stands there."""
        try:
            os.mkdir(name, 0o700, dir_fd=parent)
        except FileExistsError:
            status = os.stat(name, dir_fd=parent, follow_symlinks=False)
            if stat.S_ISLNK(status.st_mode):
                return os.readlink(name, dir_fd=parent)
            if not stat.S_ISDIR(status.st_mode):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), name) from None
            return None
        fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        try:
            os.fchown(fd, uid, gid)
            os.fchmod(fd, mode)
        finally:
            os.close(fd)
        return None

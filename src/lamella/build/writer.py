"""Making files below a directory of an image: what COPY and ADD do at their destination.

Paths resolve with the given directory as ``/``, links included, so nothing is made outside it.  What stands in the
way of a new name is removed, except that a directory stays when a directory comes: the two are merged.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from lamella.errors import InvalidArgument
from lamella.fs.rooted import Root
from lamella.fs.tree import remove_tree

_Result = TypeVar("_Result")
_CHUNK = 1 << 20
_NO_COPY_RANGE = frozenset({errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF})

Piece = bytes | memoryview | int
"""Data, or the length of a hole: no archive can have zeros without end written."""

Content = int | Iterable[Piece]
"""An open file, or pieces."""


class Metadata(NamedTuple):
    """What a new file gets besides its content."""

    mode: int
    uid: int
    gid: int
    mtime_ns: int
    attributes: Sequence[tuple[str, bytes]] = ()
    """Extended ones; a file system that has none goes without."""


class TreeWriter:
    """Writes below one directory; call `finish` at the end, when directories get their times."""

    def __init__(self, root: Root) -> None:
        self._root = root
        self._parent = b""
        self._parent_fd = -1
        self._times: list[tuple[bytes, int]] = []

    def close(self) -> None:
        """Close the directory kept open."""
        if self._parent_fd >= 0:
            os.close(self._parent_fd)
            self._parent_fd = -1

    def finish(self) -> None:
        """Set the times of directories, the deepest first."""
        for path, mtime_ns in reversed(self._times):
            try:
                fd = self._root.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            except (FileNotFoundError, NotADirectoryError):
                continue  # a later name has taken its place
            try:
                os.utime(fd, ns=(mtime_ns, mtime_ns))
            finally:
                os.close(fd)
        self._times.clear()
        self.close()

    def directory(self, path: bytes, metadata: Metadata, *, timed: bool = True) -> None:
        """Make a directory, or give one that is there its owner, mode and, in the end, time."""
        parent, name = self._open_parent(path)
        try:
            os.mkdir(name, 0o700, dir_fd=parent)
        except FileExistsError:
            if not stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
                self._clear(parent, name)
                parent, name = self._open_parent(path)
                os.mkdir(name, 0o700, dir_fd=parent)
        fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
        try:
            os.fchown(fd, metadata.uid, metadata.gid)
            os.fchmod(fd, metadata.mode)
            _set_attributes(fd, metadata)
        finally:
            os.close(fd)
        if timed:
            self._times.append((path, metadata.mtime_ns))

    def file(self, path: bytes, metadata: Metadata, content: Content, size: int) -> None:
        """Make a regular file of `size` bytes."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        # Set-ID bits wait until the owner is right.
        plain = metadata.mode & 0o777
        fd = self._made(path, lambda name, parent: os.open(name, flags, plain, dir_fd=parent))
        try:
            if isinstance(content, int):
                _copy_content(content, fd, size)
            else:
                for piece in content:
                    if isinstance(piece, int):
                        os.lseek(fd, piece, os.SEEK_CUR)
                    else:
                        _write(fd, piece)
                os.ftruncate(fd, size)
            # Most files are right as they are made; umask, set-group-ID directories and default ACLs make others.
            made = os.fstat(fd)
            if (made.st_uid, made.st_gid) != (metadata.uid, metadata.gid):
                os.fchown(fd, metadata.uid, metadata.gid)
            if stat.S_IMODE(made.st_mode) != metadata.mode:
                os.fchmod(fd, metadata.mode)
            _set_attributes(fd, metadata)
            os.utime(fd, ns=(metadata.mtime_ns, metadata.mtime_ns))
        finally:
            os.close(fd)

    def symlink(self, path: bytes, target: bytes, metadata: Metadata) -> None:
        """Make a symbolic link."""
        self._made(path, lambda name, parent: os.symlink(target, name, dir_fd=parent))
        parent, name = self._open_parent(path)
        os.chown(name, metadata.uid, metadata.gid, dir_fd=parent, follow_symlinks=False)
        os.utime(name, ns=(metadata.mtime_ns, metadata.mtime_ns), dir_fd=parent, follow_symlinks=False)

    def node(self, path: bytes, kind: int, device: int, metadata: Metadata) -> None:
        """Make a FIFO or device; a character device 0:0 would be a whiteout and is refused."""
        if kind == stat.S_IFCHR and device == 0:
            raise InvalidArgument(f"{os.fsdecode(path)!r} is a character device 0:0, which marks deletions in a layer")
        # The mode is exact only with no umask, and is set once more: the name is ours, nobody else is in this layer.
        self._made(path, lambda name, parent: os.mknod(name, kind | 0o600, device, dir_fd=parent))
        parent, name = self._open_parent(path)
        os.chown(name, metadata.uid, metadata.gid, dir_fd=parent, follow_symlinks=False)
        fd = os.open(name, os.O_PATH | os.O_NOFOLLOW, dir_fd=parent)
        try:
            os.chmod(f"/proc/self/fd/{fd}", metadata.mode)
        finally:
            os.close(fd)
        os.utime(name, ns=(metadata.mtime_ns, metadata.mtime_ns), dir_fd=parent, follow_symlinks=False)

    def hard_link(self, path: bytes, first: bytes) -> None:
        """Make `path` another name of the file `first`, made before."""
        first_parent, first_name = self._root.open_parent(first)
        try:
            if stat.S_ISDIR(os.stat(first_name, dir_fd=first_parent, follow_symlinks=False).st_mode):
                raise InvalidArgument(f"hard link {os.fsdecode(path)!r} names a directory")

            def link(name: bytes, parent: int) -> None:
                os.link(first_name, name, src_dir_fd=first_parent, dst_dir_fd=parent, follow_symlinks=False)

            self._made(path, link)
        finally:
            os.close(first_parent)

    def _made(self, path: bytes, make: Callable[[bytes, int], _Result]) -> _Result:
        """Make a name, removing what stands in its way."""
        parent, name = self._open_parent(path)
        try:
            return make(name, parent)
        except FileExistsError:
            self._clear(parent, name)
            parent, name = self._open_parent(path)
            return make(name, parent)

    def _open_parent(self, path: bytes) -> tuple[int, bytes]:
        """Open the directory of `path`, made if missing; it stays open for the next name in it."""
        parent, _, name = path.rpartition(b"/")
        if name in (b"", b".", b".."):
            raise InvalidArgument(f"{os.fsdecode(path)!r} has no last name")
        if self._parent_fd >= 0 and parent == self._parent:
            return self._parent_fd, name
        self.close()
        where = parent or b"."
        try:
            self._parent_fd = self._root.open(where, os.O_PATH | os.O_DIRECTORY)
        except FileNotFoundError:
            made = self._root.make_directories(where, 0o755, 0, 0)
            self._parent_fd = self._root.open(made or b".", os.O_PATH | os.O_DIRECTORY)
        self._parent = parent
        return self._parent_fd, name

    def _clear(self, parent: int, name: bytes) -> None:
        """Remove a name with all below it; a link is removed, not followed."""
        remove_tree(Path(os.fsdecode(b"/proc/self/fd/%d/%s" % (parent, name))))
        self.close()


def _set_attributes(fd: int, metadata: Metadata) -> None:
    for key, value in metadata.attributes:
        try:
            os.setxattr(fd, key, value)
        except OSError as error:
            if error.errno != errno.ENOTSUP:
                raise


def _copy_content(source: int, target: int, size: int) -> None:
    """Copy an open file's content."""
    if size <= _CHUNK:
        left = size
        while left and (piece := os.read(source, left)):
            _write(target, piece)
            left -= len(piece)
        if left:
            raise OSError(errno.EIO, "file became shorter while it was copied")
        return
    copied = 0
    while copied < size:
        try:
            count = os.copy_file_range(source, target, min(size - copied, 1 << 30))
        except OSError as error:
            if error.errno not in _NO_COPY_RANGE:
                raise
            piece = os.read(source, min(_CHUNK, size - copied))
            _write(target, piece)
            count = len(piece)
        if not count:
            raise OSError(errno.EIO, "file became shorter while it was copied")
        copied += count


def _write(fd: int, piece: bytes | memoryview) -> None:
    view = memoryview(piece)
    while view:
        view = view[os.write(fd, view) :]

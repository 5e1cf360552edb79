"""Reading files of a root as a tar stream, for ``cp`` out of it.

The tree is walked by descriptor and no link in it is followed; what a process changes meanwhile can make the copy fail
or miss a name, never leave the root.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from typing import BinaryIO, Final

from lamella.changeset.entry import Entry, Kind
from lamella.changeset.tario import TarWriter
from lamella.changeset.xattrs import travels
from lamella.errors import NotFound
from lamella.fs.rooted import Root
from lamella.fs.walk import walk

_BLOCK: Final = 1 << 20
# What a running container has there is the kernel's, without end and of no use elsewhere.
_KERNEL_DIRECTORIES: Final = frozenset((b"dev", b"proc", b"sys"))
_KINDS: Final = {
    stat.S_IFREG: Kind.REGULAR,
    stat.S_IFDIR: Kind.DIRECTORY,
    stat.S_IFLNK: Kind.SYMLINK,
    stat.S_IFCHR: Kind.CHARACTER,
    stat.S_IFBLK: Kind.BLOCK,
    stat.S_IFIFO: Kind.FIFO,
}


def write_archive(root: Root, path: bytes, name: bytes, sink: BinaryIO, *, contents: bool = False) -> None:
    """Write what *path* of *root* is, with all below it, as a tar whose members are named *name* and ``name/…``.

    With *contents* the directory itself is left out.  The last component of *path* is not followed.  Sockets are left
    out; mount points are entered.
    """
    writer = TarWriter(sink.write)
    packer = _Packer(writer)
    if path.strip(b"/") in (b"", b"."):
        fd = root.open(b".", os.O_RDONLY | os.O_DIRECTORY)
        try:
            packer.tree(fd, name, include_top=not contents, skip=_KERNEL_DIRECTORIES)
        finally:
            os.close(fd)
    else:
        parent, last = root.open_parent(path)
        try:
            status = os.stat(last, dir_fd=parent, follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                fd = os.open(last, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
                try:
                    packer.tree(fd, name, include_top=not contents)
                finally:
                    os.close(fd)
            else:
                packer.one(parent, last, name, status)
        finally:
            os.close(parent)
    writer.finish()


class _Packer:
    """One archive being written: remembers first names of files with several."""

    def __init__(self, writer: TarWriter) -> None:
        self._writer = writer
        self._links: dict[tuple[int, int], bytes] = {}

    def tree(self, fd: int, name: bytes, *, include_top: bool, skip: frozenset[bytes] = frozenset()) -> None:
        """Write the directory *fd* under *name* (empty: its content at the top), the content of *skip* left out."""
        prefix = name + b"/" if name else b""
        if include_top:
            status = os.fstat(fd)
            self._writer.add(self._entry(prefix or b"./", Kind.DIRECTORY, status, _xattrs(fd)))
        for found in walk(fd, prune=lambda found: found.path in skip):
            self.one(found.dir_fd, found.name, prefix + found.path, found.stat)

    def one(self, dir_fd: int, name: bytes, member: bytes, status: os.stat_result) -> None:
        """Write one name; what vanished since it was seen is passed over."""
        kind = _KINDS.get(stat.S_IFMT(status.st_mode))
        if kind is None:
            return
        if kind is Kind.DIRECTORY:
            self._writer.add(self._entry(member + b"/", kind, status, None))
            return
        if status.st_nlink > 1:
            first = self._links.setdefault((status.st_dev, status.st_ino), member)
            if first != member:
                self._writer.add(self._entry(member, Kind.HARD_LINK, status, None, link=first))
                return
        if kind is Kind.SYMLINK:
            try:
                link = os.readlink(name, dir_fd=dir_fd)
            except OSError as problem:
                if problem.errno in (errno.ENOENT, errno.EINVAL):
                    return
                raise
            self._writer.add(self._entry(member, kind, status, None, link=link))
        elif kind is Kind.REGULAR:
            self._regular(dir_fd, name, member)
        else:
            self._writer.add(self._entry(member, kind, status, None))

    def _regular(self, dir_fd: int, name: bytes, member: bytes) -> None:
        try:
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC, dir_fd=dir_fd)
        except FileNotFoundError:
            return
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                return
            entry = self._entry(member, Kind.REGULAR, status, _xattrs(fd), size=status.st_size)
            self._writer.add(entry, _pieces(fd, status.st_size))
        finally:
            os.close(fd)

    @staticmethod
    def _entry(
        name: bytes,
        kind: Kind,
        status: os.stat_result,
        xattrs: dict[bytes, bytes] | None,
        *,
        size: int = 0,
        link: bytes = b"",
    ) -> Entry:
        device = kind in (Kind.CHARACTER, Kind.BLOCK)
        return Entry(
            name,
            kind,
            size=size,
            mode=stat.S_IMODE(status.st_mode),
            uid=status.st_uid,
            gid=status.st_gid,
            mtime_ns=status.st_mtime_ns,
            link=link,
            major=os.major(status.st_rdev) if device else 0,
            minor=os.minor(status.st_rdev) if device else 0,
            xattrs=xattrs,
        )


def _xattrs(fd: int) -> dict[bytes, bytes] | None:
    try:
        names = os.listxattr(fd)
    except OSError as problem:
        if problem.errno == errno.EOPNOTSUPP:
            return None
        raise
    found = {os.fsencode(name): os.getxattr(fd, name) for name in names if travels(os.fsencode(name))}
    return found or None


def _pieces(fd: int, size: int) -> Iterator[bytes]:
    """Read *size* bytes; a file that became shorter meanwhile is filled up with zeros, a longer one cut."""
    left = size
    while left:
        piece = os.read(fd, min(left, _BLOCK))
        if not piece:
            piece = bytes(min(left, _BLOCK))
        left -= len(piece)
        yield piece


def find_status(root: Root, path: bytes, *, follow: bool) -> os.stat_result | None:
    """Return the status of *path*, or of what it leads to; None if there is nothing."""
    try:
        return root.stat(path) if follow else root.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None


def follow_last(root: Root, path: bytes) -> bytes:
    """Follow the links in *path*'s last component, inside the root; raise NotFound for a chain that never ends."""
    for _ in range(40):
        status = find_status(root, path, follow=False)
        if status is None or not stat.S_ISLNK(status.st_mode):
            return path
        target = root.readlink(path)
        path = target if target.startswith(b"/") else path.rstrip(b"/").rpartition(b"/")[0] + b"/" + target
    raise NotFound(f"{os.fsdecode(path)}: too many levels of symbolic links")

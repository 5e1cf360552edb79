"""Making one inode in an open directory, with the metadata its tar member asks for.

Every function touches one last name relative to a directory descriptor, creates exclusively and follows nothing, so
it cannot reach outside; which directory that is, and what to do with a name that is taken, is for the caller.  A small
inode that cannot be made whole leaves no part of it.
Owner, then mode, then extended attributes, then times: each step would undo the ones after it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterable
from typing import Final

from lamella.changeset.entry import Entry, Kind, show
from lamella.changeset.xattrs import travels
from lamella.errors import InvalidArgument, Unsupported

Buffer = bytes | memoryview

_NEW_FILE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_LATEST: Final = (1 << 63) - 1
_TOO_MUCH: Final = frozenset((errno.E2BIG, errno.ENOSPC, errno.ERANGE, errno.EINVAL, errno.ENAMETOOLONG))


class Maker:
    """Makes inodes for one layer; remembers what the kernel would give them unasked."""

    def __init__(self) -> None:
        self.umask = current_umask()
        self.uid = os.geteuid()
        self.gid = os.getegid()

    def regular(self, dir_fd: int, name: bytes, entry: Entry, data: Buffer, inherited: int | None) -> None:
        """Make a file with *data*; *inherited* is the group a set-group-ID directory gives, if it is one."""
        fd = os.open(name, _NEW_FILE, entry.mode & 0o777, dir_fd=dir_fd)
        try:
            if data:
                written = os.write(fd, data)
                if written < len(data):
                    write_all(fd, memoryview(data)[written:])
            self._finish(fd, entry, inherited)
        except BaseException:
            _unmake(dir_fd, name)
            raise
        finally:
            os.close(fd)

    def streamed(self, dir_fd: int, name: bytes, entry: Entry, pieces: Iterable[Buffer], inherited: int | None) -> None:
        """Make a file from *pieces*; a sparse entry's data go to its regions, the rest stays a hole."""
        fd = os.open(name, _NEW_FILE, entry.mode & 0o777, dir_fd=dir_fd)
        try:
            if entry.sparse is None:
                for piece in pieces:
                    write_all(fd, piece)
            else:
                os.ftruncate(fd, entry.real_size)
                _write_regions(fd, entry.sparse, pieces)
            self._finish(fd, entry, inherited)
        finally:
            os.close(fd)

    def other(self, dir_fd: int, name: bytes, entry: Entry, inherited: int | None) -> None:
        """Make a symbolic link, device or FIFO; extended attributes are not for them."""
        if entry.kind is Kind.SYMLINK:
            os.symlink(entry.link, name, dir_fd=dir_fd)
        else:
            kind, device = _NODES[entry.kind], os.makedev(entry.major, entry.minor)
            os.mknod(name, kind | entry.mode & 0o777, device if kind != stat.S_IFIFO else 0, dir_fd=dir_fd)
        try:
            if self.owner_differs(entry, inherited):
                os.chown(name, entry.uid, entry.gid, dir_fd=dir_fd, follow_symlinks=False)
            if entry.kind is not Kind.SYMLINK and entry.mode & (self.umask | 0o7000):
                _chmod_node(dir_fd, name, entry.mode)
            os.utime(name, ns=times(entry), dir_fd=dir_fd, follow_symlinks=False)
        except BaseException:
            _unmake(dir_fd, name)
            raise

    def owner_differs(self, entry: Entry, inherited: int | None) -> bool:
        """Tell whether a new inode would not have the owner that *entry* asks for."""
        return entry.uid != self.uid or entry.gid != (self.gid if inherited is None else inherited)

    def _finish(self, fd: int, entry: Entry, inherited: int | None) -> None:
        if self.owner_differs(entry, inherited):
            os.fchown(fd, entry.uid, entry.gid)
        if entry.mode & (self.umask | 0o7000):
            os.fchmod(fd, entry.mode)
        if entry.xattrs:
            set_xattrs(fd, entry)
        os.utime(fd, ns=times(entry))


def make(maker: Maker, dir_fd: int, name: bytes, entry: Entry, data: Buffer, inherited: int | None) -> None:
    """Make the small inode that *entry* asks for; FileExistsError if *name* is taken."""
    if entry.kind is Kind.REGULAR:
        maker.regular(dir_fd, name, entry, data, inherited)
    else:
        maker.other(dir_fd, name, entry, inherited)


_NODES: Final = {Kind.CHARACTER: stat.S_IFCHR, Kind.BLOCK: stat.S_IFBLK, Kind.FIFO: stat.S_IFIFO}


def current_umask() -> int:
    """Return the umask without changing it for the other threads."""
    with open("/proc/self/status", "rb") as status:
        for line in status:
            if line.startswith(b"Umask:"):
                return int(line[6:], 8)
    return 0o777


def drop_default_acl(fd: int) -> None:
    """Take a default ACL off a directory: all that is made below would inherit it."""
    try:
        os.removexattr(fd, b"system.posix_acl_default")
    except OSError as problem:
        if problem.errno not in {errno.ENODATA, errno.EOPNOTSUPP}:
            raise


def times(entry: Entry) -> tuple[int, int]:
    """Return the access and modification time to set; what is before 1970 or past 2262 becomes 1970."""
    mtime = entry.mtime_ns if 0 <= entry.mtime_ns <= _LATEST else 0
    atime = entry.atime_ns
    return (atime if atime is not None and mtime < atime <= _LATEST else mtime), mtime


def set_xattrs(fd: int, entry: Entry) -> None:
    """Set those attributes of *entry* that may travel in layers; the others are dropped."""
    for name, value in (entry.xattrs or {}).items():
        if not travels(name):
            continue
        try:
            os.setxattr(fd, name, value)
        except OSError as problem:
            if problem.errno == errno.EOPNOTSUPP:
                raise Unsupported(
                    f"member {show(entry.name)} has the attribute {show(name)}, which this file system does not store"
                ) from problem
            if problem.errno in _TOO_MUCH:
                raise InvalidArgument(
                    f"member {show(entry.name)} has the attribute {show(name)}, which is too large or malformed"
                ) from problem
            raise


def write_all(fd: int, data: Buffer) -> None:
    """Write all of *data*, as a signal or a full disk may cut a write short."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _unmake(dir_fd: int, name: bytes) -> None:
    with contextlib.suppress(OSError):
        os.unlink(name, dir_fd=dir_fd)


def _write_regions(fd: int, regions: list[tuple[int, int]], pieces: Iterable[Buffer]) -> None:
    places = iter(regions)
    offset = room = 0
    for piece in pieces:
        view = memoryview(piece)
        while view:
            while not room:
                offset, room = next(places)
            written = os.pwrite(fd, view[:room], offset)
            view = view[written:]
            offset += written
            room -= written


def _chmod_node(dir_fd: int, name: bytes, mode: int) -> None:
    # There is no chmod that does not follow on this kernel's floor; a path descriptor cannot be anything but the node.
    fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dir_fd)
    try:
        os.chmod(f"/proc/self/fd/{fd}", mode)
    finally:
        os.close(fd)

"""Copying and removing whole trees by descriptor.

Both work at any depth with a bounded number of open descriptors, follow no links and stay on this side of every mount
point.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
from contextlib import suppress
from pathlib import Path

from lamella.fs.walk import DirectoryStack, directory_stack, walk

_FS_IOC_GETFLAGS = 0x80086601
_FS_IOC_SETFLAGS = 0x40086602
_PINNED = 0x10 | 0x20  # FS_IMMUTABLE_FL, FS_APPEND_FL
_FICLONE = 0x40049409
# Longest piece of a path handed to the kernel at once, below PATH_MAX.
_PATH_PIECE = 4000


def remove_tree(path: Path) -> None:
    """Remove *path* and everything below it; a missing *path* is fine, a link is removed and not followed.

    A mount point at or below *path* ends it with ``OSError`` (EBUSY or EXDEV) before anything in the mount is
    touched.  Names that vanish meanwhile are none of its business; names that appear make it fail with ENOTEMPTY.
    """
    directory, name = os.path.split(os.fsencode(path).rstrip(b"/"))
    try:
        parent = os.open(directory or b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        with directory_stack(parent) as stack:
            _remove(stack, name)
    finally:
        os.close(parent)


def _remove(stack: DirectoryStack, top: bytes) -> None:
    if not _unlink(stack.fd, top):
        return
    names = [top]
    pending: list[list[bytes]] = []
    stack.enter(top, cross_mounts=False)
    while True:
        pending.append(_empty_of_files(stack.fd))
        while not pending[-1]:
            pending.pop()
            stack.leave()
            _remove_directory(stack.fd, names.pop())
            if not pending:
                return
        names.append(pending[-1].pop())
        stack.enter(names[-1], cross_mounts=False)


def _empty_of_files(fd: int) -> list[bytes]:
    """Unlink everything in *fd* that is not a directory and return the directories."""
    directories = []
    with os.scandir(fd) as entries:
        # Taken as a whole: a directory that is changed while it is read may skip names.
        listing = [(os.fsencode(entry.name), entry.is_dir(follow_symlinks=False)) for entry in entries]
    for name, is_directory in listing:
        if is_directory or _unlink(fd, name):
            directories.append(name)
    return directories


def _unlink(fd: int, name: bytes) -> bool:
    """Unlink *name*; return True if it is a directory and still there."""
    try:
        os.unlink(name, dir_fd=fd)
    except FileNotFoundError:
        return False
    except IsADirectoryError:
        return True
    except PermissionError:
        if stat.S_ISDIR(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode):
            return True
        _unpin(fd, name)
        os.unlink(name, dir_fd=fd)
    return False


def _remove_directory(fd: int, name: bytes) -> None:
    try:
        os.rmdir(name, dir_fd=fd)
    except FileNotFoundError:
        pass
    except PermissionError:
        _unpin(fd, name)
        os.rmdir(name, dir_fd=fd)


def _unpin(fd: int, name: bytes) -> None:
    """Clear the immutable and append-only bits of *name* and of the directory it is in, where there are any."""
    for target, dir_fd in ((b".", fd), (name, fd)):
        with suppress(OSError):
            opened = os.open(target, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=dir_fd)
            try:
                (flags,) = struct.unpack("l", fcntl.ioctl(opened, _FS_IOC_GETFLAGS, bytes(8)))
                if flags & _PINNED:
                    fcntl.ioctl(opened, _FS_IOC_SETFLAGS, struct.pack("l", flags & ~_PINNED))
            finally:
                os.close(opened)


def copy_tree(source: Path, target: Path) -> None:
    """Copy the directory *source* to *target*, which must not exist.

    Everything is kept: types, owners, modes, times, xattrs, hard links within the tree, devices, holes.  Sockets are
    left out, as they mean nothing without their process; mount points become empty directories.  Not synced.
    On failure what was made is left for the caller to remove.
    """
    os.mkdir(target, 0o700)
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    source_fd = os.open(source, flags)
    try:
        target_fd = os.open(target, flags)
        try:
            _Copy(target_fd).run(source_fd)
        finally:
            os.close(target_fd)
    finally:
        os.close(source_fd)


class _Copy:
    """One run of :func:`copy_tree`: where in the target it is, and what it has linked."""

    def __init__(self, target_fd: int) -> None:
        self._base = target_fd
        self._first_names: dict[tuple[int, int], bytes] = {}
        # Status of each directory entered and not yet left: its times are set when nothing more goes into it.
        self._entered: list[os.stat_result] = []
        self._clone = True

    def run(self, source_fd: int) -> None:
        with directory_stack(self._base) as stack:
            for entry in walk(source_fd, cross_mounts=False):
                depth = entry.path.count(b"/")
                while stack.depth > depth:
                    self._leave(stack)
                status = entry.stat
                if stat.S_ISDIR(status.st_mode):
                    os.mkdir(entry.name, 0o700, dir_fd=stack.fd)
                    stack.enter(entry.name)
                    self._entered.append(status)
                    _copy_attributes(_opened_path(entry.dir_fd, entry.name), stack.fd, status)
                elif not stat.S_ISSOCK(status.st_mode):
                    self._copy_other(entry.dir_fd, stack.fd, entry.path, entry.name, status)
            while stack.depth:
                self._leave(stack)
        status = os.fstat(source_fd)
        _copy_attributes(source_fd, self._base, status)
        os.utime(self._base, ns=(status.st_atime_ns, status.st_mtime_ns))

    def _leave(self, stack: DirectoryStack) -> None:
        status = self._entered.pop()
        os.utime(stack.fd, ns=(status.st_atime_ns, status.st_mtime_ns))
        stack.leave()

    def _copy_other(self, source: int, target: int, path: bytes, name: bytes, status: os.stat_result) -> None:
        """Copy something that is not a directory."""
        if status.st_nlink > 1:
            first = self._first_names.setdefault((status.st_dev, status.st_ino), path)
            if first != path:
                self._link(first, target, name)
                return
        if stat.S_ISREG(status.st_mode):
            self._copy_file(source, target, name, status)
            return
        if stat.S_ISLNK(status.st_mode):
            os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
        else:
            os.mknod(name, stat.S_IFMT(status.st_mode) | 0o600, status.st_rdev, dir_fd=target)
        os.chown(name, status.st_uid, status.st_gid, dir_fd=target, follow_symlinks=False)
        reached = _opened_path(target, name)
        if not stat.S_ISLNK(status.st_mode):
            os.chmod(reached, stat.S_IMODE(status.st_mode))
        origin = _opened_path(source, name)
        for key in os.listxattr(origin, follow_symlinks=False):
            os.setxattr(reached, key, os.getxattr(origin, key, follow_symlinks=False), follow_symlinks=False)
        os.utime(name, ns=(status.st_atime_ns, status.st_mtime_ns), dir_fd=target, follow_symlinks=False)

    def _link(self, first: bytes, target: int, name: bytes) -> None:
        """Make *name* another name of *first*, a path from the base that may be longer than the kernel takes."""
        fd = self._base
        try:
            while len(first) > _PATH_PIECE:
                cut = first.rindex(b"/", 0, _PATH_PIECE)
                deeper = os.open(first[:cut], os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=fd)
                if fd != self._base:
                    os.close(fd)
                fd, first = deeper, first[cut + 1 :]
            os.link(first, name, src_dir_fd=fd, dst_dir_fd=target, follow_symlinks=False)
        finally:
            if fd != self._base:
                os.close(fd)

    def _copy_file(self, source: int, target: int, name: bytes, status: os.stat_result) -> None:
        read_fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=source)
        try:
            if not os.path.samestat(os.fstat(read_fd), status):
                raise OSError(errno.ESTALE, "file was replaced while it was copied", name)
            write_fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=target)
            try:
                if status.st_size and not self._cloned(read_fd, write_fd):
                    _copy_content(read_fd, write_fd, status.st_size)
                _copy_attributes(read_fd, write_fd, status)
                os.utime(write_fd, ns=(status.st_atime_ns, status.st_mtime_ns))
            finally:
                os.close(write_fd)
        finally:
            os.close(read_fd)

    def _cloned(self, read_fd: int, write_fd: int) -> bool:
        """Share the blocks where the file system can; one refusal settles it for the whole tree."""
        if self._clone:
            try:
                fcntl.ioctl(write_fd, _FICLONE, read_fd)
            except OSError:
                self._clone = False
        return self._clone


def _opened_path(dir_fd: int, name: bytes) -> bytes:
    """Name *name* in *dir_fd* for the calls that take a path only."""
    return b"/proc/self/fd/%d/%s" % (dir_fd, name)


def _copy_content(read_fd: int, write_fd: int, size: int) -> None:
    """Copy *size* bytes, leaving holes where the source has them."""
    end = 0
    while end < size:
        try:
            start = os.lseek(read_fd, end, os.SEEK_DATA)
        except OSError as problem:
            if problem.errno != errno.ENXIO:
                raise
            break  # nothing but a hole from here on
        end = min(os.lseek(read_fd, start, os.SEEK_HOLE), size)
        _copy_range(read_fd, write_fd, start, end)
    os.ftruncate(write_fd, size)


def _copy_range(read_fd: int, write_fd: int, offset: int, end: int) -> None:
    while offset < end:
        try:
            count = os.copy_file_range(read_fd, write_fd, min(end - offset, 1 << 30), offset, offset)
        except OSError as problem:
            if problem.errno not in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
                raise
            piece = os.pread(read_fd, min(end - offset, 1 << 20), offset)
            count = os.pwrite(write_fd, piece, offset)
        if count == 0:
            raise OSError(errno.EIO, "file became shorter while it was copied")
        offset += count


def _copy_attributes(source: int | bytes, target: int, status: os.stat_result) -> None:
    """Give *target* the owner, mode and xattrs of *source*, in the order in which none undoes another."""
    os.fchown(target, status.st_uid, status.st_gid)
    os.fchmod(target, stat.S_IMODE(status.st_mode))
    for key in os.listxattr(source):
        os.setxattr(target, key, os.getxattr(source, key))

"""Letting two trees on one file system hold equal files in common: their blocks, or the files themselves.

Blocks are shared by the kernel, which compares them itself (ioctl_fideduperange(2): Btrfs, XFS), so neither tree can
come to hold what it did not hold before.  Hard links are for trees that nobody writes to.
"""

from __future__ import annotations

import fcntl
import os
import stat
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from lamella.fs.rooted import Root
from lamella.fs.walk import walk

_FIDEDUPERANGE: Final = 0xC0189436
_DEDUPE: Final = struct.Struct("=QQHHIqQQiI")  # offset, length, 1, 0, 0, descriptor, offset, shared, status, 0
_PIECE: Final = 16 << 20
#: Sharing the blocks of a smaller file costs more than it saves.
_LEAST: Final = 16 << 10
_OPEN: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def share_files(source: Path, target: Path, *, hard_link: bool) -> int:
    """Make equal files below *target* share their blocks, or with *hard_link* be one, with those below *source*.

    Nothing but that changes in either tree; where it is not possible, or *source* is gone, nothing happens.  Returns
    the bytes shared.
    """
    total = 0
    try:
        if os.stat(source).st_dev != os.stat(target).st_dev:
            return 0
        with Root(source) as origin, Root(target) as root:
            files = [
                (entry.path, entry.stat)
                for entry in walk(root.fd, cross_mounts=False)
                if stat.S_ISREG(entry.stat.st_mode) and entry.stat.st_size and entry.stat.st_nlink == 1
            ]
            share = _link_one if hard_link else _clone_one
            for path, status in files:
                if hard_link or status.st_size >= _LEAST:
                    total += share(origin, root, path, status)
    except (_CannotShare, FileNotFoundError, NotADirectoryError):
        pass
    return total


class _CannotShare(Exception):
    """The file system does not do it: trying the other files is no use."""


def _clone_one(origin: Root, root: Root, path: bytes, status: os.stat_result) -> int:
    with _opened(origin, path, status) as source:
        if source < 0:
            return 0
        target = root.open(path, os.O_RDWR | os.O_NOFOLLOW)
        try:
            return _dedupe(source, target, status.st_size)
        finally:
            os.close(target)


def _dedupe(source: int, target: int, size: int) -> int:
    """Have the kernel share equal blocks of two files; where they differ they stay apart."""
    done = 0
    while done < size:
        request = bytearray(_DEDUPE.pack(done, min(_PIECE, size - done), 1, 0, 0, target, done, 0, 0, 0))
        try:
            fcntl.ioctl(source, _FIDEDUPERANGE, request)
        except OSError as problem:
            raise _CannotShare from problem
        *_, shared, outcome, _ = _DEDUPE.unpack(request)
        if outcome or not shared:  # they differ, or this one file is of a kind that cannot
            break
        done += shared
    return done


def _link_one(origin: Root, root: Root, path: bytes, status: os.stat_result) -> int:
    """Put the other store's file in the place of ours, if it is the same in all that a layer can say."""
    with _opened(origin, path, status) as source:
        if source < 0:
            return 0
        seen = os.fstat(source)
        target = root.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        try:
            if _metadata(seen) != _metadata(status) or not _same(source, target):
                return 0
        finally:
            os.close(target)
        parent, name = root.open_parent(path)
        try:
            before = os.fstat(parent)
            draft = b".lamella-adopt-" + os.urandom(8).hex().encode()
            directory = os.open(f"/proc/self/fd/{parent}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                _link(origin, path, directory, draft, seen)
                try:
                    os.rename(draft, name, src_dir_fd=directory, dst_dir_fd=directory)
                except BaseException:
                    os.unlink(draft, dir_fd=directory)
                    raise
                os.utime(directory, ns=(before.st_atime_ns, before.st_mtime_ns))
            finally:
                os.close(directory)
        finally:
            os.close(parent)
        return status.st_size


def _link(origin: Root, path: bytes, directory: int, draft: bytes, seen: os.stat_result) -> None:
    parent, name = origin.open_parent(path)
    try:
        os.link(name, draft, src_dir_fd=parent, dst_dir_fd=directory, follow_symlinks=False)
    except OSError as problem:
        raise _CannotShare from problem
    finally:
        os.close(parent)
    if not os.path.samestat(os.stat(draft, dir_fd=directory, follow_symlinks=False), seen):
        os.unlink(draft, dir_fd=directory)
        raise _CannotShare


@contextmanager
def _opened(origin: Root, path: bytes, status: os.stat_result) -> Iterator[int]:
    """Open the other store's file of the same name; -1 if there is none of this size."""
    try:
        fd = origin.open(path, _OPEN)
    except OSError:
        yield -1
        return
    try:
        seen = os.fstat(fd)
        yield fd if stat.S_ISREG(seen.st_mode) and seen.st_size == status.st_size else -1
    finally:
        os.close(fd)


def _metadata(status: os.stat_result) -> tuple[int, ...]:
    return (status.st_mode, status.st_uid, status.st_gid, status.st_size, status.st_mtime_ns)


def _same(first: int, second: int) -> bool:
    """Compare two files' attributes and content."""
    if _xattrs(first) != _xattrs(second):
        return False
    offset = 0
    while piece := os.pread(first, 1 << 20, offset):
        if os.pread(second, len(piece), offset) != piece:
            return False
        offset += len(piece)
    return True


def _xattrs(fd: int) -> Mapping[str, bytes]:
    try:
        return {name: os.getxattr(fd, name) for name in os.listxattr(fd)}
    except OSError:
        return {}

"""COPY and ADD: copying sources to a destination inside an image.

The rules are the classic builder's: a directory's content is copied, not itself; a destination that ends in a slash
or is a directory takes files by their names; links at the destination resolve inside the image; a file replaces what
bears its name.
"""

from __future__ import annotations

import errno
import os
import posixpath
import stat
from collections.abc import Sequence
from typing import NamedTuple

from lamella.build.chmod import Chmod
from lamella.build.context import SourceEntry, SourceTree
from lamella.build.selection import walk_selected
from lamella.build.sources import Source
from lamella.build.sums import named, read_attributes
from lamella.build.writer import Metadata, TreeWriter
from lamella.errors import InvalidArgument, Unavailable
from lamella.fs.rooted import Root

_OPEN_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_MAX_LINKS = 40


class Owner(NamedTuple):
    """Who is to own what is copied."""

    uid: int
    gid: int


class Manner(NamedTuple):
    """How files are copied."""

    owner: Owner | None
    """None keeps the source's owner."""
    chmod: Chmod | None
    """What ``--chmod`` asks for."""
    now_ns: int
    """The time of what has none of its own."""
    whole_seconds: bool = False
    """Whether fractions of seconds are left out, which no layer keeps: what becomes one is not touched again then."""

    @property
    def directory_mode(self) -> int:
        """Give the mode of directories that are made on the way to the destination."""
        return 0o755 if self.chmod is None else self.chmod.for_new_directories


def copy_source(source: Source, image: Root, destination: bytes, manner: Manner) -> None:
    """Copy one source to an absolute path inside the image."""
    if source.tree is not None and source.is_directory:
        _copy_directory(source.tree, source, image, destination, manner)
        return
    parent, name = _place_of_file(source, image, destination, manner)
    with Root(parent) as directory:
        os.close(parent)
        writer = TreeWriter(directory)
        try:
            _write_file(source, writer, name, manner)
        finally:
            writer.close()


def open_destination(image: Root, destination: bytes, owner: Owner | None, chmod: Chmod | None = None) -> Root:
    """Open the directory `destination`, made if missing; only the last of those made gets `owner`."""
    try:
        fd = image.open(destination, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        above = posixpath.dirname(destination.rstrip(b"/"))
        image.make_directories(above, 0o755 if chmod is None else chmod.for_new_directories, 0, 0)
        mode = 0o755 if chmod is None else chmod.apply(0o755, directory=True)
        made = image.make_directories(destination, mode, *(owner or Owner(0, 0)))
        fd = image.open(made or b".", os.O_RDONLY | os.O_DIRECTORY)
    except NotADirectoryError as error:
        raise InvalidArgument(f"cannot copy to {_shown(destination)}: not a directory") from error
    try:
        return Root(fd)
    finally:
        os.close(fd)


def _place_of_file(source: Source, image: Root, destination: bytes, manner: Manner) -> tuple[int, bytes]:
    """Find or make the directory that a file goes to, and the name it gets there."""
    owner = manner.owner or Owner(0, 0)
    mode = manner.directory_mode
    path = destination
    links = 0
    while True:
        if path.endswith(b"/") or _is_directory(image, path):
            return _make_directory(image, path, owner, mode), source.name
        above, _, name = path.rpartition(b"/")
        if name in (b".", b".."):
            return _make_directory(image, path, owner, mode), source.name
        parent = _make_directory(image, above, owner, mode)
        try:
            target = os.readlink(name, dir_fd=parent)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.EINVAL):  # nothing there, or no link
                return parent, name
            os.close(parent)
            raise
        # The link's target is relative to the directory that the link really lies in.
        real = image.make_directories(above, mode, *owner)
        os.close(parent)
        links += 1
        if links > _MAX_LINKS:
            raise InvalidArgument(f"cannot copy to {_shown(destination)}: too many symbolic links")
        path = target if target.startswith(b"/") else b"/" + posixpath.join(real, target)


def _is_directory(image: Root, path: bytes) -> bool:
    try:
        return stat.S_ISDIR(image.stat(path or b".").st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def _make_directory(image: Root, path: bytes, owner: Owner, mode: int) -> int:
    try:
        made = image.make_directories(path, mode, *owner)
    except NotADirectoryError as error:
        raise InvalidArgument(f"cannot copy to {_shown(path)}: not a directory") from error
    return image.open(made or b".", os.O_RDONLY | os.O_DIRECTORY)


def _write_file(source: Source, writer: TreeWriter, name: bytes, manner: Manner) -> None:
    if source.tree is None or source.stat is None:
        owner = manner.owner or Owner(0, 0)
        mode = 0o644 if manner.chmod is None else manner.chmod.apply(0o644, directory=False)
        writer.file(name, Metadata(mode, *owner, manner.now_ns), [source.text], len(source.text))
        return
    status = source.stat
    if not stat.S_ISREG(status.st_mode):
        writer.node(name, stat.S_IFMT(status.st_mode), status.st_rdev, _metadata(status, manner))
        return
    fd = source.tree.open_file(source.path)
    try:
        status = os.fstat(fd)
        _require_regular(source.path, status)
        writer.file(name, _metadata(status, manner, read_attributes(source.tree, fd)), fd, status.st_size)
    finally:
        os.close(fd)


def _copy_directory(tree: SourceTree, source: Source, image: Root, destination: bytes, manner: Manner) -> None:
    first_names: dict[tuple[int, int], bytes] = {}
    with open_destination(image, destination, manner.owner, manner.chmod) as directory:
        writer = TreeWriter(directory)
        try:
            for entry in walk_selected(tree, source.path, source.selection):
                _copy_entry(tree, entry, writer, manner, first_names)
            writer.finish()
        finally:
            writer.close()


def _copy_entry(
    tree: SourceTree,
    entry: SourceEntry,
    writer: TreeWriter,
    manner: Manner,
    first_names: dict[tuple[int, int], bytes],
) -> None:
    status = entry.stat
    if not stat.S_ISDIR(status.st_mode) and status.st_nlink > 1:
        first = first_names.setdefault((status.st_dev, status.st_ino), entry.below)
        if first != entry.below:
            writer.hard_link(entry.below, first)
            return
    if stat.S_ISREG(status.st_mode):
        fd = os.open(entry.name, _OPEN_FILE, dir_fd=entry.dir_fd)
        try:
            opened = os.fstat(fd)
            _require_regular(entry.path, opened)
            writer.file(entry.below, _metadata(status, manner, read_attributes(tree, fd)), fd, opened.st_size)
        finally:
            os.close(fd)
        return
    attributes: Sequence[tuple[str, bytes]] = ()
    if not tree.is_context and entry.dir_fd >= 0:
        attributes = read_attributes(tree, named(entry.dir_fd, entry.name))
    metadata = _metadata(status, manner, attributes)
    if stat.S_ISDIR(status.st_mode):
        writer.directory(entry.below, metadata, timed=not entry.implied)
    elif stat.S_ISLNK(status.st_mode):
        writer.symlink(entry.below, os.readlink(entry.name, dir_fd=entry.dir_fd), metadata)
    else:
        writer.node(entry.below, stat.S_IFMT(status.st_mode), status.st_rdev, metadata)


def _metadata(status: os.stat_result, manner: Manner, attributes: Sequence[tuple[str, bytes]] = ()) -> Metadata:
    mode = stat.S_IMODE(status.st_mode)
    uid, gid = (status.st_uid, status.st_gid) if manner.owner is None else manner.owner
    if manner.chmod is not None:
        mode = manner.chmod.apply(mode, directory=stat.S_ISDIR(status.st_mode))
    elif manner.owner is not None and stat.S_ISREG(status.st_mode):
        # A file that changes hands loses these bits, in the kernel's chown and so in Docker's images.
        mode &= ~stat.S_ISUID
        if mode & stat.S_IXGRP:
            mode &= ~stat.S_ISGID
    mtime_ns = status.st_mtime_ns
    if manner.whole_seconds:
        mtime_ns -= mtime_ns % 10**9
    return Metadata(mode, uid, gid, mtime_ns, attributes)


def _require_regular(path: bytes, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise Unavailable(f"{_shown(path)} was replaced while it was copied; build again when nothing writes to it")


def _shown(path: bytes) -> str:
    return os.fsdecode(path)

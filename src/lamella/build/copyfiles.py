"""COPY and ADD: finding the sources, and copying them to a destination inside an image.

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

from lamella.build.context import SourceEntry, SourceTree, has_wildcards
from lamella.build.sums import joined_sum, read_capability, source_sum, text_sum
from lamella.build.writer import Metadata, TreeWriter
from lamella.errors import InvalidArgument, NotFound, Unsupported
from lamella.fs.rooted import Root

_URLS = ("http://", "https://", "git://", "git@", "ssh://")
_MAX_LINKS = 40


class Owner(NamedTuple):
    """Who is to own what is copied."""

    uid: int
    gid: int


class Source(NamedTuple):
    """One file or directory to copy, found and summed; or a text, which lies in no tree."""

    name: bytes
    """What a file is called at the destination."""
    digest: str
    tree: SourceTree | None
    path: bytes
    stat: os.stat_result | None
    text: bytes = b""

    @property
    def is_directory(self) -> bool:
        """Tell whether the content of a directory is meant."""
        return self.stat is not None and stat.S_ISDIR(self.stat.st_mode)


class Manner(NamedTuple):
    """How files are copied."""

    owner: Owner | None
    """None keeps the source's owner."""
    mode: int | None
    """What ``--chmod`` asks for."""
    now_ns: int
    """The time of what has none of its own."""


def find_sources(tree: SourceTree, patterns: Sequence[str], instruction: str) -> list[Source]:
    """Find what COPY or ADD names, with its checksums; raises NotFound with Docker's words."""
    found: list[Source] = []
    for pattern in patterns:
        if pattern.startswith(_URLS):
            if instruction == "ADD":
                raise Unsupported(f"ADD failed: {pattern}: sources in the network are not supported yet")
            raise InvalidArgument("COPY failed: source can't be a URL for COPY")
        path = pattern.removeprefix("/").removeprefix("./")
        if posixpath.normpath(path or ".").split("/")[0] == "..":
            raise InvalidArgument(f"{instruction} failed: forbidden path outside the build context: {pattern} ()")
        if not has_wildcards(path):
            found.append(_find_source(tree, os.fsencode(path), instruction))
            continue
        found += [_find_source(tree, match, instruction) for match in tree.expand_glob(posixpath.normpath(path))]
    if not found:
        raise NotFound(f"{instruction} failed: no source files were specified")
    return found


def text_source(name: str, content: str) -> Source:
    """Make a source of a here-document."""
    raw = content.encode()
    path = os.fsencode(name)
    return Source(path, text_sum(path, 0o644, raw), None, path, None, raw)


def total_sum(sources: Sequence[Source]) -> str:
    """Give the checksum that stands in the step's history."""
    digests = [source.digest for source in sources]
    return digests[0] if len(digests) == 1 else joined_sum("multi", digests)


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


def open_destination(image: Root, destination: bytes, owner: Owner | None) -> Root:
    """Open the directory `destination`, made if missing; only the last of those made gets `owner`."""
    try:
        fd = image.open(destination, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        above = posixpath.dirname(destination.rstrip(b"/"))
        image.make_directories(above, 0o755, 0, 0)
        made = image.make_directories(destination, 0o755, *(owner or Owner(0, 0)))
        fd = image.open(made or b".", os.O_RDONLY | os.O_DIRECTORY)
    except NotADirectoryError as error:
        raise InvalidArgument(f"cannot copy to {_shown(destination)}: not a directory") from error
    try:
        return Root(fd)
    finally:
        os.close(fd)


def _find_source(tree: SourceTree, path: bytes, instruction: str) -> Source:
    try:
        clean, status = tree.resolve(path)
    except FileNotFoundError as error:
        where = "file not found in build context or excluded by .dockerignore: " if tree.is_context else ""
        shown = os.fsdecode(path)
        raise NotFound(f"{instruction} failed: {where}stat {shown}: file does not exist") from error
    except OSError as error:
        raise InvalidArgument(f"{instruction} failed: {os.fsdecode(path)}: {error.strerror}") from error
    if stat.S_ISSOCK(status.st_mode):
        raise InvalidArgument(f"{instruction} failed: {os.fsdecode(path)} is a socket")
    name = posixpath.basename(posixpath.normpath(path))
    name = posixpath.basename(clean) if name in (b"", b".", b"..") else name
    return Source(name, source_sum(tree, clean, status, name), tree, clean, status)


def _place_of_file(source: Source, image: Root, destination: bytes, manner: Manner) -> tuple[int, bytes]:
    """Find or make the directory that a file goes to, and the name it gets there."""
    owner = manner.owner or Owner(0, 0)
    path = destination
    links = 0
    while True:
        if path.endswith(b"/") or _is_directory(image, path):
            return _make_directory(image, path, owner), source.name
        above, _, name = path.rpartition(b"/")
        if name in (b".", b".."):
            return _make_directory(image, path, owner), source.name
        parent = _make_directory(image, above, owner)
        try:
            target = os.readlink(name, dir_fd=parent)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.EINVAL):  # nothing there, or no link
                return parent, name
            os.close(parent)
            raise
        # The link's target is relative to the directory that the link really lies in.
        real = image.make_directories(above, 0o755, *owner)
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


def _make_directory(image: Root, path: bytes, owner: Owner) -> int:
    try:
        made = image.make_directories(path, 0o755, *owner)
    except NotADirectoryError as error:
        raise InvalidArgument(f"cannot copy to {_shown(path)}: not a directory") from error
    return image.open(made or b".", os.O_RDONLY | os.O_DIRECTORY)


def _write_file(source: Source, writer: TreeWriter, name: bytes, manner: Manner) -> None:
    if source.tree is None or source.stat is None:
        owner = manner.owner or Owner(0, 0)
        mode = 0o644 if manner.mode is None else manner.mode
        writer.file(name, Metadata(mode, *owner, manner.now_ns), [source.text], len(source.text))
        return
    status = source.stat
    if not stat.S_ISREG(status.st_mode):
        writer.node(name, stat.S_IFMT(status.st_mode), status.st_rdev, _metadata(status, manner))
        return
    fd = source.tree.open_file(source.path)
    try:
        status = os.fstat(fd)
        writer.file(name, _metadata(status, manner, read_capability(fd)), fd, status.st_size)
    finally:
        os.close(fd)


def _copy_directory(tree: SourceTree, source: Source, image: Root, destination: bytes, manner: Manner) -> None:
    first_names: dict[tuple[int, int], bytes] = {}
    with open_destination(image, destination, manner.owner) as directory:
        writer = TreeWriter(directory)
        try:
            for entry in tree.walk(source.path):
                _copy_entry(entry, writer, manner, first_names)
            writer.finish()
        finally:
            writer.close()


def _copy_entry(
    entry: SourceEntry, writer: TreeWriter, manner: Manner, first_names: dict[tuple[int, int], bytes]
) -> None:
    status = entry.stat
    if stat.S_ISDIR(status.st_mode):
        writer.directory(entry.below, _metadata(status, manner), timed=not entry.implied)
        return
    if status.st_nlink > 1:
        first = first_names.setdefault((status.st_dev, status.st_ino), entry.below)
        if first != entry.below:
            writer.hard_link(entry.below, first)
            return
    if stat.S_ISLNK(status.st_mode):
        target = os.readlink(entry.name, dir_fd=entry.dir_fd)
        writer.symlink(entry.below, target, _metadata(status, manner))
    elif stat.S_ISREG(status.st_mode):
        fd = os.open(entry.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=entry.dir_fd)
        try:
            writer.file(entry.below, _metadata(status, manner, read_capability(fd)), fd, os.fstat(fd).st_size)
        finally:
            os.close(fd)
    else:
        writer.node(entry.below, stat.S_IFMT(status.st_mode), status.st_rdev, _metadata(status, manner))


def _metadata(status: os.stat_result, manner: Manner, capability: bytes | None = None) -> Metadata:
    mode = stat.S_IMODE(status.st_mode)
    uid, gid = (status.st_uid, status.st_gid) if manner.owner is None else manner.owner
    if manner.mode is not None:
        mode = manner.mode
    elif manner.owner is not None and stat.S_ISREG(status.st_mode):
        # A file that changes hands loses these bits, in the kernel's chown and so in Docker's images.
        mode &= ~stat.S_ISUID
        if mode & stat.S_IXGRP:
            mode &= ~stat.S_ISGID
    return Metadata(mode, uid, gid, status.st_mtime_ns, capability)


def _shown(path: bytes) -> str:
    return os.fsdecode(path)

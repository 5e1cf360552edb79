"""What trees take on the disk, as ``du`` counts it, and what is remembered of those that never change.

A tree's bytes are the blocks of all its inodes, directories included; what is mounted in it is not entered.  A file
with several names counts once; one with names outside the tree is listed apart, so that whoever adds trees up can count
it once for all of them.

What was measured of a layer is kept in one file::

    lamella-usage 1 <sha256 of the rest>
    {"<layer> <directory>": [inode, ctime, inode of the files, ctime of the files, bytes, inodes, [link …]], …}

It is read whole or, if its sum is wrong, as good as missing.  A layer's figures count only for the very directories
that were measured: one that was replaced, copied or changed at its top has another inode or change time.  They are kept
once the directory has not changed for ``SETTLING``: before that the file system may still be giving it blocks.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Final, NamedTuple

from lamella.errors import DataLoss, LamellaError
from lamella.fs.walk import DirectoryStack, directory_stack
from lamella.linux.mountinfo import read_mountinfo
from lamella.store.smallfiles import find_small

SETTLING: Final = 60 * 10**9
_HEADER: Final = b"lamella-usage 1 "
_LIMIT: Final = 256 << 20
_BLOCK: Final = 512
_PATIENCE: Final = 0.1
"""Seconds of measuring after which the rest is given to several processes."""

Identity = tuple[int, int, int, int]


class Link(NamedTuple):
    """A file that has names outside the tree too."""

    inode: int
    bytes: int
    found: int
    """How many of its names are in the tree."""
    names: int
    """How many it has."""


_Row = tuple[int, int, int, int, int, int, tuple[Link, ...]]


class Use(NamedTuple):
    """What one tree takes."""

    bytes: int
    inodes: int
    links: tuple[Link, ...] = ()
    """Not in `bytes` and `inodes`."""
    whole: bool = True
    """False if something is mounted in it, which is not counted."""


NOTHING: Final = Use(0, 0)


def measure(top: str, device: int) -> Use:
    """Measure the directory *top* and all in it that lies on *device*; what vanishes meanwhile is passed over."""
    try:
        fd = os.open(top, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return NOTHING
    try:
        status = os.fstat(fd)
        if status.st_dev != device:
            return Use(0, 0, whole=False)
        counter = _Counter(device)
        counter.blocks, counter.inodes = status.st_blocks, 1
        with directory_stack(fd) as stack:
            counter.walk(stack)
    finally:
        os.close(fd)
    return counter.result()


class _Counter:
    """Sums of one walk."""

    def __init__(self, device: int) -> None:
        self.device = device
        self.blocks = 0
        self.inodes = 0
        self.whole = True
        self.links: dict[int, list[int]] = {}

    def walk(self, stack: DirectoryStack) -> None:
        """Count all below the directory on top of *stack*."""
        waiting = [self._read(stack.fd)]
        while True:
            if waiting[-1]:
                name, status = waiting[-1].pop()
                try:
                    stack.enter(name, status)
                except OSError:  # replaced or removed: this is a store in use
                    continue
                waiting.append(self._read(stack.fd))
                continue
            waiting.pop()
            if not waiting:
                return
            stack.leave()

    def _read(self, fd: int) -> list[tuple[bytes, os.stat_result]]:
        directories: list[tuple[bytes, os.stat_result]] = []
        blocks = inodes = 0
        device = self.device
        with os.scandir(fd) as entries:
            for entry in entries:
                try:
                    status = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                if status.st_dev != device:
                    self.whole = False
                elif stat.S_ISDIR(status.st_mode):
                    directories.append((os.fsencode(entry.name), status))
                    blocks += status.st_blocks
                    inodes += 1
                elif status.st_nlink > 1:
                    found = self.links.setdefault(status.st_ino, [status.st_blocks, 0, status.st_nlink])
                    found[1] += 1
                else:
                    blocks += status.st_blocks
                    inodes += 1
        self.blocks += blocks
        self.inodes += inodes
        return directories

    def result(self) -> Use:
        links = []
        for inode, (blocks, found, names) in self.links.items():
            if found >= names:
                self.blocks += blocks
                self.inodes += 1
            else:
                links.append(Link(inode, blocks * _BLOCK, found, names))
        return Use(self.blocks * _BLOCK, self.inodes, tuple(links), self.whole)


def measure_all(tops: Sequence[str], device: int) -> Iterator[tuple[str, Use]]:
    """Measure many trees, in no order; by as many processes as the machine has if it takes long."""
    end = time.monotonic() + _PATIENCE
    rest = list(tops)
    while rest and time.monotonic() < end:
        top = rest.pop()
        yield top, measure(top, device)
    if not rest:
        return
    from lamella.linux.workers import forked_map

    for top, (size, inodes, links, whole) in forked_map(lambda top: measure(top, device), rest):
        yield top, Use(size, inodes, tuple(Link(*link) for link in links), whole)


class Layer(NamedTuple):
    """A layer that does not change, to be measured once."""

    key: str
    directory: str
    """All that belongs to it."""
    files: str
    """The part that holds its files."""


class Remembered:
    """What is known of layers that were measured before, kept in the file *path*, or nowhere if that is None."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._known: dict[str, tuple[Identity, Use]] = {}
        self._changed = False
        if path is not None:
            with suppress(OSError, LamellaError, ValueError, TypeError, KeyError):
                self._known = _parse(find_small(path, _LIMIT) or b"")

    def measure(
        self, layers: Iterable[Layer], device: int, *, recount: bool = False, now: Callable[[], int] = time.time_ns
    ) -> Mapping[str, Use]:
        """Return what each layer takes by its directory; with *recount* none is taken from memory."""
        found: dict[str, Use] = {}
        missing: dict[str, tuple[Layer, Identity]] = {}
        kept: dict[str, tuple[Identity, Use]] = {}
        covered = _above_mounts()
        for layer in layers:
            identity = _identity(layer, device)
            if identity is None:
                continue
            known = self._known.get(layer.key)
            if known is not None and known[0] == identity and not recount:
                kept[layer.key] = known
                if layer.directory not in covered:
                    found[layer.directory] = known[1]
            if layer.directory not in found:
                missing[layer.directory] = (layer, identity)
        self._changed |= len(kept) < len(self._known)
        self._known = kept
        for directory, use in measure_all(list(missing), device):
            found[directory] = use
            layer, identity = missing[directory]
            settled = max(identity[1], identity[3]) + SETTLING < now()
            if use.whole and layer.directory not in covered and settled and _identity(layer, device) == identity:
                self._known[layer.key] = (identity, use)
                self._changed = True
        return found

    def save(self) -> None:
        """Keep what was measured, if the place can be written; whoever writes last is right."""
        if not self._changed or self._path is None:
            return
        from lamella.fs.atomic import write_file

        with suppress(OSError):
            write_file(self._path, _format(self._known), sync=False)
            self._changed = False


def _above_mounts() -> set[str]:
    """Return the directories that something is mounted in: what that covers is there, and du does not see it."""
    found: set[str] = set()
    for entry in read_mountinfo():
        place = os.path.dirname(entry.target)
        while place not in found:
            found.add(place)
            place = os.path.dirname(place)
    return found


def _identity(layer: Layer, device: int) -> Identity | None:
    """Tell one directory from every other that may take its place; None if it is gone or lies on another device."""
    try:
        whole = os.lstat(layer.directory)
        files = whole if layer.files == layer.directory else os.lstat(layer.files)
    except OSError:
        return None
    if whole.st_dev != device or not stat.S_ISDIR(whole.st_mode):
        return None
    return whole.st_ino, whole.st_ctime_ns, files.st_ino, files.st_ctime_ns


def _format(known: Mapping[str, tuple[Identity, Use]]) -> bytes:
    from msgspec import json

    body = json.encode({key: (*identity, use.bytes, use.inodes, use.links) for key, (identity, use) in known.items()})
    return _HEADER + sha256(body).hexdigest().encode() + b"\n" + body


def _parse(raw: bytes) -> dict[str, tuple[Identity, Use]]:
    from msgspec import DecodeError, json

    head, _, body = raw.partition(b"\n")
    if head != _HEADER + sha256(body).hexdigest().encode():
        raise DataLoss("what was measured of layers cannot be read")
    try:
        table = json.decode(body, type=dict[str, _Row])
    except DecodeError as error:
        raise DataLoss("what was measured of layers cannot be read") from error
    return {key: (item[:4], Use(item[4], item[5], item[6])) for key, item in table.items()}

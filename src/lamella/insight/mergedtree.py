"""A stack of layers folded into one tree in memory, base first, with what each layer added, changed and deleted.

Names and types come from directory listings, so that a tree without sizes costs no status calls; sizes are counted as
Docker counts a layer: the length of all but directories, each inode once in each layer.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, Literal, NamedTuple

from lamella.changeset.changes import ChangeKind, iter_changes
from lamella.changeset.whiteout import is_whiteout
from lamella.errors import NotFound
from lamella.fs.walk import DirectoryStack, directory_stack
from lamella.insight.stack import read_marks

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

Fate = Literal["overwritten", "deleted"]


class Node:
    """One path: which layer it comes from, its size there, and what is below it if it is a directory."""

    __slots__ = ("children", "layer", "size")

    def __init__(self, layer: int, size: int, children: dict[bytes, Node] | None) -> None:
        self.layer = layer
        self.size = size
        self.children = children


class Counts(NamedTuple):
    """What one layer does to those below; files are everything but directories."""

    added: int
    changed: int
    """Files at a path that exists below."""
    deleted: int
    """Names that are gone; of a deleted directory its own name alone."""
    directories: int
    """Directories in the layer, new ones and those that only hold changes."""


class TooMany(Exception):
    """The layers hold more names than the caller allowed."""


Report = Callable[[bytes, Node, Fate, int], None]
"""Told of every file that the image carries but does not show: its path, its node, how it ended, by which layer."""


class _Level(NamedTuple):
    """One directory in progress: the subdirectories to go into, and what its names were compared with."""

    path: bytes
    todo: list[tuple[bytes, Node, dict[bytes, Node] | None]]


class MergedTree:
    """The tree so far."""

    def __init__(
        self, *, sizes: bool = False, whole: bool = False, limit: int | None = None, report: Report | None = None
    ) -> None:
        """Begin with nothing; *whole* says that each layer's directory holds a whole tree, as with vfs.

        More than *limit* names in all layers together end :meth:`add` with TooMany.
        """
        self.root = Node(-1, 0, {})
        self.layers = 0
        self.problems: list[str] = []
        self._sizes = sizes
        self._whole = whole
        self._left = limit
        self._report = report
        self._below: Path | None = None
        self._seen: set[tuple[int, int]] = set()
        self._added = self._changed = self._deleted = self._directories = 0

    def add(self, directory: Path) -> Counts:
        """Put the next layer on top and say what it does.  Raises NotFound if its directory is not there."""
        self._seen = set()
        self._added = self._changed = self._deleted = self._directories = 0
        if self._whole and self._below is not None:
            self._add_changes(self._below, directory)
        else:
            try:
                fd = os.open(directory, _DIRECTORY)
            except (FileNotFoundError, NotADirectoryError):
                raise NotFound(f"{directory}: the layer's directory is not there") from None
            try:
                self._add_overlay(fd)
            finally:
                os.close(fd)
        self._below = directory
        self.layers += 1
        return Counts(self._added, self._changed, self._deleted, self._directories)

    def files(self) -> Iterator[tuple[bytes, Node]]:
        """Yield everything that is visible but directories, with its path, in no order."""
        return _files(b"", self.root)

    # ------------------------------------------------------------------------------------------------ overlay

    def _add_overlay(self, fd: int) -> None:
        children = self.root.children
        if children is None:  # the root is always a directory
            return
        with directory_stack(fd) as stack:
            levels = [_Level(b"", self._fold(stack, b"", children, self._opaque(stack.fd, b"", children)))]
            while levels:
                level = levels[-1]
                if not level.todo:
                    levels.pop()
                    if levels:
                        stack.leave()
                    continue
                name, node, below = level.todo.pop()
                path = level.path + name
                try:
                    stack.enter(name)
                except (FileNotFoundError, NotADirectoryError):
                    continue
                inside = node.children if node.children is not None else {}
                hides = self._opaque(stack.fd, path, inside)
                if below is None:
                    below = hides
                levels.append(_Level(path + b"/", self._fold(stack, path + b"/", inside, below)))

    def _opaque(self, fd: int, path: bytes, children: dict[bytes, Node]) -> dict[bytes, Node] | None:
        """Empty *children* if the directory is opaque and return what was in it; None if all below shows through."""
        from lamella.errors import Unsupported

        try:
            opaque = read_marks(fd, path)
        except Unsupported as error:
            self.problems.append(str(error))
            return None
        if not opaque:
            return None
        hidden = dict(children)
        children.clear()
        return hidden

    def _fold(
        self, stack: DirectoryStack, prefix: bytes, children: dict[bytes, Node], hidden: dict[bytes, Node] | None
    ) -> list[tuple[bytes, Node, dict[bytes, Node] | None]]:
        """Put one directory's names into *children*; *hidden* is what the layer hides of the same directory below."""
        below = children if hidden is None else hidden
        layer = self.layers
        todo: list[tuple[bytes, Node, dict[bytes, Node] | None]] = []
        count = 0
        with os.scandir(stack.fd) as entries:
            for entry in entries:
                count += 1
                name = os.fsencode(entry.name)
                before = below.get(name)
                if entry.is_dir(follow_symlinks=False):
                    self._directories += 1
                    merges = hidden is None and before is not None and before.children is not None
                    if before is not None and not merges and before.children is None:
                        self._drop(prefix + name, before, "overwritten")
                    node = before if merges and before is not None else Node(layer, 0, {})
                    node.layer = layer
                    children[name] = node
                    lost = before.children if hidden is not None and before is not None else None
                    todo.append((name, node, lost if lost is not None else ({} if hidden is not None else None)))
                    continue
                try:
                    size = self._measure(entry)
                except FileNotFoundError:
                    continue
                if size is None:
                    if before is not None and hidden is None:
                        self._deleted += 1
                        self._drop(prefix + name, before, "deleted")
                        del children[name]
                    continue
                if before is None:
                    self._added += 1
                else:
                    self._changed += 1
                    self._drop(prefix + name, before, "overwritten")
                children[name] = Node(layer, size, None)
        if hidden:
            for name, node in hidden.items():
                if name not in children:
                    self._deleted += 1
                    self._drop(prefix + name, node, "deleted")
        if self._left is not None:
            self._left -= count
            if self._left < 0:
                raise TooMany
        return todo

    def _measure(self, entry: os.DirEntry[str]) -> int | None:
        """Return a file's size, 0 if sizes do not matter; None for a whiteout."""
        if not self._sizes and (entry.is_file(follow_symlinks=False) or entry.is_symlink()):
            return 0
        status = entry.stat(follow_symlinks=False)
        if is_whiteout(status.st_mode, status.st_rdev):
            return None
        return self._size(status)

    def _size(self, status: os.stat_result) -> int:
        if status.st_nlink > 1:
            identity = (status.st_dev, status.st_ino)
            if identity in self._seen:
                return 0
            self._seen.add(identity)
        return status.st_size

    def _drop(self, path: bytes, node: Node, fate: Fate) -> None:
        if self._report is None:
            return
        if node.children is None:
            self._report(path, node, fate, self.layers)
            return
        for below, file in _files(path + b"/", node):
            self._report(below, file, fate, self.layers)

    # ------------------------------------------------------------------------------------------------ whole trees

    def _add_changes(self, below: Path, directory: Path) -> None:
        for kind, path in iter_changes(below, directory):
            *parents, name = path.split(b"/")
            children = self._children(parents)
            before = children.get(name)
            if kind is ChangeKind.DELETED:
                self._deleted += 1
                if before is not None:
                    self._drop(path, before, "deleted")
                    del children[name]
                continue
            status = os.lstat(os.path.join(os.fsencode(directory), path))
            if stat.S_ISDIR(status.st_mode):
                self._directories += 1
                if before is None or before.children is None:
                    children[name] = Node(self.layers, 0, {})
                before = children[name]
                before.layer = self.layers
                continue
            self._added += kind is ChangeKind.ADDED
            self._changed += kind is ChangeKind.CHANGED
            if before is not None:
                self._drop(path, before, "overwritten")
            children[name] = Node(self.layers, self._size(status), None)

    def _children(self, parts: list[bytes]) -> dict[bytes, Node]:
        node = self.root
        for name in parts:
            inside = node.children if node.children is not None else {}
            node = inside.setdefault(name, Node(self.layers, 0, {}))
            if node.children is None:
                node.children = {}
        return node.children if node.children is not None else {}


def _files(prefix: bytes, top: Node) -> Iterator[tuple[bytes, Node]]:
    waiting = [(prefix, top)]
    while waiting:
        path, node = waiting.pop()
        for name, child in (node.children or {}).items():
            if child.children is None:
                yield path + name, child
            else:
                waiting.append((path + name + b"/", child))

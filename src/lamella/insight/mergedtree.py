"""A stack of layers folded into one tree in memory, base first, with what each layer added, changed and deleted.

Names and types come from directory listings, so that a tree without sizes costs no status calls; sizes are counted as
Docker counts a layer: the length of all but directories, each inode once in each layer.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Collection, Iterator
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

    __slots__ = ("children", "layer", "links", "size")

    def __init__(self, layer: int, size: int, children: dict[bytes, Node] | None) -> None:
        self.layer = layer
        self.size = size
        self.children = children
        self.links: list[Node] | None = None
        """The names of the same inode in the same layer that still show; one of them has its size."""


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


Event = Callable[[ChangeKind, bytes], None]
"""Told of every path that a layer adds, changes or deletes; of a deleted directory the name alone."""


class _Level(NamedTuple):
    """One directory in progress: the subdirectories to go into, and what its names were compared with."""

    path: bytes
    todo: list[tuple[bytes, Node, dict[bytes, Node] | None]]


class MergedTree:
    """The tree so far."""

    def __init__(
        self,
        *,
        sizes: bool = False,
        whole: bool = False,
        limit: int | None = None,
        within: Collection[bytes] | None = None,
        report: Report | None = None,
        event: Event | None = None,
    ) -> None:
        """Begin with nothing; *whole* says that each layer's directory holds a whole tree, as with vfs.

        More than *limit* names in all layers together end :meth:`add` with TooMany.  With *within* only these
        directories and the root are looked into, and the tree is right there alone.
        """
        self.root = Node(-1, 0, {})
        self.layers = 0
        self.problems: list[str] = []
        self._sizes = sizes
        self._whole = whole
        self._left = limit
        self._within = within
        self._report = report
        self._event = event
        self._below: Path | None = None
        self._inodes: dict[tuple[int, int], list[Node]] = {}
        self._added = self._changed = self._deleted = self._directories = 0

    def add(self, directory: Path) -> Counts:
        """Put the next layer on top and say what it does.  Raises NotFound if its directory is not there."""
        self._inodes = {}
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
                if self._within is not None and path not in self._within:
                    continue
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
                    if self._event is not None and not merges:
                        self._event(ChangeKind.ADDED if before is None else ChangeKind.CHANGED, prefix + name)
                    if before is not None and not merges and before.children is None:
                        self._drop(prefix + name, before, "overwritten")
                    node = before if merges and before is not None else Node(layer, 0, {})
                    node.layer = layer
                    children[name] = node
                    lost = before.children if hidden is not None and before is not None else None
                    todo.append((name, node, lost if lost is not None else ({} if hidden is not None else None)))
                    continue
                try:
                    file = self._file(entry)
                except FileNotFoundError:
                    continue
                if file is None:
                    if before is not None and hidden is None:
                        self._delete(prefix + name, before)
                        del children[name]
                    continue
                if before is None:
                    self._added += 1
                else:
                    self._changed += 1
                    self._drop(prefix + name, before, "overwritten")
                if self._event is not None:
                    self._event(ChangeKind.ADDED if before is None else ChangeKind.CHANGED, prefix + name)
                children[name] = file
        if hidden:
            for name, node in hidden.items():
                if name not in children:
                    self._delete(prefix + name, node)
        if self._left is not None:
            self._left -= count
            if self._left < 0:
                raise TooMany
        return todo

    def _file(self, entry: os.DirEntry[str]) -> Node | None:
        """Return the node of something that is no directory, without a size if sizes do not matter; None: a whiteout."""
        if not self._sizes and (entry.is_file(follow_symlinks=False) or entry.is_symlink()):
            return Node(self.layers, 0, None)
        status = entry.stat(follow_symlinks=False)
        return None if is_whiteout(status.st_mode, status.st_rdev) else self._measured(status)

    def _measured(self, status: os.stat_result) -> Node:
        node = Node(self.layers, status.st_size, None)
        if status.st_nlink > 1:
            node.links = self._inodes.setdefault((status.st_dev, status.st_ino), [])
            if node.links:
                node.size = 0
            node.links.append(node)
        return node

    def _delete(self, path: bytes, node: Node) -> None:
        self._deleted += 1
        if self._event is not None:
            self._event(ChangeKind.DELETED, path)
        self._drop(path, node, "deleted")

    def _drop(self, path: bytes, node: Node, fate: Fate) -> None:
        if self._report is None:
            return
        for gone, file in [(path, node)] if node.children is None else _files(path + b"/", node):
            if file.links is not None:
                file.links.remove(file)
                if file.links and file.size:
                    # The bytes still show under another name.
                    file.links[0].size, file.size = file.size, 0
            self._report(gone, file, fate, self.layers)

    # ------------------------------------------------------------------------------------------------ whole trees

    def _add_changes(self, below: Path, directory: Path) -> None:
        for kind, path in iter_changes(below, directory):
            *parents, name = path.split(b"/")
            children = self._children(parents)
            before = children.get(name)
            if kind is ChangeKind.DELETED:
                if before is not None:
                    self._delete(path, before)
                    del children[name]
                continue
            if self._event is not None:
                self._event(kind, path)
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
            children[name] = self._measured(status)

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


def directories_of(directory: Path) -> set[bytes]:
    """Return the path of every directory below *directory*, following nothing."""
    found: set[bytes] = set()
    fd = os.open(directory, _DIRECTORY)
    try:
        with directory_stack(fd) as stack:
            levels = [(b"", _directories(stack.fd))]
            while levels:
                prefix, todo = levels[-1]
                if not todo:
                    levels.pop()
                    if levels:
                        stack.leave()
                    continue
                name = todo.pop()
                try:
                    stack.enter(name)
                except (FileNotFoundError, NotADirectoryError):
                    continue
                found.add(prefix + name)
                levels.append((prefix + name + b"/", _directories(stack.fd)))
    finally:
        os.close(fd)
    return found


def _directories(fd: int) -> list[bytes]:
    with os.scandir(fd) as entries:
        return [os.fsencode(entry.name) for entry in entries if entry.is_dir(follow_symlinks=False)]

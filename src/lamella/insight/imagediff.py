"""``image diff``: what differs between two images or containers, in files and in settings.

Files that come from the same layer are the same and are not looked at.  Of the others the status decides: type, owner,
mode, length, time, target, device and the attributes that travel in layers.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from typing import Final

import msgspec

from lamella.changeset.changes import ChangeKind
from lamella.changeset.xattrs import travels
from lamella.insight.mergedtree import Counts, MergedTree, Node
from lamella.insight.stack import Stack, kind_of
from lamella.insight.subject import LayerName, Subject, find_subject, hold_whole_trees, name_layer, open_stack
from lamella.model.imageconfig import ImageConfig, settings_document
from lamella.readers.base import StoredLayer, StoreReader

_WORDS: Final = {ChangeKind.ADDED: "added", ChangeKind.CHANGED: "changed", ChangeKind.DELETED: "deleted"}
_PIECE: Final = 1 << 20


class Side(msgspec.Struct, frozen=True):
    """A path on one side."""

    layer: int
    """The number of the layer that it shows from, 1 for the base."""
    kind: str
    size: int
    mode: str
    owner: str
    mtime: int
    """Nanoseconds since 1970."""
    target: str


class FileChange(msgspec.Struct, frozen=True):
    """One path that differs."""

    change: str
    """``added``, ``changed``, ``deleted``; of a deleted directory its name alone is told."""
    path: str
    differs: tuple[str, ...]
    """For a changed path: ``type``, ``mode``, ``owner``, ``size``, ``time``, ``target``, ``device``, ``attributes``,
    ``content``."""
    old: Side | None
    new: Side | None


class LayerChange(msgspec.Struct, frozen=True):
    """One layer of either side, with what it changes of those below it."""

    side: str
    """``both`` for a layer that they share, whose changes are not told; ``old``, ``new``."""
    layer: LayerName
    added: int
    changed: int
    deleted: int
    changes: tuple[tuple[str, str], ...]
    """Word and path of each change, sorted by path."""


class ConfigChange(msgspec.Struct, frozen=True):
    """One setting that differs; ``Env.PATH`` and ``Labels.x`` are settings of their own."""

    field: str
    old: object
    """None if it is not set."""
    new: object


class ImageDifference(msgspec.Struct, frozen=True):
    """All that differs."""

    old: str
    new: str
    """The IDs of the two."""
    shared_layers: int
    """Layers, from the base up, that are the same."""
    files: tuple[FileChange, ...]
    """Flattened, sorted by path; empty if asked for by layer."""
    layers: tuple[LayerChange, ...]
    """Only if asked for: the shared ones, then the old side's, then the new side's."""
    config: tuple[ConfigChange, ...]
    problems: tuple[str, ...]


def diff_images(
    reader: StoreReader, old: str, new: str, *, by_layer: bool = False, content: bool = False
) -> ImageDifference:
    """Compare *old* with *new*.  Raises NotFound for an image or a missing layer, InvalidArgument."""
    sides = [find_subject(reader, name) for name in (old, new)]
    stacks = [side.require_layers() for side in sides]
    shared = 0
    for mine, theirs in zip(*stacks, strict=False):
        if mine.id != theirs.id:
            break
        shared += 1
    files: list[FileChange] = []
    layers: list[LayerChange] = []
    problems: list[str] = []
    if by_layer:
        layers = _by_layer(sides, stacks, shared, problems)
    elif stacks[0] != stacks[1]:
        files = _flattened(stacks, content=content, problems=problems)
    configs = [side.image.config if side.image is not None else ImageConfig() for side in sides]
    return ImageDifference(
        old=sides[0].id,
        new=sides[1].id,
        shared_layers=shared,
        files=tuple(files),
        layers=tuple(layers),
        config=tuple(diff_configs(*configs)),
        problems=tuple(dict.fromkeys(problems)),
    )


def _flattened(stacks: list[list[StoredLayer]], *, content: bool, problems: list[str]) -> list[FileChange]:
    trees: list[MergedTree] = []
    for layers in stacks:
        tree = MergedTree(whole=hold_whole_trees(layers))
        for layer in layers:
            tree.add(layer.directory)
        problems += tree.problems
        trees.append(tree)
    with open_stack(stacks[0]) as old, open_stack(stacks[1]) as new:
        comparison = _Comparison((old, new), stacks, content=content)
        return sorted(comparison.run(trees[0].root, trees[1].root), key=lambda item: os.fsencode(item.path))


class _Comparison:
    """Two trees side by side."""

    def __init__(self, views: tuple[Stack, Stack], stacks: list[list[StoredLayer]], *, content: bool) -> None:
        self._views = views
        self._ids = [[layer.id for layer in layers] for layers in stacks]
        self._content = content

    def run(self, old: Node, new: Node) -> Iterator[FileChange]:
        """Yield what differs, in no order."""
        tops = [Node(len(layers) - 1, 0, {}) for layers in self._ids]
        if all(self._ids) and not self._same_layer(*tops):
            change = self._changed(b"", *tops)
            if change is not None:
                yield change
        waiting: list[tuple[bytes, dict[bytes, Node], dict[bytes, Node]]] = [
            (b"", old.children or {}, new.children or {})
        ]
        while waiting:
            prefix, before, after = waiting.pop()
            for name, node in after.items():
                path = prefix + name
                other = before.get(name)
                if other is None:
                    yield FileChange("added", _shown(path), (), None, self._side(1, node, path))
                elif not self._same_layer(other, node):
                    change = self._changed(path, other, node)
                    if change is not None:
                        yield change
                if node.children is not None:
                    below = other.children if other is not None else None
                    waiting.append((path + b"/", below or {}, node.children))
            for name, node in before.items():
                if name not in after:
                    yield FileChange("deleted", _shown(prefix + name), (), self._side(0, node, prefix + name), None)

    def _same_layer(self, old: Node, new: Node) -> bool:
        return self._ids[0][old.layer] == self._ids[1][new.layer]

    def _side(self, which: int, node: Node, path: bytes) -> Side | None:
        status = self._views[which].status(node.layer, path)
        if status is None:
            return None
        target = ""
        if stat.S_ISLNK(status.st_mode):
            target = os.fsdecode(self._views[which].readlink(node.layer, path))
        return Side(
            layer=node.layer + 1,
            kind=kind_of(status.st_mode),
            size=0 if stat.S_ISDIR(status.st_mode) else status.st_size,
            mode=stat.filemode(status.st_mode),
            owner=f"{status.st_uid}:{status.st_gid}",
            mtime=status.st_mtime_ns,
            target=target,
        )

    def _changed(self, path: bytes, old: Node, new: Node) -> FileChange | None:
        before, after = self._side(0, old, path), self._side(1, new, path)
        if before is None or after is None:
            return None
        found: list[str] = []
        if before.kind != after.kind:
            found.append("type")
        if before.mode[1:] != after.mode[1:]:
            found.append("mode")
        if before.owner != after.owner:
            found.append("owner")
        if before.target != after.target:
            found.append("target")
        elif before.size != after.size:
            found.append("size")
        if before.kind == after.kind:
            found += self._closer(path, old, new, before, after, found)
        # With contents compared, a new time alone is no difference.
        if not found or (self._content and found == ["time"]):
            return None
        return FileChange("changed", _shown(path), tuple(found), before, after)

    def _closer(self, path: bytes, old: Node, new: Node, before: Side, after: Side, found: list[str]) -> Iterator[str]:
        if before.kind not in {"directory", "link"} and before.mtime != after.mtime:
            yield "time"
        if before.kind == "device" and self._device(0, old, path) != self._device(1, new, path):
            yield "device"
        if before.kind in {"file", "directory"} and self._attributes(0, old, path) != self._attributes(1, new, path):
            yield "attributes"
        if self._content and before.kind == "file" and "size" not in found and not self._equal(path, old, new):
            yield "content"

    def _device(self, which: int, node: Node, path: bytes) -> int:
        status = self._views[which].status(node.layer, path)
        return 0 if status is None else status.st_rdev

    def _attributes(self, which: int, node: Node, path: bytes) -> dict[bytes, bytes]:
        fd, name = self._views[which].open_parent(node.layer, path or b"root")
        try:
            place = b"/proc/self/fd/%d/%b" % (fd, name if path else b".")
            names = [os.fsencode(key) for key in os.listxattr(place, follow_symlinks=False)]
            return {key: os.getxattr(place, key, follow_symlinks=False) for key in names if travels(key)}
        except OSError:
            return {}
        finally:
            os.close(fd)

    def _equal(self, path: bytes, old: Node, new: Node) -> bool:
        fds = [self._open(0, old, path), self._open(1, new, path)]
        try:
            while True:
                pieces = [os.read(fd, _PIECE) for fd in fds]
                if pieces[0] != pieces[1]:
                    return False
                if not pieces[0]:
                    return True
        finally:
            for fd in fds:
                os.close(fd)

    def _open(self, which: int, node: Node, path: bytes) -> int:
        fd, name = self._views[which].open_parent(node.layer, path)
        try:
            return os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=fd)
        finally:
            os.close(fd)


def _by_layer(
    sides: list[Subject], stacks: list[list[StoredLayer]], shared: int, problems: list[str]
) -> list[LayerChange]:
    found = [LayerChange("both", name_layer(sides[0], stacks[0], index), 0, 0, 0, ()) for index in range(shared)]
    for word, side, layers in zip(("old", "new"), sides, stacks, strict=True):
        changes: list[tuple[str, str]] = []

        def note(kind: ChangeKind, path: bytes, changes: list[tuple[str, str]] = changes) -> None:
            changes.append((_WORDS[kind], _shown(path)))

        tree = MergedTree(whole=hold_whole_trees(layers), event=note)
        for index, layer in enumerate(layers):
            changes.clear()
            counts: Counts = tree.add(layer.directory)
            if index >= shared:
                told = tuple(sorted(changes, key=lambda item: os.fsencode(item[1])))
                found.append(
                    LayerChange(
                        word, name_layer(side, layers, index), counts.added, counts.changed, counts.deleted, told
                    )
                )
        problems += tree.problems
    return found


def diff_configs(old: ImageConfig, new: ImageConfig) -> Iterator[ConfigChange]:
    """Yield the settings that differ, in Docker's order."""
    for field in ("os", "architecture", "variant", "os_version", "author", "created"):
        before, after = getattr(old, field), getattr(new, field)
        if before != after:
            yield ConfigChange(field, before or None, after or None)
    documents = [settings_document(config.config) for config in (old, new)]
    for key in dict.fromkeys([*documents[0], *documents[1]]):
        before, after = (document.get(key) or None for document in documents)
        if before == after or key == "Image":  # what a step was built on: no setting of a container's
            continue
        if key == "Env":
            yield from _by_name(key, _variables(before), _variables(after))
        elif key == "Labels":
            yield from _by_name(
                key, before if isinstance(before, dict) else {}, after if isinstance(after, dict) else {}
            )
        elif key in {"ExposedPorts", "Volumes"}:
            names = [sorted(value) if isinstance(value, dict) else None for value in (before, after)]
            yield ConfigChange(key, *names)
        else:
            yield ConfigChange(key, before, after)


def _by_name(key: str, old: dict[str, object], new: dict[str, object]) -> Iterator[ConfigChange]:
    for name in sorted(old.keys() | new.keys()):
        if old.get(name) != new.get(name):
            yield ConfigChange(f"{key}.{name}", old.get(name), new.get(name))


def _variables(value: object) -> dict[str, object]:
    found: dict[str, object] = {}
    for item in value if isinstance(value, list) else ():
        name, _, text = str(item).partition("=")
        found[name] = text
    return found


def _shown(path: bytes) -> str:
    return "/" + os.fsdecode(path)

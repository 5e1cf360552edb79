"""``blame``: which layer, step and package a file is from, what it hides, and what an image carries without showing it."""

from __future__ import annotations

import heapq
import os
import stat
from collections.abc import Sequence

import msgspec

from lamella.insight.mergedtree import Fate, MergedTree, Node
from lamella.insight.packages import Package, Packages
from lamella.insight.stack import Mark, Stack, clean, kind_of
from lamella.insight.subject import LayerName, Subject, find_subject, hold_whole_trees, name_layer, open_stack
from lamella.readers.base import StoredLayer, StoreReader


class Version(msgspec.Struct, frozen=True):
    """What one layer does at a path."""

    layer: int
    """The layer's number."""
    does: str
    """``adds``, ``changes``, ``deletes``, ``empties`` (an opaque directory hides all below), ``replaces`` (something
    that is no directory stands where the path needs one), ``merges`` (a directory that adds to the ones below)."""
    at: str
    """The path that does it, the one that was asked for or a directory above."""
    path: str
    """Where it lies on this machine."""
    kind: str
    size: int | None
    mode: str
    owner: str
    """``uid:gid``."""
    target: str
    """Of a symbolic link."""
    hidden_by: int | None
    """The layer that hides it, None if it shows."""
    metadata_only: bool
    """The content is the next lower version's."""


class PathBlame(msgspec.Struct, frozen=True):
    """One path of an image or container."""

    asked: str
    path: str
    """Without links on the way."""
    state: str
    """``present``, ``deleted``, or ``absent``: no layer ever had it."""
    kind: str
    layer: LayerName | None
    """The layer it shows from, or that deleted it."""
    package: Package | None
    versions: tuple[Version, ...]
    """All that layers do at the path, the topmost first."""
    problems: tuple[str, ...] = ()


class LayerBytes(msgspec.Struct, frozen=True):
    """One layer by bytes."""

    layer: LayerName
    size: int
    kept: int
    """Bytes of files that show in the image."""
    overwritten: int
    """Bytes of files that a layer above has again."""
    deleted: int
    """Bytes of files that a layer above deletes."""


class Hidden(msgspec.Struct, frozen=True):
    """One file that is shipped and does not show."""

    path: str
    size: int
    layer: int
    fate: str
    """``overwritten`` or ``deleted``."""
    by: int
    """The layer that hides it."""


class ImageBlame(msgspec.Struct, frozen=True):
    """A whole image or container by bytes."""

    kind: str
    id: str
    name: str
    size: int
    kept: int
    overwritten: int
    deleted: int
    hidden_files: int
    layers: tuple[LayerBytes, ...]
    """Base first."""
    offenders: tuple[Hidden, ...]
    """The largest files that do not show, the largest first."""
    problems: tuple[str, ...]

    @property
    def wasted(self) -> int:
        """Bytes that are shipped and do not show."""
        return self.overwritten + self.deleted


def blame_paths(reader: StoreReader, name: str, paths: Sequence[bytes]) -> list[PathBlame]:
    """Say where each of *paths* is from.  Raises NotFound for the image or a missing layer, InvalidArgument."""
    subject = find_subject(reader, name)
    layers = subject.require_layers()
    with open_stack(layers) as stack:
        packages = Packages(stack)
        return [_blame(subject, layers, stack, packages, path) for path in paths]


def _blame(subject: Subject, layers: list[StoredLayer], stack: Stack, packages: Packages, asked: bytes) -> PathBlame:
    path = stack.resolve(asked)
    marks = stack.marks(path)
    last = marks[-1] if marks else None
    showing = last is not None and last.act == "writes"
    package = None
    if last is not None and not (last.status is not None and stat.S_ISDIR(last.status.st_mode)):
        if showing:
            package = packages.find(path, b"/".join(clean(asked)))
        else:
            # As the image stood before the file was deleted: its package may have gone with it.
            with open_stack_below(stack, last.layer) as before:
                package = Packages(before).find(path)
    versions = [_version(stack, layers, path, marks, index) for index in range(len(marks))]
    state = "present" if showing else ("deleted" if any(mark.act == "writes" for mark in marks) else "absent")
    return PathBlame(
        asked=os.fsdecode(asked),
        path="/" + os.fsdecode(path),
        state=state,
        kind=kind_of(last.status.st_mode) if last is not None and last.status is not None else "",
        layer=None if last is None else name_layer(subject, layers, last.layer),
        package=package,
        versions=tuple(versions[::-1]),
        problems=tuple(packages.problems),
    )


def open_stack_below(stack: Stack, layer: int) -> Stack:
    """Return the view as it was below one layer."""
    return Stack(stack.directories[:layer], whole=stack.whole)


def _version(stack: Stack, layers: Sequence[StoredLayer], path: bytes, marks: Sequence[Mark], index: int) -> Version:
    mark = marks[index]
    status = mark.status
    target = ""
    if status is not None and stat.S_ISLNK(status.st_mode):
        target = os.fsdecode(stack.readlink(mark.layer, path))
    return Version(
        layer=mark.layer + 1,
        does=_does(marks, index),
        at="/" + os.fsdecode(mark.at),
        path=os.path.join(os.fspath(layers[mark.layer].directory), os.fsdecode(mark.at)),
        kind="" if status is None else kind_of(status.st_mode),
        size=None if status is None or stat.S_ISDIR(status.st_mode) else status.st_size,
        mode="" if status is None else stat.filemode(status.st_mode),
        owner="" if status is None else f"{status.st_uid}:{status.st_gid}",
        target=target,
        hidden_by=None if mark.hidden_by is None else mark.hidden_by + 1,
        metadata_only=mark.metacopy,
    )


def _does(marks: Sequence[Mark], index: int) -> str:
    mark = marks[index]
    if mark.act != "writes":
        return mark.act
    below = marks[index - 1] if index else None
    if below is None or below.act != "writes":
        return "adds"
    if below.hidden_by is None:
        return "merges"
    return "empties" if mark.opaque else "changes"


def blame_image(reader: StoreReader, name: str, *, offenders: int = 20) -> ImageBlame:
    """Weigh a whole image or container by bytes, each hard-linked file once.

    Raises NotFound for the image or a missing layer.
    """
    subject = find_subject(reader, name)
    layers = subject.require_layers()
    largest: list[tuple[int, bytes, int, Fate, int]] = []
    sizes: list[dict[str, int]] = [{"overwritten": 0, "deleted": 0, "kept": 0} for _ in layers]
    hidden = 0

    def report(path: bytes, node: Node, fate: Fate, by: int) -> None:
        nonlocal hidden
        hidden += 1
        sizes[node.layer][fate] += node.size
        entry = (node.size, path, node.layer, fate, by)
        if len(largest) < offenders:
            heapq.heappush(largest, entry)
        elif largest and entry > largest[0]:
            heapq.heapreplace(largest, entry)

    tree = MergedTree(sizes=True, whole=hold_whole_trees(layers), report=report)
    for layer in layers:
        tree.add(layer.directory)
    for _, node in tree.files():
        sizes[node.layer]["kept"] += node.size
    rows = tuple(
        LayerBytes(
            name_layer(subject, layers, index), sum(size.values()), size["kept"], size["overwritten"], size["deleted"]
        )
        for index, size in enumerate(sizes)
    )
    return ImageBlame(
        kind=subject.kind,
        id=subject.id,
        name=subject.name,
        size=sum(row.size for row in rows),
        kept=sum(row.kept for row in rows),
        overwritten=sum(row.overwritten for row in rows),
        deleted=sum(row.deleted for row in rows),
        hidden_files=hidden,
        layers=rows,
        offenders=tuple(
            Hidden("/" + os.fsdecode(path), size, layer + 1, fate, by + 1)
            for size, path, layer, fate, by in sorted(largest, reverse=True)
            if size
        ),
        problems=tuple(tree.problems),
    )

"""Images and containers as stacks side by side: which columns there are, and which boxes are one.

A column is an image or a container, its layers from the base up.  Columns whose stacks begin alike stand beside each
other, and what they have in common is one box that spans them, so that a shared layer is drawn once.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Literal, NamedTuple

Kind = Literal["layer", "missing", "image", "init", "writable", "container", "loose"]
_HEIGHTS: Final[Mapping[str, int]] = {"image": 46, "container": 46, "loose": 28, "init": 22, "missing": 46}
_LOWEST: Final = 26
_PER_DOUBLING: Final = 5
_UNIT: Final = 64 << 10


class Block(NamedTuple):
    """One thing in a stack, before it is known how far it spans."""

    kind: Kind
    id: str
    """Of the layer, image or container."""
    size: int | None = None


class Stack(NamedTuple):
    """One column to be: its blocks from the base up, and what it is sorted by."""

    label: str
    blocks: Sequence[Block]


class Box(NamedTuple):
    """A block in its place; lengths are in points, from the left and from the ground."""

    kind: Kind
    id: str
    size: int | None
    column: int
    """The leftmost column that has it."""
    span: int
    bottom: int
    height: int
    below: int | None
    """The box that it stands on."""


class Layout(NamedTuple):
    """All boxes, those of a column before those of the next, and for each column its boxes from the base up."""

    boxes: Sequence[Box]
    columns: Sequence[Sequence[int]]
    height: int


def lay_out(stacks: Iterable[Stack]) -> Layout:
    """Put stacks side by side and join what they share: two columns share a block if all below it is shared as well.

    Groups stand in the order of the label that comes first in each.
    """
    parents: list[int | None] = []
    blocks: list[Block] = []
    labels: list[str] = []
    nodes: dict[tuple[int | None, Kind, str], int] = {}
    paths: list[list[int]] = []
    for stack in stacks:
        path: list[int] = []
        below: int | None = None
        for block in stack.blocks:
            node = nodes.setdefault((below, block.kind, block.id), len(blocks))
            if node == len(blocks):
                parents.append(below)
                blocks.append(block)
                labels.append(stack.label)
            elif stack.label < labels[node]:
                labels[node] = stack.label
            path.append(node)
            below = node
        if path:
            paths.append(path)
    paths.sort(key=lambda path: [(labels[node], node) for node in path])

    spans: dict[int, int] = {}
    order: dict[int, int] = {}
    first: list[int] = []
    for column, path in enumerate(paths):
        for node in path:
            spans[node] = spans.get(node, 0) + 1
            if node not in order:
                order[node] = len(order)
                first.append(column)
    boxes: list[Box] = []
    for node, column in zip(order, first, strict=True):
        parent = parents[node]
        below = None if parent is None else order[parent]
        bottom = 0 if below is None else boxes[below].bottom + boxes[below].height
        block = blocks[node]
        boxes.append(Box(block.kind, block.id, block.size, column, spans[node], bottom, height_of(block), below))
    columns = [[order[node] for node in path] for path in paths]
    return Layout(boxes, columns, max((box.bottom + box.height for box in boxes), default=0))


def height_of(block: Block) -> int:
    """Return how tall a block is drawn: layers grow with the logarithm of their size."""
    fixed = _HEIGHTS.get(block.kind)
    if fixed is not None:
        return fixed
    if not block.size or block.size <= _UNIT:
        return _LOWEST
    return _LOWEST + round(_PER_DOUBLING * math.log2(block.size / _UNIT))


def window(layout: Layout, start: int, end: int) -> list[int]:
    """Return the boxes that stand in the columns from *start* up to but without *end*."""
    found: dict[int, None] = {}
    for path in layout.columns[max(0, start) : max(0, end)]:
        found.update(dict.fromkeys(path))
    return list(found)

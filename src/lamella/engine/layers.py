"""One layer as the library shows it: which step made it, what it is called, where it lies."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from lamella.engine.views.image import HistoryStep
from lamella.model.digest import ChainID, DiffID
from lamella.model.ids import CacheID


class Layer(NamedTuple):
    """One layer of an image or a container, read-only to you: its directory must never be written to.

    An image's layers have a diff ID and a chain ID; a container's two own ones, ``init`` and ``writable``, have not:
    they are no one's content yet.
    """

    kind: str
    """``image``, ``init`` or ``writable``."""
    diff_id: DiffID | None
    """The digest of the layer's uncompressed tar."""
    chain_id: ChainID | None
    """The name of the layer with all below it."""
    cache_id: CacheID
    """The name of its directory under the storage driver."""
    size: int
    """Bytes of its own files."""
    directory: Path
    """Where its files are."""
    step: HistoryStep | None
    """The history entry that made it, if the image tells."""


def steps_of_layers(history: Sequence[HistoryStep], count: int) -> list[HistoryStep | None]:
    """Return for each of *count* layers, base first, the step that made it; *history* is newest first."""
    made = [step for step in reversed(history) if not step.empty]
    return [*made[:count], *([None] * (count - len(made)))]

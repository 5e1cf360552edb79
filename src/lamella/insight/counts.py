"""How many files each layer of a stack adds, changes and deletes: counted once for each layer, as layers never change.

What was counted is kept in ``<root>/lamella/counts``, one file for all layers, if the data root is one that lamella
writes to; on any other store nothing is written.  A file that cannot be read counts as empty.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import msgspec

from lamella.errors import DataLoss, NotFound
from lamella.fs.atomic import write_file
from lamella.insight.mergedtree import Counts, MergedTree, TooMany, directories_of
from lamella.insight.subject import hold_whole_trees
from lamella.readers.base import StoredLayer, StoreReader
from lamella.store.smallfiles import find_small, is_directory

LIMIT = 400_000
"""Names that one call looks at before it leaves the rest uncounted: about half a second."""
_FILE_LIMIT = 64 << 20
_Kept = dict[str, tuple[str, int, int, int, int]]


class Counted(NamedTuple):
    """The counts of each layer, base first; None where a directory is missing or the limit was reached."""

    counts: tuple[Counts | None, ...]
    complete: bool
    """False if the limit was reached."""
    problems: tuple[str, ...]


def count_layers(reader: StoreReader, layers: Sequence[StoredLayer | None], *, limit: int | None = LIMIT) -> Counted:
    """Count each layer of one stack, base first, against those below it; None stands for a layer that is missing.

    A missing layer counts as empty.  *limit* bounds the names looked at, None does not.
    """
    place = _place(reader)
    kept = _load(place)
    found = [_recall(kept, layer) for layer in layers]
    missing = [index for index, layer in enumerate(layers) if layer is not None and found[index] is None]
    if not missing:
        return Counted(tuple(found), True, ())
    whole = hold_whole_trees(layers)
    within = None
    if len(missing) < len(layers) and not whole:
        within = {path for index in missing for path in _directories(layers[index])}
    tree = MergedTree(whole=whole, within=within, limit=limit)
    complete = True
    for index, layer in enumerate(layers[: missing[-1] + 1]):
        try:
            counts = None if layer is None else tree.add(layer.directory)
        except NotFound as error:
            tree.problems.append(str(error))
            continue
        except TooMany:
            complete = False
            break
        if index in missing:
            found[index] = counts
    new: _Kept = {
        str(layer.chain_id): (layer.directory_id, counts.added, counts.changed, counts.deleted, counts.directories)
        for index in missing
        if (layer := layers[index]) is not None
        and (counts := found[index]) is not None
        and layer.role == "image"
        and layer.chain_id is not None
    }
    if place is not None and new and not tree.problems and all(layer is not None for layer in layers):
        _keep(place, reader, kept, new)
    return Counted(tuple(found), complete, tuple(tree.problems))


def _recall(kept: Mapping[str, tuple[str, int, int, int, int]], layer: StoredLayer | None) -> Counts | None:
    if layer is None or layer.role != "image" or layer.chain_id is None:
        return None
    entry = kept.get(layer.chain_id)
    return Counts(*entry[1:]) if entry is not None and entry[0] == layer.directory_id else None


def _directories(layer: StoredLayer | None) -> set[bytes]:
    with suppress(OSError):
        if layer is not None:
            return directories_of(layer.directory)
    return set()


def _place(reader: StoreReader) -> Path | None:
    """Return the file that keeps the counts, if the store is one of lamella's that we may write to."""
    directory = reader.root / "lamella"
    if reader.kind != "docker" or not is_directory(directory) or not os.access(directory, os.W_OK):
        return None
    return directory / "counts" if os.lstat(directory).st_uid == os.geteuid() else None


def _load(place: Path | None) -> _Kept:
    if place is None:
        return {}
    try:
        raw = find_small(place, _FILE_LIMIT)
        return {} if not raw else msgspec.json.decode(raw, type=_Kept)
    except (DataLoss, msgspec.DecodeError, OSError):
        return {}


def _keep(place: Path, reader: StoreReader, kept: _Kept, new: _Kept) -> None:
    """Write the counts, those of layers that are gone left out; a failure costs the next one a count."""
    records = reader.root / "image" / reader.driver / "layerdb" / "sha256"
    with suppress(OSError):
        present = set(os.listdir(records))
        entries = {chain: entry for chain, entry in (kept | new).items() if chain.rpartition(":")[2] in present}
        write_file(place, msgspec.json.encode(entries), mode=0o600, sync=False)

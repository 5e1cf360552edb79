"""The names in a layer's tar, read from its tar-split alone: no file of the layer is opened."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from lamella.changeset.entry import Kind
from lamella.changeset.tario import open_tar
from lamella.changeset.tarsplit import iter_records

_ZEROS: Final = bytes(1 << 20)


def iter_member_paths(tar_split: Path) -> Iterator[bytes]:
    """Yield the cleaned path of every member, whiteouts included, in the order of the tar.

    Raises DataLoss for a damaged record.
    """
    pieces = _pieces(tar_split)
    # The reader needs headers; where a file's content stood it may find anything of the same length.
    reader = open_tar(lambda: next(pieces, b""))
    while (entry := reader.next_entry()) is not None:
        reader.take_raw()
        if entry.kind is not Kind.GLOBAL:
            yield entry.path


def _pieces(tar_split: Path) -> Iterator[bytes]:
    for payload, name, size in iter_records(tar_split):
        if name is None:
            if payload:
                yield payload
            continue
        left = size
        while left:
            piece = _ZEROS[:left] if left < len(_ZEROS) else _ZEROS
            left -= len(piece)
            yield piece

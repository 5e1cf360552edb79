"""The names in a layer, from its tar-split alone."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest

from lamella.changeset.apply import Style, apply_layer
from lamella.changeset.changes import Change, ChangeKind, iter_changes
from lamella.changeset.entry import Entry, Kind
from lamella.changeset.membernames import iter_member_paths
from lamella.changeset.tario import TarWriter
from lamella.errors import DataLoss


def record_of(place: Path, entries: list[tuple[Entry, bytes]]) -> Path:
    """Apply a layer of these members and return its tar-split."""
    tar = io.BytesIO()
    writer = TarWriter(tar.write)
    for entry, data in entries:
        writer.add(entry, iter([data]) if data else None)
    writer.finish()
    tar.seek(0)
    (place / "layer").mkdir()
    with (place / "record").open("wb") as record:
        apply_layer(tar, place / "layer", tar_split=record, style=Style.OVERLAY)
    return place / "record"


def test_every_member_is_named_in_order_without_a_look_at_the_files(tmp_path: Path) -> None:
    long = b"d/" + b"n" * 200
    record = record_of(
        tmp_path,
        [
            (Entry(b"d/", Kind.DIRECTORY, mode=0o755), b""),
            (Entry(b"./d/big", Kind.REGULAR, size=3 << 20), b"x" * (3 << 20)),
            (Entry(long, Kind.REGULAR, size=1), b"1"),
            (Entry(b"d/link", Kind.SYMLINK, link=b"big"), b""),
            (Entry(b"d/hard", Kind.HARD_LINK, link=b"d/big"), b""),
            (Entry(b"d/\xff", Kind.REGULAR, size=513), b"y" * 513),
            (Entry(b"d/.wh.gone", Kind.REGULAR), b""),
        ],
    )
    (tmp_path / "layer/d/big").unlink()
    assert list(iter_member_paths(record)) == [b"d", b"d/big", long, b"d/link", b"d/hard", b"d/\xff", b"d/.wh.gone"]


def test_a_damaged_record_is_said_to_be(tmp_path: Path) -> None:
    (tmp_path / "record").write_bytes(b'{"type":7}\n')
    with pytest.raises(DataLoss, match="unknown record type"):
        list(iter_member_paths(tmp_path / "record"))


def test_what_was_touched_counts_as_changed_though_its_status_is_the_same(tmp_path: Path) -> None:

    for tree, text in (("lower", "old"), ("upper", "new")):
        (tmp_path / tree / "d").mkdir(parents=True)
        (tmp_path / tree / "d/file").write_text(text)
        os.utime(tmp_path / tree / "d/file", (1, 1))
    lower, upper = tmp_path / "lower", tmp_path / "upper"
    assert list(iter_changes(lower, upper)) == []
    told = list(iter_changes(lower, upper, touched={b"d/file", b"d/nowhere"}))
    assert told == [Change(ChangeKind.CHANGED, b"d"), Change(ChangeKind.CHANGED, b"d/file")]

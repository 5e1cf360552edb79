"""tar-split: layers made again bit for bit, or an error that says what is wrong."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
from pathlib import Path
from typing import Any

import pytest

from lamella.changeset.apply import apply_layer
from lamella.changeset.tarsplit import TarSplit, reassemble
from lamella.errors import DataLoss, DigestMismatch
from lamella.model.digest import DiffID, Digest
from tests.corpus.craft import END, directory, file, hard, pax, symlink

LAYER = b"".join(
    (
        directory(b"d/"),
        file(b"d/n", b"new\n"),
        symlink(b"d/s", b"n"),
        hard(b"d/h", b"d/n"),
        file(b"d/empty"),
        pax({b"path": b"d/\xff"}) + file(b"x", b"raw name"),
        file(b'd/"quoted"\\', b"escapes"),
        file("d/ü\u2028<>&".encode(), b"unicode"),
        END,
    )
)


class Applied:
    """The layer above, applied, with its record."""

    def __init__(self, place: Path, archive: bytes = LAYER) -> None:
        self.layer = place / "layer"
        self.record = place / "record.json.gz"
        self.layer.mkdir()
        with self.record.open("wb") as tar_split:
            self.result = apply_layer(io.BytesIO(archive), self.layer, tar_split=tar_split)

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in gzip.decompress(self.record.read_bytes()).splitlines()]

    def rebuilt(self) -> bytes:
        out = io.BytesIO()
        reassemble(self.record, self.layer, out.write, expected=self.result.diff_id)
        return out.getvalue()


@pytest.fixture
def applied(tmp_path: Path) -> Applied:
    return Applied(tmp_path)


def test_the_record_is_dockers(applied: Applied) -> None:
    lines = applied.lines()
    assert [line["position"] for line in lines] == list(range(len(lines)))
    assert [line["type"] for line in lines] == [2, 1] * 8 + [2]
    assert list(lines[3]) == ["type", "name", "size", "payload", "position"]
    # The checksum that Docker records for this content.
    assert lines[3] | {"position": 0} == {
        "type": 1,
        "name": "d/n",
        "size": 4,
        "payload": "YVqy3bAAAAA=",
        "position": 0,
    }
    assert lines[1] == {"type": 1, "name": "d/", "payload": None, "position": 1}
    assert base64.b64decode(lines[11]["name_raw"]) == b"d/\xff"
    assert [line.get("name") for line in lines[13:17:2]] == ['d/"quoted"\\', "d/ü\u2028<>&"]
    assert base64.b64decode(lines[0]["payload"]) == directory(b"d/")


def test_the_layer_is_made_again(applied: Applied) -> None:
    assert applied.rebuilt() == LAYER


@pytest.mark.parametrize("damage", ["content", "shorter", "longer", "gone", "directory", "fifo", "link-away"])
def test_a_file_that_is_no_longer_right_is_named(applied: Applied, damage: str) -> None:
    path = applied.layer / "d" / "n"
    match damage:
        case "content":
            path.write_bytes(b"old\n")
        case "shorter":
            path.write_bytes(b"new")
        case "longer":
            path.write_bytes(b"new\n\n")
        case _:
            path.unlink()
    if damage == "directory":
        path.mkdir()
    if damage == "fifo":
        import os

        os.mkfifo(path)
    if damage == "link-away":
        (applied.layer.parent / "outside").write_bytes(b"new\n")
        path.symlink_to(applied.layer.parent / "outside")
    with pytest.raises(DataLoss, match="'d/n'"):
        applied.rebuilt()


def test_links_inside_the_layer_are_followed_within_it(tmp_path: Path) -> None:
    made = Applied(tmp_path, directory(b"t/") + symlink(b"s", b"/t") + file(b"s/f", b"through") + END)
    assert (made.layer / "t" / "f").read_bytes() == b"through"
    assert made.rebuilt().endswith(END)


def test_another_digest_is_told(applied: Applied) -> None:
    wrong = DiffID(Digest("sha256:" + "0" * 64))
    with pytest.raises(DigestMismatch):
        reassemble(applied.record, applied.layer, lambda _: None, expected=wrong)


def test_a_damaged_record_is_told(applied: Applied) -> None:
    whole = applied.record.read_bytes()
    for damaged in (
        whole[: len(whole) // 2],
        gzip.compress(b"not json\n"),
        gzip.compress(b'{"type":9,"position":0}\n'),
        gzip.compress(b'{"type":2,"payload":"%%%","position":0}\n'),
        gzip.compress(b"[" * 100_000),
    ):
        applied.record.write_bytes(damaged)
        with pytest.raises(DataLoss):
            applied.rebuilt()


def test_records_of_others_are_read(tmp_path: Path) -> None:
    """Other segmentation, an empty last segment, no newline at the end: as Docker 20.10 may leave it."""
    (tmp_path / "f").write_bytes(b"new\n")
    archive = file(b"f", b"new\n") + END
    records = [
        {"type": 2, "payload": base64.b64encode(archive[:100]).decode(), "position": 0},
        {"type": 2, "payload": base64.b64encode(archive[100:512]).decode(), "position": 1},
        {"type": 1, "name": "./f", "size": 4, "payload": "YVqy3bAAAAA=", "position": 2},
        {"type": 2, "payload": base64.b64encode(archive[516:]).decode(), "position": 3},
        {"type": 2, "payload": "", "position": 4},
    ]
    record = tmp_path / "record"
    record.write_bytes(gzip.compress("\n".join(map(json.dumps, records)).encode()))
    out = io.BytesIO()
    expected = DiffID(Digest("sha256:" + hashlib.sha256(archive).hexdigest()))
    assert reassemble(record, tmp_path, out.write, expected=expected) == expected
    assert out.getvalue() == archive


def test_large_segments_are_split() -> None:
    sink = io.BytesIO()
    record = TarSplit(sink)
    record.segment(bytes(5 << 19))
    record.finish()
    lines = gzip.decompress(sink.getvalue()).splitlines()
    assert [len(base64.b64decode(json.loads(line)["payload"])) for line in lines] == [1 << 20, 1 << 20, 1 << 19]


@pytest.mark.parametrize(
    ("content", "checksum"),
    [
        (b"\0", "6F90000000000000"),
        (b"a", "3420000000000000"),
        (b"123456789", "B90956C775A41001"),
        (bytes(1000), "3FDF09CF356ACF35"),
    ],
)
def test_checksums_are_go_iso(tmp_path: Path, content: bytes, checksum: str) -> None:
    made = Applied(tmp_path, file(b"f", content) + END)
    assert base64.b64decode(made.lines()[1]["payload"]).hex().upper() == checksum

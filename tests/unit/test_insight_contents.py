"""A layer's files against its tar-split, and the codes that findings have."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest

from lamella.changeset.apply import apply_layer
from lamella.changeset.diff import capture_layer
from lamella.errors import DataLoss, Unavailable
from lamella.insight.contents import SHOWN, Task, check_contents
from lamella.insight.expectation import read_expectation
from lamella.insight.findings import CODES
from lamella.linux.workers import forked_map
from tests.corpus.craft import END, directory, file, hard, header, pax, symlink


def applied(place: Path, *members: bytes) -> Task:
    files, record = place / "files", place / "record"
    files.mkdir()
    with record.open("wb") as sink:
        made = apply_layer(io.BytesIO(b"".join(members) + END), files, tar_split=sink)
    return Task("layer", files, record, made.size, made.diff_id, deep=True)


LAYER = (
    directory(b"d/", uid=3),
    file(b"d/a", b"text", mode=0o4755),
    symlink(b"s", b"d/a"),
    hard(b"h", b"d/a"),
    pax({b"path": b"long/" + b"n" * 200}) + file(b"x", b"long"),
    file(b"d/.wh.gone"),
    file(b"d/.wh..wh..opq"),
    header(b"pipe", b"6"),
)


def test_a_layer_just_applied_is_what_its_record_says(tmp_path: Path) -> None:
    assert check_contents(applied(tmp_path, *LAYER)) == []


def test_a_layer_captured_from_a_directory_is_what_its_record_says(tmp_path: Path) -> None:
    files = tmp_path / "files"
    (files / "d").mkdir(parents=True)
    (files / "d/a").write_text("text")
    os.link(files / "d/a", files / "d/b")
    os.symlink("nowhere", files / "s")
    with (tmp_path / "record").open("wb") as sink:
        captured = capture_layer(files, sink)
    assert check_contents(Task("layer", files, tmp_path / "record", captured.size, captured.diff_id, deep=True)) == []


def test_records_of_docker_s_shape_and_of_any_other_tell_the_same(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "other").mkdir()
    usual = read_expectation(applied(tmp_path / "one", *LAYER).tar_split)
    # A name given twice makes the record one that is read as a tar.
    odd = read_expectation(applied(tmp_path / "other", *LAYER, header(b"pipe", b"6")).tar_split)
    assert not usual.irregular
    assert odd.irregular
    assert {name: tuple(item) for name, item in usual.names.items()} == {
        name: tuple(item) for name, item in odd.names.items()
    }
    assert usual.opaque == odd.opaque == {"d"}


@pytest.mark.parametrize("raw", [b"", b"\0" * 100, b"{}", b'{"type":3}\n', b"\x1f\x8b\x08\x00cut"])
def test_a_record_that_is_none_is_damage(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "record").write_bytes(raw)
    with pytest.raises(DataLoss):
        read_expectation(tmp_path / "record")


def test_many_damaged_files_are_counted_rather_than_listed(tmp_path: Path) -> None:
    task = applied(tmp_path, *(file(b"f%d" % number, b"x") for number in range(100)))
    for path in task.files.iterdir():
        path.unlink()
    found = check_contents(task)
    assert len(found) == SHOWN + 1
    assert found[-1][2] == "90 more files of the layer are like that"


def test_forked_children_share_out_the_work_and_give_it_back() -> None:
    assert dict(forked_map(lambda number: number * 2, range(20_000), 3)) == {n: 2 * n for n in range(20_000)}


def test_a_child_that_fails_is_told_of() -> None:
    def fail(number: int) -> int:
        if number == 7:
            raise ValueError("seven")
        return number

    with pytest.raises(Unavailable, match="seven"):
        list(forked_map(fail, range(10), 2))


def test_every_code_is_documented() -> None:
    text = (Path(__file__).parents[2] / "docs/fsck.md").read_text()
    for code, kind in CODES.items():
        assert f"| `{code}` | {kind.severity} | {kind.meaning} | {kind.remedy or '—'} |" in text

"""Writing that leaves the old or the new."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from lamella.fs.atomic import write_file, writing_file


@pytest.mark.parametrize("sync", [True, False])
def test_a_file_is_written_whole_with_its_mode_and_nothing_beside_it(tmp_path: Path, sync: bool) -> None:
    path = tmp_path / "name"
    old = os.umask(0o077)
    try:
        write_file(path, b"data", mode=0o644, sync=sync)
    finally:
        os.umask(old)
    assert path.read_bytes() == b"data"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    write_file(path, b"", sync=sync)
    assert path.read_bytes() == b""
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["name"]


def test_a_link_of_that_name_is_replaced_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("kept")
    (tmp_path / "name").symlink_to("victim")
    write_file(tmp_path / "name", b"new")
    assert not (tmp_path / "name").is_symlink()
    assert (tmp_path / "victim").read_text() == "kept"


def test_a_failed_write_leaves_the_old_file_and_no_draft(tmp_path: Path) -> None:
    (tmp_path / "name").mkdir()
    with pytest.raises(IsADirectoryError):
        write_file(tmp_path / "name", b"x")
    assert os.listdir(tmp_path) == ["name"]
    with pytest.raises(FileNotFoundError):
        write_file(tmp_path / "missing" / "name", b"x")


def test_a_stream_becomes_the_file_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with writing_file(path, mode=0o640) as stream:
        stream.write(b"new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert path.stat().st_mode & 0o777 == 0o640
    with pytest.raises(TypeError), writing_file(path) as stream:
        stream.writelines([b"half", "no bytes"])  # type: ignore[list-item]
    assert path.read_text() == "new"
    assert [found.name for found in tmp_path.iterdir()] == ["file"]


def test_a_stream_to_a_pipe_goes_into_the_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    with writing_file(tmp_path / "pipe") as stream:
        stream.write(b"through")
    assert os.read(reader, 100) == b"through"
    os.close(reader)

"""Writing that leaves the old or the new."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from lamella.fs.atomic import fsync_tree, new_directory, sync_filesystem, write_file


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


def test_a_directory_appears_with_its_content_or_not_at_all(tmp_path: Path) -> None:
    staging, final = tmp_path / "tmp", tmp_path / "final"
    staging.mkdir()
    with new_directory(final, staging=staging, mode=0o710, prefix="write-set-") as draft:
        assert draft.parent == staging
        assert draft.name.removeprefix("write-set-").isdigit()
        write_file(draft / "a", b"1", sync=False)
        assert not final.exists()
    assert (final / "a").read_bytes() == b"1"
    assert stat.S_IMODE(final.stat().st_mode) == 0o710
    assert not os.listdir(staging)


def test_a_directory_whose_making_failed_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> None:
        with new_directory(tmp_path / "final", staging=tmp_path) as draft:
            (draft / "sub").mkdir()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert not os.listdir(tmp_path)


def test_the_loser_of_a_race_for_a_directory_is_told(tmp_path: Path) -> None:
    final, staging = tmp_path / "final", tmp_path / "tmp"
    staging.mkdir()

    def lose() -> None:
        with new_directory(final, staging=staging) as draft:
            (draft / "loser").touch()
            final.mkdir()  # empty: rename(2) would replace it

    with pytest.raises(FileExistsError):
        lose()
    assert not os.listdir(final)
    assert not os.listdir(staging)


def test_trees_and_file_systems_are_synced_whatever_is_in_them(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "f").touch()
    (tmp_path / "dangling").symlink_to("nowhere")
    os.mkfifo(tmp_path / "fifo")
    fsync_tree(tmp_path)
    sync_filesystem(tmp_path)

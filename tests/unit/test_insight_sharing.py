"""Hard links between two trees: only for files that are the same in all that a layer can say."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from lamella.insight.sharing import share_files
from tests.support.trees import flatten


def make(place: Path) -> Path:
    (place / "d").mkdir(parents=True)
    (place / "d/file").write_bytes(b"x" * 50000)
    (place / "small").write_bytes(b"y")
    (place / "empty").touch()
    (place / "link").symlink_to("/etc/hostname")
    for name in ("d/file", "small", "empty", "d", "."):
        os.utime(place / name, (1, 1))
    return place


def test_equal_files_become_one_and_nothing_else_changes(tmp_path: Path) -> None:
    source, target = make(tmp_path / "source"), make(tmp_path / "target")
    assert share_files(source, target, hard_link=True) == 50001
    assert (target / "d/file").samefile(source / "d/file")
    assert (target / "small").samefile(source / "small")
    assert (target / "d").stat().st_mtime == (target).stat().st_mtime == 1
    assert sorted(os.listdir(target / "d")) == ["file"]


@pytest.mark.parametrize(
    "change", ["content", "mode", "owner", "time", "xattr", "size", "kind", "gone", "directory is a link"]
)
def test_a_file_that_differs_in_anything_stays_apart(tmp_path: Path, change: str) -> None:
    source, target = make(tmp_path / "source"), make(tmp_path / "target")
    file = source / "d/file"
    if change == "content":
        file.write_bytes(b"x" * 49999 + b"z")
    elif change == "size":
        file.write_bytes(b"x" * 49999)
    elif change == "mode":
        file.chmod(0o600)
    elif change == "owner":
        os.chown(file, 7, 7)
    elif change == "xattr":
        os.setxattr(file, "user.note", b"1")
    elif change == "time":
        os.utime(file, (1, 2))
    elif change == "directory is a link":
        (source / "d").rename(tmp_path / "elsewhere")
        (source / "d").symlink_to(tmp_path / "elsewhere")
        file = tmp_path / "elsewhere/file"
    else:
        file.unlink()
        if change == "kind":
            os.mkfifo(file)
    if change in ("content", "size"):
        os.utime(file, (1, 1))
    before = flatten(target / "d")
    assert share_files(source, target, hard_link=True) == 1
    assert flatten(target / "d") == before
    assert (target / "d/file").stat().st_nlink == 1


def test_trees_that_cannot_share_are_left_as_they_are(tmp_path: Path) -> None:
    source, target = make(tmp_path / "source"), make(tmp_path / "target")
    assert share_files(tmp_path / "missing", target, hard_link=True) == 0
    other = tmp_path / "other"
    other.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", other], check=True)
    try:
        before = flatten(make(other / "tree"))
        assert share_files(source, other / "tree", hard_link=True) == 0
        assert share_files(source, other / "tree", hard_link=False) == 0
        assert flatten(other / "tree") == before
    finally:
        subprocess.run(["umount", other], check=True)
    # Whether this file system shares blocks or not, what is in the files stays.
    before = flatten(target)
    share_files(source, target, hard_link=False)
    assert flatten(target) == before

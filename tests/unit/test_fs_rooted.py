"""A directory under which every path stays."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from lamella.errors import InvalidArgument
from lamella.fs.rooted import Root


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    path = tmp_path / "outside"
    path.mkdir()
    (path / "secret").write_text("outside")
    return path


@pytest.fixture
def root(tmp_path: Path, outside: Path) -> Iterator[Root]:
    path = tmp_path / "root"
    (path / "run").mkdir(parents=True)
    (path / "run" / "f").write_text("inside")
    (path / "var").mkdir()
    (path / "var" / "run").symlink_to("/run")
    (path / "escape").symlink_to(outside)
    (path / "up").symlink_to("../outside")
    (path / "loop").symlink_to("loop")
    with Root(path) as opened:
        yield opened


def test_absolute_links_mean_the_root(root: Root) -> None:
    assert root.read_file(b"var/run/f", 100) == b"inside"
    assert root.read_file(b"/var/run/../run/f", 100) == b"inside"
    assert root.readlink(b"var/run") == b"/run"
    assert stat.S_ISLNK(root.lstat(b"var/run").st_mode)
    assert stat.S_ISDIR(root.stat(b"var/run").st_mode)


@pytest.mark.parametrize("path", [b"escape/secret", b"up/secret", b"../outside/secret", b"/../outside/secret"])
def test_nothing_outside_can_be_read(root: Root, path: bytes) -> None:
    with pytest.raises(FileNotFoundError):
        root.read_file(path, 100)


def test_the_parent_of_a_path_is_confined_and_its_last_name_not_followed(root: Root) -> None:
    fd, name = root.open_parent(b"/var/run/")
    try:
        assert name == b"run"
        assert stat.S_ISLNK(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode)
    finally:
        os.close(fd)
    for path in (b"", b"/", b".", b"var/..", b"//"):
        with pytest.raises(InvalidArgument):
            root.open_parent(path)


def test_directories_are_made_through_links_even_dangling_ones(root: Root, tmp_path: Path) -> None:
    (tmp_path / "root" / "dangling").symlink_to("/new/place")
    assert root.make_directories(b"dangling/deep", 0o750, 7, 8) == b"new/place/deep"
    for path in (b"new", b"new/place", b"new/place/deep"):
        status = root.lstat(path)
        assert (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid) == (0o750, 7, 8)
    assert root.make_directories(b"var/run/../x", 0o700) == b"x"
    assert root.make_directories(b"/", 0o700) == b""


def test_directories_made_through_links_stay_inside(root: Root, outside: Path, tmp_path: Path) -> None:
    root.make_directories(b"escape/made")
    root.make_directories(b"up/../../../made-too")
    assert os.listdir(outside) == ["secret"]
    assert (tmp_path / "root" / str(outside)[1:] / "made").is_dir()
    assert not (tmp_path / "made-too").exists()


def test_existing_directories_keep_owner_and_mode_and_files_are_in_the_way(root: Root) -> None:
    before = root.stat(b"run")
    root.make_directories(b"run/new", 0o700, 5, 5)
    after = root.stat(b"run")
    assert (after.st_mode, after.st_uid) == (before.st_mode, before.st_uid)
    with pytest.raises(NotADirectoryError):
        root.make_directories(b"run/f/x")
    with pytest.raises(OSError, match="symbolic links") as caught:
        root.make_directories(b"loop/x")
    assert caught.value.errno == errno.ELOOP


def test_files_are_read_up_to_a_limit_and_only_regular_ones(root: Root, tmp_path: Path) -> None:
    assert root.read_file(b"run/f", 6) == b"inside"
    with pytest.raises(InvalidArgument, match="larger than 5 bytes"):
        root.read_file(b"run/f", 5)
    os.mkfifo(tmp_path / "root" / "fifo")
    for path in (b"fifo", b"run"):
        with pytest.raises(InvalidArgument, match="not a regular file"):
            root.read_file(path, 5)
    with pytest.raises(OSError, match="Invalid argument"):
        root.readlink(b"run")


def test_a_root_that_is_a_link_is_refused_unless_wanted(tmp_path: Path, outside: Path) -> None:
    (tmp_path / "link").symlink_to(outside)
    with pytest.raises(NotADirectoryError):
        Root(tmp_path / "link")
    with Root(tmp_path / "link", follow=True) as root:
        assert root.read_file(b"secret", 10) == b"outside"
        with Root(root.fd) as second:
            second.close()
        assert root.lstat(b"secret").st_size == 7

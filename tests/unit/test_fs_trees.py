"""Walking, measuring, copying and removing trees."""

from __future__ import annotations

import errno
import os
import resource
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lamella.fs.tree import copy_tree, remove_tree
from lamella.fs.usage import layer_size
from lamella.fs.walk import walk
from lamella.linux.mount import Mount, mounted

DEPTH = 1600


@contextmanager
def opened(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def few_descriptors(spare: int) -> Iterator[None]:
    """Allow the process only so many descriptors beyond those it has."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(map(int, os.listdir("/proc/self/fd")))
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + spare, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def make_deep(top: Path, name: str, depth: int) -> None:
    """Nest *depth* directories, the last with two names of one file."""
    top.mkdir()
    fd = os.open(top, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir(name, dir_fd=fd)
        deeper = os.open(name, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = deeper
    os.close(os.open("a", os.O_CREAT | os.O_WRONLY, 0o640, dir_fd=fd))
    os.link("a", "b", src_dir_fd=fd, dst_dir_fd=fd)
    os.close(fd)


def flatten(top: Path) -> dict[bytes, tuple[object, ...]]:
    """Describe everything in *top* but inode numbers."""
    found: dict[bytes, tuple[object, ...]] = {}
    first: dict[int, bytes] = {}
    with opened(top) as fd:
        for entry in walk(fd):
            status = entry.stat
            place = f"/proc/self/fd/{entry.dir_fd}/{os.fsdecode(entry.name)}"
            content: object = None
            if stat.S_ISREG(status.st_mode):
                content = Path(place).read_bytes()
            elif stat.S_ISLNK(status.st_mode):
                content = os.readlink(place)
            xattrs = {
                key: os.getxattr(place, key, follow_symlinks=False)
                for key in os.listxattr(place, follow_symlinks=False)
            }
            linked = None if stat.S_ISDIR(status.st_mode) else first.setdefault(status.st_ino, entry.path)
            found[entry.path] = (
                status.st_mode,
                status.st_uid,
                status.st_gid,
                status.st_mtime_ns,
                status.st_rdev,
                content,
                xattrs,
                linked,
            )
    return found


def test_a_walk_is_in_byte_order_with_directories_before_their_content(tmp_path: Path) -> None:
    for name in (b"b", b"b/z", b"b/a", b"B", b"b-", b"\xff", "é".encode()):
        os.mkdir(os.fsencode(tmp_path) + b"/" + name)
    with opened(tmp_path) as fd:
        names = [entry.path for entry in walk(fd)]
        assert names == [b"B", b"b", b"b/a", b"b/z", b"b-", "é".encode(), b"\xff"]
        assert [entry.path for entry in walk(fd)] == names


def test_a_walk_gives_a_descriptor_that_reaches_the_name_and_follows_no_link(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "f").write_text("x")
    (tmp_path / "link").symlink_to("d")
    with opened(tmp_path) as fd:
        for entry in walk(fd):
            again = os.stat(entry.name, dir_fd=entry.dir_fd, follow_symlinks=False)
            assert os.path.samestat(again, entry.stat)
        assert [entry.path for entry in walk(fd)] == [b"d", b"d/f", b"link"]


def test_a_walk_can_be_pruned_and_kept_on_one_file_system(tmp_path: Path) -> None:
    for name in ("a", "b", "m"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "f").touch()
    with opened(tmp_path) as fd, mounted(Mount("tmpfs", "tmpfs"), tmp_path / "m"):
        (tmp_path / "m" / "inside").touch()
        pruned = [entry.path for entry in walk(fd, prune=lambda entry: entry.name == b"a", cross_mounts=False)]
        assert pruned == [b"a", b"b", b"b/f", b"m"]
        assert [entry.path for entry in walk(fd)] == [b"a", b"a/f", b"b", b"b/f", b"m", b"m/inside"]


def test_a_directory_replaced_by_a_link_while_walking_is_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").touch()
    top = tmp_path / "top"
    (top / "d").mkdir(parents=True)
    with opened(top) as fd:
        entries = walk(fd)
        assert next(entries).name == b"d"
        (top / "d").rmdir()
        (top / "d").symlink_to(outside)
        with pytest.raises(NotADirectoryError):
            next(entries)


def test_trees_deeper_than_descriptors_and_path_length_are_walked_copied_measured_and_removed(tmp_path: Path) -> None:
    top, copy = tmp_path / "top", tmp_path / "copy"
    make_deep(top, "directory-name", DEPTH)
    with few_descriptors(180):
        copy_tree(top, copy)
        with opened(copy) as fd:
            entries = [(entry.path, entry.stat.st_nlink) for entry in walk(fd)]
        assert len(entries) == DEPTH + 2
        assert len(entries[-1][0]) > 4096
        assert entries[-1][1] == 2
        assert layer_size(copy) == 0
        remove_tree(top)
        remove_tree(copy)
    assert not os.listdir(tmp_path)


def test_wide_and_bushy_trees_are_removed(tmp_path: Path) -> None:
    top = tmp_path / "top"
    for first in range(8):
        for second in range(8):
            place = top / str(first) / str(second) / "x" / "y"
            place.mkdir(parents=True)
            (place / "f").touch()
            (place.parent / "f").touch()
    remove_tree(top)
    assert not top.exists()


def test_a_copy_keeps_everything_but_sockets(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    (source / "d" / "e").mkdir(parents=True)
    (source / "d" / "f").write_bytes(b"content" * 9000)
    os.chmod(source / "d" / "f", 0o4711)
    os.link(source / "d" / "f", source / "d" / "e" / "hard")
    os.symlink("/nowhere", source / "link")
    os.lchown(source / "link", 3, 4)
    os.mkfifo(source / "fifo", 0o640)
    os.mknod(source / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(source / "gone", stat.S_IFCHR, os.makedev(0, 0))
    os.chown(source / "d", 1000, 3_000_000_000)
    os.setxattr(source / "d", "trusted.overlay.opaque", b"y")
    os.setxattr(source / "d" / "f", "user.note", b"\x00\xff")
    os.setxattr(source / "link", "trusted.on-link", b"1", follow_symlinks=False)
    os.setxattr(source / "fifo", "trusted.on-fifo", b"1")
    os.mkdir(os.fsencode(source) + b"/\xff\xfe")
    with socket.socket(socket.AF_UNIX) as listener:
        here = os.getcwd()
        os.chdir(source)
        listener.bind("socket")
        os.chdir(here)
    os.chmod(source, 0o1750)
    for place, moment in (("d/f", 1), ("link", 2_000_000_001), ("d/e", 3), ("d", 4), (".", 5)):
        os.utime(source / place, ns=(7, moment * 123_456_789), follow_symlinks=False)
    copy_tree(source, target)
    expected = flatten(source)
    assert expected.pop(b"socket")
    assert flatten(target) == expected
    assert target.stat().st_mode == source.stat().st_mode
    assert target.stat().st_mtime_ns == source.stat().st_mtime_ns


def test_a_copy_of_a_file_with_holes_has_them_too(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    sparse = tmp_path / "source" / "sparse"
    with sparse.open("wb") as file:
        file.seek(1 << 28)
        file.write(b"middle")
        file.truncate(1 << 30)
    with (tmp_path / "source" / "empty-hole").open("wb") as file:
        file.truncate(1 << 20)
    copy_tree(tmp_path / "source", tmp_path / "target")
    copied = (tmp_path / "target" / "sparse").stat()
    assert copied.st_size == 1 << 30
    assert copied.st_blocks * 512 < 1 << 20
    with (tmp_path / "target" / "sparse").open("rb") as file:
        file.seek(1 << 28)
        assert file.read(7) == b"middle\0"
    assert (tmp_path / "target" / "empty-hole").stat().st_size == 1 << 20


def test_a_copy_never_writes_into_what_exists(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "target").mkdir()
    with pytest.raises(FileExistsError):
        copy_tree(tmp_path / "source", tmp_path / "target")


def test_removing_takes_a_link_and_not_what_it_names(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "f").touch()
    top = tmp_path / "top"
    top.mkdir()
    (top / "link").symlink_to(kept)
    remove_tree(top)
    (tmp_path / "link").symlink_to(kept)
    remove_tree(tmp_path / "link")
    assert (kept / "f").exists()
    assert os.listdir(tmp_path) == ["kept"]


def test_removing_what_is_missing_or_a_file_is_fine(tmp_path: Path) -> None:
    remove_tree(tmp_path / "missing")
    remove_tree(tmp_path / "missing" / "deeper")
    (tmp_path / "f").touch()
    remove_tree(tmp_path / "f")
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("place", ["top", "top/m"])
def test_removing_stops_at_mount_points(tmp_path: Path, place: str) -> None:
    (tmp_path / "top" / "m").mkdir(parents=True)
    with mounted(Mount("tmpfs", "tmpfs"), tmp_path / place):
        (tmp_path / place / "kept").touch()
        with pytest.raises(OSError, match=r"cross-device|busy") as caught:
            remove_tree(tmp_path / "top")
        assert caught.value.errno in (errno.EXDEV, errno.EBUSY)
        assert (tmp_path / place / "kept").exists()
    remove_tree(tmp_path / "top")


def test_immutable_files_are_removed_too(tmp_path: Path) -> None:
    from lamella.linux.spawn import find_tool, run

    top = tmp_path / "top"
    (top / "d").mkdir(parents=True)
    (top / "d" / "f").touch()
    chattr = find_tool("chattr", package="e2fsprogs")
    for flag, name in (("+i", "d/f"), ("+a", "d")):
        assert run([chattr, flag, str(top / name)], env={}).code == 0
    remove_tree(top)
    assert not top.exists()


def test_a_layers_size_counts_files_once_and_directories_not_at_all(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "f").write_bytes(b"x" * 1000)
    os.link(tmp_path / "d" / "f", tmp_path / "hard")
    (tmp_path / "link").symlink_to("four")
    os.mknod(tmp_path / "gone", stat.S_IFCHR, os.makedev(0, 0))
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(50_000)
    assert layer_size(tmp_path) == 1000 + len("four") + 50_000

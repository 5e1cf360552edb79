"""The mount table's parser, mount values and the system calls beneath."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from lamella.linux import libc
from lamella.linux.mount import DATA_LIMIT, Mount, bind, mounted, perform, unmount
from lamella.linux.mountinfo import is_mounted, parse_mountinfo, read_mountinfo
from lamella.linux.openat2 import open_in_root

TABLE = rb"""23 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw,errors=remount-ro
99 23 0:45 /sub\040dir /mnt/a\134b\011c rw,nosuid master:1 propagate_from:2 - overlay overlay rw,lowerdir=/x - y:/z,upperdir=/u
100 23 0:46 / /mnt/n rw - tmpfs  rw
"""


def test_the_mount_table_is_parsed_with_its_optional_fields_and_escapes() -> None:
    root, overlay, nameless = parse_mountinfo(TABLE)
    assert (root.id, root.parent, root.target, root.fstype, root.source) == (23, 1, "/", "ext4", "/dev/vda")
    assert root.options == "rw,relatime"
    assert (overlay.root, overlay.target) == ("/sub dir", "/mnt/a\\b\tc")
    assert overlay.super_options == "rw,lowerdir=/x - y:/z,upperdir=/u"
    assert (nameless.fstype, nameless.source, nameless.super_options) == ("tmpfs", "", "rw")


def test_the_running_kernels_table_holds_the_root() -> None:
    assert any(entry.target == "/" for entry in read_mountinfo())


def test_a_mount_is_held_for_a_block(tmp_path: Path) -> None:
    target = tmp_path / "a b"
    target.mkdir()
    assert not is_mounted(target)
    with mounted(Mount("tmpfs", "tmpfs", ("size=64k", "mode=0711")), target) as place:
        assert is_mounted(place)
        assert place.stat().st_mode & 0o777 == 0o711
    assert not is_mounted(target)
    assert not is_mounted(tmp_path / "missing")


def test_a_bind_mount_within_one_file_system_is_seen_and_can_be_read_only(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    for path in (source, target):
        path.mkdir()
    (source / "f").touch()
    bind(source, target, readonly=True)
    try:
        assert is_mounted(target)
        assert (target / "f").exists()
        with pytest.raises(OSError, match="Read-only"):
            (target / "g").touch()
        (source / "g").touch()
    finally:
        unmount(target)
    assert not is_mounted(target)


def test_errors_carry_errno_and_name(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        perform(Mount("tmpfs", "tmpfs"), tmp_path / "missing")
    assert caught.value.filename == str(tmp_path / "missing")
    with pytest.raises(OSError, match="Invalid argument") as refused:
        unmount(tmp_path)
    assert refused.value.errno == errno.EINVAL
    with pytest.raises(ValueError, match="null byte"):
        libc.umount2(b"/a\0b")


def test_options_beyond_a_page_are_refused_before_the_kernel_cuts_them(tmp_path: Path) -> None:
    long = Mount("tmpfs", "tmpfs", ("x" * (DATA_LIMIT + 1),))
    with pytest.raises(OSError, match="options are") as caught:
        perform(long, tmp_path)
    assert caught.value.errno == errno.E2BIG


@pytest.mark.parametrize("count", [1, 64])
def test_options_are_given_relative_to_a_base_that_is_long_or_has_a_comma(tmp_path: Path, count: int) -> None:
    base = tmp_path / "data,root:x"
    lowers = []
    for number in range(count):
        lower = base / f"lower-{number:030}"
        lower.mkdir(parents=True)
        (lower / str(number)).touch()
        lowers.append(str(lower))
    for name in ("upper", "work", "merged"):
        (base / name).mkdir()
    options = (f"lowerdir={':'.join(lowers)}", f"upperdir={base}/upper", f"workdir={base}/work")
    before = os.getcwd()
    with mounted(Mount("overlay", "overlay", options), base / "merged", base=base) as merged:
        assert len(list(merged.iterdir())) == count
        (merged / "new").touch()
    assert (base / "upper" / "new").exists()
    assert os.getcwd() == before


def test_open_in_root_keeps_links_and_dots_inside(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    (root / "etc" / "passwd").write_text("inside")
    (root / "abs").symlink_to("/etc/passwd")
    (root / "up").symlink_to("../../../../etc/passwd")
    (root / "magic").symlink_to("/proc/self/root/etc/passwd")
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for name in (b"abs", b"up", b"/etc/passwd", b"../../etc/passwd", b"etc/../abs"):
            opened = open_in_root(fd, name, os.O_RDONLY)
            assert os.read(opened, 10) == b"inside"
            assert not os.get_inheritable(opened)
            os.close(opened)
        with pytest.raises(FileNotFoundError):
            open_in_root(fd, b"magic", os.O_RDONLY)
        with pytest.raises(ValueError, match="null byte"):
            open_in_root(fd, b"etc\0", os.O_RDONLY)
        opened = open_in_root(fd, b"", os.O_PATH)
        assert os.path.samestat(os.fstat(opened), os.fstat(fd))
        os.close(opened)
    finally:
        os.close(fd)


def test_open_in_root_can_refuse_mount_points(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with mounted(Mount("tmpfs", "tmpfs"), tmp_path / "m"):
            os.close(open_in_root(fd, b"m", os.O_PATH))
            with pytest.raises(OSError, match="cross-device") as caught:
                open_in_root(fd, b"m", os.O_PATH, cross_mounts=False)
            assert caught.value.errno == errno.EXDEV
    finally:
        os.close(fd)

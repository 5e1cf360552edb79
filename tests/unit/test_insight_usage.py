"""Measuring trees as du does, and remembering what does not change."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from lamella.insight.usage import SETTLING, Layer, Remembered, measure, measure_all
from tests.support.disk import du

LATER = 10**20


def tree(place: Path) -> Path:
    """Make a tree with a bit of everything."""
    place.mkdir()
    (place / "small").write_bytes(b"x")
    (place / "large").write_bytes(b"x" * 300_000)
    with (place / "holes").open("wb") as file:
        file.truncate(1 << 30)
        file.write(b"x")
    os.link(place / "large", place / "again")
    (place / "down").mkdir()
    os.link(place / "large", place / "down" / "third")
    os.symlink("x" * 200, place / "long-link")
    os.symlink("short", place / "link")
    os.mkfifo(place / "pipe")
    os.mknod(place / "gone", 0o020000, 0)
    os.setxattr(place / "small", "user.long", b"y" * 3000)
    return place


def device(path: Path) -> int:
    return path.lstat().st_dev


def test_a_tree_takes_what_du_finds(tmp_path: Path) -> None:
    top = tree(tmp_path / "tree")
    use = measure(str(top), device(top))
    assert (use.bytes, use.inodes) == du(top)
    assert use.whole
    assert not use.links


def test_deep_trees_are_measured(tmp_path: Path) -> None:
    top = tmp_path / "deep"
    top.mkdir()
    fd = os.open(top, os.O_RDONLY)
    for _ in range(2000):
        os.mkdir("d", dir_fd=fd)
        below = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)
    try:
        use = measure(str(top), device(top))
        assert (use.bytes, use.inodes) == du(top)
    finally:
        os.system(f"rm -rf {top}")


def test_files_with_names_outside_are_listed_apart(tmp_path: Path) -> None:
    top = tree(tmp_path / "tree")
    os.link(top / "small", tmp_path / "outside")
    use = measure(str(top), device(top))
    (link,) = use.links
    status = (top / "small").stat()
    assert link == (status.st_ino, status.st_blocks * 512, 1, 2)
    assert (use.bytes + link.bytes, use.inodes + 1) == du(top)


def test_a_link_in_place_of_a_tree_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/usr")
    assert measure(str(tmp_path / "link"), device(tmp_path)).inodes == 0


def test_what_is_gone_takes_nothing(tmp_path: Path) -> None:
    assert measure(str(tmp_path / "gone"), device(tmp_path)).inodes == 0


def test_many_processes_find_what_one_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tops = [str(tree(tmp_path / f"tree{number}")) for number in range(5)]
    os.link(tmp_path / "tree0" / "small", tmp_path / "outside")
    alone = dict(measure_all(tops, device(tmp_path)))
    monkeypatch.setattr("lamella.insight.usage._PATIENCE", 0)
    assert dict(measure_all(tops, device(tmp_path))) == alone


def layer(top: Path) -> Layer:
    return Layer("sha256:1 tree", str(top), str(top / "down"))


def test_what_was_measured_once_is_not_walked_again(tmp_path: Path) -> None:
    top = tree(tmp_path / "tree")
    first = Remembered(tmp_path / "usage")
    found = first.measure([layer(top)], device(top), now=lambda: LATER)
    first.save()
    # A change deep inside is what a layer never sees, so it tells who looked.
    (top / "small").write_bytes(b"x" * 100_000)
    again = Remembered(tmp_path / "usage")
    assert again.measure([layer(top)], device(top)) == found
    anew = again.measure([layer(top)], device(top), recount=True)
    assert anew != found
    assert (anew[str(top)].bytes, anew[str(top)].inodes) == du(top)


@pytest.mark.parametrize("what", ["replaced", "changed at its top", "files replaced"])
def test_another_directory_in_the_place_of_one_is_measured_anew(tmp_path: Path, what: str) -> None:
    top = tree(tmp_path / "tree")
    first = Remembered(tmp_path / "usage")
    first.measure([layer(top)], device(top), now=lambda: LATER)
    first.save()
    if what == "replaced":
        os.system(f"cp -a {top} {tmp_path}/copy; mv {top} {tmp_path}/old; mv {tmp_path}/copy {top}")
        (top / "small").write_bytes(b"x" * 100_000)
    elif what == "changed at its top":
        (top / "new").write_bytes(b"x")
    else:
        (top / "down" / "new").write_bytes(b"x")
    found = Remembered(tmp_path / "usage").measure([layer(top)], device(top))[str(top)]
    assert (found.bytes, found.inodes) == du(top)


@pytest.mark.parametrize("damage", ["torn", "flipped", "zeros", "empty", "no document", "a directory", "a link"])
def test_a_memory_that_lies_is_no_memory(tmp_path: Path, damage: str) -> None:
    top = tree(tmp_path / "tree")
    place = tmp_path / "usage"
    first = Remembered(place)
    first.measure([layer(top)], device(top), now=lambda: LATER)
    first.save()
    raw = place.read_bytes()
    flipped = raw[:-20] + bytes([raw[-20] ^ 1]) + raw[-19:]
    made = {"torn": raw[:-9], "flipped": flipped, "zeros": bytes(len(raw)), "empty": b"", "no document": b"{}\n{}"}
    place.unlink()
    if damage == "a directory":
        place.mkdir()
    elif damage == "a link":
        (tmp_path / "elsewhere").write_bytes(raw)
        place.symlink_to(tmp_path / "elsewhere")
    else:
        place.write_bytes(made[damage])
    (top / "small").write_bytes(b"x" * 100_000)
    again = Remembered(place)
    found = again.measure([layer(top)], device(top), now=lambda: LATER)[str(top)]
    assert (found.bytes, found.inodes) == du(top)
    again.save()


def test_what_changed_just_now_is_not_remembered(tmp_path: Path) -> None:
    top = tree(tmp_path / "tree")
    young = Remembered(tmp_path / "usage")
    young.measure([layer(top)], device(top), now=lambda: top.lstat().st_ctime_ns + SETTLING // 2)
    young.save()
    assert not (tmp_path / "usage").exists()


def test_what_a_mount_covers_is_not_counted_and_not_forgotten(tmp_path: Path) -> None:
    top = tree(tmp_path / "tree")
    layer = Layer("layer", str(top), str(top))
    memory = Remembered(tmp_path / "memory")
    free = memory.measure([layer], device(top), now=lambda: LATER)
    subprocess.run(["mount", "-t", "tmpfs", "none", top / "down"], check=True)
    try:
        (use,) = memory.measure([layer], device(top), now=lambda: LATER).values()
        (third,) = use.links
        assert (use.bytes + third.bytes, use.inodes + 1) == du(top)
    finally:
        subprocess.run(["umount", top / "down"], check=True)
    assert memory.measure([layer], device(top), now=lambda: 0) == free


def test_layers_that_are_gone_are_forgotten(tmp_path: Path) -> None:
    top = tree(tmp_path / "tree")
    first = Remembered(tmp_path / "usage")
    first.measure([layer(top)], device(top), now=lambda: LATER)
    first.save()
    size = (tmp_path / "usage").stat().st_size
    second = Remembered(tmp_path / "usage")
    second.measure([], device(top))
    second.save()
    assert (tmp_path / "usage").stat().st_size < size

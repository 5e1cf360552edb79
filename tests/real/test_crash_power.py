"""The power is cut: what was reported done is on disk, every file of it, and what was not leaves nothing behind.

A file system on a loop device is shut down without writing out what is only in memory (EXT4_IOC_SHUTDOWN), which is
what a power cut does to it; its journal is then replayed by mounting it again.
"""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
from collections.abc import Generator
from pathlib import Path

import pytest

from lamella.store.imagestore import ImageStore
from lamella.transports.loading import load
from tests.support import faults
from tests.support.archives import docker20, image, layer_tar, leaks
from tests.support.storeops import (
    OPERATIONS,
    Operation,
    build,
    create,
    intermediate,
    load_new,
    prepare,
    visible,
    write_archives,
)

_SHUTDOWN = 0x8004587D
_WITHOUT_FLUSHING = struct.pack("I", 2)


class Disk:
    """An ext4 file system of its own, whose power can be cut."""

    def __init__(self, directory: Path) -> None:
        self.image = directory / "disk-0"
        self._directory = directory
        self._copies = 0
        self.mount_point = directory / "mnt"
        self.mount_point.mkdir()
        with self.image.open("wb") as file:
            file.truncate(96 << 20)
        subprocess.run(["mkfs.ext4", "-q", "-O", "^has_journal", self.image], check=True)
        subprocess.run(["tune2fs", "-O", "has_journal", self.image], check=True, stdout=subprocess.DEVNULL)

    def mount(self) -> None:
        subprocess.run(["mount", "-o", "loop", self.image, self.mount_point], check=True)

    def unmount(self) -> None:
        subprocess.run(["umount", "--recursive", self.mount_point], check=True)

    def cut_power(self) -> None:
        fd = os.open(self.mount_point, os.O_RDONLY)
        fcntl.ioctl(fd, _SHUTDOWN, _WITHOUT_FLUSHING)
        os.close(fd)

    def replace(self, source: Path) -> None:
        """Go on with a copy of an image.

        Another mount namespace may still hold the old file system, which mounting its image again would bring back.
        """
        old = self.image
        self._copies += 1
        self.image = self._directory / f"disk-{self._copies}"
        subprocess.run(["cp", "--sparse=always", source, self.image], check=True)
        old.unlink()

    def come_back(self) -> None:
        """Switch the power on again: the journal is replayed."""
        self.unmount()
        self.replace(self.image)
        self.mount()


@pytest.fixture
def disk(tmp_path: Path) -> Generator[Disk]:
    memory = tmp_path / "memory"
    memory.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512m", "tmpfs", memory], check=True)
    try:
        disk = Disk(memory)
        yield disk
        while os.path.ismount(disk.mount_point):
            disk.unmount()
    finally:
        # Lazily: a mount namespace made meanwhile by another process may still hold a disk, and so its image.
        subprocess.run(["umount", "--recursive", "--lazy", memory], check=True)


def assert_whole(root: Path) -> None:
    """Read every file of every layer, against the digests."""
    store = ImageStore.open(root)
    for layer in store.layers.iter_layers():
        store.layers.reassemble(layer, len)
    assert store.problems == []


def test_what_load_reported_done_survives(disk: Disk, tmp_path: Path) -> None:
    made = image([layer_tar({f"d/{n}": os.urandom(4000) for n in range(500)}), layer_tar({"x": b"y"})], "big:1")
    archive = docker20(tmp_path / "big.tar", made)
    disk.mount()
    root = disk.mount_point / "data-root"
    assert faults.run(lambda: load(ImageStore.open(root), archive), at_death=disk.cut_power) == 0
    disk.come_back()
    assert visible(root)["tags"] == {"big:1": made.id}
    assert visible(root)["images"] == [made.id]
    assert_whole(root)
    with ImageStore.open(root).root.writing():
        pass
    assert leaks(root) == []


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.__name__)
def test_power_cut_at_some_points(disk: Disk, tmp_path: Path, operation: Operation) -> None:
    write_archives(tmp_path)
    disk.mount()
    root = disk.mount_point / "data-root"
    prepare(operation, root, tmp_path)
    before = visible(root)
    disk.unmount()
    start = disk.image.with_name("start")
    subprocess.run(["cp", "--sparse=always", disk.image, start], check=True)

    def work() -> object:
        return operation(ImageStore.open(root), tmp_path)

    disk.mount()
    total = faults.count_changes(work, tmp_path / "count")
    after = visible(root)
    disk.unmount()
    # The last points are where names are published; before them a few will do.
    points = sorted({*range(total // 8, total, max(1, total // 8)), *range(max(1, total - 6), total + 1), total + 1})
    for point in points:
        disk.replace(start)
        disk.mount()
        die_at = 0 if point > total else point
        assert faults.run(work, die_at=die_at, at_death=disk.cut_power) in (0, faults.KILLED)
        disk.come_back()
        with ImageStore.open(root).root.writing():
            pass
        found = visible(root)
        assert found in (before, after) or intermediate(operation, found, before, after), f"cut at {point} of {total}"
        if point > total:
            assert found == after, "what was reported done is gone"
        assert_whole(root)
        assert leaks(root) == [], f"cut at {point} of {total}"
        disk.unmount()


def test_a_container_made_before_the_cut_has_its_files(disk: Disk, tmp_path: Path) -> None:
    write_archives(tmp_path)
    disk.mount()
    root = disk.mount_point / "data-root"
    load(ImageStore.open(root), tmp_path / "old.tar")
    load_new(ImageStore.open(root), tmp_path)
    build(ImageStore.open(root), tmp_path)
    assert faults.run(lambda: create(ImageStore.open(root), tmp_path), at_death=disk.cut_power) == 0
    disk.come_back()
    store = ImageStore.open(root)
    (rw,) = store.rwlayers.iter_layers()
    with store.rwlayers.mounted(rw) as merged:
        assert (merged / "etc/motd").read_text() == "hello\n"
        assert (merged / ".dockerenv").exists()
    assert_whole(root)

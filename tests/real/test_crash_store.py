"""Killed before any change that an operation makes, the store is as before or as after, and the next writer cleans up."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Generator
from pathlib import Path

import pytest

from lamella.model.digest import ImageID
from lamella.model.reference import parse_tagged
from lamella.store.imagestore import ImageStore
from lamella.transports.loading import load
from tests.support import faults
from tests.support.archives import docker20, image, layer_tar, leaks, packed_gzip
from tests.support.storeops import (
    BASE,
    NEXT,
    OLD,
    OPERATIONS,
    TOP,
    Operation,
    intermediate,
    prepare,
    visible,
    write_archives,
)


@pytest.fixture
def archives(tmp_path: Path) -> Generator[Path]:
    """A memory file system with archives in it: hundreds of data-roots are made and thrown away here."""
    place = tmp_path / "memory"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256m", "tmpfs", place], check=True)
    try:
        write_archives(place)
        yield place
    finally:
        subprocess.run(["umount", "--recursive", place], check=True)


@pytest.fixture
def store_root(archives: Path) -> Path:
    return archives / "data-root"


def copied(source: Path, target: Path) -> None:
    subprocess.run(["rm", "-rf", target], check=True)
    subprocess.run(["cp", "-a", source, target], check=True)


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.__name__)
def test_killed_at_any_point(store_root: Path, archives: Path, operation: Operation) -> None:
    start = archives / "start"
    prepare(operation, start, archives)
    before = visible(start)
    copied(start, store_root)

    def work() -> object:
        return operation(ImageStore.open(store_root), archives)

    total = faults.count_changes(work, archives / "count")
    after = visible(store_root)
    assert after != before
    assert leaks(store_root) == []
    seen = set()
    for point in range(1, total + 1):
        copied(start, store_root)
        # A run may take a lock once less than the one that was counted, and then ends well at the last point.
        assert faults.run(work, die_at=point) in (0, faults.KILLED)
        store = ImageStore.open(store_root)
        with store.root.writing():
            pass
        assert store.problems == [], f"killed at point {point} of {total}"
        assert leaks(store_root) == [], f"killed at point {point} of {total}"
        found = visible(store_root)
        assert found in (before, after) or intermediate(operation, found, before, after), f"point {point}: {found}"
        seen.add(found == after)
        work()
        assert visible(store_root) == after, f"done again after point {point}"
        assert leaks(store_root) == []
    assert False in seen


def test_a_writer_that_dies_in_the_middle_of_recovery_is_recovered_from(store_root: Path, archives: Path) -> None:
    start = archives / "start"
    load(ImageStore.open(start), archives / "old.tar")
    before = visible(start)
    copied(start, store_root)

    def work() -> object:
        return load(ImageStore.open(store_root), archives / "new.tar")

    def recover() -> None:
        with ImageStore.open(store_root).root.writing():
            pass

    total = faults.count_changes(work, archives / "count")
    wreck = archives / "wreck"
    copied(start, store_root)
    assert faults.run(work, die_at=total - 30) == faults.KILLED
    copied(store_root, wreck)
    steps = faults.count_changes(recover, archives / "count")
    after = visible(store_root)
    assert after["images"] in (before["images"], visible(store_root)["images"])
    for point in range(1, steps + 1):
        copied(wreck, store_root)
        assert faults.run(recover, die_at=point) == faults.KILLED
        recover()
        assert leaks(store_root) == [], f"recovery killed at point {point} of {steps}"
        assert visible(store_root) == after


def test_two_processes_load_the_same_image_at_once(store_root: Path, archives: Path) -> None:
    big = image([layer_tar({f"d{n}": b"x" * 3000 for n in range(300)}), NEXT, TOP], "big:1")
    docker20(archives / "big.tar", big, compress=packed_gzip)
    for _ in range(5):
        subprocess.run(["rm", "-rf", store_root], check=True)
        children = []
        for _ in range(4):
            pid = os.fork()
            if not pid:
                code = 1
                try:
                    load(ImageStore.open(store_root), archives / "big.tar")
                    code = 0
                finally:
                    os._exit(code)
            children.append(pid)
        assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children] == [0] * 4
        assert len(os.listdir(store_root / "overlay2")) == 4
        assert leaks(store_root) == []


def test_loads_and_removals_of_images_that_share_layers_never_lose_a_layer(store_root: Path, archives: Path) -> None:
    load(ImageStore.open(store_root), archives / "old.tar")

    def churn(name: str, rounds: int) -> None:
        store = ImageStore.open(store_root)
        made = image([BASE, NEXT, layer_tar({name: b""})], f"{name}:1")
        path = docker20(archives / f"{name}.tar", made)
        for _ in range(rounds):
            load(store, path)
            assert len(store.layers.stack(store.images.get(ImageID(made.id)).top)) == 3  # type: ignore[arg-type]
            with store.root.writing():
                store.tags.remove(parse_tagged(f"{name}:1"))
                store.delete_image(ImageID(made.id))  # type: ignore[arg-type]

    children = []
    for name in ("a", "b", "c"):
        pid = os.fork()
        if not pid:
            code = 1
            try:
                churn(name, 8)
                code = 0
            finally:
                os._exit(code)
        children.append(pid)
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children] == [0] * 3
    assert visible(store_root)["images"] == [OLD.id]
    assert len(visible(store_root)["layers"]) == 2
    assert leaks(store_root) == []

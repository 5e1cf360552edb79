"""Killed before any change that an operation makes, the store is as before or as after, and the next writer cleans up."""

from __future__ import annotations

import io
import os
import subprocess
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

from lamella.model.digest import ImageID
from lamella.model.ids import ContainerID
from lamella.model.reference import parse_tagged
from lamella.store.containerdb import new_record
from lamella.store.imagestore import ImageStore
from lamella.store.initlayer import fill_init_layer
from lamella.transports.loading import load
from lamella.transports.rootfs import import_filesystem
from tests.support import faults
from tests.support.archives import docker20, image, layer_tar, leaks, packed_gzip

BASE = layer_tar({"etc": None, "etc/motd": b"hello\n"})
NEXT = layer_tar({"etc/.wh.motd": b"", "new": b"more\n"})
TOP = layer_tar({"top": b"top\n"})
OLD = image([BASE, TOP], "old:1", "moves:1")
NEW = image([BASE, NEXT, TOP], "new:1", "moves:1")
PLAIN = image([BASE, TOP], created="2020-01-01T00:00:00Z")
OWNER = ContainerID("c" * 64)

State = dict[str, Any]
Operation = Callable[[ImageStore, Path], object]


def visible(root: Path) -> State:
    store = ImageStore.open(root)
    return {
        "images": sorted(item.id for item in store.iter_usable()),
        "tags": store.tags.read(),
        "layers": sorted(layer.chain_id for layer in store.layers.iter_layers()),
        "containers": sorted((record.id, record.name) for record in store.containers.iter_records()),
        "mounts": sorted(rw.owner for rw in store.rwlayers.iter_layers()),
    }


def load_new(store: ImageStore, archives: Path) -> None:
    load(store, archives / "new.tar")


def load_two_untagged(store: ImageStore, archives: Path) -> None:
    load(store, archives / "two.tar")


def import_one(store: ImageStore, archives: Path) -> None:
    from datetime import UTC, datetime

    moment = datetime(2024, 1, 1, tzinfo=UTC)
    import_filesystem(store, io.BytesIO(NEXT), reference=parse_tagged("imported"), created=moment)


def tag(store: ImageStore, archives: Path) -> None:
    store.tags.set(parse_tagged("more:1"), ImageID(OLD.id))  # type: ignore[arg-type]


def remove(store: ImageStore, archives: Path) -> None:
    with store.root.writing():
        image_id = store.resolve(OLD.id) if store.images.find(ImageID(OLD.id)) else None  # type: ignore[arg-type]
        if references := store.tags.references(ImageID(OLD.id)):  # type: ignore[arg-type]
            store.tags.remove(*references)
        if image_id is not None:
            store.delete_image(image_id)


def create(store: ImageStore, archives: Path) -> None:
    top = store.images.get(ImageID(OLD.id)).top  # type: ignore[arg-type]
    if store.containers.find(OWNER) is not None:
        return
    with store.root.transaction("create", ids=1) as tx:
        store.rwlayers.create(OWNER, top, tx=tx, init=fill_init_layer)
        store.containers.write(
            new_record(
                OWNER,
                name="one",
                created="2024-01-02T03:04:05Z",
                path="/bin/sh",
                args=[],
                settings={},
                image=OLD.id,
                host_config={},
                driver="overlay2",
            )
        )


def build(store: ImageStore, archives: Path) -> None:
    top = store.images.get(ImageID(OLD.id)).top  # type: ignore[arg-type]
    with store.root.transaction("build", ids=4) as tx:
        rw = store.rwlayers.create(OWNER, top, tx=tx, init=fill_init_layer)
        with store.rwlayers.mounted(rw) as merged:
            (merged / "made").write_text("here\n")
            os.utime(merged / "made", (1, 1))
        layer = store.layers.capture(rw, top, tx)
        store.rwlayers.remove(rw)
        made = image([BASE, TOP]).config.decode()
        diff_ids = ", ".join(f'"{item.diff_id}"' for item in store.layers.stack(layer.chain_id))
        start, _, rest = made.partition('"diff_ids": [')
        raw = f'{start}"diff_ids": [{diff_ids}]{rest.partition("]")[2]}'.encode()
        built = store.images.put(raw, tx=tx, built_locally=True)
        store.commit(tx, {"built:1": built})


OPERATIONS: list[tuple[Operation, int]] = [
    (load_new, 1),
    (load_two_untagged, 1),
    (import_one, 1),
    (tag, 1),
    (remove, 1),
    (create, 1),
    (build, 1),
]


@pytest.fixture
def archives(tmp_path: Path) -> Generator[Path]:
    """A memory file system with archives in it: hundreds of data-roots are made and thrown away here."""
    place = tmp_path / "memory"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256m", "tmpfs", place], check=True)
    try:
        docker20(place / "old.tar", OLD)
        docker20(place / "new.tar", NEW, compress=packed_gzip)
        docker20(place / "two.tar", image([NEXT]), image([NEXT, TOP], "two:1"))
        yield place
    finally:
        subprocess.run(["umount", "--recursive", place], check=True)


@pytest.fixture
def store_root(archives: Path) -> Path:
    return archives / "data-root"


def copied(source: Path, target: Path) -> None:
    subprocess.run(["rm", "-rf", target], check=True)
    subprocess.run(["cp", "-a", source, target], check=True)


@pytest.mark.parametrize(("operation", "step"), OPERATIONS, ids=[item[0].__name__ for item in OPERATIONS])
def test_killed_at_any_point(store_root: Path, archives: Path, operation: Operation, step: int) -> None:
    start = archives / "start"
    load(ImageStore.open(start), archives / "old.tar")
    before = visible(start)
    copied(start, store_root)

    def work() -> object:
        return operation(ImageStore.open(store_root), archives)

    total = faults.count_changes(work, archives / "count")
    after = visible(store_root)
    assert after != before
    assert leaks(store_root) == []
    seen = set()
    for point in range(1, total + 1, step):
        copied(start, store_root)
        assert faults.run(work, die_at=point) == faults.KILLED, f"point {point} of {total} was not reached"
        with ImageStore.open(store_root).root.writing():
            pass
        assert leaks(store_root) == [], f"killed at point {point} of {total}"
        found = visible(store_root)
        assert found in (before, after) or intermediate(operation, found, before, after), f"point {point}: {found}"
        seen.add(found == after)
        work()
        assert visible(store_root) == after, f"done again after point {point}"
        assert leaks(store_root) == []
    assert False in seen or operation is remove


def intermediate(operation: Operation, found: State, before: State, after: State) -> bool:
    """Allow what is documented: a removal goes tag, config, layers, each step whole."""
    if operation is not remove:
        return False
    untagged = {**before, "tags": after["tags"]}
    return found == untagged or (found["images"] == after["images"] and set(found["layers"]) <= set(before["layers"]))


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

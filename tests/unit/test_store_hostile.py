"""A data-root that came from a stranger cannot make the store write, or show, anything outside itself."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lamella.drivers import open_driver
from lamella.errors import DataLoss, NotFound, Unavailable
from lamella.model.digest import ChainID, DiffID, ImageID, chain_id
from lamella.model.ids import CacheID, new_container_id
from lamella.store.containerdb import ContainerRecord, new_record
from lamella.store.imagestore import ImageStore
from lamella.transports.loading import load
from tests.support.archives import Made, digest, docker20, image, layer_tar, leaks, listing

BASE = layer_tar({"etc": None, "etc/motd": b"hello\n"})
TOP = layer_tar({"top": b"top\n"})


@pytest.fixture
def store(store_root: Path, tmp_path: Path) -> ImageStore:
    store = ImageStore.open(store_root)
    load(store, docker20(tmp_path / "x.tar", made()))
    return store


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    place = tmp_path / "outside"
    place.mkdir()
    for name in ("lock", "live-merged", "parent", "cache-id", "config.v2.json", "precious"):
        (place / name).write_text("precious")
    return place


def made() -> Made:
    return image([BASE, TOP], "x:1")


def chains() -> list[ChainID]:
    base = chain_id(None, DiffID(digest(BASE)))  # type: ignore[arg-type]
    return [base, chain_id(base, DiffID(digest(TOP)))]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "place", ["lamella", "lamella/mounts", "lamella/tx", "overlay2", "containers", "image/overlay2"]
)
def test_a_link_in_the_place_of_a_directory_stops_the_first_change(
    store: ImageStore, outside: Path, place: str
) -> None:
    directory = store.root.path / place
    if directory.exists():
        directory.rename(directory.with_name("moved"))
    directory.symlink_to(outside)
    before = listing(outside)
    with (
        pytest.raises(Unavailable, match="symbolic link"),
        ImageStore.open(store.root.path, driver="overlay2").root.writing(),
    ):
        pass
    assert listing(outside) == before


def test_counting_mounts_follows_no_link(store: ImageStore, outside: Path) -> None:
    cache_id = store.layers.get(chains()[1]).cache_id
    (store.root.lamella_dir / "mounts").mkdir(exist_ok=True)
    (store.root.lamella_dir / "mounts" / cache_id).symlink_to(outside)
    before = listing(outside)
    with ImageStore.open(store.root.path).root.writing():
        pass
    with pytest.raises(Unavailable, match="symbolic link"), store.root.driver.mounted_read_only(cache_id):
        pass
    assert listing(outside) == before


@pytest.mark.parametrize("part", ["diff", "."])
def test_no_mount_shows_what_a_link_below_the_top_layer_leads_to(store: ImageStore, outside: Path, part: str) -> None:
    below, top = (store.layers.get(chain).cache_id for chain in chains())
    lower = store.root.path / "overlay2" / below / part
    os.rename(lower, store.root.path / "moved")
    lower.parent.joinpath(lower.name).symlink_to(outside if part == "diff" else outside.parent)
    with pytest.raises(NotFound, match="load the image again"), store.root.driver.mounted_read_only(top):
        pass


@pytest.mark.parametrize("place", ["view", "merged"])
def test_no_mount_covers_what_a_link_in_the_place_of_its_directory_leads_to(
    store: ImageStore, outside: Path, place: str
) -> None:
    cache_id = store.layers.get(chains()[1]).cache_id
    if place == "view":
        directory = store.root.lamella_dir / "mounts" / cache_id
        directory.mkdir(parents=True)
    else:
        directory = store.root.path / "overlay2" / cache_id
    (directory / place).symlink_to(outside)
    before = listing(outside)
    hold = store.root.driver.mounted_read_only if place == "view" else store.root.driver.mounted
    with pytest.raises(DataLoss, match="symbolic link"), hold(cache_id):
        pass
    assert not outside.is_mount()
    assert listing(outside) == before


def test_holders_of_a_mount_are_not_recorded_through_a_link(store: ImageStore, outside: Path) -> None:
    cache_id = store.layers.get(chains()[1]).cache_id
    directory = store.root.lamella_dir / "mounts" / cache_id
    directory.mkdir(parents=True)
    (directory / "holders").symlink_to(outside)
    before = listing(outside)
    for step in (store.root.driver.mount, store.root.driver.unmount):
        with pytest.raises(Unavailable, match="symbolic link"):
            step(cache_id, "precious")
    assert listing(outside) == before


def test_a_tar_split_that_is_no_file_is_damage(store: ImageStore, outside: Path) -> None:
    layer = store.layers.get(chains()[1])
    record = store.layers.tar_split(layer)
    for replace in (os.mkfifo, lambda path: os.symlink(outside / "precious", path)):
        record.unlink()
        replace(record)
        with pytest.raises(DataLoss, match=r"tar-split\.json\.gz"):
            store.layers.reassemble(layer, bytes)


@pytest.mark.parametrize("place", ["vfs", "vfs/dir"])
def test_the_vfs_driver_stays_in_its_own_directory(tmp_path: Path, outside: Path, place: str) -> None:
    (tmp_path / "root/vfs").mkdir(parents=True)
    cache_id = CacheID("a" * 64)
    for where in (outside, outside / "dir"):
        (where / cache_id).mkdir(parents=True)
    link = tmp_path / "root" / place
    if link.is_dir():
        link.rmdir()
    link.symlink_to(outside)
    driver = open_driver("vfs", tmp_path / "root", tmp_path / "root/lamella")
    before = listing(outside)
    for step in (
        lambda: driver.remove(cache_id),
        lambda: driver.create(CacheID("b" * 64), None),
        lambda: driver.mount(cache_id, "c"),
        lambda: driver.create(CacheID("b" * 64), cache_id),
    ):
        with pytest.raises(DataLoss, match="symbolic link"):
            step()
    assert listing(outside) == before


def test_a_layer_goes_whatever_stands_in_the_place_of_its_short_name(store: ImageStore) -> None:
    layer = store.layers.get(chains()[1])
    link = store.root.path / "overlay2" / "l" / (store.root.path / "overlay2" / layer.cache_id / "link").read_text()
    link.unlink()
    link.write_text("not a link")
    store.delete_image(ImageID(made().id))  # type: ignore[arg-type]
    assert list(store.root.driver.iter_ids()) == []


def test_the_work_directory_of_a_writable_layer_is_the_stores_own(store: ImageStore, outside: Path) -> None:
    with store.root.transaction("test") as tx:
        rw = store.rwlayers.create(new_container_id(), chains()[1], tx=tx)
    work = store.root.path / "overlay2" / rw.mount_id / "work"
    work.rmdir()
    work.symlink_to(outside)
    before = listing(outside)
    with pytest.raises(NotFound, match="work"), store.root.driver.mounted(rw.mount_id):
        pass
    assert listing(outside) == before


def test_the_metadata_of_an_image_are_not_written_through_a_link(store: ImageStore, outside: Path) -> None:
    image_id = ImageID(made().id)  # type: ignore[arg-type]
    (store.images.metadata / image_id[7:]).symlink_to(outside)
    before = listing(outside)
    store.images.touch(image_id)
    assert store.images.get(image_id).last_updated
    (store.images.metadata / ("a" * 64)).symlink_to(outside)
    (outside / "parent").write_text(image_id)
    before = listing(outside)
    store.images.remove(image_id)
    assert listing(outside) == before


def test_a_container_is_not_written_nor_removed_through_a_link(store: ImageStore, outside: Path) -> None:
    record = container(store, "one")
    store.containers.path(record.id).symlink_to(outside)
    before = listing(outside)
    with pytest.raises(DataLoss, match="symbolic link"):
        store.containers.write(record)
    store.containers.remove(record.id)
    assert listing(outside) == before
    assert list(store.containers.iter_ids()) == []


@pytest.mark.parametrize("target", ["precious", "made-by-us"])
def test_the_list_of_deferred_removals_is_no_link(store: ImageStore, outside: Path, target: str) -> None:
    deferred = store.root.lamella_dir / "deferred"
    before = listing(outside)
    with store.root.transaction("test") as tx:
        store.layers.lease(chains()[1], tx)
        deferred.symlink_to(outside / target)
        with pytest.raises(OSError, match="symbolic link"):
            store.delete_image(ImageID(made().id))  # type: ignore[arg-type]
    assert listing(outside) == before
    assert not os.path.lexists(deferred)


def test_the_mark_of_an_unclean_end_is_no_link(store: ImageStore, outside: Path) -> None:
    (store.root.lamella_dir / "unclean").symlink_to(outside / "made-by-us")
    before = listing(outside)
    with store.root.writing():
        pass
    assert listing(outside) == before


def test_a_layer_record_that_is_a_link_is_only_unlinked(store: ImageStore, outside: Path) -> None:
    path = store.layers.db.path(chains()[1])
    path.rename(store.root.path / "moved")
    path.symlink_to(outside)
    before = listing(outside)
    store.delete_image(ImageID(made().id))  # type: ignore[arg-type]
    assert not os.path.lexists(path)
    assert listing(outside) == before


def container(store: ImageStore, name: str) -> ContainerRecord:
    return new_record(
        new_container_id(),
        name=name,
        created="2024-01-01T00:00:00Z",
        path="/init",
        args=[],
        settings={"Labels": {"Name": "/two"}},
        image=made().id,
        host_config={},
        driver=store.root.driver.name,
    )


def test_nothing_is_left_of_all_this_in_a_sound_store(store: ImageStore) -> None:
    store.delete_image(ImageID(made().id))  # type: ignore[arg-type]
    assert leaks(store.root.path) == []

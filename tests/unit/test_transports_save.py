"""What ``save`` writes: the bytes that went in, in the shape that docker 25 and newer write."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from pathlib import Path

import pytest

from lamella.changeset.compression import Compression
from lamella.errors import DataLoss, InvalidArgument, NotFound
from lamella.model.digest import ImageID
from lamella.model.imageconfig import decode_image_config
from lamella.model.platform import Platform
from lamella.model.progress import Advanced, Event, Finished, Started
from lamella.model.reference import parse_tagged
from lamella.store.imagestore import ImageStore
from lamella.transports.loading import load
from lamella.transports.rootfs import import_filesystem
from lamella.transports.saving import save, tar_size
from tests.support.archives import digest, docker20, image, layer_tar, leaks, packed_gzip

BASE = layer_tar({"etc": None, "etc/motd": b"hello\n", "bin": None, "bin/sh": b"#!\n"})
NEXT = layer_tar({"etc/.wh.motd": b"", "new": b"more\n"})
ODD = layer_tar({"./a": b"x" * 700, "/abs": b"y"}) + b"garbage after the end"
ONE = image([BASE, NEXT], "a/one:1", "one:2")
TWO = image([BASE, ODD], "two:1")


@pytest.fixture
def store(store_root: Path, tmp_path: Path) -> ImageStore:
    store = ImageStore.open(store_root)
    load(store, docker20(tmp_path / "in.tar", ONE, TWO, compress=packed_gzip))
    return store


def saved(store: ImageStore, *names: str, compression: Compression = Compression.NONE) -> bytes:
    sink = io.BytesIO()
    images = [(store.resolve(name), store.tags.references(store.resolve(name))) for name in names]
    save(store, images, sink, compression=compression)
    return sink.getvalue()


def members(raw: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(raw)) as archive:
        found = {}
        for member in archive:
            assert member.name not in found
            assert (member.mtime, member.uid, member.gid) == (0, 0, 0)
            found[member.name] = archive.extractfile(member).read() if member.isreg() else b""  # type: ignore[union-attr]
        return found


def test_packed_layers_that_were_spooled_are_closed_whatever_happens(store: ImageStore) -> None:
    store.root.wip_dir.rmdir()  # as in a data-root that only dockerd wrote to
    store = ImageStore.open(store.root.path)
    before = os.listdir("/proc/self/fd")
    saved(store, "one:2", compression=Compression.GZIP)
    broken = store.layers.stack(store.images.get(store.resolve("one:2")).top)[1]
    (store.root.path / "overlay2" / broken.cache_id / "diff/new").unlink()
    with pytest.raises(DataLoss) as failure:
        saved(store, "one:2", compression=Compression.GZIP)
    assert os.listdir("/proc/self/fd") == before
    assert failure.type is DataLoss


def test_an_archive_has_dockers_shape(store: ImageStore) -> None:
    files = members(saved(store, "one:2", "two:1"))
    top = {"blobs", "blobs/sha256", "index.json", "manifest.json", "oci-layout", "repositories"}
    assert top <= files.keys()
    blobs = {name: raw for name, raw in files.items() if name.startswith("blobs/sha256/")}
    assert all(name == f"blobs/sha256/{hashlib.sha256(raw).hexdigest()}" for name, raw in blobs.items())
    assert len(blobs) == 3 + 2 + 2  # shared layers once, configs, manifests
    assert list(files) == sorted(files)
    assert files["oci-layout"] == b'{"imageLayoutVersion": "1.0.0"}'
    assert json.loads(files["repositories"]) == {
        "a/one": {"1": digest(NEXT)[7:]},
        "one": {"2": digest(NEXT)[7:]},
        "two": {"1": digest(ODD)[7:]},
    }
    manifest = json.loads(files["manifest.json"])
    assert manifest[0]["Config"] == f"blobs/sha256/{ONE.id[7:]}"
    assert manifest[0]["RepoTags"] == ["a/one:1", "one:2"]
    assert manifest[0]["Layers"] == [f"blobs/sha256/{digest(layer)[7:]}" for layer in ONE.layers]
    assert manifest[0]["LayerSources"][digest(BASE)] == {
        "mediaType": "application/vnd.oci.image.layer.v1.tar",
        "size": len(BASE),
        "digest": digest(BASE),
    }
    index = json.loads(files["index.json"])
    assert [item["annotations"] for item in index["manifests"]] == [
        {"io.containerd.image.name": f"docker.io/{name}", "org.opencontainers.image.ref.name": name.partition(":")[2]}
        for name in ("a/one:1", "library/one:2", "library/two:1")
    ]
    assert files["manifest.json"].endswith(b"]\n")
    assert files["repositories"].endswith(b"}\n")


def test_saving_loading_and_saving_again_gives_the_same_bytes(store: ImageStore, tmp_path: Path) -> None:
    first = saved(store, "one:2", "two:1")
    (tmp_path / "s.tar").write_bytes(first)
    other = ImageStore.open(tmp_path / "other")
    load(other, tmp_path / "s.tar")
    assert saved(other, "one:2", "two:1") == first
    assert saved(store, "one:2", "two:1") == first


@pytest.mark.parametrize("compression", [Compression.GZIP, Compression.ZSTD])
def test_packed_layers_load_into_the_same_image(store: ImageStore, tmp_path: Path, compression: Compression) -> None:
    raw = saved(store, "one:2", compression=compression)
    assert raw == saved(store, "one:2", compression=compression)
    other = ImageStore.open(tmp_path / "other")
    (tmp_path / "s.tar").write_bytes(raw)
    assert [item.id for item in load(other, tmp_path / "s.tar")] == [ONE.id]
    layout = tmp_path / "layout"
    with tarfile.open(tmp_path / "s.tar") as archive:
        archive.extractall(layout)
    (layout / "manifest.json").unlink()
    third = ImageStore.open(tmp_path / "third")
    loaded = load(third, layout)
    assert [item.id for item in loaded] == [ONE.id]
    assert {reference.familiar() for reference in loaded[0].references} == {"a/one:1", "one:2"}
    assert leaks(store.root.path) == []


def test_compressions_that_nobody_reads_back_are_refused(store: ImageStore) -> None:
    with pytest.raises(InvalidArgument, match="gzip or zstd"):
        saved(store, "one:2", compression=Compression.XZ)


def test_an_image_saved_by_id_has_no_names(store: ImageStore) -> None:
    sink = io.BytesIO()
    save(store, [(ImageID(ONE.id), [])], sink)  # type: ignore[arg-type]
    files = members(sink.getvalue())
    assert "repositories" not in files
    assert json.loads(files["manifest.json"])[0]["RepoTags"] is None
    assert len(json.loads(files["index.json"])["manifests"]) == 1


def test_the_size_of_a_layers_tar_is_known_beforehand(store: ImageStore) -> None:
    for layer in store.layers.iter_layers():
        raw = next(item for item in (BASE, NEXT, ODD) if digest(item) == layer.diff_id)
        assert tar_size(store, layer) == len(raw)


def test_a_changed_file_in_the_store_is_never_shipped(store: ImageStore) -> None:
    layer = next(item for item in store.layers.iter_layers() if item.diff_id == digest(BASE))
    motd = store.root.path / "overlay2" / layer.cache_id / "diff/etc/motd"
    motd.write_bytes(b"evil!\n")
    with pytest.raises(DataLoss, match="etc/motd"):
        saved(store, "one:2")


def test_an_image_without_layers_or_without_a_config_is_not_saved(store: ImageStore) -> None:
    empty = store.images.put(image([]).config)
    with pytest.raises(InvalidArgument, match="empty"):
        save(store, [(empty, [])], io.BytesIO())
    with pytest.raises(NotFound):
        save(store, [(ImageID("sha256:" + "0" * 64), [])], io.BytesIO())  # type: ignore[arg-type]


def test_progress_adds_up_to_what_was_announced(store: ImageStore, tmp_path: Path) -> None:
    events: list[Event] = []
    save(store, [(ImageID(ONE.id), [])], io.BytesIO(), report=events.append)  # type: ignore[arg-type]
    announced = sum(event.total or 0 for event in events if isinstance(event, Started))
    assert announced == len(BASE) + len(NEXT)
    assert sum(event.amount for event in events if isinstance(event, Advanced)) == announced
    events.clear()
    load(ImageStore.open(tmp_path / "other"), tmp_path / "in.tar", report=events.append)
    started = [event.id for event in events if isinstance(event, Started)]
    assert started == [digest(layer)[7:19] for layer in (BASE, NEXT, ODD)]
    finished = [event.note for event in events if isinstance(event, Finished)]
    assert finished == ["Loaded", "Loaded", "Layer already exists", "Loaded"]


def test_a_root_filesystem_becomes_an_image_of_one_layer(store: ImageStore) -> None:
    image_id = import_filesystem(
        store,
        io.BytesIO(packed_gzip(ODD)),
        message="Imported from -",
        changes=['CMD ["sh"]', "ENV a=b"],
        reference=parse_tagged("flat"),
        platform=Platform("linux", "arm64"),
    )
    stored = store.images.get(image_id)
    document = json.loads(stored.raw)
    assert document["rootfs"] == {"type": "layers", "diff_ids": [digest(ODD)]}
    assert (document["architecture"], document["comment"]) == ("arm64", "Imported from -")
    assert document["config"]["Cmd"] == ["sh"]
    assert document["config"]["Env"] == ["a=b"]
    assert document["container_config"]["Cmd"] is None
    assert set(document["history"][0]) == {"created", "comment"}
    assert store.resolve("flat") == image_id
    assert stored.last_updated is not None
    assert decode_image_config(stored.raw).diff_ids == (digest(ODD),)
    assert leaks(store.root.path) == []


def test_a_root_filesystem_that_is_no_tar_changes_nothing(store: ImageStore) -> None:
    before = sorted(store.images.iter_ids())
    with pytest.raises((InvalidArgument, DataLoss)):
        import_filesystem(store, io.BytesIO(os.urandom(4096)), reference=parse_tagged("flat"))
    with pytest.raises(InvalidArgument):
        import_filesystem(store, io.BytesIO(BASE), changes=["NOSUCH x"])
    assert sorted(store.images.iter_ids()) == before
    assert store.tags.find(parse_tagged("flat")) is None
    assert leaks(store.root.path) == []

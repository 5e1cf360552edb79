"""Stores that nobody vouches for: damage is named and passed over, links lead nowhere, changes underneath do no harm."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lamella.errors import DataLoss, LamellaError, NotFound, Unsupported
from lamella.readers.containers_storage import big_data_name
from lamella.readers.detect import open_reader
from tests.support.boltfile import BoltWriter, Tree

if TYPE_CHECKING:
    from lamella.readers.base import StoreReader

DIFFS = [f"sha256:{hashlib.sha256(bytes([n])).hexdigest()}" for n in range(4)]


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def config_of(diffs: list[str]) -> bytes:
    return json.dumps(
        {"os": "linux", "architecture": "amd64", "config": {}, "rootfs": {"type": "layers", "diff_ids": diffs}}
    ).encode()


def everything(reader: StoreReader) -> None:
    """Ask a reader all there is to ask; only errors of ours may come."""
    for ask in (reader.images, reader.layers, reader.containers, reader.volumes, reader.layer_directories):
        ask()
    for layer in reader.layers().values():
        reader.tar_split(layer)
        reader.blob(layer)
        assert reader.find_layer_by_directory(layer.directory_id) is not None
    for image in reader.images():
        reader.image_blobs(image)
        for name in image.layers:
            reader.find_layer(name)
    for container in reader.containers():
        reader.container_spec(container)
    for name in ("a:1", "sha256:00", "x" * 300, "../..", ""):
        for find in (reader.find_image, reader.find_container):
            with contextlib.suppress(LamellaError):
                find(name)


# ---------------------------------------------------------------------------------------------------- Docker


def docker_root(root: Path) -> list[str]:
    """Write a data root of one image of three layers and one container; return the chain IDs."""
    chains: list[str] = []
    image = root / "image/overlay2"
    for number, diff in enumerate(DIFFS[:3]):
        chain = diff if not chains else "sha256:" + sha(f"{chains[-1]} {diff}".encode())
        record = image / "layerdb/sha256" / chain[7:]
        record.mkdir(parents=True)
        cache = sha(chain.encode())
        (record / "diff").write_text(diff)
        (record / "size").write_text("7")
        (record / "cache-id").write_text(cache)
        (record / "tar-split.json.gz").touch()
        if chains:
            (record / "parent").write_text(chains[-1])
        (root / "overlay2" / cache / "diff").mkdir(parents=True)
        (root / "overlay2" / cache / "diff/file").write_text(str(number))
        chains.append(chain)
    raw = config_of(DIFFS[:3])
    (image / "imagedb/content/sha256").mkdir(parents=True)
    (image / "imagedb/content/sha256" / sha(raw)).write_bytes(raw)
    (image / "repositories.json").write_text(json.dumps({"Repositories": {"a": {"a:1": f"sha256:{sha(raw)}"}}}))
    owner, mount = "c" * 64, "d" * 64
    (image / "layerdb/mounts" / owner).mkdir(parents=True)
    (image / "layerdb/mounts" / owner / "mount-id").write_text(mount)
    (image / "layerdb/mounts" / owner / "parent").write_text(chains[-1])
    (root / "overlay2" / mount / "diff").mkdir(parents=True)
    (root / "containers" / owner).mkdir(parents=True)
    document = {
        "ID": owner,
        "Name": "/one",
        "Driver": "overlay2",
        "Image": f"sha256:{sha(raw)}",
        "Config": {},
        "State": {"Running": True, "Pid": os.getpid()},
    }
    (root / "containers" / owner / "config.v2.json").write_text(json.dumps(document))
    return chains


def test_a_hand_made_data_root_is_read(tmp_path: Path) -> None:
    chains = docker_root(tmp_path)
    reader = open_reader(tmp_path)
    assert list(reader.find_image("a:1").layers) == chains
    assert [layer.role for layer in reader.layers().values()].count("image") == 3
    # Its process is one of this host, but runs on nothing of this store: the engine is dead.
    assert (reader.find_container("one").status, reader.find_container("one").pid) == ("exited", 0)
    assert not reader.problems


def replace_by_link(path: Path, target: Path) -> None:
    """Put a link in the place of a file or directory, which is kept beside it."""
    path.rename(path.with_name(f"{path.name}.aside"))
    path.symlink_to(target)


@pytest.mark.parametrize(
    "place", ["image", "image/overlay2", "image/overlay2/layerdb", "image/overlay2/imagedb", "overlay2"]
)
def test_a_data_root_is_not_entered_through_a_link(tmp_path: Path, place: str) -> None:
    root = tmp_path / "root"
    docker_root(root)
    replace_by_link(root / place, root / f"{place}.aside")
    with pytest.raises((DataLoss, NotFound)):
        open_reader(root)


@pytest.mark.parametrize("place", ["containers", "volumes"])
def test_containers_and_volumes_are_not_read_through_a_link(tmp_path: Path, place: str) -> None:
    root = tmp_path / "root"
    docker_root(root)
    (root / "volumes/v/_data").mkdir(parents=True)
    replace_by_link(root / place, root / f"{place}.aside")
    reader = open_reader(root)
    assert not (reader.containers() if place == "containers" else reader.volumes())
    assert any("symbolic link" in problem for problem in reader.problems)


@pytest.mark.parametrize("part", ["", "diff"])
def test_a_layer_whose_directory_is_a_link_is_no_layer(tmp_path: Path, part: str) -> None:
    root = tmp_path / "root"
    chains = docker_root(root)
    replace_by_link(root / "overlay2" / sha(chains[1].encode()) / part, Path("/etc"))
    for reader in (open_reader(root), open_reader(root)):
        assert reader.find_layer(chains[1]) is None
        assert set(reader.layers()) & set(chains) == {chains[0], chains[2]}
        assert any("symbolic link" in problem for problem in reader.problems)


@pytest.mark.parametrize("name", ["diff", "size", "cache-id", "parent"])
@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"x" * 600, b"../../../etc", b"sha256:" + b"0" * 64])
def test_a_damaged_layer_record_is_named_and_the_rest_read(tmp_path: Path, name: str, content: bytes) -> None:
    chains = docker_root(tmp_path)
    (tmp_path / "image/overlay2/layerdb/sha256" / chains[1][7:] / name).write_bytes(content)
    reader = open_reader(tmp_path)
    assert chains[1] not in reader.layers()
    assert any(chains[1] in problem or chains[1][7:] in problem for problem in reader.problems)
    everything(reader)


def test_what_is_removed_while_it_is_read_is_passed_over(tmp_path: Path) -> None:
    """Images, layers and containers come and go as an engine makes and removes them."""
    docker_root(tmp_path / "root")
    stop = threading.Event()

    def churn() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            for place in (
                "image/overlay2/layerdb/sha256",
                "image/overlay2/imagedb/content/sha256",
                "containers",
                "overlay2",
            ):
                home = tmp_path / "root" / place
                for name in sorted(os.listdir(home)):
                    if len(name) == 64:
                        os.rename(home / name, home / f"{name}-{number}-removing")
                for name in sorted(os.listdir(home)):
                    os.rename(home / name, home / name.partition("-")[0])

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        for _ in range(150):
            reader = open_reader(tmp_path / "root")
            reader.images(), reader.layers(), reader.containers(), reader.layer_directories()
            with contextlib.suppress(NotFound):
                open_reader(tmp_path / "root").find_image("a:1")
            with contextlib.suppress(NotFound):
                open_reader(tmp_path / "root").find_container("one")
    finally:
        stop.set()
        thread.join()
    assert len(open_reader(tmp_path / "root").layers()) == 4


# ---------------------------------------------------------------------------------------------------- containers/storage


def storage_root(root: Path) -> tuple[list[dict[str, object]], str]:
    """Write a store of one image of three layers and one container; return the records of layers and the image ID."""
    layers: list[dict[str, object]] = []
    for number, diff in enumerate(DIFFS[:3]):
        layer_id = sha(b"layer %d" % number)
        record: dict[str, object] = {
            "id": layer_id,
            "diff-digest": diff,
            "diff-size": 7,
            "created": "2026-01-01T00:00:00Z",
        }
        if layers:
            record["parent"] = layers[-1]["id"]
        layers.append(record)
        (root / "overlay" / layer_id / "diff").mkdir(parents=True)
    raw = config_of(DIFFS[:3])
    image = sha(raw)
    for part in ("layers", "images", "containers"):
        (root / f"overlay-{part}").mkdir()
    (root / "overlay-images" / image).mkdir()
    (root / "overlay-images" / image / big_data_name(f"sha256:{image}")).write_bytes(raw)
    record = {"id": image, "names": ["docker.io/library/a:1"], "layer": layers[-1]["id"], "digest": DIFFS[3]}
    (root / "overlay-images/images.json").write_text(json.dumps([record]))
    writable = {"id": "d" * 64, "parent": layers[-1]["id"]}
    (root / "overlay" / str(writable["id"]) / "diff").mkdir(parents=True)
    (root / "overlay-layers/layers.json").write_text(json.dumps([*layers, writable]))
    container = {"id": "c" * 64, "names": ["one"], "image": image, "layer": writable["id"], "metadata": "{}"}
    (root / "overlay-containers/containers.json").write_text(json.dumps([container]))
    return layers, f"sha256:{image}"


def test_a_hand_made_store_of_containers_storage_is_read(tmp_path: Path) -> None:
    layers, image = storage_root(tmp_path)
    reader = open_reader(tmp_path)
    assert reader.find_image("a:1").id == image
    assert reader.find_image("a:1").layers == tuple(str(record["id"]) for record in layers)
    assert reader.find_image("a:1").digests == (f"a@{DIFFS[3]}",)
    assert reader.find_container("one").layers[-1] == "d" * 64
    assert not reader.problems
    everything(reader)


def test_big_data_has_the_names_that_containers_storage_gives() -> None:
    assert big_data_name("manifest") == "manifest"
    key = "sha256:abc"
    assert big_data_name(key) == "=" + base64.b64encode(key.encode()).decode()


def test_parents_that_go_round_and_half_written_layers_do_no_harm(tmp_path: Path) -> None:
    layers, _ = storage_root(tmp_path)
    layers[0]["parent"] = layers[2]["id"]
    (tmp_path / "overlay-layers/layers.json").write_text(
        json.dumps([*layers, {"id": "e" * 64, "flags": {"incomplete": True}}])
    )
    reader = open_reader(tmp_path)
    everything(reader)
    assert "e" * 64 not in reader.layers()
    assert len(reader.find_image("a:1").layers) == 3


@pytest.mark.parametrize("bad", ["../../etc", "/etc", "", "A" * 64, 7, None, ["x"]])
def test_an_id_that_is_none_never_becomes_a_path(tmp_path: Path, bad: object) -> None:
    storage_root(tmp_path)
    for part in ("layers", "images", "containers"):
        (tmp_path / f"overlay-{part}" / f"{part}.json").write_text(
            json.dumps([{"id": bad, "layer": bad, "parent": bad, "image": bad}])
        )
    reader = open_reader(tmp_path)
    everything(reader)
    assert not reader.images()
    assert not reader.layers()
    assert reader.problems


@pytest.mark.parametrize("content", [b"", b"{", b"{}", b"[[]]", b"[1,null]", b"[" * 100000, b"\xff"])
def test_a_damaged_catalogue_is_named(tmp_path: Path, content: bytes) -> None:
    storage_root(tmp_path)
    (tmp_path / "overlay-layers/layers.json").write_bytes(content)
    reader = open_reader(tmp_path)
    everything(reader)
    assert not reader.layers()
    assert reader.problems or not content


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 1 << 70) | st.text(max_size=8) | st.sampled_from(["a" * 64, *DIFFS]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                [
                    "id",
                    "names",
                    "layer",
                    "parent",
                    "diff-digest",
                    "diff-size",
                    "flags",
                    "metadata",
                    "image",
                    "big-data-names",
                ]
            ),
            inner,
            max_size=6,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=120)
@given(documents=st.tuples(JSON, JSON, JSON))
def test_any_catalogue_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, documents: tuple[object, ...]
) -> None:
    root = tmp_path_factory.mktemp("storage")
    storage_root(root)
    for part, document in zip(("layers", "images", "containers"), documents, strict=True):
        (root / f"overlay-{part}" / f"{part}.json").write_text(
            json.dumps(document if isinstance(document, list) else [document])
        )
    everything(open_reader(root))


@pytest.mark.parametrize("place", ["overlay", "overlay-layers", "overlay-images", "overlay-containers"])
def test_a_store_of_containers_storage_is_not_entered_through_a_link(tmp_path: Path, place: str) -> None:
    root = tmp_path / "root"
    storage_root(root)
    replace_by_link(root / place, root / f"{place}.aside")
    with pytest.raises((DataLoss, NotFound)):
        open_reader(root)


def test_a_config_that_is_not_what_it_is_named_is_a_problem(tmp_path: Path) -> None:
    _, image = storage_root(tmp_path)
    (tmp_path / "overlay-images" / image[7:] / big_data_name(image)).write_bytes(config_of(DIFFS[:1]))
    reader = open_reader(tmp_path)
    assert not reader.images()
    assert "damaged" in reader.problems[0]


# ---------------------------------------------------------------------------------------------------- containerd


def containerd_root(root: Path, *, name: bytes = b"docker.io/library/a:1", target: bytes | None = None) -> Tree:
    """Write a store of one image that was unpacked, and return its catalogue."""
    blobs = root / "io.containerd.content.v1.content/blobs/sha256"
    blobs.mkdir(parents=True)
    raw = config_of(DIFFS[:1])
    manifest = json.dumps({"config": {"digest": f"sha256:{sha(raw)}"}, "layers": [{"digest": DIFFS[3]}]}).encode()
    for content in (raw, manifest):
        (blobs / sha(content)).write_bytes(content)
    catalogue: Tree = {b"v1": {b"default": {
        b"images": {name: {b"target": {b"digest": target or f"sha256:{sha(manifest)}".encode()}}},
        b"snapshots": {b"overlayfs": {DIFFS[0].encode(): {b"name": b"default/1/x"}}},
        b"containers": {b"one": {b"image": name, b"snapshotter": b"overlayfs", b"snapshotKey": b"one"}},
    }}}  # fmt: skip
    (root / "io.containerd.metadata.v1.bolt").mkdir()
    (root / "io.containerd.metadata.v1.bolt/meta.db").write_bytes(BoltWriter(catalogue).content())
    home = root / "io.containerd.snapshotter.v1.overlayfs"
    (home / "snapshots/1/fs").mkdir(parents=True)
    snapshots: Tree = {b"v1": {b"snapshots": {b"default/1/x": {b"id": b"\x01", b"kind": b"\x03", b"size": b"\x08"}}}}
    (home / "metadata.db").write_bytes(BoltWriter(snapshots).content())
    return catalogue


def test_a_hand_made_containerd_store_is_read(tmp_path: Path) -> None:
    containerd_root(tmp_path)
    reader = open_reader(tmp_path)
    assert reader.find_image("a:1").layers == (DIFFS[0],)
    layer = reader.layers()[DIFFS[0]]
    assert (layer.directory_id, layer.size, layer.role) == ("1", 4, "image")
    assert reader.find_container("one").layers == ()
    assert not reader.problems
    everything(reader)


@pytest.mark.parametrize("target", [b"", b"sha256:" + b"0" * 64, b"sha256:../../x", b"md5:0", b"\xff"])
def test_an_image_that_leads_nowhere_is_named(tmp_path: Path, target: bytes) -> None:
    containerd_root(tmp_path, target=target or b"sha256:")
    reader = open_reader(tmp_path)
    everything(reader)
    assert not reader.images()
    assert "image docker.io/library/a:1" in reader.problems[0]


def test_indexes_that_lead_to_indexes_end(tmp_path: Path) -> None:
    blobs = tmp_path / "io.containerd.content.v1.content/blobs/sha256"
    containerd_root(tmp_path)
    digest = f"sha256:{sha(b'x')}"
    for _ in range(8):
        raw = json.dumps(
            {"manifests": [{"digest": digest}, {"digest": digest, "platform": {"os": "unknown"}}, {}, 7]}
        ).encode()
        (blobs / sha(raw)).write_bytes(raw)
        digest = f"sha256:{sha(raw)}"
    tree: Tree = {b"v1": {b"default": {b"images": {b"deep:1": {b"target": {b"digest": digest.encode()}}}}}}
    (tmp_path / "io.containerd.metadata.v1.bolt/meta.db").write_bytes(BoltWriter(tree).content())
    reader = open_reader(tmp_path)
    everything(reader)
    assert "too often" in reader.problems[0]


def test_damaged_blobs_and_catalogues_are_named(tmp_path: Path) -> None:
    containerd_root(tmp_path)
    for blob in (tmp_path / "io.containerd.content.v1.content/blobs/sha256").iterdir():
        blob.write_bytes(b"{}")
    reader = open_reader(tmp_path)
    everything(reader)
    assert "digest is" in reader.problems[0]
    (tmp_path / "io.containerd.snapshotter.v1.overlayfs/metadata.db").write_bytes(b"x" * 9000)
    reader = open_reader(tmp_path)
    everything(reader)
    assert not reader.layers()
    assert any("no bolt file" in problem for problem in reader.problems)
    (tmp_path / "io.containerd.metadata.v1.bolt/meta.db").write_bytes(b"x" * 9000)
    with pytest.raises(DataLoss, match="no bolt file"):
        open_reader(tmp_path)


@settings(max_examples=100)
@given(data=st.data())
def test_any_damage_to_the_catalogues_is_refused_or_passed_over(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    root = tmp_path_factory.mktemp("containerd")
    containerd_root(root)
    place = root / data.draw(
        st.sampled_from(
            ["io.containerd.metadata.v1.bolt/meta.db", "io.containerd.snapshotter.v1.overlayfs/metadata.db"]
        )
    )
    raw = bytearray(place.read_bytes())
    for _ in range(data.draw(st.integers(1, 5))):
        at = data.draw(st.integers(8192, len(raw) - 1))
        raw[at] = data.draw(st.integers(0, 255))
    place.write_bytes(raw)
    with contextlib.suppress(DataLoss):
        everything(open_reader(root))


def test_a_driver_that_is_not_known_is_said(tmp_path: Path) -> None:
    (tmp_path / "image/btrfs").mkdir(parents=True)
    with pytest.raises(Unsupported, match="btrfs"):
        open_reader(tmp_path)


def test_a_store_of_remapped_users_is_pointed_to(tmp_path: Path) -> None:
    docker_root(tmp_path / "100000.100000")
    with pytest.raises(NotFound, match=r"give .*/100000\.100000"):
        open_reader(tmp_path)
    assert open_reader(tmp_path / "100000.100000").find_image("a:1").names == ("a:1",)

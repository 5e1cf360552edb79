"""Loading archives: every form that is read, and every hostile one, which must leave the store as it was."""

from __future__ import annotations

import bz2
import io
import json
import lzma
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard

from lamella.errors import DataLoss, DigestMismatch, InvalidArgument, LamellaError, NotFound, Unsupported
from lamella.model.digest import DiffID, chain_ids
from lamella.model.platform import parse_platform
from lamella.model.reference import parse_tagged
from lamella.store.imagestore import ImageStore
from lamella.transports.archive import TarMembers
from lamella.transports.loading import load
from tests.support.archives import (
    Made,
    add,
    digest,
    docker20,
    image,
    layer_tar,
    leaks,
    listing,
    oci_blobs,
    oci_directory,
    oci_tar,
    packed_gzip,
)

BASE = layer_tar({"etc": None, "etc/motd": b"hello\n", "bin": None, "bin/sh": b"#!\n"})
NEXT = layer_tar({"etc/.wh.motd": b"", "new": b"more\n"})
OTHER = layer_tar({"other": b"x" * 5000})


@pytest.fixture
def store(store_root: Path) -> ImageStore:
    return ImageStore.open(store_root)


def check_loaded(store: ImageStore, made: Made) -> None:
    stored = store.images.get(made.id)  # type: ignore[arg-type]
    assert stored.raw == made.config
    stack = store.layers.stack(stored.top)
    assert [layer.diff_id for layer in stack] == [digest(layer) for layer in made.layers]
    for layer, raw in zip(stack, made.layers, strict=True):
        out = bytearray()
        store.layers.reassemble(layer, out.extend)
        assert bytes(out) == raw
    for tag in made.tags:
        assert store.tags.find(parse_tagged(tag)) == made.id
    assert leaks(store.root.path) == []


@pytest.mark.parametrize("pack", [bytes, packed_gzip, zstandard.ZstdCompressor().compress, bz2.compress, lzma.compress])
def test_docker_20_archive_loads_with_layers_packed_in_any_way(
    store: ImageStore, tmp_path: Path, pack: Callable[[bytes], bytes]
) -> None:
    made = image([BASE, NEXT], "a/b:1", "a/b:2")
    loaded = load(store, docker20(tmp_path / "a.tar", made, compress=pack))
    assert [(item.id, [reference.familiar() for reference in item.references]) for item in loaded] == [
        (made.id, ["a/b:1", "a/b:2"])
    ]
    check_loaded(store, made)


@pytest.mark.parametrize("pack", [packed_gzip, zstandard.ZstdCompressor().compress, bz2.compress, lzma.compress])
def test_the_whole_archive_may_be_packed(store: ImageStore, tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    made = image([BASE], "x:1")
    path = docker20(tmp_path / "a.tar", made)
    path.write_bytes(pack(path.read_bytes()))
    load(store, path)
    check_loaded(store, made)


def test_an_archive_comes_through_a_pipe(store: ImageStore, tmp_path: Path) -> None:
    made = image([BASE, NEXT], "x:1")
    raw = docker20(tmp_path / "a.tar", made).read_bytes()
    load(store, io.BytesIO(raw))
    check_loaded(store, made)


def test_a_layer_given_twice_is_a_link_in_the_archive_and_a_layer_of_its_own(store: ImageStore, tmp_path: Path) -> None:
    made = image([BASE, OTHER, BASE], "x:1")
    load(store, docker20(tmp_path / "a.tar", made))
    check_loaded(store, made)


@pytest.mark.parametrize("form", [oci_directory, oci_tar])
@pytest.mark.parametrize(
    ("pack", "media"),
    [(None, "tar"), (packed_gzip, "tar+gzip"), (zstandard.ZstdCompressor().compress, "tar+zstd")],
)
def test_oci_layouts_load(store: ImageStore, tmp_path: Path, form: Any, pack: Any, media: str) -> None:
    made = image([BASE, NEXT], "docker.io/library/x:1", "localhost:5000/y:2")
    load(store, form(tmp_path / "layout", *oci_blobs(made, pack=pack, media=media)))
    check_loaded(store, made)


def test_an_index_in_an_index_leads_to_the_image_for_the_platform(store: ImageStore, tmp_path: Path) -> None:
    arm = image([OTHER], "x:1", architecture="arm64")
    amd = image([BASE], "x:1")
    blobs, index = oci_blobs(amd, nest=2, platform={"os": "linux", "architecture": "amd64"})
    more, other = oci_blobs(arm, nest=2, platform={"os": "linux", "architecture": "arm64"})
    both = {"schemaVersion": 2, "manifests": json.loads(index)["manifests"] + json.loads(other)["manifests"]}
    path = oci_tar(tmp_path / "l.tar", {**blobs, **more}, json.dumps(both).encode())
    load(store, path, platform=parse_platform("linux/arm64"))
    check_loaded(store, arm)
    assert store.images.find(amd.id) is None  # type: ignore[arg-type]


def test_indexes_nested_five_deep_are_refused(store: ImageStore, tmp_path: Path) -> None:
    load(store, oci_tar(tmp_path / "four.tar", *oci_blobs(image([BASE]), nest=4)))
    with pytest.raises(InvalidArgument, match="deeper than 4"):
        load(store, oci_tar(tmp_path / "five.tar", *oci_blobs(image([OTHER]), nest=5)))


def test_a_missing_platform_is_named_with_what_there_is(store: ImageStore, tmp_path: Path) -> None:
    made = image([BASE], platform=None)
    path = oci_tar(tmp_path / "l.tar", *oci_blobs(made, nest=1, platform={"os": "linux", "architecture": "s390x"}))
    with pytest.raises(NotFound, match=r"linux/s390x"):
        load(store, path, platform=parse_platform("linux/arm64"))


def test_known_layers_need_not_be_in_the_archive(store: ImageStore, tmp_path: Path) -> None:
    load(store, docker20(tmp_path / "base.tar", image([BASE], "base:1")))
    made = image([BASE, NEXT], "x:1")
    full = docker20(tmp_path / "full.tar", made)
    thin = tmp_path / "thin.tar"
    with tarfile.open(full) as source, tarfile.open(thin, "w") as target:
        names = json.loads(source.extractfile("manifest.json").read())[0]["Layers"]  # type: ignore[union-attr]
        for member in source:
            if member.name != names[0]:
                target.addfile(member, source.extractfile(member) if member.isreg() else None)
    load(store, thin)
    check_loaded(store, made)


def test_tags_move_to_what_was_loaded_last(store: ImageStore, tmp_path: Path) -> None:
    first, second = image([BASE], "x:1", "x:old"), image([OTHER], "x:1")
    load(store, docker20(tmp_path / "1.tar", first))
    load(store, docker20(tmp_path / "2.tar", second))
    assert store.tags.find(parse_tagged("x:1")) == second.id
    assert [reference.familiar() for reference in store.tags.references(first.id)] == ["x:old"]  # type: ignore[arg-type]


def test_parents_in_the_archive_are_remembered_if_the_histories_fit(store: ImageStore, tmp_path: Path) -> None:
    parent, child, stranger = image([BASE], "p:1"), image([BASE, NEXT], "c:1"), image([OTHER], "s:1")
    path = docker20(tmp_path / "a.tar", parent, child, stranger)
    with tarfile.open(path) as archive:
        manifest = json.loads(archive.extractfile("manifest.json").read())  # type: ignore[union-attr]
    manifest[1]["Parent"] = manifest[2]["Parent"] = parent.id
    load(store, docker20(tmp_path / "b.tar", parent, child, stranger, manifest=manifest))
    assert store.images.get(child.id).parent == parent.id  # type: ignore[arg-type]
    assert store.images.get(stranger.id).parent is None  # type: ignore[arg-type]


# ---------------------------------------------------------------------------------------------------- hostile archives


def rewritten(
    source: Path, target: Path, change: Callable[[tarfile.TarInfo, bytes], tuple[tarfile.TarInfo, bytes]]
) -> Path:
    with tarfile.open(source) as old, tarfile.open(target, "w") as new:
        for member in old:
            content = old.extractfile(member).read() if member.isreg() else b""  # type: ignore[union-attr]
            info, content = change(member, content)
            info.size = len(content)
            new.addfile(info, io.BytesIO(content))
    return target


def manifest_with(**changes: Any) -> Callable[[Path, Made], Path]:
    def make(path: Path, made: Made) -> Path:
        entry = {
            "Config": f"{made.id[7:]}.json",
            "RepoTags": ["x:1"],
            "Layers": ["nowhere/layer.tar"] * len(made.layers),
        }
        entry.update(changes)
        return docker20(path, made, manifest=[entry])

    return make


def with_wrong_layer(path: Path, made: Made) -> Path:
    return docker20(path, Made(made.config, [made.layers[0], OTHER], made.tags))


def with_missing_layer(path: Path, made: Made) -> Path:
    return docker20(path, Made(made.config, made.layers[:1], made.tags))


def with_member(kind: bytes, link: str = "") -> Callable[[Path, Made], Path]:
    def make(path: Path, made: Made) -> Path:
        def change(info: tarfile.TarInfo, content: bytes) -> tuple[tarfile.TarInfo, bytes]:
            if info.name.endswith("layer.tar"):
                info.type, info.linkname, content = kind, link, b""
            return info, content

        return rewritten(docker20(path.with_suffix(".0"), made), path, change)

    return make


def oci_with(change: Callable[[dict[str, bytes], dict[str, Any], Made], None]) -> Callable[[Path, Made], Path]:
    def make(path: Path, made: Made) -> Path:
        blobs, index = oci_blobs(made, pack=packed_gzip, media="tar+gzip")
        document = json.loads(index)
        change(blobs, document, made)
        return oci_tar(path, blobs, json.dumps(document).encode())

    return make


def _flip_layer(blobs: dict[str, bytes], index: dict[str, Any], made: Made) -> None:
    name = digest(packed_gzip(made.layers[1]))[7:]
    blobs[name] = packed_gzip(OTHER)


def _longer_layer(blobs: dict[str, bytes], index: dict[str, Any], made: Made) -> None:
    name = digest(packed_gzip(made.layers[1]))[7:]
    blobs[name] += b"\0"


def _shorter_layer(blobs: dict[str, bytes], index: dict[str, Any], made: Made) -> None:
    name = digest(packed_gzip(made.layers[1]))[7:]
    blobs[name] = blobs[name][:-1]


def _missing_layer(blobs: dict[str, bytes], index: dict[str, Any], made: Made) -> None:
    del blobs[digest(packed_gzip(made.layers[1]))[7:]]


def _flip_config(blobs: dict[str, bytes], index: dict[str, Any], made: Made) -> None:
    blobs[made.id[7:]] = made.config.replace(b"2024", b"2025")


def _digest(text: str) -> Callable[[dict[str, bytes], dict[str, Any], Made], None]:
    def change(blobs: dict[str, bytes], index: dict[str, Any], made: Made) -> None:
        index["manifests"][0]["digest"] = text

    return change


def _other_type(blobs: dict[str, bytes], index: dict[str, Any], made: Made) -> None:
    index["manifests"][0]["mediaType"] = "application/vnd.docker.distribution.manifest.v2+json"


def _ambiguous(blobs: dict[str, bytes], index: dict[str, Any], made: Made) -> None:
    index["layers"] = []


HOSTILE: dict[str, tuple[Callable[[Path, Made], Path], type[LamellaError]]] = {
    "config-is-a-path-outside": (manifest_with(Config="../../../../etc/passwd"), NotFound),
    "config-is-absolute": (manifest_with(Config="/etc/passwd"), NotFound),
    "layer-is-a-path-outside": (manifest_with(Layers=["../../etc/passwd"] * 2), NotFound),
    "layers-are-fewer": (manifest_with(Layers=[]), InvalidArgument),
    "layers-are-no-list": (manifest_with(Layers="x"), InvalidArgument),
    "tag-is-a-path": (manifest_with(RepoTags=["../../x:1"]), InvalidArgument),
    "tag-is-a-digest": (manifest_with(RepoTags=[f"x@sha256:{'0' * 64}"]), InvalidArgument),
    "tag-is-in-sha256": (manifest_with(RepoTags=["sha256:1"]), InvalidArgument),
    "layer-is-another": (with_wrong_layer, DigestMismatch),
    "layer-is-missing": (with_missing_layer, InvalidArgument),
    "layer-links-outside": (with_member(tarfile.SYMTYPE, "../../../etc/passwd"), NotFound),
    "layer-links-to-an-absolute-path": (with_member(tarfile.SYMTYPE, "/etc/passwd"), NotFound),
    "layer-links-to-itself": (with_member(tarfile.SYMTYPE, "layer.tar"), InvalidArgument),
    "layer-is-a-hard-link-outside": (with_member(tarfile.LNKTYPE, "etc/passwd"), NotFound),
    "layer-is-a-fifo": (with_member(tarfile.FIFOTYPE), InvalidArgument),
    "layer-is-a-device": (with_member(tarfile.CHRTYPE), InvalidArgument),
    "layer-is-a-directory": (with_member(tarfile.DIRTYPE), InvalidArgument),
    "oci-layer-is-another": (oci_with(_flip_layer), DataLoss),
    "oci-layer-is-longer": (oci_with(_longer_layer), DataLoss),
    "oci-layer-is-cut-off": (oci_with(_shorter_layer), DataLoss),
    "oci-layer-is-missing": (oci_with(_missing_layer), NotFound),
    "oci-config-is-another": (oci_with(_flip_config), DataLoss),
    "oci-digest-is-a-path": (oci_with(_digest("sha256:../../../etc/passwd")), InvalidArgument),
    "oci-digest-is-upper-case": (oci_with(_digest("sha256:" + "A" * 64)), InvalidArgument),
    "oci-digest-is-unknown": (oci_with(_digest("md5:" + "a" * 32)), InvalidArgument),
    "oci-type-differs": (oci_with(_other_type), InvalidArgument),
    "oci-index-is-a-manifest-too": (oci_with(_ambiguous), InvalidArgument),
}


def test_a_name_longer_than_any_path_is_refused_before_it_is_looked_up(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "a/" * (1 << 18)
        archive.addfile(link)
    with (tmp_path / "x.tar").open("rb") as file:
        members = TarMembers(file.fileno())
        for name in ("link", "a/" * (1 << 20)):
            with pytest.raises(InvalidArgument, match="longer than a path can be"):
                members.open(name)


@pytest.mark.parametrize("name", sorted(HOSTILE))
def test_a_hostile_archive_is_refused_and_changes_nothing(store: ImageStore, tmp_path: Path, name: str) -> None:
    make, error = HOSTILE[name]
    load(store, docker20(tmp_path / "seed.tar", image([BASE], "x:1")))
    path = make(tmp_path / "hostile.tar", image([BASE, NEXT], "x:1"))
    before = listing(store.root.path)
    with pytest.raises(error):
        load(store, path)
    assert listing(store.root.path) == before
    assert leaks(store.root.path) == []
    assert load(store, docker20(tmp_path / "good.tar", image([BASE, NEXT], "x:1")))


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 100_000,
        b'[{"Config": "a", "Config": "b"}]',
        b"[NaN]",
        b"{}",
        b"[1]",
        b"\xff\xfe",
        b"[" + b"1" * 5_000_000 + b"]",
    ],
)
def test_a_manifest_that_is_no_good_json_is_refused(store: ImageStore, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        add(archive, "manifest.json", content)
    with pytest.raises(InvalidArgument):
        load(store, path)
    assert leaks(store.root.path) == []


def test_images_for_another_system_are_refused(store: ImageStore, tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match="windows"):
        load(store, docker20(tmp_path / "a.tar", image([BASE], os="windows")))


def test_more_layers_than_docker_takes_are_refused(store: ImageStore, tmp_path: Path) -> None:
    layers = [layer_tar({f"f{n}": b""}) for n in range(126)]
    with pytest.raises(InvalidArgument, match="max depth exceeded"):
        load(store, docker20(tmp_path / "a.tar", image(layers)))


def test_what_is_no_image_archive_is_refused(store: ImageStore, tmp_path: Path) -> None:
    path = tmp_path / "rootfs.tar"
    path.write_bytes(BASE)
    with pytest.raises(InvalidArgument, match="import"):
        load(store, path)
    with pytest.raises(LamellaError):
        load(store, io.BytesIO(os.urandom(5000)))
    with pytest.raises(LamellaError):
        load(store, io.BytesIO(b""))


def test_an_archive_of_two_images_loads_whole_or_not_at_all(store: ImageStore, tmp_path: Path) -> None:
    good, bad = image([BASE], "good:1"), image([BASE, NEXT], "bad:1")
    path = docker20(tmp_path / "a.tar", good, Made(bad.config, [BASE, OTHER], bad.tags))
    with pytest.raises(DigestMismatch):
        load(store, path)
    assert list(store.images.iter_ids()) == []
    assert list(store.layers.db.iter_chains()) == []
    assert leaks(store.root.path) == []


def test_a_repository_file_that_is_broken_stops_the_load_before_it_begins(store: ImageStore, tmp_path: Path) -> None:
    with store.root.writing():
        store.root.repositories_path.write_bytes(b"")
    with pytest.raises(DataLoss, match=r"repositories\.json"):
        load(store, docker20(tmp_path / "a.tar", image([BASE], "x:1")))
    assert list(store.layers.db.iter_chains()) == []


def test_chains_are_those_of_the_specification(store: ImageStore, tmp_path: Path) -> None:
    made = image([BASE, NEXT, OTHER])
    load(store, docker20(tmp_path / "a.tar", made))
    wanted = chain_ids([DiffID(digest(layer)) for layer in made.layers])  # type: ignore[arg-type]
    assert set(store.layers.db.iter_chains()) == set(wanted)

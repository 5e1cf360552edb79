"""A layer's files by size, what the layers above hide of them, and one path looked up everywhere."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from lamella.errors import NotFound
from lamella.insight.layerfiles import Item, list_items, read_layer_files
from lamella.insight.pathsearch import find_everywhere
from lamella.insight.stamp import store_stamp
from lamella.model.digest import ImageID
from lamella.model.reference import parse_tagged
from lamella.readers.docker import DockerReader
from lamella.store.imagestore import ImageStore
from lamella.transports.loading import load
from tests.support.archives import docker20, image, layer_tar

BASE = layer_tar(
    {
        "etc": None,
        "etc/motd": b"m" * 100,
        "etc/issue": b"i" * 30,
        "opt": None,
        "opt/tool": None,
        "opt/tool/data": b"d" * 5000,
        "bin": "usr/bin",
        "usr": None,
        "usr/bin": None,
        "usr/bin/sh": b"s" * 400,
    }
)
CHANGES = layer_tar({"etc/motd": b"new", "opt/.wh.tool": b""})
MORE = layer_tar({"etc/issue": b"changed"})
KEEPS = layer_tar({"srv": None, "srv/app": b"app"})


@pytest.fixture
def root(tmp_path: Path) -> Path:
    place = tmp_path / "root"
    archive = docker20(
        tmp_path / "images.tar",
        image([BASE, CHANGES], "one:1"),
        image([BASE, CHANGES, MORE], "two:1"),
        image([BASE, MORE], "three:1"),
    )
    load(ImageStore.open(place), archive)
    return place


def only(items: tuple[Item, ...], name: str) -> Item:
    return next(item for item in items if item.name == name.encode())


def base_of(reader: DockerReader, name: str) -> tuple[str, str]:
    found = reader.find_image(name)
    return found.layers[0], found.id


def test_sizes_add_up_from_the_files_to_the_root(root: Path) -> None:
    reader = DockerReader(root)
    layer, _ = base_of(reader, "one:1")
    files = read_layer_files(reader, layer, "")
    assert (files.root.size, files.root.files) == (100 + 30 + 5000 + 400 + len("usr/bin"), 5)
    assert files.root.size == reader.layers()[layer].size
    assert only(list_items(files.root), "etc").size == 130


def test_a_directory_with_nothing_but_a_directory_is_told_by_the_longer_name(root: Path) -> None:
    reader = DockerReader(root)
    layer, _ = base_of(reader, "one:1")
    items = list_items(read_layer_files(reader, layer, "").root)
    assert [item.name for item in items] == [b"opt/tool", b"usr/bin", b"etc", b"bin"]
    assert [item.name for item in items[0].items] == [b"data"]


def test_hidden_is_what_the_layers_above_overwrite_or_delete_in_that_image(root: Path) -> None:
    reader = DockerReader(root)
    layer, stack = base_of(reader, "two:1")
    files = read_layer_files(reader, layer, stack)
    assert files.root.hidden == 100 + 30 + 5000
    etc = list_items(files.root.find([b"etc"]))
    assert (only(etc, "motd").fate, only(etc, "motd").by) == ("overwritten", 2)
    assert (only(etc, "issue").fate, only(etc, "issue").by) == ("overwritten", 3)
    data = only(list_items(files.root.find([b"opt", b"tool"])), "data")
    assert (data.fate, data.by, data.hidden) == ("deleted", 2, 5000)


def test_wasted_is_only_what_no_image_shows(root: Path) -> None:
    reader = DockerReader(root)
    layer, stack = base_of(reader, "two:1")
    files = read_layer_files(reader, layer, stack)
    # `one` shows etc/issue, `three` shows etc/motd and opt/tool.
    assert (files.root.wasted, files.compared) == (0, 3)
    store = ImageStore.open(root)
    three = ImageID(reader.find_image("three:1").id)  # type: ignore[arg-type]
    store.tags.remove(parse_tagged("three:1"))
    with store.root.writing():
        store.delete_image(three)
    files = read_layer_files(DockerReader(root), layer, stack)
    assert (files.root.wasted, files.compared) == (100 + 5000, 2)


def test_nothing_is_wasted_of_a_layer_that_an_image_ends_with(root: Path) -> None:
    load(ImageStore.open(root), docker20(root.parent / "base.tar", image([BASE], "base:1")))
    reader = DockerReader(root)
    layer, stack = base_of(reader, "two:1")
    files = read_layer_files(reader, layer, stack)
    assert files.root.hidden == 5130
    assert files.root.wasted == 0


def test_with_whole_directories_only_what_the_layer_changed_is_its_own(tmp_path: Path) -> None:
    root = tmp_path / "root"
    archive = docker20(tmp_path / "images.tar", image([BASE, CHANGES, KEEPS], "one:1"))
    load(ImageStore.open(root, driver="vfs"), archive)
    reader = DockerReader(root)
    found = reader.find_image("one:1")
    base = read_layer_files(reader, found.layers[0], found.id)
    assert (base.root.files, base.root.hidden) == (5, 5100)
    top = read_layer_files(reader, found.layers[2], found.id)
    assert [item.name for item in list_items(top.root)] == [b"srv"]
    assert top.number == 3


def test_the_rest_of_a_long_directory_is_one_item(tmp_path: Path) -> None:
    root = tmp_path / "root"
    files = {f"f{number:03}": b"x" * (number + 1) for number in range(100)}
    load(ImageStore.open(root), docker20(tmp_path / "i.tar", image([layer_tar(files)], "many:1")))
    reader = DockerReader(root)
    items = list_items(read_layer_files(reader, *base_of(reader, "many:1")).root, [10])
    assert len(items) == 11
    assert items[-1].kind == "rest"
    assert items[-1].files == 90
    assert sum(item.size for item in items) == sum(range(1, 101))


def test_a_stack_without_the_layer_is_refused(root: Path) -> None:
    reader = DockerReader(root)
    other = reader.find_image("three:1")
    with pytest.raises(NotFound, match="does not have layer"):
        read_layer_files(reader, reader.find_image("two:1").layers[1], other.id)
    with pytest.raises(NotFound, match="No such layer"):
        read_layer_files(reader, "sha256:" + "0" * 64, "")


def test_a_path_is_found_in_every_image_each_version_once(root: Path) -> None:
    reader = DockerReader(root)
    found = find_everywhere(reader, b"/etc/motd")
    held = {version.status.st_size: {holder.name for holder in version.holders} for version in found.versions}
    assert held == {3: {"one:1", "two:1"}, 100: {"three:1"}}
    assert not found.absent
    gone = find_everywhere(reader, b"opt/tool/data")
    assert [holder.name for holder in gone.versions[0].holders] == ["three:1"]
    assert {holder.name for holder in gone.absent} == {"one:1", "two:1"}


def test_links_on_the_way_to_a_path_are_followed_inside_the_image(root: Path) -> None:
    found = find_everywhere(DockerReader(root), b"/bin/sh")
    assert [(version.path, version.kind, len(version.holders)) for version in found.versions] == [
        (b"usr/bin/sh", "file", 3)
    ]
    link = find_everywhere(DockerReader(root), b"/bin")
    assert [(version.kind, version.target) for version in link.versions] == [("link", b"usr/bin")]


def test_an_image_that_lost_a_layer_cannot_be_told(root: Path) -> None:
    reader = DockerReader(root)
    lost = reader.layers()[reader.find_image("three:1").layers[1]]
    subprocess.run(["rm", "-r", lost.directory], check=True)
    found = find_everywhere(DockerReader(root), b"/etc/motd")
    assert [holder.name for holder, _ in found.unreadable] == ["three:1"]


def test_the_stamp_changes_with_names_images_and_containers_and_else_stays(root: Path) -> None:
    def stamp() -> str:
        os.sync()
        return store_stamp(root, "docker", "overlay2")

    settle(root)
    before = stamp()
    assert stamp() == before
    store = ImageStore.open(root)
    store.tags.set(parse_tagged("other:1"), ImageID(DockerReader(root).find_image("one:1").id))  # type: ignore[arg-type]
    tagged = stamp()
    assert tagged != before
    load(store, docker20(root.parent / "base.tar", image([BASE], "base:1")))
    assert stamp() != tagged


def settle(root: Path) -> None:
    """Let what was just written count as old."""
    for directory, _, files in os.walk(root / "image"):
        for name in (".", *files):
            os.utime(os.path.join(directory, name), (1_600_000_000, 1_600_000_000))

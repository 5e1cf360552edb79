"""What is read from a data-root that may be anybody's: damage hides what depends on it, is named, and never crashes."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from lamella.errors import AlreadyExists, Conflict, DataLoss, InvalidArgument, NotFound
from lamella.model.digest import ChainID, DiffID, Digest, ImageID, chain_id
from lamella.model.gojson import ZERO_TIME
from lamella.model.ids import new_container_id
from lamella.model.reference import parse_tagged
from lamella.store.containerdb import ContainerRecord, new_record
from lamella.store.imagestore import ImageStore
from lamella.store.smallfiles import read_small
from lamella.transports.loading import load
from tests.support.archives import Made, digest, docker20, image, layer_tar, leaks

BASE = layer_tar({"etc": None, "etc/motd": b"hello\n"})
NEXT = layer_tar({"new": b"more\n"})
TOP = layer_tar({"top": b"top\n"})


@pytest.fixture
def store(store_root: Path) -> ImageStore:
    return ImageStore.open(store_root)


@pytest.fixture
def made(store: ImageStore, tmp_path: Path) -> Made:
    made = image([BASE, NEXT, TOP], "x:1")
    load(store, docker20(tmp_path / "x.tar", made))
    return made


def chains_of(made: Made) -> list[ChainID]:
    found: list[ChainID] = []
    for layer in made.layers:
        found.append(chain_id(found[-1] if found else None, DiffID(digest(layer))))  # type: ignore[arg-type]
    return found


def test_the_layout_and_its_modes_are_dockers(store: ImageStore, made: Made) -> None:
    root = store.root.path
    modes = {
        ".": 0o710,
        "image": 0o700,
        "image/overlay2": 0o700,
        "image/overlay2/imagedb": 0o700,
        "image/overlay2/imagedb/content/sha256": 0o700,
        "image/overlay2/layerdb": 0o700,
        "image/overlay2/layerdb/sha256": 0o755,
        "image/overlay2/layerdb/tmp": 0o755,
        "image/overlay2/layerdb/mounts": 0o755,
        "image/overlay2/repositories.json": 0o600,
        f"image/overlay2/imagedb/content/sha256/{made.id[7:]}": 0o600,
        "containers": 0o710,
        "overlay2": 0o710,
        "overlay2/l": 0o700,
    }
    assert {name: (root / name).stat().st_mode & 0o7777 for name in modes} == modes
    record = store.layers.db.path(chains_of(made)[1])
    assert record.stat().st_mode & 0o7777 == 0o700
    assert sorted(os.listdir(record)) == ["cache-id", "diff", "parent", "size", "tar-split.json.gz"]
    assert {(record / name).stat().st_mode & 0o7777 for name in os.listdir(record)} == {0o644}
    assert (record / "diff").read_text() == digest(NEXT)
    assert (record / "parent").read_text() == digest(BASE)
    assert (record / "size").read_text() == "5"


def test_repositories_json_is_spelled_as_docker_spells_it(store: ImageStore, made: Made) -> None:
    image_id = ImageID(made.id)  # type: ignore[arg-type]
    store.tags.set(parse_tagged("127.0.0.1:5000/a/bb:1"), image_id)
    store.tags.set(parse_tagged(f"127.0.0.1:5000/a/bb@{digest(b'm')}"), image_id)
    wanted = (
        f'{{"Repositories":{{"127.0.0.1:5000/a/bb":{{"127.0.0.1:5000/a/bb:1":"{made.id}",'
        f'"127.0.0.1:5000/a/bb@{digest(b"m")}":"{made.id}"}},"x":{{"x:1":"{made.id}"}}}}}}'
    )
    assert store.root.repositories_path.read_text() == wanted
    references = [reference.familiar() for reference in store.tags.references(image_id)]
    assert references == ["127.0.0.1:5000/a/bb:1", f"127.0.0.1:5000/a/bb@{digest(b'm')}", "x:1"]
    store.tags.remove(*store.tags.references(image_id))
    assert store.root.repositories_path.read_text() == '{"Repositories":{}}'


def test_a_repository_cannot_be_called_sha256_nor_be_tagged_without_a_tag(store: ImageStore, made: Made) -> None:
    image_id = ImageID(made.id)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument, match="sha256"):
        store.tags.set(parse_tagged("sha256:1"), image_id)
    with pytest.raises(InvalidArgument, match="add a tag"):
        store.tags.set(parse_tagged("y:1")._replace(tag=None), image_id)
    with pytest.raises(NotFound):
        store.tags.remove(parse_tagged("y:1"))


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"Repositories":[]}', b'{"Repositories":{"x":{"x:1":1}}}'])
def test_broken_references_read_as_none_and_are_never_overwritten(
    store: ImageStore, made: Made, content: bytes
) -> None:
    store.root.repositories_path.write_bytes(content)
    assert store.tags.read() == {}
    assert listed(store) == [made.id]
    assert any("repositories.json" in problem for problem in store.problems)
    with pytest.raises(DataLoss, match=r"repositories\.json"):
        store.tags.set(parse_tagged("y:1"), ImageID(made.id))  # type: ignore[arg-type]
    assert store.root.repositories_path.read_bytes() == content


def test_references_lamella_cannot_read_are_kept(store: ImageStore, made: Made) -> None:
    document = {"Repositories": {"x": {"x:1": made.id, "X Y": made.id}, "gone": {"gone:1": digest(b"gone")}}}
    store.root.repositories_path.write_text(json.dumps(document))
    store.tags.set(parse_tagged("y:1"), ImageID(made.id))  # type: ignore[arg-type]
    kept = json.loads(store.root.repositories_path.read_text())["Repositories"]
    assert kept["x"] == {"x:1": made.id, "X Y": made.id}
    assert kept["gone"] == {"gone:1": digest(b"gone")}


def usable(store: ImageStore) -> list[str]:
    return [image.id for image in store.images.iter_images() if store.is_usable(image)]


def listed(store: ImageStore) -> list[str]:
    return [head.id for head in store.iter_heads(store.layers.sizes())]


def damage_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("/etc/passwd")


def damage_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def damage_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def damage_huge(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("size", b"5\n"),
        ("size", b"-5"),
        ("size", b""),
        ("diff", b"sha256:../../../etc"),
        ("diff", b""),
        ("diff", digest(b"another").encode()),
        ("cache-id", b"../../../../etc"),
        ("cache-id", b""),
        ("cache-id", b"a" * 600),
        ("parent", b"not a digest"),
        ("parent", digest(b"another").encode()),
    ],
)
def test_a_damaged_record_hides_what_stands_on_it_and_is_named(
    store: ImageStore, made: Made, tmp_path: Path, name: str, content: bytes
) -> None:
    other = image([TOP], "other:1")
    load(store, docker20(tmp_path / "o.tar", other))
    (store.layers.db.path(chains_of(made)[1]) / name).write_bytes(content)
    assert [layer.diff_id for layer in store.layers.iter_layers()] in (
        [digest(BASE), digest(TOP)],
        [digest(TOP), digest(BASE)],
    )
    assert usable(store) == [other.id]
    assert listed(store) == sorted([other.id] if name == "size" else [other.id, made.id])
    assert any(chains_of(made)[1] in problem for problem in store.problems)
    assert any(made.id in problem for problem in store.problems)
    with pytest.raises(DataLoss):
        store.layers.stack(chains_of(made)[2])


@pytest.mark.parametrize("damage", [damage_link, damage_fifo, damage_directory, damage_huge])
@pytest.mark.parametrize("name", ["diff", "size", "cache-id", "parent"])
def test_a_record_file_that_is_no_small_file_is_not_read(
    store: ImageStore, made: Made, name: str, damage: object
) -> None:
    damage(store.layers.db.path(chains_of(made)[1]) / name)  # type: ignore[operator]
    assert [layer.diff_id for layer in store.layers.iter_layers()] == [digest(BASE)]
    assert listed(store) == ([] if name == "size" else [made.id])


def test_white_space_is_trimmed_where_docker_trims_it(store: ImageStore, made: Made) -> None:
    record = store.layers.db.path(chains_of(made)[1])
    for name in ("diff", "cache-id", "parent"):
        (record / name).write_bytes((record / name).read_bytes() + b"\n")
    assert len(store.layers.stack(chains_of(made)[2])) == 3


def test_a_layer_that_is_its_own_parent_is_only_damaged(store: ImageStore, made: Made) -> None:
    chain = chains_of(made)[1]
    (store.layers.db.path(chain) / "parent").write_text(chain)
    with pytest.raises(DataLoss):
        store.layers.stack(chains_of(made)[2])


def test_loading_again_repairs_a_damaged_record(store: ImageStore, made: Made, tmp_path: Path) -> None:
    (store.layers.db.path(chains_of(made)[1]) / "size").write_bytes(b"x")
    load(store, docker20(tmp_path / "again.tar", made))
    assert len(store.layers.stack(chains_of(made)[2])) == 3


def test_a_damaged_config_is_not_listed(store: ImageStore, made: Made) -> None:
    with (store.images.content / made.id[7:]).open("ab") as file:
        file.write(b" ")
    assert list(store.images.iter_images()) == []
    assert listed(store) == []
    with pytest.raises(DataLoss, match="damaged"):
        store.images.get(ImageID(made.id))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{}",
        b'{"rootfs":1}',
        b'{"rootfs":{"diff_ids":[1]}}',
        b'{"rootfs":{},"created":"then"}',
        b"[" * 9999,
    ],
)
def test_a_config_that_is_none_is_not_listed_and_says_why(store: ImageStore, made: Made, content: bytes) -> None:
    strange = digest(content)
    (store.images.content / strange[7:]).write_bytes(content)
    assert listed(store) == [made.id]
    assert any(strange in problem for problem in store.problems)


def test_a_config_of_which_only_the_rest_is_malformed_is_listed_and_cannot_be_used(
    store: ImageStore, made: Made
) -> None:
    content = b'{"rootfs":{"type":"layers","diff_ids":[]},"config":7}'
    strange = ImageID(Digest(digest(content)))
    (store.images.content / strange[7:]).write_bytes(content)
    assert listed(store) == sorted([made.id, strange])
    with pytest.raises(DataLoss, match="config: expected an object"):
        store.images.get(strange)


def test_a_config_without_its_layers_is_not_usable_and_cannot_be_stored(store: ImageStore, made: Made) -> None:
    with pytest.raises(Conflict, match="not in the store"):
        store.images.put(image([layer_tar({"z": b""})]).config)
    other = image([layer_tar({"z": b""})])
    (store.images.content / other.id[7:]).write_bytes(other.config)
    assert listed(store) == [made.id]


def test_what_an_image_with_a_damaged_config_may_need_is_kept_until_it_is_gone(
    store: ImageStore, made: Made, tmp_path: Path
) -> None:
    base = image([BASE], "base:1")
    load(store, docker20(tmp_path / "b.tar", base))
    config = store.images.content / base.id[7:]
    config.write_bytes(bytes(len(base.config)))
    store.delete_image(ImageID(made.id))  # type: ignore[arg-type]
    assert len(list(store.layers.iter_layers())) == 3

    config.write_bytes(base.config)
    assert usable(store) == [base.id]
    load(store, docker20(tmp_path / "b.tar", base))  # any change looks again
    assert [layer.diff_id for layer in store.layers.iter_layers()] == [digest(BASE)]

    config.write_bytes(b"")
    store.delete_image(ImageID(base.id))  # type: ignore[arg-type]
    store.removal.release_unused([ChainID(DiffID(Digest(digest(BASE))))])
    assert not list(store.layers.iter_layers())


def test_image_ids_resolve_by_prefix(store: ImageStore, made: Made, tmp_path: Path) -> None:
    others = [image([BASE], created=f"2020-01-01T00:00:{n:02}Z") for n in range(40)]
    load(store, docker20(tmp_path / "many.tar", *others))
    digits = made.id[7:]
    for text in (digits, digits[:12], made.id, made.id[:30]):
        assert store.images.resolve_prefix(text) == made.id
    ambiguous = next(d for d in "0123456789abcdef" if sum(o.id[7] == d for o in others) > 1)
    with pytest.raises(InvalidArgument, match="ambiguous"):
        store.images.resolve_prefix(ambiguous)
    for text in ("", "sha256:", "xyz", "../", "0" * 64, "f" * 65):
        with pytest.raises(NotFound):
            store.images.resolve_prefix(text)
    assert store.resolve("x:1") == made.id
    assert store.resolve(digits[:12]) == made.id
    with pytest.raises(NotFound, match="No such image: nosuch"):
        store.resolve("nosuch")


def test_image_metadata_are_dockers_keys(store: ImageStore, made: Made) -> None:
    child = image([BASE, NEXT, TOP], comment="child")
    parent_id, child_id = ImageID(made.id), ImageID(child.id)  # type: ignore[arg-type]
    assert store.images.put(child.config, parent=parent_id, built_locally=True) == child_id
    store.images.touch(child_id, moment="2024-01-01T00:00:00Z")
    directory = store.images.metadata / child.id[7:]
    assert {name: (directory / name).read_bytes() for name in os.listdir(directory)} == {
        "parent": made.id.encode(),
        "builtLocally": b"\x01",
        "lastUpdated": b"2024-01-01T00:00:00Z",
    }
    stored = store.images.get(child_id)
    assert (stored.parent, stored.built_locally, stored.last_updated) == (parent_id, True, "2024-01-01T00:00:00Z")
    assert list(store.images.iter_children(parent_id)) == [child_id]
    (directory / "parent").write_text(made.id + "\n")
    assert store.images.get(child_id).parent is None
    store.images.touch(child_id)
    (directory / "parent").write_text(made.id)
    store.delete_image(parent_id)
    assert store.images.get(child_id).parent is None
    store.delete_image(child_id)
    assert leaks(store.root.path) == []
    assert list(store.layers.db.iter_chains()) == []


# ---------------------------------------------------------------------------------------------------------- containers


def container(store: ImageStore, name: str = "one") -> ContainerRecord:
    return new_record(
        new_container_id(),
        name=name,
        created="2024-01-02T03:04:05Z",
        path="/bin/sh",
        args=["-c", "id"],
        settings={"Hostname": "h", "Image": "x:1"},
        image="sha256:" + "1" * 64,
        host_config={"NetworkMode": "none"},
        driver=store.root.driver.name,
    )


def test_a_container_is_written_as_docker_writes_it(store: ImageStore) -> None:
    record = container(store)
    store.containers.write(record)
    path = store.root.containers_dir / record.id
    assert path.stat().st_mode & 0o7777 == 0o710
    for name in ("config.v2.json", "hostconfig.json"):
        assert (path / name).stat().st_mode & 0o7777 == 0o600
        assert (path / name).read_bytes().endswith(b"}\n")
    document = json.loads((path / "config.v2.json").read_text())
    assert {"Config", "NetworkSettings", "Driver", "Path", "Name", "State", "ID", "OS"} <= document.keys()
    assert document["NetworkSettings"]["Networks"] == {"none": {"NetworkID": "", "EndpointID": ""}}
    assert document["Name"] == "/one"
    read = store.containers.get(record.id)
    assert (read.name, read.path, read.args, read.started_at) == ("one", "/bin/sh", ["-c", "id"], ZERO_TIME)
    assert store.containers.log_path(record.id) == path / f"{record.id}-json.log"


def test_unknown_fields_of_a_container_survive_a_change(store: ImageStore) -> None:
    record = container(store)
    record.config["FromTheFuture"] = {"a": [1, None]}
    store.containers.write(record)
    read = store.containers.get(record.id)
    read.state["Running"] = True
    read.state["Pid"] = 12
    store.containers.write(read, host_config=False)
    again = store.containers.get(record.id)
    assert again.running
    assert again.pid == 12
    assert again.config["FromTheFuture"] == {"a": [1, None]}
    assert again.host_config == {"NetworkMode": "none"}


def test_container_names_are_unique(store: ImageStore) -> None:
    first, second = container(store, "one"), container(store, "one")
    store.containers.write(first)
    store.containers.write(first)
    with pytest.raises(AlreadyExists, match=f'"/one" is already in use by container "{first.id}"'):
        store.containers.write(second)
    assert not store.containers.path(second.id).exists()
    second.name = "two"
    store.containers.write(second)
    second.name = "one"
    with pytest.raises(AlreadyExists):
        store.containers.write(second)
    assert store.containers.get(second.id).name == "two"
    assert store.containers.names() == {"one", "two"}


def test_a_name_is_not_taken_for_ones_own_because_the_record_mentions_it(store: ImageStore) -> None:
    store.containers.write(container(store, "init"))
    other = container(store, "two")
    other.config["Path"] = "/init"
    store.containers.write(other)
    other.name = "init"
    with pytest.raises(AlreadyExists, match='"/init" is already in use'):
        store.containers.write(other)


def test_containers_resolve_by_id_then_name_then_prefix(store: ImageStore) -> None:
    first = container(store, "abc")
    store.containers.write(first)
    second = container(store, first.id[:12])  # a name that is the beginning of another's ID
    store.containers.write(second)
    assert store.containers.resolve(first.id).id == first.id
    assert store.containers.resolve(first.id[:12]).id == second.id
    assert store.containers.resolve(first.id[:20]).id == first.id
    assert store.containers.resolve("/abc").id == first.id
    for text in ("nosuch", "../abc", ""):
        with pytest.raises((NotFound, InvalidArgument)):
            store.containers.resolve(text)


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"{", b'{"ID":"other"}', b'{"ID":"../../x"}', b"[" * 10_000],
)
def test_a_damaged_container_is_reported_and_the_others_listed(store: ImageStore, content: bytes) -> None:
    good, bad = container(store, "good"), container(store, "bad")
    store.containers.write(good)
    store.containers.write(bad)
    (store.containers.path(bad.id) / "config.v2.json").write_bytes(content)
    assert [record.name for record in store.containers.iter_records()] == ["good"]
    assert store.problems


def test_containers_of_another_driver_are_not_listed(store: ImageStore) -> None:
    record = container(store)
    record.config["Driver"] = "vfs"
    store.containers.write(record)
    assert list(store.containers.iter_records()) == []


def test_removing_a_container_leaves_nothing_of_its_directory(store: ImageStore) -> None:
    record = container(store)
    store.containers.write(record)
    store.containers.remove(record.id)
    assert not store.containers.path(record.id).exists()
    with pytest.raises(NotFound):
        store.containers.remove(record.id)
    with pytest.raises(InvalidArgument):
        store.containers.path("../../etc")  # type: ignore[arg-type]


def test_small_files_are_bounded(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x" * 10)
    assert read_small(tmp_path / "f", 10) == b"x" * 10
    with pytest.raises(DataLoss):
        read_small(tmp_path / "f", 9)
    with pytest.raises(DataLoss):
        read_small(tmp_path, 9)

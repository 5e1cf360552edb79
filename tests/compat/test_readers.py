"""Stores that real engines made and use are read as the engines themselves describe them."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from lamella.errors import InvalidArgument, NotFound
from lamella.model.digest import chain_ids
from lamella.readers.detect import open_reader
from tests.support.cli import Lamella
from tests.support.dockerd import Dockerd
from tests.support.engines import Containerd, Podman

if TYPE_CHECKING:
    from collections.abc import Generator

    from lamella.readers.base import ImageRecord, StoredLayer, StoreReader

pytestmark = pytest.mark.xdist_group("readers")

STEPS = """\
FROM {base}
RUN mkdir -p /deep/er && echo one > /deep/er/file && chmod 4755 /deep/er/file && ln /deep/er/file /deep/hard
RUN rm -r /deep/er && echo two > /two
ENV A=b
"""


def write_context(place: Path, base: str) -> Path:
    """Write the Dockerfile of the images that all engines build, and return its directory."""
    context = place / "context"
    context.mkdir()
    (context / "Dockerfile").write_text(STEPS.format(base=base))
    return context


def stack_of(reader: StoreReader, image: ImageRecord) -> list[StoredLayer]:
    """Return an image's layers, each of which must be there."""
    found = [reader.find_layer(name) for name in image.layers]
    layers = [layer for layer in found if layer is not None]
    assert len(layers) == len(image.config.diff_ids)
    return layers


def assert_sound(reader: StoreReader) -> None:
    """What every healthy store has in common, whoever made it."""
    layers = reader.layers()
    directories = reader.layer_directories()
    assert not reader.problems
    assert {layer.directory_id for layer in layers.values()} == set(directories)
    for name, layer in layers.items():
        assert layer.id == name
        assert layer.directory.is_dir()
        assert layer.directory.is_relative_to(directories[layer.directory_id])
        assert reader.find_layer_by_directory(layer.directory_id) == layer
        assert layer.parent is None or layer.parent in layers
    for image in reader.images():
        stack = stack_of(reader, image)
        assert [layer.chain_id for layer in stack] == chain_ids(image.config.diff_ids)
        assert [layer.diff_id for layer in stack] == list(image.config.diff_ids)
        assert reader.find_image(image.id) == image
        assert all(reader.find_image(name) == image for name in (*image.names, *image.digests))
    for container in reader.containers():
        assert [layers[name].parent for name in container.layers] == [None, *container.layers[:-1]]
        assert reader.find_container(container.name) == container
        assert reader.find_container(container.id[:12]) == container


# ---------------------------------------------------------------------------------------------------- Docker


@pytest.fixture(scope="module")
def docker(tmp_path_factory: pytest.TempPathFactory, base_tar: Path) -> Generator[Dockerd]:
    """A dockerd that has built, run and mounted, still running."""
    place = tmp_path_factory.mktemp("docker")
    context = write_context(place, "base:1")
    with Dockerd(place / "root") as engine:
        engine.run("import", str(base_tar), "base:1")
        engine.run("build", "-t", "built:1", "-t", "127.0.0.1:5000/team/built:x", "--network=none", str(context))
        engine.run(
            "run", "--network=none", "--name", "ended", "-v", "data:/data", "base:1", "sh", "-c", "echo hi; echo w > /w"
        )
        engine.run("run", "-d", "--network=none", "--name", "runs", "built:1", "sleep", "600")
        engine.run("create", "--network=none", "--name", "fresh", "built:1", "true")
        yield engine
        engine.run("rm", "-f", "runs")


def test_a_data_root_in_use_is_read_as_docker_inspects_it(docker: Dockerd) -> None:
    reader = open_reader(docker.root)
    assert (reader.kind, reader.driver, reader.root) == ("docker", "overlay2", docker.root)
    assert_sound(reader)
    assert {image.id for image in reader.images()} == set(docker.run("images", "-aq", "--no-trunc").split())
    for image in reader.images():
        theirs = docker.inspect(image.id)
        assert sorted(image.names) == sorted(theirs["RepoTags"])
        assert image.parent == theirs["Parent"]
        assert list(image.config.diff_ids) == theirs["RootFS"]["Layers"]
        directories = [str(layer.directory) for layer in stack_of(reader, image)]
        data = theirs["GraphDriver"]["Data"]
        assert directories[::-1] == [data["UpperDir"], *filter(None, data.get("LowerDir", "").split(":"))]
        assert sum(layer.size or 0 for layer in stack_of(reader, image)) == theirs["Size"]


def test_docker_containers_are_read_as_docker_inspects_them(docker: Dockerd) -> None:
    reader = open_reader(docker.root)
    assert {container.name for container in reader.containers()} == {"ended", "runs", "fresh"}
    for container in reader.containers():
        theirs = docker.inspect(container.id)
        assert (container.status, container.pid) == (theirs["State"]["Status"], theirs["State"]["Pid"])
        assert (container.image, container.image_name) == (theirs["Image"], theirs["Config"]["Image"])
        assert container.created == theirs["Created"]
        assert str(container.log or "") == theirs["LogPath"]
        assert str(container.merged) == theirs["GraphDriver"]["Data"]["MergedDir"]
        layers = [reader.layers()[name] for name in container.layers]
        assert [layer.role for layer in layers[-2:]] == ["init", "writable"]
        data = theirs["GraphDriver"]["Data"]
        assert [str(layer.directory) for layer in layers[::-1]] == [data["UpperDir"], *data["LowerDir"].split(":")]
        assert list(container.volumes) == [mount["Name"] for mount in theirs["Mounts"]]


def test_docker_volumes_are_read_as_docker_inspects_them(docker: Dockerd) -> None:
    (volume,) = open_reader(docker.root).volumes()
    theirs = docker.inspect("data")
    assert (volume.name, str(volume.directory)) == (theirs["Name"], theirs["Mountpoint"])
    assert volume.created == theirs["CreatedAt"]


def test_build_kit_directories_have_an_owner(docker: Dockerd, tmp_path: Path) -> None:
    context = tmp_path / "context"
    context.mkdir()
    (context / "Dockerfile").write_text(
        "FROM base:1 AS one\nRUN echo a > /a\nRUN echo b > /b\nFROM base:1\nCOPY --from=one /a /c\n"
    )
    subprocess.run(["tar", "-C", context, "-cf", tmp_path / "context.tar", "."], check=True)
    url = "http://docker/v1.41/build?version=2&t=kit:1&networkmode=none"
    answer = subprocess.run(
        ["curl", "-sS", "--unix-socket", docker.state / "socket", "-H", "Content-Type: application/x-tar",
         "--data-binary", f"@{tmp_path}/context.tar", url],
        capture_output=True, check=True, text=True,
    )  # fmt: skip
    assert "Successfully tagged kit:1" in answer.stdout
    reader = open_reader(docker.root)
    assert_sound(reader)
    built = [layer for layer in reader.layers().values() if layer.role == "build"]
    base = reader.find_image("base:1").layers[0]
    assert base in {layer.parent for layer in built}, "the build stage stands on the base image"
    made = {path.name for layer in built for path in layer.directory.iterdir()}
    assert {"a", "b"} <= made
    # One that became an image's layer is that, and no build cache.
    assert reader.find_image("kit:1").layers[-1] in reader.layers()
    for layer in built:
        fresh = open_reader(docker.root)
        assert fresh.find_layer_by_directory(layer.directory_id) == layer
        assert fresh.find_layer(layer.id) == layer


def test_one_thing_is_found_without_the_rest(docker: Dockerd) -> None:
    whole = open_reader(docker.root)
    for layer in whole.layers().values():
        assert open_reader(docker.root).find_layer(layer.id) == layer
        assert open_reader(docker.root).find_layer_by_directory(layer.directory_id) == layer
    for image in whole.images():
        assert open_reader(docker.root).find_image(image.id.removeprefix("sha256:")[:16]) == image
    assert open_reader(docker.root).find_image("127.0.0.1:5000/team/built:x") == whole.find_image("built:1")
    with pytest.raises(NotFound, match="No such image: nothing:1"):
        whole.find_image("nothing:1")
    with pytest.raises(NotFound, match="No such container: nobody"):
        whole.find_container("nobody")
    with pytest.raises(InvalidArgument, match="must be lowercase"):
        whole.find_image("Base:1")
    assert whole.find_layer_by_directory("f" * 64) is None
    assert whole.find_layer_by_directory("../l") is None


def test_lamellas_own_data_root_is_read_with_either_driver(tmp_path: Path, base_tar: Path) -> None:
    for driver in ("overlay2", "vfs"):
        root = tmp_path / driver
        lamella = Lamella(root)
        lamella.run("--storage-driver", driver, "import", str(base_tar), "base:1")
        lamella.run("create", "--name", "fresh", "base:1", "true")
        reader = open_reader(root)
        assert (reader.kind, reader.driver) == ("docker", driver)
        assert_sound(reader)
        assert reader.find_container("fresh").status == "created"
        assert reader.find_container("fresh").image == lamella.inspect("base:1")["Id"]
        (layer,) = stack_of(reader, reader.find_image("base:1"))
        assert (layer.directory / "bin/busybox").is_file()
        assert reader.tar_split(layer) is not None


# ---------------------------------------------------------------------------------------------------- Podman


@pytest.fixture(scope="module", params=["overlay", "vfs"])
def podman(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, base_tar: Path
) -> Generator[Podman]:
    """A store that podman has built and run on, with a container still running."""
    place = tmp_path_factory.mktemp("podman")
    context = write_context(place, "localhost/base:1")
    with Podman(place / "root", request.param) as engine:
        engine.run("import", base_tar, "localhost/base:1")
        engine.build("built:1", context)
        engine.run("tag", "built:1", "quay.io/team/built:x")
        engine.container("run", "ended", "-v", "data:/data", "base:1", "sh", "-c", "echo hi; echo w > /w")
        engine.run("wait", "ended")
        engine.container("run", "runs", "built:1", "sleep", "600")
        engine.container("create", "fresh", "built:1", "true")
        yield engine


def test_a_podman_store_in_use_is_read_as_podman_inspects_it(podman: Podman) -> None:
    reader = open_reader(podman.root)
    assert (reader.kind, reader.driver) == ("containers-storage", podman.driver)
    assert_sound(reader)
    assert {image.id for image in reader.images()} == set(podman.run("images", "-aq", "--no-trunc").split())
    for image in reader.images():
        theirs = podman.inspect("image", image.id)
        assert set(image.names) == set(theirs["RepoTags"])
        assert set(image.digests) <= set(theirs["RepoDigests"])
        assert list(image.config.diff_ids) == theirs["RootFS"]["Layers"]
        data = theirs["GraphDriver"]["Data"]
        directories = [str(layer.directory) for layer in stack_of(reader, image)][::-1]
        if podman.driver == "overlay":
            assert directories == [data["UpperDir"], *filter(None, data.get("LowerDir", "").split(":"))]
        assert all(reader.tar_split(layer) is not None for layer in stack_of(reader, image))
    assert reader.find_image("built:1").id == reader.find_image("quay.io/team/built:x").id


def test_podman_containers_are_read_as_podman_inspects_them(podman: Podman) -> None:
    reader = open_reader(podman.root)
    assert {container.name for container in reader.containers()} == {"ended", "runs", "fresh"}
    for container in reader.containers():
        theirs = podman.inspect("container", container.id)
        assert (container.status, container.pid) == (theirs["State"]["Status"], theirs["State"]["Pid"])
        assert container.image == f"sha256:{theirs['Image']}"
        assert f"{container.image_name}" == theirs["ImageName"]
        assert list(container.volumes) == [mount["Name"] for mount in theirs["Mounts"]]
        assert reader.layers()[container.layers[-1]].role == "writable"
        if podman.driver == "overlay":
            assert str(reader.layers()[container.layers[-1]].directory) == theirs["GraphDriver"]["Data"]["UpperDir"]
            assert str(container.merged) == theirs["GraphDriver"]["Data"].get("MergedDir", str(container.merged))
    assert {volume.name: str(volume.directory) for volume in reader.volumes()} == {
        "data": json.loads(podman.run("volume", "inspect", "data"))[0]["Mountpoint"]
    }
    spec = reader.container_spec(reader.find_container("ended"))
    assert spec is not None
    assert spec["process"]["args"] == ["sh", "-c", "echo hi; echo w > /w"]  # type: ignore[index]


def test_podmans_newer_database_is_read_as_the_older_one(podman: Podman, tmp_path: Path) -> None:
    """Podman 4.8 and newer keep the same documents in SQLite."""
    import sqlite3

    from lamella.readers.bolt import Bolt

    before = open_reader(podman.root).containers()
    database = podman.root / "libpod/bolt_state.db"
    newer = podman.root / "db.sql"
    with sqlite3.connect(newer) as connection:
        connection.execute("CREATE TABLE ContainerConfig (ID TEXT PRIMARY KEY, Name TEXT, PodID TEXT, JSON TEXT)")
        connection.execute(
            "CREATE TABLE ContainerState (ID TEXT PRIMARY KEY, State INTEGER, ExitCode INTEGER, JSON TEXT)"
        )
        for name, bucket in Bolt.open(database).root.buckets("ctr"):
            connection.execute("INSERT INTO ContainerConfig VALUES (?, '', NULL, ?)", (name, bucket.text("config")))
            connection.execute("INSERT INTO ContainerState VALUES (?, 0, 0, ?)", (name, bucket.text("state")))
    connection.close()
    database.rename(tmp_path / "aside")
    try:
        reader = open_reader(podman.root)
        assert reader.containers() == before
        assert not reader.problems
        newer.write_bytes(b"no database" * 100)
        reader = open_reader(podman.root)
        assert [container.id for container in reader.containers()] == [container.id for container in before]
        assert "db.sql cannot be read" in reader.problems[0]
    finally:
        newer.unlink()
        subprocess.run(["mv", tmp_path / "aside", database], check=True)


def test_who_runs_is_seen_without_podmans_database(podman: Podman) -> None:
    """As with a Podman that keeps it in SQLite, or with Buildah."""
    running = podman.inspect("container", "runs")["State"]["Pid"]
    database = podman.root / "libpod/bolt_state.db"
    database.rename(database.with_name("aside"))
    try:
        reader = open_reader(podman.root)
        assert (reader.find_container("runs").status, reader.find_container("runs").pid) == ("running", running)
        assert reader.find_container("ended").status == "exited"
    finally:
        database.with_name("aside").rename(database)


# ---------------------------------------------------------------------------------------------------- containerd


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory, base_tar: Path) -> Path:
    """An archive of two images of three layers, one base in common."""
    place = tmp_path_factory.mktemp("shipped")
    context = write_context(place, "base:1")
    lamella = Lamella(place / "root")
    lamella.run("import", str(base_tar), "base:1")
    lamella.run("build", "-t", "built:1", str(context))
    lamella.run("save", "-o", str(place / "shipped.tar"), "base:1", "built:1")
    return place / "shipped.tar"


@pytest.fixture(scope="module")
def containerd(tmp_path_factory: pytest.TempPathFactory, shipped: Path) -> Generator[Containerd]:
    """A containerd with two images, one container that runs and one that does not, still running."""
    with Containerd(tmp_path_factory.mktemp("containerd") / "root") as engine:
        engine.ctr("images", "import", shipped)
        engine.ctr("images", "tag", "docker.io/library/built:1", "quay.io/team/built:x")
        engine.ctr("run", "-d", "docker.io/library/built:1", "runs", "sleep", "600")
        engine.ctr("containers", "create", "docker.io/library/base:1", "fresh", "/bin/true")
        yield engine


def test_a_containerd_store_in_use_is_read_as_ctr_lists_it(containerd: Containerd) -> None:
    reader = open_reader(containerd.root)
    assert (reader.kind, reader.driver) == ("containerd", "overlayfs")
    assert_sound(reader)
    assert {name for image in reader.images() for name in image.names} == {"base:1", "built:1", "quay.io/team/built:x"}
    for name, _, digest, *_ in containerd.table("images", "ls"):
        image = reader.find_image(name)
        assert any(reference.endswith(f"@{digest}") for reference in image.digests)
        assert reader.find_image(digest) == image
        blobs = reader.image_blobs(image)
        assert [reader.blob(layer) for layer in stack_of(reader, image)] == list(blobs)
        known = set(containerd.ctr("content", "ls", "-q").split())
        assert {f"sha256:{blob.name}" for blob in blobs if blob is not None} <= known
    listed = {
        key: (rest[0] if len(rest) == 2 else None, rest[-1]) for key, *rest in containerd.table("snapshots", "ls")
    }
    kinds = {"image": "Committed", "writable": "Active"}
    assert {layer.id: (layer.parent, kinds[layer.role]) for layer in reader.layers().values()} == listed


def test_containerd_snapshots_lie_where_ctr_would_mount_them(containerd: Containerd) -> None:
    reader = open_reader(containerd.root)
    for container in reader.containers():
        mount = containerd.ctr("snapshots", "mounts", "/target", container.layers[-1])
        *below, top = [str(reader.layers()[name].directory) for name in container.layers]
        assert f"upperdir={top}" in mount
        assert f"lowerdir={':'.join(below[::-1])}" in mount


def test_containerd_containers_are_read_as_ctr_lists_them(containerd: Containerd) -> None:
    reader = open_reader(containerd.root)
    pids = {name: int(pid) for name, pid, _ in containerd.table("tasks", "ls")}
    assert {container.id for container in reader.containers()} == set(containerd.ctr("containers", "ls", "-q").split())
    for container in reader.containers():
        assert container.pid == pids.get(container.id, 0)
        assert container.status == ("running" if container.id in pids else "exited")
        info = json.loads(containerd.ctr("containers", "info", container.id))
        assert reader.container_spec(container) == info["Spec"]
        assert reader.find_image(info["Image"]).id == container.image
    assert str(reader.find_container("runs").merged).endswith("/runs/rootfs")


def test_containers_of_one_name_are_told_apart(tmp_path: Path, shipped: Path) -> None:
    with Containerd(tmp_path / "root", "k8s.io") as engine:
        engine.ctr("images", "import", shipped)
        for name in ("a" * 64, "b" * 64, "c" * 64):
            engine.ctr("containers", "create", "--label", "io.kubernetes.container.name=web", "docker.io/library/base:1",
                       name, "/bin/true")  # fmt: skip
    reader = open_reader(tmp_path / "root")
    names = {container.id[0]: container.name for container in reader.containers()}
    assert names == {"a": "web", "b": f"web-{'b' * 12}", "c": f"web-{'c' * 12}"}
    assert reader.find_container(f"web-{'c' * 12}").id == "c" * 64
    taken = Lamella(tmp_path / "taken")
    taken.run("adopt", str(tmp_path / "root"))
    assert set(taken.run("ps", "-a", "--format", "{{.Names}}").split()) == set(names.values())


def test_an_image_that_was_never_unpacked_has_blobs_and_no_layers(tmp_path: Path, shipped: Path) -> None:
    with Containerd(tmp_path / "root", "k8s.io") as engine:
        engine.ctr("images", "import", "--no-unpack", shipped)
    reader = open_reader(tmp_path / "root")
    assert not reader.problems
    image = reader.find_image("built:1")
    assert (image.layers, len(reader.image_blobs(image))) == ((), 3)
    assert not reader.layers()


def test_the_same_snapshot_of_two_namespaces_is_two_layers(tmp_path: Path, shipped: Path) -> None:
    with Containerd(tmp_path / "root", "one") as engine:
        engine.ctr("images", "import", shipped)
        engine.namespace = "two"
        engine.ctr("images", "import", shipped)
    reader = open_reader(tmp_path / "root")
    assert not reader.problems
    assert {layer.directory_id for layer in reader.layers().values()} == set(reader.layer_directories())
    assert sorted(image.names for image in reader.images()) == [("base:1",), ("built:1",)]


def test_dockers_containerd_image_store_is_found_below_its_data_root(tmp_path: Path, shipped: Path) -> None:
    """As Docker 29 lays it out: namespace moby, the container's document with Docker, its layers with containerd."""
    container = "c" * 64
    with Containerd(tmp_path / "root/containerd/daemon", "moby") as engine:
        engine.ctr("images", "import", shipped)
        built = open_reader(tmp_path / "root").find_image("built:1")
        top = built.layers[-1]
        engine.ctr("snapshots", "prepare", f"{container}-init-draft", top)
        engine.ctr("snapshots", "commit", f"{container}-init", f"{container}-init-draft")
        engine.ctr("snapshots", "prepare", container, f"{container}-init")
        (target,) = {digest for name, _, digest, *_ in engine.table("images", "ls") if name.endswith("built:1")}
    document = {
        "ID": container, "Name": "/moved", "Driver": "overlayfs", "Image": target, "Created": "2026-01-02T03:04:05Z",
        "Config": {"Image": "built:1"}, "State": {"Running": False, "StartedAt": "2026-01-02T03:04:06Z"},
        "NetworkSettings": {}, "MountPoints": {"/d": {"Type": "volume", "Name": "data", "Destination": "/d"}},
    }  # fmt: skip
    place = tmp_path / "root/containers" / container
    place.mkdir(parents=True)
    (place / "config.v2.json").write_text(json.dumps(document))
    (tmp_path / "root/volumes/data/_data").mkdir(parents=True)
    reader = open_reader(tmp_path / "root")
    assert (reader.kind, reader.root) == ("containerd", tmp_path / "root")
    assert not reader.problems
    found = reader.find_container("moved")
    assert (found.image, found.status, found.volumes) == (built.id, "exited", ("data",))
    assert found.layers == (*built.layers, f"{container}-init", container)
    assert [reader.layers()[name].role for name in found.layers[-2:]] == ["init", "writable"]
    assert [volume.name for volume in reader.volumes()] == ["data"]


# ---------------------------------------------------------------------------------------------------- finding the kind


def test_what_is_no_store_is_said_to_be_none(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no store here"):
        open_reader(tmp_path)
    with pytest.raises(NotFound, match="no such directory"):
        open_reader(tmp_path / "missing")
    (tmp_path / "file").touch()
    with pytest.raises(NotFound, match="not a directory"):
        open_reader(tmp_path / "file")

"""The real docker-registry as the meeting point: what lamella pushes the peers pull, and the reverse."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.compat.test_peers import DOCKERFILE, sh, tree_of
from tests.support.archives import leaks
from tests.support.cli import Lamella
from tests.support.dockerd import Dockerd
from tests.support.registry import RealRegistry
from tests.support.trees import Node

if TYPE_CHECKING:
    from collections.abc import Generator

pytestmark = pytest.mark.xdist_group("registry")


class Pushed(NamedTuple):
    """An image in a store and in the registry, and the tree it stands for."""

    lamella: Lamella
    registry: RealRegistry
    name: str
    digest: str
    layers: list[str]
    id: str
    tree: dict[str, Node]


@pytest.fixture(scope="module")
def pushed(tmp_path_factory: pytest.TempPathFactory, base_tar: Path) -> Generator[Pushed]:
    place = tmp_path_factory.mktemp("registry")
    lamella = Lamella(place / "root")
    (place / "context").mkdir()
    (place / "context/Dockerfile").write_text(DOCKERFILE)
    lamella.run("import", str(base_tar), "base:1")
    with RealRegistry() as registry:
        name = f"{registry.host}/ours/shipped:1"
        lamella.run("build", "-t", name, str(place / "context"))
        digest = lamella.run("push", "-q", name)
        image = lamella.inspect(name)
        tree = tree_of(lamella, name, place / "ours")
        yield Pushed(lamella, registry, name, digest, image["RootFS"]["Layers"], image["Id"], tree)


def skopeo(*arguments: str | Path) -> str:
    return sh("skopeo", "--insecure-policy", *arguments)


def podman(place: Path) -> list[str | Path]:
    short = tempfile.mkdtemp(prefix="p-")  # podman takes at most 50 characters
    return ["podman", "--root", place / "podman", "--runroot", short, "--storage-driver", "vfs"]


def check_pulled(pushed: Pushed, name: str, place: Path) -> Lamella:
    """Pull what a peer pushed into a fresh store: the same layers, the same tree."""
    fresh = Lamella(place / "fresh")
    fresh.run("pull", name)
    assert fresh.inspect(name)["RootFS"]["Layers"] == pushed.layers
    assert tree_of(fresh, name, place / "theirs") == pushed.tree
    assert leaks(fresh.root) == []
    return fresh


def test_dockerd_pulls_our_image_and_pushes_it_back(pushed: Pushed, tmp_path: Path) -> None:
    theirs = f"{pushed.registry.host}/docker/shipped:1"
    with Dockerd(tmp_path / "docker") as docker:
        assert f"Digest: {pushed.digest}" in docker.run("pull", pushed.name)
        image = docker.inspect(pushed.name)
        docker.run("tag", pushed.name, theirs)
        said = docker.run("push", theirs)
    assert (image["Id"], image["RootFS"]["Layers"]) == (pushed.id, pushed.layers)
    assert image["RepoDigests"] == [f"{pushed.name.rpartition(':')[0]}@{pushed.digest}"]
    fresh = check_pulled(pushed, theirs, tmp_path)
    assert fresh.inspect(theirs)["RepoDigests"][0].rpartition("@")[2] in said


def test_dockerd_built_and_pushed_layers_come_in(pushed: Pushed, tmp_path: Path) -> None:
    """A layer that docker compressed, under a manifest that docker wrote, on top of ours."""
    theirs = f"{pushed.registry.host}/docker/built:1"
    with Dockerd(tmp_path / "docker") as docker:
        docker.run("pull", pushed.name)
        docker.run(
            "run", "--network", "none", "--name", "maker", "--entrypoint", "/bin/sh", pushed.name, "-c", "echo x >/made"
        )
        docker.run("commit", "maker", theirs)
        identity = docker.inspect(theirs)["Id"]
        docker.run("push", theirs)
    fresh = Lamella(tmp_path / "fresh")
    fresh.run("pull", pushed.name)
    said = fresh.run("pull", theirs)
    assert said.count("Already exists") == len(pushed.layers)
    assert fresh.inspect(theirs)["Id"] == identity
    assert fresh.run("run", "--rm", "--entrypoint", "/bin/cat", theirs, "/made") == "x"


def test_dockerd_takes_a_store_that_we_pulled_into_for_its_own(pushed: Pushed, tmp_path: Path) -> None:
    fresh = Lamella(tmp_path / "docker")
    fresh.run("pull", pushed.name)
    with Dockerd(fresh.root) as docker:
        assert docker.inspect(pushed.name)["RepoDigests"] == [f"{pushed.name.rpartition(':')[0]}@{pushed.digest}"]
        assert "Image is up to date" in docker.run("pull", pushed.name)
        docker.run("tag", pushed.name, f"{pushed.registry.host}/third/x:1")
        # It knows from our notes which blobs the registry has, and sends none.
        said = docker.run("push", f"{pushed.registry.host}/third/x:1")
    assert said.count("Mounted from ours/shipped") == len(pushed.layers)


def test_podman_pulls_our_image_and_pushes_it_back(pushed: Pushed, tmp_path: Path) -> None:
    theirs = f"{pushed.registry.host}/podman/shipped:1"
    command = podman(tmp_path)
    sh(*command, "pull", "--tls-verify=false", pushed.name)
    image = json.loads(sh(*command, "image", "inspect", pushed.name))[0]
    assert (image["Digest"], image["RootFS"]["Layers"]) == (pushed.digest, pushed.layers)
    sh(*command, "push", "--tls-verify=false", pushed.name, theirs)
    check_pulled(pushed, theirs, tmp_path)


@pytest.mark.parametrize("form", ["oci", "v2s2"])
@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_skopeo_copies_our_image_in_any_form_and_it_comes_back(
    pushed: Pushed, tmp_path: Path, form: str, compression: str
) -> None:
    if (form, compression) == ("v2s2", "zstd"):
        form = "oci"  # there is no such thing; the registry's other repository will do
    theirs = f"{pushed.registry.host}/skopeo/{form}-{compression}:1"
    skopeo(
        "copy", "--src-tls-verify=false", "--dest-tls-verify=false", "--format", form,
        "--dest-compress-format", compression, f"docker://{pushed.name}", f"docker://{theirs}",
    )  # fmt: skip
    check_pulled(pushed, theirs, tmp_path)


@pytest.mark.parametrize("compression", ["zstd", "none"])
def test_peers_read_what_we_push_in_other_packings(pushed: Pushed, tmp_path: Path, compression: str) -> None:
    theirs = f"{pushed.registry.host}/ours/{compression}:1"
    pushed.lamella.run("tag", pushed.name, theirs)
    digest = pushed.lamella.run("push", "-q", "--compression", compression, theirs)
    assert json.loads(skopeo("inspect", "--tls-verify=false", f"docker://{theirs}"))["Digest"] == digest
    command = podman(tmp_path)
    sh(*command, "pull", "--tls-verify=false", theirs)
    assert json.loads(sh(*command, "image", "inspect", theirs))[0]["RootFS"]["Layers"] == pushed.layers


@pytest.mark.parametrize(
    "place", ["oci:{}/layout:one", "oci-archive:{}/a.tar:one", "dir:{}/dir", "docker-archive:{}/d.tar:x:1"]
)
def test_skopeo_reads_what_copy_writes_and_copy_reads_it_back(pushed: Pushed, tmp_path: Path, place: str) -> None:
    there = place.format(tmp_path)
    digest = pushed.lamella.run("copy", "-q", f"docker://{pushed.name}", there)
    found = json.loads(skopeo("inspect", there.removesuffix(":x:1")))
    if not there.startswith("docker-archive"):
        assert found["Digest"] == digest
    back = f"{pushed.registry.host}/back/{place.partition(':')[0]}:1"
    pushed.lamella.run("copy", there, f"docker://{back}")
    check_pulled(pushed, back, tmp_path)


@pytest.mark.parametrize(
    "place", ["oci:{}/layout:one", "oci-archive:{}/a.tar:one", "dir:{}/dir", "docker-archive:{}/d.tar:x:1"]
)
def test_copy_reads_what_skopeo_writes(pushed: Pushed, tmp_path: Path, place: str) -> None:
    there = place.format(tmp_path)
    skopeo("copy", "--src-tls-verify=false", f"docker://{pushed.name}", there)
    fresh = Lamella(tmp_path / "fresh")
    fresh.run("copy", there, "taken:1")
    assert fresh.inspect("taken:1")["RootFS"]["Layers"] == pushed.layers
    assert fresh.inspect("taken:1")["RepoDigests"] == []
    assert leaks(fresh.root) == []


def test_copying_between_repositories_keeps_the_digest_and_mounts(pushed: Pushed) -> None:
    theirs = f"docker://{pushed.registry.host}/mirror/shipped:1"
    assert pushed.lamella.run("copy", "-q", f"docker://{pushed.name}", theirs) == pushed.digest
    found = json.loads(skopeo("inspect", "--tls-verify=false", theirs))
    assert found["Digest"] == pushed.digest


def test_run_and_build_pull_what_they_need(pushed: Pushed, tmp_path: Path) -> None:
    fresh = Lamella(tmp_path / "fresh")
    answer = fresh.try_run("run", "--rm", pushed.name, "cat", "/deep/er/file")
    assert (answer.returncode, answer.stdout) == (0, "one\n")
    assert f"Unable to find image '{pushed.name}' locally" in answer.stderr
    assert "Status: Downloaded newer image" in answer.stderr
    again = fresh.try_run("run", "--rm", "--pull", "always", pushed.name, "true")
    assert "Status: Image is up to date" in again.stderr
    (tmp_path / "context").mkdir()
    (tmp_path / "context/Dockerfile").write_text(f"FROM {pushed.name}\nENV a=b\n")
    other = Lamella(tmp_path / "other")
    other.run("build", "-t", "built:1", str(tmp_path / "context"))
    assert other.inspect("built:1")["RootFS"]["Layers"] == pushed.layers
    other.run("build", "--pull", "-t", "built:2", str(tmp_path / "context"))
    assert other.inspect("built:2")["Id"] == other.inspect("built:1")["Id"]

"""The real docker-registry as the meeting point: what lamella pushes the peers pull, and the reverse."""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.compat.test_peers import DOCKERFILE, sh, tree_of
from tests.support.archives import docker20, image, layer_tar, leaks
from tests.support.cli import Lamella
from tests.support.dockerd import Dockerd
from tests.support.registry import RealRegistry, sha256
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


# ------------------------------------------------------------------------------------------------- several platforms

PLACES = ["oci:{}/layout:one", "oci-archive:{}/a.tar:one", "dir:{}/dir"]


class Index(NamedTuple):
    """An index in the registry, of two images of a store."""

    lamella: Lamella
    registry: RealRegistry
    name: str
    digest: str
    ids: dict[str, str]


@pytest.fixture(scope="module", params=["docker", "oci"])
def index(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Generator[Index]:
    place = tmp_path_factory.mktemp("index")
    lamella = Lamella(place / "root")
    base = layer_tar({"etc": None, "etc/motd": b"hello\n" * 900})
    ids = {}
    for architecture in ("amd64", "arm64", "arm"):
        changes = {"variant": "v7"} if architecture == "arm" else {}
        made = image(
            [base, layer_tar({"arch": architecture.encode()})],
            f"app:{architecture}",
            architecture=architecture,
            **changes,
        )
        lamella.run("load", "-i", str(docker20(place / "made.tar", made)))
        ids[architecture] = made.id
    with RealRegistry() as registry:
        name = f"{registry.host}/several/app:1"
        digest = lamella.run("push", "-q", "--index", name, *(f"app:{each}" for each in ids))
        if request.param == "oci":
            lamella.run("copy", "--all", f"docker://{name}", f"oci:{place}/oci:x")
            digest = lamella.run("copy", "-q", "--all", f"oci:{place}/oci:x", f"docker://{name}")
        yield Index(lamella, registry, name, digest, ids)


def documents(name: str) -> dict[str, bytes]:
    """Return an index and its manifests as a registry serves them, by their digests."""
    repository = name.rpartition(":")[0]
    found = {"top": fetch_manifest(name)}
    for item in json.loads(found["top"])["manifests"]:
        found[item["digest"]] = fetch_manifest(f"{repository}@{item['digest']}")
    return found


def fetch_manifest(name: str) -> bytes:
    command = ["skopeo", "--insecure-policy", "inspect", "--raw", "--tls-verify=false", f"docker://{name}"]
    return subprocess.run(command, check=True, capture_output=True).stdout


def test_an_index_says_what_each_image_is_for(index: Index) -> None:
    found = documents(index.name)
    assert sha256(found["top"]) == index.digest
    listed = json.loads(found["top"])
    kind = ".list.v2+json" if "docker" in listed["mediaType"] else ".index.v1+json"
    assert listed["mediaType"].endswith(kind)
    assert [item["platform"] for item in listed["manifests"]] == [
        {"architecture": "amd64", "os": "linux"},
        {"architecture": "arm64", "os": "linux"},
        {"architecture": "arm", "os": "linux", "variant": "v7"},
    ]
    configs = [json.loads(found[item["digest"]])["config"]["digest"] for item in listed["manifests"]]
    assert configs == list(index.ids.values())


def test_peers_pull_the_image_for_their_platform_from_our_index(index: Index, tmp_path: Path) -> None:
    with Dockerd(tmp_path / "docker") as docker:
        for architecture in ("arm64", "amd64"):
            said = docker.run("pull", "--platform", f"linux/{architecture}", index.name)
            assert f"Digest: {index.digest}" in said
            assert docker.inspect(index.name)["Id"] == index.ids[architecture]
    command = podman(tmp_path)
    for architecture, identity in index.ids.items():
        sh(*command, "pull", "-q", "--tls-verify=false", "--arch", architecture, index.name)
        found = json.loads(sh(*command, "image", "inspect", index.name))[0]
        assert f"sha256:{found['Id']}" == identity
        chosen = ["--override-arch", architecture, "inspect", "--raw", "--config", "--tls-verify=false"]
        assert sha256(skopeo(*chosen, f"docker://{index.name}").encode()) == identity


def test_a_pulled_index_can_be_pushed_again_with_its_digest(index: Index, tmp_path: Path) -> None:
    fresh = Lamella(tmp_path / "fresh")
    for architecture, identity in index.ids.items():
        fresh.run("pull", "--platform", f"linux/{architecture}", index.name)
        assert fresh.inspect(index.name)["Id"] == identity
    again = f"{index.registry.host}/several/again:1"
    assert fresh.run("push", "-q", "--index", again, *index.ids.values()) == index.digest
    assert documents(again) == documents(index.name)


@pytest.mark.parametrize("place", PLACES)
def test_copy_takes_a_whole_index_there_and_back_bit_for_bit(index: Index, tmp_path: Path, place: str) -> None:
    there = place.format(tmp_path)
    back = f"{index.registry.host}/back/{place.partition(':')[0]}:1"
    options = ["-q", "--all", "--preserve-digests"]
    assert index.lamella.run("copy", *options, f"docker://{index.name}", there) == index.digest
    assert index.lamella.run("copy", *options, there, f"docker://{back}") == index.digest
    assert documents(back) == documents(index.name)
    fresh = Lamella(tmp_path / "fresh")
    for architecture, identity in index.ids.items():
        fresh.run("pull", "--platform", f"linux/{architecture}", back)
        assert fresh.inspect(back)["Id"] == identity


@pytest.mark.parametrize("place", PLACES)
def test_skopeo_takes_a_whole_index_from_where_we_copied_it(index: Index, tmp_path: Path, place: str) -> None:
    there = place.format(tmp_path)
    digest = index.lamella.run("copy", "-q", "--all", f"docker://{index.name}", there)
    back = f"{index.registry.host}/skopeo/{place.partition(':')[0]}:1"
    skopeo("copy", "-q", "--all", "--dest-tls-verify=false", there, f"docker://{back}")
    # A layout gets Docker's documents in OCI's words, by them and by us alike.
    assert sha256(documents(back)["top"]) == digest
    assert len(documents(back)) == 1 + len(index.ids)


@pytest.mark.parametrize("place", PLACES)
def test_copy_takes_a_whole_index_from_where_skopeo_copied_it(index: Index, tmp_path: Path, place: str) -> None:
    there = place.format(tmp_path)
    skopeo("copy", "-q", "--all", "--src-tls-verify=false", f"docker://{index.name}", there)
    back = f"{index.registry.host}/from-skopeo/{place.partition(':')[0]}:1"
    digest = index.lamella.run("copy", "-q", "--all", there, f"docker://{back}")
    found = documents(back)
    assert sha256(found["top"]) == digest
    # The configs are spelt anew by skopeo where Docker's become OCI's; the layers stay.
    assert [layers_of(raw) for raw in found.values()] == [layers_of(raw) for raw in documents(index.name).values()]


def layers_of(manifest: bytes) -> list[str]:
    return [layer["digest"] for layer in json.loads(manifest).get("layers", [])]


def test_an_index_that_makes_no_sense_is_refused_before_anything_is_sent(index: Index) -> None:
    name = f"{index.registry.host}/none/app:1"
    for images, words in (
        (["app:amd64", "app:amd64"], "are both for linux/amd64"),
        (["app:amd64", "nosuch:1"], "No such image: nosuch:1"),
        ([], "requires at least 2 arguments"),
    ):
        answer = index.lamella.try_run("push", "--index", name, *images)
        assert answer.returncode == 1
        assert words in answer.stderr
    assert "requires 1 argument" in index.lamella.try_run("push", name, "app:amd64").stderr
    assert "cannot be used together" in index.lamella.try_run("push", "-a", "--index", name, "app:amd64").stderr
    assert "none/app" not in index.registry.log


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

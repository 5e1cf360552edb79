"""Archives go out to docker, podman, skopeo, umoci and containerd and come back: equal diff IDs, equal trees."""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.support.cli import Lamella
from tests.support.dockerd import Dockerd
from tests.support.trees import Node, flatten

if TYPE_CHECKING:
    from collections.abc import Generator

pytestmark = pytest.mark.xdist_group("peers")

DOCKERFILE = """\
FROM base:1
RUN mkdir -p /deep/er && echo one > /deep/er/file && chmod 4755 /deep/er/file && chown 1000:1000 /deep
RUN ln /deep/er/file /deep/hard && ln -s er/file /deep/soft && mkfifo /deep/pipe
RUN rm /etc/issue && rm -r /home && mkdir -m 0700 /home && touch -d @1500000000 /home
LABEL made=here
CMD ["/bin/sh"]
"""


class Shipped(NamedTuple):
    """An image in a store, its archive, and the tree it stands for."""

    lamella: Lamella
    place: Path
    archive: Path
    layers: list[str]
    tree: dict[str, Node]


def sh(*command: str | Path) -> str:
    """Run a peer's command, which must succeed."""
    answer = subprocess.run(command, capture_output=True, check=False, text=True)
    assert answer.returncode == 0, f"{command}: {answer.stderr}"
    return answer.stdout


def tree_of(lamella: Lamella, name: str, place: Path) -> dict[str, Node]:
    """Export the image's merged tree by way of a container, and flatten it without the container's own files."""
    identity = lamella.run("create", name)
    place.mkdir(parents=True)
    lamella.run("export", "-o", str(place / "tree.tar"), identity)
    lamella.run("rm", identity)
    (place / "tree").mkdir()
    sh("tar", "--xattrs", "--xattrs-include=*", "--numeric-owner", "-xpf", place / "tree.tar", "-C", place / "tree")
    return without_init(flatten(place / "tree"))


def without_init(tree: dict[str, Node]) -> dict[str, Node]:
    """Leave out what an init layer puts over the image, and directories whose time it touches."""
    own = (".dockerenv", "dev", "etc/hosts", "etc/hostname", "etc/resolv.conf", "etc/mtab", "proc", "sys")
    kept = {name: node for name, node in tree.items() if not name.startswith(own)}
    return {name: node._replace(mtime=0) if name == "etc" else node for name, node in kept.items()}


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory, base_tar: Path) -> Generator[Shipped]:
    place = tmp_path_factory.mktemp("peers")
    lamella = Lamella(place / "root")
    (place / "context").mkdir()
    (place / "context/Dockerfile").write_text(DOCKERFILE)
    lamella.run("import", str(base_tar), "base:1")
    lamella.run("build", "-t", "shipped:1", str(place / "context"))
    archive = place / "shipped.tar"
    lamella.run("save", "-o", str(archive), "shipped:1")
    layers = lamella.inspect("shipped:1")["RootFS"]["Layers"]
    yield Shipped(lamella, place, archive, layers, tree_of(lamella, "shipped:1", place / "ours"))


def assert_same_image(shipped: Shipped, archive: Path, place: Path, name: str = "shipped:1") -> None:
    """Load a peer's *archive* into a fresh store: the same image by layers and by tree."""
    fresh = Lamella(place / "fresh")
    fresh.run("load", "-i", str(archive))
    assert fresh.inspect(name)["RootFS"]["Layers"] == shipped.layers
    assert tree_of(fresh, name, place / "theirs") == shipped.tree


def test_docker_loads_our_archive_and_its_save_loads_back(shipped: Shipped, tmp_path: Path) -> None:
    with Dockerd(tmp_path / "docker") as docker:
        docker.run("load", "-i", str(shipped.archive))
        image = docker.inspect("shipped:1")
        docker.run("save", "-o", str(tmp_path / "back.tar"), "shipped:1")
    assert image["RootFS"]["Layers"] == shipped.layers
    assert image["Id"] == shipped.lamella.inspect("shipped:1")["Id"]
    assert_same_image(shipped, tmp_path / "back.tar", tmp_path)


@pytest.mark.parametrize("form", ["docker-archive", "oci-archive"])
def test_podman_loads_our_archive_and_its_save_loads_back(shipped: Shipped, tmp_path: Path, form: str) -> None:
    short = tempfile.mkdtemp(prefix="p-")  # podman takes at most 50 characters
    podman: list[str | Path] = ["podman", "--root", tmp_path / "podman", "--runroot", short, "--storage-driver", "vfs"]
    sh(*podman, "load", "-i", shipped.archive)
    image = json.loads(sh(*podman, "image", "inspect", "shipped:1"))[0]
    assert image["RootFS"]["Layers"] == shipped.layers
    sh(*podman, "save", "--format", form, "-o", tmp_path / "back.tar", "shipped:1")
    assert_same_image(shipped, tmp_path / "back.tar", tmp_path, "localhost/shipped:1" if "localhost" in str(image["RepoTags"]) else "shipped:1")  # fmt: skip


@pytest.mark.parametrize("form", ["oci-archive", "docker-archive"])
@pytest.mark.parametrize("target", ["oci", "oci-archive", "docker-archive"])
def test_skopeo_copies_our_archive_into_any_form_and_it_loads_back(
    shipped: Shipped, tmp_path: Path, form: str, target: str
) -> None:
    back = tmp_path / "back"
    sh(
        "skopeo",
        "--insecure-policy",
        "copy",
        f"{form}:{shipped.archive}",
        f"{target}:{back}:docker.io/library/shipped:1",
    )
    assert_same_image(shipped, back, tmp_path)


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_compressed_oci_layouts_load(shipped: Shipped, tmp_path: Path, compression: str) -> None:
    back = tmp_path / "back"
    sh(
        "skopeo", "--insecure-policy", "copy", "--dest-compress-format", compression,
        f"oci-archive:{shipped.archive}", f"oci:{back}:shipped:1",
    )  # fmt: skip
    assert_same_image(shipped, back, tmp_path)


def test_umoci_unpacks_the_same_tree(shipped: Shipped, tmp_path: Path) -> None:
    sh("skopeo", "--insecure-policy", "copy", f"oci-archive:{shipped.archive}", f"oci:{tmp_path}/layout:one")
    sh("umoci", "unpack", "--image", f"{tmp_path}/layout:one", tmp_path / "bundle")
    theirs = without_init(flatten(tmp_path / "bundle/rootfs"))
    ours = shipped.tree
    assert theirs == {name: node for name, node in ours.items() if name in theirs}
    assert set(ours) == set(theirs)


def test_umoci_unpacks_the_layout_inside_our_archive_directly(shipped: Shipped, tmp_path: Path) -> None:
    (tmp_path / "layout").mkdir()
    sh("tar", "-xf", shipped.archive, "-C", tmp_path / "layout")
    sh("umoci", "unpack", "--image", f"{tmp_path}/layout:1", tmp_path / "bundle")
    assert set(without_init(flatten(tmp_path / "bundle/rootfs"))) == set(shipped.tree)


def test_containerd_imports_our_archive(shipped: Shipped, tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text('version = 2\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n')
    socket = tmp_path / "c.sock"
    with (tmp_path / "log").open("wb") as log, subprocess.Popen(
        ["containerd", "--config", config, "--root", tmp_path / "c-root", "--state", tmp_path / "c-state", "--address", socket],
        stdout=log, stderr=log,
    ) as daemon:  # fmt: skip
        try:
            subprocess.run(["timeout", "30", "sh", "-c", f"until ctr -a {socket} version; do sleep 0.1; done"], check=True, capture_output=True)  # fmt: skip
            sh("ctr", "-a", socket, "images", "import", "--digests", "--no-unpack", shipped.archive)
            names = sh("ctr", "-a", socket, "images", "ls", "-q").split()
        finally:
            daemon.terminate()
    assert "docker.io/library/shipped:1" in names


def test_docker_archives_of_the_old_shape_load(shipped: Shipped, tmp_path: Path) -> None:
    """Debian's docker 20.10 saves one directory a layer; the same layer twice is a link."""
    with Dockerd(tmp_path / "docker") as docker:
        docker.run("load", "-i", str(shipped.archive))
        docker.run("tag", "shipped:1", "shipped:2")
        docker.run("save", "-o", str(tmp_path / "old.tar"), "shipped:1", "shipped:2")
    fresh = Lamella(tmp_path / "fresh")
    loaded = fresh.run("load", "-i", str(tmp_path / "old.tar"))
    assert loaded.splitlines() == ["Loaded image: shipped:1", "Loaded image: shipped:2"]
    assert fresh.inspect("shipped:2")["Id"] == shipped.lamella.inspect("shipped:1")["Id"]


def test_what_was_loaded_is_saved_again_bit_for_bit(shipped: Shipped, tmp_path: Path) -> None:
    fresh = Lamella(tmp_path / "fresh")
    fresh.run("load", "-i", str(shipped.archive))
    fresh.run("save", "-o", str(tmp_path / "again.tar"), "shipped:1")
    assert (tmp_path / "again.tar").read_bytes() == shipped.archive.read_bytes()

"""dockerd as the judge, in both directions: it opens what lamella wrote, and lamella opens what it leaves behind."""

from __future__ import annotations

import io
import json
import tarfile  # an independent reader
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from tests.support.cli import Lamella
from tests.support.dockerd import Dockerd

if TYPE_CHECKING:
    from collections.abc import Generator

pytestmark = pytest.mark.xdist_group("dockerd")

DOCKERFILE = """\
FROM base:1
ENV author=jlz
RUN echo x1 > /tmp/test && rm /etc/issue
RUN rm -r /home && mkdir /home && echo new > /home/file
COPY hello /opt/hello
ENTRYPOINT ["/bin/cat", "/tmp/test"]
"""


def docker_layers(archive: Path) -> list[str]:
    """Hash the layer tars of a docker-archive, base first."""
    import hashlib

    with tarfile.open(archive) as tar:
        manifest = json.load(tar.extractfile("manifest.json"))  # type: ignore[arg-type]
        layers = []
        for name in manifest[0]["Layers"]:
            member = tar.getmember(name)
            while member.issym():
                member = tar.getmember(str(Path(member.name).parent.joinpath(member.linkname)).replace("/..", ""))
            data = tar.extractfile(member)
            assert data is not None
            layers.append("sha256:" + hashlib.sha256(data.read()).hexdigest())
        return layers


class Both(NamedTuple):
    """One data root after each engine had its turn: lamella, dockerd, lamella again."""

    lamella: Lamella
    written: dict[str, Any]
    seen: dict[str, Any]
    left: dict[str, Any]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory, base_tar: Path) -> Generator[Both]:
    place = tmp_path_factory.mktemp("both")
    lamella = Lamella(place / "root")
    context = place / "context"
    context.mkdir()
    (context / "Dockerfile").write_text(DOCKERFILE)
    (context / "hello").write_text("hello\n")
    lamella.run("import", str(base_tar), "base:1")
    lamella.run("build", "-t", "app:1", str(context))
    lamella.run("create", "--name", "made-by-lamella", "--entrypoint", "/bin/sh", "app:1", "-c", "echo from lamella")
    lamella.run("run", "--name", "ran-by-lamella", "app:1")
    written = {
        "images": lamella.run("images", "-a", "-q", "--no-trunc").splitlines(),
        "image": lamella.inspect("app:1"),
        "container": lamella.inspect("made-by-lamella"),
        "history": lamella.run("history", "--no-trunc", "--format", "{{.ID}} {{.CreatedBy}} {{.Size}}", "app:1"),
    }
    seen: dict[str, Any] = {}
    with Dockerd(lamella.root) as docker:
        seen["refusal"] = lamella.try_run("tag", "app:1", "app:2")
        seen["reading"] = lamella.run("images", "-q", "--no-trunc", "app")
        seen["images"] = docker.run("images", "-a", "-q", "--no-trunc").splitlines()
        seen["image"] = docker.inspect("app:1")
        seen["container"] = docker.inspect("made-by-lamella")
        seen["history"] = docker.run("history", "--no-trunc", "--format", "{{.ID}} {{.CreatedBy}} {{.Size}}", "app:1")
        seen["started"] = docker.run("start", "-a", "made-by-lamella")
        seen["diff"] = docker.run("diff", "made-by-lamella")
        seen["logs"] = docker.run("logs", "ran-by-lamella")
        seen["run"] = docker.run("run", "--network", "none", "--name", "docker-ran", "app:1")
        seen["tree"] = docker.run(
            "run", "--rm", "--network", "none", "--entrypoint", "/bin/sh", "app:1", "-c",
            "ls /home /opt; test -e /etc/issue || echo no issue; cat /home/file",
        )  # fmt: skip
        docker.run(
            "run", "--network", "none", "--name", "writer", "--entrypoint", "/bin/touch", "app:1", "/docker-made"
        )
        docker.run("commit", "writer", "committed:1")
        docker.run("save", "-o", str(place / "docker.tar"), "app:1")
        (context / "Dockerfile").write_text(DOCKERFILE + "RUN echo y > /y\n")
        # A context tar of plain modes, as current clients send it; Debian's client adds type bits, and so misses COPY.
        sent = io.BytesIO()
        with tarfile.open(fileobj=sent, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            for name in ("Dockerfile", "hello"):
                tar.add(context / name, name)
        seen["build"] = docker.run("build", "--network", "none", "-t", "built-on:1", "-", stdin=sent.getvalue())
        seen["rm"] = docker.run("rm", "made-by-lamella")
        left = {
            "images": docker.run("images", "-a", "-q", "--no-trunc").splitlines(),
            "committed": docker.inspect("committed:1"),
            "built": docker.inspect("built-on:1"),
            "container": docker.inspect("writer"),
            "diff": docker.run("diff", "writer"),
            "layers": docker_layers(place / "docker.tar"),
        }
    yield Both(lamella, written, seen, left)


def test_dockerd_lists_the_same_images(both: Both) -> None:
    assert sorted(both.seen["images"]) == sorted(both.written["images"])


def test_dockerd_inspects_the_same_layers_and_directories(both: Both) -> None:
    for part in (
        "Id",
        "RepoTags",
        "RootFS",
        "GraphDriver",
        "Config",
        "Size",
        "Architecture",
        "Os",
        "Parent",
        "Created",
    ):
        assert both.seen["image"][part] == both.written["image"][part], part


def test_dockerd_tells_the_same_history(both: Both) -> None:
    assert both.seen["history"] == both.written["history"]


def test_dockerd_finds_and_starts_a_container_made_by_lamella(both: Both) -> None:
    ours, theirs = both.written["container"], both.seen["container"]
    for part in ("Id", "Name", "Image", "Path", "Args", "Driver"):
        assert theirs[part] == ours[part], part
    for part in ("UpperDir", "LowerDir", "MergedDir", "WorkDir"):
        assert theirs["GraphDriver"]["Data"][part] == ours["GraphDriver"]["Data"][part], part
    assert both.seen["started"] == "from lamella"
    assert both.seen["diff"] == ""


def test_dockerd_reads_the_log_of_a_container_that_lamella_ran(both: Both) -> None:
    assert both.seen["logs"] == "x1"


def test_dockerd_runs_the_image_with_whiteouts_and_opaque_directories_in_force(both: Both) -> None:
    assert both.seen["run"] == "x1"
    assert both.seen["tree"].split("\n") == ["/home:", "file", "", "/opt:", "hello", "no issue", "new"]


def test_dockerd_saves_the_very_layers_that_the_image_names(both: Both) -> None:
    assert both.left["layers"] == both.written["image"]["RootFS"]["Layers"]


def test_dockerds_classic_builder_hits_the_cache_that_lamella_left(both: Both) -> None:
    lines = both.seen["build"].splitlines()
    assert lines.count(" ---> Using cache") == 5
    assert "Step 7/7" in both.seen["build"]


def test_writing_beside_a_running_dockerd_is_refused_and_reading_is_not(both: Both) -> None:
    assert both.seen["refusal"].returncode == 1
    assert "dockerd" in both.seen["refusal"].stderr
    assert both.seen["reading"] == both.written["image"]["Id"]


def test_lamella_lists_what_dockerd_left(both: Both) -> None:
    assert sorted(both.lamella.run("images", "-a", "-q", "--no-trunc").splitlines()) == sorted(both.left["images"])


@pytest.mark.parametrize(("name", "which"), [("committed:1", "committed"), ("built-on:1", "built")])
def test_lamella_inspects_images_that_dockerd_made(both: Both, name: str, which: str) -> None:
    ours = both.lamella.inspect(name)
    for part in ("Id", "RepoTags", "RootFS", "GraphDriver", "Config", "Size", "Parent", "Created"):
        assert ours[part] == both.left[which][part], part


def test_lamella_runs_commits_and_saves_what_dockerd_made(both: Both, tmp_path: Path) -> None:
    lamella = both.lamella
    assert lamella.run("run", "--rm", "--entrypoint", "/bin/ls", "committed:1", "/docker-made") == "/docker-made"
    assert lamella.run("diff", "writer") == both.left["diff"]
    assert lamella.inspect("writer")["GraphDriver"]["Data"]["LowerDir"] == both.left["container"]["GraphDriver"]["Data"]["LowerDir"]  # fmt: skip
    lamella.run("commit", "writer", "committed:2")
    assert lamella.inspect("committed:2")["RootFS"]["Layers"][:-1] == lamella.inspect("app:1")["RootFS"]["Layers"]
    lamella.run("save", "-o", str(tmp_path / "ours.tar"), "built-on:1")
    assert docker_layers(tmp_path / "ours.tar") == both.left["built"]["RootFS"]["Layers"]


def test_lamella_starts_and_removes_a_container_that_dockerd_made(both: Both) -> None:
    assert both.lamella.run("start", "-a", "docker-ran") == "x1"
    assert both.lamella.run("logs", "docker-ran").splitlines() == ["x1", "x1"]
    both.lamella.run("rm", "docker-ran")


def test_dockerd_opens_the_store_again_after_lamella_changed_it(both: Both) -> None:
    ours = both.lamella.run("images", "-a", "-q", "--no-trunc").splitlines()
    containers = both.lamella.run("ps", "-a", "-q", "--no-trunc").splitlines()
    with Dockerd(both.lamella.root) as docker:
        assert sorted(docker.run("images", "-a", "-q", "--no-trunc").splitlines()) == sorted(ours)
        assert sorted(docker.run("ps", "-a", "-q", "--no-trunc").splitlines()) == sorted(containers)

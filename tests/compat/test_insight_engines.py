"""explain, why, blame and image diff answer on the stores of the real engines as the engines themselves would."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import lamella
from lamella.readers.detect import open_reader
from tests.support.cli import Lamella
from tests.support.dockerd import Dockerd
from tests.support.engines import Containerd, Podman

DAMAGES_STORES = True  # on purpose: they are looked at with that

if TYPE_CHECKING:
    from collections.abc import Generator

pytestmark = pytest.mark.xdist_group("readers")

STEPS = """\
FROM {base}
RUN mkdir -p /deep/er && echo one > /deep/er/file && rm /etc/issue
RUN rm -r /deep/er && echo two > /two && echo changed > /etc/group
ENV A=b
"""


def write_context(place: Path, base: str) -> Path:
    context = place / "context"
    context.mkdir()
    (context / "Dockerfile").write_text(STEPS.format(base=base))
    return context


def why(*questions: str) -> list[dict[str, Any]]:
    command = [str(Path(sys.executable).parent / "lamella"), "why", "--json", *questions]
    answer = subprocess.run(command, capture_output=True, check=False, timeout=60)
    assert answer.returncode in {0, 3, 4}, answer.stderr.decode(errors="replace")
    found: list[dict[str, Any]] = json.loads(answer.stdout)
    return found


@pytest.fixture(scope="module")
def docker(tmp_path_factory: pytest.TempPathFactory, base_tar: Path) -> Generator[Dockerd]:
    """A dockerd that has built and runs a container, still running."""
    place = tmp_path_factory.mktemp("seen")
    with Dockerd(place / "root") as engine:
        engine.run("import", str(base_tar), "base:1")
        engine.run("build", "-t", "built:1", "--network=none", str(write_context(place, "base:1")))
        script = "echo w > /w; rm /two; echo g > /etc/group; mkdir /new; echo n > /new/file; sleep 600"
        engine.run("run", "-d", "--network=none", "--name", "runs", "-v", "data:/data", "built:1", "sh", "-c", script)
        engine.run("exec", "runs", "sh", "-c", "while ! [ -e /new/file ]; do :; done")
        yield engine
        engine.run("rm", "-f", "runs")


def test_a_data_root_in_use_is_explained_as_docker_inspects_it(docker: Dockerd) -> None:
    story = lamella.look(docker.root).explain("built:1")
    theirs = docker.inspect("built:1")
    data = theirs["GraphDriver"]["Data"]
    assert [layer.diff_id for layer in story.layers] == theirs["RootFS"]["Layers"]
    assert [layer.directory for layer in story.layers][::-1] == [data["UpperDir"], *data["LowerDir"].split(":")]
    assert story.size == theirs["Size"]
    lines = docker.run("history", "--no-trunc", "--format", "{{json .CreatedBy}}", "built:1").splitlines()
    assert [step.created_by for step in story.steps][::-1] == [json.loads(line) for line in lines]
    assert not story.problems


def test_a_running_containers_changes_are_those_of_docker_diff(docker: Dockerd) -> None:
    story = lamella.look(docker.root).explain("runs")
    changes = [line.split(" ", 1) for line in docker.run("diff", "runs").splitlines()]
    top = story.layers[-1]
    assert top.directory is not None
    assert top.files is not None
    upper = Path(top.directory)
    by_kind = {
        kind: [path for letter, path in changes if letter == kind and not (upper / path[1:]).is_dir()] for kind in "ACD"
    }
    assert (top.files.added, top.files.changed, top.files.deleted) == tuple(len(by_kind[kind]) for kind in "ACD")
    for path in by_kind["A"] + by_kind["C"]:
        (blamed,) = lamella.look(docker.root).blame("runs", [path])
        assert (blamed.state, blamed.layer and blamed.layer.role) == ("present", "writable")
    for path in by_kind["D"]:
        (blamed,) = lamella.look(docker.root).blame("runs", [path])
        assert (blamed.state, blamed.versions[0].does) == ("deleted", "deletes")
    assert story.container is not None
    assert story.container.merged == docker.inspect("runs")["GraphDriver"]["Data"]["MergedDir"]
    assert story.container.volumes == ("data",)


def test_everything_below_a_docker_root_belongs_to_somebody(docker: Dockerd) -> None:
    container = docker.inspect("runs")
    merged = container["GraphDriver"]["Data"]["MergedDir"]
    volume = docker.inspect("data")["Mountpoint"]
    places = [str(path) for path in (docker.root / "overlay2").iterdir()]
    places += [str(path) for path in (docker.root / "image/overlay2").rglob("*") if not path.name.startswith(".")]
    answers = why(*places, str(docker.root / "containers" / container["Id"]), f"{volume}/x", f"{merged}/bin/sh")
    assert {answer["state"] for answer in answers} <= {"held", "own"}
    *_, kept, data, shell = answers
    assert kept["containers"][0]["names"] == data["containers"][0]["names"] == ["runs"]
    assert (data["holder"], data["volumes"], data["inside"]) == ("volume", ["data"], "/x")
    assert (shell["step"]["layer"], shell["seen_in"]["id"]) == (1, container["Id"])


def test_dockers_process_and_orphans_are_told(docker: Dockerd) -> None:
    container = docker.inspect("runs")
    (answer,) = why(str(container["State"]["Pid"]))
    assert (answer["seen_in"]["id"], answer["process"]) == (container["Id"], container["State"]["Pid"])


def test_a_podman_store_is_explained_as_podman_inspects_it(tmp_path: Path, base_tar: Path) -> None:
    with Podman(tmp_path / "root") as podman:
        podman.run("import", str(base_tar), "localhost/base:1")
        podman.build("localhost/built:1", write_context(tmp_path, "localhost/base:1"))
        podman.container("create", "rests", "localhost/built:1", "true")
        theirs = podman.inspect("image", "localhost/built:1")
        cli = Lamella(tmp_path / "root")
        story = json.loads(cli.run("explain", "--json", "built:1"))
        data = theirs["GraphDriver"]["Data"]
        assert [layer["diff_id"] for layer in story["layers"]] == theirs["RootFS"]["Layers"]
        assert [layer["directory"] for layer in story["layers"]][::-1] == [
            data["UpperDir"],
            *data["LowerDir"].split(":"),
        ]
        assert [layer["files"]["deleted"] for layer in story["layers"][1:3]] == [1, 1]
        for layer in story["layers"]:
            # Buildah leaves files of its own in what RUN made, so the directory is what counts.
            command = ["find", layer["directory"], "!", "-type", "d", "!", "-type", "c", "-printf", "x"]
            listing = subprocess.run(command, capture_output=True, check=True)
            assert layer["files"]["added"] + layer["files"]["changed"] == len(listing.stdout)
        for layer in story["layers"]:
            (answer,) = why(layer["directory"])
            assert (answer["holder"], answer["layer"]["diff_id"]) == ("layer", layer["diff_id"])
        (own,) = why(podman.inspect("container", "rests")["GraphDriver"]["Data"]["UpperDir"])
        assert (own["holder"], own["containers"][0]["names"]) == ("container", ["rests"])
        (blamed,) = json.loads(cli.run("blame", "--json", "rests", "/etc/issue"))
        assert (blamed["state"], blamed["layer"]["number"]) == ("deleted", 2)
        listed = {
            line.split(" ", 1)[1]
            for line in podman.run("image", "diff", "localhost/built:1", "localhost/base:1").splitlines()
        }
        found = json.loads(cli.run("image", "diff", "--json", "built:1", "base:1"))
        # Podman does not tell of what it mounts into every container.
        mounted = {"/run", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf"}
        assert (
            {"/deep", "/two", "/etc/issue", "/etc/group"}
            <= {file["path"] for file in found["files"]}
            <= listed | mounted
        )
        orphan = tmp_path / "root/overlay" / ("0" * 64)
        orphan.mkdir()
        assert why(str(orphan))[0]["state"] == "orphan"


def test_a_containerd_store_is_explained(tmp_path: Path, base_tar: Path) -> None:
    maker = Lamella(tmp_path / "maker")
    maker.run("import", str(base_tar), "docker.io/library/base:1")
    maker.run("build", "-q", "-t", "docker.io/library/built:1", str(write_context(tmp_path, "base:1")))
    maker.run("save", "-o", str(tmp_path / "built.tar"), "built:1")
    with Containerd(tmp_path / "root") as engine:
        engine.ctr("images", "import", str(tmp_path / "built.tar"))
        story = lamella.look(tmp_path / "root").explain("built:1")
        mine = lamella.look(maker.root).explain("built:1")
        assert [layer.diff_id for layer in story.layers] == [layer.diff_id for layer in mine.layers]
        assert [layer.files for layer in story.layers] == [layer.files for layer in mine.layers]
        assert {row[0] for row in engine.table("snapshots", "ls")} == {layer.chain_id for layer in story.layers}
        for layer in story.layers:
            (answer,) = why(str(layer.directory))
            assert (answer["holder"], answer["layer"]["chain_id"]) == ("layer", layer.chain_id)
        (blamed,) = lamella.look(tmp_path / "root").blame("built:1", ["/etc/group"])
        assert [version.layer for version in blamed.versions] == [3, 1]


def test_snapshots_that_are_whole_trees_are_explained_as_those_that_are_not(tmp_path: Path, base_tar: Path) -> None:
    maker = Lamella(tmp_path / "maker")
    maker.run("import", str(base_tar), "docker.io/library/base:1")
    maker.run("build", "-q", "-t", "docker.io/library/built:1", str(write_context(tmp_path, "base:1")))
    maker.run("save", "-o", str(tmp_path / "built.tar"), "built:1")
    mine = lamella.look(maker.root)
    with Containerd(tmp_path / "root") as engine:
        engine.ctr("images", "import", "--snapshotter", "native", str(tmp_path / "built.tar"))
        engine.ctr(
            "run", "-d", "--snapshotter", "native", "docker.io/library/built:1", "runs", "/bin/busybox", "sleep", "600"
        )
        engine.ctr("tasks", "exec", "--exec-id", "x", "runs", "/bin/busybox", "sh", "-c", "rm /two; echo n > /new")
        look = lamella.look(tmp_path / "root")
        story = look.explain("built:1")
        assert (story.driver, len(story.layers)) == ("native", 3)
        assert [layer.files for layer in story.layers] == [layer.files for layer in mine.explain("built:1").layers]
        paths = ["/etc/issue", "/etc/group", "/deep/er/file", "/two", "/bin/busybox"]
        for theirs, ours in zip(look.blame("built:1", paths), mine.blame("built:1", paths), strict=True):
            assert theirs.state == ours.state
            assert theirs.versions[0].layer == ours.versions[0].layer
        assert look.blame_all("built:1").kept == mine.blame_all("built:1").kept
        assert {file.path for file in look.image_diff("built:1", "runs").files} >= {"/two", "/new"}
        (gone,) = look.blame("runs", ["/two"])
        assert (gone.state, gone.layer and gone.layer.role) == ("deleted", "writable")
        (task,) = engine.table("tasks", "ls")
        shell, new, program = why(f"/proc/{task[1]}/root/etc/group", f"/proc/{task[1]}/root/new", task[1])
        assert (shell["layer"]["diff_id"], shell["seen_in"]["names"]) == (story.layers[2].diff_id, ["runs"])
        assert (new["layer"]["role"], program["layer"]["diff_id"]) == ("writable", story.layers[0].diff_id)
        (answer,) = why(f"{story.layers[2].directory}/two")
        assert (answer["layer"]["diff_id"], answer["inside"]) == (story.layers[2].diff_id, "/two")


def test_each_namespaces_copy_of_a_layer_is_needed_by_its_image(tmp_path: Path, base_tar: Path) -> None:
    maker = Lamella(tmp_path / "maker")
    maker.run("import", str(base_tar), "docker.io/library/base:1")
    maker.run("build", "-q", "-t", "docker.io/library/built:1", str(write_context(tmp_path, "base:1")))
    for name in ("base", "built"):
        maker.run("save", "-o", str(tmp_path / f"{name}.tar"), f"{name}:1")
    with Containerd(tmp_path / "root", "one") as engine:
        engine.ctr("images", "import", "--snapshotter", "overlayfs", str(tmp_path / "built.tar"))
        engine.ctr("images", "import", "--snapshotter", "native", str(tmp_path / "built.tar"))
        engine.ctr("containers", "create", "--env", "IN=one", "docker.io/library/built:1", "same", "/bin/true")
        engine.namespace = "two"
        engine.ctr("images", "import", "--snapshotter", "native", str(tmp_path / "base.tar"))
        engine.ctr("containers", "create", "--snapshotter", "native", "--env", "IN=two", "docker.io/library/base:1",
                   "same", "/bin/true")  # fmt: skip
    reader = open_reader(tmp_path / "root")
    layers = reader.layers()
    for name in ("base:1", "built:1"):
        stack = [layers[layer] for layer in reader.find_image(name).layers]
        assert len({layer.directory.parts[-3 if layer.directory.name == "fs" else -2] for layer in stack}) == 1
    containers = reader.containers()
    assert sorted(container.name for container in containers) == ["same", "two-same"]
    assert len({container.id for container in containers}) == 2
    told = {}
    for container in containers:
        spec = reader.container_spec(container)
        assert spec is not None
        assert {layers[layer].whole for layer in container.layers} == {"two" in container.id}
        told[container.id] = [entry for entry in spec["process"]["env"] if entry.startswith("IN=")]  # type: ignore[index]
    assert sorted(told.values()) == [["IN=one"], ["IN=two"]]
    ledger = json.loads(Lamella(tmp_path / "root").run("df", "--json"))
    assert ledger["unaccounted"] == []
    for container in ledger["containers"]:
        assert container["writable"] > 0
    taken = Lamella(tmp_path / "taken")
    taken.run("adopt", str(tmp_path / "root"))
    assert len(taken.run("ps", "-aq").split()) == 2


@pytest.mark.parametrize("driver", ["overlay", "vfs"])
def test_a_store_of_podmans_is_never_taken_for_a_data_root(tmp_path: Path, base_tar: Path, driver: str) -> None:
    """Its vfs driver keeps layers where Docker's does, so that all of them would look like orphans."""
    with Podman(tmp_path / "root", driver) as podman:
        podman.run("import", str(base_tar), "localhost/base:1")
        podman.build("localhost/built:1", write_context(tmp_path, "localhost/base:1"))
    before = sorted(path for path in (tmp_path / "root").rglob("*") if "dir" in path.parts or "overlay" in path.parts)
    cli = Lamella(tmp_path / "root")
    assert json.loads(cli.run("fsck", "--json"))["findings"] == []
    for command in (
        ["reclaim", "--dry-run"], ["reclaim", "--now"], ["fsck", "--heal"], ["import", str(base_tar), "mine:1"],
        ["image", "prune", "-af"], ["gc", "apply"], ["images"], ["--storage-driver", "vfs", "system", "prune", "-af"],
    ):  # fmt: skip
        answer = cli.try_run(*command)
        assert answer.returncode not in {0, 3}, (command, answer)
        assert "Podman" in answer.stderr or "another engine's" in answer.stderr, (command, answer)
    assert before == sorted(
        path for path in (tmp_path / "root").rglob("*") if "dir" in path.parts or "overlay" in path.parts
    )
    assert not (tmp_path / "root/lamella").exists()
    assert not (tmp_path / "root/image").exists()
    (tmp_path / "root/image/vfs/imagedb/content/sha256").mkdir(parents=True)  # as a mistake may have left it
    (tmp_path / "root/image/vfs/layerdb/sha256/x").mkdir(parents=True)
    assert cli.try_run("reclaim", "--dry-run").returncode == 1


def test_containerds_root_is_never_taken_for_an_empty_data_root(tmp_path: Path, base_tar: Path) -> None:
    with Containerd(tmp_path / "root"):
        pass
    answer = Lamella(tmp_path / "root").try_run("import", str(base_tar), "mine:1")
    assert (answer.returncode, "is a store of containerd" in answer.stderr) == (1, True)
    assert not (tmp_path / "root/lamella").exists()


def test_podmans_overlays_within_a_container_are_followed(tmp_path: Path, base_tar: Path) -> None:
    (tmp_path / "bound").mkdir()
    (tmp_path / "bound/old").write_text("")
    with Podman(tmp_path / "root") as podman:
        podman.run("import", str(base_tar), "localhost/base:1")
        podman.build("localhost/built:1", write_context(tmp_path, "localhost/base:1"))
        podman.container("run", "runs", "-v", f"{tmp_path}/bound:/over:O", "--mount", "type=image,source=built:1,dst=/image",
                         "base:1", "sh", "-c", "echo > /over/new; sleep 600")  # fmt: skip
        podman.run("exec", "runs", "sh", "-c", "while ! [ -e /over/new ]; do :; done")
        pid = podman.inspect("container", "runs")["State"]["Pid"]
        built = lamella.look(tmp_path / "root").explain("built:1")
        group, two, new, old = why(
            *(f"/proc/{pid}/root/{name}" for name in ("image/etc/group", "image/two", "over/new", "over/old"))
        )
        for answer, inside in ((group, "/etc/group"), (two, "/two")):
            assert (answer["layer"]["diff_id"], answer["inside"]) == (built.layers[2].diff_id, inside)
            assert answer["seen_in"]["names"] == ["runs"]
        assert (new["holder"], Path(new["path"]).name) == ("container", "new")
        assert Path(new["path"]).exists()
        assert (old["state"], f"{tmp_path}/bound/old" in old["reason"]) == ("unknown", True)


def test_a_podman_container_on_a_directory_of_the_hosts_runs_and_is_not_adopted(tmp_path: Path, base_tar: Path) -> None:
    (tmp_path / "files").mkdir()
    subprocess.run(["tar", "-C", tmp_path / "files", "-xf", base_tar], check=True)
    with Podman(tmp_path / "root") as podman:
        podman.run("import", str(base_tar), "localhost/base:1")
        podman.container("run", "outside", "--rootfs", str(tmp_path / "files"), "sleep", "600")
        (found,) = open_reader(tmp_path / "root").containers()
        assert (found.status, found.pid) == ("running", podman.inspect("container", "outside")["State"]["Pid"])
    answer = Lamella(tmp_path / "mine").try_run("adopt", str(tmp_path / "root"), "outside")
    assert answer.returncode == 1
    assert f"its files are those of {tmp_path}/files" in answer.stdout

"""Nothing sound is ever accused: stores in use, stores of both engines, layers of every shape."""

from __future__ import annotations

import io
import json
import subprocess
import threading
from pathlib import Path

import pytest

from lamella.changeset.apply import apply_layer
from lamella.engine.keeping import check_store
from lamella.insight.contents import Task, check_contents
from lamella.insight.findings import Severity
from lamella.store.imagestore import ImageStore
from tests.corpus.hostile import CASES, OUTSIDE
from tests.support.archives import docker20, image, layer_tar
from tests.support.cli import Lamella
from tests.support.dockerd import Dockerd
from tests.support.engines import Containerd, Podman
from tests.support.storeops import OPERATIONS, Operation, prepare, write_archives
from tests.unit.test_changeset_hostile import swap

pytestmark = pytest.mark.xdist_group("fsck-sound")


def told(root: Path, *, deep: bool = True, notes: bool = False) -> list[str]:
    return [
        f"{item.severity} {item.code} {item.path}: {item.text}"
        for item in check_store(root, deep=deep).findings
        if notes or item.severity is not Severity.NOTE
    ]


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.refused is None])
def test_every_layer_that_can_be_applied_is_what_its_tar_split_says(name: str, tmp_path: Path) -> None:
    files, record = tmp_path / "files", tmp_path / "record"
    files.mkdir()
    with record.open("wb") as sink:
        applied = apply_layer(io.BytesIO(placed(CASES[name].archive)), files, tar_split=sink)
    task = Task(name, files, record, applied.size, applied.diff_id, deep=True)
    assert check_contents(task) == []


def placed(archive: bytes) -> bytes:
    """Give the corpus's outside a path, and its headers their checksums."""
    blocks = (archive[start : start + 512] for start in range(0, len(archive), 512))
    return b"".join(swap(block, b"/nowhere") if OUTSIDE in block else block for block in blocks)


def test_layers_of_every_shape_that_dockerd_stores(tmp_path: Path) -> None:
    taken = 0
    with Dockerd(tmp_path / "root") as docker:
        for number, case in enumerate(CASES.values()):
            made = image([placed(case.archive)], f"case:{number}")
            docker20(tmp_path / "case.tar", made)
            taken += "Loaded image" in docker.try_run("load", "-i", str(tmp_path / "case.tar")).stdout.decode()
        assert told(tmp_path / "root", deep=False) == []
    assert taken > 20
    assert told(tmp_path / "root", deep=False) == []


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.__name__)
def test_a_store_is_sound_after_each_operation(tmp_path: Path, operation: Operation) -> None:
    write_archives(tmp_path)
    root = tmp_path / "root"
    prepare(operation, root, tmp_path)
    assert told(root, notes=True) == []
    operation(ImageStore.open(root), tmp_path)
    assert told(root, notes=True) == []


def test_a_store_that_commands_are_changing_is_sound_all_the_while(tmp_path: Path, base_tar: Path) -> None:
    lamella = Lamella(tmp_path / "root")
    lamella.run("import", str(base_tar), "base:1")
    context = tmp_path / "context"
    context.mkdir()
    (context / "Dockerfile").write_text("FROM base:1\nARG n\nRUN echo $n > /n\nRUN echo $n$n > /nn\n")
    made = image([layer_tar({f"d{n}": b"x" * 3000 for n in range(200)})], "many:1")
    docker20(tmp_path / "many.tar", made)
    lamella.run("run", "-d", "--name", "runs", "base:1", "sleep", "60")
    failures: list[BaseException] = []
    stop = threading.Event()

    def churn(kind: int) -> None:
        try:
            number = 0
            while not stop.is_set():
                number += 1
                if kind:
                    lamella.run("build", "-q", "--build-arg", f"n={number}", "-t", "built:1", str(context))
                else:
                    lamella.run("load", "-q", "-i", str(tmp_path / "many.tar"))
                    lamella.run("run", "--rm", "base:1", "true")
                    lamella.run("rmi", "many:1")
        except BaseException as error:
            failures.append(error)
            raise

    threads = [threading.Thread(target=churn, args=(kind,)) for kind in (0, 1)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(12):
            found = [line for line in told(lamella.root, deep=False, notes=True) if "unclean" not in line]
            assert found == []
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        lamella.run("rm", "-f", "runs")
    assert failures == []
    assert told(lamella.root, notes=True) == []


def test_a_store_that_a_running_dockerd_is_changing_is_sound_all_the_while(tmp_path: Path, base_tar: Path) -> None:
    context = tmp_path / "context"
    context.mkdir()
    (context / "Dockerfile").write_text("FROM base:1\nARG n\nRUN echo $n > /n\nRUN echo $n$n > /nn\n")
    with Dockerd(tmp_path / "root") as docker:
        docker.run("import", str(base_tar), "base:1")
        docker.run("run", "-d", "--network", "none", "--name", "runs", "base:1", "sleep", "60")
        stop = threading.Event()
        failures: list[BaseException] = []

        def churn() -> None:
            try:
                number = 0
                while not stop.is_set():
                    number += 1
                    docker.run(
                        "build",
                        "-q",
                        "--network",
                        "none",
                        "--build-arg",
                        f"n={number}",
                        "-t",
                        f"b:{number % 3}",
                        str(context),
                    )
                    docker.run("run", "--rm", "--network", "none", "base:1", "true")
                    docker.run("image", "prune", "-f")
            except BaseException as error:
                failures.append(error)
                raise

        thread = threading.Thread(target=churn)
        thread.start()
        try:
            for _ in range(10):
                assert told(docker.root, deep=False) == []
        finally:
            stop.set()
            thread.join()
            docker.run("rm", "-f", "runs")
        assert failures == []
    assert told(docker.root) == []


def test_what_buildkit_keeps_is_sound_with_its_daemon_running_and_stopped(tmp_path: Path, base_tar: Path) -> None:
    context = tmp_path / "context"
    context.mkdir()
    (context / "Dockerfile").write_text("FROM base:1\nRUN echo 1 > /n && rm /etc/issue\nRUN mkdir /d && ln -s x /d/y\n")
    with Dockerd(tmp_path / "root") as docker:
        docker.run("import", str(base_tar), "base:1")
        docker.build_with_buildkit("built:1", context)
        (context / "Dockerfile").write_text("FROM base:1\nRUN echo 1 > /n && rm /etc/issue\nRUN echo other > /o\n")
        docker.build_with_buildkit("other:1", context)
        docker.run("run", "--network", "none", "built:1", "true")
        assert told(docker.root) == []
        docker.run("rmi", "other:1")
        assert told(docker.root) == []
    assert told(docker.root) == []


def test_stores_of_podman_and_containerd_are_sound(tmp_path: Path, base_tar: Path) -> None:
    with Podman(tmp_path / "podman") as podman:
        podman.run("import", base_tar, "base:1")
        context = tmp_path / "context"
        context.mkdir()
        (context / "Dockerfile").write_text("FROM base:1\nRUN echo 1 > /n && rm /etc/issue\n")
        podman.build("built:1", context)
        podman.container("create", "one", "built:1", "true")
        report = check_store(tmp_path / "podman", deep=True)
        assert report.kind == "containers-storage"
        assert report.layers >= 2
        assert [item.text for item in report.findings] == []
        victim = next(path for path in (tmp_path / "podman/overlay").glob("*/diff/etc/passwd"))
        victim.unlink()
        assert {item.code for item in check_store(tmp_path / "podman").findings} == {"layer-file-missing"}
    made = image([layer_tar({"etc": None, "etc/motd": b"hello\n"})], "docker.io/library/made:1")
    docker20(tmp_path / "made.tar", made)
    with Containerd(tmp_path / "containerd") as containerd:
        containerd.ctr("images", "import", tmp_path / "made.tar")
        assert told(tmp_path / "containerd") == []
    report = check_store(tmp_path / "containerd")
    assert report.kind == "containerd"
    assert report.findings == ()
    directory = next(path.parent.parent.parent for path in (tmp_path / "containerd").glob("*/snapshots/*/fs/etc/motd"))
    subprocess.run(["rm", "-rf", directory], check=True)
    assert {item.code for item in check_store(tmp_path / "containerd").findings} == {"layer-directory-missing"}


def test_damage_to_a_store_of_podman_is_told(tmp_path: Path, base_tar: Path) -> None:
    context = tmp_path / "context"
    context.mkdir()
    (context / "Dockerfile").write_text("FROM base:1\nRUN echo 1 > /n\n")
    with Podman(tmp_path / "podman") as podman:
        podman.run("import", base_tar, "base:1")
        podman.build("built:1", context)
        podman.container("create", "one", "built:1", "true")
    records = tmp_path / "podman/overlay-layers/layers.json"
    layers = json.loads(records.read_text())
    [base] = [layer for layer in layers if "parent" not in layer]
    records.write_text(json.dumps([layer for layer in layers if layer is not base]))
    report = check_store(tmp_path / "podman")
    assert not report.sound
    found = {item.code: item for item in report.findings}
    assert set(found) == {"parent-missing", "store-layers-missing"}
    assert base["id"] in found["parent-missing"].text
    assert found["store-layers-missing"].text.startswith("image ")
    [own] = [layer for layer in layers if layer["id"] not in {other.get("parent") for other in layers}]
    records.write_text(json.dumps([layer for layer in layers if layer is not own]))
    [finding] = check_store(tmp_path / "podman").findings
    assert finding.code == "store-layers-missing"
    assert finding.text.startswith("container ")
    records.write_text(json.dumps(layers))
    assert check_store(tmp_path / "podman").findings == ()
    names = tmp_path / "podman/overlay-images/images.json"
    names.write_bytes(names.read_bytes()[:-40])
    assert {item.code for item in check_store(tmp_path / "podman").findings} >= {"store-damaged"}


def test_damage_to_a_store_of_containerd_is_told(tmp_path: Path) -> None:
    base = layer_tar({"etc": None, "etc/motd": b"hello\n", "etc/issue": b"issue\n", "link": "etc/motd", "old": None,
                      "old/file": b"x"})  # fmt: skip
    top = layer_tar({"etc/.wh.issue": b"", "old/.wh..wh..opq": b"", "old/new": b"new\n"})
    docker20(tmp_path / "made.tar", image([base, top], "docker.io/library/made:1"))
    root = tmp_path / "containerd"
    with Containerd(root) as containerd:
        containerd.ctr("images", "import", tmp_path / "made.tar")
    report = check_store(root, deep=True)
    assert (report.findings, report.layers) == ((), 2)
    [files] = [path.parent.parent for path in root.glob("*/snapshots/*/fs/etc/motd")]

    def codes(*, deep: bool = False) -> set[str]:
        return {item.code for item in check_store(root, deep=deep).findings}

    (files / "etc/motd").write_bytes(b"HELLO\n")
    assert codes() == set()
    assert codes(deep=True) == {"layer-content-damaged"}
    (files / "etc/motd").chmod(0o600)
    assert codes() == {"layer-file-changed"}
    (files / "etc/motd").unlink()
    assert codes() == {"layer-file-missing"}
    (files / "etc/motd").write_bytes(b"hello\n")
    assert codes(deep=True) == set()
    (files / "stranger").touch()
    assert codes() == {"layer-file-extra"}
    (files / "stranger").unlink()
    blobs = [path for path in root.glob("**/blobs/sha256/*") if path.read_bytes() in (base, top)]
    assert len(blobs) == 2
    blobs[0].write_bytes(blobs[0].read_bytes() + bytes(512))
    blobs[1].write_bytes(b"")
    [one, two] = check_store(root).findings
    assert {one.code, two.code} == {"layer-blob-damaged"}
    assert {one.path, two.path} == set(map(str, blobs))

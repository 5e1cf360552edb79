"""The ledger against du, on stores that lamella and dockerd made, in use and at rest."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.archives import docker20, image, layer_tar
from tests.support.cli import LAMELLA, Lamella
from tests.support.disk import du
from tests.support.dockerd import Dockerd
from tests.support.engines import Containerd, Podman

DAMAGES_STORES = True  # on purpose: they are looked at with that

DOCKERFILE = """\
FROM base:1
ENV a=b
RUN echo hi > /x && ln /x /y
RUN --mount=type=cache,target=/cache echo 12345 > /cache/file
CMD ["sh"]
"""


def ledger(root: Path, *arguments: str) -> dict[str, Any]:
    """Run df and hold it against itself and du."""
    found: dict[str, Any] = json.loads(
        Lamella(root).run("--state", str(root.parent / "state"), "df", "--json", *arguments)
    )
    assert (found["bytes"], found["inodes"]) == du(root)
    assert sum(section["bytes"] for section in found["sections"]) == found["bytes"]
    assert sum(section["inodes"] for section in found["sections"]) == found["inodes"]
    return found


def section(found: dict[str, Any], name: str) -> dict[str, Any]:
    sections: list[dict[str, Any]] = found["sections"]
    return next(item for item in sections if item["section"] == name)


def named(items: list[dict[str, Any]], name: str) -> dict[str, Any]:
    return next(item for item in items if item.get("name") == name or name in item.get("names", ()))


@pytest.fixture
def filled(store_root: Path, base_tar: Path, tmp_path: Path) -> Lamella:
    lamella = Lamella(store_root)
    lamella.run("import", str(base_tar), "base:1")
    (tmp_path / "context").mkdir()
    (tmp_path / "context" / "Dockerfile").write_text(DOCKERFILE)
    lamella.run("build", "-q", "-t", "app:1", str(tmp_path / "context"))
    lamella.run("create", "-v", "data:/data", "--name", "rest", "app:1", "sh")
    return lamella


def test_every_block_of_a_store_is_put_down_to_somebody(filled: Lamella) -> None:
    found = ledger(filled.root)
    app, base = named(found["images"], "app:1"), named(found["images"], "base:1")
    assert app["bytes"] == app["own"] + app["shared"]
    assert app["containers"] == 1
    assert app["reclaimable"] == 0
    assert base["shared"] > base["own"] > 0
    assert named(found["containers"], "rest")["status"] == "created"
    assert named(found["containers"], "rest")["reclaimable"] > 0
    assert named(found["volumes"], "data") | {"containers": 1, "reclaimable": 0} == named(found["volumes"], "data")
    assert [item["what"] for item in found["build_cache"]].count("cache mount") == 1
    assert [item["what"] for item in found["build_cache"]].count("image of a step") == 3
    assert found["unaccounted"] == []
    assert found["kind"] == "docker"


def test_a_running_container_is_counted_without_its_mounts(filled: Lamella) -> None:
    filled.run(
        "run",
        "-d",
        "--name",
        "busy",
        "base:1",
        "sh",
        "-c",
        "echo out; dd if=/dev/zero of=/big bs=1k count=500; sleep 1000",
    )
    try:
        for _ in range(200):
            if named(json.loads(filled.run("df", "--json"))["containers"], "busy")["writable"] > 500_000:
                break
        found = ledger(filled.root)
        busy = named(found["containers"], "busy")
        assert busy["status"] == "running"
        assert busy["writable"] > 500_000
        assert busy["log"] > 0
        assert busy["reclaimable"] == 0
        assert section(found, "logs")["bytes"] == busy["log"]
    finally:
        filled.run("rm", "-f", "busy")
    ledger(filled.root)


def test_what_belongs_to_nobody_is_named(filled: Lamella) -> None:
    layer = "f" * 64
    (filled.root / "overlay2" / layer / "diff").mkdir(parents=True)
    (filled.root / "overlay2" / layer / "diff" / "file").write_bytes(b"x" * 10_000)
    (filled.root / "left").write_bytes(b"x")
    (filled.root / "overlay2/odd").mkdir()
    (filled.root / "vfs/dir" / layer).mkdir(parents=True)
    (filled.root / "image/overlay2/layerdb/tmp/write-set-1").mkdir()
    (filled.root / "containers" / layer).mkdir()
    found = ledger(filled.root)
    why = {Path(item["path"]).relative_to(filled.root).as_posix(): item["why"] for item in found["unaccounted"]}
    assert why == {
        f"overlay2/{layer}": "no layer, container or build names it",
        "left": "Docker keeps nothing of this name here",
        "overlay2/odd": "no driver gives a name like this to anything",
        "vfs": "vfs is another driver's: what Docker keeps with that is not looked at here",
        "image/overlay2/layerdb/tmp/write-set-1": "the record of a layer that is being made or was never finished",
        f"containers/{layer}": "no container's record is in it that can be read",
    }
    kept = next(item["bytes"] for item in found["unaccounted"] if item["path"].endswith("/vfs"))
    assert section(found, "unaccounted")["reclaimable"] == section(found, "unaccounted")["bytes"] - kept
    (answer,) = json.loads(filled.run("why", "--json", str(filled.root / "vfs/dir" / layer)))
    assert (answer["state"], "another driver's" in answer["reason"]) == ("own", True)
    assert "no layer, container or build names it" in filled.run("df")


def test_layers_that_lost_their_image_are_unaccounted(filled: Lamella) -> None:
    filled.run("rm", "rest")
    before = [item["id"] for item in ledger(filled.root)["layers"]]
    content = filled.root / "image/overlay2/imagedb/content/sha256"
    for config in content.iterdir():
        config.unlink()
    found = ledger(filled.root)
    layers = [item for item in found["unaccounted"] if item["path"].startswith("sha256:")]
    assert {item["why"] for item in layers} == {"a layer that no image, container or build needs"}
    assert sorted(item["path"] for item in layers) == sorted(before)
    assert section(found, "layers")["bytes"] == 0


def test_a_file_with_names_in_two_layers_counts_once(filled: Lamella) -> None:
    places = [path for path in (filled.root / "overlay2").iterdir() if (path / "committed").exists()]
    os.link(places[0] / "link", places[1] / "diff" / "other")
    os.link(places[0] / "link", filled.root / "volumes" / "data" / "_data" / "third")
    ledger(filled.root)
    ledger(filled.root, "--recount")


def test_mounts_below_the_root_are_not_entered(filled: Lamella) -> None:
    place = filled.root / "volumes" / "data" / "_data"
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", place], check=True)
    try:
        (place / "big").write_bytes(b"x" * 100_000)
        found = ledger(filled.root)
        assert found["mounted"] == [str(place.parent)]
    finally:
        subprocess.run(["umount", place], check=True)


def test_a_vfs_store_adds_up(store_root: Path, base_tar: Path) -> None:
    lamella = Lamella(store_root)
    lamella.run("--storage-driver", "vfs", "import", str(base_tar), "base:1")
    lamella.run("create", "--name", "rest", "base:1", "sh")
    assert ledger(store_root)["driver"] == "vfs"


def test_the_table_and_templates_show_the_same(filled: Lamella) -> None:
    found = ledger(filled.root)
    lines = filled.run("df").splitlines()
    assert lines[0].split() == ["WHAT", "ITEMS", "DISK", "INODES", "RECLAIMABLE"]
    assert lines[len(found["sections"]) + 1].split()[:1] == ["Total"]
    shown = filled.run("df", "--format", "{{.Section}} {{.Bytes}}").splitlines()
    assert shown == [f"{item['section']} {item['bytes']}" for item in found["sections"]]
    assert "app:1" in filled.run("df", "-v")


def test_watching_goes_on_until_interrupted(filled: Lamella) -> None:
    answer = subprocess.run(
        ["timeout", "--signal=INT", "3", LAMELLA, "--root", filled.root, "df", "--watch", "--json", "0.1"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    documents = [json.loads(line) for line in answer.stdout.splitlines()]
    assert len(documents) > 1
    assert {document["bytes"] for document in documents} == {documents[0]["bytes"]}
    assert filled.try_run("df", "5").returncode == 1
    assert filled.try_run("df", "--watch", "never").returncode == 1


def test_dockerd_s_store_adds_up_and_its_own_numbers_agree(store_root: Path, base_tar: Path, tmp_path: Path) -> None:
    lamella = Lamella(store_root)
    with Dockerd(store_root) as docker:
        docker.run("import", str(base_tar), "base:1")
        archive = subprocess.run(["tar", "-C", tmp_path, "-c", "Dockerfile"], capture_output=True, check=False)
        (tmp_path / "Dockerfile").write_text("FROM base:1\nENV x=y\nRUN echo 12345 > /new\n")
        archive = subprocess.run(["tar", "-C", tmp_path, "-c", "Dockerfile"], capture_output=True, check=True)
        docker.run("build", "-q", "--network", "none", "-t", "app:1", "-", stdin=archive.stdout)
        docker.run("create", "--name", "rest", "app:1", "sh")
        docker.run("run", "-d", "--name", "busy", "-v", "data:/data", "--network", "none", "app:1", "sh", "-c",
                   "echo 123 > /data/file; echo 12345678 > /file; sleep 1000")  # fmt: skip
        for _ in range(200):
            if (store_root / "volumes/data/_data/file").exists():
                break
        form = "{{.Type}}|{{.TotalCount}}|{{.Active}}|{{.Size}}"
        theirs = docker.run("system", "df", "--format", form).splitlines()
        ours = lamella.run("system", "df", "--format", form).splitlines()
        assert ours[:3] == theirs[:3]
        found = ledger(store_root)
        assert not (store_root / "lamella").exists(), "nothing is written to a store that is not lamella's"
        assert named(found["containers"], "busy")["status"] == "running"
        assert named(found["volumes"], "data")["containers"] == 1
        assert found["unaccounted"] == []
    ledger(store_root)


def test_podman_s_store_adds_up(tmp_path: Path, base_tar: Path) -> None:
    root = tmp_path / "podman"
    with Podman(root) as podman:
        podman.run("import", str(base_tar), "base:1")
        podman.container("create", "rest", "base:1", "sh")
        podman.run("volume", "create", "data")
    found = ledger(root)
    assert found["kind"] == "containers-storage"
    assert named(found["containers"], "rest")["writable"] > 0
    assert [image["names"][0] for image in found["images"]] == ["localhost/base:1"]
    assert found["unaccounted"] == []


def test_containerd_s_store_adds_up(tmp_path: Path) -> None:
    root = tmp_path / "containerd"
    docker20(tmp_path / "image.tar", image([layer_tar({"etc": None, "etc/x": b"x" * 9000})], "docker.io/library/a:1"))
    with Containerd(root) as containerd:
        containerd.ctr("images", "import", "--snapshotter", "overlayfs", tmp_path / "image.tar")
        containerd.ctr("containers", "create", "--snapshotter", "overlayfs", "docker.io/library/a:1", "box", "sh")
        ledger(root)
    found = ledger(root)
    assert found["kind"] == "containerd"
    assert named(found["images"], "a:1")["own"] > 9000
    assert named(found["containers"], "box")["writable"] > 0
    assert section(found, "blobs")["bytes"] > 0
    assert found["unaccounted"] == []

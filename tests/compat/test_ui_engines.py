"""The page on stores that other engines made and use at the moment: it draws them, and follows them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.archives import docker20, image, layer_tar, oci_blobs, oci_tar
from tests.support.browser import until
from tests.support.dockerd import Dockerd
from tests.support.engines import Containerd, Podman
from tests.support.page import ServedPage

pytestmark = pytest.mark.xdist_group("ui-engines")

BASE = layer_tar({"etc": None, "etc/motd": b"hello\n" * 100, "etc/issue": b"base\n", "bin": None, "bin/sh": b"#!" * 50})
CHANGE = layer_tar({"etc/motd": b"changed\n"})
ONE, TWO = "docker.io/library/one:1", "docker.io/library/two:1"
IMAGES = (image([BASE], ONE), image([BASE, CHANGE], TWO))


def drawn(page: ServedPage) -> dict[str, dict[str, Any]]:
    """Return the boxes with a name by it, and of the layers the lowest."""
    boxes = page.ask("stacks")["boxes"]
    found = {box["label"]: box for box in boxes if box["kind"] in {"image", "container"}}
    return {**found, "base": next(box for box in boxes if box["kind"] == "layer")}


def assert_shown(page: ServedPage, kind: str, tag: Callable[[], object], tagged: str) -> None:
    """Hold the page against what was put into the store, and see that it notices a new name."""
    assert page.ask("store")["kind"] == kind
    boxes = drawn(page)
    assert (boxes["base"]["span"], boxes["base"]["shared"]) == (2, 2)
    assert {"one:1", "two:1"} <= set(boxes)
    files = page.ask(f"files?layer={boxes['base']['id']}&stack={boxes['two:1']['id']}&path=etc")
    assert (files["size"], files["hidden"], files["wasted"]) == (605, 600, 0)
    versions = page.ask("find?path=/etc/motd")["versions"]
    assert {version["size"] for version in versions} == {600, 8}
    assert page.ask("check?deep=1")["counts"]["error"] == 0
    ledger = page.ask("ledger")
    assert sum(section["bytes"] for section in ledger["sections"]) == ledger["bytes"] > 0
    before = page.ask("version")["version"]
    tag()
    until(lambda: page.ask("version")["version"] != before, "the stamp changes")
    until(lambda: tagged in page.ask(f"stacks?filter={tagged}")["boxes"][-1]["label"], "the name is drawn")


def test_dockers_data_root_in_use(tmp_path: Path) -> None:
    with Dockerd(tmp_path / "root") as engine:
        engine.run("load", "-i", str(docker20(tmp_path / "images.tar", *IMAGES)))
        engine.run("create", "--network=none", "--name", "fresh", "two:1", "sh")
        with ServedPage(engine.root) as page:
            assert drawn(page)["fresh"]["status"] == "created"
            assert_shown(page, "docker", lambda: engine.run("tag", "one:1", "aaa:1"), "aaa:1")
            engine.run("rm", "fresh")
            until(lambda: "fresh" not in drawn(page), "the container goes")


def test_podmans_store_in_use(tmp_path: Path) -> None:
    with Podman(tmp_path / "root") as engine:
        engine.run("load", "-i", docker20(tmp_path / "images.tar", *IMAGES))
        engine.container("create", "fresh", "two:1", "sh")
        with ServedPage(engine.root) as page:
            assert drawn(page)["fresh"]["status"] == "created"
            assert_shown(
                page, "containers-storage", lambda: engine.run("tag", "one:1", "docker.io/library/aaa:1"), "aaa:1"
            )
            engine.run("rm", "fresh")
            until(lambda: "fresh" not in drawn(page), "the container goes")


def test_containerds_store_in_use(tmp_path: Path) -> None:
    with Containerd(tmp_path / "root") as engine:
        engine.ctr("images", "import", oci_tar(tmp_path / "images.tar", *oci_blobs(*IMAGES)))
        engine.ctr("containers", "create", TWO, "fresh", "/bin/sh")
        with ServedPage(engine.root) as page:
            assert "fresh" in drawn(page)
            assert_shown(
                page, "containerd", lambda: engine.ctr("images", "tag", ONE, "docker.io/library/aaa:1"), "aaa:1"
            )
            engine.ctr("containers", "rm", "fresh")
            until(lambda: "fresh" not in drawn(page), "the container goes")

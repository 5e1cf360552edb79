"""Pushing into the real registry: what is sent, what is not, and that digests stay."""

from __future__ import annotations

import http.client
import json
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from lamella.store.imagestore import ImageStore
from tests.support.archives import docker20, image, layer_tar, leaks, packed_gzip
from tests.support.cli import Lamella
from tests.support.registry import PASSWORD, USER, RealRegistry, put_blob
from tests.support.served import manifest_of

BASE = layer_tar({"etc": None, "etc/motd": b"hello\n" * 9000, "bin/sh": b"#!\n"})
NEXT = layer_tar({"new": b"more\n"})
MADE = image([BASE, NEXT], "made:1")


@pytest.fixture
def registry() -> Generator[RealRegistry]:
    with RealRegistry() as running:
        yield running


@pytest.fixture
def lamella(store_root: Path, tmp_path: Path) -> Lamella:
    found = Lamella(store_root)
    found.run("load", "-i", str(docker20(tmp_path / "made.tar", MADE)))
    return found


def manifest(registry: RealRegistry, name: str, tag: str = "1") -> tuple[dict[str, Any], str, str]:
    connection = http.client.HTTPConnection(registry.host)
    accept = "application/vnd.docker.distribution.manifest.v2+json, application/vnd.oci.image.manifest.v1+json"
    connection.request("GET", f"/v2/{name}/manifests/{tag}", headers={"Accept": accept})
    answer = connection.getresponse()
    assert answer.status == 200
    raw = answer.read()
    connection.close()
    return json.loads(raw), answer.headers["Content-Type"], answer.headers["Docker-Content-Digest"]


def uploads(registry: RealRegistry) -> int:
    return registry.log.count('"PUT /v2/') - registry.log.count("/manifests/")


def test_a_push_is_dockers_schema_and_its_second_sends_nothing(registry: RealRegistry, lamella: Lamella) -> None:
    name = f"{registry.host}/a/b:1"
    lamella.run("tag", "made:1", name)
    said = lamella.run("push", name)
    found, kind, digest = manifest(registry, "a/b")
    assert kind == found["mediaType"] == "application/vnd.docker.distribution.manifest.v2+json"
    assert found["config"]["digest"] == MADE.id
    assert {layer["mediaType"] for layer in found["layers"]} == {"application/vnd.docker.image.rootfs.diff.tar.gzip"}
    assert said.splitlines()[0] == f"The push refers to repository [{registry.host}/a/b]"
    assert f"1: digest: {digest} size: " in said
    again = lamella.run("push", name)
    assert again.count("Layer already exists") == 2
    assert "Pushed" not in again
    assert ImageStore.open(lamella.root).tags.read()[f"{registry.host}/a/b@{digest}"] == MADE.id
    assert lamella.run("push", "-q", name) == digest


def test_to_another_repository_layers_are_mounted(registry: RealRegistry, lamella: Lamella) -> None:
    for repository in ("one/x", "two/y"):
        lamella.run("tag", "made:1", f"{registry.host}/{repository}:1")
    lamella.run("push", f"{registry.host}/one/x:1")
    said = lamella.run("push", f"{registry.host}/two/y:1")
    assert said.count("Mounted from one/x") == 2
    assert manifest(registry, "one/x")[2] == manifest(registry, "two/y")[2]


@pytest.mark.parametrize(
    ("compression", "suffix"), [("zstd", "+zstd"), ("none", ".tar"), ("gzip", ".gzip")], ids=lambda value: value
)
def test_layers_are_packed_as_asked_and_pulled_back(
    registry: RealRegistry, lamella: Lamella, tmp_path: Path, compression: str, suffix: str
) -> None:
    name = f"{registry.host}/a:1"
    lamella.run("tag", "made:1", name)
    lamella.run("push", "--compression", compression, name)
    found, _, _ = manifest(registry, "a")
    assert all(layer["mediaType"].endswith(suffix) for layer in found["layers"])
    fresh = Lamella(tmp_path / "fresh")
    fresh.run("pull", name)
    assert fresh.inspect(name)["Id"] == MADE.id
    assert leaks(fresh.root) == []


def test_another_packing_is_sent_although_the_registry_has_the_layer(registry: RealRegistry, lamella: Lamella) -> None:
    name = f"{registry.host}/a:1"
    lamella.run("tag", "made:1", name)
    lamella.run("push", name)
    lamella.run("push", "--compression", "zstd", name)
    found, kind, digest = manifest(registry, "a")
    assert kind == "application/vnd.oci.image.manifest.v1+json"
    assert all(layer["mediaType"].endswith("+zstd") for layer in found["layers"])
    assert lamella.run("push", "-q", name) == digest


@pytest.mark.parametrize("docker", [True, False], ids=["docker", "oci"])
def test_what_was_pulled_and_not_changed_keeps_its_digest(
    registry: RealRegistry, tmp_path: Path, *, docker: bool
) -> None:
    """The manifest is spelt as lamella would not, the layers are packed by another compressor."""
    blobs = [packed_gzip(layer) for layer in MADE.layers]
    for blob in (MADE.config, *blobs):
        put_blob(registry.host, "theirs", blob)
    raw, kind = manifest_of(MADE.config, blobs, docker=docker)
    connection = http.client.HTTPConnection(registry.host)
    connection.request("PUT", "/v2/theirs/manifests/1", raw, {"Content-Type": kind})
    assert connection.getresponse().status == 201
    connection.close()
    digest = manifest(registry, "theirs")[2]
    lamella = Lamella(tmp_path / "root")
    name = f"{registry.host}/theirs:1"
    assert lamella.run("pull", "-q", name) == digest
    lamella.run("tag", name, f"{registry.host}/theirs:2")
    lamella.run("tag", name, f"{registry.host}/ours:1")
    assert lamella.run("push", "-q", f"{registry.host}/theirs:2") == digest
    assert lamella.run("push", "-q", f"{registry.host}/ours:1") == digest
    assert manifest(registry, "ours")[2] == digest


def test_all_tags_go_in_one_command(registry: RealRegistry, lamella: Lamella) -> None:
    for tag in ("1", "2", "3"):
        lamella.run("tag", "made:1", f"{registry.host}/a:{tag}")
    digests = lamella.run("push", "-aq", f"{registry.host}/a").splitlines()
    assert len(digests) == 3
    assert len(set(digests)) == 1
    fresh = Lamella(lamella.root.parent / "fresh")
    fresh.run("pull", "-a", f"{registry.host}/a")
    assert len(fresh.run("images", "--format", "{{.Tag}}").splitlines()) == 3


def test_a_damaged_layer_is_not_shipped(registry: RealRegistry, lamella: Lamella) -> None:
    store = ImageStore.open(lamella.root)
    layer = store.layers.stack(store.images.get(MADE.id).top)[1]  # type: ignore[arg-type]
    with store.root.driver.files(layer.cache_id) as files:
        (files / "new").write_bytes(b"MORE\n")
    name = f"{registry.host}/a:1"
    lamella.run("tag", "made:1", name)
    answer = lamella.try_run("push", name)
    assert answer.returncode == 1
    assert "new" in answer.stderr
    connection = http.client.HTTPConnection(registry.host)
    connection.request("GET", "/v2/a/manifests/1")
    assert connection.getresponse().status == 404
    connection.close()


def test_what_cannot_be_pushed_is_said_in_dockers_words(registry: RealRegistry, lamella: Lamella) -> None:
    missing = lamella.try_run("push", f"{registry.host}/nosuch:1")
    assert "An image does not exist locally with the tag: " in missing.stderr
    assert "cannot push a digest reference" in lamella.try_run("push", f"{registry.host}/a@{MADE.id}").stderr
    assert "can't be used with --all-tags" in lamella.try_run("push", "-a", f"{registry.host}/a:1").stderr


def test_login_is_tried_kept_used_and_forgotten(store_root: Path, tmp_path: Path) -> None:
    with RealRegistry(password=True) as registry:
        lamella = Lamella(store_root)
        lamella.run("load", "-i", str(docker20(tmp_path / "made.tar", MADE)))
        auth = str(tmp_path / "auth.json")
        name = f"{registry.host}/a:1"
        lamella.run("tag", "made:1", name)
        assert lamella.try_run("push", "--authfile", auth, name).returncode == 1
        login = ("login", "--authfile", auth, "-u", USER, "--password-stdin", registry.host)
        refused = lamella.try_run(*login, stdin=b"wrong\n")
        assert refused.returncode == 1
        assert not Path(auth).exists()
        assert lamella.run(*login, stdin=PASSWORD.encode() + b"\n") == "Login Succeeded"
        assert Path(auth).stat().st_mode & 0o777 == 0o600
        said = lamella.run("push", "--authfile", auth, name)
        assert PASSWORD not in said
        (source, *_) = ImageStore.open(store_root).distribution.sources(
            ImageStore.open(store_root).layers.stack(ImageStore.open(store_root).images.get(MADE.id).top)[0].diff_id  # type: ignore[arg-type]
        )
        assert len(source.hmac) == 64
        fresh = Lamella(tmp_path / "fresh")
        fresh.run("pull", "--authfile", auth, name)
        assert "Removing login credentials" in lamella.run("logout", "--authfile", auth, registry.host)
        assert fresh.try_run("pull", "--authfile", auth, f"{registry.host}/a:2").returncode == 1

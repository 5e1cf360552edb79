"""What docker and lamella say when a pull, push, login or logout cannot be: the same exit code, the same key words."""

from __future__ import annotations

import subprocess
from collections.abc import Generator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.archives import docker20, image, layer_tar
from tests.support.cli import Lamella
from tests.support.dockerd import Dockerd
from tests.support.registry import USER, FaultServer, RealRegistry, document, sha256

pytestmark = pytest.mark.xdist_group("registry")

ZERO = "sha256:" + "0" * 64
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
HELM = (
    b'{"schemaVersion":2,"mediaType":"%b","config":{"mediaType":"application/vnd.cncf.helm.config.v1+json",'
    b'"size":2,"digest":"%b"},"layers":[]}'
) % (MANIFEST.encode(), sha256(b"{}").encode())


class Both(NamedTuple):
    """The same image in both stores, and registries that each has something against somebody."""

    docker: Dockerd
    lamella: Lamella
    names: dict[str, str]

    def try_docker(self, *command: str, stdin: bytes) -> subprocess.CompletedProcess[bytes]:
        return self.docker._ask(*command, stdin=stdin)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Generator[Both]:
    place = tmp_path_factory.mktemp("words")
    archive = docker20(place / "made.tar", image([layer_tar({"a": b"x"})], "made:1"))
    lamella = Lamella(place / "lamella")
    lamella.run("load", "-i", str(archive))
    with (
        Dockerd(place / "docker") as docker,
        RealRegistry() as plain,
        RealRegistry(password=True) as private,
        FaultServer() as odd,
    ):
        docker.run("load", "-i", str(archive))
        denied = {"errors": [{"code": "DENIED", "message": "requested access to the resource is denied"}]}
        odd.on("/v2/denied/*", document(denied, code=403))
        odd.on("/v2/helm/manifests/*", document(HELM, MANIFEST, docker_content_digest=sha256(HELM)))
        for name in (f"{plain.host}/a:1", f"{private.host}/a:1", "nosuch.invalid/a:1"):
            docker.run("tag", "made:1", name)
            lamella.run("tag", "made:1", name)
        lamella.run("push", f"{plain.host}/a:1")
        yield Both(docker, lamella, {"PLAIN": plain.host, "PRIVATE": private.host, "ODD": odd.host})


WORDS: dict[str, str] = {
    "pull PLAIN/none:1": "not found, manifest unknown",
    "pull PLAIN/a:2": "not found, manifest unknown",
    f"pull PLAIN/a@{ZERO}": "not found, manifest unknown",
    "pull PRIVATE/a:1": "no basic auth credentials",
    "push PRIVATE/a:1": "no basic auth credentials",
    "pull ODD/denied:1": "denied",
    "pull ODD/helm:1": "unsupported media type, application/vnd.cncf.helm.config.v1+json",
    "pull nosuch.invalid/a:1": "nosuch.invalid, no such host",
    "push nosuch.invalid/a:1": "nosuch.invalid, no such host",
    "pull 127.0.0.1:1/a:1": "127.0.0.1:1, connection refused",
    "pull Foo": "invalid reference format: repository name, must be lowercase",
    "push Foo": "invalid reference format: repository name, must be lowercase",
    "pull a@sha256:12": "invalid reference format",
    "pull a:": "invalid reference format",
    "pull " + "0" * 64: "invalid repository name, cannot specify 64-byte hexadecimal strings",
    "pull -a PLAIN/a:1": "tag can't be used with --all-tags/-a",
    "push -a PLAIN/a:1": "tag can't be used with --all-tags/-a",
    f"push PLAIN/a@{ZERO}": "cannot push a digest reference",
    "push PLAIN/nothing:1": "An image does not exist locally with the tag: PLAIN/nothing",
    "push -a PLAIN/nothing": "An image does not exist locally with the tag: PLAIN/nothing",
    "pull": "argument, pull --help",
    "pull a b": "argument, pull --help",
    "push": "argument, push --help",
    "push a b": "argument",
    "pull --nosuch a": "unknown flag: --nosuch",
    f"login -u {USER} --password-stdin PRIVATE": "login attempt to, PRIVATE, unauthorized",
    f"login -u {USER} --password-stdin nosuch.invalid": "nosuch.invalid, no such host",
    "login --password-stdin PRIVATE": "must provide --username with --password-stdin",
    "login PRIVATE": "cannot perform an interactive login from a non TTY device",
    "logout a b": "at most 1 argument",
}


@pytest.mark.parametrize("line", WORDS)
def test_what_cannot_be_is_said_in_the_same_words(both: Both, tmp_path: Path, line: str) -> None:
    words = WORDS[line]
    for key, host in both.names.items():
        line, words = line.replace(key, host), words.replace(key, host)
    command = line.split()
    auth = ("--authfile", str(tmp_path / "auth.json")) if command[0] in {"login", "logout"} else ()
    theirs = both.try_docker(*command, stdin=b"wrong")
    ours = both.lamella.try_run(command[0], *auth, *command[1:], stdin=b"wrong")
    assert ours.returncode == theirs.returncode != 0
    for word in words.lower().split(", "):
        assert word in theirs.stderr.decode().lower()
        assert word in ours.stderr.lower()
    assert not (tmp_path / "auth.json").exists()


def test_what_was_refused_left_both_with_what_they_had(both: Both) -> None:
    names = {"made:1", f"{both.names['PLAIN']}/a:1", f"{both.names['PRIVATE']}/a:1", "nosuch.invalid/a:1"}
    form = ("images", "--format", "{{.Repository}}:{{.Tag}}")
    assert set(both.lamella.run(*form).split()) == set(both.docker.run(*form).split()) == names


def test_logging_out_of_where_one_was_not_is_no_failure(both: Both, tmp_path: Path) -> None:
    assert both.try_docker("logout", "never.example", stdin=b"").returncode == 0
    auth = str(tmp_path / "auth.json")
    assert both.lamella.run("logout", "--authfile", auth, "never.example") == "Not logged in to never.example"
    assert both.lamella.run("logout", "--authfile", auth) == "Not logged in to https://index.docker.io/v1/"

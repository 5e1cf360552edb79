"""Whole commands against Debian's docker-registry: TLS, passwords, tokens, client certificates, mirrors."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from lamella.store.imagestore import ImageStore
from tests.support.archives import docker20, image, layer_tar, leaks, listing
from tests.support.cli import Lamella
from tests.support.registry import (
    PASSWORD,
    USER,
    Authority,
    Behaviour,
    Exchange,
    FaultServer,
    RealRegistry,
    TokenServer,
    document,
    forward,
    make_authority,
    status,
    tunnel,
)

MADE = image([layer_tar({f"d{n}": bytes([n]) * 5000}) for n in range(4)], "made:1")
HUB = "registry-1.docker.io"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return make_authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def lamella(store_root: Path, tmp_path: Path) -> Lamella:
    found = Lamella(store_root)
    found.run("load", "-i", str(docker20(tmp_path / "made.tar", MADE)))
    return found


def trust(certs: Path, host: str, authority: Authority) -> Path:
    directory = certs / host
    directory.mkdir(parents=True, exist_ok=True)
    shutil.copy(authority.authority, directory / "ca.crt")
    return directory


def refused(lamella: Lamella, *command: str) -> str:
    """Run a command that must fail and change nothing; return its one line."""
    before = listing(lamella.root)
    answer = lamella.try_run(*command)
    assert answer.returncode == 1, answer.stdout
    assert listing(lamella.root) == before
    assert leaks(lamella.root) == []
    assert answer.stderr.count("\n") == 1
    assert PASSWORD not in answer.stdout + answer.stderr
    return answer.stderr


# ------------------------------------------------------------------------------------------------ who may come in


def test_an_authority_of_ones_own_and_a_password_open_the_registry_to_every_command(
    authority: Authority, lamella: Lamella, tmp_path: Path
) -> None:
    certs, auth = tmp_path / "certs.d", str(tmp_path / "auth.json")
    with RealRegistry(tls=authority, password=True) as registry:
        name = f"{registry.host}/a/b:1"
        lamella.run("tag", "made:1", name)
        options = ("--cert-dir", str(certs), "--authfile", auth)
        trust(certs, registry.host, make_authority(tmp_path / "other"))
        login = ("login", *options, "-u", USER, "--password-stdin", registry.host)
        stranger = lamella.try_run(*login, stdin=PASSWORD.encode())
        assert "certificate is not trusted" in stranger.stderr
        assert "certificate is not trusted" in refused(lamella, "push", *options, name)
        trust(certs, registry.host, authority)
        assert f"lamella login {registry.host}" in refused(lamella, "push", *options, name)
        assert "failed, unauthorized: " in lamella.try_run(*login, stdin=b"wrong").stderr
        assert lamella.run(*login, stdin=PASSWORD.encode()) == "Login Succeeded"
        digest = lamella.run("push", "-q", *options, name)
        fresh = Lamella(tmp_path / "fresh")
        fresh.run("image", "prune", "-f")
        assert f"lamella login {registry.host}" in refused(fresh, "pull", "--cert-dir", str(certs), name)
        assert fresh.run("pull", "-q", *options, name) == digest
        assert fresh.inspect(name)["Id"] == MADE.id
        assert fresh.run("copy", "-q", *options, f"docker://{name}", f"dir:{tmp_path}/dir") == digest
        assert "Removing login" in fresh.run("logout", "--authfile", auth, registry.host)
        assert "lamella login" in refused(fresh, "pull", *options, f"{registry.host}/a/b:2")


def test_client_certificates_open_the_registry_to_every_command(
    authority: Authority, lamella: Lamella, tmp_path: Path
) -> None:
    with RealRegistry(tls=authority, clients=authority.authority) as registry:
        name = f"{registry.host}/a:1"
        lamella.run("tag", "made:1", name)
        options = ("--cert-dir", str(tmp_path / "certs.d"))
        directory = trust(tmp_path / "certs.d", registry.host, authority)
        shutil.copy(authority.certificate, directory / "client.cert")
        assert "has no key; put client.key beside it" in refused(lamella, "push", *options, name)
        shutil.copy(authority.key, directory / "client.key")
        digest = lamella.run("push", "-q", *options, name)
        fresh = Lamella(tmp_path / "fresh")
        assert fresh.run("pull", "-q", *options, name) == digest
        assert fresh.inspect(name)["Id"] == MADE.id


def test_tokens_that_run_out_in_the_middle_are_renewed(authority: Authority, lamella: Lamella, tmp_path: Path) -> None:
    certs, auth = tmp_path / "certs.d", str(tmp_path / "auth.json")
    with RealRegistry() as registry, FaultServer(tls=authority) as front:
        tokens = TokenServer(front, uses=2, password=True)
        front.on("/v2/*", tokens.guard(forward(registry.port)))
        trust(certs, front.host, authority)
        options = ("--cert-dir", str(certs), "--authfile", auth)
        lamella.run("login", *options, "-u", USER, "--password-stdin", front.host, stdin=PASSWORD.encode())
        name = f"{front.host}/a:1"
        lamella.run("tag", "made:1", name)
        before = tokens.issued
        digest = lamella.run("push", "-q", "--parallel", "1", *options, name)
        assert tokens.issued - before > len(MADE.layers)
        fresh = Lamella(tmp_path / "fresh")
        before = tokens.issued
        assert fresh.run("pull", "-q", "--parallel", "1", *options, name) == digest
        assert tokens.issued - before > len(MADE.layers) // 2
        assert fresh.inspect(name)["Id"] == MADE.id
        scopes = {scope for seen in front.of("/token") for scope in seen.query.get("scope", [])}
        assert scopes == {"repository:a:pull,push", "repository:a:pull"}


# -------------------------------------------------------------------------------------------------------- mirrors


class Hub:
    """What stands for Docker Hub, by way of a proxy, and a mirror of it that does as the test says."""

    def __init__(self, registry: RealRegistry, mirror: FaultServer, plain: RealRegistry, certs: Path) -> None:
        self.registry = registry
        self.mirror = mirror
        self.plain = plain
        self.options = ("--mirror", mirror.url, "--cert-dir", str(certs))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lamella: Lamella) -> Generator[Hub]:
    named = make_authority(tmp_path / "named", name=f"DNS:{HUB}")
    trust(tmp_path / "certs.d", "docker.io", named)
    with (
        RealRegistry(tls=named) as registry,
        RealRegistry(registry.root) as plain,
        FaultServer() as mirror,
        tunnel(registry.port) as (proxy, _),
    ):
        lamella.run("tag", "made:1", f"{plain.host}/library/app:1")
        lamella.run("push", f"{plain.host}/library/app:1")
        monkeypatch.setenv("HTTPS_PROXY", f"http://{proxy}")
        mirror.on("/v2/library/app/*", forward(plain.port))
        yield Hub(registry, mirror, plain, tmp_path / "certs.d")


def bitten(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


def spoilt(behaviour: Behaviour) -> Behaviour:
    """Change what *behaviour* answers: its body has one bit wrong."""

    def behave(exchange: Exchange) -> None:
        # An exchange answers all requests of its connection: only this one's body is to be wrong.
        answer = exchange.answer
        exchange.answer = lambda code=200, body=b"", **headers: answer(code, bitten(body), **headers)  # type: ignore[method-assign]
        try:
            behaviour(exchange)
        finally:
            del exchange.answer

    return behave


def only(count: int, wrong: Behaviour, right: Behaviour) -> Behaviour:
    """Behave wrongly from the request after the first *count* on."""
    counter = itertools.count()

    def behave(exchange: Exchange) -> None:
        behaviour = right if next(counter) < count else wrong
        behaviour(exchange)

    return behave


WRONG: dict[str, tuple[str, Callable[[Hub], Behaviour]]] = {
    "a bit of every blob": ("blobs", lambda hub: spoilt(forward(hub.plain.port))),
    "a bit of the last blob": (
        "blobs",
        lambda hub: only(3, spoilt(forward(hub.plain.port)), forward(hub.plain.port)),
    ),
    "a bit of every manifest": ("manifests", lambda hub: spoilt(forward(hub.plain.port))),
    "a page to log in": ("", lambda _: document(b"<html>pay here</html>", "text/html")),
    "another kind of thing": ("manifests", lambda _: document({"schemaVersion": 1, "fsLayers": []})),
    "blobs that are not there": ("blobs", lambda _: status(404)),
    "no way in": ("", lambda _: status(403)),
    "nothing but trouble": ("", lambda _: status(502)),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_mirror_that_serves_what_is_wrong_is_left_for_the_registry_itself(
    hub: Hub, tmp_path: Path, case: str
) -> None:
    where, behaviour = WRONG[case]
    hub.mirror.on(f"/v2/library/app/{where}*", behaviour(hub))
    fresh = Lamella(tmp_path / "fresh")
    said = fresh.run("pull", *hub.options, "app:1")
    assert "Status: Downloaded newer image for app:1" in said
    assert fresh.inspect("app:1")["Id"] == MADE.id
    assert leaks(fresh.root) == []
    store = ImageStore.open(fresh.root)
    for layer in store.layers.stack(store.images.get(MADE.id).top):  # type: ignore[arg-type]
        store.layers.reassemble(layer, lambda _: None)
    assert hub.mirror.of("/v2/library/app/")
    assert "/v2/library/app/" in hub.registry.log
    fresh.run("copy", *hub.options, "docker://app:1", f"dir:{tmp_path}/dir")
    manifest = json.loads((tmp_path / "dir/manifest.json").read_bytes())
    assert manifest["config"]["digest"] == MADE.id


def test_a_mirror_that_is_right_is_all_that_is_asked(hub: Hub, tmp_path: Path) -> None:
    fresh = Lamella(tmp_path / "fresh")
    fresh.run("pull", *hub.options, "app:1")
    assert fresh.inspect("app:1")["Id"] == MADE.id
    assert "/v2/library/app/" not in hub.registry.log


def test_what_is_wrong_at_the_registry_itself_stays_an_error(hub: Hub, tmp_path: Path) -> None:
    fresh = Lamella(tmp_path / "fresh")
    fresh.run("image", "prune", "-f")
    blob = next(hub.registry.root.glob(f"**/{MADE.id[7:]}/data"))
    blob.write_bytes(bitten(blob.read_bytes()))
    assert "digest" in refused(fresh, "pull", *hub.options, "app:1")
    assert "/v2/library/app/" in hub.registry.log

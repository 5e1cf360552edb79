"""The client against Debian's docker-registry: plain, with TLS, with passwords, with client certificates."""

from __future__ import annotations

import os
import shutil
import ssl
import subprocess
import threading
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest

from lamella.errors import InvalidArgument, NotFound, Unauthorized, Unavailable
from lamella.model.digest import Digest
from lamella.model.reference import parse_reference
from lamella.transports.registry.client import RegistryClient
from lamella.transports.registry.keychain import Credentials, Keychain
from lamella.transports.registry.settings import RegistrySettings
from tests.support.registry import (
    PASSWORD,
    USER,
    Authority,
    FaultServer,
    RealRegistry,
    document,
    make_authority,
    put_blob,
    sha256,
    tunnel,
    whole,
)

DATA = os.urandom(1 << 20) * 20
DIGEST = Digest(sha256(DATA))
CONFIG = b"{}"
TYPE = "application/vnd.docker.distribution.manifest.v2+json"
MANIFEST = (
    b'{"schemaVersion":2,"mediaType":"%b","config":{"mediaType":"application/vnd.docker.container.image.v1+json",'
    b'"size":2,"digest":"%b"},"layers":[{"mediaType":"application/vnd.docker.image.rootfs.diff.tar.gzip",'
    b'"size":%d,"digest":"%b"}]}'
) % (TYPE.encode(), sha256(CONFIG).encode(), len(DATA), DIGEST.encode())


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return make_authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def registry() -> Generator[RealRegistry]:
    with RealRegistry() as registry:
        yield registry


@pytest.fixture
def settings(tmp_path: Path) -> RegistrySettings:
    return RegistrySettings(certs_dir=tmp_path / "certs.d", stall_time=5, retry_time=5, backoff=0.01)


@pytest.fixture
def connect(settings: RegistrySettings) -> Generator[Callable[..., RegistryClient]]:
    clients: list[RegistryClient] = []

    def make(
        name: str,
        *,
        settings: RegistrySettings = settings,
        keychain: Keychain | None = None,
        actions: str = "pull,push",
    ) -> RegistryClient:
        clients.append(
            RegistryClient(parse_reference(name), settings=settings, keychain=keychain or Keychain(), actions=actions)
        )
        return clients[-1]

    yield make
    for client in clients:
        client.close()


def trust(settings: RegistrySettings, host: str, authority: Authority) -> Path:
    directory = settings.certs_dir / host
    directory.mkdir(parents=True)
    shutil.copy(authority.authority, directory / "ca.crt")
    return directory


def pieces() -> Iterator[bytes]:
    return (DATA[start : start + 300_000] for start in range(0, len(DATA), 300_000))


def round_trip(client: RegistryClient) -> None:
    """Push an image of one layer and pull it back."""
    client.ping()
    client.upload_blob(Digest(sha256(CONFIG)), len(CONFIG), lambda: iter((CONFIG,)))
    client.upload_blob(DIGEST, len(DATA), pieces)
    assert client.has_blob(DIGEST) == len(DATA)
    digest = client.put_manifest("1.0", MANIFEST, TYPE)
    assert client.get_manifest("1.0") == (MANIFEST, TYPE, digest)
    assert client.get_manifest(digest).raw == MANIFEST
    got = bytearray()
    assert client.read_blob(DIGEST, size=len(DATA), sink=got.extend) == len(DATA)
    assert got == DATA
    assert client.list_tags() == ["1.0"]


@pytest.mark.parametrize("chunk", [0, 3 << 20])
def test_what_is_pushed_is_pulled(
    registry: RealRegistry, connect: Callable[..., RegistryClient], settings: RegistrySettings, chunk: int
) -> None:
    round_trip(connect(f"{registry.host}/plain/{chunk}", settings=settings._replace(upload_chunk=chunk)))


def test_a_name_with_a_dead_address_first_is_reached_by_the_next(
    registry: RealRegistry, connect: Callable[..., RegistryClient]
) -> None:
    connect(f"localhost:{registry.port}/x").ping()


def test_parts_are_read(registry: RealRegistry, connect: Callable[..., RegistryClient]) -> None:
    put_blob(registry.host, "parts", DATA)
    client = connect(f"{registry.host}/parts", actions="pull")
    got = bytearray()
    assert client.read_blob(DIGEST, size=len(DATA), sink=got.extend, offset=12_345_678) == len(DATA) - 12_345_678
    assert got == DATA[12_345_678:]
    with client.open_blob(DIGEST, size=len(DATA), offset=1000, end=2000) as stream:
        assert stream.ranged
        assert stream.read() == DATA[1000:2000]
    with client.open_blob(DIGEST, size=None) as stream:
        assert (stream.accepts_ranges, stream.length) == (True, len(DATA))


def test_ranges_are_read_by_many_threads(registry: RealRegistry, connect: Callable[..., RegistryClient]) -> None:
    put_blob(registry.host, "many", DATA)
    client = connect(f"{registry.host}/many", actions="pull")
    found = bytearray(len(DATA))
    step = len(DATA) // 8

    def read(start: int) -> None:
        at = start

        def sink(data: bytes) -> None:
            nonlocal at
            found[at : at + len(data)] = data
            at += len(data)

        client.read_blob(DIGEST, size=len(DATA), sink=sink, offset=start, end=start + step)

    threads = [threading.Thread(target=read, args=(start,)) for start in range(0, len(DATA), step)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == DATA


def test_a_blob_is_mounted_from_another_repository(
    registry: RealRegistry, connect: Callable[..., RegistryClient]
) -> None:
    put_blob(registry.host, "team/base", DATA)
    client = connect(f"{registry.host}/team/app")
    assert client.has_blob(DIGEST) is None
    assert not client.mount_blob(DIGEST, "team/none")
    assert client.mount_blob(DIGEST, "team/base")
    assert client.has_blob(DIGEST) == len(DATA)


def test_a_wrong_digest_is_refused_by_the_registry(
    registry: RealRegistry, connect: Callable[..., RegistryClient]
) -> None:
    client = connect(f"{registry.host}/wrong")
    with pytest.raises(InvalidArgument, match="digest invalid"):
        client.upload_blob(DIGEST, len(DATA), lambda: iter((DATA[::-1],)))
    with pytest.raises((InvalidArgument, NotFound), match="blob unknown"):
        client.put_manifest("1", MANIFEST, TYPE)
    with pytest.raises(NotFound, match="manifest unknown"):
        client.get_manifest("1")
    with pytest.raises(NotFound, match="name unknown"):
        connect(f"{registry.host}/none").list_tags()


def test_passwords_are_asked_for(
    tmp_path: Path, connect: Callable[..., RegistryClient], settings: RegistrySettings
) -> None:
    with RealRegistry(password=True) as registry:
        name = f"{registry.host}/private"
        round_trip(connect(name, keychain=Keychain.of(registry.host, Credentials(USER, PASSWORD))))
        with pytest.raises(Unauthorized, match=f"lamella login {registry.host}"):
            connect(name).get_manifest("1.0")
        with pytest.raises(Unauthorized, match="refused the user name and password"):
            connect(name, keychain=Keychain.of(registry.host, Credentials(USER, "wrong"))).ping()
        stored = Keychain.from_files([tmp_path / "config.json"])
        stored.store(registry.host, Credentials(USER, PASSWORD))
        assert connect(name, keychain=stored).list_tags() == ["1.0"]


def test_a_registry_with_an_authority_of_its_own_is_trusted_by_certs_d(
    authority: Authority, connect: Callable[..., RegistryClient], settings: RegistrySettings
) -> None:
    with RealRegistry(tls=authority, password=True) as registry:
        keychain = Keychain.of(registry.host, Credentials(USER, PASSWORD))
        trust(settings, registry.host, authority)
        round_trip(connect(f"{registry.host}/tls", keychain=keychain))
        # Loopback is insecure by Docker's rule: without an authority it goes unverified.
        bare = settings._replace(certs_dir=settings.certs_dir / "none")
        assert connect(f"{registry.host}/tls", keychain=keychain, settings=bare).list_tags() == ["1.0"]


def test_an_authority_that_was_given_is_binding(
    tmp_path: Path, authority: Authority, connect: Callable[..., RegistryClient], settings: RegistrySettings
) -> None:
    other = make_authority(tmp_path / "other")
    elsewhere = make_authority(tmp_path / "elsewhere", name="DNS:other.example")
    expired = make_authority(tmp_path / "expired", days=-1)
    with FaultServer(tls=authority) as server:
        trust(settings, server.host, other)
        with pytest.raises(Unavailable, match=r"certificate is not trusted .*ca\.crt"):
            connect(f"{server.host}/x").ping()
        assert not server.requests
    for certificate, words in ((elsewhere, "IP address mismatch"), (expired, "expired")):
        with FaultServer(tls=certificate) as server:
            trust(settings, server.host, certificate)
            with pytest.raises(Unavailable, match=words):
                connect(f"{server.host}/x").ping()
            assert not server.requests


def test_old_tls_is_refused(
    authority: Authority, connect: Callable[..., RegistryClient], settings: RegistrySettings
) -> None:
    with FaultServer(tls=authority) as server:
        context = server._context
        assert context is not None
        context.set_ciphers("ALL:@SECLEVEL=0")
        with pytest.warns(DeprecationWarning, match="TLSv1"):
            context.minimum_version = ssl.TLSVersion.TLSv1
        with pytest.warns(DeprecationWarning, match="TLSv1"):
            context.maximum_version = ssl.TLSVersion.TLSv1_1
        trust(settings, server.host, authority)
        with pytest.raises(Unavailable, match="TLS"):
            connect(f"{server.host}/x").ping()
        assert not server.requests


def test_tls_does_not_go_down_to_plain_http(
    authority: Authority, connect: Callable[..., RegistryClient], settings: RegistrySettings
) -> None:
    with FaultServer(tls=authority) as server, FaultServer("127.0.0.2") as plain:
        trust(settings, server.host, authority)
        blob = f"/v2/x/blobs/{DIGEST}"
        server.on(blob, lambda exchange: exchange.answer(307, location=f"{plain.url}/cdn"))
        with pytest.raises(InvalidArgument, match="from https to"):
            connect(f"{server.host}/x").read_blob(DIGEST, size=len(DATA), sink=len)
        assert not plain.requests
        # A registry that does not know that TLS ends before it names itself as plain.
        server.on("/v2/x/blobs/uploads/", lambda exchange: exchange.answer(202, location=f"http://{server.host}/up"))
        server.on("/up", lambda exchange: exchange.answer(201))
        connect(f"{server.host}/x").upload_blob(DIGEST, len(DATA), pieces)
        assert server.requests[-1].body == DATA


def test_storage_of_the_same_authority_is_trusted_without_credentials(
    authority: Authority, connect: Callable[..., RegistryClient], settings: RegistrySettings
) -> None:
    with FaultServer(tls=authority) as server, FaultServer(tls=authority) as storage:
        trust(settings, server.host, authority)
        server.on(f"/v2/x/blobs/{DIGEST}", lambda exchange: exchange.answer(307, location=f"{storage.url}/cdn"))
        storage.on("/cdn", whole(DATA))
        got = bytearray()
        connect(f"{server.host}/x").read_blob(DIGEST, size=len(DATA), sink=got.extend)
        assert got == DATA


def test_client_certificates_are_shown_to_the_registry(
    authority: Authority, connect: Callable[..., RegistryClient], settings: RegistrySettings
) -> None:
    with RealRegistry(tls=authority, clients=authority.authority) as registry:
        directory = trust(settings, registry.host, authority)
        with pytest.raises(Unavailable):
            connect(f"{registry.host}/mutual", settings=settings._replace(retry_time=0.3)).ping()
        shutil.copy(authority.certificate, directory / "client.cert")
        with pytest.raises(InvalidArgument, match=r"client\.cert has no key; put client\.key beside it"):
            connect(f"{registry.host}/mutual").ping()
        shutil.copy(authority.key, directory / "client.key")
        round_trip(connect(f"{registry.host}/mutual"))
        (directory / "client.cert").unlink()
        with pytest.raises(InvalidArgument, match=r"client\.key has no certificate"):
            connect(f"{registry.host}/mutual").ping()


def test_where_an_authority_was_given_plain_http_will_not_do(
    authority: Authority, connect: Callable[..., RegistryClient], settings: RegistrySettings
) -> None:
    with FaultServer() as server:
        trust(settings, server.host, authority)
        with pytest.raises(Unavailable, match="TLS failed"):
            connect(f"{server.host}/x").ping()
        assert not [seen for seen in server.requests if seen.path == "/v2/"]


def test_a_registry_that_is_not_insecure_needs_tls(
    registry: RealRegistry, connect: Callable[..., RegistryClient], settings: RegistrySettings
) -> None:
    # Only a mirror lets loopback be reached by the rules for other hosts.
    quick = settings._replace(mirrors=(f"https://{registry.host}",), retry_time=0.2)
    client = connect("docker.io/library/x", settings=quick, actions="pull")
    client._sessions = client._sessions[:1]
    client._own = client._sessions[0]
    with pytest.raises(Unavailable, match="name it insecure"):
        client.get_manifest("1")


def test_a_proxy_is_used_for_what_is_not_excepted(
    connect: Callable[..., RegistryClient], settings: RegistrySettings
) -> None:
    with FaultServer() as proxy:
        raw = b"{}"
        proxy.on("/v2/x/manifests/1", document(raw))
        proxies = {"HTTP_PROXY": f"http://me:secret@{proxy.host}", "NO_PROXY": "other.example"}
        listed = settings._replace(
            insecure=frozenset({"reg.example", "other.example"}), proxies=proxies, retry_time=0.2, connect_time=0.2
        )
        client = connect("reg.example:80/x", settings=listed)
        client._own._scheme = "http"
        assert client.get_manifest("1").raw == raw
        (seen,) = proxy.requests
        assert seen.headers["host"] == "reg.example"
        assert seen.headers["proxy-authorization"] == "Basic bWU6c2VjcmV0"
    dead = listed._replace(proxies={"https": f"http://me:secret@{proxy.host}"})
    with pytest.raises(Unavailable) as caught:
        connect("reg.example/x", settings=dead).get_manifest("1")
    assert "secret" not in str(caught.value)


def test_tls_goes_through_a_proxy_to_the_host_that_was_meant(
    tmp_path: Path, connect: Callable[..., RegistryClient], settings: RegistrySettings
) -> None:
    named = make_authority(tmp_path / "named", name="DNS:reg.example")
    with RealRegistry(tls=named, password=True) as registry, tunnel(registry.port) as (proxy, heads):
        for host in ("reg.example", "other.example:5000"):
            trust(settings, host, named)
        through = settings._replace(proxies={"https": f"http://me:secret@{proxy}"})
        keychain = Keychain.of("reg.example", Credentials(USER, PASSWORD))
        round_trip(connect("reg.example/x", settings=through, keychain=keychain))
        assert heads[0].startswith(b"CONNECT reg.example:443 ")
        assert b"proxy-authorization: Basic bWU6c2VjcmV0" in heads[0]
        assert b"Authorization: Basic c29t" not in b"".join(heads)
        with pytest.raises(Unavailable, match=r"certificate is not trusted .*other\.example"):
            connect("other.example:5000/x", settings=through, keychain=keychain).ping()


def test_what_podman_and_skopeo_push_is_pulled_bit_for_bit(
    registry: RealRegistry, tmp_path: Path, connect: Callable[..., RegistryClient]
) -> None:
    client = connect(f"{registry.host}/peers/pushed")
    round_trip(client)
    target = f"docker://{registry.host}/peers/copied:1.0"
    tls = ["--src-tls-verify=false", "--dest-tls-verify=false"]
    subprocess.run(
        ["skopeo", "copy", "-q", *tls, f"docker://{registry.host}/peers/pushed:1.0", f"dir:{tmp_path}/dir"],
        check=True,
        capture_output=True,
    )
    assert (tmp_path / "dir" / "manifest.json").read_bytes() == MANIFEST
    subprocess.run(["skopeo", "copy", "-q", *tls, f"dir:{tmp_path}/dir", target], check=True, capture_output=True)
    assert connect(f"{registry.host}/peers/copied").get_manifest("1.0").raw == MANIFEST

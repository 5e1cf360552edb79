"""The client against a registry that breaks every rule there is, on loopback.

Each fault has its recovery or its clear error, in bounded time and memory.
"""

from __future__ import annotations

import json
import os
import threading
import time
import tracemalloc
from collections.abc import Callable, Generator, Iterator
from email.utils import formatdate

import pytest

from lamella.errors import (
    Cancelled,
    DataLoss,
    DigestMismatch,
    InvalidArgument,
    LamellaError,
    NotFound,
    PermissionDenied,
    Unauthorized,
    Unavailable,
    Unsupported,
)
from lamella.model.digest import Digest
from lamella.model.documents import MANIFEST_LIMIT, decode_document
from lamella.model.reference import parse_reference
from lamella.transports.registry.client import RegistryClient
from lamella.transports.registry.keychain import Credentials, Keychain
from lamella.transports.registry.settings import RegistrySettings
from tests.support.registry import (
    PASSWORD,
    USER,
    Behaviour,
    Exchange,
    FaultServer,
    TokenServer,
    cut,
    document,
    free_port,
    sha256,
    silent_port,
    status,
    whole,
)

QUICK = RegistrySettings(stall_time=0.5, retry_time=5, backoff=0.005, connect_time=1)
DATA = os.urandom(1 << 20)
DIGEST = Digest(sha256(DATA))
BLOB = f"/v2/team/app/blobs/{DIGEST}"
UPLOADS = "/v2/team/app/blobs/uploads/"
TYPE = "application/vnd.oci.image.manifest.v1+json"
RAW = json.dumps({"schemaVersion": 2, "mediaType": TYPE, "layers": []}).encode()
MANIFEST = "/v2/team/app/manifests/1"


@pytest.fixture
def server() -> Generator[FaultServer]:
    with FaultServer() as server:
        yield server


@pytest.fixture
def connect() -> Generator[Callable[..., RegistryClient]]:
    clients: list[RegistryClient] = []

    def make(
        server: FaultServer | str,
        *,
        settings: RegistrySettings = QUICK,
        keychain: Keychain | None = None,
        actions: str = "pull",
    ) -> RegistryClient:
        host = server if isinstance(server, str) else server.host
        reference = parse_reference(f"{host}/team/app:1")
        clients.append(RegistryClient(reference, settings=settings, keychain=keychain or Keychain(), actions=actions))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


@pytest.fixture
def client(server: FaultServer, connect: Callable[..., RegistryClient]) -> RegistryClient:
    return connect(server, actions="pull,push")


def fetch(client: RegistryClient, *, size: int | None = len(DATA), offset: int = 0) -> bytes:
    """Read the blob and see that never a byte too many came."""
    got = bytearray()

    def sink(data: bytes) -> None:
        got.extend(data)
        assert size is None or offset + len(got) <= size

    assert client.read_blob(DIGEST, size=size, sink=sink, offset=offset) == len(got)
    return bytes(got)


def ranges(server: FaultServer) -> list[str]:
    return [seen.headers.get("range", "") for seen in server.of(BLOB)]


# Blobs that break and are made whole


def test_a_blob_cut_off_is_continued_where_it_broke(server: FaultServer, client: RegistryClient) -> None:
    server.each(BLOB, cut(DATA, 300_000), cut(DATA, 300_000, reset=True), whole(DATA))
    assert fetch(client) == DATA
    first, second, third = server.of(BLOB)
    assert "range" not in first.headers
    assert second.headers["range"] == "bytes=300000-"
    assert second.headers["if-range"] == '"one"'
    assert int(third.headers["range"].removeprefix("bytes=").rstrip("-")) > 300_000


def test_resets_without_end_are_borne_as_long_as_bytes_come(server: FaultServer, client: RegistryClient) -> None:
    server.on(BLOB, cut(DATA, 100_000, reset=True))
    server_data = fetch(client)
    assert server_data == DATA
    assert len(server.of(BLOB)) >= 11


def test_a_server_that_gives_a_byte_a_connection_is_given_up(server: FaultServer, client: RegistryClient) -> None:
    server.on(BLOB, cut(DATA, 1))
    with pytest.raises(Unavailable, match="gave up after 6 tries"):
        fetch(client)


def test_a_range_answered_with_everything_is_skipped_over(server: FaultServer, client: RegistryClient) -> None:
    def everything(exchange: Exchange) -> None:
        exchange.answer(200, DATA)

    server.each(BLOB, cut(DATA, 500_000), everything)
    assert fetch(client) == DATA
    assert fetch(client, offset=700_001) == DATA[700_001:]


def test_a_refused_range_is_followed_by_the_whole(server: FaultServer, client: RegistryClient) -> None:
    def refuse(exchange: Exchange) -> None:
        if "Range" in exchange.headers:
            exchange.answer(416, content_range=f"bytes */{len(DATA)}")
        else:
            exchange.answer(200, DATA)

    server.each(BLOB, cut(DATA, 400_000), refuse)
    assert fetch(client) == DATA
    assert ranges(server) == ["", "bytes=400000-", ""]


@pytest.mark.parametrize(
    "told",
    ["bytes 0-1048575/1048576", "bytes 400000-1048575/99", "bytes 400000-500000/1048576", "bytes x", "", "bytes 5-4/9"],
)
def test_a_part_that_is_not_the_one_asked_for_is_not_taken(
    server: FaultServer, client: RegistryClient, told: str
) -> None:
    def lie(exchange: Exchange) -> None:
        if "Range" in exchange.headers:
            exchange.answer(206, b"x" * 100, content_range=told)
        else:
            exchange.answer(200, DATA)

    server.each(BLOB, cut(DATA, 400_000), lie)
    assert fetch(client) == DATA


def test_a_blob_that_changed_between_ranges_comes_whole(server: FaultServer, client: RegistryClient) -> None:
    def changed(exchange: Exchange) -> None:
        assert exchange.headers["If-Range"] == '"one"'
        exchange.answer(200, DATA, etag='"two"')

    server.each(BLOB, cut(DATA, 400_000), changed)
    assert fetch(client) == DATA


def test_a_later_process_goes_on_where_an_earlier_one_ended(server: FaultServer, client: RegistryClient) -> None:
    server.on(BLOB, whole(DATA))
    assert fetch(client, offset=1_000_000) == DATA[1_000_000:]
    assert ranges(server) == ["bytes=1000000-"]


@pytest.mark.parametrize("code", [408, 429, 500, 502, 503, 504])
def test_passing_troubles_are_waited_out(server: FaultServer, client: RegistryClient, code: int) -> None:
    server.each(BLOB, status(code, retry_after="0"), status(code), whole(DATA))
    server.each(MANIFEST, status(code), status(code), document(RAW, TYPE))
    assert fetch(client) == DATA
    assert client.get_manifest("1").raw == RAW


def test_a_trouble_that_does_not_pass_is_told(server: FaultServer, client: RegistryClient) -> None:
    server.on(MANIFEST, document({"errors": [{"code": "UNKNOWN", "message": "out\r\nof\x1b[31m order"}]}, code=500))
    with pytest.raises(Unavailable, match=r"team/app: status 500 .*gave up after 6 tries") as caught:
        client.get_manifest("1")
    assert len(server.of(MANIFEST)) == 6
    assert str(caught.value).isprintable()


def test_retry_after_is_honoured_up_to_a_minute(server: FaultServer, client: RegistryClient) -> None:
    server.each(BLOB, status(429, retry_after="1"), whole(DATA))
    started = time.monotonic()
    assert fetch(client) == DATA
    assert time.monotonic() - started >= 1
    for late in ("315360000", formatdate(time.time() + 7200, usegmt=True)):
        server.on(BLOB, status(429, retry_after=late))
        before = len(server.of(BLOB))
        with pytest.raises(Unavailable, match=r"too many requests .*asks to wait"):
            fetch(client)
        assert len(server.of(BLOB)) == before + 1


def test_a_registry_that_comes_up_late_is_waited_for(connect: Callable[..., RegistryClient]) -> None:
    port = free_port()
    host = f"127.0.0.1:{port}"
    with pytest.raises(Unavailable, match=rf"{host}: no connection .*refused.*gave up after 6 tries"):
        connect(host).get_manifest("1")
    client = connect(host, settings=QUICK._replace(backoff=0.1))
    got: list[bytes] = []
    puller = threading.Thread(target=lambda: got.append(client.get_manifest("1").raw))
    puller.start()
    time.sleep(0.15)
    with FaultServer(port=port) as server:
        server.on(MANIFEST, document(RAW, TYPE))
        puller.join()
    assert got == [RAW]


# Time


def drip(pause: float, *, piece: int = 1) -> Behaviour:
    def behave(exchange: Exchange) -> None:
        exchange.answer(200, b"", content_length=str(len(DATA)))
        for start in range(exchange.offset, len(DATA), piece):
            exchange.raw(DATA[start : start + piece])
            time.sleep(pause)

    return behave


def hang(exchange: Exchange) -> None:
    exchange.answer(200, DATA[:500_000], content_length=str(len(DATA)))
    exchange.wfile.flush()
    time.sleep(1.5)
    exchange.hang_up()


def test_half_a_body_on_an_open_connection_is_continued(server: FaultServer, client: RegistryClient) -> None:
    server.each(BLOB, hang, whole(DATA))
    assert fetch(client) == DATA
    assert ranges(server) == ["", "bytes=500000-"]


def test_a_drip_is_a_stall(server: FaultServer, connect: Callable[..., RegistryClient]) -> None:
    server.on(BLOB, drip(0.02))
    server.on(MANIFEST, drip(0.02))
    client = connect(server, settings=QUICK._replace(stall_time=0.2, retry_time=0.5))
    with pytest.raises(Unavailable, match="the transfer stalled"):
        fetch(client)
    with pytest.raises(Unavailable, match="the transfer stalled"):
        client.get_manifest("1")


def test_a_slow_transfer_is_no_stall(server: FaultServer, connect: Callable[..., RegistryClient]) -> None:
    data = DATA[:20_000]

    def slow(exchange: Exchange) -> None:
        exchange.answer(200, b"", content_length=str(len(data)))
        for start in range(0, len(data), 1000):
            exchange.raw(data[start : start + 1000])
            time.sleep(0.05)

    server.on(BLOB, slow)
    got: list[bytes] = []
    assert connect(server).read_blob(DIGEST, size=len(data), sink=got.append) == len(data)
    assert b"".join(got) == data
    assert len(server.of(BLOB)) == 1


def test_a_slow_consumer_is_no_stall(server: FaultServer, client: RegistryClient) -> None:
    big = DATA * 16
    server.on(BLOB, whole(big))
    got = bytearray()

    def sink(data: bytes) -> None:
        if not got:
            time.sleep(1.2)
        got.extend(data)

    assert client.read_blob(DIGEST, size=len(big), sink=sink) == len(big)
    assert len(server.of(BLOB)) == 1


def test_a_head_that_never_ends_is_cut_off(server: FaultServer, connect: Callable[..., RegistryClient]) -> None:
    def slowly(exchange: Exchange) -> None:
        exchange.raw(b"HTTP/1.1 200 OK\r\n")
        for _ in range(200):
            exchange.raw(b"X")
            time.sleep(0.02)

    server.on(MANIFEST, slowly)
    with pytest.raises(Unavailable, match="stalled"):
        connect(server, settings=QUICK._replace(stall_time=0.2, retry_time=0.5)).get_manifest("1")


def test_a_port_that_says_nothing_is_given_up(connect: Callable[..., RegistryClient]) -> None:
    with silent_port() as host, pytest.raises(Unavailable, match="stalled"):
        connect(host, settings=QUICK._replace(stall_time=0.2, retry_time=0.5, connect_time=0.2)).get_manifest("1")


def test_closing_ends_a_transfer_at_once(server: FaultServer, connect: Callable[..., RegistryClient]) -> None:
    server.on(BLOB, hang)
    client = connect(server, settings=QUICK._replace(stall_time=30))
    arrived = threading.Event()

    def close() -> None:
        arrived.wait(5)
        client.close()

    closer = threading.Thread(target=close)
    closer.start()
    started = time.monotonic()
    with pytest.raises(Cancelled):
        client.read_blob(DIGEST, size=len(DATA), sink=lambda _: arrived.set())
    closer.join()
    assert time.monotonic() - started < 1.4
    with pytest.raises(Cancelled):
        client.get_manifest("1")


# Sizes and contents


def test_a_blob_of_another_length_is_refused_before_it_is_read(server: FaultServer, client: RegistryClient) -> None:
    for other in (DATA + b"x", DATA[:-1]):
        server.on(BLOB, whole(other))
        got: list[bytes] = []
        with pytest.raises(DataLoss, match=f"{len(other)} bytes there, not the {len(DATA)}"):
            client.read_blob(DIGEST, size=len(DATA), sink=got.append)
        assert not got


def chunked(exchange: Exchange, pieces: Iterator[bytes]) -> None:
    exchange.raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    for piece in pieces:
        exchange.raw(b"%x\r\n%b\r\n" % (len(piece), piece))


def test_a_body_without_length_is_taken_up_to_the_size(server: FaultServer, client: RegistryClient) -> None:
    def proper(exchange: Exchange) -> None:
        chunked(exchange, iter((DATA[:700_000], DATA[700_000:], b"")))

    server.on(BLOB, proper)
    assert fetch(client) == DATA
    assert fetch(client, size=None) == DATA


def test_an_endless_body_ends_at_the_size(server: FaultServer, client: RegistryClient) -> None:
    def endless(exchange: Exchange) -> None:
        while True:
            chunked(exchange, iter((DATA,) * 1000))

    server.on(BLOB, endless)
    got: list[int] = []
    with pytest.raises(DataLoss, match="longer than it should be"):
        client.read_blob(DIGEST, size=len(DATA), sink=lambda data: got.append(len(data)))
    assert sum(got) == len(DATA)
    assert len(server.of(BLOB)) == 1


def test_a_manifest_beyond_the_limit_is_not_read(server: FaultServer, client: RegistryClient) -> None:
    def announced(exchange: Exchange) -> None:
        exchange.answer(200, b"", content_length=str(100 << 20))

    def unannounced(exchange: Exchange) -> None:
        chunked(exchange, iter((b" " * (1 << 20),) * 100))

    server.each(MANIFEST, announced, unannounced)
    tracemalloc.start()
    try:
        for _ in range(2):
            with pytest.raises(InvalidArgument, match=f"{MANIFEST_LIMIT} "):
                client.get_manifest("1")
        assert tracemalloc.get_traced_memory()[1] < 3 * MANIFEST_LIMIT
    finally:
        tracemalloc.stop()


def test_nesting_is_for_the_reader_of_the_document_and_errors_are_not_fooled(
    server: FaultServer, client: RegistryClient
) -> None:
    deep = b"[" * 100_000 + b"]" * 100_000
    server.on(MANIFEST, document(deep, TYPE))
    with pytest.raises(InvalidArgument, match="nested deeper"):
        decode_document(client.get_manifest("1").raw, limit=MANIFEST_LIMIT, what="manifest")
    server.on(MANIFEST, document(deep[:50_000], code=400))
    with pytest.raises(InvalidArgument, match="status 400"):
        client.get_manifest("1")
    server.on("/v2/team/app/tags/list", document(deep))
    with pytest.raises(InvalidArgument, match="nested deeper"):
        client.list_tags()


@pytest.mark.parametrize("encoding", ["gzip", "br", "identity, gzip"])
def test_content_encoding_is_refused(server: FaultServer, client: RegistryClient, encoding: str) -> None:
    server.on(MANIFEST, document(RAW, TYPE, content_encoding=encoding))
    with pytest.raises(InvalidArgument, match="Content-Encoding"):
        client.get_manifest("1")
    server.on(BLOB, lambda exchange: exchange.answer(200, DATA, content_encoding=encoding))
    with pytest.raises(InvalidArgument, match="Content-Encoding"):
        fetch(client)
    assert {seen.headers["accept-encoding"] for seen in server.requests} == {"identity"}


def test_a_manifest_is_what_it_hashes_to(server: FaultServer, client: RegistryClient) -> None:
    right, wrong = sha256(RAW), sha256(b"other")
    server.on("/v2/team/app/manifests/*", document(RAW, f"{TYPE}; charset=utf-8"))
    fetched = client.get_manifest("1")
    assert fetched == (RAW, TYPE, right)
    assert client.get_manifest(right) == fetched
    with pytest.raises(DigestMismatch, match=f"digest is {right}, expected {wrong}"):
        client.get_manifest(wrong)
    server.on(MANIFEST, document(RAW, TYPE, docker_content_digest=wrong))
    with pytest.raises(DigestMismatch, match=f"digest is {right}, expected {wrong}"):
        client.get_manifest("1")


def test_what_is_not_there_is_not_found(server: FaultServer, client: RegistryClient) -> None:
    with pytest.raises(NotFound, match=r"manifest 1 not found in .*team/app: name unknown: no such thing"):
        client.get_manifest("1")
    with pytest.raises(NotFound, match="blob"):
        fetch(client)
    assert client.has_blob(DIGEST) is None
    assert len(server.of("/v2/team")) == 3


@pytest.mark.parametrize(
    "name", ["", "../x", "a b", "1\r\nX: y", "x" * 129, "sha256:abc", "sha512:" + "0" * 128, "a?b"]
)
def test_what_is_no_tag_is_never_sent(server: FaultServer, client: RegistryClient, name: str) -> None:
    with pytest.raises(InvalidArgument):
        client.get_manifest(name)
    with pytest.raises(InvalidArgument):
        client.put_manifest(name, RAW, TYPE)
    assert not server.requests


# Heads


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200,
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70_000,
        b"HTTP/1.1 200 OK\r\n" + (b"X: " + b"y" * 1000 + b"\r\n") * 80,
        b"HTTP/1.1 100 Continue\r\n\r\n" * 4000,
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 OK two hundred\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    ],
    ids=["many", "long", "large", "continue", "ssh", "status", "lengths"],
)
def test_a_head_that_is_none_is_refused_at_once(server: FaultServer, client: RegistryClient, head: bytes) -> None:
    def behave(exchange: Exchange) -> None:
        exchange.raw(head)
        exchange.hang_up()

    server.on(MANIFEST, behave)
    with pytest.raises(Unavailable, match=r"its answer is (malformed|not HTTP)") as caught:
        client.get_manifest("1")
    assert len(server.of(MANIFEST)) == 1
    assert str(caught.value).isprintable()


def test_an_endless_trailer_is_cut_off(server: FaultServer, client: RegistryClient) -> None:
    def behave(exchange: Exchange) -> None:
        exchange.raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n")
        for _ in range(10_000):
            exchange.raw(b"X-Trailer: " + b"y" * 500 + b"\r\n")

    server.on(MANIFEST, behave)
    with pytest.raises(Unavailable, match="malformed"):
        client.get_manifest("1")


# Redirects and credentials


def redirect(target: str, code: int = 307) -> Behaviour:
    return lambda exchange: exchange.answer(code, location=target)


def known(server: FaultServer) -> Keychain:
    return Keychain.of(server.host, Credentials(USER, PASSWORD))


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_credentials_do_not_follow_to_another_host(connect: Callable[..., RegistryClient], code: int) -> None:
    with FaultServer() as server, FaultServer("127.0.0.2") as other:
        tokens = TokenServer(server, password=True)
        server.on(BLOB, tokens.guard(redirect(f"{other.url}/cdn?signature=s3cret", code)))
        other.each("/cdn", cut(DATA, 500_000), whole(DATA))
        assert fetch(connect(server, keychain=known(server))) == DATA
        assert server.of(BLOB)[-1].headers["authorization"] == "Bearer token-1"
        assert len(other.requests) == 2
        assert all("authorization" not in seen.headers for seen in other.requests)
        # A signed URL may be good for one use: what broke is asked for at the registry again.
        assert len(server.of(BLOB)) == 3


def test_credentials_do_not_follow_to_another_port(connect: Callable[..., RegistryClient]) -> None:
    with FaultServer() as server, FaultServer() as other:
        server.on(BLOB, TokenServer(server).guard(redirect(f"{other.url}/cdn")))
        other.on("/cdn", status(401, www_authenticate='Basic realm="give"'))
        with pytest.raises(Unauthorized):
            fetch(connect(server, keychain=known(server)))
        assert all("authorization" not in seen.headers for seen in other.requests)


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("file:///etc/passwd", "only http and https"),
        ("gopher://127.0.0.1/", "only http and https"),
        ("http://user:pass@127.0.0.1/", "names no proper host"),
        ("/a b", "malformed"),
        ("", "more than 10 redirects"),
    ],
)
def test_odd_redirects_are_refused(server: FaultServer, client: RegistryClient, target: str, words: str) -> None:
    server.on(BLOB, redirect(target))
    with pytest.raises(InvalidArgument, match=words) as caught:
        fetch(client)
    assert "user:pass" not in str(caught.value)


def test_a_header_within_a_location_is_refused(server: FaultServer, client: RegistryClient) -> None:
    def behave(exchange: Exchange) -> None:
        exchange.raw(b"HTTP/1.1 307 Go\r\nLocation: /x\r\n X-Injected: 1\r\nContent-Length: 0\r\n\r\n")

    server.on(BLOB, behave)
    with pytest.raises(InvalidArgument, match="malformed"):
        fetch(client)


def test_redirects_in_a_circle_end(server: FaultServer, client: RegistryClient) -> None:
    server.on(BLOB, redirect(BLOB))
    with pytest.raises(InvalidArgument, match="more than 10 redirects"):
        fetch(client)
    assert len(server.of(BLOB)) == 11


def test_a_token_refused_in_mid_pull_is_renewed(connect: Callable[..., RegistryClient], server: FaultServer) -> None:
    tokens = TokenServer(server, uses=1, password=True)
    server.each(BLOB, *(tokens.guard(cut(DATA, 200_000)) for _ in range(40)))
    assert fetch(connect(server, keychain=known(server))) == DATA
    assert tokens.issued == 6
    asked = server.of("/token")[0].query
    assert asked == {"account": [USER], "service": ["test"], "scope": ["repository:team/app:pull"]}


def test_many_threads_share_one_token(connect: Callable[..., RegistryClient], server: FaultServer) -> None:
    tokens = TokenServer(server)
    server.on(BLOB, tokens.guard(whole(DATA)))
    client = connect(server)
    results: list[bytes] = []
    threads = [threading.Thread(target=lambda: results.append(fetch(client))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [DATA] * 6
    assert tokens.issued == 1


def test_an_expiring_token_is_renewed_before_it_is_used(
    connect: Callable[..., RegistryClient], server: FaultServer
) -> None:
    tokens = TokenServer(server)

    def brief(exchange: Exchange) -> None:
        tokens.issue(exchange) if tokens.issued else exchange.answer(200, b'{"access_token":"short","expires_in":0}')
        tokens.issued += 1

    server.on("/token", brief)
    tokens._left["short"] = 1 << 30
    server.on(MANIFEST, tokens.guard(document(RAW, TYPE)))
    client = connect(server)
    client.get_manifest("1")
    time.sleep(1.05)
    client.get_manifest("1")
    assert len(server.of(MANIFEST)) == 3
    assert len(server.of("/token")) == 2


def test_a_registry_that_never_has_enough_tokens_is_left(server: FaultServer, client: RegistryClient) -> None:
    tokens = TokenServer(server, uses=0)
    server.on(MANIFEST, tokens.guard(document(RAW, TYPE)))
    with pytest.raises(Unauthorized, match="fresh credentials too; run: lamella login"):
        client.get_manifest("1")
    assert tokens.issued == 2


def test_wrong_passwords_are_not_tried_again(connect: Callable[..., RegistryClient], server: FaultServer) -> None:
    tokens = TokenServer(server, password=True)
    server.on(MANIFEST, tokens.guard(document(RAW, TYPE)))
    server.on("/v2/team/app/manifests/basic", status(401, www_authenticate='Basic realm="x"'))
    client = connect(server, keychain=Keychain.of(server.host, Credentials(USER, "wr0ng")))
    for name in ("1", "basic"):
        with pytest.raises(PermissionDenied, match="lamella login") as caught:
            client.get_manifest(name)
        assert "wr0ng" not in str(caught.value)
    assert len(server.of("/token")) == 1
    assert len(server.of("/v2/team/app/manifests/basic")) == 2
    with pytest.raises(Unauthorized, match=r"no basic auth credentials for .*lamella login"):
        connect(server).get_manifest("basic")


@pytest.mark.parametrize(
    "realm",
    [
        "http://127.0.0.2:9/token",
        "https://auth.evil.example/token",
        "http://169.254.169.254/latest",
        "file:///x",
        "",
        "x y",
    ],
)
def test_a_realm_elsewhere_gets_no_password(
    connect: Callable[..., RegistryClient], server: FaultServer, realm: str
) -> None:
    server.on(MANIFEST, TokenServer(server, realm=realm or " ").guard(document(RAW, TYPE)))
    started = time.monotonic()
    with pytest.raises((Unauthorized, InvalidArgument)):
        connect(server, keychain=known(server)).get_manifest("1")
    assert time.monotonic() - started < 2
    assert not server.of("/token")


def test_a_realm_elsewhere_may_be_allowed(connect: Callable[..., RegistryClient], server: FaultServer) -> None:
    with FaultServer("127.0.0.2") as other:
        tokens = TokenServer(server, password=True, realm=f"{other.url}/token")
        other.on("/token", tokens.issue)
        server.on(MANIFEST, tokens.guard(document(RAW, TYPE)))
        settings = QUICK._replace(token_hosts=frozenset({"127.0.0.2"}))
        assert connect(server, settings=settings, keychain=known(server)).get_manifest("1").raw == RAW


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"token": "' + b"x" * (2 << 20) + b'"}', "allowed"),
        (b'{"token": "a\\r\\nX-Injected: 1"}', "characters that no token has"),
        (b'{"token": 3}', "there is none"),
        (b"{}", "there is none"),
        (b"<html>", "not valid JSON"),
        (b"[" * 100_000, "nested"),
    ],
    ids=["huge", "inject", "number", "none", "html", "deep"],
)
def test_odd_tokens_are_refused(server: FaultServer, client: RegistryClient, body: bytes, words: str) -> None:
    tokens = TokenServer(server)
    server.on("/token", document(body))
    server.on(MANIFEST, tokens.guard(document(RAW, TYPE)))
    with pytest.raises(InvalidArgument, match=words):
        client.get_manifest("1")


def test_an_endless_token_is_not_read_to_its_end(server: FaultServer, client: RegistryClient) -> None:
    tokens = TokenServer(server)
    server.on("/token", lambda exchange: chunked(exchange, iter((b" " * 65536,) * 100_000)))
    server.on(MANIFEST, tokens.guard(document(RAW, TYPE)))
    with pytest.raises(InvalidArgument, match="1048576"):
        client.get_manifest("1")


def test_a_token_server_does_not_hand_the_password_on(
    connect: Callable[..., RegistryClient], server: FaultServer
) -> None:
    with FaultServer("127.0.0.2") as other:
        tokens = TokenServer(server)
        server.on("/token", redirect(f"{other.url}/token"))
        server.on(MANIFEST, tokens.guard(document(RAW, TYPE)))
        with pytest.raises(Unavailable, match="gave no token: status 307"):
            connect(server, keychain=known(server)).get_manifest("1")
        assert not other.requests


def test_an_identity_token_is_posted(connect: Callable[..., RegistryClient], server: FaultServer) -> None:
    tokens = TokenServer(server)
    server.on(MANIFEST, tokens.guard(document(RAW, TYPE)))
    keychain = Keychain.of(server.host, Credentials(USER, identity_token="it"))
    assert connect(server, keychain=keychain).get_manifest("1").raw == RAW
    (seen,) = server.of("/token")
    assert seen.method == "POST"
    assert b"grant_type=refresh_token" in seen.body
    assert b"refresh_token=it" in seen.body


def test_an_unknown_way_in_is_named(server: FaultServer, client: RegistryClient) -> None:
    server.on(MANIFEST, status(401, www_authenticate="Negotiate"))
    with pytest.raises(Unsupported, match="asks for negotiate"):
        client.get_manifest("1")
    server.on(MANIFEST, status(401))
    with pytest.raises(Unauthorized, match="without saying how"):
        client.get_manifest("1")
    server.on(MANIFEST, document({"errors": [{"code": "DENIED", "message": "not yours"}]}, code=403))
    with pytest.raises(Unauthorized, match=r"access denied for manifest 1 .*denied: not yours"):
        client.get_manifest("1")


# Tags


def test_tags_are_paged(server: FaultServer, client: RegistryClient) -> None:
    path = "/v2/team/app/tags/list"
    first = document({"tags": ["1", "2"]}, link=f'<{path}?last=2&n=2>; rel="next"')
    server.each(path, first, document({"tags": ["2", "3"]}))
    assert client.list_tags() == ["1", "2", "3"]
    server.on(path, document({"name": "team/app", "tags": None}))
    assert client.list_tags() == []


def test_tags_without_end_are_cut_off(server: FaultServer, client: RegistryClient) -> None:
    path = "/v2/team/app/tags/list"
    server.on(path, document({"tags": ["1"]}, link=f"<{path}?again>; rel=next"))
    with pytest.raises(InvalidArgument, match="more than 100 pages"):
        client.list_tags()
    server.on(path, document({"tags": [f"t{n}" for n in range(10_001)]}))
    with pytest.raises(InvalidArgument, match="more than 10000"):
        client.list_tags()
    server.on(path, document({"tags": ["1"]}, link="<http://127.0.0.9/v2/>; rel=next"))
    with pytest.raises(InvalidArgument, match="another host"):
        client.list_tags()
    for odd in (["../x"], [3], "x"):
        server.on(path, document({"tags": odd}))
        with pytest.raises(InvalidArgument):
            client.list_tags()


# Mirrors


def through(mirror: FaultServer, upstream: FaultServer) -> RegistryClient:
    """Make a client with *mirror* before *upstream*, as Docker Hub's has."""
    client = RegistryClient(parse_reference(f"{upstream.host}/team/app"), settings=QUICK, keychain=Keychain())
    hub = RegistryClient(
        parse_reference("docker.io/team/app"), settings=QUICK._replace(mirrors=(mirror.url,)), keychain=Keychain()
    )
    client._sessions.insert(0, hub._sessions[0])
    return client


def test_mirrors_are_asked_first_and_may_fail(server: FaultServer) -> None:
    with FaultServer() as mirror:
        client = through(mirror, server)
        mirror.on(MANIFEST, document(RAW, TYPE))
        mirror.on(BLOB, cut(DATA, 0))
        server.on(BLOB, whole(DATA))
        assert client.get_manifest("1").raw == RAW
        assert not server.requests
        assert fetch(client) == DATA
        assert len(mirror.of(BLOB)) == 2
        # A mirror that was found dead is left alone.
        with pytest.raises(NotFound):
            client.get_manifest("1")
        client.close()
        client = through(mirror, server)
        mirror.each(BLOB, cut(DATA, 600_000), status(403))
        assert fetch(client) == DATA
        assert ranges(server) == ["", "bytes=600000-"]
        assert client.get_manifest("1").raw == RAW
        assert client.drop_mirrors()
        assert not client.drop_mirrors()
        with pytest.raises(NotFound):
            client.get_manifest("1")
        client.close()


# Uploads


class Store:
    """The upload side of a registry, kept simple enough to be broken."""

    def __init__(self, server: FaultServer) -> None:
        self.server = server
        self.parts = bytearray()
        self.begun = 0
        self.done = False
        server.on(UPLOADS, self.begin, "POST")
        server.on("/up*", self.patch, "PATCH")
        server.on("/up*", self.put, "PUT")
        server.on("/up*", self.ask, "GET")
        server.on(BLOB, self.head, "HEAD")

    def begin(self, exchange: Exchange) -> None:
        self.begun += 1
        self.parts.clear()
        exchange.answer(202, location=f"/up{self.begun}?state=a")

    def patch(self, exchange: Exchange) -> None:
        start = int(exchange.headers["Content-Range"].partition("-")[0])
        assert start == len(self.parts)
        self.parts += exchange.seen.body
        exchange.answer(202, location=f"{self.server.url}/up{self.begun}?state=b", range=f"0-{len(self.parts) - 1}")

    def put(self, exchange: Exchange) -> None:
        self.parts += exchange.seen.body
        if exchange.seen.query["digest"] != [sha256(bytes(self.parts))]:
            exchange.answer(400, b'{"errors":[{"code":"DIGEST_INVALID","message":"provided digest did not match"}]}')
            return
        self.done = True
        exchange.answer(201)

    def ask(self, exchange: Exchange) -> None:
        exchange.answer(204, range=f"0-{max(0, len(self.parts) - 1)}")

    def head(self, exchange: Exchange) -> None:
        exchange.answer(200, content_length=str(len(DATA))) if self.done else exchange.answer(404)


def pieces() -> Iterator[bytes]:
    return (DATA[start : start + 99_999] for start in range(0, len(DATA), 99_999))


def methods(server: FaultServer) -> list[str]:
    return [seen.method for seen in server.requests if seen.path != "/v2/"]


def test_an_upload_is_one_request_if_it_can_be(server: FaultServer, client: RegistryClient) -> None:
    store = Store(server)
    client.upload_blob(DIGEST, len(DATA), pieces)
    assert store.done
    assert methods(server) == ["POST", "PUT"]
    assert server.requests[-1].query == {"state": ["a"], "digest": [DIGEST]}


def test_an_upload_in_chunks_survives_a_failed_one(server: FaultServer, connect: Callable[..., RegistryClient]) -> None:
    store = Store(server)
    client = connect(server, settings=QUICK._replace(upload_chunk=400_000), actions="pull,push")
    server.each("/up*", store.patch, status(500), lambda exchange: exchange.reset(), store.patch, method="PATCH")
    client.upload_blob(DIGEST, len(DATA), pieces)
    assert store.done
    assert store.begun == 1
    assert methods(server) == ["POST", "PATCH", "PATCH", "GET", "PATCH", "GET", "PATCH", "PATCH", "PUT"]


def test_a_body_too_large_goes_in_chunks(server: FaultServer, connect: Callable[..., RegistryClient]) -> None:
    store = Store(server)
    server.each("/up*", status(413), store.put, method="PUT")
    connect(server, actions="pull,push").upload_blob(DIGEST, len(DATA), pieces)
    assert store.done
    server.on("/up*", status(413))
    client = connect(server, settings=QUICK._replace(upload_chunk=400_000), actions="pull,push")
    with pytest.raises(InvalidArgument, match="too large, in chunks"):
        client.upload_blob(DIGEST, len(DATA), pieces)


def test_an_upload_that_fails_is_begun_anew(server: FaultServer, client: RegistryClient) -> None:
    store = Store(server)
    server.each("/up*", status(500), status(404), store.put, method="PUT")
    client.upload_blob(DIGEST, len(DATA), pieces)
    assert (store.done, store.begun) == (True, 3)


def test_a_lost_confirmation_is_no_second_upload(server: FaultServer, client: RegistryClient) -> None:
    store = Store(server)

    def lose(exchange: Exchange) -> None:
        store.done = True
        exchange.reset()

    server.on("/up*", lose, "PUT")
    client.upload_blob(DIGEST, len(DATA), pieces)
    assert methods(server) == ["POST", "PUT", "HEAD"]


def test_a_refused_digest_is_final(server: FaultServer, client: RegistryClient) -> None:
    Store(server)
    with pytest.raises(InvalidArgument, match="digest invalid: provided digest did not match"):
        client.upload_blob(DIGEST, len(DATA), lambda: iter((DATA[::-1],)))
    assert methods(server) == ["POST", "PUT"]


@pytest.mark.parametrize("chunk", [0, 400_000])
def test_a_source_of_another_size_is_found_out(
    server: FaultServer, connect: Callable[..., RegistryClient], chunk: int
) -> None:
    store = Store(server)
    client = connect(server, settings=QUICK._replace(upload_chunk=chunk), actions="pull,push")
    for wrong in (DATA[:-1], DATA + b"x"):
        with pytest.raises(DataLoss):
            client.upload_blob(DIGEST, len(DATA), lambda wrong=wrong: iter((wrong,)))  # type: ignore[misc]
    assert not store.done


@pytest.mark.parametrize("problem", [OSError(5, "Input/output error"), DataLoss("layer is damaged")])
def test_errors_of_source_and_sink_are_theirs(server: FaultServer, client: RegistryClient, problem: Exception) -> None:
    Store(server)

    def failing(*_: object) -> Iterator[bytes]:
        yield DATA[:1000]
        raise problem

    with pytest.raises(type(problem)) as caught:
        client.upload_blob(DIGEST, len(DATA), failing)
    assert caught.value is problem

    def sink(_: bytes) -> None:
        raise problem

    server.on(BLOB, whole(DATA), "GET")
    with pytest.raises(type(problem)) as caught:
        client.read_blob(DIGEST, size=len(DATA), sink=sink)
    assert caught.value is problem
    # The broken PUT may be noted late: what counts is that neither was tried again.
    assert [seen.method for seen in server.of(BLOB)] == ["GET"]
    assert methods(server).count("POST") == 1


def test_an_upload_led_to_another_host_gets_no_credentials(connect: Callable[..., RegistryClient]) -> None:
    with FaultServer() as server, FaultServer("127.0.0.2") as other:
        tokens = TokenServer(server)
        server.on(UPLOADS, tokens.guard(lambda exchange: exchange.answer(202, location=f"{other.url}/up?x=y")))
        other.on("/up", status(201))
        connect(server, keychain=known(server), actions="pull,push").upload_blob(DIGEST, len(DATA), pieces)
        (seen,) = other.requests
        assert seen.body == DATA
        assert "authorization" not in seen.headers
        assert server.of("/token")[0].query["scope"] == ["repository:team/app:pull,push"]


def test_a_mount_is_tried_and_may_be_refused(server: FaultServer, client: RegistryClient) -> None:
    tokens = TokenServer(server)
    server.on(UPLOADS, tokens.guard(status(201)), "POST")
    assert client.mount_blob(DIGEST, "team/base")
    assert server.of(UPLOADS)[-1].query == {"mount": [DIGEST], "from": ["team/base"]}
    assert server.of("/token")[0].query["scope"] == ["repository:team/app:pull,push", "repository:team/base:pull"]
    server.on(UPLOADS, lambda exchange: exchange.answer(202, location="/up1"), "POST")
    server.on("/up1", status(204), "DELETE")
    assert not client.mount_blob(DIGEST, "team/base")
    assert methods(server)[-1] == "DELETE"
    for code in (400, 403, 404, 405):
        server.on(UPLOADS, status(code), "POST")
        assert not client.mount_blob(DIGEST, "team/base")
    with pytest.raises(InvalidArgument):
        client.mount_blob(DIGEST, "../&from=x")


def test_a_manifest_is_put_and_its_digest_compared(server: FaultServer, client: RegistryClient) -> None:
    server.each(MANIFEST, status(503), status(201, docker_content_digest=sha256(RAW)), method="PUT")
    assert client.put_manifest("1", RAW, TYPE) == sha256(RAW)
    assert server.requests[-1].headers["content-type"] == TYPE
    assert server.requests[-1].body == RAW
    server.on(MANIFEST, status(201, docker_content_digest=sha256(b"x")), "PUT")
    with pytest.raises(DigestMismatch):
        client.put_manifest("1", RAW, TYPE)
    with pytest.raises(DigestMismatch):
        client.put_manifest(sha256(b"x"), RAW, TYPE)
    server.on(MANIFEST, document({"errors": [{"code": "MANIFEST_BLOB_UNKNOWN"}]}, code=404), "PUT")
    with pytest.raises(LamellaError, match="manifest blob unknown"):
        client.put_manifest("1", RAW, TYPE)


# Parts


def test_a_part_of_a_blob_is_read_as_a_stream(server: FaultServer, client: RegistryClient) -> None:
    server.each(BLOB, status(500), whole(DATA))
    with client.open_blob(DIGEST, size=len(DATA), offset=10, end=1000) as stream:
        assert (stream.ranged, stream.accepts_ranges, stream.length, stream.start) == (True, True, len(DATA), 10)
        assert stream.read(500) + stream.read() == DATA[10:1000]
        assert stream.read(1) == b""
    with client.open_blob(DIGEST, size=None) as stream:
        assert (stream.ranged, stream.accepts_ranges, stream.length) == (False, True, len(DATA))
        assert stream.read(5) == DATA[:5]
    server.on(BLOB, lambda exchange: exchange.answer(200, DATA))
    with client.open_blob(DIGEST, size=len(DATA), offset=10, end=1000) as stream:
        assert (stream.ranged, stream.accepts_ranges, stream.start) == (False, False, 0)
        assert stream.read() == DATA[:1000]
    server.on(BLOB, cut(DATA, 100))
    with client.open_blob(DIGEST, size=len(DATA)) as stream, pytest.raises(Unavailable, match="cut off"):
        stream.read()
    got: list[bytes] = []
    server.each(BLOB, cut(DATA, 100), whole(DATA))
    assert client.read_blob(DIGEST, size=len(DATA), sink=got.append, offset=50, end=5000) == 4950
    assert b"".join(got) == DATA[50:5000]


def test_an_empty_blob_is_asked_for_and_is_empty(server: FaultServer, client: RegistryClient) -> None:
    server.on(BLOB, whole(b""))
    assert fetch(client, size=0) == b""
    assert len(server.of(BLOB)) == 1


def test_connections_are_used_again(server: FaultServer, client: RegistryClient) -> None:
    ports: set[int] = set()

    def note(behaviour: Behaviour) -> Behaviour:
        def noted(exchange: Exchange) -> None:
            ports.add(exchange.client_address[1])
            behaviour(exchange)

        return noted

    server.on(BLOB, note(whole(DATA)))
    server.on(MANIFEST, note(document(RAW, TYPE)))
    for _ in range(3):
        client.has_blob(DIGEST)
        client.get_manifest("1")
        fetch(client)
    assert len(ports) == 1

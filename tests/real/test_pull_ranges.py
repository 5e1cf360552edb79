"""One large blob by several ranges at a time."""

from __future__ import annotations

import random
import threading
from collections.abc import Generator

import pytest

from lamella.errors import DataLoss, LamellaError
from lamella.model.digest import Digest
from lamella.model.reference import parse_reference
from lamella.transports.ranges import LARGE, PIECE, Spare, read_in_order
from lamella.transports.registry.client import RegistryClient
from lamella.transports.registry.keychain import Keychain
from tests.support.registry import Exchange, FaultServer, sha256, status, whole
from tests.support.served import PATIENT

DATA = random.Random(1).randbytes(LARGE + 3 * PIECE + 12345)
DIGEST = Digest(sha256(DATA))
BLOB = f"/v2/team/app/blobs/{DIGEST}"


@pytest.fixture
def server() -> Generator[FaultServer]:
    with FaultServer() as server:
        yield server


@pytest.fixture
def client(server: FaultServer) -> Generator[RegistryClient]:
    reference = parse_reference(f"{server.host}/team/app:1")
    client = RegistryClient(reference, settings=PATIENT, keychain=Keychain())
    yield client
    client.close()


def read(client: RegistryClient, *, offset: int = 0, spare: int = 2) -> bytes:
    got = bytearray()
    read_in_order(client, DIGEST, len(DATA), got.extend, offset=offset, spare=Spare(spare), most=spare + 1)
    return bytes(got)


def parts_asked_for(server: FaultServer) -> list[str]:
    return [request.headers["range"] for request in server.requests if "range" in request.headers]


def test_idle_connections_fetch_ahead_and_all_is_delivered_in_order(
    server: FaultServer, client: RegistryClient
) -> None:
    serve = whole(DATA)
    together = threading.Barrier(3, timeout=20)

    def meet(exchange: Exchange) -> None:
        # The first three pieces are under way at the same time, or the barrier breaks and the read fails.
        first = int(exchange.seen.headers.get("range", "bytes=0-").removeprefix("bytes=").split("-")[0])
        if first < 3 * PIECE and not exchange.seen.headers["range"].endswith("=0-0"):
            together.wait()
        serve(exchange)

    server.on(BLOB, meet)
    assert read(client) == DATA
    assert len(parts_asked_for(server)) == 1 + -(-len(DATA) // PIECE)


def test_no_connection_beyond_the_spare_ones_is_used(server: FaultServer, client: RegistryClient) -> None:
    serve = whole(DATA)
    busy: list[int] = []
    counts: list[int] = []

    def count(exchange: Exchange) -> None:
        busy.append(1)
        counts.append(len(busy))
        serve(exchange)
        busy.pop()

    server.on(BLOB, count)
    assert read(client, spare=1) == DATA
    assert max(counts) <= 2


def test_a_rest_is_fetched_from_where_it_begins(server: FaultServer, client: RegistryClient) -> None:
    server.on(BLOB, whole(DATA))
    assert read(client, offset=4567) == DATA[4567:]


def test_a_server_without_ranges_gives_the_whole_in_one(server: FaultServer, client: RegistryClient) -> None:
    server.on(BLOB, lambda exchange: exchange.answer(200, DATA))
    assert read(client) == DATA
    assert parts_asked_for(server) == ["bytes=0-0"]


def test_a_piece_that_fails_is_asked_for_again(server: FaultServer, client: RegistryClient) -> None:
    server.each(BLOB, whole(DATA), status(503), whole(DATA), status(500), whole(DATA))
    assert read(client) == DATA


def test_a_piece_that_is_gone_for_good_ends_all(server: FaultServer, client: RegistryClient) -> None:
    serve = whole(DATA)

    def lose(exchange: Exchange) -> None:
        if exchange.seen.headers["range"].startswith(f"bytes={2 * PIECE}-"):
            exchange.answer(404, b"")
        else:
            serve(exchange)

    server.on(BLOB, lose)
    with pytest.raises(LamellaError):
        read(client)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("range-")]


def test_what_the_sink_raises_passes_through_and_no_thread_is_left(server: FaultServer, client: RegistryClient) -> None:
    server.on(BLOB, whole(DATA))
    got = bytearray()

    def refuse(chunk: bytes) -> None:
        got.extend(chunk)
        if len(got) > PIECE:
            raise DataLoss("no more")

    with pytest.raises(DataLoss, match="no more"):
        read_in_order(client, DIGEST, len(DATA), refuse, spare=Spare(2), most=3)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("range-")]

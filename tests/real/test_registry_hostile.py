"""Pulls from a registry that breaks the rules, each in a process of its own whose memory is watched.

What passes is survived; what does not is one clear error, and then the store is as it was, to the byte.
"""

from __future__ import annotations

import gzip
import json
import os
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

from lamella.engine.registries import Registries, copy_image
from lamella.errors import LamellaError
from lamella.store.imagestore import ImageStore
from lamella.transports.blobs import prune_blobs
from lamella.transports.pulling import SMALL
from tests.support.archives import Made, config_of, digest, image, layer_tar, leaks, listing, packed_gzip
from tests.support.registry import Behaviour, Exchange, FaultServer, TokenServer, cut, document, status, whole
from tests.support.served import DOCKER, OCI, PATIENT, Served, manifest_of, pull_in_child, serve

PEAK = 150 << 20
BASE = layer_tar({"etc": None, "etc/motd": b"hello\n", "bin/sh": b"#!\n"})
BIG = layer_tar({"big": os.urandom(SMALL + (1 << 20))})
NEXT = layer_tar({"new": b"more\n"})
MADE = image([BASE, BIG, NEXT])
LARGE = 1


@pytest.fixture
def server() -> Generator[FaultServer]:
    with FaultServer() as running:
        yield running


@pytest.fixture
def served(server: FaultServer) -> Served:
    return serve(server, MADE, pack=bytes, suffix="")


@pytest.fixture
def store(store_root: Path, server: FaultServer) -> ImageStore:
    """A store that has an image already."""
    serve(server, image([layer_tar({"other": b"x" * 5000})]), "0")
    assert pull_in_child(store_root, f"{server.host}/a:0").error == ""
    return ImageStore.open(store_root)


def check_pulled(store: ImageStore, made: Made = MADE) -> None:
    store = ImageStore.open(store.root.path)
    stack = store.layers.stack(store.images.get(made.id).top)  # type: ignore[arg-type]
    assert [layer.diff_id for layer in stack] == [digest(layer) for layer in made.layers]
    for layer in stack:
        store.layers.reassemble(layer, lambda _: None)
    assert leaks(store.root.path) == []


def check_refused(store: ImageStore, server: FaultServer, error: str, words: str, **settings: float) -> None:
    """Pull in vain: the error is the one expected, memory is bounded, the store is as it was."""
    before = listing(store.root.path)
    child = pull_in_child(store.root.path, f"{server.host}/a:1", PATIENT._replace(**settings))  # type: ignore[arg-type]
    assert child.error == error
    assert words in child.text
    assert "\n" not in child.text
    assert child.text.isprintable()
    assert child.peak < PEAK
    assert listing(store.root.path) == before
    assert leaks(store.root.path) == []


# --------------------------------------------------------------------------------------------------- what passes


def stalled(data: bytes) -> Behaviour:
    """Send half of it, then nothing for longer than anybody waits."""

    def behave(exchange: Exchange) -> None:
        exchange.answer(200, data[: len(data) // 2], content_length=str(len(data)))
        exchange.wfile.flush()
        time.sleep(3)
        exchange.hang_up()

    return behave


PASSING: dict[str, Callable[[bytes], list[Behaviour]]] = {
    "truncated": lambda blob: [cut(blob, len(blob) // 2), whole(blob)],
    "reset in the middle": lambda blob: [cut(blob, len(blob) // 3, reset=True), cut(blob, 0, reset=True), whole(blob)],
    "500 twice": lambda blob: [status(500), status(503), whole(blob)],
    "429 for a second": lambda blob: [status(429, retry_after="1"), whole(blob)],
    "stalled": lambda blob: [stalled(blob), whole(blob)],
}


@pytest.mark.parametrize("case", PASSING)
def test_what_passes_is_survived(store: ImageStore, server: FaultServer, served: Served, case: str) -> None:
    for path, blob in zip(served.paths(), served.blobs, strict=True):
        server.each(path, *PASSING[case](blob))
    child = pull_in_child(store.root.path, f"{server.host}/a:1")
    assert child.error == ""
    assert child.peak < PEAK
    check_pulled(store)
    assert prune_blobs(store.root) == 0


def test_tokens_of_few_uses_suffice(store: ImageStore, server: FaultServer, served: Served) -> None:
    tokens = TokenServer(server, uses=4)
    for path, blob in zip(served.paths(), served.blobs, strict=True):
        server.each(path, *(tokens.guard(cut(blob, 1 << 20)) for _ in range(10)), tokens.guard(whole(blob)))
    assert pull_in_child(store.root.path, f"{server.host}/a:1").error == ""
    assert tokens.issued >= 3
    check_pulled(store)


def test_storage_elsewhere_gives_blobs_and_gets_no_token(
    store: ImageStore, server: FaultServer, served: Served
) -> None:
    tokens = TokenServer(server)
    with FaultServer("127.0.0.2") as storage:

        def lead(exchange: Exchange) -> None:
            exchange.answer(307, location=f"{storage.url}{exchange.path}?signature=s3cret")

        server.on("/v2/a/blobs/*", tokens.guard(lead))
        for path, blob in zip(served.paths(), served.blobs, strict=True):
            storage.each(path, cut(blob, len(blob) // 2), whole(blob))
        storage.on(f"/v2/a/blobs/{MADE.id}", whole(MADE.config))
        assert pull_in_child(store.root.path, f"{server.host}/a:1").error == ""
        assert len(storage.requests) >= 4
        assert all("authorization" not in seen.headers for seen in storage.requests)
    assert any("authorization" in seen.headers for seen in server.of("/v2/a/blobs"))
    check_pulled(store)


# -------------------------------------------------------------------------------------------------- what does not


def endless(exchange: Exchange) -> None:
    exchange.answer(200, b"", transfer_encoding="chunked", content_length="")
    while True:
        exchange.raw(b"10000\r\n" + bytes(65536) + b"\r\n")


def drip(data: bytes) -> Behaviour:
    def behave(exchange: Exchange) -> None:
        exchange.answer(200, b"", content_length=str(len(data)))
        for start in range(len(data)):
            exchange.raw(data[start : start + 1])
            time.sleep(0.02)

    return behave


LASTING: dict[str, tuple[Callable[[bytes], Behaviour], str, str]] = {
    "other bytes": (lambda blob: whole(blob[:-1] + bytes([blob[-1] ^ 1])), "DigestMismatch", "expected sha256:"),
    "too short": (lambda blob: whole(blob[:-100]), "DataLoss", "not the"),
    "too long": (lambda blob: whole(blob + b"x"), "DataLoss", "not the"),
    "endless": (lambda _: endless, "DataLoss", "longer than it should be"),
    "always cut at once": (lambda blob: cut(blob, 0), "Unavailable", "gave up"),
    "always reset": (lambda blob: cut(blob, 10, reset=True), "Unavailable", "gave up"),
    "always 500": (lambda _: status(500), "Unavailable", "status 500"),
    "429 for years": (lambda _: status(429, retry_after="315360000"), "Unavailable", "asks to wait 315360000 s"),
    "a drip": (drip, "Unavailable", "stalled"),
    "gone": (lambda _: status(404), "NotFound", "not found in"),
    "not ours": (lambda _: status(403), "Unauthorized", "denied"),
    "in a circle": (
        lambda _: lambda exchange: exchange.answer(307, location=exchange.path),
        "InvalidArgument",
        "more than 10 redirects",
    ),
}


@pytest.mark.parametrize("which", [0, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("case", LASTING)
def test_what_lasts_is_a_clear_error(
    store: ImageStore, server: FaultServer, served: Served, case: str, which: int
) -> None:
    behaviour, error, words = LASTING[case]
    server.on(served.paths()[which], behaviour(served.blobs[which]))
    check_refused(store, server, error, words, retry_time=0.4, stall_time=0.3)
    server.on(served.paths()[which], whole(served.blobs[which]))
    assert pull_in_child(store.root.path, f"{server.host}/a:1").error == ""
    check_pulled(store)
    assert prune_blobs(store.root) == 0


# ----------------------------------------------------------------------------------------------------- documents

CONFIG = config_of([BASE])
BLOB = packed_gzip(BASE)
LAYER = {"mediaType": f"{OCI}.layer.v1.tar+gzip", "size": len(BLOB), "digest": digest(BLOB)}
EMPTY = {"mediaType": "application/vnd.oci.empty.v1+json", "size": 2, "digest": digest(b"{}")}
MANIFEST = f"{OCI}.manifest.v1+json"
INDEX = f"{OCI}.index.v1+json"
SCHEMA1 = json.dumps({"schemaVersion": 1, "name": "a", "tag": "1", "fsLayers": [], "history": []}).encode()


def changed(**changes: Any) -> bytes:
    return manifest_of(CONFIG, [BLOB], **changes)[0]


def of_kind(kind: str, **more: Any) -> bytes:
    return changed(config={"mediaType": kind, "size": 2, "digest": digest(b"{}")}, **more)


REFUSED: dict[str, tuple[bytes, str, str, str]] = {
    "100 MB": (b" " * (100 << 20), MANIFEST, "InvalidArgument", "4194304"),
    "nested 100,000 deep": (b"[" * 100_000 + b"]" * 100_000, MANIFEST, "InvalidArgument", "nested deeper"),
    "nested 100,000 deep in an index": (
        b'{"schemaVersion":2,"manifests":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        INDEX,
        "InvalidArgument",
        "nested deeper",
    ),
    "schema 1": (SCHEMA1, f"{DOCKER}.distribution.manifest.v1+prettyjws", "Unsupported", "schema 1"),
    "schema 1 without its name": (SCHEMA1, "application/json", "Unsupported", "schema 1"),
    "a helm chart": (
        of_kind("application/vnd.cncf.helm.config.v1+json"),
        MANIFEST,
        "Unsupported",
        "not of a container image",
    ),
    "an artifact with an empty config": (
        changed(config=EMPTY, artifactType="application/vnd.example+type"),
        MANIFEST,
        "Unsupported",
        "not of a container image",
    ),
    "a signature of cosign's": (
        changed(layers=[{**LAYER, "mediaType": "application/vnd.dev.cosign.simplesigning.v1+json"}]),
        MANIFEST,
        "Unsupported",
        "cannot be unpacked",
    ),
    "a WebAssembly module": (of_kind("application/vnd.wasm.config.v0+json"), MANIFEST, "Unsupported", "not of a cont"),
    "a foreign layer of Docker's": (
        changed(layers=[{**LAYER, "mediaType": f"{DOCKER}.image.rootfs.foreign.diff.tar.gzip"}]),
        MANIFEST,
        "Unsupported",
        "foreign",
    ),
    "a foreign layer of OCI's": (
        changed(
            layers=[LAYER, {**LAYER, "mediaType": f"{OCI}.layer.nondistributable.v1.tar+gzip", "urls": ["http://x"]}]
        ),
        MANIFEST,
        "Unsupported",
        "foreign",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_image_is_refused_by_its_manifest_alone(store: ImageStore, server: FaultServer, case: str) -> None:
    raw, kind, error, words = REFUSED[case]
    server.on("/v2/a/manifests/1", document(raw, kind))
    server.on("/v2/a/blobs/*", whole(BLOB))
    server.requests.clear()
    check_refused(store, server, error, words)
    assert [seen.path for seen in server.requests if seen.path != "/v2/"] == ["/v2/a/manifests/1"]


def test_a_manifest_without_length_or_end_is_not_read_on(store: ImageStore, server: FaultServer) -> None:
    server.on("/v2/a/manifests/1", endless)
    check_refused(store, server, "InvalidArgument", "4194304")


def test_an_index_that_leads_in_a_circle_of_nested_ones_ends(store: ImageStore, server: FaultServer) -> None:
    inner = b"{}"
    for _ in range(8):
        listed = [{"mediaType": INDEX, "size": len(inner), "digest": digest(inner)}]
        server.on(f"/v2/a/manifests/{digest(inner)}", document(inner, INDEX))
        inner = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": listed}).encode()
    server.on("/v2/a/manifests/1", document(inner, INDEX))
    check_refused(store, server, "InvalidArgument", "nested deeper than 4")


# --------------------------------------------------------------------------------------------------------- bombs


def bomb(mebibytes: int) -> bytes:
    """Pack so many MiB of zeros to a thousandth."""
    return gzip.compress(bytes(16 << 20), 9) * (mebibytes // 16)


def test_a_gzip_bomb_in_place_of_a_layer_costs_no_memory(store: ImageStore, server: FaultServer) -> None:
    """Its digest is as promised, so that only unpacking shows what it is."""
    packed = bomb(1024)
    manifest, kind = manifest_of(CONFIG, [packed])
    server.on("/v2/a/manifests/1", document(manifest, kind))
    server.on(f"/v2/a/blobs/{digest(packed)}", whole(packed))
    server.on(f"/v2/a/blobs/{digest(CONFIG)}", whole(CONFIG))
    check_refused(store, server, "DigestMismatch", "expected")
    assert prune_blobs(store.root) == 0


def test_a_gzip_bomb_in_place_of_a_config_is_its_bytes(store: ImageStore, server: FaultServer) -> None:
    packed = bomb(256)
    config = {"mediaType": f"{OCI}.config.v1+json", "size": len(packed), "digest": digest(packed)}
    server.on("/v2/a/manifests/1", document(changed(config=config), MANIFEST))
    server.on(f"/v2/a/blobs/{digest(packed)}", whole(packed))
    check_refused(store, server, "InvalidArgument", "config")


@pytest.mark.parametrize("what", ["manifests", "blobs"])
def test_a_bomb_by_content_encoding_is_not_unpacked(
    store: ImageStore, server: FaultServer, served: Served, what: str
) -> None:
    packed = bomb(256)
    server.on(f"/v2/a/{what}/*", lambda exchange: exchange.answer(200, packed, content_encoding="gzip"))
    check_refused(store, server, "InvalidArgument", "Content-Encoding")
    assert served.blobs


@pytest.mark.parametrize("place", ["oci:{}/it:one", "oci-archive:{}/it:one", "docker-archive:{}/it:x:1", "dir:{}/it"])
def test_a_copy_that_fails_leaves_what_was_there_and_the_next_one_goes_through(
    server: FaultServer, served: Served, tmp_path: Path, place: str
) -> None:
    there = place.format(tmp_path)
    registries = Registries(PATIENT._replace(retry_time=0.3))
    serve(server, image([NEXT]), "0")
    copy_image(f"docker://{server.host}/a:0", there, registries=registries)
    blob = served.blobs[LARGE]
    server.on(served.paths()[LARGE], whole(blob[:-1] + bytes([blob[-1] ^ 1])))
    for _ in range(2):
        with pytest.raises(LamellaError):
            copy_image(f"docker://{server.host}/a:1", there, registries=registries)
        copy_image(there, f"dir:{tmp_path}/read", registries=registries)
        read = json.loads((tmp_path / "read/manifest.json").read_bytes())
        assert len(read["layers"]) == 1
    server.on(served.paths()[LARGE], whole(blob))
    copy_image(f"docker://{server.host}/a:1", there, registries=registries)
    copy_image(there, f"dir:{tmp_path}/read", registries=registries)
    read = json.loads((tmp_path / "read/manifest.json").read_bytes())
    assert len(read["layers"]) == 3

"""Pulling: what is fetched and what is not, what the store then holds, and what is refused before a layer is asked for."""

from __future__ import annotations

import io
import json
import os
import signal
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest
import zstandard

from lamella.errors import DataLoss, DigestMismatch, InvalidArgument, LamellaError, NotFound, Unavailable, Unsupported
from lamella.model.digest import DiffID, Digest
from lamella.model.platform import parse_platform
from lamella.model.progress import Finished
from lamella.model.reference import parse_reference
from lamella.store.imagestore import ImageStore
from lamella.transports.blobs import blobs_directory, prune_blobs
from lamella.transports.pulling import SMALL, Pulled, pull
from tests.support.archives import Made, config_of, digest, image, layer_tar, leaks, listing, packed_gzip
from tests.support.registry import Exchange, FaultServer, cut, document, status, whole
from tests.support.served import DOCKER, OCI, PATIENT, Served, client_of, manifest_of, name, serve, serve_index

BASE = layer_tar({"etc": None, "etc/motd": b"hello\n", "bin": None, "bin/sh": b"#!\n"})
NEXT = layer_tar({"etc/.wh.motd": b"", "new": b"more\n"})
OTHER = layer_tar({"other": b"x" * 5000})
BIG = layer_tar({"big": os.urandom(SMALL + (1 << 20))})


@pytest.fixture
def store(store_root: Path) -> ImageStore:
    return ImageStore.open(store_root)


@pytest.fixture
def server() -> Generator[FaultServer]:
    with FaultServer() as running:
        yield running


def pull_it(store: ImageStore, server: FaultServer, rest: str = "a:1", **options: Any) -> Pulled:
    reference = name(server, rest)
    with client_of(server, reference.path, settings=options.pop("settings", PATIENT)) as client:
        return pull(store, client, reference, **options)


def check_pulled(store: ImageStore, made: Made, pulled: Pulled) -> None:
    stored = store.images.get(made.id)  # type: ignore[arg-type]
    assert pulled.id == made.id
    assert stored.raw == made.config
    stack = store.layers.stack(stored.top)
    assert [layer.diff_id for layer in stack] == [digest(layer) for layer in made.layers]
    for layer, raw in zip(stack, made.layers, strict=True):
        out = bytearray()
        store.layers.reassemble(layer, out.extend)
        assert bytes(out) == raw
    assert leaks(store.root.path) == []
    directory = blobs_directory(store.root)
    assert not directory.exists() or not os.listdir(directory)


def multi_frame(raw: bytes) -> bytes:
    half = len(raw) // 2
    return b"".join(zstandard.ZstdCompressor().compress(part) for part in (raw[:half], raw[half:]))


@pytest.mark.parametrize(
    ("pack", "options"),
    [
        (packed_gzip, {"docker": True}),
        (packed_gzip, {}),
        (multi_frame, {"suffix": "+zstd"}),
        (bytes, {"suffix": ""}),
        (bytes, {"docker": True, "suffix": ""}),
    ],
)
def test_every_kind_of_manifest_and_packing_comes_in(
    store: ImageStore, server: FaultServer, pack: Callable[[bytes], bytes], options: dict[str, Any]
) -> None:
    made = image([BASE, NEXT, OTHER])
    served = serve(server, made, pack=pack, **options)
    pulled = pull_it(store, server)
    check_pulled(store, made, pulled)
    assert pulled.digest == served.digest
    assert pulled.fresh


def test_names_and_what_is_remembered_are_dockers(store: ImageStore, server: FaultServer) -> None:
    made = image([BASE, NEXT])
    served = serve(server, made)
    pull_it(store, server)
    assert store.tags.read() == {f"{server.host}/a:1": made.id, f"{server.host}/a@{served.digest}": made.id}
    for layer, blob in zip(made.layers, served.blobs, strict=True):
        assert store.distribution.find_diff_id(Digest(digest(blob))) == digest(layer)
        (source,) = store.distribution.sources(DiffID(Digest(digest(layer))))
        assert (source.digest, source.repository, source.hmac) == (digest(blob), f"{server.host}/a", "")
    kept = store.root.lamella_dir / "manifests" / made.id[7:]
    assert kept.read_bytes() == served.manifest
    assert not (store.images.metadata / made.id[7:]).exists()


def test_by_digest_no_tag_is_set(store: ImageStore, server: FaultServer) -> None:
    made = image([BASE])
    served = serve(server, made)
    pull_it(store, server, f"a@{served.digest}")
    assert list(store.tags.read()) == [f"{server.host}/a@{served.digest}"]


def test_a_moved_tag_leaves_the_old_digest_on_the_old_image(store: ImageStore, server: FaultServer) -> None:
    old, new = image([BASE]), image([BASE, NEXT])
    first = serve(server, old)
    pull_it(store, server)
    second = serve(server, new)
    pull_it(store, server)
    host = server.host
    assert store.tags.read() == {
        f"{host}/a:1": new.id,
        f"{host}/a@{first.digest}": old.id,
        f"{host}/a@{second.digest}": new.id,
    }


def test_what_is_here_is_up_to_date_and_costs_a_manifest(store: ImageStore, server: FaultServer) -> None:
    made = image([BASE, NEXT])
    serve(server, made)
    pull_it(store, server)
    server.requests.clear()
    again = pull_it(store, server)
    assert not again.fresh
    assert not server.of("/v2/a/blobs")


def test_only_missing_layers_are_fetched(store: ImageStore, server: FaultServer) -> None:
    serve(server, image([BASE, NEXT]))
    pull_it(store, server)
    made = image([BASE, NEXT, OTHER])
    served = serve(server, made, "2")
    server.requests.clear()
    notes: list[Finished] = []
    pulled = pull_it(
        store, server, "a:2", report=lambda event: notes.append(event) if type(event) is Finished else None
    )
    check_pulled(store, made, pulled)
    fetched = {seen.path for seen in server.of("/v2/a/blobs")}
    assert fetched == {served.paths()[2], f"/v2/a/blobs/{made.id}"}
    assert [note.note for note in notes] == ["Already exists", "Already exists", "Pull complete"]


def test_a_layer_on_another_base_is_copied_not_fetched(store: ImageStore, server: FaultServer) -> None:
    serve(server, image([BASE, NEXT]))
    pull_it(store, server)
    made = image([OTHER, NEXT, BASE])
    served = serve(server, made, "2")
    server.requests.clear()
    check_pulled(store, made, pull_it(store, server, "a:2"))
    assert {seen.path for seen in server.of("/v2/a/blobs")} == {served.paths()[0], f"/v2/a/blobs/{made.id}"}


def test_a_damaged_layer_elsewhere_is_not_copied_but_fetched(store: ImageStore, server: FaultServer) -> None:
    first = image([BASE, NEXT])
    serve(server, first)
    pull_it(store, server)
    layer = store.layers.stack(store.images.get(first.id).top)[1]  # type: ignore[arg-type]
    with store.root.driver.files(layer.cache_id) as files:
        (files / "new").write_bytes(b"MORE\n")
    made = image([OTHER, NEXT])
    serve(server, made, "2")
    check_pulled(store, made, pull_it(store, server, "a:2"))


def test_a_layer_that_comes_twice_is_fetched_once(store: ImageStore, server: FaultServer) -> None:
    made = image([OTHER, BASE, OTHER, NEXT, OTHER])
    served = serve(server, made)
    check_pulled(store, made, pull_it(store, server))
    assert len(server.of(served.paths()[0])) == 1


def test_a_damaged_image_is_repaired_by_pulling_it_again(store: ImageStore, server: FaultServer) -> None:
    made = image([BASE, NEXT])
    serve(server, made)
    pull_it(store, server)
    layer = store.layers.stack(store.images.get(made.id).top)[0]  # type: ignore[arg-type]
    (store.layers.db.path(layer.chain_id) / "size").unlink()
    store = ImageStore.open(store.root.path)
    assert pull_it(store, server).fresh
    stack = store.layers.stack(store.images.get(made.id).top)  # type: ignore[arg-type]
    for item, raw in zip(stack, made.layers, strict=True):
        out = bytearray()
        store.layers.reassemble(item, out.extend)
        assert bytes(out) == raw
    # The damaged one's files stay as long as the layer above stands on them.
    assert leaks(store.root.path) == [f"overlay2/{layer.cache_id}"]


def test_the_vfs_driver_pulls_too(tmp_path: Path, server: FaultServer) -> None:
    made = image([BASE, NEXT, OTHER])
    serve(server, made)
    store = ImageStore.open(tmp_path / "vfs", driver="vfs")
    pull_it(store, server)
    top = store.layers.stack(store.images.get(made.id).top)[-1]  # type: ignore[arg-type]
    with store.root.driver.files(top.cache_id) as files:
        assert sorted(os.listdir(files)) == ["bin", "etc", "new", "other"]
        assert os.listdir(files / "etc") == []


# ---------------------------------------------------------------------------------------------------------- platforms


def test_an_index_gives_the_platform_asked_for(store: ImageStore, server: FaultServer) -> None:
    ours = image([BASE, NEXT], architecture="amd64")
    theirs = image([BASE, OTHER], architecture="arm64")
    index = serve_index(
        server,
        [(serve(server, theirs, "arm"), "linux/arm64/v8"), (serve(server, ours, "amd"), "linux/amd64")],
        "1",
    )
    wanted = parse_platform("linux/amd64")
    check_pulled(store, ours, pulled := pull_it(store, server, platform=wanted))
    assert pulled.digest == digest(index)
    check_pulled(store, theirs, pull_it(store, server, platform=parse_platform("linux/arm64")))


def test_no_image_for_the_platform_is_said_with_those_there_are(store: ImageStore, server: FaultServer) -> None:
    served = serve(server, image([BASE]), "x")
    serve_index(server, [(served, "linux/s390x"), (served, "windows/amd64")], "1")
    with pytest.raises(NotFound, match=r"no matching manifest for linux/arm64 .* linux/s390x, windows/amd64"):
        pull_it(store, server, platform=parse_platform("linux/arm64"))


def test_a_lone_image_of_another_platform_is_refused_when_one_was_asked_for(
    store: ImageStore, server: FaultServer
) -> None:
    served = serve(server, image([BASE], architecture="arm64"))
    with pytest.raises(NotFound, match="is for linux/arm64, not for linux/amd64"):
        pull_it(store, server, platform=parse_platform("linux/amd64"))
    assert not server.of(served.paths()[0])


# ----------------------------------------------------------------------------------------------------------- refusals

CONFIG = config_of([BASE])
BLOB = packed_gzip(BASE)
LAYER = {"mediaType": f"{OCI}.layer.v1.tar+gzip", "size": len(BLOB), "digest": digest(BLOB)}
MANIFEST = f"{OCI}.manifest.v1+json"


def changed(**changes: Any) -> bytes:
    return manifest_of(CONFIG, [BLOB], **changes)[0]


REFUSED: dict[str, tuple[bytes, str, type[LamellaError], str]] = {
    "artifact": (
        changed(config={"mediaType": "application/vnd.cncf.helm.config.v1+json", "size": 2, "digest": digest(b"{}")}),
        MANIFEST,
        Unsupported,
        "not of a container image",
    ),
    "foreign layer": (
        changed(layers=[{**LAYER, "mediaType": f"{DOCKER}.image.rootfs.foreign.diff.tar.gzip"}]),
        MANIFEST,
        Unsupported,
        "foreign",
    ),
    "unknown layer": (
        changed(layers=[{**LAYER, "mediaType": "application/vnd.in-toto+json"}]),
        MANIFEST,
        Unsupported,
        "cannot be unpacked",
    ),
    "schema 1": (
        json.dumps({"schemaVersion": 1, "name": "a", "tag": "1", "fsLayers": [], "history": []}).encode(),
        f"{DOCKER}.distribution.manifest.v1+prettyjws",
        Unsupported,
        "schema 1",
    ),
    "schema 1 in disguise": (
        json.dumps({"schemaVersion": 1, "name": "a", "tag": "1", "fsLayers": [], "history": []}).encode(),
        "application/json",
        Unsupported,
        "schema 1",
    ),
    "both index and manifest": (changed(manifests=[]), MANIFEST, InvalidArgument, "both an index and a manifest"),
    "two types": (
        changed(mediaType=f"{OCI}.index.v1+json"),
        MANIFEST,
        InvalidArgument,
        "says it is",
    ),
    "html": (b"<html>log in</html>", "text/html", LamellaError, "."),
    "nested": (b"[" * 100_000, MANIFEST, InvalidArgument, "nested deeper"),
    "nested in a config": (changed(config={"a": 1}), MANIFEST, InvalidArgument, "mediaType or digest is missing"),
    "huge layers": (changed(layers=[{**LAYER, "size": 1 << 64}]), MANIFEST, InvalidArgument, "not a number of bytes"),
    "upper case digest": (
        changed(layers=[{**LAYER, "digest": LAYER["digest"].upper()}]),  # type: ignore[attr-defined]
        MANIFEST,
        InvalidArgument,
        "digest",
    ),
    "too many layers": (changed(layers=[LAYER] * 200), MANIFEST, InvalidArgument, "layers length mismatch"),
    "huge config": (
        changed(config={"mediaType": f"{OCI}.config.v1+json", "size": 9 << 20, "digest": digest(CONFIG)}),
        MANIFEST,
        InvalidArgument,
        "larger than",
    ),
    "100 MB": (b" " * (100 << 20), MANIFEST, InvalidArgument, "."),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_image_is_refused_before_any_layer_is_fetched(
    store: ImageStore, server: FaultServer, case: str
) -> None:
    raw, kind, error, words = REFUSED[case]
    server.on("/v2/a/manifests/1", document(raw, kind))
    server.on(f"/v2/a/blobs/{digest(CONFIG)}", whole(CONFIG))
    server.on(f"/v2/a/blobs/{digest(BLOB)}", whole(BLOB))
    with store.root.writing():
        pass
    before = listing(store.root.path)
    with pytest.raises(error, match=words):
        pull_it(store, server)
    assert not server.of(f"/v2/a/blobs/{digest(BLOB)}")
    assert listing(store.root.path) == before
    assert leaks(store.root.path) == []


# ------------------------------------------------------------------------------------------------- a bad network


def served_big(server: FaultServer) -> tuple[Made, Served]:
    made = image([BASE, BIG, NEXT])
    return made, serve(server, made, pack=bytes, suffix="")


def endless(data: bytes) -> Callable[[Exchange], None]:
    def behave(exchange: Exchange) -> None:
        exchange.answer(200, b"", transfer_encoding="chunked", content_length="")
        while True:
            exchange.raw(b"10000\r\n" + bytes(65536) + b"\r\n")

    return behave


RECOVERED: dict[str, Callable[[bytes], list[Any]]] = {
    "cut once": lambda blob: [cut(blob, len(blob) // 2), whole(blob)],
    "reset twice": lambda blob: [
        cut(blob, len(blob) // 3, reset=True),
        cut(blob, len(blob) // 3, reset=True),
        whole(blob),
    ],
    "500 twice": lambda blob: [status(500), status(503), whole(blob)],
    "429": lambda blob: [status(429, retry_after="0"), whole(blob)],
}


@pytest.mark.parametrize("case", RECOVERED)
def test_a_passing_fault_is_survived(store: ImageStore, server: FaultServer, case: str) -> None:
    made, served = served_big(server)
    for path, blob in zip(served.paths(), served.blobs, strict=True):
        server.each(path, *RECOVERED[case](blob))
    check_pulled(store, made, pull_it(store, server))


def bomb() -> bytes:
    return packed_gzip(bytes(64 << 20))


FATAL: dict[str, tuple[Callable[[bytes], Any], type[LamellaError]]] = {
    "other bytes of the right length": (lambda blob: whole(bytes(len(blob))), LamellaError),
    "one byte wrong at the end": (lambda blob: whole(blob[:-1] + bytes([blob[-1] ^ 1])), LamellaError),
    "shorter": (lambda blob: whole(blob[:-100]), LamellaError),
    "longer": (lambda blob: whole(blob + b"x"), LamellaError),
    "endless": (endless, LamellaError),
    "always 500": (lambda _: status(500), Unavailable),
    "gone": (lambda _: status(404), NotFound),
    "a bomb in its place": (lambda _: whole(bomb()), LamellaError),
}


@pytest.mark.parametrize("which", [0, 1], ids=["small", "large"])
@pytest.mark.parametrize("case", FATAL)
def test_a_lasting_fault_leaves_the_store_as_it_was(
    store: ImageStore, server: FaultServer, case: str, which: int
) -> None:
    serve(server, image([OTHER]), "0")
    pull_it(store, server, "a:0")
    made, served = served_big(server)
    behaviour, error = FATAL[case]
    server.on(served.paths()[which], behaviour(served.blobs[which]))
    before = listing(store.root.path)
    with pytest.raises(error):
        pull_it(store, server, settings=PATIENT._replace(retry_time=0.3))
    assert listing(store.root.path) == before
    assert leaks(store.root.path) == []
    server.on(served.paths()[which], whole(served.blobs[which]))
    check_pulled(store, made, pull_it(store, server))


def test_a_layer_that_is_right_by_digest_but_not_the_configs_is_refused(store: ImageStore, server: FaultServer) -> None:
    made = image([BASE, NEXT])
    blobs = [packed_gzip(BASE), packed_gzip(OTHER)]
    manifest, kind = manifest_of(made.config, blobs)
    serve(server, made)
    serve(server, image([BASE, OTHER]), "2")
    server.on("/v2/a/manifests/1", document(manifest, kind))
    with pytest.raises(DigestMismatch):
        pull_it(store, server)
    assert store.tags.read() == {}
    assert leaks(store.root.path) == []


def test_a_manifest_that_is_not_what_its_digest_says_is_refused(store: ImageStore, server: FaultServer) -> None:
    served = serve(server, image([BASE]))
    wanted = digest(b"another")
    server.on(f"/v2/a/manifests/{wanted}", document(served.manifest, served.media_type))
    with pytest.raises(DigestMismatch):
        pull_it(store, server, f"a@{wanted}")


# ---------------------------------------------------------------------------------------------------------- going on


def test_what_a_failed_pull_had_of_a_large_layer_is_not_fetched_again(store: ImageStore, server: FaultServer) -> None:
    made, served = served_big(server)
    path, blob = served.paths()[1], served.blobs[1]
    half = len(blob) // 2
    server.each(path, cut(blob, half), status(500))
    with pytest.raises(Unavailable):
        pull_it(store, server, settings=PATIENT._replace(retry_time=0.2))
    (partial,) = blobs_directory(store.root).iterdir()
    have = partial.stat().st_size
    assert partial.read_bytes() == blob[:have]
    assert have > half // 2
    server.requests.clear()
    server.on(path, whole(blob))
    check_pulled(store, made, pull_it(ImageStore.open(store.root.path), server))
    assert [seen.headers["range"] for seen in server.of(path)] == [f"bytes={have}-"]


@pytest.mark.parametrize("length", [1000, -1, 5], ids=["a prefix", "all of it", "more than it"])
def test_a_wrong_beginning_on_disk_is_thrown_away(store: ImageStore, server: FaultServer, length: int) -> None:
    made, served = served_big(server)
    blob = served.blobs[1]
    with store.root.writing():
        blobs_directory(store.root).mkdir()
    size = {1000: 1000, -1: len(blob), 5: len(blob) + 5}[length]
    (blobs_directory(store.root) / f"{digest(blob)[7:]}.partial").write_bytes(os.urandom(size))
    check_pulled(store, made, pull_it(store, server))


def test_all_of_a_blob_on_disk_is_not_fetched(store: ImageStore, server: FaultServer) -> None:
    made, served = served_big(server)
    with store.root.writing():
        blobs_directory(store.root).mkdir()
    (blobs_directory(store.root) / f"{digest(served.blobs[1])[7:]}.partial").write_bytes(served.blobs[1])
    check_pulled(store, made, pull_it(store, server))
    assert not server.of(served.paths()[1])


def test_prune_takes_what_nobody_fetches_and_leaves_what_somebody_does(store: ImageStore) -> None:
    from lamella.transports.blobs import open_partial

    with store.root.writing():
        pass
    one, two = Digest(digest(b"1")), Digest(digest(b"2"))
    for wanted in (one, two):
        partial = open_partial(store.root, wanted, stopped=lambda: False)
        os.write(partial.fd, bytes(8192))
        partial.close()
    busy = open_partial(store.root, one, stopped=lambda: False)
    assert prune_blobs(store.root) == 8192
    assert os.listdir(blobs_directory(store.root)) == [f"{one[7:]}.partial"]
    busy.close()
    assert prune_blobs(store.root) == 8192
    assert os.listdir(blobs_directory(store.root)) == []


def test_many_processes_fetch_every_blob_once(store_root: Path, server: FaultServer) -> None:
    made, served = served_big(server)
    children = []
    for _ in range(4):
        pid = os.fork()
        if not pid:
            code = 1
            try:
                signal.alarm(60)
                pull_it(ImageStore.open(store_root), server)
                code = 0
            finally:
                os._exit(code)
        children.append(pid)
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children] == [0] * 4
    store = ImageStore.open(store_root)
    check_pulled(store, made, Pulled(made.id, Digest(""), parse_reference("a"), fresh=True))  # type: ignore[arg-type]
    assert [len(server.of(path)) for path in served.paths()] == [1, 1, 1]


def test_an_interrupt_is_over_soon_and_leaves_nothing_but_the_beginning(store: ImageStore, server: FaultServer) -> None:
    made, served = served_big(server)
    blob = served.blobs[1]

    def stall(exchange: Exchange) -> None:
        exchange.answer(200, blob[: len(blob) // 2], content_length=str(len(blob)))
        exchange.wfile.flush()
        os.kill(os.getpid(), signal.SIGINT)
        exchange.server.stop_stalling.wait(20)  # type: ignore[attr-defined]

    import threading

    server.stop_stalling = threading.Event()  # type: ignore[attr-defined]
    server.on(served.paths()[1], stall)
    with pytest.raises(KeyboardInterrupt):
        pull_it(store, server, settings=PATIENT._replace(stall_time=30))
    server.stop_stalling.set()  # type: ignore[attr-defined]
    assert leaks(store.root.path) == []
    assert store.tags.read() == {}
    server.on(served.paths()[1], whole(blob))
    check_pulled(store, made, pull_it(ImageStore.open(store.root.path), server))


def test_reading_of_a_feed_ends_with_what_ended_the_fetching() -> None:
    from lamella.transports.blobs import Feed

    feed = Feed()
    feed.put(b"abc")
    assert feed.read(2) == b"ab"
    feed.finish(DataLoss("broken off"))
    with pytest.raises(DataLoss, match="broken off"):
        feed.read(2)
    whole_feed = Feed()
    whole_feed.put(memoryview(b"abcdef"))
    whole_feed.finish()
    assert io.BufferedReader(whole_feed).read() == b"abcdef"

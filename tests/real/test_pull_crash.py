"""Pulls killed at random instants: the store opens, the next pull completes, and no file is left that no layer owns.

``LAMELLA_KILLS`` sets how many (20 if unset).
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Generator
from pathlib import Path

import pytest

from lamella.drivers.probe import _overlay, _workshop
from lamella.linux.mount import mounted
from lamella.linux.mountinfo import is_mounted
from lamella.store.imagestore import ImageStore
from lamella.transports.blobs import blobs_directory
from lamella.transports.pulling import SMALL
from tests.support.archives import Made, digest, image, layer_tar, leaks
from tests.support.cli import LAMELLA, Lamella
from tests.support.registry import RealRegistry
from tests.support.served import manifest_of

KILLS = int(os.environ.get("LAMELLA_KILLS", "20"))


@pytest.fixture(scope="module")
def registry() -> Generator[RealRegistry]:
    with RealRegistry() as running:
        yield running


def ten_layers() -> Made:
    """Eight layers of small files, two too large to be kept in memory."""
    random_bytes = random.Random(7).randbytes
    small = [layer_tar({f"d{n}/f{m}": random_bytes(600) for m in range(150)}) for n in range(8)]
    large = [layer_tar({f"big{n}": random_bytes(SMALL + (8 << 20))}) for n in range(2)]
    return image([large[0], *small[:4], large[1], *small[4:]])


@pytest.fixture(scope="module")
def served(registry: RealRegistry) -> Made:
    """Put the image into the registry, past lamella."""
    import http.client

    from tests.support.registry import put_blob

    made = ten_layers()
    for blob in (made.config, *made.layers):
        put_blob(registry.host, "ten", blob)
    manifest, kind = manifest_of(made.config, made.layers, suffix="")
    connection = http.client.HTTPConnection(registry.host)
    connection.request("PUT", "/v2/ten/manifests/1", manifest, {"Content-Type": kind})
    assert connection.getresponse().status == 201
    connection.close()
    return made


def check_whole(root: Path, made: Made, name: str) -> None:
    store = ImageStore.open(root)
    assert store.tags.read()[name] == made.id
    stack = store.layers.stack(store.images.get(made.id).top)  # type: ignore[arg-type]
    assert [layer.diff_id for layer in stack] == [digest(layer) for layer in made.layers]
    for layer in stack:
        store.layers.reassemble(layer, lambda _: None)


def test_killed_at_random_instants(registry: RealRegistry, served: Made, tmp_path: Path) -> None:
    name = f"{registry.host}/ten:1"
    lamella = Lamella(tmp_path / "timed")
    start = time.monotonic()
    lamella.run("pull", name)
    lasting = time.monotonic() - start
    check_whole(lamella.root, served, name)
    ended = {"before": 0, "after": 0}
    for _ in range(KILLS):
        lamella = Lamella(tmp_path / "root")
        subprocess.run(["rm", "-rf", lamella.root], check=True)
        process = subprocess.Popen(
            [LAMELLA, "--root", lamella.root, "pull", name], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        time.sleep(random.uniform(0.05, lasting))
        process.send_signal(signal.SIGKILL)
        process.wait()
        directory = blobs_directory(ImageStore.open(lamella.root).root)
        listed = lamella.run("images", "-q")
        assert listed in ("", served.id[7:19])
        ended["after" if listed else "before"] += 1
        if listed:
            check_whole(lamella.root, served, name)
        lamella.run("pull", name)
        check_whole(lamella.root, served, name)
        assert leaks(lamella.root) == []
        assert not any(directory.iterdir())
        assert sorted(os.listdir(lamella.root)) == ["containers", "image", "lamella", "overlay2"]
    assert ended["before"]


def test_killed_while_it_tries_the_file_system_the_next_writer_clears_it(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    pid = os.fork()
    if not pid:
        with _workshop(root) as shop, mounted(_overlay(shop), shop / "merged", base=shop):
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    (left,) = os.listdir(root)
    assert is_mounted(root / left / "merged")
    with _workshop(root) as busy:
        Lamella(root).run("image", "prune", "-f")
        assert not (root / left).exists()
        assert sorted(os.listdir(busy)) == ["lower", "merged", "upper", "work"]
    assert leaks(root) == []


def test_killed_and_not_repeated_prune_clears_it(registry: RealRegistry, served: Made, tmp_path: Path) -> None:
    lamella = Lamella(tmp_path / "root")
    process = subprocess.Popen(
        [LAMELLA, "--root", lamella.root, "pull", f"{registry.host}/ten:1"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    directory = lamella.root / "lamella/blobs"
    deadline = time.monotonic() + 20
    while not (directory.exists() and any(directory.iterdir())):
        assert time.monotonic() < deadline
        time.sleep(0.001)
    process.kill()
    process.wait()
    lamella.run("image", "prune", "-f")
    assert leaks(lamella.root) == []
    assert not any(directory.iterdir())
    assert os.listdir(lamella.root / "overlay2/l") == []


def test_what_a_broken_pull_left_is_told_by_info_and_freed_by_prune(tmp_path: Path) -> None:
    lamella = Lamella(tmp_path / "root")
    lamella.run("image", "prune", "-f")
    directory = lamella.root / "lamella/blobs"
    directory.mkdir()
    for name in ("a", "b"):
        (directory / f"{name * 64}.partial").write_bytes(bytes(3_000_320))
    told = json.loads(lamella.run("info", "--format", "{{json .}}"))
    assert (told["PartialBlobs"], told["PartialBlobsSize"]) == (2, 2 * 3_002_368)
    assert lamella.run("image", "prune", "-f") == "Total reclaimed space: 6.005MB"
    assert lamella.run("info", "--format", "{{.PartialBlobs}} {{.PartialBlobsSize}}") == "0 0"
    assert os.listdir(directory) == []

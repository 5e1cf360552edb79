"""Who may read and write a data-root when: locks, a running dockerd, read-only file systems, transactions."""

from __future__ import annotations

import fcntl
import os
import subprocess
import threading
from pathlib import Path

import pytest

from lamella.errors import InUse, NotFound, PermissionDenied, Unavailable
from lamella.linux.locks import locked
from lamella.store import dockerd
from lamella.store.dataroot import DataRoot
from lamella.store.imagestore import ImageStore
from lamella.store.transactions import iter_dead, iter_intents, parse_intent
from lamella.transports.loading import load
from tests.support.archives import docker20, image, layer_tar, leaks, listing

BASE = layer_tar({"etc": None, "etc/motd": b"hello\n"})


@pytest.fixture
def store(store_root: Path) -> ImageStore:
    return ImageStore.open(store_root)


def test_a_data_root_that_is_not_there_is_made_only_on_demand(store_root: Path) -> None:
    with pytest.raises(NotFound, match="data-root"):
        DataRoot.open(store_root, create=False)
    assert not store_root.exists()
    DataRoot.open(store_root)
    assert store_root.stat().st_mode & 0o7777 == 0o710
    assert os.listdir(store_root) == []


def test_a_running_dockerd_is_named_and_nothing_is_written(store: ImageStore, tmp_path: Path) -> None:
    archive = docker20(tmp_path / "a.tar", image([BASE], "x:1"))
    database = store.root.path / dockerd.DATABASE
    database.parent.mkdir()
    database.touch()
    holder = subprocess.Popen(["flock", "-x", "-n", "--close", str(database), "sleep", "60"])
    try:
        while dockerd.find_dockerd(store.root.path) is None:
            assert holder.poll() is None
        before = listing(store.root.path)
        with pytest.raises(InUse, match=rf"dockerd \(pid \d+\) is running on {store.root.path}; stop it first"):
            load(store, archive)
        assert dockerd.find_dockerd(store.root.path) == holder.pid
        assert listing(store.root.path) == before
        assert list(store.images.iter_images()) == []
    finally:
        holder.kill()
        holder.wait()
    load(store, archive)


def test_dockerd_is_kept_from_starting_while_a_transaction_runs(store: ImageStore) -> None:
    database = store.root.path / dockerd.DATABASE
    database.parent.mkdir()
    database.touch()
    fd = os.open(database, os.O_RDWR)
    with store.root.transaction("test"), pytest.raises(BlockingIOError):
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(fd)


def test_write_scopes_nest_and_exclude_other_processes(store: ImageStore) -> None:
    with store.root.writing(), store.root.writing(), store.root.reading():
        with pytest.raises(Unavailable), locked(store.root.lamella_dir / "lock", timeout=0):
            pass
    with locked(store.root.lamella_dir / "lock", timeout=0):
        with pytest.raises(Unavailable), store.root.writing(timeout=0):
            pass


def test_readers_share_and_a_writer_waits_for_them(store: ImageStore) -> None:
    with store.root.writing():
        pass
    other = DataRoot.open(store.root.path)
    with store.root.reading(), other.reading():
        with pytest.raises(Unavailable), DataRoot.open(store.root.path).writing(timeout=0):
            pass
    with store.root.reading(), pytest.raises(RuntimeError, match="inside a read scope"), store.root.writing():
        pass


def test_threads_of_one_process_write_one_after_another(store: ImageStore) -> None:
    inside: list[int] = []
    most: list[int] = []

    def work() -> None:
        for _ in range(20):
            with store.root.writing():
                inside.append(1)
                most.append(len(inside))
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) == 1


def test_a_read_only_file_system_can_be_read_and_nothing_else(store: ImageStore, tmp_path: Path) -> None:
    made = image([BASE], "x:1")
    load(store, docker20(tmp_path / "a.tar", made))
    view = tmp_path / "view"
    view.mkdir()
    subprocess.run(["mount", "--bind", store.root.path, view], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", view], check=True)
        frozen = ImageStore.open(view)
        with frozen.root.reading():
            assert [item.id for item in frozen.iter_usable()] == [made.id]
            assert frozen.resolve("x:1") == made.id
        with pytest.raises(PermissionDenied, match="read-only"), frozen.root.writing():
            pass
    finally:
        subprocess.run(["umount", view], check=True)


def test_an_intent_record_names_ids_before_they_are_used(store: ImageStore) -> None:
    with store.root.transaction("test", ids=2) as tx:
        used = [tx.new_cache_id() for _ in range(9)]
        (intent,) = iter_intents(store.root.tx_dir)
        assert set(used) <= set(intent.ids)
        assert intent.kind == "test"
        assert intent.pid == os.getpid()
        assert list(iter_dead(store.root.tx_dir)) == []
    assert leaks(store.root.path) == []


def test_a_torn_record_is_read_as_far_as_it_goes() -> None:
    intent = parse_intent(b'{"kind":"load","ids":["a"]}\n{"chain":"c"}\n\x00{"ids":["b"]}\n{"chai')
    assert (intent.kind, intent.ids, intent.chains) == ("load", ["a"], ["c"])


def test_a_failed_transaction_leaves_nothing_and_keeps_its_error(store: ImageStore) -> None:
    def fail() -> None:
        with store.root.transaction("test") as tx:
            store.root.driver.create(tx.new_cache_id(), None)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert leaks(store.root.path) == []


def test_orphans_that_dockerd_left_are_not_touched(store: ImageStore) -> None:
    with store.root.writing():
        pass
    orphan = store.root.path / "overlay2" / ("a" * 64) / "diff"
    orphan.mkdir(parents=True)
    write_set = store.root.layerdb_dir / "tmp/write-set-123"
    write_set.mkdir()
    with ImageStore.open(store.root.path).root.writing():
        pass
    assert orphan.exists()
    assert write_set.exists()

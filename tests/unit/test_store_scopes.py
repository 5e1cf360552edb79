"""Who may read and write a data-root when: locks, a running dockerd, read-only file systems, transactions."""

from __future__ import annotations

import fcntl
import os
import subprocess
import threading
import time
from pathlib import Path

import pytest

from lamella.errors import Conflict, InUse, NotFound, PermissionDenied, Unavailable
from lamella.linux import libc
from lamella.linux.locks import locked
from lamella.linux.mount import Mount, mounted
from lamella.model.digest import ImageID
from lamella.model.reference import parse_tagged
from lamella.store import dockerd
from lamella.store.dataroot import DataRoot
from lamella.store.imagestore import ImageStore
from lamella.store.transactions import Transaction, iter_dead, iter_intents, parse_intent
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
    holder = subprocess.Popen(["flock", "-x", "--close", str(database), "sleep", "60"])
    try:
        while dockerd.find_dockerd(store.root.path) is None:
            assert holder.poll() is None
            time.sleep(0.01)
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
            assert [head.id for head in frozen.iter_heads(frozen.layers.sizes())] == [made.id]
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


def test_a_record_that_ends_well_while_it_is_looked_at_is_nobodys(
    store: ImageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    with store.root.writing():
        pass
    record = store.root.tx_dir / "0.json"
    record.write_bytes(b'{"kind":"load"}\n')
    real = fcntl.flock

    def ends_meanwhile(fd: int, operation: int) -> None:
        real(fd, operation)
        record.unlink(missing_ok=True)

    monkeypatch.setattr(fcntl, "flock", ends_meanwhile)
    assert list(iter_dead(store.root.tx_dir)) == []


def died_after_commit(store: ImageStore, tags: dict[str, ImageID]) -> None:
    """Do what a process killed between setting its references and removing its record leaves."""
    with store.root.writing():
        tx = Transaction(store.root.tx_dir, "load")
    store.commit(tx, tags)
    tx.close(remove=False)


def test_what_a_dead_process_decided_does_not_undo_what_was_done_after_it(store: ImageStore, tmp_path: Path) -> None:
    first, second = image([BASE], "x:1"), image([layer_tar({"new": b""})], "y:1")
    load(store, docker20(tmp_path / "a.tar", first, second))
    died_after_commit(ImageStore.open(store.root.path), {"x:1": ImageID(first.id)})  # type: ignore[arg-type]
    store.tags.set(parse_tagged("x:1"), ImageID(second.id))  # type: ignore[arg-type]
    with ImageStore.open(store.root.path).root.writing():
        pass
    assert store.tags.find(parse_tagged("x:1")) == second.id
    assert os.listdir(store.root.tx_dir) == []


def test_what_was_decided_is_not_done_for_an_image_that_dockerd_removed(store: ImageStore, tmp_path: Path) -> None:
    made = image([BASE], "x:1")
    load(store, docker20(tmp_path / "a.tar", made))
    store.tags.remove(parse_tagged("x:1"))
    with store.root.writing():
        tx = Transaction(store.root.tx_dir, "load")
    tx.commit({"x:1": ImageID(made.id)})  # type: ignore[arg-type]
    tx.close(remove=False)
    (store.images.content / made.id[7:]).unlink()
    with ImageStore.open(store.root.path).root.writing():
        pass
    assert store.tags.read() == {}


def test_references_are_not_set_on_an_image_that_another_process_removed(store: ImageStore, tmp_path: Path) -> None:
    made = image([BASE], "x:1")
    load(store, docker20(tmp_path / "a.tar", made))

    def load_while_another_removes() -> None:
        with store.root.transaction("load") as tx:
            store.images.put(made.config, tx=tx)
            other = ImageStore.open(store.root.path)
            other.tags.remove(parse_tagged("x:1"))
            other.delete_image(ImageID(made.id))  # type: ignore[arg-type]
            store.commit(tx, {"x:1": ImageID(made.id)})  # type: ignore[arg-type]

    with pytest.raises(Conflict, match="removed by another process"):
        load_while_another_removes()
    assert store.tags.read() == {}
    assert leaks(store.root.path) == []


def test_images_stay_where_the_references_cannot_be_read(store: ImageStore, tmp_path: Path) -> None:
    made = image([BASE], "x:1")
    load(store, docker20(tmp_path / "a.tar", made))
    with store.root.writing():
        tx = Transaction(store.root.tx_dir, "load")
    tx.note("image", made.id)
    tx.close(remove=False)
    store.root.repositories_path.write_bytes(b"{")
    with ImageStore.open(store.root.path).root.writing():
        pass
    assert store.images.get(ImageID(made.id)).id == made.id  # type: ignore[arg-type]


def test_the_mark_of_a_writer_that_died_stays_for_the_next_process(store: ImageStore) -> None:
    with store.root.writing():
        pass
    draft = store.images.metadata / ("a" * 64) / ".tmp-parent123"
    draft.parent.mkdir()
    draft.touch()
    (store.root.lamella_dir / "unclean").touch()
    with store.root.writing():
        pass
    with ImageStore.open(store.root.path).root.writing():
        pass
    assert not draft.exists()
    assert not (store.root.lamella_dir / "unclean").exists()


def test_one_piece_of_late_work_that_fails_does_not_keep_the_others_from_being_done(store: ImageStore) -> None:
    done: list[int] = []

    def fail() -> None:
        raise ZeroDivisionError

    def change() -> None:
        with store.root.writing():
            for work in (lambda: done.append(1), fail, lambda: done.append(2)):
                store.root.afterwards(work)

    with pytest.raises(ZeroDivisionError):
        change()
    assert done == [1, 2]


def test_all_file_systems_of_a_data_root_are_synced(store: ImageStore, monkeypatch: pytest.MonkeyPatch) -> None:
    with store.root.writing():
        pass
    (store.root.path / "overlay2").mkdir()
    synced: set[int] = set()
    monkeypatch.setattr(libc, "syncfs", lambda fd: synced.add(os.fstat(fd).st_dev))
    store.root.sync()
    assert synced == {store.root.path.stat().st_dev}
    with mounted(Mount("tmpfs", "tmpfs"), store.root.path / "overlay2"):
        store.root.sync()
        assert synced == {store.root.path.stat().st_dev, (store.root.path / "overlay2").stat().st_dev}

"""Layers on a real overlay: shared ones, writable ones, the init layer, and what removal leaves."""

from __future__ import annotations

import io
import os
import stat
import subprocess
from pathlib import Path, PosixPath

import pytest

from lamella.errors import InUse, InvalidArgument, LamellaError, NotFound, Unavailable
from lamella.linux.mount import Mount, mounted
from lamella.model.digest import EMPTY_LAYER, DiffID, ImageID, chain_id
from lamella.model.ids import ContainerID, new_container_id
from lamella.store.containerdb import ContainerRecord, new_record
from lamella.store.dataroot import DataRoot
from lamella.store.imagestore import ImageStore
from lamella.store.initlayer import fill_init_layer
from lamella.store.layers import LayerStore
from lamella.store.transactions import Transaction
from lamella.transports.loading import load
from tests.support.archives import Made, digest, docker20, image, layer_tar, leaks, listing, packed_gzip

BASE = layer_tar({"etc": None, "etc/motd": b"hello\n", "bin": None, "bin/sh": b"#!\n"})
NEXT = layer_tar({"new": b"more\n"})
OTHER = layer_tar({"other": b"other\n"})


@pytest.fixture
def store(store_root: Path) -> ImageStore:
    return ImageStore.open(store_root)


@pytest.fixture
def made(store: ImageStore, tmp_path: Path) -> Made:
    made = image([BASE, NEXT], "x:1")
    load(store, docker20(tmp_path / "x.tar", made))
    return made


def top_of(store: ImageStore, made: Made) -> str:
    return store.images.get(ImageID(made.id)).top  # type: ignore[arg-type, return-value]


def tree(path: Path) -> dict[str, tuple[str, int, str]]:
    found = {}
    for directory, names, files in os.walk(path):
        for name in names + files:
            item = Path(directory, name)
            at = item.lstat()
            text = os.readlink(item) if stat.S_ISLNK(at.st_mode) else ""
            found[str(item.relative_to(path))] = (stat.filemode(at.st_mode), at.st_size if text == "" else 0, text)
    return found


def test_images_share_layers_and_removal_keeps_what_is_shared(store: ImageStore, made: Made, tmp_path: Path) -> None:
    other = image([BASE, OTHER], "y:1")
    load(store, docker20(tmp_path / "y.tar", other))
    assert len(list(store.layers.iter_layers())) == 3
    assert len(os.listdir(store.root.path / "overlay2")) == 4
    gone = store.delete_image(ImageID(made.id))  # type: ignore[arg-type]
    assert gone == [chain_id(DiffID(digest(BASE)), DiffID(digest(NEXT)))]  # type: ignore[arg-type]
    assert len(store.layers.stack(top_of(store, other))) == 2  # type: ignore[arg-type]
    assert leaks(store.root.path) == []
    assert store.delete_image(ImageID(other.id))  # type: ignore[arg-type]
    assert sorted(os.listdir(store.root.path / "overlay2")) == ["l"]
    assert os.listdir(store.root.path / "overlay2/l") == []
    assert leaks(store.root.path) == []


def test_a_layer_is_registered_once_however_it_is_packed(store: ImageStore, made: Made) -> None:
    with store.root.transaction("test") as tx:
        first = store.layers.register(io.BytesIO(packed_gzip(BASE)), None, tx=tx)
        second = store.layers.register(io.BytesIO(b"never read"), None, tx=tx, expected=first.diff_id)
        assert first == second == store.layers.get(first.chain_id)
    assert len(list(store.layers.iter_layers())) == 2
    assert leaks(store.root.path) == []


def test_layers_of_one_operation_are_published_together(store: ImageStore) -> None:
    with store.root.transaction("test") as tx:
        base = store.layers.register(io.BytesIO(BASE), None, tx=tx)
        top = store.layers.register(io.BytesIO(NEXT), base.chain_id, tx=tx)
        assert not store.layers.db.exists(base.chain_id)
        assert store.layers.stack(top.chain_id) == [base, top]
        assert ImageStore.open(store.root.path).layers.find(base.chain_id) is None
        tx.flush()
        assert ImageStore.open(store.root.path).layers.stack(top.chain_id) == [base, top]
        assert store.removal.release_unused([top.chain_id]) == []  # the operation needs them
    assert list(store.layers.iter_layers()) == []  # and gives them up at its end
    assert leaks(store.root.path) == []


def test_the_126th_layer_is_refused(store: ImageStore) -> None:
    def stack_up() -> None:
        with store.root.transaction("test", ids=128) as tx:
            parent = None
            for number in range(126):
                parent = store.layers.register(io.BytesIO(layer_tar({f"f{number}": b""})), parent, tx=tx).chain_id

    with pytest.raises(InvalidArgument, match="max depth exceeded"):
        stack_up()
    assert leaks(store.root.path) == []
    assert list(store.layers.iter_layers()) == []


def test_a_container_of_125_layers_mounts(store: ImageStore) -> None:
    with store.root.transaction("test", ids=128) as tx:
        parent = None
        for number in range(125):
            parent = store.layers.register(io.BytesIO(layer_tar({f"f{number}": b""})), parent, tx=tx).chain_id
        rw = store.rwlayers.create(new_container_id(), parent, tx=tx, init=fill_init_layer)
        with store.rwlayers.mounted(rw) as merged:
            assert len([name for name in os.listdir(merged) if name.startswith("f")]) == 125
        store.rwlayers.remove(rw)


def test_a_shared_cache_id_never_costs_the_other_layer_its_files(store: ImageStore, made: Made, tmp_path: Path) -> None:
    other = image([OTHER], "y:1")
    load(store, docker20(tmp_path / "y.tar", other))
    victim = store.layers.stack(top_of(store, made))[0]  # type: ignore[arg-type]
    (store.layers.db.path(digest(OTHER)) / "cache-id").write_text(victim.cache_id)  # type: ignore[arg-type]
    store.delete_image(ImageID(other.id))  # type: ignore[arg-type]
    assert store.root.driver.exists(victim.cache_id)


def test_the_init_layer_is_dockers(store: ImageStore, made: Made) -> None:
    with store.root.transaction("create") as tx:
        owner = new_container_id()
        rw = store.rwlayers.create(owner, top_of(store, made), tx=tx, init=fill_init_layer)  # type: ignore[arg-type]
    assert rw.init_id == f"{rw.mount_id}-init"
    diff = store.root.path / "overlay2" / rw.init_id / "diff"
    assert tree(diff) == {
        ".dockerenv": ("-rwxr-xr-x", 0, ""),
        "dev": ("drwxr-xr-x", 4096, ""),
        "dev/console": ("-rwxr-xr-x", 0, ""),
        "dev/pts": ("drwxr-xr-x", 4096, ""),
        "dev/shm": ("drwxr-xr-x", 4096, ""),
        "etc": ("drwxr-xr-x", 4096, ""),
        "etc/hostname": ("-rwxr-xr-x", 0, ""),
        "etc/hosts": ("-rwxr-xr-x", 0, ""),
        "etc/mtab": ("lrwxrwxrwx", 0, "/proc/mounts"),
        "etc/resolv.conf": ("-rwxr-xr-x", 0, ""),
        "proc": ("drwxr-xr-x", 4096, ""),
        "sys": ("drwxr-xr-x", 4096, ""),
    }
    record = store.root.layerdb_dir / "mounts" / owner
    assert record.stat().st_mode & 0o7777 == 0o755
    assert {name: (record / name).read_text() for name in os.listdir(record)} == {
        "mount-id": rw.mount_id,
        "init-id": rw.init_id,
        "parent": top_of(store, made),
    }
    assert {(record / name).stat().st_mode & 0o7777 for name in os.listdir(record)} == {0o644}
    assert (store.root.path / "overlay2" / rw.init_id / "committed").exists()
    assert not (store.root.path / "overlay2" / rw.mount_id / "committed").exists()
    assert store.rwlayers.get(owner) == rw
    store.rwlayers.remove(rw)
    assert store.rwlayers.find(owner) is None
    with pytest.raises(NotFound):
        store.rwlayers.get(owner)
    assert leaks(store.root.path) == []


def test_an_image_full_of_links_cannot_send_the_init_layer_elsewhere(store: ImageStore, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    (canary / "pts").mkdir(parents=True)
    (canary / "hosts").write_text("mine")
    before = tree(canary)
    hostile = layer_tar({
        "etc": str(canary),
        "dev": None,
        "dev/pts": str(canary / "pts"),
        "dev/console": str(canary / "hosts"),
        "proc": "/",
        "sys": b"a file",
        ".dockerenv": None,
    })  # fmt: skip
    made = image([hostile])
    load(store, docker20(tmp_path / "h.tar", made))
    with store.root.transaction("create") as tx:
        rw = store.rwlayers.create(new_container_id(), top_of(store, made), tx=tx, init=fill_init_layer)  # type: ignore[arg-type]
        with store.rwlayers.mounted(rw) as merged:
            found = tree(merged)
            assert found["etc"][0] == "drwxr-xr-x"
            assert found["etc/hosts"] == ("-rwxr-xr-x", 0, "")
            assert found["dev/pts"][0] == "drwxr-xr-x"
            assert found["dev/console"][0] == "-rwxr-xr-x"
            assert found["proc"][0] == found["sys"][0] == "drwxr-xr-x"
            assert found[".dockerenv"][0] == "drwxr-xr-x"
        store.rwlayers.remove(rw)
    assert tree(canary) == before
    assert (canary / "hosts").read_text() == "mine"


def test_a_writable_layer_becomes_a_layer_without_its_init_layer(store: ImageStore, made: Made) -> None:
    top = top_of(store, made)
    with store.root.transaction("build") as tx:
        owner = new_container_id()
        rw = store.rwlayers.create(owner, top, tx=tx, init=fill_init_layer)  # type: ignore[arg-type]
        with store.rwlayers.mounted(rw) as merged:
            (merged / "made").write_text("here\n")
            (merged / "etc/motd").unlink()
        inode = (store.root.path / "overlay2" / rw.mount_id / "diff/made").stat().st_ino
        layer = store.layers.capture(rw, top, tx)  # type: ignore[arg-type]
        store.rwlayers.remove(rw)
    diff = store.root.path / "overlay2" / layer.cache_id / "diff"
    assert (diff / "made").stat().st_ino == inode  # nothing was copied
    assert sorted(os.listdir(diff)) == ["etc", "made"]
    assert os.listdir(diff / "etc") == ["motd"]
    out = bytearray()
    store.layers.reassemble(store.layers.get(layer.chain_id), out.extend)
    assert digest(bytes(out)) == layer.diff_id
    assert layer.size == 5
    assert leaks(store.root.path) == []
    assert store.removal.release_unused([layer.chain_id]) == [layer.chain_id]


def test_what_a_container_holds_is_copied_into_a_layer_while_it_lives(store: ImageStore, made: Made) -> None:
    top = top_of(store, made)
    with store.root.transaction("commit", ids=4) as tx:
        rw = store.rwlayers.create(new_container_id(), top, tx=tx, init=fill_init_layer)  # type: ignore[arg-type]
        with store.rwlayers.mounted(rw) as merged:
            (merged / "made").write_text("here\n")
            layer = store.layers.copy(rw, top, tx)  # type: ignore[arg-type]
            assert (merged / "made").read_text() == "here\n"
        assert [change.path for change in store.rwlayers.changes(rw)] in ([b"made"], [b"/made"])
        assert store.rwlayers.size(rw) == 5
        store.rwlayers.remove(rw)
    with store.root.driver.mounted_read_only(layer.cache_id) as view:
        assert sorted(os.listdir(view)) == ["bin", "etc", "made", "new"]
    assert leaks(store.root.path) == []


@pytest.mark.parametrize("how", [LayerStore.capture, LayerStore.copy])
def test_an_unchanged_container_makes_no_layer(store: ImageStore, made: Made, how: object) -> None:
    top = top_of(store, made)
    with store.root.transaction("commit") as tx:
        rw = store.rwlayers.create(new_container_id(), top, tx=tx, init=fill_init_layer)  # type: ignore[arg-type]
        layer = how(store.layers, rw, top, tx)  # type: ignore[operator]
        assert layer.diff_id == EMPTY_LAYER
        store.rwlayers.remove(rw)
    assert len(list(store.layers.iter_layers())) == 2
    assert leaks(store.root.path) == []


def test_the_same_change_made_twice_is_one_layer(store: ImageStore, made: Made) -> None:
    top = top_of(store, made)
    layers = []
    for _ in range(2):
        with store.root.transaction("build") as tx:
            rw = store.rwlayers.create(new_container_id(), top, tx=tx, recorded=False)  # type: ignore[arg-type]
            with store.rwlayers.mounted(rw) as merged:
                (merged / "made").write_text("here\n")
                os.utime(merged / "made", (1, 1))
            layers.append(store.layers.capture(rw, top, tx))  # type: ignore[arg-type]
            store.rwlayers.remove(rw)
    assert layers[0] == layers[1]
    assert leaks(store.root.path) == []


def test_a_mounted_writable_layer_is_not_removed(store: ImageStore, made: Made) -> None:
    with store.root.transaction("create") as tx:
        rw = store.rwlayers.create(new_container_id(), top_of(store, made), tx=tx)  # type: ignore[arg-type]
        with store.rwlayers.mounted(rw), pytest.raises(InUse):
            store.rwlayers.remove(rw)
        assert store.rwlayers.find(rw.owner) == rw
        store.rwlayers.remove(rw)
    assert leaks(store.root.path) == []


def test_a_container_keeps_its_image_layers(store: ImageStore, made: Made) -> None:
    top = top_of(store, made)
    with store.root.transaction("create") as tx:
        rw = store.rwlayers.create(new_container_id(), top, tx=tx)  # type: ignore[arg-type]
    assert store.delete_image(ImageID(made.id)) == []  # type: ignore[arg-type]
    assert len(store.layers.stack(top)) == 2  # type: ignore[arg-type]
    store.rwlayers.remove(rw)
    assert len(store.removal.release_unused([top])) == 2  # type: ignore[list-item]
    assert leaks(store.root.path) == []


def test_removing_a_container_takes_the_layers_of_an_image_that_went_before(store: ImageStore, made: Made) -> None:
    owner = new_container_id()
    with store.root.transaction("create") as tx:
        rw = store.rwlayers.create(owner, top_of(store, made), tx=tx, init=fill_init_layer)  # type: ignore[arg-type]
        store.containers.write(record_of(owner, made))
    store.delete_image(ImageID(made.id))  # type: ignore[arg-type]
    with store.rwlayers.mounted(rw), pytest.raises(InUse):
        store.delete_container(owner)
    assert store.containers.get(owner).name == "one"
    assert store.rwlayers.get(owner) == rw
    store.delete_container(owner)
    assert list(store.layers.iter_layers()) == []
    assert leaks(store.root.path) == []
    with pytest.raises(NotFound):
        store.delete_container(owner)


def test_what_a_running_operation_needs_goes_when_it_ends(store: ImageStore, made: Made) -> None:
    other = ImageStore.open(store.root.path)
    with store.root.transaction("scratch", ids=1) as tx:
        rw = store.rwlayers.create(new_container_id(), top_of(store, made), tx=tx, recorded=False)  # type: ignore[arg-type]
        with store.rwlayers.mounted(rw) as merged:
            assert other.delete_image(ImageID(made.id)) == []  # type: ignore[arg-type]
            assert (merged / "new").read_text() == "more\n"
        store.rwlayers.remove(rw)
    assert list(store.layers.iter_layers()) == []
    assert leaks(store.root.path) == []


def test_a_kill_while_deferred_removals_are_looked_at_loses_none(
    store: ImageStore, made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Doomed(PosixPath):
        def unlink(self, missing_ok: bool = False) -> None:  # type: ignore[explicit-override]
            super().unlink(missing_ok)
            raise SystemExit(137)

    def end(root: DataRoot, tx: Transaction, _: BaseException) -> None:
        root.transactions.remove(tx)
        tx.close(remove=False)

    with monkeypatch.context() as patch, pytest.raises(SystemExit):  # noqa: PT012 — raised by the scope's end
        with store.root.transaction("test") as tx:
            store.layers.lease(top_of(store, made), tx)  # type: ignore[arg-type]
            assert store.delete_image(ImageID(made.id)) == []  # type: ignore[arg-type]
            patch.setattr(store.removal, "_deferred", Doomed(store.root.lamella_dir / "deferred"))
            patch.setattr(DataRoot, "_abandon", end)
    with ImageStore.open(store.root.path).root.writing():
        pass
    assert list(store.layers.iter_layers()) == []
    assert leaks(store.root.path) == []


def test_a_refused_removal_is_not_done_later_because_its_process_was_killed(store: ImageStore, made: Made) -> None:
    with store.root.transaction("test") as tx:
        rw = store.rwlayers.create(new_container_id(), top_of(store, made), tx=tx)  # type: ignore[arg-type]
    store.rwlayers.mount(rw, "holder")
    with store.root.writing():
        killed = Transaction(store.root.tx_dir, "discard", ids=0)
    with pytest.raises(InUse):
        store.rwlayers.remove(rw, tx=killed)
    killed.close(remove=False)
    with ImageStore.open(store.root.path).root.writing():
        pass
    store.rwlayers.unmount(rw, "holder")
    with ImageStore.open(store.root.path).root.writing():
        pass
    assert store.rwlayers.find(rw.owner) == rw
    assert store.root.driver.exists(rw.mount_id)
    assert os.listdir(store.root.tx_dir) == []


def test_an_archive_is_not_unpacked_into_the_last_of_the_space(tmp_path: Path) -> None:
    with mounted(Mount("tmpfs", "tmpfs", ("size=2m",)), tmp_path):
        store = ImageStore.open(tmp_path / "root", driver="vfs")
        (tmp_path / "filler").write_bytes(bytes(2_000_000))
        with pytest.raises(Unavailable, match="nearly full"):
            load(store, io.BytesIO(packed_gzip(bytes(1 << 20))))
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_the_store_as_it_was(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", disk], check=True)
    try:
        store = ImageStore.open(disk / "data-root")
        load(store, docker20(tmp_path / "small.tar", image([BASE], "x:1")))
        big = image([BASE, layer_tar({f"f{n}": os.urandom(100_000) for n in range(60)})], "x:1")
        before = listing(store.root.path)
        with pytest.raises((OSError, LamellaError)):
            load(store, docker20(tmp_path / "big.tar", big))
        assert listing(store.root.path) == before
        assert leaks(store.root.path) == []
        load(store, docker20(tmp_path / "again.tar", image([BASE, NEXT], "x:1")))
    finally:
        subprocess.run(["umount", "--recursive", disk], check=True)


def record_of(owner: ContainerID, made: Made) -> ContainerRecord:
    return new_record(
        owner,
        name="one",
        created="2024-01-02T03:04:05Z",
        path="/bin/sh",
        args=[],
        settings={},
        image=made.id,
        host_config={},
        driver="overlay2",
    )

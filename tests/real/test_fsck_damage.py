"""Damage of many kinds, one at a time, to a store that dockerd and lamella wrote: each is found, and mended."""

from __future__ import annotations

import contextlib
import subprocess
import threading
import time
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from lamella.engine.keeping import list_quarantine, reclaim_store, undo
from lamella.engine.registries import Registries, connected
from lamella.errors import InUse, NotFound, Unavailable
from lamella.insight.findings import CODES, Severity
from lamella.insight.fsck import Report, check_store
from lamella.insight.heal import Healed, heal_store
from lamella.insight.sources import Registry
from lamella.model.reference import Reference
from tests.support import faults
from tests.support.archives import docker20, image, layer_tar, listing
from tests.support.checkedstores import CheckedStore, copy_store, make_store
from tests.support.cli import Lamella
from tests.support.damage import CASES, NOTES, Damage, Note, Place, remove
from tests.support.dockerd import Dockerd
from tests.support.engines import unmount_below
from tests.support.registry import RealRegistry

pytestmark = pytest.mark.xdist_group("fsck-damage")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, base_tar: Path) -> Generator[CheckedStore]:
    place = tmp_path_factory.mktemp("checked")
    with RealRegistry(place / "registry") as registry:
        yield make_store(place, base_tar, registry)


@contextlib.contextmanager
def connect(reference: Reference) -> Iterator[Registry]:
    with connected(reference, Registries()) as client:
        yield client


def told(report: Report) -> list[str]:
    return [f"{item.severity} {item.code} {item.path}: {item.text}" for item in report.findings
            if item.severity is not Severity.NOTE]  # fmt: skip


def test_the_store_is_sound_to_the_last_byte(store: CheckedStore) -> None:
    assert told(check_store(store.root, deep=True)) == []


@pytest.mark.parametrize("damage", CASES, ids=lambda damage: damage.name)
def test_damage_is_found_and_mended(store: CheckedStore, tmp_path: Path, damage: Damage) -> None:
    root = copy_store(store.root, tmp_path / "root")
    damage.inflict(Place(root, store))
    report = check_store(root, deep=damage.deep, processes=1)
    assert damage.codes & {finding.code for finding in report.findings}, told(report)
    assert not report.sound
    healed = heal_store(root, deep=damage.deep, connect=connect, processes=1)
    after = check_store(root, deep=True, processes=1)
    if damage.left:
        assert told(after) != []
        assert any(step.failure for step in healed.steps)
        if not damage.set_aside:
            return
        heal_store(root, deep=True, connect=connect, set_aside=True, processes=1)
        after = check_store(root, deep=True, processes=1)
    assert told(after) == [], healed.steps


@pytest.mark.parametrize("note", NOTES, ids=lambda note: note.name)
def test_what_does_no_harm_is_noted_and_no_stranger_is_touched(store: CheckedStore, tmp_path: Path, note: Note) -> None:
    root = copy_store(store.root, tmp_path / "root")
    place = note.leave(Place(root, store))
    report = check_store(root, processes=1)
    assert [(item.code, item.path, item.severity) for item in report.findings] == [
        (note.code, str(place), Severity.NOTE)
    ]
    assert report.sound
    heal_store(root, connect=connect, processes=1)
    assert place.exists() == note.stays
    assert [item.code for item in check_store(root, processes=1).findings] == [note.code] * note.stays


def test_a_layer_that_the_file_system_cannot_read_is_told(tmp_path: Path, base_tar: Path) -> None:
    disk, place = tmp_path / "disk", tmp_path / "mounted"
    place.mkdir()
    with disk.open("wb") as file:
        file.truncate(64 << 20)
    subprocess.run(["mkfs.ext4", "-q", disk], check=True)
    made = image([layer_tar({"etc": None, "etc/motd": b"hello\n", "etc/issue": b"issue\n"})], "made:1")
    docker20(tmp_path / "made.tar", made)
    try:
        subprocess.run(["mount", "-o", "loop", disk, place], check=True)
        lamella = Lamella(place / "root")
        lamella.run("load", "-q", "-i", str(tmp_path / "made.tar"))
        [victim] = (place / "root").glob("overlay2/*/diff/etc/motd")
        subprocess.run(["umount", place], check=True)
        lost = f"clri /{victim.relative_to(place)}"
        subprocess.run(["debugfs", "-w", "-R", lost, disk], check=True, capture_output=True)
        subprocess.run(["mount", "-o", "loop", disk, place], check=True)
        [finding] = check_store(place / "root").findings
        assert finding.code == "layer-unreadable"
        assert finding.path == str(victim)
        assert "etc/motd cannot be read: Structure needs cleaning" in finding.text
    finally:
        unmount_below(place)


BY_NAME = {damage.name: damage for damage in CASES}


@pytest.mark.parametrize(
    "name",
    [
        "remove diff of a layer of one",
        "delete a file",
        "remove the record of a layer of one",
        "delete lower of app:1",
        "a file has another mode",
        "truncate config.v2.json",
        "remove an init layer",
        "zero repositories.json",
        "flip the config of a built image",
        "a pull that was killed",
    ],
)
def test_a_mending_that_is_killed_is_gone_on_with(store: CheckedStore, tmp_path: Path, name: str) -> None:
    start, root = copy_store(store.root, tmp_path / "start"), tmp_path / "root"
    BY_NAME[name].inflict(Place(start, store))

    def mend() -> None:
        heal_store(root, connect=connect, processes=1)

    copy_store(start, root)
    total = faults.count_changes(mend, tmp_path / "count")
    assert total > 3
    images = image_names(root)
    step = max(1, total // 12)
    for point in range(1, total + 1, step):
        copy_store(start, root)
        assert faults.run(mend, die_at=point) in (0, faults.KILLED)
        mend()
        assert told(check_store(root, deep=True, processes=1)) == [], f"killed at point {point} of {total}"
        assert image_names(root) == images


@pytest.mark.parametrize("name", ["flip config of one", "truncate repositories.json", "truncate config.v2.json"])
def test_a_kill_while_a_file_is_replaced_leaves_the_old_one_or_the_new(
    store: CheckedStore, tmp_path: Path, name: str
) -> None:
    start, root = copy_store(store.root, tmp_path / "start"), tmp_path / "root"
    BY_NAME[name].inflict(Place(start, store))

    def mend() -> None:
        heal_store(root, connect=connect, processes=1)

    copy_store(start, root)
    total = faults.count_changes(mend, tmp_path / "count")
    mend()
    wanted = seen(root)
    for point in range(1, total + 1, 3):
        copy_store(start, root)
        assert faults.run(mend, die_at=point) in (0, faults.KILLED)
        mend()
        assert told(check_store(root, processes=1)) == [], f"killed at point {point} of {total}"
        assert seen(root) == wanted, f"killed at point {point} of {total}"


def seen(root: Path) -> tuple[str, str]:
    lamella = Lamella(root)
    return (
        lamella.run("images", "-a", "--no-trunc", "--format", "{{.Repository}}:{{.Tag}} {{.ID}}"),
        lamella.run("ps", "-a", "--format", "{{.Names}} {{.Image}}"),
    )


def image_names(root: Path) -> list[str]:
    return sorted(path.name for path in (root / "image/overlay2/imagedb/content/sha256").iterdir())


def test_a_store_with_many_damages_is_mended_and_dockerd_opens_it(store: CheckedStore, tmp_path: Path) -> None:
    root = copy_store(store.root, tmp_path / "root")
    place = Place(root, store)
    for name in (
        "remove diff of a layer of one",
        "flip a bit of a file",
        "a deletion is gone",
        "delete cache-id of a built layer",
        "truncate parent note",
        "truncate repositories.json",
        "zero a note on a blob",
        "truncate hostconfig.json",
        "remove an init layer",
        "a record without NetworkSettings",
        "a pull that was killed",
        "a stack of orphans",
        "a removal that was not finished",
        "a draft of repositories.json",
        "all short names gone",
    ):
        BY_NAME[name].inflict(place)
    healed = heal_store(root, deep=True, connect=connect)
    assert [step for step in healed.steps if step.failure and step.code.startswith("container")] == []
    assert told(check_store(root, deep=True)) == []
    images = image_names(root)
    with Dockerd(root) as docker:
        listed = docker.run("images", "-a", "-q", "--no-trunc").split()
        assert sorted({image.removeprefix("sha256:") for image in listed}) == images
        for image in images:
            docker.run("save", "-o", str(tmp_path / "saved.tar"), image)
        names = docker.run("ps", "-a", "--format", "{{.Names}}").split()
        assert {"docker-ran", "writer", "of-two", "made-by-lamella", "ran-by-lamella"} <= set(names)
        assert docker.run("start", "-a", "docker-ran") == "x1"
        assert told(check_store(root, deep=True)) == []


def test_what_was_set_aside_comes_back(store: CheckedStore, tmp_path: Path) -> None:
    root = copy_store(store.root, tmp_path / "root")
    BY_NAME["a file is gone of an image that was built here"].inflict(Place(root, store))
    before = image_names(root)
    references = (root / "image/overlay2/repositories.json").read_bytes()
    healed = heal_store(root, set_aside=True)
    assert image_names(root) != before
    assert any(step.code == "layer-file-missing" and not step.failure for step in healed.steps)
    undo(root)
    assert image_names(root) == before
    assert (root / "image/overlay2/repositories.json").read_bytes() == references
    assert {finding.code for finding in check_store(root).findings} == {"layer-file-missing"}


def test_a_plan_changes_nothing(store: CheckedStore, tmp_path: Path) -> None:
    root = copy_store(store.root, tmp_path / "root")
    place = Place(root, store)
    for name in ("remove diff of a layer of one", "delete lower of app:1", "a pull that was killed"):
        BY_NAME[name].inflict(place)
    before = listing(root)
    healed = heal_store(root, dry_run=True, connect=connect)
    assert listing(root) == before
    assert len(healed.steps) >= 4
    assert all(step.text for step in healed.steps)
    assert any("fetch layer" in step.text for step in healed.steps)


def test_nothing_is_mended_while_a_dockerd_runs(store: CheckedStore, tmp_path: Path) -> None:
    root = copy_store(store.root, tmp_path / "root")
    BY_NAME["a pull that was killed"].inflict(Place(root, store))
    time.sleep(2.2)  # what is younger than the daemon may be its work in progress
    with Dockerd(root):
        with pytest.raises(InUse):
            heal_store(root)
        with pytest.raises(InUse):
            reclaim_store(root)
        assert {finding.code for finding in check_store(root).findings} >= {"directory-orphan"}


class Held:
    """A registry that waits in the middle of a layer until it is told to go on."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.go_on = threading.Event()

    @contextlib.contextmanager
    def __call__(self, reference: Reference) -> Iterator[Registry]:
        with connect(reference) as client:
            read = client.read_blob

            def read_blob(*arguments: Any, **keywords: Any) -> None:
                self.reached.set()
                assert self.go_on.wait(60)
                read(*arguments, **keywords)

            with mock.patch.object(client, "read_blob", read_blob):
                yield client


@contextlib.contextmanager
def fetching(root: Path) -> Iterator[Future[Healed]]:
    """Mend *root* in a thread, which waits in the middle of fetching a layer until the block is left."""
    held = Held()
    with ThreadPoolExecutor(1) as pool:
        healing = pool.submit(heal_store, root, connect=held, processes=1)
        try:
            assert held.reached.wait(60)
            yield healing
        finally:
            held.go_on.set()


def test_what_others_do_while_a_layer_is_fetched_does_not_undo_it(store: CheckedStore, tmp_path: Path) -> None:
    root = copy_store(store.root, tmp_path / "root")
    BY_NAME["remove diff of a layer of one"].inflict(Place(root, store))
    images = image_names(root)
    with fetching(root) as healing:
        with pytest.raises(InUse, match="mended already"):
            heal_store(root, connect=connect, processes=1)
        reclaim_store(root, now=True)
        assert list_quarantine(root) == []
        with pytest.raises(NotFound):
            undo(root)
    healed = healing.result()
    assert [step.code for step in healed.steps if not step.failure] == ["layer-directory-missing"]
    assert told(check_store(root, deep=True)) == []
    assert image_names(root) == images


def test_a_layer_that_was_removed_while_it_was_fetched_is_not_brought_back(store: CheckedStore, tmp_path: Path) -> None:
    root = copy_store(store.root, tmp_path / "root")
    place = Place(root, store)
    BY_NAME["remove diff of a layer of one"].inflict(place)
    record = place.record("one", 1)
    with fetching(root) as healing:
        Lamella(root).run("rmi", store.lamella_image)
    healing.result()
    assert not record.exists()
    assert told(check_store(root, deep=True)) == []


def test_what_was_mended_in_the_end_is_not_told_as_a_failure(store: CheckedStore, tmp_path: Path) -> None:
    root = copy_store(store.root, tmp_path / "root")
    BY_NAME["remove diff of a layer of one"].inflict(Place(root, store))
    healed = heal_store(root, connect=connect)
    assert [step for step in healed.steps if step.failure] == []


AGAIN = ["remove diff of a layer of one", "remove the directory of a layer of one", "remove the record of a layer of one",
         "flip config of two"]  # fmt: skip


@contextlib.contextmanager
def silence(reference: Reference) -> Iterator[Registry]:
    """A registry that does not answer."""
    raise Unavailable(f"{reference.domain}: connection refused")
    yield


@pytest.mark.parametrize("name", AGAIN)
def test_an_image_stays_while_its_registry_does_not_answer(store: CheckedStore, tmp_path: Path, name: str) -> None:
    root = copy_store(store.root, tmp_path / "root")
    BY_NAME[name].inflict(Place(root, store))
    images = image_names(root)
    healed = heal_store(root, connect=silence, processes=1)
    assert image_names(root) == images
    assert all("connection refused" in step.failure for step in healed.steps if step.failure)
    assert told(heal_store(root, connect=connect, processes=1).after) == []
    assert image_names(root) == images


@pytest.mark.parametrize("left", [0, 3 * 4096])
@pytest.mark.parametrize("name", AGAIN)
def test_a_full_disk_costs_no_image(store: CheckedStore, tmp_path: Path, name: str, left: int) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "disk", disk], check=True)
    try:
        root = copy_store(store.root, disk / "root")
        BY_NAME[name].inflict(Place(root, store))
        images = image_names(root)
        with (disk / "fill").open("wb", buffering=0) as file:
            with contextlib.suppress(OSError):
                while file.write(bytes(4096)) == 4096:
                    pass
            file.truncate(file.tell() - left)
        heal_store(root, connect=connect, processes=1)
        assert image_names(root) == images
        (disk / "fill").unlink()
        assert told(heal_store(root, connect=connect, processes=1).after) == []
        assert image_names(root) == images
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


@pytest.mark.parametrize("name", ["containers", "overlay2", "image/overlay2/layerdb"])
def test_a_directory_that_was_put_elsewhere_behind_a_link_keeps_all_that_is_in_it(
    store: CheckedStore, tmp_path: Path, name: str
) -> None:
    root = copy_store(store.root, tmp_path / "root")
    (root / name).rename(tmp_path / "elsewhere")
    (root / name).symlink_to(tmp_path / "elsewhere")
    before = listing(tmp_path / "elsewhere"), image_names(root)
    healed = heal_store(root, connect=connect)
    assert {finding.code for finding in healed.after.findings} == {"wrong-type"}
    assert [step.failure for step in healed.steps] == [
        "it is a link, and with it all that it leads to would go: put the directory itself there, or mount it there"
    ]
    assert (listing(tmp_path / "elsewhere"), image_names(root)) == before
    reclaim_store(root)
    assert (listing(tmp_path / "elsewhere"), image_names(root)) == before


@pytest.mark.parametrize("driver", ["overlay2", "vfs/dir"])
def test_where_no_layer_directory_is_at_all_nothing_is_taken_for_lost(
    store: CheckedStore, tmp_path: Path, driver: str
) -> None:
    root = copy_store(store.root, tmp_path / "root")
    if driver != "overlay2":
        subprocess.run(["rm", "-rf", root], check=True)
        made = image([layer_tar({"a": b"a"})], "app:1")
        docker20(tmp_path / "app.tar", made)
        Lamella(root).run("--storage-driver", "vfs", "load", "-q", "-i", str(tmp_path / "app.tar"))
    (root / driver).rename(tmp_path / "unmounted")
    (root / driver).mkdir()
    images, containers = listing(root / "image"), sorted((root / "containers").iterdir())
    for dry_run in (True, False):
        healed = heal_store(root, connect=connect, dry_run=dry_run)
        assert [step.failure for step in healed.steps] == [
            "if they are on a disk of their own, mount it; if they are lost, say --set-aside"
        ]
        assert not healed.after.sound
    assert (listing(root / "image"), sorted((root / "containers").iterdir())) == (images, containers)
    assert list((root / driver).iterdir()) == []
    healed = heal_store(root, connect=connect, set_aside=True)
    assert told(healed.after) == []


def test_without_the_directory_of_containers_no_writable_layer_is_an_orphan(
    store: CheckedStore, tmp_path: Path
) -> None:
    root = copy_store(store.root, tmp_path / "root")
    (root / "containers").rename(tmp_path / "unmounted")
    before = listing(root / "overlay2"), listing(root / "image")
    healed = heal_store(root, connect=connect)
    assert {finding.code for finding in healed.after.findings} == {"wrong-type"}
    assert reclaim_store(root, now=True).orphans == ()
    assert (listing(root / "overlay2"), listing(root / "image")) == before


def test_records_that_are_all_gone_are_made_again_from_the_files(store: CheckedStore, tmp_path: Path) -> None:
    root = copy_store(store.root, tmp_path / "root")
    place = Place(root, store)
    pulled = place.image("one")
    remove(place.image_dir / "layerdb")
    healed = heal_store(root, connect=connect)
    assert told(healed.after) == []
    assert pulled[7:] in image_names(root)
    undo(root)
    assert len(image_names(root)) == len(image_names(store.root))


def test_every_code_has_its_case_or_is_told_elsewhere() -> None:
    tried = {code for damage in CASES for code in damage.codes} | {note.code for note in NOTES}
    elsewhere = {
        "layer-unreadable",
        "mount-stale",
        "store-damaged",
        "parent-missing",
        "store-layers-missing",
        "layer-blob-damaged",
    }
    assert set(CODES) - tried == elsewhere

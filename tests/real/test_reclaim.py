"""Orphans are proved, moved to quarantine, brought back and deleted when their time is up."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest

from lamella.engine.keeping import check_store, heal_store, list_quarantine, reclaim_store, undo
from lamella.errors import Conflict, NotFound
from lamella.insight.orphans import Orphan, find_orphans
from lamella.insight.quarantine import RECORD, Quarantine
from lamella.insight.survey import Survey
from lamella.model.ids import CacheID
from lamella.store.imagestore import ImageStore
from tests.support import faults
from tests.support.archives import leaks, listing
from tests.support.checkedstores import copy_store
from tests.support.cli import Lamella
from tests.support.storeops import create, prepare, write_archives

DAMAGES_STORES = True  # on purpose: what is left over is looked for

# Of each run its own: what another process has mounted is spared by its name.
ORPHAN = "ab" + os.urandom(31).hex()
LINK = "ORPHANORPHANORPHANORPHAN22"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A small store with an image, a container, and two orphans of which one stands on the other."""
    write_archives(tmp_path)
    root = tmp_path / "root"
    prepare(create, root, tmp_path)
    create(ImageStore.open(root), tmp_path)
    for name, link, lower in ((ORPHAN, LINK, ""), ("cd" * 32, "C" * 26, f"l/{LINK}")):
        directory = root / "overlay2" / name
        (directory / "diff").mkdir(parents=True)
        (directory / "diff/data").write_bytes(b"x" * 100_000)
        (directory / "link").write_text(link)
        if lower:
            (directory / "lower").write_text(lower)
        os.symlink(f"../{name}/diff", root / "overlay2/l" / link)
    return root


def test_orphans_are_listed_with_their_proof_and_nothing_is_changed(root: Path) -> None:
    before = listing(root)
    done = reclaim_store(root, dry_run=True)
    assert listing(root) == before
    assert {item.code for item in done.orphans} == {"directory-orphan"}
    assert len(done.orphans) == 2
    for item in done.orphans:
        assert item.bytes >= 100_000
        assert any("cache ID" in reason for reason in item.proof)
        assert any("mount namespace" in reason for reason in item.proof)


def test_orphans_are_moved_away_and_brought_back(root: Path) -> None:
    before = listing(root)
    done = reclaim_store(root)
    assert len(done.orphans) == 2
    assert leaks(root) == []
    assert done.held >= 200_000
    assert check_store(root, deep=True).findings == ()
    assert reclaim_store(root).orphans == ()
    assert len(undo(root)) == 2
    assert listing(root) == before
    with pytest.raises(NotFound):
        undo(root)


def test_one_orphan_is_brought_back_by_its_id(root: Path) -> None:
    done = reclaim_store(root)
    wanted = next(item for item in done.orphans if f"overlay2/{ORPHAN}" in item.paths)
    assert [entry.id for entry in undo(root, [wanted.entry])] == [wanted.entry]
    assert (root / "overlay2" / ORPHAN / "diff/data").exists()
    assert len(list_quarantine(root)) == 1


def test_nothing_is_brought_back_onto_something_else(root: Path) -> None:
    reclaim_store(root)
    (root / "overlay2" / ORPHAN).mkdir()
    with pytest.raises(Conflict):
        undo(root)
    assert len(list_quarantine(root)) == 2


def test_what_has_been_there_long_enough_is_deleted(root: Path) -> None:
    reclaim_store(root)
    assert reclaim_store(root, keep_days=7).expired == ()
    for entry, _ in list_quarantine(root):
        record = json.loads((entry.path / RECORD).read_text())
        record["time"] -= 8 * 86400
        (entry.path / RECORD).write_text(json.dumps(record))
    done = reclaim_store(root, keep_days=7)
    assert len(done.expired) == 2
    assert done.freed >= 200_000
    assert list_quarantine(root) == []


def test_everything_is_deleted_at_once_if_asked_for(root: Path) -> None:
    done = reclaim_store(root, now=True)
    assert len(done.expired) == 2
    assert list_quarantine(root) == []
    assert os.listdir(root / "lamella/quarantine") == []


def test_a_directory_that_a_mount_mentions_is_no_orphan(root: Path, tmp_path: Path) -> None:
    lower = root / "overlay2" / ORPHAN / "diff"
    target = tmp_path / "seen"
    target.mkdir()
    # In a namespace of its own, where we do not see it ourselves.
    holder = subprocess.Popen(
        ["unshare", "--mount", "sh", "-c", f"mount --bind {lower} {target} && echo ready && exec sleep 60"],
        stdout=subprocess.PIPE,
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"ready\n"
        found = {path for item in reclaim_store(root, dry_run=True).orphans for path in item.paths}
        assert f"overlay2/{ORPHAN}" not in found
        assert f"overlay2/{'cd' * 32}" in found
    finally:
        holder.kill()
        holder.communicate()


def test_what_an_operation_in_progress_makes_is_no_orphan(root: Path) -> None:
    store = ImageStore.open(root)
    with store.root.transaction("load") as tx:
        name = tx.new_cache_id()
        store.root.driver.create(name, None)
        found = {path for item in reclaim_store(root, dry_run=True).orphans for path in item.paths}
        assert f"overlay2/{name}" not in found
        store.root.driver.remove(CacheID(name))


def test_a_store_in_which_a_layer_misses_its_directory_keeps_what_may_be_it(root: Path) -> None:
    record = next((root / "image/overlay2/layerdb/sha256").iterdir())
    (record / "cache-id").unlink()
    done = reclaim_store(root, dry_run=True)
    assert done.doubtful
    assert [item for item in done.orphans if item.code == "directory-orphan"] == []


def test_a_stale_mount_is_undone(root: Path) -> None:
    store = ImageStore.open(root)
    rw = next(store.rwlayers.iter_layers())
    store.rwlayers.mount(rw, "d" * 64)
    done = reclaim_store(root)
    assert {item.code for item in done.orphans} == {"mount-stale", "directory-orphan"}
    assert str(root) not in Path("/proc/self/mountinfo").read_text()


def test_killed_anywhere_everything_is_in_one_place_or_the_other(root: Path, tmp_path: Path) -> None:
    start = copy_store(root, tmp_path / "start")

    def work() -> None:
        reclaim_store(root)

    total = faults.count_changes(work, tmp_path / "count")
    undo(root)
    before = listing(start)
    for point in range(1, total + 1):
        copy_store(start, root)
        assert faults.run(work, die_at=point) in (0, faults.KILLED)
        reclaim_store(root)
        assert leaks(root) == [], f"killed at point {point} of {total}"
        undo(root, [entry.id for entry, _ in list_quarantine(root)])
        assert listing(root) == before, f"killed at point {point} of {total}"


def test_the_command_line_says_what_it_did(root: Path) -> None:
    lamella = Lamella(root)
    answer = lamella.try_run("fsck")
    assert answer.returncode == 4
    assert "directory-orphan" in answer.stdout
    assert json.loads(lamella.try_run("fsck", "--json").stdout)["counts"] == {"error": 0, "warning": 2, "note": 0}
    assert "2 orphans" in lamella.run("reclaim", "--dry-run")
    assert "in quarantine as" in lamella.run("reclaim")
    assert len(lamella.run("reclaim", "--list").splitlines()) == 2
    assert lamella.try_run("fsck").returncode == 0
    assert f"overlay2/{ORPHAN}" in lamella.run("reclaim", "--undo").splitlines()
    assert lamella.try_run("fsck", "--heal", "--offline", "--dry-run").returncode == 4
    assert lamella.try_run("fsck", "--heal", "--offline").returncode == 1
    assert lamella.try_run("fsck", "--heal", "--offline").returncode == 0
    assert "deleted for good" in lamella.run("reclaim", "--now")
    assert lamella.try_run("fsck", "--dry-run").returncode == 1
    missing = Lamella(root / "nowhere").try_run("fsck")
    assert missing.returncode == 8


def test_what_lay_in_another_thing_that_was_moved_comes_back_after_it(root: Path) -> None:
    """A run takes things away within one second: what was in a directory first, then the directory."""
    before = listing(root)
    places = []
    for number in range(6):
        place = root / "containers" / (f"{number}5" * 32)
        place.mkdir()
        (place / ".tmp-config.v2.json1").write_text("{")
        places.append(place)
    damaged = listing(root)
    reclaim_store(root)
    assert not any(place.exists() for place in places)
    undo(root)
    assert listing(root) == damaged != before
    assert list_quarantine(root) == []


def test_what_has_no_place_to_come_back_to_is_told_before_anything_is_moved(root: Path) -> None:
    place = root / "containers" / ("5" * 64)
    place.mkdir()
    (place / ".tmp-config.v2.json1").write_text("{")
    reclaim_store(root)
    entries = {entry.code: entry for entry, _ in list_quarantine(root)}
    after = listing(root)
    with pytest.raises(Conflict, match="does not exist any more"):
        undo(root, [entries["draft-left"].id, entries["directory-orphan"].id])
    assert listing(root) == after


def test_what_cannot_be_moved_as_a_whole_stays_where_it_is(root: Path) -> None:
    before = listing(root)
    record = next((root / "image/overlay2/layerdb/sha256").iterdir())
    subprocess.run(["mount", "--bind", root / "overlay2", root / "overlay2"], check=True)  # a disk of its own
    try:
        with pytest.raises(OSError, match="cross-device"):
            Quarantine(root).put("layer-unused", "a test", [record, root / "overlay2" / ORPHAN])
        answer = Lamella(root).try_run("reclaim")
        assert answer.returncode == 1
        assert answer.stdout.endswith("2 orphans could not be moved\n")
    finally:
        subprocess.run(["umount", root / "overlay2"], check=True)
    assert listing(root) == before
    assert list_quarantine(root) == []


def test_many_orphans_take_few_looks_to_mend(root: Path) -> None:
    for number in range(60):
        (root / "overlay2" / f"{number:064x}" / "diff").mkdir(parents=True)
    looks = []

    def look(survey: Survey) -> Iterator[Orphan]:
        looks.append(survey)
        return find_orphans(survey)

    with (
        mock.patch("lamella.insight.mending.base.find_orphans", look),
        mock.patch("lamella.insight.fsck.find_orphans", look),
    ):
        assert heal_store(root).after.sound
    assert not (root / "overlay2" / f"{1:064x}").exists()
    assert len(looks) < 20

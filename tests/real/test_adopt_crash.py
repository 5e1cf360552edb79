"""Killed before any change that adopting makes, each image and container is there whole or not at all, and none leaks."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from lamella.insight.adopt import adopt
from lamella.readers.detect import open_reader
from lamella.store.imagestore import ImageStore
from lamella.transports.loading import load
from tests.support import faults
from tests.support.archives import leaks
from tests.support.storeops import OWNER, create, visible, write_archives

if TYPE_CHECKING:
    from collections.abc import Generator

_POINTS = 120


@pytest.fixture
def place(tmp_path: Path) -> Generator[Path]:
    """A memory file system with a source: two images that share a layer, a container with a log, a volume."""
    place = tmp_path / "memory"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", place], check=True)
    try:
        write_archives(place)
        source = ImageStore.open(place / "source")
        for name in ("old.tar", "new.tar"):
            load(source, place / name)
        create(source, place)
        record = source.containers.get(OWNER)
        record.config["MountPoints"] = {"/data": {"Type": "volume", "Name": "data", "Destination": "/data", "RW": True}}
        source.containers.write(record)
        source.containers.log_path(OWNER).write_text(
            '{"log":"said\\n","stream":"stdout","time":"2024-01-02T03:04:05Z"}\n'
        )
        rw = source.rwlayers.get(OWNER)
        (place / "source/overlay2" / rw.mount_id / "diff/written").write_text("w")
        (place / "source/volumes/data/_data").mkdir(parents=True)
        (place / "source/volumes/data/_data/file").write_text("kept")
        yield place
    finally:
        subprocess.run(["umount", "--recursive", place], check=True)


def test_adopting_killed_at_any_point(place: Path) -> None:
    root = place / "root"

    def work() -> None:
        states = [item.state for item in adopt(ImageStore.open(root), open_reader(place / "source"))]
        assert set(states) <= {"adopted", "present"}

    ImageStore.open(root)
    total = faults.count_changes(work, place / "count")
    whole = visible(root)
    assert (len(whole["images"]), len(whole["containers"])) == (2, 1)
    for point in range(1, total + 1, max(1, total // _POINTS)):
        subprocess.run(["rm", "-rf", root], check=True)
        assert faults.run(work, die_at=point) in (0, faults.KILLED)
        store = ImageStore.open(root)
        with store.root.writing():
            pass
        assert store.problems == [], f"killed at point {point} of {total}"
        assert leaks(root) == [], f"killed at point {point} of {total}"
        found = visible(root)
        for key in ("images", "layers", "containers", "mounts"):
            assert set(found[key]) <= set(whole[key]), f"killed at point {point} of {total}"
        if (root / "volumes/data").exists():
            assert (root / "volumes/data/_data/file").read_text() == "kept"
        if found["containers"]:
            upper = root / "overlay2" / store.rwlayers.get(OWNER).mount_id / "diff"
            assert (upper / "written").read_text() == "w"
            assert store.containers.log_path(OWNER).stat().st_size > 0
        work()
        assert visible(root) == whole, f"done again after point {point}"
        assert leaks(root) == [], f"done again after point {point}"
        assert (root / "volumes/data/_data/file").read_text() == "kept"

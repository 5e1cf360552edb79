"""What a layer changed: read off its upper directory it is what comparing the two mounted trees gives."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from lamella.drivers import naive
from lamella.drivers.overlay2 import Overlay2
from lamella.fs.tree import remove_tree
from lamella.linux.spawn import find_tool, run
from lamella.model.ids import new_cache_id

NAMES = ("a", "b", "a-b", "d")
PATHS = tuple(f"{x}/{y}/{z}" for x in NAMES for y in NAMES for z in NAMES[:2])

Step = tuple[str, str, int]
steps = st.lists(
    st.tuples(
        st.sampled_from(
            ("file", "dir", "link", "fifo", "remove", "chmod", "chown", "touch", "rename", "hard", "remake")
        ),
        st.sampled_from(PATHS).flatmap(
            lambda path: st.integers(1, 3).map(lambda depth: "/".join(path.split("/")[:depth]))
        ),
        st.integers(0, 3),
    ),
    max_size=14,
)


def clear(path: Path) -> None:
    """Remove whatever is at *path*, and what stands where its parents should be."""
    for parent in reversed(path.parents):
        if parent.is_symlink() or (parent.exists() and not parent.is_dir()):
            parent.unlink()
    if path.is_symlink() or path.exists():
        remove_tree(path)
    path.parent.mkdir(parents=True, exist_ok=True)


def play(root: Path, script: list[Step]) -> None:
    """Carry out what can be of *script*; small numbers make sizes and times collide."""
    for verb, name, number in script:
        path = root / name
        inside = not any(parent.is_symlink() for parent in path.parents if parent != root)
        present = inside and (path.is_symlink() or path.exists())
        if verb in ("file", "dir", "link", "fifo"):
            clear(path)
            if verb == "file":
                path.write_text("x" * number)
                os.utime(path, ns=(0, number % 2 * 10**9 + number // 2))
            elif verb == "dir":
                path.mkdir(0o700 + number)
            elif verb == "fifo":
                os.mkfifo(path)
                os.utime(path, (5, 5))
            else:
                path.symlink_to("t" * (number + 1))
                os.utime(path, (5, 5), follow_symlinks=False)
        elif not present:
            continue
        elif verb == "remove":
            remove_tree(path)
        elif verb == "remake" and path.is_dir() and not path.is_symlink():
            mode = stat.S_IMODE(path.stat().st_mode)
            remove_tree(path)
            path.mkdir(mode)
        elif verb == "chmod" and not path.is_symlink():
            path.chmod(0o700 + number)
        elif verb == "chown":
            os.chown(path, number, 0, follow_symlinks=False)
        elif verb == "touch":
            os.utime(path, (number, number), follow_symlinks=False)
        elif verb == "rename" and not path.is_dir():
            path.rename(path.with_name("renamed"))
        elif verb == "hard" and not path.is_dir():
            clear(path.with_name("linked"))
            os.link(path, path.with_name("linked"), follow_symlinks=False)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(below=st.lists(steps, min_size=0, max_size=3), above=steps)
@example(below=[[("file", "a/a/b", 0)]], above=[("file", "a", 0), ("file", "a/a/a", 0)])
def test_the_fast_way_and_the_plain_way_agree(below: list[list[Step]], above: list[Step]) -> None:
    root = Path(tempfile.mkdtemp(prefix="lamella-changes-"))
    try:
        driver = Overlay2(root, root / "lamella")
        parent = None
        for script in [*below, above]:
            layer = new_cache_id()
            driver.create_read_write(layer, parent)
            with driver.mounted(layer) as tree:
                play(tree, script)
            fast = driver.changes(layer, parent)
            assert fast == naive.changes(driver, layer, parent, root / "lamella" / "wip")
            assert fast == sorted(fast, key=lambda change: change.path)
            parent = layer
    finally:
        remove_tree(root)


def test_capabilities_count_as_a_change(store_root: Path) -> None:
    store_root.mkdir()
    driver = Overlay2(store_root, store_root / "lamella")
    bottom, top = new_cache_id(), new_cache_id()
    driver.create(bottom, None)
    (driver.home / bottom / "diff" / "program").touch()
    driver.create_read_write(top, bottom)
    with driver.mounted(top) as tree:
        assert run([find_tool("setcap", package="libcap2-bin"), "cap_net_raw+ep", f"{tree}/program"], env={}).code == 0
    assert [(change.kind.value, change.path) for change in driver.changes(top, bottom)] == [("C", b"program")]


@pytest.mark.parametrize("live", [True, False])
def test_changes_of_a_running_container_are_seen_at_once(store_root: Path, live: bool) -> None:
    store_root.mkdir()
    driver = Overlay2(store_root, store_root / "lamella")
    bottom, top = new_cache_id(), new_cache_id()
    driver.create(bottom, None)
    driver.create_read_write(top, bottom)
    path = driver.mount(top, "container")
    (path / "one").touch()
    if not live:
        driver.unmount(top, "container")
    assert [change.path for change in driver.changes(top, bottom)] == [b"one"]
    driver.unmount(top, "container")

"""The merged view is what the kernel shows, for any stack of layers, and nothing in a layer leads out of it."""

from __future__ import annotations

import os
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lamella.changeset.changes import ChangeKind, iter_changes
from lamella.errors import InvalidArgument, Unsupported
from lamella.insight.mergedtree import Fate, MergedTree, Node, TooMany, directories_of
from lamella.insight.stack import Stack

Layer = dict[str, str]
"""Paths with what a layer has there: ``dir``, ``opaque``, ``gone``, ``link:TARGET``, anything else is content."""

NAMES = st.sampled_from(["a", "b", "c"])
KINDS = st.sampled_from(["dir", "dir", "opaque", "gone", "one", "three", "link:/a/b"])


def write(place: Path, layer: Layer) -> Path:
    """Make a layer's directory; what cannot stand where it is asked for is left out."""
    place.mkdir()
    for path, kind in sorted(layer.items()):
        target = place / path
        if os.path.lexists(target):
            continue
        parents = [place.joinpath(*Path(path).parts[:depth]) for depth in range(1, len(Path(path).parts))]
        if any(os.path.lexists(parent) and not (parent.is_dir() and not parent.is_symlink()) for parent in parents):
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        if kind in {"dir", "opaque"}:
            target.mkdir()
            if kind == "opaque":
                os.setxattr(target, "trusted.overlay.opaque", b"y")
        elif kind == "gone":
            os.mknod(target, stat.S_IFCHR | 0o600, 0)
        elif kind.startswith("link:"):
            target.symlink_to(kind.removeprefix("link:"))
        else:
            target.write_text(kind)
    return place


@contextmanager
def mounted(directories: list[Path]) -> Iterator[Path]:
    """Mount directories, base first, as overlayfs does."""
    place = Path(tempfile.mkdtemp(dir=directories[0].parent))
    lowers = ":".join(str(directory) for directory in directories[::-1])
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", f"lowerdir={lowers}", place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)
        place.rmdir()


def tree_of(root: Path) -> dict[bytes, str]:
    """List everything below a directory with its type and content."""
    found: dict[bytes, str] = {}
    for directory, names, files in os.walk(root):
        for name in names + files:
            path = Path(directory, name)
            if not os.path.lexists(path):  # the kernel lists a whiteout that has nothing to hide, but finds nothing
                continue
            kind = stat.S_IFMT(path.lstat().st_mode)
            content = os.readlink(path) if path.is_symlink() else path.read_text() if path.is_file() else ""
            found[os.fsencode(path.relative_to(root))] = f"{kind:o} {content}"
    return found


def seen_by(stack: Stack, path: bytes = b"") -> dict[bytes, str]:
    """List the same through the merged view."""
    found: dict[bytes, str] = {}
    for name in stack.names(path):
        below = path + b"/" + name if path else name
        visible = stack.find(below)
        assert visible is not None
        kind = stat.S_IFMT(visible.status.st_mode)
        content = ""
        if kind == stat.S_IFLNK:
            content = os.fsdecode(stack.readlink(visible.layer, below))
        elif kind == stat.S_IFREG:
            content = (stack.read(below, 100) or b"").decode()
        found[below] = f"{kind:o} {content}"
        if kind == stat.S_IFDIR:
            found |= seen_by(stack, below)
    return found


def paths_of(tree: MergedTree) -> set[bytes]:
    return {path for path, _ in tree.files()}


LAYERS = st.lists(
    st.dictionaries(st.lists(NAMES, min_size=1, max_size=3).map("/".join), KINDS, max_size=7), min_size=2, max_size=4
)


@settings(max_examples=60, deadline=None)
@given(LAYERS)
def test_any_stack_looks_as_the_kernel_mounts_it(layers: list[Layer]) -> None:
    with tempfile.TemporaryDirectory(dir="/var/tmp") as place:
        directories = [write(Path(place, str(number)), layer) for number, layer in enumerate(layers)]
        tree = MergedTree(sizes=True)
        counts = [tree.add(directory) for directory in directories]
        with mounted(directories) as merged, Stack(directories) as stack:
            truth = tree_of(merged)
            assert seen_by(stack) == truth
            files = {path for path, kind in truth.items() if not kind.startswith("40000")}
            assert paths_of(tree) == files
            for path in truth:
                assert stack.marks(path)[-1].act == "writes"
        # Each layer's counts are the difference between the mounts with and without it.
        with mounted(directories[:-1]) if len(directories) > 2 else _plain(directories[0]) as below:
            before = tree_of(below)
        kept = {path for path in before if path in truth}
        gone = {path for path in before if path not in truth}
        assert counts[-1].deleted == sum(
            os.path.dirname(path) in kept | {b""} and not _replaced(path, truth) for path in gone
        )
        assert counts[-1].added <= len(files)


def _replaced(path: bytes, truth: dict[bytes, str]) -> bool:
    """Whether something that is no directory stands above a path now: what was below went with that."""
    above = os.path.dirname(path)
    return above != b"" and not truth.get(above, "40000").startswith("40000")


@contextmanager
def _plain(directory: Path) -> Iterator[Path]:
    """Show a single layer as the kernel would: without its whiteouts."""
    empty = directory.parent / "empty"
    empty.mkdir(exist_ok=True)
    with mounted([empty, directory]) as merged:
        yield merged


def test_a_file_tells_all_its_versions_and_what_hides_them(tmp_path: Path) -> None:
    layers: list[Layer] = [
        {"d/f": "one"},
        {"d/f": "two"},
        {"d": "gone"},
        {"d/f": "three"},
        {"d": "opaque"},
        {"d/f": "four"},
    ]
    directories = [write(tmp_path / str(number), layer) for number, layer in enumerate(layers)]
    with Stack(directories) as stack:
        marks = stack.marks(b"d/f")
        told = [(mark.layer, mark.act, mark.at, mark.hidden_by) for mark in marks]
    assert told == [
        (0, "writes", b"d/f", 1),
        (1, "writes", b"d/f", 2),
        (2, "deletes", b"d", None),
        (3, "writes", b"d/f", 4),
        (4, "empties", b"d", None),
        (5, "writes", b"d/f", None),
    ]


def test_a_file_in_the_place_of_a_directory_hides_what_was_below(tmp_path: Path) -> None:
    directories = [write(tmp_path / "0", {"d/f": "one"}), write(tmp_path / "1", {"d": "a file"})]
    with Stack(directories) as stack:
        assert [(mark.layer, mark.act, mark.hidden_by) for mark in stack.marks(b"d/f")] == [
            (0, "writes", 1),
            (1, "replaces", None),
        ]
        assert stack.find(b"d/f") is None


def test_links_lead_through_all_layers_but_never_out(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("outside")
    lower = write(tmp_path / "0", {"usr/bin/tool": "tool", "etc/real": "real"})
    upper = write(
        tmp_path / "1",
        {"bin": "link:usr/bin", "up": "link:../../../../../etc", "out": f"link:{tmp_path}/secret", "loop": "link:loop"},
    )
    with Stack([lower, upper]) as stack:
        assert stack.read(b"bin/tool", 100) == b"tool"
        assert stack.read(b"up/real", 100) == b"real"
        assert stack.read(b"/../../etc/real", 100) == b"real"
        assert stack.read(b"out", 100) is None
        with pytest.raises(OSError, match="symbolic links"):
            stack.find(b"loop/x")
        with pytest.raises(InvalidArgument, match="null byte"):
            stack.find(b"a\0b")


def test_a_link_inside_a_layer_is_not_followed_by_the_look_at_that_layer(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "f").write_text("outside")
    lower = write(tmp_path / "0", {"d/f": "inside"})
    upper = write(tmp_path / "1", {"d": f"link:{outside}"})
    with Stack([lower, upper]) as stack:
        assert stack.status(1, b"d/f") is None
        assert [mark.act for mark in stack.marks(b"d/f")] == ["writes", "replaces"]
    tree = MergedTree()
    tree.add(lower)
    tree.add(upper)
    assert paths_of(tree) == {b"d"}


@pytest.mark.parametrize("name", ["trusted.overlay.redirect", "user.overlay.redirect"])
def test_a_redirected_directory_is_refused_with_the_reason(tmp_path: Path, name: str) -> None:
    place = write(tmp_path / "0", {"d/f": "one"})
    os.setxattr(place / "d", name, b"elsewhere")
    with Stack([place]) as stack, pytest.raises(Unsupported, match=f"/d carries {name}"):
        stack.marks(b"d/f")
    tree = MergedTree()
    tree.add(place)
    assert [problem for problem in tree.problems if "/d carries" in problem]


def test_a_file_of_metadata_alone_is_told(tmp_path: Path) -> None:
    places = [write(tmp_path / "0", {"f": "content"}), write(tmp_path / "1", {})]
    (places[1] / "f").touch()
    os.truncate(places[1] / "f", 7)
    os.setxattr(places[1] / "f", "trusted.overlay.metacopy", b"")
    with Stack(places) as stack:
        assert [mark.metacopy for mark in stack.marks(b"f")] == [False, True]


def test_bytes_of_hard_links_are_lost_only_with_the_last_name(tmp_path: Path) -> None:
    base = write(tmp_path / "0", {"one": "123456"})
    os.link(base / "one", base / "two")
    lost: list[int] = []

    def note(_path: bytes, node: Node, _fate: Fate, _by: int) -> None:
        lost.append(node.size)

    tree = MergedTree(sizes=True, report=note)
    tree.add(base)
    tree.add(write(tmp_path / "1", {"one": "gone"}))
    assert sum(lost) == 0
    assert sum(node.size for _, node in tree.files()) == 6
    tree.add(write(tmp_path / "2", {"two": "gone"}))
    assert sum(lost) == 6


def test_layers_of_whole_trees_say_what_changed_between_them(tmp_path: Path) -> None:
    first = write(tmp_path / "0", {"d/f": "one", "d/g": "stays"})
    second = tmp_path / "1"
    subprocess.run(["cp", "-a", first, second], check=True)
    (second / "d/f").unlink()
    (second / "new").write_text("new")
    with Stack([first, second], whole=True) as stack:
        assert [(mark.layer, mark.act, mark.hidden_by) for mark in stack.marks(b"d/f")] == [
            (0, "writes", 1),
            (1, "deletes", None),
        ]
        assert [mark.layer for mark in stack.marks(b"d/g")] == [0]
        assert seen_by(stack) == tree_of(second)
    tree = MergedTree(whole=True)
    tree.add(first)
    counts = tree.add(second)
    changes = [change.kind for change in iter_changes(first, second) if change.path != b"d"]
    assert (counts.added, counts.deleted) == (changes.count(ChangeKind.ADDED), changes.count(ChangeKind.DELETED))
    assert paths_of(tree) == {b"d/g", b"new"}


def test_counting_within_the_directories_of_one_layer_gives_its_counts(tmp_path: Path) -> None:
    layers: list[Layer] = [{"a/x": "1", "a/y": "1", "b/z": "1"}, {"a/x": "2", "a/y": "gone", "c/n": "new"}]
    directories = [write(tmp_path / str(number), layer) for number, layer in enumerate(layers)]
    full, narrow = MergedTree(), MergedTree(within=directories_of(directories[1]))
    assert [full.add(place) for place in directories][1] == [narrow.add(place) for place in directories][1]
    with pytest.raises(TooMany):
        MergedTree(limit=3).add(directories[0])

"""Layers from strangers: each is refused or applied, rebuilt bit for bit, and never touches what is outside."""

from __future__ import annotations

import hashlib
import io
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from lamella.changeset.apply import Style, apply_layer
from lamella.changeset.tarsplit import reassemble
from lamella.fs.tree import remove_tree
from tests.corpus.craft import END, checksummed
from tests.corpus.hostile import ABSENT, CASES, DIRECTORY, OPAQUE, OUTSIDE, WHITEOUT, Link
from tests.support.placing import helped  # noqa: F401 — a fixture
from tests.support.trees import fingerprint

pytestmark = pytest.mark.usefixtures("helped")

KINDS = {"fifo": stat.S_ISFIFO, "char": stat.S_ISCHR, "block": stat.S_ISBLK}


def swap(block: bytes, outside: bytes) -> bytes:
    """Replace within the fixed fields of one header."""
    name = block[:100].rstrip(b"\0").replace(OUTSIDE, outside)
    link = block[157:257].rstrip(b"\0").replace(OUTSIDE, outside)
    return checksummed(name.ljust(100, b"\0") + block[100:157] + link.ljust(100, b"\0") + block[257:])


@pytest.fixture
def place() -> Iterator[Path]:
    """A short path, so that it fits into a tar header."""
    import tempfile

    path = Path(tempfile.mkdtemp(prefix="h", dir="/tmp"))
    (path / "outside").mkdir()
    (path / "outside" / "canary").write_bytes(b"alive")
    (path / "layer").mkdir()
    yield path
    remove_tree(path)


def read(root: Path, path: bytes) -> object:
    """Describe what is at *path*, following nothing."""
    full = os.fsencode(root) + b"/" + path
    try:
        status = os.lstat(full)
    except FileNotFoundError:
        return ABSENT
    if stat.S_ISDIR(status.st_mode):
        try:
            assert os.getxattr(full, "trusted.overlay.opaque") == b"y"
        except OSError:
            return DIRECTORY
        return OPAQUE
    if stat.S_ISLNK(status.st_mode):
        return Link(os.readlink(full))
    if stat.S_ISCHR(status.st_mode) and status.st_rdev == 0:
        assert stat.S_IMODE(status.st_mode) == 0
        return WHITEOUT
    for kind, matches in KINDS.items():
        if matches(status.st_mode):
            return kind
    with open(full, "rb") as file:
        return file.read()


def made_of(name: str, place: Path) -> bytes:
    outside = os.fsencode(place / "outside")
    archive = CASES[name].archive
    return b"".join(
        swap(block, outside) if OUTSIDE in block else block
        for block in (archive[start : start + 512] for start in range(0, len(archive), 512))
    )


def opened_deep(root: Path, path: bytes) -> bytes:
    """Read a file whose path is longer than the kernel takes with the root before it."""
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with open(os.open(path, os.O_RDONLY, dir_fd=fd), "rb") as file:
            return file.read()
    finally:
        os.close(fd)


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("name", CASES)
def test_corpus(name: str, packed: bool, place: Path) -> None:
    case = CASES[name]
    archive = made_of(name, place)
    before = fingerprint(place / "outside")
    descriptors = os.listdir("/proc/self/fd")
    layer = place / "layer"
    record = place / "record"
    stream = archive
    if packed:
        import gzip

        stream = gzip.compress(archive, 1)
    with record.open("wb") as tar_split:
        if case.refused is not None:
            with pytest.raises(case.refused) as caught:
                apply_layer(io.BytesIO(stream), layer, tar_split=tar_split)
            assert "\n" not in str(caught.value)
            result = None
        else:
            result = apply_layer(io.BytesIO(stream), layer, tar_split=tar_split)
    assert fingerprint(place / "outside") == before
    assert len(os.listdir("/proc/self/fd")) == len(descriptors)
    if result is None:
        return
    assert result.diff_id == "sha256:" + hashlib.sha256(archive).hexdigest()
    assert result.digest == "sha256:" + hashlib.sha256(stream).hexdigest()
    outside = os.fsencode(place / "outside")
    for path, expected in case.paths.items():
        path = path.replace(OUTSIDE[1:], outside[1:])  # noqa: PLW2901
        if isinstance(expected, Link):
            expected = Link(expected.target.replace(OUTSIDE, outside))  # noqa: PLW2901
        actual = opened_deep(layer, path) if len(path) > 2000 else read(layer, path)
        assert actual == expected, path
    again = io.BytesIO()
    reassemble(record, layer, again.write, expected=result.diff_id)
    assert again.getvalue() == archive


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.refused is None])
def test_corpus_over_a_parent(name: str, place: Path) -> None:
    """With deletions carried out, over a tree that has one of everything, nothing outside is touched either."""
    layer = place / "layer"
    (layer / "x").write_bytes(b"old")
    (layer / "d").mkdir()
    (layer / "d" / "below").write_bytes(b"old")
    (layer / "link").symlink_to(place / "outside")
    archive = made_of(name, place)
    before = fingerprint(place / "outside")
    apply_layer(io.BytesIO(archive), layer, style=Style.REMOVE)
    assert fingerprint(place / "outside") == before
    assert not any(stat.S_ISCHR(p.lstat().st_mode) and not p.lstat().st_rdev for p in layer.glob("*"))


def test_a_hidden_overlay_attribute_never_reaches_the_disk(place: Path) -> None:
    for name in ("xattr-overlay-opaque", "xattr-overlay-redirect", "xattr-user-overlay", "xattr-trusted"):
        layer = place / name
        layer.mkdir()
        apply_layer(io.BytesIO(CASES[name].archive), layer)
        kept = ["user.keep"] if name == "xattr-overlay-opaque" else []
        assert [key for key in os.listxattr(layer / "f") if key != "security.selinux"] == kept


def test_no_bytes_after_the_end_is_an_empty_layer(place: Path) -> None:
    result = apply_layer(io.BytesIO(END), place / "layer")
    assert (result.entries, result.size, result.tar_size) == (0, 0, 1024)
    assert result.diff_id == "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef"

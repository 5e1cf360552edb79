"""Applying layers: metadata, order, replacement, deletion, accounts."""

from __future__ import annotations

import io
import os
import resource
import stat
import threading
from pathlib import Path

import pytest

from lamella.changeset.apply import Applied, Style, apply_layer
from lamella.changeset.limits import Limits
from lamella.errors import DigestMismatch, InvalidArgument, Unavailable, Unsupported
from lamella.fs.usage import layer_size
from lamella.model.digest import EMPTY_LAYER
from tests.corpus.craft import END, FIFO, directory, file, hard, header, old_sparse, padded, pax, symlink
from tests.support.placing import helped  # noqa: F401 — a fixture
from tests.support.trees import flatten

pytestmark = pytest.mark.usefixtures("helped")

CAPABILITY = b"\x01\x00\x00\x02\x00\x04" + bytes(14)


def apply(target: Path, *parts: bytes, **options: object) -> Applied:
    target.mkdir(exist_ok=True)
    return apply_layer(io.BytesIO(b"".join(parts) + END), target, **options)  # type: ignore[arg-type]


@pytest.fixture(params=[0o022, 0o077, 0], ids=["umask-022", "umask-077", "umask-0"])
def umask(request: pytest.FixtureRequest) -> object:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def modes(root: Path) -> dict[str, tuple[int, int, int, int]]:
    return {name: (node.mode, *node.owner, node.mtime) for name, node in flatten(root).items()}


@pytest.mark.usefixtures("umask")
def test_metadata_is_the_headers_whatever_the_umask(tmp_path: Path) -> None:
    target = tmp_path / "layer"
    apply(
        target,
        directory(b"./", mode=0o711, mtime=5),
        directory(b"d/", mode=0o2775, uid=1, gid=50, mtime=10),
        file(b"d/set-uid", b"x", mode=0o4755, uid=7, gid=8, mtime=11),
        file(b"d/plain", b"x", mode=0o666, mtime=12),
        file(b"d/none", b"x", mode=0, mtime=12),
        directory(b"d/sub/", mode=0o1777, mtime=13),
        header(b"d/pipe", FIFO, mode=0o666, uid=3, mtime=14),
        header(b"d/dev", b"3", mode=0o4666, major=1, minor=3, mtime=15),
        symlink(b"d/link", b"x"),
        file(b"implied/f", b"x"),
    )
    found = modes(target)
    assert found["d"] == (0o2775, 1, 50, 10)
    assert found["d/set-uid"] == (0o4755, 7, 8, 11)
    assert found["d/plain"] == (0o666, 0, 0, 12)
    assert found["d/none"] == (0, 0, 0, 12)
    assert found["d/sub"] == (0o1777, 0, 0, 13)
    assert found["d/pipe"] == (0o666, 3, 0, 14)
    assert found["d/dev"] == (0o4666, 0, 0, 15)
    assert found["d/link"][1:] == (0, 0, 1_600_000_000)
    assert found["implied"][:3] == (0o755, 0, 0)
    assert stat.S_IMODE(target.stat().st_mode) == 0o711
    assert target.stat().st_mtime == 5


def test_a_capability_survives_the_change_of_owner(tmp_path: Path) -> None:
    target = tmp_path / "layer"
    apply(target, pax({b"SCHILY.xattr.security.capability": CAPABILITY}), file(b"f", b"x", uid=1000, mode=0o755))
    assert os.getxattr(target / "f", "security.capability") == CAPABILITY


def test_directories_keep_their_attributes_and_times(tmp_path: Path) -> None:
    target = tmp_path / "layer"
    apply(
        target,
        pax({b"SCHILY.xattr.user.note": b"kept", b"mtime": b"1600000000.5"}),
        directory(b"d/"),
        file(b"d/f", b"x"),
        directory(b"d/e/"),
        file(b"d/.wh.gone"),
    )
    assert os.getxattr(target / "d", "user.note") == b"kept"
    assert (target / "d").stat().st_mtime_ns == 1_600_000_000_500_000_000


def test_times_beyond_the_clamp_are_1970_and_access_is_the_later(tmp_path: Path) -> None:
    target = tmp_path / "layer"
    apply(
        target,
        pax({b"mtime": b"-1.5"}),
        file(b"before"),
        pax({b"mtime": b"9300000000"}),
        file(b"after"),
        pax({b"atime": b"1700000000.25"}),
        file(b"read"),
        pax({b"atime": b"15"}),
        file(b"unread"),
    )
    assert (target / "before").stat().st_mtime_ns == 0
    assert (target / "after").stat().st_mtime_ns == 0
    assert (target / "read").stat().st_atime_ns == 1_700_000_000_250_000_000
    assert (target / "unread").stat().st_atime_ns == 1_600_000_000 * 10**9


def test_a_default_acl_does_not_leak_into_the_layer(tmp_path: Path) -> None:
    """Each file gets what its own header says, even below a directory with a default ACL of its own."""
    entry = b"\xff\xff\xff\xff"
    acl = b"\x02\0\0\0" + b"".join((b"\x01\0\x07\0", entry, b"\x04\0\0\0", entry, b"\x20\0\0\0", entry))
    target = tmp_path / "layer"
    try:
        os.setxattr(tmp_path, "system.posix_acl_default", acl)
    except OSError:
        # A kernel without ACLs cannot leak one; the refusal to store it must then be a clear one.
        with pytest.raises(Unsupported, match="posix_acl_default"):
            apply(target, pax({b"SCHILY.xattr.system.posix_acl_default": acl}), directory(b"d/"))
        return
    apply(target, pax({b"SCHILY.xattr.system.posix_acl_default": acl}), directory(b"d/"), file(b"d/f", mode=0o644))
    assert stat.S_IMODE((target / "d" / "f").stat().st_mode) == 0o644
    assert "system.posix_acl_access" not in os.listxattr(target / "d" / "f")


def test_size_is_that_of_the_walk(tmp_path: Path) -> None:
    target = tmp_path / "layer"
    result = apply(
        target,
        file(b"a", b"x" * 1000),
        hard(b"b", b"a"),
        symlink(b"s", b"target"),
        old_sparse(b"holes", [(0, 1)], 5000, b"x"),
        file(b".wh.gone"),
        file(b"twice"),
        file(b"twice", b"12345"),
    )
    assert result.size == layer_size(target) == 1000 + 6 + 5000 + 5
    assert result.entries == 7 - 0


def test_holes_take_no_room(tmp_path: Path) -> None:
    target = tmp_path / "layer"
    apply(target, old_sparse(b"f", [(1 << 29, 1)], 1 << 30, b"x"))
    status = (target / "f").stat()
    assert status.st_size == 1 << 30
    assert status.st_blocks * 512 < 1 << 20


def test_many_small_files_in_many_directories(tmp_path: Path) -> None:
    parts = []
    for n in range(3000):
        parts.append(file(b"d%d/e%d/f%d" % (n % 90, n % 7, n), b"%d" % n, mode=0o600 + n % 64, uid=n))
        if n % 500 == 0:
            parts.append(hard(b"links/%d" % n, b"d%d/e%d/f%d" % (n % 90, n % 7, n)))
    target = tmp_path / "layer"
    before = os.listdir("/proc/self/fd")
    result = apply(target, *parts)
    assert result.entries == 3006
    assert len(os.listdir("/proc/self/fd")) == len(before)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("layer-")]
    for n in range(3000):
        path = target / f"d{n % 90}" / f"e{n % 7}" / f"f{n}"
        assert path.read_bytes() == b"%d" % n
        assert (path.stat().st_mode & 0o777, path.stat().st_uid) == (0o600 + n % 64, n)
        assert path.stat().st_nlink == (2 if n % 500 == 0 else 1)


def test_large_files_in_pieces(tmp_path: Path) -> None:
    content = os.urandom(3 << 20) + b"end"
    target = tmp_path / "layer"
    apply(target, file(b"big", content, mode=0o640, uid=5), file(b"after", b"x"))
    assert (target / "big").read_bytes() == content
    assert modes(target)["big"] == (0o640, 5, 0, 1_600_000_000)


def test_the_digest_is_checked(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert apply_layer(io.BytesIO(END), tmp_path / "empty", expected=EMPTY_LAYER).diff_id == EMPTY_LAYER
    with pytest.raises(DigestMismatch):
        apply(tmp_path / "layer", file(b"f", b"x"), expected=EMPTY_LAYER)


def test_progress_counts_packed_bytes(tmp_path: Path) -> None:
    steps: list[int] = []
    result = apply(tmp_path / "layer", file(b"f", bytes(5 << 20)), advance=steps.append)
    assert sum(steps) == result.length == result.tar_size


def test_limits_on_bytes_members_and_room(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="unpacks to more"):
        apply(tmp_path / "a", file(b"f", bytes(3000)), limits=Limits(layer_bytes=2000))
    with pytest.raises(InvalidArgument, match="files are larger"):
        apply(tmp_path / "b", old_sparse(b"f", [], 10**9, b""), limits=Limits(layer_bytes=10**6))
    with pytest.raises(InvalidArgument, match="more than the 2 members"):
        apply(tmp_path / "c", *(file(b"%d" % n) for n in range(3)), limits=Limits(entries=2))
    with pytest.raises(Unavailable, match="nearly full"):
        apply(tmp_path / "d", file(b"f"), limits=Limits(reserve_share=1, reserve_bytes=1 << 62))


def test_an_error_of_the_stream_comes_through(tmp_path: Path) -> None:
    class Broken(io.RawIOBase):
        def read(self, _size: int = -1, /) -> bytes:  # type: ignore[explicit-override]
            raise ConnectionResetError("gone")

    (tmp_path / "layer").mkdir()
    with pytest.raises(ConnectionResetError):
        apply_layer(Broken(), tmp_path / "layer")  # type: ignore[arg-type]


def test_an_error_ends_the_reading_of_a_long_stream(tmp_path: Path) -> None:
    class Endless(io.RawIOBase):
        sent = False

        def read(self, size: int = -1, /) -> bytes:  # type: ignore[explicit-override]
            if not self.sent:
                self.sent = True
                return file(b"../x")
            return bytes(size)

    (tmp_path / "layer").mkdir()
    with pytest.raises(InvalidArgument):
        apply_layer(Endless(), tmp_path / "layer")  # type: ignore[arg-type]
    assert not [thread for thread in threading.enumerate() if thread.name == "layer-inflow"]


def test_few_descriptors_are_enough(tmp_path: Path) -> None:
    soft, hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(map(int, os.listdir("/proc/self/fd")))
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 150, hard_limit))
    try:
        apply(tmp_path / "layer", *(file(b"d%d/f" % n, b"x") for n in range(2000)), directory(b"/".join([b"e"] * 900)))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard_limit))


class TestRemoving:
    """The parent's tree is there already, and deletions are carried out."""

    @pytest.fixture
    def tree(self, tmp_path: Path) -> Path:
        tree = tmp_path / "tree"
        (tree / "d" / "sub").mkdir(parents=True)
        (tree / "d" / "old").write_bytes(b"old")
        (tree / "d" / "sub" / "deep").write_bytes(b"old")
        (tree / "f").write_bytes(b"old")
        (tree / "link").symlink_to("d")
        return tree

    def names(self, tree: Path) -> set[str]:
        return set(flatten(tree))

    def apply(self, tree: Path, *parts: bytes) -> Applied:
        return apply(tree, *parts, style=Style.REMOVE)

    def test_whiteouts_delete(self, tree: Path) -> None:
        self.apply(tree, file(b".wh.f"), file(b"d/.wh.sub"), file(b".wh.never"), file(b"never/.wh.there"))
        assert self.names(tree) == {"d", "d/old", "link"}

    def test_opaque_empties(self, tree: Path) -> None:
        self.apply(tree, file(b"d/.wh..wh..opq"), file(b"d/new", b"new"))
        assert self.names(tree) == {"d", "d/new", "f", "link"}

    def test_opaque_after_its_siblings_spares_them(self, tree: Path) -> None:
        self.apply(tree, file(b"d/sub/new", b"new"), file(b"d/.wh..wh..opq"))
        assert self.names(tree) == {"d", "d/sub", "d/sub/new", "f", "link"}

    def test_opaque_root_empties_all_but_the_new(self, tree: Path) -> None:
        self.apply(tree, file(b"new", b"new"), file(b".wh..wh..opq"), file(b"newer", b"new"))
        assert self.names(tree) == {"new", "newer"}

    @pytest.mark.parametrize("order", [1, -1])
    def test_a_directory_deleted_and_made_again_is_empty(self, tree: Path, order: int) -> None:
        parts = (file(b".wh.d"), directory(b"d/") + file(b"d/new", b"new"))[::order]
        self.apply(tree, *parts)
        assert self.names(tree) == {"d", "d/new", "f", "link"}

    @pytest.mark.parametrize("order", [1, -1])
    def test_a_file_deleted_and_made_again_is_the_new_one(self, tree: Path, order: int) -> None:
        self.apply(tree, *(file(b".wh.f"), file(b"f", b"new"))[::order])
        assert (tree / "f").read_bytes() == b"new"

    def test_types_change(self, tree: Path) -> None:
        self.apply(tree, file(b"d", b"new"), directory(b"f/"), directory(b"link/"))
        assert (tree / "d").read_bytes() == b"new"
        assert (tree / "f").is_dir()
        assert (tree / "link").is_dir()
        assert not (tree / "link").is_symlink()

    def test_directories_merge(self, tree: Path) -> None:
        self.apply(tree, directory(b"d/", mode=0o700), file(b"d/new", b"new"))
        assert self.names(tree) == {"d", "d/new", "d/old", "d/sub", "d/sub/deep", "f", "link"}
        assert stat.S_IMODE((tree / "d").stat().st_mode) == 0o700

    def test_files_are_replaced_and_not_written_through(self, tree: Path) -> None:
        os.link(tree / "f", tree.parent / "other")
        self.apply(tree, file(b"f", b"new"))
        assert (tree.parent / "other").read_bytes() == b"old"
        assert (tree / "f").read_bytes() == b"new"

    def test_hard_links_reach_the_parents_files(self, tree: Path) -> None:
        self.apply(tree, hard(b"g", b"d/old"))
        assert (tree / "g").samefile(tree / "d" / "old")
        with pytest.raises(InvalidArgument, match="does not exist"):
            self.apply(tree, hard(b"h", b"nowhere"))

    def test_a_link_that_content_went_through_stays(self, tree: Path) -> None:
        with pytest.raises(InvalidArgument, match="through a link"):
            self.apply(tree, file(b"link/new", b"new"), file(b".wh.link"))

    def test_size_counts_what_the_layer_brings(self, tree: Path) -> None:
        result = self.apply(
            tree, file(b"new", b"12345"), padded(header(b"d/s", b"2", link=b"xyz")), file(b".wh.f"), file(b".wh.link")
        )
        assert result.size == 8

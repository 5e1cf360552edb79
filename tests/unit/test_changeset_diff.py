"""Layer tars from directories, and what changed between two trees."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import socket
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from lamella.changeset.apply import Style, apply_layer
from lamella.changeset.diff import (
    Captured,
    Change,
    ChangeKind,
    capture_layer,
    iter_changes,
    write_difference,
    write_layer,
    write_tree,
)
from lamella.changeset.tarsplit import reassemble
from lamella.errors import DataLoss, Unsupported
from lamella.fs.usage import layer_size
from tests.support.trees import fingerprint, flatten

CAPABILITY = b"\x01\x00\x00\x02\x00\x04" + bytes(14)


def tree(root: Path) -> Path:
    """One of everything an upper directory may hold."""
    root.mkdir()
    (root / "d").mkdir()
    (root / "d.x").write_bytes(b"sorts between d and d/")
    (root / "d" / "f").write_bytes(b"content")
    os.chmod(root / "d" / "f", 0o4750)
    os.link(root / "d" / "f", root / "hard")
    (root / "s").symlink_to("/etc/passwd")
    os.mknod(root / "gone", stat.S_IFCHR, os.makedev(0, 0))
    os.mknod(root / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mkfifo(root / "pipe", 0o600)
    (root / "opaque").mkdir(mode=0o750)
    os.chown(root / "opaque", 10, 20)
    os.setxattr(root / "opaque", "trusted.overlay.opaque", b"y")
    (root / "opaque" / "in").write_bytes(b"")
    os.setxattr(root / "d", "user.note", b"\0kept")
    os.setxattr(root / "d" / "f", "trusted.overlay.origin", b"\0\xfb")
    os.setxattr(root / "d", "trusted.overlay.impure", b"y")
    os.setxattr(root / "d" / "f", "security.capability", CAPABILITY)
    for path in (root, root / "d", root / "d" / "f"):
        os.utime(path, ns=(5, 1_600_000_000_123_456_789))
    os.utime(root / "s", ns=(5, 1_600_000_000_123_456_789), follow_symlinks=False)
    return root


def layer(root: Path) -> bytes:
    out = io.BytesIO()
    write_layer(root, out)
    return out.getvalue()


def members(archive: bytes) -> Iterator[tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        yield from tar


def captured(root: Path, record: Path, *, normalise: bool = True) -> Captured:
    with record.open("wb") as sink:
        return capture_layer(root, sink, normalise=normalise)


def test_a_layer_is_dockers(tmp_path: Path) -> None:
    found = list(members(layer(tree(tmp_path / "upper"))))
    assert [m.name for m in found] == [
        "d",
        "d/f",
        "d.x",
        ".wh.gone",
        "hard",
        "null",
        "opaque",
        "opaque/.wh..wh..opq",
        "opaque/in",
        "pipe",
        "s",
    ]
    by_name = {m.name: m for m in found}
    assert (by_name["d/f"].mode, by_name["d/f"].mtime, by_name["d/f"].uname) == (0o4750, 1_600_000_000, "")
    assert set(by_name["d/f"].pax_headers) == {"SCHILY.xattr.security.capability"}
    assert set(by_name["d"].pax_headers) == {"SCHILY.xattr.user.note"}
    assert (by_name["hard"].type, by_name["hard"].linkname, by_name["hard"].size) == (tarfile.LNKTYPE, "d/f", 0)
    assert (by_name[".wh.gone"].type, by_name[".wh.gone"].mode, by_name[".wh.gone"].size) == (b"0", 0o600, 0)
    marker = by_name["opaque/.wh..wh..opq"]
    assert (marker.mode, marker.uid, marker.gid, marker.mtime) == (0o750, 10, 20, 0)
    assert (by_name["null"].devmajor, by_name["null"].devminor) == (1, 3)


def test_a_captured_directory_is_the_layer_that_would_be_written(tmp_path: Path) -> None:
    upper = tree(tmp_path / "upper")
    archive = layer(upper)
    result = captured(upper, tmp_path / "record")
    assert result.diff_id == "sha256:" + hashlib.sha256(archive).hexdigest()
    assert (result.tar_size, result.entries) == (len(archive), 11)
    assert result.size == layer_size(upper)
    assert layer(upper) == archive
    out = io.BytesIO()
    reassemble(tmp_path / "record", upper, out.write, expected=result.diff_id)
    assert out.getvalue() == archive


def test_a_captured_directory_is_what_unpacking_would_give(tmp_path: Path) -> None:
    upper = tree(tmp_path / "upper")
    (upper / "d" / "deep").mkdir()
    (upper / "d" / "empty").mkdir()
    for where in (upper / "d" / "deep", upper / "d" / "empty", upper):
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(where / "sock"))
    os.utime(upper / "d" / "empty", ns=(7, 1_500_000_000_000_000_000))
    archive = layer(upper)
    captured(upper, tmp_path / "record")
    applied = tmp_path / "applied"
    applied.mkdir()
    apply_layer(io.BytesIO(archive), applied)
    os.utime(applied / "gone", ns=(0, upper.joinpath("gone").stat().st_mtime_ns))
    assert flatten(upper) == flatten(applied)
    assert {n for n in os.listxattr(upper / "d" / "f") if n != "security.selinux"} == {"security.capability"}
    assert os.getxattr(upper / "opaque", "trusted.overlay.opaque") == b"y"
    assert all(path.lstat().st_mtime_ns % 10**9 == 0 for path in (upper / "d", upper / "d" / "f", upper / "s"))


def test_capturing_may_leave_the_directory_alone(tmp_path: Path) -> None:
    upper = tree(tmp_path / "upper")
    before = fingerprint(upper)
    times = (upper / "d" / "f").stat().st_mtime_ns
    plain = captured(upper, tmp_path / "record", normalise=False)
    assert (fingerprint(upper), (upper / "d" / "f").stat().st_mtime_ns) == (before, times)
    assert captured(upper, tmp_path / "record") == plain


@pytest.mark.parametrize(
    ("name", "value"),
    [("redirect", b"/x"), ("metacopy", b""), ("opaque", b"x"), ("whiteout", b"")],
)
def test_directories_that_mean_more_than_they_hold_are_refused(tmp_path: Path, name: str, value: bytes) -> None:
    upper = tree(tmp_path / "upper")
    os.setxattr(upper / "d", f"trusted.overlay.{name}", value)
    with pytest.raises(Unsupported, match=f"trusted.overlay.{name}"):
        layer(upper)
    with pytest.raises(Unsupported, match=f"trusted.overlay.{name}"):
        captured(upper, tmp_path / "record")


def test_a_file_named_like_a_whiteout_is_refused(tmp_path: Path) -> None:
    upper = tree(tmp_path / "upper")
    (upper / "d" / ".wh.f").write_bytes(b"")
    with pytest.raises(Unsupported, match="means a deletion"):
        layer(upper)


def test_capabilities_of_user_namespaces_become_plain_ones(tmp_path: Path) -> None:
    upper = tree(tmp_path / "upper")
    os.setxattr(upper / "d" / "f", "security.capability", b"\x01\x00\x00\x03" + CAPABILITY[4:] + b"\xe8\3\0\0")
    (member,) = (m for m in members(layer(upper)) if m.name == "d/f")
    value = member.pax_headers["SCHILY.xattr.security.capability"].encode("utf-8", "surrogateescape")
    assert value == CAPABILITY


def test_names_owners_and_times_beyond_the_plain_header(tmp_path: Path) -> None:
    upper = tmp_path / "upper"
    long = "n" * 200
    (upper / long).mkdir(parents=True)
    (upper / long / "ü").write_bytes(b"1")
    os.mkdir(os.fsencode(upper) + b"/\xff")
    os.chown(upper / long, 3_000_000_000, 4_000_000_000)
    os.utime(upper / long / "ü", (0, -5))
    archive = layer(upper)
    found = list(members(archive))
    assert [m.name for m in found] == [long, f"{long}/ü", "\udcff"]
    assert (found[0].uid, found[0].gid) == (3_000_000_000, 4_000_000_000)
    assert found[1].mtime == 0
    applied = tmp_path / "applied"
    applied.mkdir()
    apply_layer(io.BytesIO(archive), applied)
    assert layer(applied) == archive


def test_a_file_that_changes_while_it_is_read_is_noticed(tmp_path: Path) -> None:
    upper = tmp_path / "upper"
    upper.mkdir()
    (upper / "a").write_bytes(bytes(3 << 20))

    class Shrinking(io.BytesIO):
        def write(self, data: object, /) -> int:  # type: ignore[explicit-override]
            os.truncate(upper / "a", 1 << 20)
            return super().write(data)  # type: ignore[arg-type]

    with pytest.raises(DataLoss, match="changed its size"):
        write_layer(upper, Shrinking())


def test_a_whole_tree_is_exported_as_it_is(tmp_path: Path) -> None:
    root = tree(tmp_path / "root")
    out = io.BytesIO()
    write_tree(root, out)
    names = [m.name for m in members(out.getvalue())]
    assert names == ["d", "d/f", "d.x", "gone", "hard", "null", "opaque", "opaque/in", "pipe", "s"]


@pytest.fixture
def trees(tmp_path: Path) -> tuple[Path, Path]:
    lower = tmp_path / "lower"
    for name in ("same/deep", "changed", "type"):
        (lower / name).mkdir(parents=True)
    for name in ("same/deep/f", "changed/f", "type/f", "deleted", "mode", "content", "file"):
        (lower / name).write_bytes(b"old")
    (lower / "gone").mkdir()
    (lower / "gone" / "f").write_bytes(b"old")
    upper = tmp_path / "upper"
    shutil.copytree(lower, upper, symlinks=True)
    return lower, upper


def changes(trees: tuple[Path, Path]) -> list[tuple[str, str]]:
    return [(change.kind.value, os.fsdecode(change.path)) for change in iter_changes(*trees)]


def test_equal_trees_have_no_changes(trees: tuple[Path, Path]) -> None:
    assert changes(trees) == []
    assert changes((trees[0], trees[0])) == []


def test_changes_are_dockers(trees: tuple[Path, Path]) -> None:
    _, upper = trees
    (upper / "deleted").unlink()
    shutil.rmtree(upper / "gone")
    os.chmod(upper / "mode", 0o600)
    (upper / "content").write_bytes(b"changed")
    (upper / "changed" / "new").mkdir()
    (upper / "changed" / "new" / "f").write_bytes(b"new")
    shutil.rmtree(upper / "type")
    (upper / "type").write_bytes(b"a file now")
    (upper / "file").unlink()
    (upper / "file").mkdir()
    (upper / "file" / "in").write_bytes(b"new")
    os.setxattr(upper / "same" / "deep" / "f", "security.capability", CAPABILITY)
    assert changes(trees) == [
        ("C", "changed"),
        ("A", "changed/new"),
        ("A", "changed/new/f"),
        ("C", "content"),
        ("D", "deleted"),
        ("C", "file"),
        ("A", "file/in"),
        ("D", "gone"),
        ("C", "mode"),
        ("C", "same"),
        ("C", "same/deep"),
        ("C", "same/deep/f"),
        ("C", "type"),
    ]


def test_what_docker_does_not_notice(trees: tuple[Path, Path]) -> None:
    _, upper = trees
    os.setxattr(upper / "same" / "deep" / "f", "user.note", b"1")
    os.utime(upper / "same" / "deep")
    seconds = (upper / "mode").stat().st_mtime_ns // 10**9 * 10**9
    os.utime(upper / "mode", ns=(0, seconds))
    old = (upper / "content").stat()
    (upper / "content").write_bytes(b"new")
    os.utime(upper / "content", ns=(0, old.st_mtime_ns))
    os.link(upper / "file", upper / "second-name")
    assert changes(trees) == [("A", "second-name")]


def test_the_order_is_that_of_paths(trees: tuple[Path, Path]) -> None:
    _, upper = trees
    (upper / "same" / "x").write_bytes(b"")
    (upper / "same.x").write_bytes(b"")
    assert list(iter_changes(*trees)) == [
        Change(ChangeKind.CHANGED, b"same"),
        Change(ChangeKind.ADDED, b"same.x"),
        Change(ChangeKind.ADDED, b"same/x"),
    ]


def test_a_difference_applied_to_the_lower_gives_the_upper(trees: tuple[Path, Path]) -> None:
    lower, upper = trees
    (upper / "deleted").unlink()
    shutil.rmtree(upper / "gone")
    shutil.rmtree(upper / "type")
    (upper / "type").symlink_to("changed")
    (upper / "content").write_bytes(b"changed")
    os.link(upper / "content", upper / "changed" / "second")
    out = io.BytesIO()
    write_difference(lower, upper, out)
    apply_layer(io.BytesIO(out.getvalue()), lower, style=Style.REMOVE)
    assert changes(trees) == []
    assert set(flatten(lower)) == set(flatten(upper))
    assert (lower / "content").samefile(lower / "changed" / "second")

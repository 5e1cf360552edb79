"""Random trees: written, unpacked and compared; captured and made again."""

from __future__ import annotations

import io
import os
import stat
import tempfile
from pathlib import Path
from typing import NamedTuple

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lamella.changeset.apply import Style, apply_layer
from lamella.changeset.diff import capture_layer, iter_changes, write_difference, write_layer
from lamella.changeset.tarsplit import reassemble
from lamella.fs.usage import layer_size

NAMES = st.one_of(
    st.sampled_from([b"a", b"b", b"c", b"a.b", b"\xff", b"n" * 120]),
    st.binary(min_size=1, max_size=20)
    .map(lambda raw: raw.replace(b"/", b"_").replace(b"\0", b"_"))
    .filter(lambda name: name not in (b".", b"..") and not name.startswith(b".wh.")),
)
IDS = st.sampled_from([0, 1, 1000, 2_097_151, 2_097_152, 4_294_967_294])


class Made(NamedTuple):
    """What to make at a path."""

    kind: str
    text: bytes
    zeros: int
    mode: int
    uid: int
    gid: int
    mtime: int
    xattrs: dict[bytes, bytes]

    @property
    def content(self) -> bytes:
        """Large content is described, not drawn."""
        return self.text + bytes(self.zeros)


NODES = st.builds(
    Made,
    kind=st.sampled_from(["file", "file", "directory", "symlink", "whiteout", "fifo", "device", "opaque", "hard"]),
    text=st.binary(max_size=40),
    zeros=st.one_of(st.just(0), st.just(0), st.integers(0, 300_000)),
    mode=st.integers(0, 0o7777),
    uid=IDS,
    gid=IDS,
    mtime=st.integers(0, 2**33 + 5),
    xattrs=st.dictionaries(st.sampled_from([b"user.a", b"user.b.c"]), st.binary(max_size=30), max_size=2),
)
PLANS = st.lists(st.tuples(st.lists(NAMES, min_size=1, max_size=3), NODES), max_size=14)
PROFILE = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def make(root: bytes, plan: list[tuple[list[bytes], Made]], *, overlay: bool) -> None:
    """Make what can be made of a plan; names that are taken are passed over."""
    files: list[bytes] = []
    for names, node in plan:
        path = root
        for name in names[:-1]:
            path += b"/" + name
            if not os.path.lexists(path):
                os.mkdir(path)
            if not stat.S_ISDIR(os.lstat(path).st_mode):
                break
        else:
            path += b"/" + names[-1]
            if not os.path.lexists(path):
                make_node(path, node, files, overlay=overlay)
    for directory, _, _ in os.walk(root, topdown=False):
        if os.lstat(directory).st_mtime > 2**33:
            continue
        os.utime(directory, (1, 1_500_000_000))


def make_node(path: bytes, node: Made, files: list[bytes], *, overlay: bool) -> None:
    match node.kind:
        case "hard":
            if files:
                os.link(files[len(node.content) % len(files)], path, follow_symlinks=False)
            return
        case "whiteout":
            if overlay:
                os.mknod(path, stat.S_IFCHR, os.makedev(0, 0))
            return
        case "symlink":
            os.symlink(node.content.replace(b"\0", b"0")[:200] or b"x", path)
        case "fifo":
            os.mkfifo(path)
        case "device":
            os.mknod(path, stat.S_IFBLK, os.makedev(7, node.mode))
        case "file":
            with open(path, "wb") as file:
                file.write(node.content)
        case _:
            os.mkdir(path)
    files.extend([path] if node.kind not in {"directory", "opaque"} else [])
    os.lchown(path, node.uid, node.gid)
    if node.kind != "symlink":
        os.chmod(path, node.mode)
    if node.kind in {"file", "directory"}:
        for name, value in node.xattrs.items():
            os.setxattr(path, name, value)
    if node.kind == "opaque" and overlay:
        os.setxattr(path, "trusted.overlay.opaque", b"y")
    os.utime(path, (node.mtime, node.mtime), follow_symlinks=False)


def described(root: Path) -> dict[bytes, tuple[object, ...]]:
    """Everything that a layer carries of a tree; of a whiteout only that it is one."""
    found: dict[bytes, tuple[object, ...]] = {}
    inodes: dict[int, bytes] = {}
    top = os.fsencode(root)
    for directory, names, files in os.walk(top):
        names.sort()
        for name in sorted(names + files):
            path = directory + b"/" + name
            status = os.lstat(path)
            key = path[len(top) + 1 :]
            if stat.S_ISCHR(status.st_mode) and not status.st_rdev:
                found[key] = ("whiteout",)
                continue
            content: object = None
            if stat.S_ISREG(status.st_mode):
                with open(path, "rb") as file:
                    content = file.read()
            elif stat.S_ISLNK(status.st_mode):
                content = os.readlink(path)
            xattrs: dict[str, bytes] = {}
            if not stat.S_ISLNK(status.st_mode):
                xattrs = {key: os.getxattr(path, key) for key in os.listxattr(path) if key != "security.selinux"}
            first = key if stat.S_ISDIR(status.st_mode) else inodes.setdefault(status.st_ino, key)
            found[key] = (
                status.st_mode,
                status.st_uid,
                status.st_gid,
                status.st_rdev,
                int(status.st_mtime),
                content,
                xattrs,
                first,
            )
    return found


@PROFILE
@given(PLANS)
def test_a_layer_written_and_applied_is_the_same(plan: list[tuple[list[bytes], Made]]) -> None:
    with tempfile.TemporaryDirectory(prefix="trees") as place:
        upper, target, record = Path(place, "upper"), Path(place, "target"), Path(place, "record")
        upper.mkdir()
        target.mkdir()
        make(os.fsencode(upper), plan, overlay=True)
        archive = io.BytesIO()
        write_layer(upper, archive)
        with record.open("wb") as tar_split:
            result = apply_layer(io.BytesIO(archive.getvalue()), target, tar_split=tar_split)
        assert described(target) == described(upper)
        assert result.size == layer_size(target) == layer_size(upper)
        again = io.BytesIO()
        reassemble(record, target, again.write, expected=result.diff_id)
        assert again.getvalue() == archive.getvalue()
        with record.open("wb") as tar_split:
            captured = capture_layer(upper, tar_split)
        assert (captured.diff_id, captured.size, captured.entries) == (result.diff_id, result.size, result.entries)
        reassemble(record, upper, lambda _: None, expected=result.diff_id)


@PROFILE
@given(PLANS, PLANS)
def test_a_difference_applied_to_the_lower_gives_the_upper(
    below: list[tuple[list[bytes], Made]], above: list[tuple[list[bytes], Made]]
) -> None:
    with tempfile.TemporaryDirectory(prefix="trees") as place:
        lower, upper, record = Path(place, "lower"), Path(place, "upper"), Path(place, "record")
        lower.mkdir()
        upper.mkdir()
        make(os.fsencode(lower), [item for item in below if item[1].kind != "hard"], overlay=False)
        make(os.fsencode(upper), [item for item in above if item[1].kind != "hard"], overlay=False)
        archive = io.BytesIO()
        write_difference(lower, upper, archive)
        with record.open("wb") as tar_split:
            result = apply_layer(io.BytesIO(archive.getvalue()), lower, tar_split=tar_split, style=Style.REMOVE)
        assert list(iter_changes(lower, upper)) == []
        assert set(described(lower)) == set(described(upper))
        again = io.BytesIO()
        reassemble(record, lower, again.write, expected=result.diff_id)
        assert again.getvalue() == archive.getvalue()

"""Archives that ADD and a context on standard input unpack."""

from __future__ import annotations

import io
import os
import stat
import subprocess
import tarfile  # an independent writer
from collections.abc import Callable
from pathlib import Path

import pytest

from lamella.build.stream import open_stream
from lamella.build.unpack import is_archive, unpack
from lamella.errors import DataLoss, InvalidArgument
from lamella.fs.rooted import Root
from tests.support.building import OLD
from tests.support.trees import flatten

PACKERS = {
    "none": ["cat"],
    "gzip": ["gzip", "-n"],
    "bzip2": ["bzip2"],
    "xz": ["xz"],
    "zstd": ["zstd", "-q"],
}


def member(name: str, content: bytes | None = b"x", **attributes: object) -> tuple[tarfile.TarInfo, bytes]:
    """Make a member: a file, or without content a directory unless another type is given."""
    info = tarfile.TarInfo(name)
    info.mtime = OLD
    info.mode = 0o644
    if content is None:
        info.type, info.mode = tarfile.DIRTYPE, 0o755
    info.size = len(content or b"")
    for key, value in attributes.items():
        setattr(info, key, value)
    return info, content or b""


def tar_of(*members: tuple[tarfile.TarInfo, bytes], form: int = tarfile.PAX_FORMAT) -> io.BytesIO:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=form) as tar:
        for info, content in members:
            tar.addfile(info, io.BytesIO(content))
    raw.seek(0)
    return raw


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tuple[tarfile.TarInfo, bytes]:
    return member(name, b"", type=kind, linkname=target)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


@pytest.fixture
def into(place: Path) -> Callable[[io.BytesIO], Path]:
    """Unpack into a directory and give it."""

    def run(raw: io.BytesIO) -> Path:
        with Root(place) as directory:
            unpack(raw, directory)
        return place

    return run


@pytest.mark.parametrize("packer", PACKERS)
def test_every_compression_is_told_from_the_bytes(
    packer: str, into: Callable[[io.BytesIO], Path], tmp_path: Path
) -> None:
    (tmp_path / "source/d").mkdir(parents=True)
    (tmp_path / "source/d/f").write_bytes(os.urandom(100_000))
    (tmp_path / "source/l").symlink_to("d/f")
    (tmp_path / "source/h").hardlink_to(tmp_path / "source/d/f")
    plain = subprocess.run(["tar", "-C", tmp_path / "source", "-cf", "-", "."], check=True, capture_output=True).stdout
    packed = subprocess.run(PACKERS[packer], input=plain, check=True, capture_output=True).stdout
    assert is_archive(io.BytesIO(packed))
    assert flatten(into(io.BytesIO(packed))) == flatten(tmp_path / "source")
    with open_stream(io.BytesIO(packed)) as (directory, text):
        assert (text, flatten(directory)) == (None, flatten(tmp_path / "source"))


@pytest.mark.parametrize("raw", [b"", b"FROM base\n", b"\x1f\x8b no gzip", b"\0" * 1024, b"BZh9 no"])
def test_what_is_no_archive_is_not_taken_for_one(raw: bytes) -> None:
    assert not is_archive(io.BytesIO(raw))


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_long_names_owners_and_times_arrive(form: int, into: Callable[[io.BytesIO], Path]) -> None:
    name = "/".join(["d" * 90] * 3) + "/ünï"
    top = into(tar_of(member(name, b"x", uid=123_456, gid=7, mode=0o4750), link("l", "t" * 200), form=form))
    status = (top / name).stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode), int(status.st_mtime)) == (
        123_456,
        7,
        0o4750,
        OLD,
    )
    assert os.readlink(top / "l") == "t" * 200


def test_directories_get_their_times_after_their_content(into: Callable[[io.BytesIO], Path]) -> None:
    top = into(tar_of(member("d", None), member("d/e", None), member("d/e/f"), member("d/g")))
    assert [int((top / path).stat().st_mtime) for path in ("d", "d/e", "d/e/f")] == [OLD] * 3


def test_a_later_member_replaces_an_earlier_one(into: Callable[[io.BytesIO], Path]) -> None:
    members = [member("a", b"1"), member("a", b"2"), member("b", None), member("b/c"), member("b", b"file"),
               link("c", "a"), member("c", b"3"), link("d", "a"), member("d", None)]  # fmt: skip
    top = into(tar_of(*members))
    assert {path: node.kind for path, node in flatten(top).items()} == {"a": "-", "b": "-", "c": "-", "d": "d"}
    assert ((top / "a").read_bytes(), (top / "c").read_bytes()) == (b"2", b"3")


def test_a_whiteouts_name_is_a_name_like_any_other(into: Callable[[io.BytesIO], Path]) -> None:
    top = into(tar_of(member("f"), member(".wh.f"), member(".wh..wh..opq")))
    assert sorted(os.listdir(top)) == [".wh..wh..opq", ".wh.f", "f"]


@pytest.mark.parametrize(
    "members",
    [
        [member("../evil")],
        [member("a/../../evil")],
        [link("f", "../victim", tarfile.LNKTYPE)],
        [link("f", "none", tarfile.LNKTYPE)],
        [member("d", None), link("f", "d", tarfile.LNKTYPE)],
        [member("c", b"", type=tarfile.CHRTYPE)],
    ],
    ids=[
        "dotdot",
        "inner dotdot",
        "hard link out",
        "hard link to nothing",
        "hard link to directory",
        "whiteout device",
    ],
)
def test_hostile_members_are_refused(
    members: list[tuple[tarfile.TarInfo, bytes]], into: Callable[[io.BytesIO], Path], tmp_path: Path
) -> None:
    (tmp_path / "victim").write_text("mine")
    with pytest.raises((InvalidArgument, OSError)):
        into(tar_of(*members))
    assert not (tmp_path / "evil").exists()
    assert (tmp_path / "victim").read_text() == "mine"
    assert (tmp_path / "victim").stat().st_nlink == 1


def test_links_lead_nowhere_outside(into: Callable[[io.BytesIO], Path], tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "f").write_text("mine")
    members = [link("a", str(victim)), member("a/f", b"evil"), link("b", "../victim"), member("b/f", b"evil"),
               link("c", f"{victim}/f"), link("d", "c", tarfile.LNKTYPE), member("/abs/f", b"x")]  # fmt: skip
    top = into(tar_of(*members))
    assert (victim / "f").read_text() == "mine"
    assert (top / "victim/f").read_text() == "evil"
    assert (top / "d").is_symlink()
    assert (top / "abs/f").read_bytes() == b"x"


@pytest.mark.parametrize("cut", [700, 1100, 5000])
def test_an_archive_that_is_cut_off_is_an_error(cut: int, into: Callable[[io.BytesIO], Path]) -> None:
    raw = tar_of(member("a", b"1" * 300), member("b", b"2" * 9000)).getvalue()
    with pytest.raises((DataLoss, InvalidArgument)):
        into(io.BytesIO(raw[:cut]))


def test_holes_of_a_sparse_file_are_not_written(tmp_path: Path) -> None:
    with (tmp_path / "sparse").open("wb") as file:
        for offset, data in ((0, b"start"), (300 << 20, b"middle")):
            file.seek(offset)
            file.write(data)
        file.truncate(1 << 30)
    subprocess.run(["tar", "-C", tmp_path, "-S", "--format=posix", "-cf", tmp_path / "x.tar", "sparse"], check=True)
    (tmp_path / "out").mkdir()
    with (tmp_path / "x.tar").open("rb") as archive, Root(tmp_path / "out") as directory:
        unpack(archive, directory)
    with (tmp_path / "out/sparse").open("rb") as made, (tmp_path / "sparse").open("rb") as given:
        assert made.read(16) == given.read(16)
        for one in (made, given):
            one.seek((300 << 20) - 8)
        assert made.read(64) == given.read(64)
    status = (tmp_path / "out/sparse").stat()
    assert status.st_size == 1 << 30
    assert status.st_blocks * 512 < 1 << 20

"""The tar reader and writer, judged by the standard library's."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable

import pytest

from lamella.changeset.entry import Entry, Kind, entry_path
from lamella.changeset.limits import Limits
from lamella.changeset.tario import ByteSource, TarReader, TarWriter
from lamella.errors import DataLoss, InvalidArgument
from tests.corpus.craft import END, base256, file, header


def reader(archive: bytes, chunk: int = 1 << 20, limits: Limits = Limits()) -> TarReader:  # noqa: B008
    stream = io.BytesIO(archive)
    return TarReader(ByteSource(lambda: stream.read(chunk)), limits)


def members(archive: bytes, chunk: int = 1 << 20) -> list[tuple[Entry, bytes]]:
    tar = reader(archive, chunk)
    found = []
    while (entry := tar.next_entry()) is not None:
        found.append((entry, b"".join(tar.pieces())))
    return found


def standard(add: Callable[[tarfile.TarFile], None], form: int) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        add(tar)
    return buffer.getvalue()


def everything(tar: tarfile.TarFile) -> None:
    for name, kind in (
        ("d", tarfile.DIRTYPE),
        ("s", tarfile.SYMTYPE),
        ("h", tarfile.LNKTYPE),
        ("c", tarfile.CHRTYPE),
        ("b", tarfile.BLKTYPE),
        ("p", tarfile.FIFOTYPE),
        ("n" * 150 + "/" + "m" * 90, tarfile.REGTYPE),
    ):
        info = tarfile.TarInfo(name)
        info.type = kind
        info.linkname = "t" * 130 if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE) else ""
        info.devmajor, info.devminor = (8, 3) if kind in (tarfile.CHRTYPE, tarfile.BLKTYPE) else (0, 0)
        info.mode, info.uid, info.gid, info.mtime = 0o4751, 70, 71, 1_700_000_001
        content = b"12345" if kind == tarfile.REGTYPE else b""
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))


@pytest.mark.parametrize("chunk", [1, 511, 512, 1 << 20])
@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_reads_what_the_standard_library_writes(form: int, chunk: int) -> None:
    found = members(standard(everything, form), chunk)
    assert [entry.kind for entry, _ in found] == [
        Kind.DIRECTORY,
        Kind.SYMLINK,
        Kind.HARD_LINK,
        Kind.CHARACTER,
        Kind.BLOCK,
        Kind.FIFO,
        Kind.REGULAR,
    ]
    last, data = found[-1]
    assert last.name == b"n" * 150 + b"/" + b"m" * 90
    assert data == b"12345"
    assert found[1][0].link == b"t" * 130
    assert (found[3][0].major, found[3][0].minor) == (8, 3)
    assert all((e.mode, e.uid, e.gid, e.mtime_ns) == (0o4751, 70, 71, 1_700_000_001 * 10**9) for e, _ in found)


def test_reads_numbers_in_every_spelling() -> None:
    archive = b"".join(
        (
            file(b"spaces", mode=b"   644 \0", uid=b"     17\0"),
            file(b"bare", uid=b"00000017"),
            file(b"blank", uid=b"        ", gid=bytes(8)),
            file(b"binary", uid=base256(3_000_000_000, 8), mtime=base256(-1, 12)),
            END,
        )
    )
    spaces, bare, blank, binary = (entry for entry, _ in members(archive))
    assert (spaces.mode, spaces.uid, bare.uid, blank.uid, blank.gid) == (0o644, 15, 15, 0, 0)
    assert (binary.uid, binary.mtime_ns) == (3_000_000_000, -(10**9))


def test_reads_the_signed_checksums_of_old_tars() -> None:
    block = bytearray(header(b"caf\xe9"))
    signed = sum(byte - 256 if byte > 127 else byte for byte in block[:148] + block[156:]) + 256
    block[148:156] = b"%06o\0 " % signed
    assert members(bytes(block) + END)[0][0].name == b"caf\xe9"


def test_reads_fractions_of_seconds() -> None:
    def add(tar: tarfile.TarFile) -> None:
        info = tarfile.TarInfo("f")
        info.pax_headers = {"mtime": "1600000000.123456789", "atime": "1600000001.5"}
        tar.addfile(info)

    ((entry, _),) = members(standard(add, tarfile.PAX_FORMAT))
    assert (entry.mtime_ns, entry.atime_ns) == (1_600_000_000_123_456_789, 1_600_000_001_500_000_000)


def test_raw_bytes_and_data_together_are_the_archive() -> None:
    archive = standard(everything, tarfile.PAX_FORMAT)
    tar = reader(archive, 700)
    rebuilt = b""
    while (entry := tar.next_entry()) is not None:
        rebuilt += tar.take_raw()
        if entry.kind is Kind.REGULAR:
            rebuilt += tar.read()
    rebuilt += b"".join(tar.trailer())
    assert rebuilt == archive


def test_data_that_is_not_read_is_skipped() -> None:
    tar = reader(file(b"a", b"x" * 5000) + file(b"b", b"y") + END)
    first = tar.next_entry()
    second = tar.next_entry()
    assert first is not None
    assert second is not None
    assert (first.name, second.name, bytes(tar.read())) == (b"a", b"b", b"y")


def test_a_cut_in_data_is_data_loss() -> None:
    tar = reader(file(b"a", b"x" * 5000)[:3000])
    assert tar.next_entry() is not None
    with pytest.raises(DataLoss, match="cut off"):
        tar.read()


def test_limits_are_the_callers() -> None:
    archive = standard(everything, tarfile.PAX_FORMAT)
    tar = reader(archive, limits=Limits(extended_header=100))
    with pytest.raises(InvalidArgument, match="more than the 100 allowed"):
        list(iter(tar.next_entry, None))


@pytest.mark.parametrize(
    ("name", "path"),
    [
        (b"a", b"a"),
        (b"./a/", b"a"),
        (b"/a", b"a"),
        (b"a//b", b"a/b"),
        (b"a/./b/..", b"a"),
        (b"./", b""),
        (b"", b""),
        (b"/", b""),
        (b"...", b"..."),
        (b"a/.hidden", b"a/.hidden"),
        (b"././@LongLink", b"@LongLink"),
    ],
)
def test_names_become_paths(name: bytes, path: bytes) -> None:
    assert entry_path(name) == path


def written(*entries: tuple[Entry, bytes]) -> bytes:
    out = io.BytesIO()
    writer = TarWriter(out.write)
    for entry, data in entries:
        writer.add(entry, iter([data]) if data else None)
    writer.finish()
    assert writer.written == len(out.getvalue())
    return out.getvalue()


def test_writes_what_the_standard_library_reads() -> None:
    long = "d" * 120 + "/" + "é" * 30
    archive = written(
        (Entry(b"dir/", Kind.DIRECTORY, mode=0o1777, mtime_ns=1_600_000_000 * 10**9), b""),
        (Entry(long.encode(), Kind.REGULAR, size=3, uid=3_000_000_000, gid=2_097_151, mtime_ns=7 * 10**9), b"abc"),
        (Entry(b"s", Kind.SYMLINK, link=b"t" * 101), b""),
        (Entry(b"c", Kind.CHARACTER, major=4, minor=64), b""),
        (Entry(b"x", Kind.REGULAR, xattrs={b"user.a": b"\0\xff=\n"}), b""),
    )
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        found = tar.getmembers()
        assert [m.name for m in found] == ["dir", long, "s", "c", "x"]
        assert (found[0].mode, found[0].mtime, found[0].isdir()) == (0o1777, 1_600_000_000, True)
        assert (found[1].uid, found[1].gid) == (3_000_000_000, 2_097_151)
        assert tar.extractfile(found[1]).read() == b"abc"  # type: ignore[union-attr]
        assert found[2].linkname == "t" * 101
        assert (found[3].devmajor, found[3].devminor) == (4, 64)
    assert members(archive)[4][0].xattrs == {b"user.a": b"\0\xff=\n"}


def test_plain_members_need_no_extended_header() -> None:
    archive = written((Entry(b"f", Kind.REGULAR, uid=2_097_151, gid=2_097_151, size=1), b"x"))
    assert len(archive) == 512 + 512 + 1024
    assert archive[257:265] == b"ustar\x0000"


def test_the_bytes_are_those_of_go() -> None:
    """A header as Docker 24 and later writes it, field by field."""
    archive = written((Entry(b"etc/f", Kind.REGULAR, mode=0o644, mtime_ns=1_600_000_000 * 10**9), b""))
    expected = (
        b"etc/f".ljust(100, b"\0")
        + b"0000644\x000000000\x000000000\x0000000000000\x0013727410000\x00"
        + b"%06o\0 0" % (sum(archive[:148]) + sum(archive[156:512]) + 256)
        + bytes(100)
        + b"ustar\x0000"
        + bytes(64)
        + b"0000000\x000000000\x00"
    ).ljust(512, b"\0")
    assert archive[:512] == expected


def test_a_file_that_shrinks_or_grows_is_noticed() -> None:
    for data in (b"ab", b"abcd"):
        with pytest.raises(DataLoss, match="changed its size"):
            written((Entry(b"f", Kind.REGULAR, size=3), data))

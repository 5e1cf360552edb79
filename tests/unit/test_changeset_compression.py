"""Unpacking whatever layers are packed in, and packing what is saved."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import sys
from collections.abc import Callable

import pytest
import zstandard

from lamella.changeset.compression import (
    PIECE,
    Compression,
    iter_decompressed,
    open_compressed,
    open_decompressed,
    sniff_compression,
)
from lamella.errors import DataLoss, InvalidArgument
from tests.corpus.craft import END, file

CONTENT = os.urandom(300_000) + bytes(3_000_000) + b"end"


def zstd(content: bytes) -> bytes:
    return zstandard.ZstdCompressor(write_checksum=True).compress(content)


PACKERS: dict[Compression, Callable[[bytes], bytes]] = {
    Compression.GZIP: gzip.compress,
    Compression.ZSTD: zstd,
    Compression.BZIP2: bz2.compress,
    Compression.XZ: lzma.compress,
}


class Dripping(io.RawIOBase):
    """A stream that gives a few bytes at a time, as a socket may."""

    def __init__(self, content: bytes, step: int) -> None:
        self.content = content
        self.step = step

    def read(self, _size: int = -1, /) -> bytes:  # type: ignore[explicit-override]
        piece, self.content = self.content[: self.step], self.content[self.step :]
        return piece


@pytest.mark.parametrize("kind", PACKERS)
def test_each_packing_is_recognised_and_unpacked(kind: Compression) -> None:
    packed = PACKERS[kind](CONTENT)
    seen: list[bytes] = []
    assert sniff_compression(packed) is kind
    assert b"".join(iter_decompressed(io.BytesIO(packed), observe=seen.append)) == CONTENT
    assert b"".join(seen) == packed


@pytest.mark.parametrize("kind", PACKERS)
def test_streams_one_after_the_other_are_one(kind: Compression) -> None:
    pack = PACKERS[kind]
    packed = pack(b"first") + pack(b"") + pack(CONTENT)
    assert b"".join(iter_decompressed(io.BytesIO(packed))) == b"first" + CONTENT


@pytest.mark.parametrize("kind", PACKERS)
@pytest.mark.parametrize("step", [1, 7])
def test_pieces_of_any_size_will_do(kind: Compression, step: int) -> None:
    content = b"abc" * 1000
    stream = Dripping(PACKERS[kind](content) + PACKERS[kind](content), step)
    assert b"".join(iter_decompressed(stream)) == content * 2  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", PACKERS)
def test_every_cut_is_noticed(kind: Compression) -> None:
    packed = PACKERS[kind](os.urandom(200) + b"x" * 500)
    for length in range(7, len(packed)):
        with pytest.raises((DataLoss, InvalidArgument)):
            b"".join(iter_decompressed(io.BytesIO(packed[:length])))


def test_a_cut_between_zstd_blocks_is_noticed() -> None:
    packer = zstandard.ZstdCompressor().compressobj()
    first = packer.compress(os.urandom(400_000)) + packer.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)
    rest = packer.compress(b"rest") + packer.flush()
    assert len(b"".join(iter_decompressed(io.BytesIO(first + rest)))) == 400_004
    with pytest.raises(DataLoss, match="cut off"):
        b"".join(iter_decompressed(io.BytesIO(first)))


@pytest.mark.parametrize("kind", PACKERS)
def test_damage_is_refused(kind: Compression) -> None:
    packed = bytearray(PACKERS[kind](os.urandom(5000)))
    packed[2500] ^= 0xFF
    with pytest.raises((InvalidArgument, DataLoss)):
        b"".join(iter_decompressed(io.BytesIO(bytes(packed))))


@pytest.mark.parametrize("kind", PACKERS)
def test_garbage_after_the_end_is_refused(kind: Compression) -> None:
    with pytest.raises((InvalidArgument, DataLoss)):
        b"".join(iter_decompressed(io.BytesIO(PACKERS[kind](b"content") + b"garbage" * 10)))


def test_zero_padding_after_gzip_is_allowed() -> None:
    assert b"".join(iter_decompressed(io.BytesIO(gzip.compress(b"x") + bytes(1000)))) == b"x"


def test_skippable_zstd_frames_are_skipped() -> None:
    skippable = b"\x50\x2a\x4d\x18\x03\x00\x00\x00abc"
    packed = skippable + zstd(b"one") + skippable + zstd(b"two") + skippable
    assert b"".join(iter_decompressed(io.BytesIO(packed))) == b"onetwo"


@pytest.mark.parametrize("kind", PACKERS)
def test_a_bomb_comes_out_in_small_pieces(kind: Compression) -> None:
    bomb = PACKERS[kind](bytes(64 << 20))
    assert max(map(len, iter_decompressed(io.BytesIO(bomb)))) <= PIECE


def test_the_zstd_window_is_capped() -> None:
    def with_window(log: int) -> bytes:
        parameters = zstandard.ZstdCompressionParameters(window_log=log, compression_level=1)
        packer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
        return packer.compress(b"x" * 1000) + packer.flush()

    assert b"".join(iter_decompressed(io.BytesIO(with_window(27)))) == b"x" * 1000
    with pytest.raises(InvalidArgument, match="too much memory"):
        b"".join(iter_decompressed(io.BytesIO(with_window(28))))


def test_plain_bytes_pass() -> None:
    for content in (b"", b"x", b"12345", CONTENT):
        assert b"".join(iter_decompressed(io.BytesIO(content))) == content


@pytest.mark.parametrize("name", [b"BZh91AY&SY", b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd", b"\xfd7zXZ"])
def test_a_tar_is_a_tar_whatever_its_first_name(name: bytes) -> None:
    archive = file(name, b"content") + END
    assert b"".join(iter_decompressed(io.BytesIO(archive))) == archive


def test_opened_streams_are_files() -> None:
    with open_decompressed(io.BytesIO(gzip.compress(CONTENT))) as stream:
        assert stream.read(10) == CONTENT[:10]
        assert stream.read() == CONTENT[10:]


@pytest.mark.parametrize("kind", [Compression.NONE, Compression.GZIP, Compression.ZSTD])
def test_what_is_packed_unpacks_and_is_always_the_same(kind: Compression) -> None:
    results = []
    for _ in range(2):
        sink = io.BytesIO()
        with open_compressed(sink, kind) as packer:
            packer.write(CONTENT[:1000])
            packer.write(memoryview(CONTENT)[1000:])
        results.append(sink.getvalue())
    assert results[0] == results[1]
    assert sniff_compression(results[0]) is kind
    assert b"".join(iter_decompressed(io.BytesIO(results[0]))) == CONTENT


def test_other_packings_are_not_written() -> None:
    with (
        pytest.raises(InvalidArgument, match="choose none, gzip or zstd"),
        open_compressed(io.BytesIO(), Compression.XZ),
    ):
        pass


def test_no_program_is_started_to_unpack(tmp_path: object) -> None:
    """Nothing from a layer or a PATH can be run if nothing is run."""
    events: list[str] = []
    live = True

    def hook(event: str, _: object) -> None:
        if live and event in {"subprocess.Popen", "os.exec", "os.posix_spawn", "os.fork", "os.system"}:
            events.append(event)

    sys.addaudithook(hook)
    for pack in PACKERS.values():
        b"".join(iter_decompressed(io.BytesIO(pack(CONTENT))))
    live = False
    assert events == []

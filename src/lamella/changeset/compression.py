"""Compressed streams: what a layer's bytes are packed in, told from their first bytes, and how to unpack and pack.

Everything happens in this process, in bounded memory: no helper program is ever looked up, and output comes in pieces
of at most about 1 MiB however well the input was packed.  Whether the bytes are the right ones is for verify to say.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import Any, BinaryIO, Final, Protocol, cast

from lamella.changeset.limits import DEFAULT_LIMITS, Limits
from lamella.errors import DataLoss, InvalidArgument

PIECE: Final = 1 << 20
_INPUT: Final = 256 << 10
_HEADER: Final = 512


class Compression(StrEnum):
    """How a stream is packed."""

    NONE = "none"
    GZIP = "gzip"
    ZSTD = "zstd"
    BZIP2 = "bzip2"
    XZ = "xz"


def sniff_compression(start: bytes) -> Compression:
    """Tell from the first bytes how a stream is packed; six will do, but 512 also know a tar whatever its first name.

    A plain archive may begin with a file called ``BZh``, and then only its header's form and checksum tell.
    """
    if start[257:262] == b"ustar" and len(start) >= _HEADER and _is_header(start[:_HEADER]):
        return Compression.NONE
    if start.startswith(b"\x1f\x8b\x08"):
        return Compression.GZIP
    # A stream of zstd frames may begin with a skippable one.
    if start.startswith(b"\x28\xb5\x2f\xfd") or (start[1:4] == b"\x2a\x4d\x18" and start[0] & 0xF0 == 0x50):
        return Compression.ZSTD
    if start.startswith(b"BZh"):
        return Compression.BZIP2
    if start.startswith(b"\xfd7zXZ\x00"):
        return Compression.XZ
    return Compression.NONE


def _is_header(block: bytes) -> bool:
    digits = block[148:154].strip(b" ")
    return digits.isdigit() and b"%06o" % (sum(block) - sum(block[148:156]) + 256) == digits.rjust(6, b"0")


def iter_decompressed(
    raw: BinaryIO, *, observe: Callable[[bytes], object] | None = None, limits: Limits = DEFAULT_LIMITS
) -> Iterator[bytes]:
    """Yield the unpacked content of *raw* in pieces, reading *raw* to its end.

    *observe* is shown every byte read from *raw*, in order.  Damaged input is InvalidArgument, input that is cut off
    DataLoss.  Concatenated gzip members, zstd frames, bzip2 and xz streams are one stream, as their tools have it.
    """

    def read() -> bytes:
        chunk = raw.read(size)
        if chunk and observe is not None:
            observe(chunk)
        return chunk

    size = _INPUT
    start = read()
    while len(start) < _HEADER and (more := read()):
        start += more
    compression = sniff_compression(start)
    match compression:
        case Compression.NONE:
            size = PIECE
            return _plain(start, read)
        case Compression.ZSTD:
            return _zstd(start, read, limits)
        case Compression.GZIP:
            return _members(_gzip, start, read, compression)
        case Compression.BZIP2:
            return _members(_bzip2, start, read, compression)
        case Compression.XZ:
            return _members(lambda: _xz(limits), start, read, compression)


def _plain(start: bytes, read: Callable[[], bytes]) -> Iterator[bytes]:
    while start:
        yield start
        start = read()


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    @property
    def needs_input(self) -> bool: ...
    def decompress(self, data: bytes, /, max_length: int = -1) -> bytes: ...


def _gzip() -> _Decompressor:
    from isal.igzip_lib import DECOMP_GZIP, IgzipDecompressor

    return IgzipDecompressor(flag=DECOMP_GZIP)


def _bzip2() -> _Decompressor:
    from bz2 import BZ2Decompressor

    return BZ2Decompressor()


def _xz(limits: Limits) -> _Decompressor:
    from lzma import FORMAT_XZ, LZMADecompressor

    return LZMADecompressor(FORMAT_XZ, memlimit=limits.window)


def _members(
    make: Callable[[], _Decompressor], start: bytes, read: Callable[[], bytes], compression: Compression
) -> Iterator[bytes]:
    """Unpack stream after stream until the input ends; zero padding after the last is allowed."""
    pending = start
    while pending:
        decompressor = make()
        while not decompressor.eof:
            if decompressor.needs_input and not pending:
                pending = read()
                if not pending:
                    raise DataLoss(f"the {compression} stream is cut off")
            try:
                piece = decompressor.decompress(pending, PIECE)
            except Exception as problem:
                # Each library has an error of its own (isal_zlib.error, OSError, LZMAError, EOFError).
                raise InvalidArgument(f"the {compression} stream is damaged: {problem}") from problem
            pending = b""
            if piece:
                yield piece
        pending = decompressor.unused_data
        while True:
            pending = pending.lstrip(b"\0")
            if pending:
                break
            pending = read()
            if not pending:
                return


class _Frames:
    """Follows zstd's framing in the packed bytes, only to know whether they end where a frame ends.

    The streaming reader gives no sign when its input is cut off between two blocks.
    """

    def __init__(self) -> None:
        self._buffer = b""
        self._skip = 0
        self._in_frame = False
        self._checksum = 0

    def feed(self, chunk: bytes) -> None:
        if self._skip >= len(chunk):
            self._skip -= len(chunk)
            return
        data = self._buffer + chunk[self._skip :] if self._buffer or self._skip else chunk
        self._skip = 0
        position = 0
        while (step := self._step(data, position)) is not None:
            position += step
            if position >= len(data):
                self._skip = position - len(data)
                self._buffer = b""
                return
        self._buffer = data[position:]

    @property
    def complete(self) -> bool:
        return not (self._in_frame or self._buffer or self._skip)

    def _step(self, data: bytes, position: int) -> int | None:
        """Return how many bytes the next header and what follows it take; None if the header is not all here."""
        if self._in_frame:
            if len(data) - position < 3:
                return None
            header = int.from_bytes(data[position : position + 3], "little")
            size = 1 if header >> 1 & 3 == 1 else header >> 3
            if header & 1:
                self._in_frame = False
                size += self._checksum
            return 3 + size
        if len(data) - position < 8:
            # The shortest frame there is has nine bytes, an empty skippable one eight.
            return None
        if data[position + 1 : position + 4] == b"\x2a\x4d\x18":
            return 8 + int.from_bytes(data[position + 4 : position + 8], "little")
        descriptor = data[position + 4]
        single_segment = descriptor >> 5 & 1
        content_size = (single_segment, 2, 4, 8)[descriptor >> 6]
        dictionary = (0, 1, 2, 4)[descriptor & 3]
        self._checksum = 4 * (descriptor >> 2 & 1)
        self._in_frame = True
        return 5 + (1 - single_segment) + dictionary + content_size


def _zstd(start: bytes, read: Callable[[], bytes], limits: Limits) -> Iterator[bytes]:
    import zstandard

    frames = _Frames()
    pending = start

    class Packed:
        """The packed bytes as the file object that zstandard reads from."""

        def read(self, _size: int = -1, /) -> bytes:
            nonlocal pending
            chunk = pending or read()
            pending = b""
            frames.feed(chunk)
            return chunk

    decompressor = zstandard.ZstdDecompressor(max_window_size=limits.window)
    packed: Any = Packed()
    reader = decompressor.stream_reader(packed, read_across_frames=True)
    while True:
        try:
            piece = reader.read(PIECE)
        except zstandard.ZstdError as problem:
            raise InvalidArgument(f"the zstd stream is damaged or needs too much memory: {problem}") from problem
        if not piece:
            break
        yield piece
    if not frames.complete:
        raise DataLoss("the zstd stream is cut off")


class _Pieces(io.RawIOBase):
    """An iterator of pieces as a readable file."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = memoryview(b"")

    def readable(self) -> bool:  # type: ignore[explicit-override]  # override() came with Python 3.12
        return True

    def readinto(self, buffer: Any, /) -> int:  # type: ignore[explicit-override]  # override() came with Python 3.12
        if not self._rest:
            self._rest = memoryview(next(self._pieces, b""))
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count


def open_decompressed(raw: BinaryIO, *, limits: Limits = DEFAULT_LIMITS) -> BinaryIO:
    """Return a readable file with the unpacked content of *raw*, which stays the caller's to close."""
    return io.BufferedReader(_Pieces(iter_decompressed(raw, limits=limits)), PIECE)


@contextmanager
def open_compressed(sink: BinaryIO, compression: Compression, *, level: int | None = None) -> Generator[BinaryIO]:
    """Yield a writable file that packs into *sink*; leaving the block without error completes the stream.

    The result depends on the content and *level* alone: no time, no name.  *sink* stays the caller's to close.
    """
    match compression:
        case Compression.NONE:
            yield sink
        case Compression.GZIP:
            writer = _GzipWriter(sink, 1 if level is None else level)
            yield cast("BinaryIO", writer)
            writer.finish()
        case Compression.ZSTD:
            import zstandard

            compressor = zstandard.ZstdCompressor(level=3 if level is None else level, write_checksum=True)
            with compressor.stream_writer(sink, closefd=False) as packed:
                yield packed
        case _:
            raise InvalidArgument(f"lamella does not write {compression}: choose none, gzip or zstd")


class _GzipWriter:
    """Packs as gzip with a constant header; the part of a file that writers use."""

    def __init__(self, sink: BinaryIO, level: int) -> None:
        from isal.isal_zlib import compressobj

        self._sink = sink
        self._packer = compressobj(level, wbits=31)

    def write(self, data: Any, /) -> int:
        packed = self._packer.compress(data)
        if packed:
            self._sink.write(packed)
        return len(data)

    def flush(self) -> None:
        """Do nothing: a flush in the middle would change the stream."""

    def finish(self) -> None:
        self._sink.write(self._packer.flush())

"""tar-split: all of a layer's tar except the file contents, so that the same bytes can be made again.

The format is Docker's ``tar-split.json.gz``: literal segments, and members' data by name with a CRC-64.  `TarSplit`
writes one beside a tar that is read or made; `reassemble` puts record and files together again and checks every
file and the whole.
"""

from __future__ import annotations

import binascii
import errno
import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Final

from lamella.changeset.compression import iter_decompressed
from lamella.changeset.entry import entry_path, show
from lamella.errors import DataLoss, DigestMismatch, InvalidArgument
from lamella.linux.openat2 import open_in_root
from lamella.model.digest import PREFIX, DiffID, Digest

Buffer = bytes | memoryview
Sink = Callable[[bytes | memoryview], object]

_PIECE: Final = 1 << 20
_FLUSH_AT: Final = 64 << 10
# A segment of 1 MiB is 1.4 MiB of text; other writers may make larger ones.
_LONGEST_LINE: Final = 64 << 20


class TarSplit:
    """Writes the record of one tar to *sink*, packed; `finish` completes it, *sink* stays the caller's."""

    def __init__(self, sink: BinaryIO) -> None:
        from isal.isal_zlib import compressobj

        self._sink = sink
        self._packer = compressobj(1, wbits=31)
        self._lines: list[bytes] = []
        self._pending = 0
        self._position = 0

    def segment(self, raw: Buffer) -> None:
        """Record literal bytes."""
        for start in range(0, len(raw), _PIECE):
            payload = binascii.b2a_base64(raw[start : start + _PIECE], newline=False)
            self._line(b'{"type":2,"payload":"%b","position":%d}\n' % (payload, self._position))

    def file(self, name: bytes, size: int, crc: int) -> None:
        """Record the data of a member; they must be found under *name* when the tar is made again."""
        payload = b"null"
        length = b""
        if size:
            payload = b'"%b"' % binascii.b2a_base64(crc.to_bytes(8, "big"), newline=False)
            length = b'"size":%d,' % size
        self._line(
            b'{"type":1,%b,%b"payload":%b,"position":%d}\n' % (_name_field(name), length, payload, self._position)
        )

    def finish(self) -> None:
        """Write out what is pending and end the stream."""
        self._flush()
        self._sink.write(self._packer.flush())

    def _line(self, line: bytes) -> None:
        self._position += 1
        self._lines.append(line)
        self._pending += len(line)
        if self._pending >= _FLUSH_AT:
            self._flush()

    def _flush(self) -> None:
        packed = self._packer.compress(b"".join(self._lines))
        self._lines.clear()
        self._pending = 0
        if packed:
            self._sink.write(packed)


class NoRecord:
    """Takes the place of a `TarSplit` where none is wanted."""

    def segment(self, raw: Buffer) -> None:
        """Ignore literal bytes."""

    def file(self, name: bytes, size: int, crc: int) -> None:
        """Ignore a member."""

    def finish(self) -> None:
        """Do nothing."""


def _name_field(name: bytes) -> bytes:
    import msgspec

    try:
        text = name.decode()
    except UnicodeDecodeError:
        return b'"name_raw":"%b"' % binascii.b2a_base64(name, newline=False)
    return b'"name":' + msgspec.json.encode(text)


def iter_records(tar_split: Path) -> Iterator[tuple[bytes, bytes | None, int]]:
    """Yield (payload, name, size) of every line; *name* is None for segments.  Damage is DataLoss."""
    import msgspec

    class Line(msgspec.Struct, frozen=True, gc=False):
        type: int
        name: str | None = None
        name_raw: bytes | None = None
        size: int = 0
        payload: bytes | None = None

    decoder = msgspec.json.Decoder(Line)
    with open_record(tar_split) as packed:
        try:
            for text in _lines(iter_decompressed(packed)):
                line = decoder.decode(text)
                payload = line.payload or b""
                if line.type == 2:
                    yield payload, None, 0
                elif line.type == 1:
                    name = line.name_raw if line.name_raw is not None else (line.name or "").encode()
                    yield payload, name, line.size
                else:
                    raise DataLoss(f"{tar_split} is damaged: unknown record type {line.type}")
        except (InvalidArgument, msgspec.DecodeError, UnicodeEncodeError) as problem:
            raise DataLoss(f"{tar_split} is damaged: {problem}") from problem


def open_record(tar_split: Path) -> BinaryIO:
    """Open a record that nobody vouches for: a FIFO must not make us wait, nor a link have us read elsewhere."""
    try:
        fd = os.open(tar_split, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as problem:
        if problem.errno not in {errno.ELOOP, errno.ENXIO}:
            raise
        raise DataLoss(f"{tar_split} is not a regular file") from problem
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise DataLoss(f"{tar_split} is not a regular file")
    return open(fd, "rb")


def _lines(pieces: Iterator[bytes]) -> Iterator[bytes]:
    rest: list[bytes] = []
    held = 0
    for piece in pieces:
        first, newline, remainder = piece.partition(b"\n")
        rest.append(first)
        held += len(first)
        if held > _LONGEST_LINE:
            raise InvalidArgument("a line is too long")
        if not newline:
            continue
        yield b"".join(rest)
        *complete, last = remainder.split(b"\n")
        yield from filter(None, complete)
        rest = [last]
        held = len(last)
    if any(rest):
        yield b"".join(rest)


def reassemble(tar_split: Path, root: Path, sink: Sink, *, expected: DiffID | None = None) -> DiffID:
    """Make a layer's tar again from its record and its files, pass it to *sink*, and return its diff ID.

    Names are resolved inside *root*, whatever links stand there.  A file that is missing or changed raises DataLoss
    naming it, a tar that does not hash to *expected* DigestMismatch; by then *sink* has been given bytes, so only a
    return without error makes them a layer.
    """
    whole = hashlib.sha256()
    root_fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for payload, name, size in iter_records(tar_split):
            if name is None:
                whole.update(payload)
                sink(payload)
            elif size:
                for piece in _checked_file(root_fd, root, name, size, payload):
                    whole.update(piece)
                    sink(piece)
    finally:
        os.close(root_fd)
    actual = DiffID(Digest(PREFIX + whole.hexdigest()))
    if expected is not None and actual != expected:
        raise DigestMismatch(f"layer in {root}", expected, actual)
    return actual


def _checked_file(root_fd: int, root: Path, name: bytes, size: int, checksum: bytes) -> Iterator[bytes]:
    """Yield the content of one file; DataLoss if it is not what was recorded."""
    from fastcrc.crc64 import go_iso

    problem = f"layer file {show(name)} in {root}"
    try:
        path = entry_path(name)
        # O_NONBLOCK: a FIFO put in the place of the file must not make us wait.
        fd = open_in_root(root_fd, path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except InvalidArgument as error:
        raise DataLoss(f"{problem}: {error}") from error
    except OSError as error:
        if error.errno not in {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.ENXIO}:
            raise
        raise DataLoss(f"{problem} is missing: load or pull the image again") from error
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_size != size:
            raise DataLoss(f"{problem} is not the {size} bytes it was: load or pull the image again")
        crc = 0
        left = size
        while left:
            piece = os.read(fd, min(left, _PIECE))
            if not piece:
                raise DataLoss(f"{problem} became shorter while it was read")
            left -= len(piece)
            crc = go_iso(piece, crc)
            yield piece
    finally:
        os.close(fd)
    if crc.to_bytes(8, "big") != checksum:
        raise DataLoss(f"{problem} has other content than it was stored with: load or pull the image again")

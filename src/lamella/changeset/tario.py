"""Reading and writing tar archives as streams.

`TarReader` gives the members of an archive in one pass, with the raw bytes between their data at hand for tar-split;
it is strict, bounded, and raises nothing but InvalidArgument (malformed or refused) and DataLoss (cut off).
`TarWriter` writes layers.  What members mean on disk is left to apply and diff.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, Protocol

from lamella.changeset.entry import Entry, Kind, entry_path, show
from lamella.changeset.limits import DEFAULT_LIMITS, Limits
from lamella.changeset.sparse import checked_regions, parse_map_record, read_map_1_0, read_old_map
from lamella.changeset.tarheader import (
    BLOCK,
    SPARSE_MAP_KEY,
    TYPE_FLAGS,
    XATTR_KEY,
    ZERO_BLOCK,
    Header,
    format_header,
    parse_pax,
    pax_integer,
    pax_time,
)
from lamella.errors import DataLoss, InvalidArgument

Buffer = bytes | memoryview

_NO_ID: Final = (1 << 32) - 1
# All the extended headers of one member together; each alone has its own limit.
_EXTENDED_PER_MEMBER: Final = 4


class ByteSource:
    """Bytes pulled in chunks of any size, given out in the sizes asked for and copied as little as possible."""

    __slots__ = ("_chunk", "_end", "_position", "_pull", "_view", "consumed")

    def __init__(self, pull: Callable[[], bytes]) -> None:
        """Take chunks from *pull*, which returns ``b""`` for ever once there are no more."""
        self._pull = pull
        self._chunk = b""
        self._view = memoryview(b"")
        self._position = 0
        self._end = 0
        self.consumed = 0

    def _refill(self) -> bool:
        self._chunk = self._pull()
        self._view = memoryview(self._chunk)
        self._position = 0
        self._end = len(self._chunk)
        return self._end > 0

    def piece(self, limit: int) -> memoryview:
        """Return at least one and at most *limit* bytes without copying; empty only at the end."""
        if self._position == self._end and not self._refill():
            return self._view
        start = self._position
        self._position = min(self._end, start + limit)
        self.consumed += self._position - start
        return self._view[start : self._position]

    def take(self, count: int) -> bytes:
        """Return *count* bytes, fewer only at the end."""
        start = self._position
        stop = start + count
        if stop <= self._end:
            self._position = stop
            self.consumed += count
            return self._chunk[start:stop]
        pieces = []
        while count and (part := self.piece(count)):
            pieces.append(part)
            count -= len(part)
        return b"".join(pieces)

    def view(self, count: int) -> Buffer:
        """Return *count* bytes, fewer only at the end, copied only if they lie in more than one chunk."""
        start = self._position
        stop = start + count
        if stop <= self._end:
            self._position = stop
            self.consumed += count
            return self._view[start:stop]
        return self.take(count)


class TarReader:
    """The members of one archive, in order.

    After `next_entry`, the data of the member is read with `read` or `pieces` (what is left is skipped), and
    `take_raw` returns every byte of the archive between the data before and this data: padding and headers.  After
    the last member, `trailer` gives the rest of the stream.
    """

    def __init__(self, source: ByteSource, limits: Limits = DEFAULT_LIMITS) -> None:
        self._source = source
        self._limits = limits
        self._left = 0
        self._padding = 0
        self._raw: list[bytes] = []
        self._extended = 0

    def next_entry(self) -> Entry | None:
        """Return the next member, None at the end of the archive."""
        for _ in self.pieces():
            pass
        self._extended = 0
        records: dict[bytes, bytes] | None = None
        long_name = long_link = None
        while True:
            block = self._next_block()
            if block is None:
                if records is not None or long_name is not None or long_link is not None:
                    raise DataLoss("archive is cut off after an extended header")
                return None
            header = Header(block)
            flag = header.type_flag
            if flag in TYPE_FLAGS or flag == b"S":
                return self._entry(header, block, records or {}, long_name, long_link)
            content = self._take_extended(header)
            if flag == b"x":
                records = parse_pax(content)
            elif flag == b"L":
                long_name = content.partition(b"\0")[0]
            elif flag == b"K":
                long_link = content.partition(b"\0")[0]
            elif flag == b"g":
                parse_pax(content)
                return Entry(header.name, Kind.GLOBAL, path=b"")
            else:
                raise InvalidArgument(f"member {show(header.name)} has the unknown type {show(flag)}")

    def read(self) -> Buffer:
        """Return all data of the present member at once; for members known to be small."""
        data = self._source.view(self._left)
        if len(data) < self._left:
            raise DataLoss("archive is cut off within a member's data")
        self._left = 0
        return data

    def pieces(self, limit: int = 1 << 20) -> Iterator[memoryview]:
        """Yield what is left of the present member's data in pieces of at most *limit* bytes."""
        while self._left:
            part = self._source.piece(min(self._left, limit))
            if not part:
                raise DataLoss("archive is cut off within a member's data")
            self._left -= len(part)
            yield part

    def take_raw(self) -> bytes:
        """Return the bytes read since the last data or the last call that are not data."""
        raw = self._raw[0] if len(self._raw) == 1 else b"".join(self._raw)
        self._raw.clear()
        return raw

    def trailer(self, limit: int = 1 << 20) -> Iterator[Buffer]:
        """Yield what `take_raw` has and then all that follows the end of the archive."""
        # The second zero block goes with the first, as Docker records them.
        raw = self.take_raw() + self._source.take(BLOCK)
        if raw:
            yield raw
        while part := self._source.piece(limit):
            yield part

    def _next_block(self) -> bytes | None:
        if self._padding:
            padding = self._source.take(self._padding)
            self._raw.append(padding)
            cut_off = len(padding) < self._padding
            self._padding = 0
            if cut_off:
                # The padding of the last member may be missing, as every reader allows.
                return None
        block = self._source.take(BLOCK)
        if not block:
            return None
        self._raw.append(block)
        if len(block) < BLOCK:
            if block.count(0) == len(block):
                return None
            raise DataLoss("archive is cut off within a header")
        # One zero block ends an archive: what follows is kept, and never read as members.
        return None if block == ZERO_BLOCK else block

    def _more(self) -> bytes:
        """Take one more block that belongs to the headers."""
        block = self._source.take(BLOCK)
        if len(block) < BLOCK:
            raise DataLoss("archive is cut off within a header")
        self._raw.append(block)
        return block

    def _take_extended(self, header: Header) -> bytes:
        limit = self._limits.extended_header
        self._extended += max(header.size, 0)
        if not 0 <= header.size <= limit or self._extended > _EXTENDED_PER_MEMBER * limit:
            raise InvalidArgument(f"an extended header of {header.size} bytes is more than the {limit} allowed")
        padded = self._source.take(header.size + -header.size % BLOCK)
        if len(padded) < header.size + -header.size % BLOCK:
            raise DataLoss("archive is cut off within an extended header")
        self._raw.append(padded)
        return padded[: header.size]

    def _entry(
        self,
        header: Header,
        block: bytes,
        records: dict[bytes, bytes],
        long_name: bytes | None,
        long_link: bytes | None,
    ) -> Entry:
        kind = TYPE_FLAGS.get(header.type_flag, Kind.REGULAR)
        name = header.name if long_name is None else long_name
        link = header.link if long_link is None else long_link
        size, uid, gid = header.size, header.uid, header.gid
        mtime_ns = header.mtime * 10**9
        atime_ns: int | None = None
        xattrs: dict[bytes, bytes] | None = None
        # Keys with an empty value delete a record; the plain header's value stands.
        for key, value in records.items():
            if key.startswith(XATTR_KEY):
                xattrs = xattrs if xattrs is not None else {}
                xattrs[key[len(XATTR_KEY) :]] = value
            elif not value:
                continue
            elif key == b"path":
                name = value
            elif key == b"linkpath":
                link = value
            elif key == b"size":
                size = pax_integer(value, "size")
            elif key == b"uid":
                uid = pax_integer(value, "uid")
            elif key == b"gid":
                gid = pax_integer(value, "gid")
            elif key == b"mtime":
                mtime_ns = pax_time(value, "mtime")
            elif key == b"atime":
                atime_ns = pax_time(value, "atime")
        if header.type_flag == b"\0" and name.endswith(b"/"):
            kind = Kind.DIRECTORY
        name = records.get(b"GNU.sparse.name") or name
        if kind is not Kind.REGULAR:
            # Links, directories and devices have no data, whatever their size field says.
            size = 0
        if not 0 <= size < 1 << 63:
            raise InvalidArgument(f"member {show(name)} has the impossible size {size}")
        if not (0 <= uid < _NO_ID and 0 <= gid < _NO_ID):
            raise InvalidArgument(f"member {show(name)} has an owner out of range: {uid}:{gid}")
        entry = Entry(
            name,
            kind,
            size=size,
            mode=header.mode & 0o7777,
            uid=uid,
            gid=gid,
            mtime_ns=mtime_ns,
            atime_ns=atime_ns,
            link=link,
            major=header.devmajor,
            minor=header.devminor,
            xattrs=xattrs,
        )
        self._left = size
        self._padding = -size % BLOCK
        if kind is Kind.REGULAR:
            if header.type_flag == b"S":
                regions, entry.real_size = read_old_map(block, self._more, name, self._limits.sparse_regions)
                entry.sparse = self._checked(entry, regions)
            elif any(key.startswith(b"GNU.sparse.") for key in records):
                self._read_pax_sparse(entry, records)
        elif kind in {Kind.CHARACTER, Kind.BLOCK} and not (0 <= entry.major < 1 << 12 and 0 <= entry.minor < 1 << 20):
            raise InvalidArgument(f"device {show(name)} has numbers out of range: {entry.major}:{entry.minor}")
        return entry

    def _read_pax_sparse(self, entry: Entry, records: dict[bytes, bytes]) -> None:
        version = (records.get(b"GNU.sparse.major", b""), records.get(b"GNU.sparse.minor", b""))
        real = records.get(b"GNU.sparse.realsize") or records.get(b"GNU.sparse.size")
        if version == (b"1", b"0"):
            regions, taken = read_map_1_0(self._sparse_block, self._limits.sparse_regions)
            entry.size -= taken
        elif version in {(b"0", b"0"), (b"0", b"1")} or (version == (b"", b"") and SPARSE_MAP_KEY in records):
            regions = parse_map_record(records.get(SPARSE_MAP_KEY, b""), self._limits.sparse_regions)
        else:
            raise InvalidArgument(f"member {show(entry.name)} is sparse in an unknown format")
        entry.real_size = entry.size if real is None else pax_integer(real, "sparse size")
        entry.sparse = self._checked(entry, regions)

    def _sparse_block(self) -> bytes:
        if self._left < BLOCK:
            raise InvalidArgument("archive is damaged: malformed sparse map")
        self._left -= BLOCK
        return self._more()

    def _checked(self, entry: Entry, regions: list[tuple[int, int]]) -> list[tuple[int, int]]:
        return checked_regions(regions, entry.real_size, entry.size, entry.name, self._limits.sparse_regions)


def open_tar(pull: Callable[[], bytes], limits: Limits = DEFAULT_LIMITS) -> TarReader:
    """Read the archive whose bytes *pull* returns in chunks, ``b""`` at the end."""
    return TarReader(ByteSource(pull), limits)


class Recorder(Protocol):
    """What a writer tells of the archive it makes, see tarsplit."""

    def segment(self, raw: Buffer) -> None:
        """Record literal bytes."""

    def file(self, name: bytes, size: int, crc: int) -> None:
        """Record a member's data by its name."""


class TarWriter:
    """Writes members to *emit*, and tells a recorder what it writes."""

    def __init__(self, emit: Callable[[Buffer], object], recorder: Recorder | None = None) -> None:
        self._emit = emit
        self._recorder = recorder
        self._padding = b""
        self.written = 0
        self.entries = 0

    def add(self, entry: Entry, data: Iterator[Buffer] | None = None) -> None:
        """Write one member; *data* must give exactly its size, else DataLoss."""
        head = self._padding + format_header(entry)
        self._emit(head)
        crc = 0
        left = entry.size
        if left:
            from fastcrc.crc64 import go_iso

            for part in data or ():
                left -= len(part)
                if left < 0:
                    break
                self._emit(part)
                crc = go_iso(part, crc)
            if left:
                raise DataLoss(f"{show(entry.name)} changed its size while it was read; stop what writes to it")
        if self._recorder is not None:
            self._recorder.segment(head)
            self._recorder.file(entry.name, entry.size, crc)
        self._padding = bytes(-entry.size % BLOCK)
        self.written += len(head) + entry.size
        self.entries += 1

    def finish(self) -> None:
        """Write the end of the archive: two zero blocks."""
        tail = self._padding + bytes(2 * BLOCK)
        self._emit(tail)
        self.written += len(tail)
        if self._recorder is not None:
            self._recorder.segment(tail)


__all__ = ["Buffer", "ByteSource", "Entry", "Kind", "Recorder", "TarReader", "TarWriter", "entry_path", "open_tar"]

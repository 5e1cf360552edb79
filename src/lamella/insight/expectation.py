"""What a layer's directory should hold, read from its tar-split: names, types, owners, modes, sizes.

Docker's shape of a tar-split, one segment of headers and one line for each member, is read without parsing the tar;
everything else goes through the archive reader, with zeros in the place of the data.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from lamella.changeset.compression import iter_decompressed
from lamella.changeset.entry import Entry, Kind, entry_path
from lamella.changeset.tarheader import parse_number
from lamella.changeset.tario import ByteSource, TarReader
from lamella.changeset.tarsplit import open_record
from lamella.changeset.whiteout import META_PREFIX, may_be_whiteout, parse_whiteout
from lamella.errors import DataLoss, InvalidArgument

REGULAR: Final = stat.S_IFREG
DIRECTORY: Final = stat.S_IFDIR
LINK: Final = -1
WHITEOUT: Final = -2
_BLOCK: Final = 512
_ZEROS: Final = bytes(1 << 20)
_LONGEST_LINE: Final = 64 << 20
_UTF8: Final = sys.getfilesystemencoding().lower() == "utf-8"
_KINDS: Final = {
    Kind.REGULAR: stat.S_IFREG,
    Kind.SYMLINK: stat.S_IFLNK,
    Kind.CHARACTER: stat.S_IFCHR,
    Kind.BLOCK: stat.S_IFBLK,
    Kind.DIRECTORY: stat.S_IFDIR,
    Kind.FIFO: stat.S_IFIFO,
}

Owner = tuple[int, int, int]
"""Mode, user, group; -1 is a user or group that is not to be compared."""


class Wanted(NamedTuple):
    """One name of a layer."""

    kind: int
    """The type bits, LINK for another name of *target*, WHITEOUT for a deletion."""
    owner: Owner
    size: int
    """Of a file; -1 if it is not known."""
    target: str = ""
    """Of a symbolic or hard link."""
    device: int = 0
    capability: bytes = b""


class Odd(Exception):
    """The record is not of the usual shape."""


class Expectation:
    """The names of one layer."""

    def __init__(self) -> None:
        self.names: dict[str, Wanted] = {}
        self.opaque: set[str] = set()
        self.root: Wanted | None = None
        self.link_owners: dict[str, list[Owner]] = {}
        """The owners and modes given with further names of a file."""
        self.tar_size = 0
        """Sum of the sizes of its members."""
        self.irregular = False
        """Whether some name is given more than once."""
        self.understood = True
        """False if only the engine that stored the layer can say what it should hold."""

    def add(self, entry: Entry) -> None:
        """Add what a member makes."""
        if entry.kind is Kind.GLOBAL:
            return
        path = entry.path
        owner = (entry.mode & 0o7777, _id(entry.uid), _id(entry.gid))
        self.tar_size += entry.real_size if entry.kind is Kind.REGULAR else 0
        if may_be_whiteout(path):
            self._hide(path)
            return
        if not path:
            self.root = Wanted(DIRECTORY, owner, 0)
            return
        name = os.fsdecode(path)
        capability = (entry.xattrs or {}).get(b"security.capability", b"")
        if entry.kind is Kind.HARD_LINK:
            target = os.fsdecode(entry_path(entry.link))
            self._put(name, Wanted(LINK, owner, 0, target))
            self.link_owners.setdefault(target, []).append(owner)
        elif entry.kind is Kind.SYMLINK:
            self._put(name, Wanted(stat.S_IFLNK, owner, len(entry.link), os.fsdecode(entry.link)))
        elif entry.kind is Kind.CHARACTER and not entry.major and not entry.minor:
            self._put(name, Wanted(WHITEOUT, owner, 0))
        else:
            size = entry.real_size if entry.kind is Kind.REGULAR else 0
            device = os.makedev(entry.major, entry.minor) if entry.kind in {Kind.CHARACTER, Kind.BLOCK} else 0
            self._put(name, Wanted(_KINDS[entry.kind], owner, size, device=device, capability=capability))

    def _hide(self, path: bytes) -> None:
        try:
            whiteout = parse_whiteout(path)
        except InvalidArgument:
            self.understood = False
            return
        if whiteout is None:
            return
        hidden = os.fsdecode(whiteout.hidden)
        if whiteout.opaque:
            self.opaque.add(hidden)
        elif hidden not in self.names:
            self.names[hidden] = Wanted(WHITEOUT, (0, 0, 0), 0)
        else:
            self.irregular = True

    def _put(self, name: str, wanted: Wanted) -> None:
        before = self.names.get(name)
        if before is not None:
            self.irregular = True
            if before[0] == DIRECTORY and wanted.kind != DIRECTORY:
                below = f"{name}/"
                for other in [other for other in self.names if other.startswith(below)]:
                    del self.names[other]
        self.names[name] = wanted


def read_expectation(tar_split: Path) -> Expectation:
    """Read what a layer should hold.  Raises DataLoss for a record that is damaged, FileNotFoundError for none."""
    try:
        return _read_usual(tar_split)
    except Odd:
        return _read_any(tar_split)


def _lines(tar_split: Path) -> Iterator[list[object]]:
    """Yield the lines of a record, many at a time."""
    import msgspec

    class Line(msgspec.Struct, frozen=True, gc=False):
        type: int
        name: str | None = None
        name_raw: bytes | None = None
        size: int = 0
        payload: bytes | None = None

    decoder = msgspec.json.Decoder(Line)
    rest = b""
    with open_record(tar_split) as packed:
        if not os.fstat(packed.fileno()).st_size:
            raise DataLoss(f"{tar_split} is empty")
        try:
            for piece in iter_decompressed(packed):
                head, newline, tail = piece.rpartition(b"\n")
                if not newline:
                    rest += piece
                    if len(rest) > _LONGEST_LINE:
                        raise DataLoss(f"{tar_split} is damaged: a line is too long")
                    continue
                yield decoder.decode_lines(rest + head)  # type: ignore[misc]
                rest = tail
            if rest.strip():
                yield decoder.decode_lines(rest)  # type: ignore[misc]
        except (InvalidArgument, msgspec.DecodeError, UnicodeError) as problem:
            raise DataLoss(f"{tar_split} is damaged: {problem}") from problem


def _read_usual(tar_split: Path) -> Expectation:
    """Read a record of the usual shape; Odd if it has another."""
    found = Expectation()
    names = found.names
    owners: dict[bytes, Owner] = {}
    pending: bytes | None = None
    padding = 0
    tar_size = 0
    for batch in _lines(tar_split):
        for line in batch:
            if line.type == 2:  # type: ignore[attr-defined]
                payload: bytes = line.payload or b""  # type: ignore[attr-defined]
                pending = payload if not pending else pending + payload
                continue
            if line.type != 1:  # type: ignore[attr-defined]
                raise DataLoss(f"{tar_split} is damaged: unknown record type {line.type}")  # type: ignore[attr-defined]
            if pending is None:
                raise Odd
            size: int = line.size  # type: ignore[attr-defined]
            name: str | None = line.name  # type: ignore[attr-defined]
            flag = pending[-356] if len(pending) == padding + _BLOCK else -1
            if (flag == 0x30 or flag == 0x35) and name is not None and _is_clean(name):  # noqa: PLR1714 — faster
                if (name[-1] == "/") != (flag == 0x35):
                    raise Odd
                raw = pending[-412:-388]
                owner = owners.get(raw)
                if owner is None:
                    owner = owners[raw] = _owner(raw)
                key = name[:-1] if flag == 0x35 else name
                if name[:2] == "./":
                    key = key[2:]
                if not key:
                    found.root = Wanted(DIRECTORY, owner, 0)
                elif key in names:
                    raise Odd
                else:
                    # A plain tuple: making the named one costs as much as all the rest.
                    names[key] = (REGULAR if flag == 0x30 else DIRECTORY, owner, size, "", 0, b"")  # type: ignore[assignment]
                tar_size += size
            else:
                _add_one(found, pending[padding:], size)
            pending = None
            padding = -size % _BLOCK
    rest = (pending or b"")[padding:]
    if rest[:_BLOCK].strip(b"\0"):
        raise Odd
    if found.irregular:
        raise Odd
    found.tar_size += tar_size
    return found


def _is_clean(name: str) -> bool:
    """Tell whether a name needs no more than its end looked at to be a path."""
    if name[:2] == "./":
        name = name[2:]
        if not name:
            return True
    return (
        _UTF8
        and name[:1] not in {"/", "."}
        and "/." not in name
        and "//" not in name
        and "\0" not in name
        and ".wh." not in name
    )


def _id(number: int) -> int:
    """Return a user's or group's number, -1 for one that the kernel does not take as such."""
    return number if 0 <= number < (1 << 32) - 1 else -1


def _owner(raw: bytes) -> Owner:
    try:
        return parse_number(raw[:8]) & 0o7777, _id(parse_number(raw[8:16])), _id(parse_number(raw[16:24]))
    except InvalidArgument as problem:
        raise Odd from problem


def _add_one(found: Expectation, headers: bytes, size: int) -> None:
    """Add the one member that *headers* are for; Odd if there are more, or none."""
    source = ByteSource(iter((headers, b"")).__next__)
    try:
        entry = TarReader(source).next_entry()
    except (InvalidArgument, DataLoss, StopIteration) as problem:
        raise Odd from problem
    if entry is None or source.consumed != len(headers) or entry.kind is Kind.GLOBAL:
        raise Odd
    if entry.kind is Kind.REGULAR and (entry.size != size or entry.sparse is not None):
        raise Odd
    found.add(entry)


def _read_any(tar_split: Path) -> Expectation:
    """Read a record of any shape as the archive that it stands for."""
    found = Expectation()

    def stream() -> Iterator[bytes]:
        for batch in _lines(tar_split):
            for line in batch:
                if line.type == 2:  # type: ignore[attr-defined]
                    if line.payload:  # type: ignore[attr-defined]
                        yield line.payload  # type: ignore[attr-defined]
                    continue
                left: int = line.size  # type: ignore[attr-defined]
                while left > 0:
                    piece = min(left, len(_ZEROS))
                    yield _ZEROS if piece == len(_ZEROS) else _ZEROS[:piece]
                    left -= piece

    pieces = stream()
    reader = TarReader(ByteSource(lambda: next(pieces, b"")))
    try:
        while (entry := reader.next_entry()) is not None:
            found.add(entry)
    except InvalidArgument:
        found.understood = False  # what Docker takes and lamella does not, such as a sparse file's map
    except DataLoss as problem:
        if "damaged" in str(problem):
            raise
        found.understood = False
    return found


def is_own_name(path: str) -> bool:
    """Tell whether a path holds a name that only older union file systems give a meaning."""
    return any(part.startswith((".wh.", os.fsdecode(META_PREFIX))) for part in path.split("/"))

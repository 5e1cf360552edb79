"""The fields of tar headers: numbers, checksums, PAX records, and the header blocks a layer is written with.

Reading is strict and follows Go's ``archive/tar``, the reader every image meets; writing gives the bytes that Go's
PAX format gives, so that a layer written here is one Docker would have written.  Streams are tario's business.
"""

from __future__ import annotations

import re
import struct
from functools import lru_cache
from typing import Final

from lamella.changeset.entry import Entry, Kind, show
from lamella.errors import InvalidArgument

BLOCK: Final = 512
ZERO_BLOCK: Final = bytes(BLOCK)
XATTR_KEY: Final = b"SCHILY.xattr."
SPARSE_MAP_KEY: Final = b"GNU.sparse.map"
_HEADER: Final = struct.Struct("100s8s8s8s12s12s8sc100s8s32s32s8s8s155s12x")
_OCTAL: Final = re.compile(rb"[ \0]*([0-7]*) *(?:\0.*)?", re.DOTALL)
_LENGTH: Final = re.compile(rb"([0-9]{1,10}) ")
_DECIMAL: Final = re.compile(rb"[+-]?[0-9]{1,19}")
_SECONDS: Final = re.compile(rb"(-?)([0-9]{1,19})(?:\.([0-9]*))?")
_NOT_ASCII: Final = bytes([0, *range(128, 256)])

TYPE_FLAGS: Final = {
    b"0": Kind.REGULAR,
    b"\0": Kind.REGULAR,
    b"7": Kind.REGULAR,
    b"1": Kind.HARD_LINK,
    b"2": Kind.SYMLINK,
    b"3": Kind.CHARACTER,
    b"4": Kind.BLOCK,
    b"5": Kind.DIRECTORY,
    b"6": Kind.FIFO,
}


class Header:
    """The fields of one header block as they stand there, numbers read where they are always wanted."""

    __slots__ = ("devmajor", "devminor", "gid", "link", "mode", "mtime", "name", "size", "type_flag", "uid")

    def __init__(self, block: bytes) -> None:
        """Read *block*; a wrong checksum or a malformed number is InvalidArgument."""
        (name, mode, uid, gid, size, mtime, checksum, self.type_flag, link, magic, _, _, major, minor, prefix) = (
            _HEADER.unpack(block)
        )
        expected = parse_number(checksum)
        if expected != sum(block) - sum(checksum) + 256 and expected != _signed_sum(block):
            raise InvalidArgument("archive is damaged: a header's checksum does not match (is it a tar archive?)")
        name = name.partition(b"\0")[0]
        if magic == b"ustar\x0000":
            if prefix[0]:
                # The star format keeps times in the end of the prefix field and says so in the last four bytes.
                length = 131 if block[508:] == b"tar\0" else 155
                prefix = prefix[:length].partition(b"\0")[0]
                if prefix:
                    name = prefix + b"/" + name
            self.devmajor = _usual_number(major)
            self.devminor = _usual_number(minor)
        elif magic == b"ustar  \0":
            self.devmajor = _usual_number(major)
            self.devminor = _usual_number(minor)
        else:
            self.devmajor = self.devminor = 0
        self.name: bytes = name
        self.link: bytes = link.partition(b"\0")[0]
        self.mode = _usual_number(mode)
        self.uid = _usual_number(uid)
        self.gid = _usual_number(gid)
        self.size = parse_number(size)
        self.mtime = _usual_number(mtime)


def _signed_sum(block: bytes) -> int:
    """Sum a header as old tars on machines with signed characters did."""
    body = block[:148] + block[156:]
    return sum(body) + 256 - 256 * sum(byte >= 128 for byte in body)


def parse_number(field: bytes) -> int:
    """Read a numeric field: octal text, or GNU's base 256 if the top bit of the first byte is set."""
    if field[0] & 0x80:
        value = int.from_bytes(field, "big")
        bits = 8 * len(field)
        if field[0] & 0x40:
            value -= 1 << bits
        else:
            value -= 1 << (bits - 1)
        if not -(1 << 63) <= value < 1 << 63:
            raise InvalidArgument("archive is damaged: a number in a header is out of range")
        return value
    match = _OCTAL.fullmatch(field)
    if match is None:
        raise InvalidArgument(f"archive is damaged: {show(field)} in a header is not a number")
    return int(match[1] or b"0", 8)


#: For fields whose values repeat from member to member, such as modes, owners and the times of an unpacked release.
_usual_number = lru_cache(1024)(parse_number)


def parse_pax(content: bytes) -> dict[bytes, bytes]:
    """Read a set of PAX records; of a repeated key the last counts, except for the two halves of a sparse map.

    Sparse 0.0 repeats ``GNU.sparse.offset`` and ``.numbytes``; they are returned joined as ``GNU.sparse.map``.
    """
    records: dict[bytes, bytes] = {}
    sparse: list[bytes] = []
    position = 0
    end = len(content)
    while position < end:
        match = _LENGTH.match(content, position)
        length = int(match[1]) if match else 0
        stop = position + length
        if match is None or stop > end or stop <= match.end() or content[stop - 1] != 0x0A:
            raise InvalidArgument("archive is damaged: malformed PAX record")
        key, equals, value = content[match.end() : stop - 1].partition(b"=")
        if not equals or not key or b"\0" in key:
            raise InvalidArgument("archive is damaged: PAX record without a key")
        if key in {b"path", b"linkpath"} and b"\0" in value:
            raise InvalidArgument(f"PAX {key.decode()} {show(value)} holds a NUL byte")
        if key == b"GNU.sparse.offset" or key == b"GNU.sparse.numbytes":  # noqa: PLR1714 — a set would be built
            if (key == b"GNU.sparse.offset") != (len(sparse) % 2 == 0) or b"," in value:
                raise InvalidArgument("archive is damaged: malformed sparse map")
            sparse.append(value)
        else:
            records[key] = value
        position = stop
    if sparse:
        records[SPARSE_MAP_KEY] = b",".join(sparse)
    return records


def pax_integer(value: bytes, what: str) -> int:
    """Read a decimal PAX value."""
    if _DECIMAL.fullmatch(value) is None:
        raise InvalidArgument(f"archive is damaged: PAX {what} {show(value)} is not a number")
    return int(value)


def pax_time(value: bytes, what: str) -> int:
    """Read a PAX time as nanoseconds since 1970; more than nine decimals are cut off."""
    match = _SECONDS.fullmatch(value)
    if match is None:
        raise InvalidArgument(f"archive is damaged: PAX {what} {show(value)} is not a time")
    nanoseconds = int(match[2]) * 10**9 + int(((match[3] or b"") + b"000000000")[:9])
    return -nanoseconds if match[1] else nanoseconds


# ---- writing ----------------------------------------------------------------------------------------------------


def _octal(value: int, width: int) -> bytes:
    """Format a number for a field of *width*; one that does not fit is written 0 and goes into a PAX record."""
    if value < 0 or value >> 3 * (width - 1):
        value = 0
    return b"%0*o\0" % (width - 1, value)


def _text(value: bytes, width: int) -> bytes:
    plain = value if value.isascii() else value.translate(None, _NOT_ASCII)
    if len(plain) > width and plain[width - 1] == 0x2F:
        # Some readers take a name that fills the field and ends in a slash for a directory.
        plain = plain[:width].rstrip(b"/")
    return plain[:width]


def _block(
    name: bytes,
    type_flag: bytes,
    *,
    size: int,
    mode: int = 0,
    uid: int = 0,
    gid: int = 0,
    mtime: int = 0,
    link: bytes = b"",
    devices: bytes = b"",
) -> bytes:
    head = b"%b%b%b%b%b%b" % (
        _text(name, 100).ljust(100, b"\0"),
        _octal(mode, 8),
        _octal(uid, 8),
        _octal(gid, 8),
        _octal(size, 12),
        _octal(mtime, 12),
    )
    tail = b"%b%bustar\x0000%b%b" % (type_flag, _text(link, 100).ljust(100, b"\0"), bytes(64), devices)
    checksum = sum(head) + sum(tail) + 256
    return b"".join((head, b"%06o\0 " % checksum, tail)).ljust(BLOCK, b"\0")


def _pax_record(key: bytes, value: bytes) -> bytes:
    body = b" " + key + b"=" + value + b"\n"
    length = len(body)
    digits = len(str(length))
    while len(str(length + digits)) > digits:
        digits += 1
    return b"%d" % (length + digits) + body


def format_header(entry: Entry) -> bytes:
    """Write the header blocks of *entry*: a PAX extended header only for what the plain one cannot say.

    Times are written in whole seconds.  Names of directories must already end in ``/``.
    """
    seconds = entry.mtime_ns // 10**9
    records: dict[bytes, bytes] = {}
    if len(entry.name) > 100 or not entry.name.isascii():
        records[b"path"] = entry.name
    if len(entry.link) > 100 or not entry.link.isascii():
        records[b"linkpath"] = entry.link
    if entry.uid >> 21:
        records[b"uid"] = b"%d" % entry.uid
    if entry.gid >> 21:
        records[b"gid"] = b"%d" % entry.gid
    if entry.size >> 33:
        records[b"size"] = b"%d" % entry.size
    if seconds < 0 or seconds >> 33:
        records[b"mtime"] = b"%d" % seconds
    for key, value in (entry.xattrs or {}).items():
        records[XATTR_KEY + key] = value
    block = _block(
        entry.name,
        b"%d" % entry.kind,
        size=entry.size,
        mode=entry.mode,
        uid=entry.uid,
        gid=entry.gid,
        mtime=seconds,
        link=entry.link,
        devices=_octal(entry.major, 8) + _octal(entry.minor, 8),
    )
    if not records:
        return block
    content = b"".join(_pax_record(key, records[key]) for key in sorted(records))
    directory, _, last = entry.name.rstrip(b"/").rpartition(b"/")
    name = b"/".join(filter(None, (directory, b"PaxHeaders.0", last)))
    padding = bytes(-len(content) % BLOCK)
    return b"".join((_block(name, b"x", size=len(content)), content, padding, block))

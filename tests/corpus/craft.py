"""Tar archives byte by byte: a writer that does whatever it is told, sense or nonsense."""

from __future__ import annotations

BLOCK = 512
END = bytes(2 * BLOCK)

FILE, HARD, SYMLINK, CHAR, BLOCK_DEVICE, DIRECTORY, FIFO, CONTIGUOUS = (b"%d" % n for n in range(8))


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % BLOCK)


def octal(value: int, width: int) -> bytes:
    return b"%0*o\0" % (width - 1, value)


def base256(value: int, width: int) -> bytes:
    raw = (value % (1 << 8 * width)).to_bytes(width, "big")
    return bytes([raw[0] | 0x80]) + raw[1:]


def checksummed(block: bytes) -> bytes:
    blank = block[:148] + b" " * 8 + block[156:]
    return blank[:148] + b"%06o\0 " % sum(blank) + blank[156:]


def header(
    name: bytes,
    kind: bytes = FILE,
    *,
    size: int | bytes = 0,
    mode: int | bytes = 0o644,
    uid: int | bytes = 0,
    gid: int | bytes = 0,
    mtime: int | bytes = 1_600_000_000,
    link: bytes = b"",
    magic: bytes = b"ustar\x0000",
    major: int | bytes = 0,
    minor: int | bytes = 0,
    prefix: bytes = b"",
) -> bytes:
    """One header block; numbers that are bytes go in as they are."""

    def number(value: int | bytes, width: int) -> bytes:
        return value if isinstance(value, bytes) else octal(value, width)

    fields = (
        name.ljust(100, b"\0")[:100],
        number(mode, 8),
        number(uid, 8),
        number(gid, 8),
        number(size, 12),
        number(mtime, 12),
        bytes(8),
        kind,
        link.ljust(100, b"\0")[:100],
        magic,
        bytes(64),
        number(major, 8),
        number(minor, 8),
        prefix.ljust(167, b"\0"),
    )
    return checksummed(b"".join(fields))


def file(name: bytes, data: bytes = b"", **fields: int | bytes) -> bytes:
    return header(name, FILE, **{"size": len(data), **fields}) + padded(data)  # type: ignore[arg-type]


def directory(name: bytes, **fields: int | bytes) -> bytes:
    return header(name, DIRECTORY, **{"mode": 0o755, **fields})  # type: ignore[arg-type]


def symlink(name: bytes, target: bytes) -> bytes:
    return header(name, SYMLINK, link=target, mode=0o777)


def hard(name: bytes, target: bytes, **fields: int | bytes) -> bytes:
    return header(name, HARD, link=target, **fields)  # type: ignore[arg-type]


def record(key: bytes, value: bytes) -> bytes:
    body = b" " + key + b"=" + value + b"\n"
    length = len(body) + 1
    while len(b"%d" % length) + len(body) != length:
        length += 1
    return b"%d" % length + body


def pax(records: dict[bytes, bytes] | bytes, kind: bytes = b"x") -> bytes:
    """An extended header; bytes go in as they are."""
    content = records if isinstance(records, bytes) else b"".join(record(*item) for item in records.items())
    return header(b"PaxHeaders.0/x", kind, size=len(content)) + padded(content)


def gnu_long(kind: bytes, text: bytes) -> bytes:
    return header(b"././@LongLink", kind, size=len(text) + 1, magic=b"ustar  \0") + padded(text + b"\0")


def old_sparse(name: bytes, regions: list[tuple[int, int]], real_size: int, data: bytes) -> bytes:
    """GNU's type S, with extension blocks as needed."""

    def slots(part: list[tuple[int, int]], count: int) -> bytes:
        return b"".join(octal(offset, 12) + octal(length, 12) for offset, length in part).ljust(24 * count, b"\0")

    first, rest = regions[:4], regions[4:]
    block = bytearray(header(name, b"S", size=len(data), magic=b"ustar  \0"))
    block[386:482] = slots(first, 4)
    block[482] = bool(rest)
    block[483:495] = octal(real_size, 12)
    out = checksummed(bytes(block))
    while rest:
        part, rest = rest[:21], rest[21:]
        out += (slots(part, 21) + bytes([bool(rest)])).ljust(BLOCK, b"\0")
    return out + padded(data)

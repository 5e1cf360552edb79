"""Writes bbolt files, so that the reader meets trees, inline buckets and overflow pages of every shape."""

from __future__ import annotations

import struct
from typing import Union

Tree = dict[bytes, Union[bytes, "Tree"]]

BRANCH, LEAF, META, FREELIST = 1, 2, 4, 0x10


def fnv1a(data: bytes) -> int:
    """Return the 64-bit FNV-1a hash, which is a meta page's checksum."""
    value = 0xCBF29CE484222325
    for byte in data:
        value = (value ^ byte) * 0x100000001B3 & (1 << 64) - 1
    return value


def meta_page(number: int, page_size: int, root: int, pages: int, transaction: int) -> bytes:
    """Return one of the two meta pages."""
    body = struct.pack("<IIIIQQQQQ", 0xED0CDAED, 2, page_size, 0, root, 0, 2, pages, transaction)
    head = struct.pack("<QHHI", number, META, 0, 0)
    return (head + body + struct.pack("<Q", fnv1a(body))).ljust(page_size, b"\0")


class BoltWriter:
    """Lays one tree out from page *first* on; *fanout* elements go on a page, small buckets are kept inline."""

    def __init__(self, tree: Tree, *, page_size: int = 4096, fanout: int = 8, inline: int = 64, first: int = 3) -> None:
        self.page_size = page_size
        self._fanout = fanout
        self._inline = inline
        self.pages: dict[int, bytes] = {2: self._page(2, FREELIST, 0, b"")}
        self._next = first
        self.root = self._bucket(tree)
        self.end = self._next

    def content(self) -> bytes:
        """Return the file."""
        first = meta_page(0, self.page_size, self.root, self._next, 7)
        second = meta_page(1, self.page_size, 2, self._next, 6)
        return first + second + b"".join(self.pages[number] for number in sorted(self.pages))

    def _bucket(self, tree: Tree) -> int:
        elements = [(key, *self._element(tree[key])) for key in sorted(tree)]
        level: list[tuple[bytes, int]] = []
        for start in range(0, max(len(elements), 1), self._fanout):
            part = elements[start : start + self._fanout]
            level.append((part[0][0] if part else b"", self._add(LEAF, len(part), leaf_body(part))))
        while len(level) > 1:
            above: list[tuple[bytes, int]] = []
            for start in range(0, len(level), self._fanout):
                below = level[start : start + self._fanout]
                above.append((below[0][0], self._add(BRANCH, len(below), branch_body(below))))
            level = above
        return level[0][1]

    def _element(self, value: bytes | Tree) -> tuple[int, bytes]:
        if isinstance(value, bytes):
            return 0, value
        small = not any(isinstance(item, dict) for item in value.values())
        body = leaf_body([(key, 0, value[key]) for key in sorted(value)]) if small else b""  # type: ignore[misc]
        if small and len(body) <= self._inline:
            return 1, struct.pack("<QQ", 0, 0) + struct.pack("<QHHI", 0, LEAF, len(value), 0) + body
        return 1, struct.pack("<QQ", self._bucket(value), 0)

    def _add(self, flags: int, count: int, body: bytes) -> int:
        number = self._next
        page = self._page(number, flags, count, body)
        self._next += len(page) // self.page_size
        self.pages[number] = page
        return number

    def _page(self, number: int, flags: int, count: int, body: bytes) -> bytes:
        needed = -(-(16 + len(body)) // self.page_size)
        head = struct.pack("<QHHI", number, flags, count, needed - 1)
        return (head + body).ljust(needed * self.page_size, b"\0")


def leaf_body(elements: list[tuple[bytes, int, bytes]]) -> bytes:
    """Return what follows a leaf's header: the elements, then keys and values."""
    headers, data = b"", b""
    for index, (key, flags, value) in enumerate(elements):
        position = 16 * (len(elements) - index) + len(data)
        headers += struct.pack("<IIII", flags, position, len(key), len(value))
        data += key + value
    return headers + data


def branch_body(elements: list[tuple[bytes, int]]) -> bytes:
    """Return what follows a branch's header."""
    headers, data = b"", b""
    for index, (key, page) in enumerate(elements):
        position = 16 * (len(elements) - index) + len(data)
        headers += struct.pack("<IIQ", position, len(key), page)
        data += key
    return headers + data

"""bbolt's file format, read: the catalogues of containerd, of BuildKit and of Podman are such files.

A file of pages: two *meta* pages with a checksum each, of which the newer sound one counts; from its root hangs a tree
of *branch* and *leaf* pages whose elements are keys with values or with buckets, a bucket being such a tree again or,
if small, a page inside the value.  The engine holds an exclusive lock on a file in use for as long as it runs, so none
is taken here: the whole file is read, and read again if a transaction ended meanwhile.  Pages that the newest
transaction needs are not written before the next one has ended.

Nothing in the file is trusted.  What cannot be is DataLoss, and no file makes a reader loop: a page belongs to one
place of one tree, and no more elements are listed than a file of this length can hold a few times over.
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from lamella.errors import DataLoss, NotFound

_MAGIC: Final = 0xED0CDAED
_VERSION: Final = 2
_BRANCH, _LEAF, _META = 1, 2, 4
_BUCKET: Final = 1
_PAGE: Final = struct.Struct("<QHHI")  # id, flags, count, overflow
_META_FIELDS: Final = struct.Struct(
    "<IIIIQQQQQQ"
)  # …, page size, flags, root, sequence, free list, pages, txid, checksum
_ELEMENT: Final = struct.Struct("<IIII")  # flags, position, key length, value length
_BRANCH_ELEMENT: Final = struct.Struct("<IIQ")  # position, key length, page
_BUCKET_HEADER: Final = struct.Struct("<QQ")  # root page, sequence
_PAGE_SIZES: Final = tuple(1 << power for power in range(9, 17))
_META_END: Final = _PAGE.size + _META_FIELDS.size
_DEPTH: Final = 64
_LIMIT: Final = 2 << 30
_ATTEMPTS: Final = 20


class _Meta(NamedTuple):
    page_size: int
    root: int
    pages: int
    transaction: int


class _Page(NamedTuple):
    """Where a page's elements begin, how many there are, and where what they point to ends."""

    leaf: bool
    elements: int
    start: int
    end: int
    id: int


class Bolt:
    """One file's content as one transaction left it."""

    def __init__(self, data: bytes, name: str = "bolt file") -> None:
        """Take the bytes of a file; *name* is for messages.  Raises DataLoss if neither meta page is sound."""
        self.name = name
        self._data = data
        self._meta = _newest(lambda offset, length: data[offset : offset + length], name)
        self._owners: dict[int, tuple[int, int]] = {}
        self._budget = len(data) // 4

    @classmethod
    def open(cls, path: Path) -> Bolt:
        """Read the file *path*, in use or not.

        Raises NotFound if there is none, DataLoss if it is no bolt file or damaged where its roots are.
        """
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            raise NotFound(f"{path} does not exist") from None
        except OSError as error:
            raise DataLoss(f"{path} is not a file of the store's own ({error.strerror})") from error
        try:
            return cls(_read_settled(fd, path), str(path))
        finally:
            os.close(fd)

    @property
    def root(self) -> Bucket:
        """The bucket that holds all others."""
        return Bucket(self, self._meta.root, None)

    def bucket(self, *names: str | bytes) -> Bucket | None:
        """Return the bucket under these names, None if one of them is missing."""
        return self.root.bucket(*names)

    # ------------------------------------------------------------------------------------------------ pages

    def page(self, number: int, place: tuple[int, int]) -> _Page:
        """Return a page of the file; *place* says which tree and which step of it led there, always the same one."""
        meta = self._meta
        offset = number * meta.page_size
        if number < 2 or number >= meta.pages or offset + _PAGE.size > len(self._data):
            raise self.damaged(f"page {number} lies outside the file")
        if self._owners.setdefault(number, place) != place:
            raise self.damaged(f"page {number} is used twice")
        page_id, flags, count, overflow = _PAGE.unpack_from(self._data, offset)
        end = offset + (overflow + 1) * meta.page_size
        if page_id != number or flags not in (_BRANCH, _LEAF) or end > len(self._data):
            raise self.damaged(f"page {number} is no page of a tree")
        return self._checked(_Page(flags == _LEAF, count, offset + _PAGE.size, end, number))

    def inline_page(self, start: int, end: int) -> _Page:
        """Return the page inside a bucket's value."""
        if start + _PAGE.size > end:
            raise self.damaged("a bucket is cut off")
        _, flags, count, _ = _PAGE.unpack_from(self._data, start)
        if flags != _LEAF:
            raise self.damaged("a small bucket is no leaf")
        return self._checked(_Page(True, count, start + _PAGE.size, end, 0))

    def _checked(self, page: _Page) -> _Page:
        if page.start + page.elements * 16 > page.end or (not page.leaf and not page.elements):
            raise self.damaged(f"page {page.id} has more elements than fit")
        return page

    def key(self, page: _Page, index: int) -> bytes:
        """Return the key of an element."""
        at = page.start + 16 * index
        if page.leaf:
            _, position, length, _ = _ELEMENT.unpack_from(self._data, at)
        else:
            position, length, _ = _BRANCH_ELEMENT.unpack_from(self._data, at)
        if at + position + length > page.end:
            raise self.damaged(f"a key of page {page.id} lies outside it")
        return self._data[at + position : at + position + length]

    def child(self, page: _Page, index: int) -> int:
        """Return the page that a branch's element leads to."""
        number: int = _BRANCH_ELEMENT.unpack_from(self._data, page.start + 16 * index)[2]
        return number

    def value(self, page: _Page, index: int) -> bytes | Bucket:
        """Return what a leaf's element holds."""
        at = page.start + 16 * index
        flags, position, key_length, length = _ELEMENT.unpack_from(self._data, at)
        start = at + position + key_length
        if start + length > page.end:
            raise self.damaged(f"a value of page {page.id} lies outside it")
        if not flags & _BUCKET:
            return self._data[start : start + length]
        if length < _BUCKET_HEADER.size:
            raise self.damaged(f"a bucket of page {page.id} is cut off")
        root, _ = _BUCKET_HEADER.unpack_from(self._data, start)
        if root:
            return Bucket(self, root, None)
        return Bucket(self, 0, self.inline_page(start + _BUCKET_HEADER.size, start + length))

    def spend(self, amount: int) -> None:
        """Account for elements that are listed."""
        self._budget -= amount
        if self._budget < 0:
            raise self.damaged("its buckets hold more than the file can")

    def damaged(self, what: str) -> DataLoss:
        """Return the error that says what is wrong."""
        return DataLoss(f"{self.name} is damaged: {what}")


class Bucket:
    """One bucket: keys with values or buckets, in byte order."""

    def __init__(self, file: Bolt, root: int, inline: _Page | None) -> None:
        self._file = file
        self._root = root
        self._inline = inline

    def get(self, key: str | bytes) -> bytes | None:
        """Return the value of *key*, None if there is none or it is a bucket."""
        found = self._find(_bytes(key))
        return found if isinstance(found, bytes) else None

    def text(self, key: str | bytes) -> str:
        """Return the value of *key* as text, empty if there is none."""
        return (self.get(key) or b"").decode("utf-8", "replace")

    def bucket(self, *names: str | bytes) -> Bucket | None:
        """Return the bucket under these names, None if one of them is missing."""
        bucket = self
        for name in names:
            found = bucket._find(_bytes(name))
            if not isinstance(found, Bucket):
                return None
            bucket = found
        return bucket

    def buckets(self, *names: str | bytes) -> Iterator[tuple[str, Bucket]]:
        """Yield the buckets in this one, or in the one under *names*; none if that is missing."""
        bucket = self.bucket(*names)
        for key, value in () if bucket is None else bucket.items():
            if isinstance(value, Bucket):
                yield key.decode("utf-8", "surrogateescape"), value

    def texts(self, *names: str | bytes) -> dict[str, str]:
        """Return the values in the bucket under *names* as text; none if that is missing."""
        bucket = self.bucket(*names)
        return {
            key.decode("utf-8", "replace"): value.decode("utf-8", "replace")
            for key, value in (() if bucket is None else bucket.items())
            if isinstance(value, bytes)
        }

    def items(self) -> Iterator[tuple[bytes, bytes | Bucket]]:
        """Yield every key with its value or bucket.  Raises DataLoss where the file makes no sense."""
        last: bytes | None = None
        for page in self._leaves():
            self._file.spend(page.elements + 1)
            for index in range(page.elements):
                key = self._file.key(page, index)
                if last is not None and key <= last:
                    raise self._file.damaged(f"keys of page {page.id} are out of order")
                last = key
                yield key, self._file.value(page, index)

    def _top(self) -> _Page:
        return self._inline or self._file.page(self._root, (self._root, 0))

    def _leaves(self) -> Iterator[_Page]:
        pending = [(self._top(), 0)]
        while pending:
            page, depth = pending.pop()
            if page.leaf:
                yield page
                continue
            if depth >= _DEPTH:
                raise self._file.damaged("a tree is too deep")
            self._file.spend(page.elements)
            children = [self._file.child(page, index) for index in range(page.elements)]
            if len(set(children)) != len(children):
                raise self._file.damaged(f"page {page.id} leads twice to the same")
            pending += [(self._file.page(child, (self._root, page.id)), depth + 1) for child in reversed(children)]

    def _find(self, wanted: bytes) -> bytes | Bucket | None:
        file, page = self._file, self._top()
        for _ in range(_DEPTH):
            low, high = 0, page.elements
            while low < high:  # the first element whose key is greater
                middle = (low + high) // 2
                if file.key(page, middle) <= wanted:
                    low = middle + 1
                else:
                    high = middle
            if page.leaf:
                if low and file.key(page, low - 1) == wanted:
                    return file.value(page, low - 1)
                return None
            page = file.page(file.child(page, max(low - 1, 0)), (self._root, page.id))
        raise file.damaged("a tree is too deep")


def decode_varint(raw: bytes) -> int:
    """Read Go's unsigned varint; 0 for what is none."""
    number = 0
    for index, byte in enumerate(raw[:10]):
        number |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            return number
    return 0


def decode_signed_varint(raw: bytes) -> int:
    """Read Go's zig-zag varint; 0 for what is none."""
    number = decode_varint(raw)
    return number >> 1 ^ -(number & 1)


def decode_time(raw: bytes) -> str:
    """Read Go's binary time and spell it as RFC 3339 in UTC; empty for what is none."""
    from lamella.model.gojson import format_time

    if len(raw) < 15 or raw[0] not in (1, 2):
        return ""
    seconds, nanoseconds = struct.unpack_from(">qi", raw, 1)
    seconds -= 62135596800
    # From year 1 to year 9999: what others hold is no time.
    if not -62135596800 <= seconds < 253402300800 or not 0 <= nanoseconds < 1_000_000_000:
        return ""
    return format_time(seconds * 1_000_000_000 + nanoseconds)


def _bytes(key: str | bytes) -> bytes:
    return key if isinstance(key, bytes) else key.encode("utf-8", "surrogateescape")


def _read_settled(fd: int, path: Path) -> bytes:
    """Read the file as it was between two transactions; one that never rests is taken as it comes."""
    import time

    data = b""
    for attempt in range(_ATTEMPTS):
        time.sleep(0.002 * attempt)
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise DataLoss(f"{path} is not a regular file")
        if status.st_size > _LIMIT:
            raise DataLoss(f"{path}: {status.st_size} bytes, more than the {_LIMIT} allowed")
        before = _state(fd)
        pieces: list[bytes] = []
        done = 0
        while done < status.st_size and (piece := os.pread(fd, min(status.st_size - done, 64 << 20), done)):
            pieces.append(piece)
            done += len(piece)
        data = b"".join(pieces)
        if _state(fd) == before:
            break
    return data


def _state(fd: int) -> _Meta | None:
    """Return the newest sound meta, None where there is none."""
    try:
        return _newest(lambda offset, length: os.pread(fd, length, offset), "")
    except DataLoss:
        return None


def _newest(read: Callable[[int, int], bytes], name: str) -> _Meta:
    """Return the meta that counts; the second one lies at the page size that it, or the first, names."""
    found = [meta for offset in (0, *_PAGE_SIZES) if (meta := _meta(read(offset, _META_END), offset)) is not None]
    sound = [meta for meta in found if meta.page_size == found[0].page_size]
    if not sound:
        raise DataLoss(f"{name} is no bolt file, or its beginning is damaged")
    return max(sound, key=lambda meta: meta.transaction)


def _meta(raw: bytes, offset: int) -> _Meta | None:
    if len(raw) < _META_END:
        return None
    page_id, flags, _, _ = _PAGE.unpack_from(raw)
    fields = _META_FIELDS.unpack_from(raw, _PAGE.size)
    magic, version, page_size, _, root, _, _, pages, transaction, checksum = fields
    if magic != _MAGIC or version != _VERSION or not flags & _META or page_size not in _PAGE_SIZES:
        return None
    if page_id > 1 or offset != page_id * page_size or _fnv1a(raw[_PAGE.size : _META_END - 8]) != checksum:
        return None
    return _Meta(page_size, root, pages, transaction)


def _fnv1a(data: bytes) -> int:
    value = 0xCBF29CE484222325
    for byte in data:
        value = (value ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return value

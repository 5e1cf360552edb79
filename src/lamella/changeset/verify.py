"""Streams that are what their digest says, or an error."""

from __future__ import annotations

import hashlib
import io
from typing import Any, BinaryIO

from lamella.errors import DataLoss, DigestMismatch
from lamella.model.digest import PREFIX, Digest


class VerifiedReader(io.RawIOBase):
    """Reads exactly the bytes a descriptor promised.

    The last read raises DigestMismatch if the bytes do not hash to *digest*, and DataLoss if there are more or fewer
    than *size*.  Never more than *size* bytes are given out.  A reader who stops early has verified nothing until
    `drain` returns.  *source* stays the caller's to close.
    """

    def __init__(self, source: BinaryIO, digest: Digest, size: int | None = None, *, what: str = "blob") -> None:
        self._source = source
        self._digest = digest
        self._left = size
        self._size = size
        self._what = what
        self._hash = hashlib.sha256()
        self._done = False

    def readable(self) -> bool:  # type: ignore[explicit-override]  # override() came with Python 3.12
        """Say yes."""
        return True

    def readinto(self, buffer: Any, /) -> int:  # type: ignore[explicit-override]  # override() came with Python 3.12
        """Read into *buffer*; see the class for what the last read raises."""
        wanted = len(buffer) if self._left is None else min(len(buffer), self._left)
        data = self._source.read(wanted) if wanted and not self._done else b""
        if data:
            self._hash.update(data)
            if self._left is not None:
                self._left -= len(data)
            buffer[: len(data)] = data
        if not self._done and len(buffer) and (not data or self._left == 0):
            self._finish()
        return len(data)

    def drain(self) -> None:
        """Read what is left, so that what was read before is known to be right."""
        while not self._done and self.read(1 << 20):
            pass

    def _finish(self) -> None:
        self._done = True
        actual = PREFIX + self._hash.hexdigest()
        if actual != self._digest:
            raise DigestMismatch(self._what, self._digest, actual)
        if self._left:
            raise DataLoss(f"{self._what} is cut off: {self._left} of {self._size} bytes are missing")
        if self._left is not None and self._source.read(1):
            raise DataLoss(f"{self._what} is longer than the {self._size} bytes it should have")

"""rpm's SQLite database, read: which package has a file.

The table ``Basenames`` maps a file's last name to packages, ``Packages`` holds each package's header: a big-endian
count of entries and length of data, entries of 16 bytes (tag, type, offset, count), then the data.
"""

from __future__ import annotations

import sqlite3
import struct
from typing import Final

_NAME, _VERSION, _RELEASE, _EPOCH = 1000, 1001, 1002, 1003
_DIRECTORY_INDEXES, _BASENAMES, _DIRECTORIES = 1116, 1117, 1118
_MOST: Final = 1 << 20
_CANDIDATES: Final = 4096


class RpmDatabase:
    """One database in memory; nothing that is in it is run or written."""

    def __init__(self, raw: bytes) -> None:
        """Take the file's bytes; one that is no database has no packages."""
        self._connection = sqlite3.connect(":memory:")
        if raw[18:20] == b"\x02\x02":
            # Written with a log beside it, which an image has no use for: read the file as it stands.
            raw = raw[:18] + b"\x01\x01" + raw[20:]
        self._sound = raw.startswith(b"SQLite format 3\0")
        if self._sound:
            try:
                self._connection.deserialize(raw)
                self._connection.execute("PRAGMA trusted_schema = OFF")
                self._connection.execute("PRAGMA cell_size_check = ON")
                self._connection.execute("PRAGMA query_only = ON")
            except sqlite3.Error:
                self._sound = False

    def find(self, path: bytes) -> tuple[str, str] | None:
        """Return name and version of the package that has *path*, relative to the root."""
        directory, _, name = b"/".join([b"", path]).rpartition(b"/")
        if not self._sound:
            return None
        try:
            rows = self._connection.execute(
                "SELECT DISTINCT p.blob FROM Basenames b JOIN Packages p ON p.hnum = b.hnum "
                "WHERE b.key IN (?, CAST(? AS BLOB)) LIMIT ?",
                (name.decode("utf-8", "replace"), name, _CANDIDATES),
            ).fetchall()
        except sqlite3.Error:
            return None
        for (blob,) in rows:
            if isinstance(blob, bytes):
                try:
                    header = _Header(blob)
                    if header.has(directory + b"/", name):
                        return header.text(_NAME), header.version()
                except (struct.error, ValueError, IndexError):
                    continue
        return None


class _Header:
    """One package's header.  Raises struct.error, ValueError or IndexError where it is damaged."""

    def __init__(self, blob: bytes) -> None:
        count, length = struct.unpack_from(">II", blob)
        if count > _MOST or 8 + 16 * count + length > len(blob):
            raise ValueError("header is cut off")
        self._entries = {
            entry[0]: entry[1:] for entry in struct.iter_unpack(">IIII", blob[8 : 8 + 16 * count])
        }  # tag: type, offset, count
        self._data = blob[8 + 16 * count : 8 + 16 * count + length]

    def has(self, directory: bytes, name: bytes) -> bool:
        """Tell whether the package has this file."""
        names = self._strings(_BASENAMES)
        directories = self._strings(_DIRECTORIES)
        indexes = self._numbers(_DIRECTORY_INDEXES)
        return any(
            each == name and directories[index] == directory for each, index in zip(names, indexes, strict=False)
        )

    def version(self) -> str:
        """Return ``[epoch:]version-release``."""
        epoch = self._numbers(_EPOCH)
        return (f"{epoch[0]}:" if epoch else "") + f"{self.text(_VERSION)}-{self.text(_RELEASE)}"

    def text(self, tag: int) -> str:
        """Return one string."""
        found = self._strings(tag, 1)
        return found[0].decode("utf-8", "replace") if found else ""

    def _strings(self, tag: int, most: int = _MOST) -> list[bytes]:
        if tag not in self._entries:
            return []
        _, offset, count = self._entries[tag]
        found: list[bytes] = []
        for _ in range(min(count, most)):
            end = self._data.index(b"\0", offset)
            found.append(self._data[offset:end])
            offset = end + 1
        return found

    def _numbers(self, tag: int) -> tuple[int, ...]:
        if tag not in self._entries:
            return ()
        _, offset, count = self._entries[tag]
        if count > _MOST:
            raise ValueError("too many numbers")
        return struct.unpack_from(f">{count}I", self._data, offset)

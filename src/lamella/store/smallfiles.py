"""Reading the small files of a data-root that nobody vouches for.

A data-root may come from another machine: a record can be a symbolic link, a FIFO, a device or larger than memory.
Everything the store reads goes through here.  What the bytes mean is left to the caller; writing is ``fs.atomic``.
"""

from __future__ import annotations

import errno
import os
import stat

from lamella.errors import DataLoss

#: The most that a one-line record file (``diff``, ``size``, ``cache-id``, ``parent``, ``mount-id``) may hold.
RECORD_LIMIT = 512
_PIECE = 1 << 20


def read_small(path: str | os.PathLike[str], limit: int = RECORD_LIMIT) -> bytes:
    """Read a regular file of at most ``limit`` bytes, following no link in the last component.

    Raises FileNotFoundError if there is none, DataLoss if it is something else or too large.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise DataLoss(f"{os.fspath(path)}: a symbolic link stands where a file is due") from error
        if error.errno in {errno.ENXIO, errno.EISDIR}:
            raise DataLoss(f"{os.fspath(path)}: not a regular file") from error
        raise
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise DataLoss(f"{os.fspath(path)}: not a regular file")
        if status.st_size > limit:
            raise DataLoss(f"{os.fspath(path)}: {status.st_size} bytes, more than the {limit} allowed")
        raw = os.read(fd, min(status.st_size + 1, _PIECE))
        while len(raw) < status.st_size and (piece := os.read(fd, _PIECE)):
            raw += piece
    finally:
        os.close(fd)
    return raw


def find_small(path: str | os.PathLike[str], limit: int = RECORD_LIMIT) -> bytes | None:
    """Read a small regular file, or return None if there is none."""
    try:
        return read_small(path, limit)
    except (FileNotFoundError, NotADirectoryError):
        return None


def shown(raw: bytes, length: int = 80) -> str:
    """Spell the beginning of a record for a message."""
    return repr(raw[:length].decode("utf-8", "replace"))


def is_directory(path: str | os.PathLike[str]) -> bool:
    """Tell whether there is a directory of the store's own, a link to one being none."""
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def list_names(directory: str | os.PathLike[str]) -> list[str]:
    """List a directory's names in byte order; a missing directory has none."""
    try:
        return sorted(os.listdir(directory))
    except (FileNotFoundError, NotADirectoryError):
        return []

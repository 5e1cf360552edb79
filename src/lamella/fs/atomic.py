"""Writing so that a crash leaves the old or the new, never a part.

The commit point of every function here is one rename.  Whether several such changes need an order is for the callers;
so is one ``syncfs`` in place of many ``fsync`` (``sync=False`` and :func:`sync_filesystem`).
"""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO


def _digits() -> str:
    """Make a suffix nobody else has, in Docker's spelling."""
    return str(int.from_bytes(os.urandom(4), "big"))


def write_file(
    path: Path, data: bytes, *, mode: int = 0o600, sync: bool = True, sync_directory: bool | None = None
) -> None:
    """Replace or make the file *path*.

    With *sync* it is on disk, name included, when this returns.  Without, it is still the old or the new for every
    reader, but after a power cut only if the file system was synced since.  With *sync* but not *sync_directory* a power
    cut may undo it whole, until the directory is synced.  What *path* was is replaced, not followed.
    """
    directory, name = os.path.split(os.fspath(path))
    draft = os.path.join(directory, f".tmp-{name}{_digits()}")
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
            os.fchmod(fd, mode)
            if sync:
                os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(draft, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(draft)
        raise
    if sync if sync_directory is None else sync_directory:
        fsync_dir(Path(directory or "."))


@contextmanager
def writing_file(path: Path, *, mode: int = 0o600) -> Generator[BinaryIO]:
    """Open a stream whose bytes become the file *path* when the scope ends well, on disk, and are nothing if it fails.

    A pipe or device of that name is written as it stands, bytes at once.
    """
    if path.exists() and not path.is_file():
        with path.open("wb") as stream:
            yield stream
        return
    directory, name = os.path.split(os.fspath(path))
    draft = os.path.join(directory, f".tmp-{name}{_digits()}")
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with open(fd, "wb", buffering=1 << 18) as stream:
            yield stream
            stream.flush()
            os.fchmod(fd, mode)
            os.fsync(fd)
        os.rename(draft, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(draft)
        raise
    fsync_dir(Path(directory or "."))


def fsync_dir(path: Path) -> None:
    """Put the names in directory *path* on disk."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_filesystem(path: Path) -> None:
    """Put everything of the file system *path* lies on on disk; write errors of any of it are raised (Linux 5.8)."""
    from lamella.linux import libc

    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        libc.syncfs(fd)
    finally:
        os.close(fd)

"""Archives in and out: files, directories, standard input and output, never a terminal."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from lamella.errors import InvalidArgument


@contextlib.contextmanager
def archive_source(name: str, *, what: str) -> Iterator[BinaryIO | Path]:
    """Open the archive called *name*, standard input without a name; a directory is given as its path."""
    if name:
        path = Path(name)
        if path.is_dir():
            yield path
            return
        with path.open("rb") as stream:
            yield stream
        return
    if sys.stdin is None or sys.stdin.isatty():
        raise InvalidArgument(f"requested to read an {what} archive from the terminal; name a file or pipe one in")
    yield sys.stdin.buffer


@contextlib.contextmanager
def archive_sink(name: str) -> Iterator[BinaryIO]:
    """Open *name* for an archive, standard output without a name.

    A file appears under its name only when it is complete; a device or pipe is written as it stands.
    """
    if not name:
        if sys.stdout.isatty():
            raise InvalidArgument("cowardly refusing to save to a terminal; use the -o flag or redirect")
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    path = Path(name)
    if path.exists() and not path.is_file():
        if path.is_dir():
            raise InvalidArgument(f"{name} is a directory; name a file")
        with path.open("wb") as stream:
            yield stream
        return
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(fd, "wb") as stream:
            yield stream
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise

"""A build context that comes as a stream: a tar of a directory, or a Dockerfile alone."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from tempfile import SpooledTemporaryFile, TemporaryDirectory
from typing import BinaryIO, cast

from lamella.build.dockerfile.lexer import MAX_DOCKERFILE
from lamella.errors import InvalidArgument
from lamella.fs.rooted import Root

_IN_MEMORY = 16 << 20
_CHUNK = 1 << 20


@contextmanager
def open_stream(stream: BinaryIO) -> Generator[tuple[Path, bytes | None]]:
    """Read `stream`; give a directory and, if the stream was a Dockerfile alone, its text (the directory is empty)."""
    from lamella.build.unpack import is_archive, unpack

    with SpooledTemporaryFile(_IN_MEMORY) as spool, TemporaryDirectory(prefix="lamella-context-") as name:
        while chunk := stream.read(_CHUNK):
            spool.write(chunk)
        size = spool.tell()
        spool.seek(0)
        file = cast("BinaryIO", spool)
        if is_archive(file):
            with Root(Path(name)) as root:
                unpack(file, root)
            yield Path(name), None
            return
        if size > MAX_DOCKERFILE:
            raise InvalidArgument(f"the Dockerfile on standard input is larger than {MAX_DOCKERFILE} bytes")
        yield Path(name), spool.read()

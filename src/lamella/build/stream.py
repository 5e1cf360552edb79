"""A build context that comes as a stream or from the network: a tar of a directory, a Dockerfile alone, a repository."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import SpooledTemporaryFile, TemporaryDirectory
from typing import BinaryIO, cast

from lamella.build.dockerfile.lexer import MAX_DOCKERFILE
from lamella.changeset.limits import SPACE_EVERY, require_space
from lamella.errors import InvalidArgument
from lamella.fs.rooted import Root

_IN_MEMORY = 16 << 20
_CHUNK = 1 << 20


@contextmanager
def open_stream(stream: BinaryIO) -> Generator[tuple[Path, bytes | None]]:
    """Read `stream`; give a directory and, if the stream was a Dockerfile alone, its text (the directory is empty)."""
    with SpooledTemporaryFile(_IN_MEMORY) as spool:
        left = 0
        while chunk := stream.read(_CHUNK):
            spool.write(chunk)
            left -= len(chunk)
            if left <= 0 and spool.tell() > _IN_MEMORY:
                require_space(spool.fileno())
                left = SPACE_EVERY
        spool.seek(0)
        with _opened(cast("BinaryIO", spool), "on standard input") as found:
            yield found


@contextmanager
def open_url(url: str, *, proxies: Mapping[str, str]) -> Generator[tuple[Path, bytes | None]]:
    """Bring in a context: a git repository, or a file as `open_stream` reads it."""
    from lamella.build.gitsource import checked_out, parse_git

    git = parse_git(f"https://{url}" if url.startswith("github.com/") else url)
    if git is not None:
        with checked_out(git, proxies=proxies) as checkout:
            yield checkout.directory, None
        return
    if not url.lower().startswith(("http://", "https://")):
        raise InvalidArgument(f"{url[:200]}: a context is a directory, -, an http(s) URL or a git repository")
    from lamella.build.download import downloaded

    with (
        downloaded(url, proxies=proxies) as download,
        (download.directory / download.name).open("rb") as file,
        _opened(file, f"at {url[:200]}") as found,
    ):
        yield found


@contextmanager
def _opened(file: BinaryIO, where: str) -> Generator[tuple[Path, bytes | None]]:
    """Unpack a file that is an archive; any other is a Dockerfile."""
    from lamella.build.unpack import is_archive, unpack

    with TemporaryDirectory(prefix="lamella-context-") as name:
        if is_archive(file):
            with Root(Path(name)) as root:
                unpack(file, root)
            yield Path(name), None
            return
        text = file.read(MAX_DOCKERFILE + 1)
        if len(text) > MAX_DOCKERFILE:
            raise InvalidArgument(f"the Dockerfile {where} is larger than {MAX_DOCKERFILE} bytes")
        yield Path(name), text

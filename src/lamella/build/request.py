"""What a build is asked for, and what it reads before it changes anything: context, Dockerfile, global arguments."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

import msgspec

from lamella.build.arguments import BuildArguments
from lamella.build.context import SourceTree, open_context, read_dockerfile, read_regular
from lamella.build.dockerfile import instructions as ast
from lamella.build.dockerfile.expand import expand
from lamella.build.dockerfile.lexer import MAX_DOCKERFILE
from lamella.errors import InvalidArgument, NotFound
from lamella.model.digest import ImageID


class BuildOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What ``build`` was asked for."""

    tags: tuple[str, ...] = ()
    dockerfile: Path | bytes | None = None
    """A file, the text itself, or None for the context's ``Dockerfile``."""
    build_args: Mapping[str, str] = {}
    labels: Mapping[str, str] = {}
    target: str = ""
    no_cache: bool = False
    network: str = "host"
    platform: str = ""
    fetch: Callable[[str, str], None] | None = None
    """Brings in an image, by name and platform, that a FROM or a COPY asks for and that is not here."""
    pull: bool = False
    """Call it for images that are here, too."""
    timestamp: int | None = None
    """``SOURCE_DATE_EPOCH``: the time of all that is made, and the latest that any file may have."""


class BuildResult(NamedTuple):
    """What came of it."""

    image_id: ImageID
    tags: tuple[str, ...]


@contextmanager
def open_request(context: Path | BinaryIO, dockerfile: Path | bytes | None) -> Generator[tuple[SourceTree, bytes]]:
    """Open the context and read the Dockerfile."""
    with ExitStack() as stack:
        name = "Dockerfile"
        if not isinstance(context, Path):
            from lamella.build.stream import open_stream

            directory, alone = stack.enter_context(open_stream(context))
            if alone is not None:
                dockerfile = alone
            elif isinstance(dockerfile, Path):
                name, dockerfile = str(dockerfile), None
        else:
            directory = context
            if isinstance(dockerfile, Path):
                name = os.path.relpath(dockerfile, directory)
        tree = stack.enter_context(open_context(directory, dockerfile=name if not name.startswith("../") else ""))
        if dockerfile is None:
            text = read_dockerfile(tree, name)
        elif isinstance(dockerfile, Path):
            text = _read_file(dockerfile)
        else:
            text = dockerfile
        if not text.strip():
            raise InvalidArgument(f"the Dockerfile ({name}) cannot be empty")
        yield tree, text


def _read_file(path: Path) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise NotFound(f"unable to prepare context: unable to evaluate Dockerfile: {path}: no such file") from error
    except OSError as error:
        raise InvalidArgument(f"Dockerfile {path}: not a regular file ({error.strerror})") from error
    return read_regular(fd, str(path), MAX_DOCKERFILE)


def declare_globals(dockerfile: ast.Dockerfile, arguments: BuildArguments) -> None:
    """Take the ARGs before the first FROM; each may use those before it."""
    for instruction in dockerfile.arguments:
        for argument in instruction.arguments:
            variables = arguments.global_values()
            name = expand(argument.name, variables, escape=dockerfile.escape)
            default = argument.default
            if default is not None:
                default = expand(default, variables, escape=dockerfile.escape)
            arguments.declare_global(name, default)

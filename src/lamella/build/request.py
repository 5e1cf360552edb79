"""What a build is asked for, and what it reads before it changes anything: context, Dockerfile, global arguments."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import msgspec

from lamella.build.arguments import BuildArguments
from lamella.build.context import SourceTree, open_context, read_dockerfile, read_regular
from lamella.build.dockerfile import instructions as ast
from lamella.build.dockerfile.expand import expand
from lamella.build.dockerfile.lexer import MAX_DOCKERFILE
from lamella.build.ignore import MAX_IGNORE_FILE
from lamella.errors import InvalidArgument, NotFound
from lamella.model.digest import ImageID
from lamella.model.reference import Reference

if TYPE_CHECKING:
    from lamella.build.cacheplaces import CachePlace


class RunLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What the commands of a build may use, and whom they know by name; 0 and empty are the runtime's own."""

    add_hosts: tuple[str, ...] = ()
    """``name:address`` for ``/etc/hosts``."""
    shm_size: int = 0
    """Bytes of ``/dev/shm``."""
    ulimits: tuple[tuple[str, int, int], ...] = ()
    """Name, soft and hard limit."""
    memory: int = 0
    memory_swap: int = 0
    cpu_shares: int = 0
    cpu_period: int = 0
    cpu_quota: int = 0
    cpuset_cpus: str = ""
    cpuset_mems: str = ""


class BuildOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What ``build`` was asked for."""

    tags: tuple[str, ...] = ()
    dockerfile: Path | bytes | None = None
    """A file, the text itself, or None for the context's ``Dockerfile``."""
    build_args: Mapping[str, str] = {}
    labels: Mapping[str, str] = {}
    target: str = ""
    no_cache: bool = False
    no_cache_stages: tuple[str, ...] = ()
    """Stages, by name or number, whose steps are not taken from the cache."""
    jobs: int | None = None
    """How many stages are built at once: 0 is any number, None as many as there are processors, and at least two."""
    network: str = "host"
    platform: str = ""
    fetch: Callable[[str, str], None] | None = None
    """Brings in an image, by name and platform, that a FROM or a COPY asks for and that is not here."""
    pull: bool = False
    """Call it for images that are here, too."""
    secrets: Mapping[str, bytes] = {}
    """What ``RUN --mount=type=secret`` may mount, by ID."""
    ssh: Mapping[str, Path] = {}
    """Sockets of ssh agents for ``RUN --mount=type=ssh``, by ID."""
    limits: RunLimits = RunLimits()
    """What RUN's commands may use."""
    squash: bool = False
    """Put one layer in place of all that the build makes."""
    cache_from: tuple[CachePlace, ...] = ()
    """Where steps are looked for that the store does not have."""
    connect: Callable[[Reference, str], AbstractContextManager[Any]] | None = None
    """Opens the repository of a reference, for ``pull`` or ``pull,push``, where such a place is in a registry."""
    proxies: Mapping[str, str] = {}
    """What ADD of URLs goes through: the keys ``http``, ``https`` and ``no``, or the names of the variables."""
    timestamp: int | None = None
    """``SOURCE_DATE_EPOCH``: the time of all that is made, and the latest that any file may have."""


class BuildResult(NamedTuple):
    """What came of it."""

    image_id: ImageID
    tags: tuple[str, ...]
    steps: tuple[ImageID, ...] = ()
    """The images that the stages' last steps left, the result's first: what a cache for others is made of."""


@contextmanager
def open_request(
    context: Path | BinaryIO | str,
    dockerfile: Path | bytes | None,
    *,
    proxies: Mapping[str, str] = MappingProxyType({}),
) -> Generator[tuple[SourceTree, bytes]]:
    """Open the context, a directory, a stream or a URL, and read the Dockerfile.

    A `dockerfile` in the context is read as the context shows it, with the context as root of all links; one that lies
    elsewhere is the caller's, with its ``.dockerignore`` beside it.
    """
    with ExitStack() as stack:
        name = "Dockerfile"
        ignore: bytes | None = None
        if isinstance(context, Path):
            directory = context
            if isinstance(dockerfile, Path):
                name = os.path.relpath(dockerfile, directory)
                if name.split("/")[0] != "..":
                    dockerfile = None
        else:
            from lamella.build.stream import open_stream, open_url

            opened = open_url(context, proxies=proxies) if isinstance(context, str) else open_stream(context)
            directory, alone = stack.enter_context(opened)
            if alone is not None:
                dockerfile = alone
            elif isinstance(dockerfile, Path):
                name, dockerfile = str(dockerfile), None
        if isinstance(dockerfile, Path):
            ignore, dockerfile = _read_beside(dockerfile), _read_file(dockerfile)
        own = "" if dockerfile is not None else name
        tree = stack.enter_context(open_context(directory, dockerfile=own, ignore=ignore))
        text = read_dockerfile(tree, name) if dockerfile is None else dockerfile
        if not text.strip():
            raise InvalidArgument(f"the Dockerfile ({name}) cannot be empty")
        yield tree, text


def _read_file(path: Path) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise NotFound(f"unable to prepare context: unable to evaluate Dockerfile: {path}: no such file") from error
    except OSError as error:
        raise InvalidArgument(f"Dockerfile {path}: not a regular file ({error.strerror})") from error
    return read_regular(fd, str(path), MAX_DOCKERFILE)


def _read_beside(dockerfile: Path) -> bytes | None:
    """Read the ignore file of a Dockerfile outside the context, if it has one."""
    path = dockerfile.with_name(f"{dockerfile.name}.dockerignore")
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise InvalidArgument(f"{path}: not a regular file ({error.strerror})") from error
    return read_regular(fd, str(path), MAX_IGNORE_FILE)


def declare_globals(dockerfile: ast.Dockerfile, arguments: BuildArguments) -> None:
    """Take the ARGs before the first FROM; each may use those before it."""
    for instruction in dockerfile.arguments:
        for argument in instruction.arguments:
            variables = arguments.global_values()
            name = expand(argument.name, variables, escape=dockerfile.escape)
            default = argument.default
            if default is not None and not arguments.is_given(name):
                default = expand(default, variables, escape=dockerfile.escape)
            arguments.declare_global(name, default)

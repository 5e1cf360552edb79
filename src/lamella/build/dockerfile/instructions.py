"""A Dockerfile as values: its instructions, a closed union of frozen classes, gathered into stages.

Every text is as written, variables not yet replaced: replacing them (`expand`) needs the state of the build, which the
executor holds.  Reading text into these values is `parser`'s.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import msgspec


class Heredoc(NamedTuple):
    """A here-document that follows an instruction."""

    name: str
    content: str
    expand: bool
    """False when the word after ``<<`` was quoted."""
    chomp: bool
    """True for ``<<-``: leading tabs go."""

    def text(self) -> str:
        """Give the content as the command or file gets it, before variables are replaced."""
        return re.sub(r"(?m)^\t+", "", self.content) if self.chomp else self.content

    def names_interpreter(self) -> bool:
        """Tell whether it is a program by itself, by beginning with ``#!``."""
        return self.text().startswith("#!")


class Pair(NamedTuple):
    """One ``name=value`` of ENV or LABEL."""

    name: str
    value: str

    def __str__(self) -> str:  # type: ignore[explicit-override]  # override() came with Python 3.12
        return f"{self.name}={self.value}"


class BuildArgument(NamedTuple):
    """One name of ARG, with its default if it has one."""

    name: str
    default: str | None


class Instruction(msgspec.Struct, frozen=True):
    """What all instructions have."""

    line: int
    source: str
    """The instruction's text, its continuation lines joined."""


class From(Instruction, frozen=True):
    """``FROM [--platform=p] base [AS name]``: begins a stage."""

    base: str
    name: str = ""
    platform: str = ""


class Arg(Instruction, frozen=True):
    """``ARG name[=default] …``."""

    arguments: tuple[BuildArgument, ...]


class Env(Instruction, frozen=True):
    """``ENV name=value …`` or ``ENV name value``."""

    pairs: tuple[Pair, ...]


class Label(Instruction, frozen=True):
    """``LABEL name=value …``; `literal` ones come from the command line and take no variables."""

    pairs: tuple[Pair, ...]
    literal: bool = False


class Maintainer(Instruction, frozen=True):
    """``MAINTAINER text``."""

    name: str


class Mount(NamedTuple):
    """One ``--mount`` of RUN, its variables not yet replaced; each field applies to the kinds that Docker says.

    An empty text and None stand for what was not written.
    """

    kind: str = "bind"
    """``bind``, ``cache``, ``tmpfs``, ``secret`` or ``ssh``."""
    target: str = ""
    source: str = ""
    stage: str = ""
    """``from``: a stage or an image; empty is the context for a bind mount, an empty directory for a cache."""
    writable: bool | None = None
    id: str = ""
    sharing: str = ""
    size: int | None = None
    """Bytes a tmpfs may hold."""
    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    required: bool = False
    env: str = ""
    """The variable that a secret is given in."""
    text: str = ""
    """The flag's value as written; `mounts.expand_mount` reads it again with variables replaced, which numbers, kinds
    and truth values that are variables need."""


class Run(Instruction, frozen=True):
    """``RUN [flags] …`` in shell or exec form."""

    command: tuple[str, ...]
    shell: bool
    heredocs: tuple[Heredoc, ...] = ()
    mounts: tuple[Mount, ...] = ()
    network: str = ""
    """``default``, ``none`` or ``host``; empty is the build's own."""
    script: Heredoc | None = None
    """The here-document that is all there is of a command in shell form: it is run by the shell, or as a program of its
    own if it `names_interpreter`."""


class Cmd(Instruction, frozen=True):
    """``CMD …`` in shell or exec form."""

    command: tuple[str, ...]
    shell: bool


class Entrypoint(Instruction, frozen=True):
    """``ENTRYPOINT …`` in shell or exec form."""

    command: tuple[str, ...]
    shell: bool


class Transfer(Instruction, frozen=True):
    """What COPY and ADD have in common."""

    sources: tuple[str, ...]
    destination: str
    contents: tuple[Heredoc, ...] = ()
    """Here-documents that become files."""
    chown: str = ""
    chmod: str = ""
    link: bool = False
    exclude: tuple[str, ...] = ()


class Copy(Transfer, frozen=True):
    """``COPY [flags] source … destination``."""

    stage: str = ""
    """``--from``: a stage's name or index, or an image."""
    parents: bool = False


class Add(Transfer, frozen=True):
    """``ADD [flags] source … destination``: as COPY, and archives are unpacked."""

    checksum: str = ""
    keep_git_dir: bool = False
    unpack: bool | None = None


class Workdir(Instruction, frozen=True):
    """``WORKDIR path``."""

    path: str


class User(Instruction, frozen=True):
    """``USER user[:group]``."""

    user: str


class Expose(Instruction, frozen=True):
    """``EXPOSE port[/protocol] …``, sorted as Docker sorts them."""

    ports: tuple[str, ...]


class Volume(Instruction, frozen=True):
    """``VOLUME path …``."""

    paths: tuple[str, ...]


class Shell(Instruction, frozen=True):
    """``SHELL ["program", "argument"]``."""

    command: tuple[str, ...]


class StopSignal(Instruction, frozen=True):
    """``STOPSIGNAL signal``."""

    signal: str


class Healthcheck(Instruction, frozen=True):
    """``HEALTHCHECK [flags] CMD …`` or ``HEALTHCHECK NONE``; times in nanoseconds."""

    test: tuple[str, ...]
    interval: int = 0
    timeout: int = 0
    start_period: int = 0
    start_interval: int = 0
    retries: int = 0


class OnBuild(Instruction, frozen=True):
    """``ONBUILD instruction``: kept as text until an image is built on this one."""

    trigger: str


Command = (
    Arg
    | Env
    | Label
    | Maintainer
    | Run
    | Cmd
    | Entrypoint
    | Copy
    | Add
    | Workdir
    | User
    | Expose
    | Volume
    | Shell
    | StopSignal
    | Healthcheck
    | OnBuild
)


class Stage(msgspec.Struct, frozen=True):
    """A FROM and what follows it."""

    base: From
    commands: tuple[Command, ...]


class Dockerfile(msgspec.Struct, frozen=True):
    """A whole file."""

    escape: str
    syntax: str
    """What ``# syntax=`` named; noted, never fetched."""
    check: str
    """What ``# check=`` asks of the linter; `rules.parse_check` reads it."""
    arguments: tuple[Arg, ...]
    """ARGs before the first FROM."""
    stages: tuple[Stage, ...]
    warnings: tuple[str, ...]

"""What a command module offers: its flags, its usage and the function that runs it.

Each module of ``cli.commands`` holds one or more ``Command`` values; ``cli.table`` says which stands under which name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from lamella.cli.flags import Flag, UsageError, Values

if TYPE_CHECKING:
    from lamella.cli.context import Context

Run = Callable[["Context", Values, list[str]], int]


class Command(NamedTuple):
    """One command as the parser, the help and the completion see it."""

    usage: str
    """The arguments after the command's name, such as ``[OPTIONS] IMAGE``."""
    run: Run
    flags: tuple[Flag, ...] = ()
    least: int = 0
    most: int | None = None
    """How many arguments it takes; None is any number."""
    interspersed: bool = True
    notes: str = ""
    """Text of the help below the first line."""
    failure: int = 1
    """The exit code when lamella itself fails: 125 where the container's own code would be mistaken for it."""
    completes: str = ""
    """What its arguments name, for shell completion: ``image``, ``container``, ``file`` or nothing."""


def check_arguments(name: str, command: Command, arguments: list[str]) -> None:
    """Refuse a number of arguments that *command* does not take, in Docker's words."""
    count = len(arguments)
    if command.least == command.most:
        if count != command.least:
            wanted = "no arguments" if not command.least else f"{command.least} argument{'s'[: command.least != 1]}"
            verb = "accepts" if not command.least else "requires"
            raise UsageError(f"'lamella {name}' {verb} {wanted}", code=1)
    elif count < command.least:
        plural = "s" if command.least != 1 else ""
        raise UsageError(f"'lamella {name}' requires at least {command.least} argument{plural}", code=1)
    elif command.most is not None and count > command.most:
        plural = "s" if command.most != 1 else ""
        raise UsageError(f"'lamella {name}' requires at most {command.most} argument{plural}", code=1)

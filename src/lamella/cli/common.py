"""Flags and small steps that several commands share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from lamella.cli.flags import Flag, UsageError
from lamella.errors import LamellaError

if TYPE_CHECKING:
    from lamella.cli.context import Context

FORMAT = Flag(
    "format",
    "Format output using a custom template:\n"
    "'table':            Print output in table format with column headers (default)\n"
    "'table TEMPLATE':   Print output in table format using the given Go template\n"
    "'json':             Print in JSON format\n"
    "'TEMPLATE':         Print output using the given Go template",
    kind="string",
)

INSPECT_FORMAT = Flag(
    "format",
    "Format output using a custom template:\n"
    "'json':             Print in JSON format\n"
    "'TEMPLATE':         Print output using the given Go template",
    short="f",
    kind="string",
)

DETACH_KEYS = Flag(
    "detach-keys", "Override the key sequence for detaching a container", kind="string", default="ctrl-p,ctrl-q"
)


def check_filter_words(words: Iterable[str]) -> list[str]:
    """Refuse a filter that is no ``key=value``; which keys there are is the engine's to know."""
    words = list(words)
    for word in words:
        if "=" not in word:
            text = "bad format of filter (expected name=value)"
            raise UsageError(f'invalid argument "{word}" for "-f, --filter" flag: {text}')
    return words


def each(context: Context, names: Iterable[str], act: Callable[[str], str | None]) -> int:
    """Do *act* for each name, print what it returns, go on after a failure; return 1 if there was one."""
    from lamella.cli.main import describe

    code = 0
    for name in names:
        try:
            answer = act(name)
        except (LamellaError, OSError) as error:
            context.output.flush()
            context.warn(f"lamella: {describe(error)}")
            code = 1
        else:
            if answer is not None:
                context.output.line(answer)
    return code

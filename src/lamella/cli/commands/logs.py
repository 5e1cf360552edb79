"""``logs``: what a container printed."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from lamella.cli.command import Command
from lamella.cli.flags import Flag, Values
from lamella.errors import InvalidArgument

if TYPE_CHECKING:
    from lamella.cli.context import Context


def run(context: Context, flags: Values, arguments: list[str]) -> int:
    """Print the log, standard output and standard error each to ours."""
    from lamella.model.gojson import format_time

    records = (
        context.store()
        .container(arguments[0])
        .logs(
            follow=flags.on("follow"),
            tail=_tail(flags.text("tail")),
            since=_moment("since", flags.text("since")),
            until=_moment("until", flags.text("until")),
        )
    )
    sinks = {"stdout": sys.stdout.buffer, "stderr": sys.stderr.buffer}
    for record in records:
        sink = sinks.get(record.stream, sys.stdout.buffer)
        # The text is the container's own and goes out as it came in, colours and all, like that of `run`.
        stamp = f"{format_time(record.time)} ".encode() if flags.on("timestamps") else b""
        # Between the two stand the log driver's attributes; json-file without options has none.
        sink.write(stamp + (b" " if flags.on("details") else b"") + record.text)
        if flags.on("follow") or sink is sys.stderr.buffer:
            sink.flush()
    return 0


def _tail(text: str) -> int | None:
    if text in {"all", ""}:
        return None
    try:
        count = int(text)
    except ValueError:
        raise InvalidArgument(f"invalid value for tail: {text!r}; give a number of lines or all") from None
    return count if count >= 0 else None


def _moment(name: str, text: str) -> int | None:
    """Read a point in time: RFC 3339, seconds since the epoch, or a duration before now."""
    if not text:
        return None
    from lamella.engine.selection import parse_moment

    try:
        return parse_moment(text, time.time_ns())
    except InvalidArgument as error:
        raise InvalidArgument(f"invalid value for {name!r}: {error}") from error


LOGS = Command(
    usage="[OPTIONS] CONTAINER",
    run=run,
    least=1,
    most=1,
    completes="container",
    flags=(
        Flag("details", "Show extra details provided to logs", hidden=True),
        Flag("follow", "Follow log output", short="f"),
        Flag(
            "since",
            'Show logs since timestamp (e.g. "2013-01-02T13:23:37Z") or relative (e.g. "42m" for 42 minutes)',
            kind="string",
        ),
        Flag("tail", "Number of lines to show from the end of the logs", short="n", kind="string", default="all"),
        Flag("timestamps", "Show timestamps", short="t"),
        Flag(
            "until",
            'Show logs before a timestamp (e.g. "2013-01-02T13:23:37Z") or relative (e.g. "42m" for 42 minutes)',
            kind="string",
        ),
    ),
)

"""The client's side of an attached container: which streams, and whether they are fit for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lamella.cli.flags import UsageError
from lamella.cli.output import is_terminal
from lamella.errors import InvalidArgument

if TYPE_CHECKING:
    from lamella.cli.context import Context
    from lamella.engine.streams import Streams


def check_terminal(*, tty: bool, stdin: bool) -> None:
    """Refuse a pseudo-terminal for a standard input that is none: what is typed would not be seen as typed."""
    if tty and stdin and not is_terminal(0):
        raise UsageError("the input device is not a TTY; leave out -t to pipe data in", code=1)


def client_streams(attach: Sequence[str], *, stdin: bool) -> Streams:
    """Choose the client's descriptors; *attach* names them, empty means all."""
    from lamella.engine.streams import Streams

    names = {name.lower() for name in attach}
    if unknown := names - {"stdin", "stdout", "stderr"}:
        raise InvalidArgument(f"invalid argument {min(unknown)!r} for -a: valid streams are STDIN, STDOUT and STDERR")
    return Streams(
        stdin=0 if stdin and (not names or "stdin" in names) else None,
        stdout=1 if not names or "stdout" in names else None,
        stderr=2 if not names or "stderr" in names else None,
    )


def client_code(context: Context, code: int | None) -> int:
    """Return a container's exit code as the client's; None, for a client that detached, is said in Docker's words."""
    if code is None:
        context.warn("read escape sequence")
        return 0
    return code

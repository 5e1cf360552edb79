"""``wait``: block until containers end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lamella.cli.command import Command
from lamella.cli.common import each
from lamella.cli.flags import Values

if TYPE_CHECKING:
    from lamella.cli.context import Context


def run(context: Context, _flags: Values, arguments: list[str]) -> int:
    """Print the exit code of each container named, as it ends."""
    store = context.store()

    def wait(name: str) -> None:
        code = store.container(name).wait()
        context.output.line(str(code))
        context.output.flush()

    return each(context, arguments, wait)


WAIT = Command(usage="CONTAINER [CONTAINER...]", run=run, least=1, completes="container")

"""``restart``: stop a container if it runs, and start it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lamella.cli.command import Command
from lamella.cli.commands.stop import STOP
from lamella.cli.common import each
from lamella.cli.flags import Values

if TYPE_CHECKING:
    from lamella.cli.context import Context


def run(context: Context, flags: Values, arguments: list[str]) -> int:
    """Restart each container named and print the names of those that run again."""
    store = context.store()
    seconds = flags.number("timeout" if flags.given("timeout") else "time")

    def restart(name: str) -> str:
        store.container(name).restart(timeout=seconds, signal=flags.text("signal") or None)
        return name

    return each(context, arguments, restart)


RESTART = Command(usage=STOP.usage, run=run, least=1, completes="container", flags=STOP.flags)

"""``kill``: send a signal to a container's first process."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lamella.cli.command import Command
from lamella.cli.common import each
from lamella.cli.flags import Flag, Values

if TYPE_CHECKING:
    from lamella.cli.context import Context


def run(context: Context, flags: Values, arguments: list[str]) -> int:
    """Signal each container named and print the names of those reached."""
    store = context.store()

    def kill(name: str) -> str:
        store.container(name).kill(flags.text("signal") or "KILL")
        return name

    return each(context, arguments, kill)


KILL = Command(
    usage="[OPTIONS] CONTAINER [CONTAINER...]",
    run=run,
    least=1,
    completes="container",
    flags=(Flag("signal", "Signal to send to the container", short="s", kind="string"),),
)

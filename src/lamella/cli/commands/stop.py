"""``stop``: ask a container to end, and end it if it does not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lamella.cli.command import Command
from lamella.cli.common import each
from lamella.cli.flags import Flag, Values

if TYPE_CHECKING:
    from lamella.cli.context import Context


def run(context: Context, flags: Values, arguments: list[str]) -> int:
    """Stop each container named and print the names of those that stopped."""
    store = context.store()
    seconds = flags.number("timeout" if flags.given("timeout") else "time")

    def stop(name: str) -> str:
        store.container(name).stop(timeout=seconds, signal=flags.text("signal") or None)
        return name

    return each(context, arguments, stop)


STOP = Command(
    usage="[OPTIONS] CONTAINER [CONTAINER...]",
    run=run,
    least=1,
    completes="container",
    flags=(
        Flag("signal", "Signal to send to the container", short="s", kind="string"),
        Flag("timeout", "Seconds to wait before killing the container", short="t", kind="int"),
        Flag("time", "Seconds to wait before killing the container", kind="int", hidden=True),
    ),
)

"""``pause`` and ``unpause``: hold a container's processes still, and let them go on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lamella.cli.command import Command
from lamella.cli.common import each
from lamella.cli.flags import Values

if TYPE_CHECKING:
    from lamella.cli.context import Context

_USAGE = "CONTAINER [CONTAINER...]"


def run(context: Context, _flags: Values, arguments: list[str]) -> int:
    """Pause each container named and print the names of those that are now."""
    store = context.store()

    def pause(name: str) -> str:
        store.container(name).pause()
        return name

    return each(context, arguments, pause)


def run_back(context: Context, _flags: Values, arguments: list[str]) -> int:
    """Let each container named go on and print the names of those that do."""
    store = context.store()

    def unpause(name: str) -> str:
        store.container(name).unpause()
        return name

    return each(context, arguments, unpause)


PAUSE = Command(usage=_USAGE, run=run, least=1, completes="container")
UNPAUSE = Command(usage=_USAGE, run=run_back, least=1, completes="container")

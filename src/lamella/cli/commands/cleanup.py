"""``container cleanup``: what the monitor runs when a container has ended and nobody is attached to see to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lamella.cli.command import Command
from lamella.cli.flags import Values

if TYPE_CHECKING:
    from lamella.cli.context import Context


def run(context: Context, _flags: Values, arguments: list[str]) -> int:
    """Record the exit, unmount the file system and, for ``--rm``, remove the container."""
    context.store().cleanup(arguments[0])
    return 0


CLEANUP = Command(usage="CONTAINER", run=run, least=1, most=1)

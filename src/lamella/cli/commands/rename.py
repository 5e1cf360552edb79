"""``rename``: give a container another name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lamella.cli.command import Command
from lamella.cli.flags import Values

if TYPE_CHECKING:
    from lamella.cli.context import Context


def run(context: Context, _flags: Values, arguments: list[str]) -> int:
    """Rename the first argument's container to the second."""
    context.store().container(arguments[0]).rename(arguments[1])
    return 0


RENAME = Command(usage="CONTAINER NEW_NAME", run=run, least=2, most=2, completes="container")

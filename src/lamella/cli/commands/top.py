"""``top``: the processes of a container, as the host's ``ps`` shows them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lamella.cli.command import Command
from lamella.cli.flags import Values
from lamella.cli.output import columns_of

if TYPE_CHECKING:
    from lamella.cli.context import Context


def run(context: Context, _flags: Values, arguments: list[str]) -> int:
    """Print the table of processes; the arguments after the container are ``ps``'s own."""
    titles, rows = context.store().container(arguments[0]).top(arguments[1:])
    for line in columns_of([[context.output.cell(cell) for cell in row] for row in [titles, *rows]]):
        context.output.raw(line + "\n")
    return 0


TOP = Command(usage="CONTAINER [ps OPTIONS]", run=run, least=1, interspersed=False, completes="container")

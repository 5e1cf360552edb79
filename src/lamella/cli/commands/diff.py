"""``diff``: what a container changed on its image's file system."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from lamella.cli.command import Command
from lamella.cli.flags import Values

if TYPE_CHECKING:
    from lamella.cli.context import Context


def run(context: Context, _flags: Values, arguments: list[str]) -> int:
    """Print one line a change: A for added, C for changed, D for deleted."""
    output = context.output
    for change in context.store().container(arguments[0]).diff():
        # A name with a newline in it must not look like two changes, on a terminal at least.
        output.raw(f"{change.kind} {output.cell('/' + os.fsdecode(change.path).lstrip('/'))}\n")
    return 0


DIFF = Command(usage="CONTAINER", run=run, least=1, most=1, completes="container")

"""``info``: the store and the machine it is on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lamella.cli.command import Command
from lamella.cli.common import INSPECT_FORMAT
from lamella.cli.flags import Values

if TYPE_CHECKING:
    from lamella.cli.context import Context


def run(context: Context, flags: Values, _arguments: list[str]) -> int:
    """Print counts, places and what is wrong, if anything is."""
    document = context.store().info()
    form = flags.text("format")
    if form:
        from lamella.cli.output import print_document

        print_document(context.output, document, form)
        return 0
    for key, value in document.items():
        if key == "Warnings":
            continue
        context.output.line(f"{key}: {value}")
    warnings = document["Warnings"]
    if isinstance(warnings, list):
        for warning in warnings:
            context.warn(f"WARNING: {warning}")
    return 0


INFO = Command(usage="[OPTIONS]", run=run, most=0, flags=(INSPECT_FORMAT,))

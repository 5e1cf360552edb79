"""``version``: which lamella this is, and the tools it drives."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lamella.cli.command import Command
from lamella.cli.common import INSPECT_FORMAT
from lamella.cli.flags import Values

if TYPE_CHECKING:
    from lamella.cli.context import Context


def run(context: Context, flags: Values, _arguments: list[str]) -> int:
    """Print the versions."""
    from lamella.engine.machine import describe_versions

    document = describe_versions()
    form = flags.text("format")
    if form:
        from lamella.cli.output import print_document

        print_document(context.output, document, form)
        return 0
    for key, value in document.items():
        context.output.line(f"{key + ':':<18} {value}")
    return 0


VERSION = Command(usage="[OPTIONS]", run=run, most=0, flags=(INSPECT_FORMAT,))

"""``export``: a container's whole file system as one tar."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lamella.cli.command import Command
from lamella.cli.flags import Flag, Values
from lamella.cli.streams import archive_sink

if TYPE_CHECKING:
    from lamella.cli.context import Context


def run(context: Context, flags: Values, arguments: list[str]) -> int:
    """Write the tar to ``--output`` or standard output."""
    container = context.store().container(arguments[0])
    with archive_sink(flags.text("output")) as sink:
        container.export(sink)
    return 0


EXPORT = Command(
    usage="[OPTIONS] CONTAINER",
    run=run,
    least=1,
    most=1,
    completes="container",
    flags=(Flag("output", "Write to a file, instead of STDOUT", short="o", kind="string"),),
)

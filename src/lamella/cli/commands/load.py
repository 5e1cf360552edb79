"""``load``: the images of an archive into the store."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lamella.cli.command import Command
from lamella.cli.flags import Flag, Values
from lamella.cli.progress import reporting
from lamella.cli.streams import archive_source

if TYPE_CHECKING:
    from lamella.cli.context import Context


def run(context: Context, flags: Values, _arguments: list[str]) -> int:
    """Load the archive at ``--input``, or a directory in OCI layout, or standard input."""
    store = context.store()
    with archive_source(flags.text("input"), what="image") as source, reporting(quiet=flags.on("quiet")) as report:
        loaded = store.load(source, report=report)
    for item in loaded:
        if item.references:
            for reference in item.references:
                context.output.line(f"Loaded image: {reference}")
        else:
            context.output.line(f"Loaded image ID: {item.image.id}")
    return 0


LOAD = Command(
    usage="[OPTIONS]",
    run=run,
    most=0,
    flags=(
        Flag("input", "Read from tar archive file or OCI layout directory, instead of STDIN", short="i", kind="string"),
        Flag("quiet", "Suppress the load output", short="q"),
    ),
)

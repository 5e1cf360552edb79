"""``save``: images as one archive that docker, podman, skopeo and containerd read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lamella.cli.command import Command
from lamella.cli.flags import Flag, Values
from lamella.cli.progress import reporting
from lamella.cli.streams import archive_sink

if TYPE_CHECKING:
    from lamella.cli.context import Context


def run(context: Context, flags: Values, arguments: list[str]) -> int:
    """Write the archive to ``--output`` or standard output."""
    store = context.store()
    name = flags.text("output")
    with archive_sink(name) as sink, reporting(quiet=not name) as report:
        store.save(arguments, sink, report=report)  # every name is resolved before the first byte is written
    return 0


SAVE = Command(
    usage="[OPTIONS] IMAGE [IMAGE...]",
    run=run,
    least=1,
    completes="image",
    flags=(Flag("output", "Write to a file, instead of STDOUT", short="o", kind="string"),),
)

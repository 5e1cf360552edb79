"""``import``: a root file system's tar becomes an image of one layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lamella.cli.command import Command
from lamella.cli.flags import Flag, Values
from lamella.cli.progress import reporting
from lamella.cli.streams import archive_source
from lamella.errors import Unsupported

if TYPE_CHECKING:
    from lamella.cli.context import Context


def run(context: Context, flags: Values, arguments: list[str]) -> int:
    """Import the tar and print the image's ID."""
    from lamella.model.reference import parse_new_name

    source = arguments[0]
    if "://" in source:
        raise Unsupported(
            f"{source}: lamella does not download; fetch it first, e.g. curl -L {source} | lamella import -"
        )
    reference = parse_new_name(arguments[1]).familiar() if len(arguments) > 1 else None
    store = context.store()
    with archive_source("" if source == "-" else source, what="tar") as stream, reporting(quiet=False) as report:
        image = store.import_image(
            stream,
            reference,
            changes=flags.many("change"),
            message=flags.text("message") or f"Imported from {source}",
            platform=flags.text("platform"),
            report=report,
        )
    context.output.line(image.id)
    return 0


IMPORT = Command(
    usage="[OPTIONS] file|- [REPOSITORY[:TAG]]",
    run=run,
    least=1,
    most=2,
    completes="file",
    flags=(
        Flag("change", "Apply Dockerfile instruction to the created image", short="c", kind="list", many=True),
        Flag("message", "Set commit message for imported image", short="m", kind="string"),
        Flag("platform", "Set the image's platform, as os/arch[/variant]", kind="string"),
    ),
)

"""``commit``: a container's writable layer becomes an image."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lamella.cli.command import Command
from lamella.cli.flags import Flag, Values

if TYPE_CHECKING:
    from lamella.cli.context import Context


def run(context: Context, flags: Values, arguments: list[str]) -> int:
    """Commit the container and print the image's ID."""
    from lamella.model.reference import parse_new_name

    reference = parse_new_name(arguments[1]).familiar() if len(arguments) > 1 else None
    image = (
        context.store()
        .container(arguments[0])
        .commit(
            reference,
            author=flags.text("author"),
            message=flags.text("message"),
            changes=flags.many("change"),
            pause=flags.on("pause"),
        )
    )
    context.output.line(image.id)
    return 0


COMMIT = Command(
    usage="[OPTIONS] CONTAINER [REPOSITORY[:TAG]]",
    run=run,
    least=1,
    most=2,
    completes="container",
    flags=(
        Flag("author", 'Author (e.g., "John Hannibal Smith <hannibal@a-team.com>")', short="a", kind="string"),
        Flag("change", "Apply Dockerfile instruction to the created image", short="c", kind="list", many=True),
        Flag("message", "Commit message", short="m", kind="string"),
        Flag("pause", "Pause container during commit", short="p", default="true"),
    ),
)

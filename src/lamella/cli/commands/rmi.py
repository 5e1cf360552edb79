"""``rmi``: remove names, and images with their last name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lamella.cli.command import Command
from lamella.cli.common import each
from lamella.cli.flags import Flag, Values
from lamella.errors import NotFound

if TYPE_CHECKING:
    from lamella.cli.context import Context


def run(context: Context, flags: Values, arguments: list[str]) -> int:
    """Remove each image named, going on after one that cannot be removed."""
    store = context.store()
    force = flags.on("force")

    def remove(name: str) -> str | None:
        try:
            steps = store.remove_image(name, force=force, prune=not flags.on("no-prune"))
        except NotFound as error:
            if force:  # said, but no failure
                context.warn(f"lamella: {error}")
                return None
            raise
        return "\n".join(map(str, steps)) or None

    return each(context, arguments, remove)


RMI = Command(
    usage="[OPTIONS] IMAGE [IMAGE...]",
    run=run,
    least=1,
    completes="image",
    flags=(
        Flag("force", "Force removal of the image", short="f"),
        Flag("no-prune", "Do not delete untagged parents"),
    ),
)

"""``rm``: remove containers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lamella.cli.command import Command
from lamella.cli.common import each
from lamella.cli.flags import Flag, Values
from lamella.errors import NotFound

if TYPE_CHECKING:
    from lamella.cli.context import Context


def run(context: Context, flags: Values, arguments: list[str]) -> int:
    """Remove each container named and print the names of those removed."""
    store = context.store()
    force = flags.on("force")

    def remove(name: str) -> str | None:
        try:
            store.container(name).remove(force=force, volumes=flags.on("volumes"))
        except NotFound as error:
            if force:  # said, but no failure
                context.warn(f"lamella: {error}")
                return None
            raise
        return name

    return each(context, arguments, remove)


RM = Command(
    usage="[OPTIONS] CONTAINER [CONTAINER...]",
    run=run,
    least=1,
    completes="container",
    flags=(
        Flag("force", "Force the removal of a running container (uses SIGKILL)", short="f"),
        Flag("volumes", "Remove anonymous volumes associated with the container", short="v"),
    ),
)

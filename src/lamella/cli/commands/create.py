"""``create``: a container at rest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lamella.cli.command import Command
from lamella.cli.flags import Values
from lamella.cli.runflags import CREATE_FLAGS, read_options
from lamella.errors import AlreadyExists, NotFound

if TYPE_CHECKING:
    from lamella.cli.context import Context
    from lamella.engine.containers import Container
    from lamella.engine.options import ContainerOptions

NETWORK_NOTE = (
    "The container's network is 'none', loopback only, unless --network host is given: there is no bridge. "
    "Images are not pulled: load or import them first."
)


def run(context: Context, flags: Values, arguments: list[str]) -> int:
    """Create a container and print its ID."""
    options = read_options(context, flags, attach=True)
    container = make_container(context, flags, arguments[0], arguments[1:], options)
    context.output.line(container.id)
    return 0


def make_container(
    context: Context, flags: Values, image: str, command: Sequence[str], options: ContainerOptions
) -> Container:
    """Create the container and write its ``--cidfile``; an image that is not here gets Docker's words and a way out."""
    import os

    if options.cid_file and os.path.lexists(options.cid_file):
        raise AlreadyExists(
            f"container ID file found, make sure the other container isn't running or delete {options.cid_file}"
        )
    store = context.store()
    if store.find_image(image) is None:
        from lamella.model.reference import parse_tagged

        name = parse_tagged(image).familiar()
        if flags.text("pull") != "never":
            context.warn(f"Unable to find image '{name}' locally")
        raise NotFound(
            f"No such image: {name}; bring it in with 'lamella load -i FILE' or 'lamella import FILE {name}'"
        )
    container = store.create_container(image, command, options, platform=flags.text("platform"))
    if options.cid_file:
        fd = os.open(options.cid_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        with os.fdopen(fd, "w") as file:
            file.write(container.id)
    return container


CREATE = Command(
    usage="[OPTIONS] IMAGE [COMMAND] [ARG...]",
    run=run,
    least=1,
    interspersed=False,
    flags=CREATE_FLAGS,
    notes=NETWORK_NOTE,
    completes="image",
)

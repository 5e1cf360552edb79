"""``create``: a container at rest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lamella.cli.command import Command
from lamella.cli.flags import UsageError, Values
from lamella.cli.runflags import CREATE_FLAGS, read_options
from lamella.errors import AlreadyExists, NotFound

if TYPE_CHECKING:
    from lamella.cli.context import Context
    from lamella.engine.containers import Container
    from lamella.engine.options import ContainerOptions

NETWORK_NOTE = (
    "The container's network is 'none', loopback only, unless --network host is given: there is no bridge. "
    "An image that is not here is pulled first, unless --pull never is given."
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
    """Create the container and write its ``--cidfile``; ``--pull`` says when its image is pulled before."""
    import os

    if options.cid_file and os.path.lexists(options.cid_file):
        raise AlreadyExists(
            f"container ID file found, make sure the other container isn't running or delete {options.cid_file}"
        )
    store = context.store()
    policy, platform = flags.text("pull"), flags.text("platform")
    if policy not in {"always", "missing", "never"}:
        raise UsageError(f'invalid pull option: \'{policy}\': must be one of "always", "missing" or "never"')
    if policy == "always" or store.find_image(image) is None:
        from lamella.cli.commands.pull import need_image

        if need_image(context, image, policy, platform=platform, quiet=flags.on("quiet")) is None:
            from lamella.model.reference import parse_tagged

            name = parse_tagged(image).familiar()
            raise NotFound(f"No such image: {name}; bring it in with 'lamella pull {name}' or 'lamella load -i FILE'")
    container = store.create_container(image, command, options, platform=platform)
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

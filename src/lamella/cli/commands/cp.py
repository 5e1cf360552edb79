"""``cp``: files between a container and the host, either way."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from lamella.cli.command import Command
from lamella.cli.flags import Flag, Values
from lamella.errors import InvalidArgument

if TYPE_CHECKING:
    from lamella.cli.context import Context


def split_place(text: str) -> tuple[str, str]:
    """Split ``CONTAINER:PATH``; a host path has no container, and one with a colon begins with ``/`` or ``.``."""
    if text == "-" or text.startswith(("/", ".")) or ":" not in text:
        return "", text
    container, _, path = text.partition(":")
    return container, path


def run(context: Context, flags: Values, arguments: list[str]) -> int:
    """Copy from the first argument to the second; ``-`` is a tar on standard input or output."""
    (source_container, source), (target_container, target) = map(split_place, arguments)
    if source_container and target_container:
        raise InvalidArgument("copying between containers is not supported")
    if not source_container and not target_container:
        raise InvalidArgument("must specify at least one container source")
    if not source or not target:
        raise InvalidArgument("source and destination must not be empty")
    archive, follow = flags.on("archive"), flags.on("follow-link")
    if source_container:
        container = context.store().container(source_container)
        if target == "-":
            if sys.stdout.isatty():
                raise InvalidArgument("refusing to write a tar archive to a terminal; redirect it")
            container.copy_out_tar(source, sys.stdout.buffer, follow=follow)
        else:
            container.copy_out(source, target, archive=archive, follow=follow)
        return 0
    container = context.store().container(target_container)
    if source == "-":
        container.copy_in_tar(sys.stdin.buffer, target)
    else:
        container.copy_in(source, target, archive=archive, follow=follow)
    return 0


CP = Command(
    usage="[OPTIONS] CONTAINER:SRC_PATH DEST_PATH|-\n\tlamella cp [OPTIONS] SRC_PATH|- CONTAINER:DEST_PATH",
    run=run,
    least=2,
    most=2,
    completes="container",
    notes=(
        "Use '-' as the source to read a tar archive from stdin and extract it to a directory destination in a "
        "container.\nUse '-' as the destination to stream a tar archive of a container source to stdout."
    ),
    flags=(
        Flag("archive", "Archive mode (copy all uid/gid information)", short="a"),
        Flag("follow-link", "Always follow symbol link in SRC_PATH", short="L"),
        Flag("quiet", "Suppress progress output during copy", short="q"),
    ),
)

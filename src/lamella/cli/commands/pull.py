"""``pull``: an image, or all tags of a repository, from a registry."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from lamella.cli.command import Command
from lamella.cli.flags import Flag, Values
from lamella.cli.output import Output
from lamella.cli.progress import reporting
from lamella.cli.registries import MIRROR_FLAG, TRANSFER_FLAGS, host_of, read_registries

if TYPE_CHECKING:
    from lamella.cli.context import Context
    from lamella.engine.images import Image
    from lamella.engine.registries import PulledImage


def run(context: Context, flags: Values, arguments: list[str]) -> int:
    """Pull the image and say what it is now; ``--quiet`` prints its digest alone."""
    from lamella.model.reference import parse_reference

    name = arguments[0]
    quiet, every = flags.on("quiet"), flags.on("all-tags")
    reference = parse_reference(name)
    registries = read_registries(context, flags, host_of(name))
    if not quiet and not every:
        if reference.tag is None and reference.digest is None:
            context.output.line("Using default tag: latest")
        context.output.line(f"{reference.digest or reference.tag or 'latest'}: Pulling from {reference.path}")
        context.output.flush()
    store = context.store()
    with reporting(quiet=quiet, lines=context.output) as report:
        if every:
            pulled = store.pull_all_tags(name, platform=flags.text("platform"), registries=registries, report=report)
        else:
            pulled = [store.pull(name, platform=flags.text("platform"), registries=registries, report=report)]
    for item in pulled:
        if quiet:
            context.output.line(item.digest)
        else:
            _say(context.output, item)
            context.output.line(item.full_reference)
    return 0


def _say(output: Output, item: PulledImage) -> None:
    output.line(f"Digest: {item.digest}")
    state = "Downloaded newer image for" if item.fresh else "Image is up to date for"
    output.line(f"Status: {state} {item.reference}")


def need_image(context: Context, name: str, policy: str, *, platform: str, quiet: bool) -> Image | None:
    """Find or pull the image that another command starts from, by the ``--pull`` *policy*; None if it is not here.

    What is said goes to standard error, as with Docker.
    """
    store = context.store()
    if policy != "always" and ((found := store.find_image(name)) is not None or policy == "never"):
        return found
    from lamella.model.reference import parse_tagged

    reference = parse_tagged(name)
    lines = Output(sys.stderr.buffer)
    if policy == "missing":
        context.warn(f"Unable to find image '{reference.familiar()}' locally")
    if not quiet:
        lines.line(f"{reference.digest or reference.tag}: Pulling from {reference.path}")
        lines.flush()
    with reporting(quiet=quiet, lines=lines) as report:
        pulled = store.pull(name, platform=platform, registries=read_registries(context), report=report)
    if not quiet:
        _say(lines, pulled)
        lines.flush()
    return pulled.image


PULL = Command(
    usage="[OPTIONS] NAME[:TAG|@DIGEST]",
    run=run,
    least=1,
    most=1,
    completes="image",
    flags=(
        Flag("all-tags", "Download all tagged images in the repository", short="a"),
        *TRANSFER_FLAGS,
        MIRROR_FLAG,
        Flag("platform", "Pull the image for this platform, as os/arch[/variant]", kind="string"),
        Flag("quiet", "Print the digest only", short="q"),
    ),
)

"""``push``: an image, or all tags of a repository, to a registry."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lamella.cli.command import Command
from lamella.cli.flags import Flag, Values
from lamella.cli.progress import reporting
from lamella.cli.registries import TRANSFER_FLAGS, host_of, read_registries

if TYPE_CHECKING:
    from lamella.cli.context import Context


def run(context: Context, flags: Values, arguments: list[str]) -> int:
    """Push and print each manifest's digest; ``--quiet`` prints the digests alone."""
    from lamella.model.reference import parse_reference

    name = arguments[0]
    quiet, every = flags.on("quiet"), flags.on("all-tags")
    reference = parse_reference(name)
    registries = read_registries(context, flags, host_of(name))
    if not quiet:
        if reference.tag is None and reference.digest is None and not every:
            context.output.line("Using default tag: latest")
        context.output.line(f"The push refers to repository [{reference.normalised_name()}]")
        context.output.flush()
    with reporting(quiet=quiet, lines=context.output) as report:
        pushed = context.store().push(
            name, all_tags=every, compression=flags.text("compression"), registries=registries, report=report
        )
    for item in pushed:
        if quiet:
            context.output.line(item.digest)
        else:
            tag = item.reference.rpartition(":")[2]
            context.output.line(f"{tag}: digest: {item.digest} size: {item.size}")
    return 0


PUSH = Command(
    usage="[OPTIONS] NAME[:TAG]",
    run=run,
    least=1,
    most=1,
    completes="image",
    notes=(
        "Layers that the registry has, or can mount from another repository, are not sent. An image that was pulled "
        "and not changed keeps its digest as long as the registry has its blobs; a blob that must be made again from "
        "the layer may come out with another digest, since compressors differ."
    ),
    flags=(
        Flag("all-tags", "Push all tags of an image to the repository", short="a"),
        *TRANSFER_FLAGS,
        Flag("compression", "Pack layers as gzip, zstd or none (default is as they came)", kind="string"),
        Flag("quiet", "Print the digests only", short="q"),
    ),
)

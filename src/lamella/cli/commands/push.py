"""``push``: an image, all tags of a repository, or an index of several images, to a registry."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lamella.cli.command import Command
from lamella.cli.flags import Flag, UsageError, Values
from lamella.cli.progress import reporting
from lamella.cli.registries import TRANSFER_FLAGS, host_of, read_registries

if TYPE_CHECKING:
    from lamella.cli.context import Context


def run(context: Context, flags: Values, arguments: list[str]) -> int:
    """Push and print each manifest's digest; ``--quiet`` prints the digests alone."""
    from lamella.engine.registries import push_reference

    name, *images = arguments
    quiet, every, index = flags.on("quiet"), flags.on("all-tags"), flags.on("index")
    if index and not images:
        raise UsageError("'lamella push --index' requires at least 2 arguments", code=1)
    if images and not index:
        raise UsageError("'lamella push' requires 1 argument", code=1)
    if index and every:
        raise UsageError("--index and --all-tags cannot be used together", code=1)
    reference = push_reference(name, all_tags=every)
    registries = read_registries(context, flags, host_of(name))
    if not quiet:
        if reference.tag is None and reference.digest is None and not every:
            context.output.line("Using default tag: latest")
        context.output.line(f"The push refers to repository [{reference.normalised_name()}]")
        context.output.flush()
    store, compression = context.store(), flags.text("compression")
    with reporting(quiet=quiet, lines=context.output) as report:
        if index:
            pushed = [store.push_index(name, images, compression=compression, registries=registries, report=report)]
        else:
            pushed = store.push(name, all_tags=every, compression=compression, registries=registries, report=report)
    for item in pushed:
        if quiet:
            context.output.line(item.digest)
        else:
            tag = item.reference.rpartition(":")[2]
            context.output.line(f"{tag}: digest: {item.digest} size: {item.size}")
    return 0


PUSH = Command(
    usage="[OPTIONS] NAME[:TAG] [IMAGE...]",
    run=run,
    least=1,
    completes="image",
    notes=(
        "With --index the IMAGEs, one for each platform, are pushed by their digests, and under NAME an index of them, "
        "from which whoever pulls NAME gets the one for its platform:\n"
        "  lamella push --index example.org/app:1 app:amd64 app:arm64\n"
        "Layers that the registry has, or can mount from another repository, are not sent. An image that was pulled "
        "and not changed keeps its digest as long as the registry has its blobs; a blob that must be made again from "
        "the layer may come out with another digest, since compressors differ."
    ),
    flags=(
        Flag("all-tags", "Push all tags of an image to the repository", short="a"),
        *TRANSFER_FLAGS,
        Flag("compression", "Pack layers as gzip, zstd or none (default is as they came)", kind="string"),
        Flag("index", "Push the given images as one index for several platforms"),
        Flag("quiet", "Print the digests only", short="q"),
    ),
)

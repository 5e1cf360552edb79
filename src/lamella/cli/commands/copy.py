"""``copy``: an image from one place to another, without unpacking it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lamella.cli.command import Command
from lamella.cli.flags import Flag, Values
from lamella.cli.progress import reporting
from lamella.cli.registries import MIRROR_FLAG, TRANSFER_FLAGS, host_of, read_registries

if TYPE_CHECKING:
    from lamella.cli.context import Context

_NOTES = """\
SOURCE and DESTINATION are one of
  docker://NAME[:TAG|@DIGEST]   an image in a registry
  oci:PATH[:NAME]               a directory in OCI layout
  oci-archive:PATH[:NAME]       the same as a tar
  docker-archive:PATH[:NAME]    a tar as `docker save` writes it
  dir:PATH                      a directory as skopeo writes it
  NAME[:TAG]                    an image of the store
Documents and blobs go over bit for bit where the destination can hold them;\nan OCI layout gets Docker's manifests in OCI's words, which changes their digest."""


def run(context: Context, flags: Values, arguments: list[str]) -> int:
    """Copy, and print the digest of what was copied."""
    from lamella.engine.registries import copy_images

    source, destination = arguments
    hosts = [host_of(name.removeprefix("docker://")) for name in arguments if name.startswith("docker://")]
    quiet = flags.on("quiet")
    with reporting(quiet=quiet, lines=context.output) as report:
        copied = copy_images(
            source,
            destination,
            store=lambda: context.store().parts,
            everything=flags.on("all"),
            platform=flags.text("platform"),
            compression=flags.text("compression"),
            preserve=flags.on("preserve-digests"),
            registries=read_registries(context, flags, *hosts),
            report=report,
        )
    context.output.line(copied.digest if quiet else f"Digest: {copied.digest}")
    return 0


COPY = Command(
    usage="[OPTIONS] SOURCE DESTINATION",
    run=run,
    least=2,
    most=2,
    notes=_NOTES,
    flags=(
        Flag("all", "Copy an index with all its images, not the one for a platform", short="a"),
        *TRANSFER_FLAGS,
        MIRROR_FLAG,
        Flag("compression", "Pack what must be packed as gzip, zstd or none", kind="string"),
        Flag("platform", "Copy the image for this platform, as os/arch[/variant]", kind="string"),
        Flag("preserve-digests", "Keep Docker's manifests in an OCI layout as they are"),
        Flag("quiet", "Print the digest only", short="q"),
    ),
)

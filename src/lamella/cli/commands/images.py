"""``images``: the list of images."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from lamella.cli.command import Command
from lamella.cli.common import FORMAT, check_filter_words
from lamella.cli.flags import Flag, Values
from lamella.cli.output import Listing, Row, print_listing
from lamella.cli.times import ago, local_time

if TYPE_CHECKING:
    from lamella.cli.context import Context
    from lamella.engine.images import Image

HEADINGS = {
    "Repository": "REPOSITORY",
    "Tag": "TAG",
    "Digest": "DIGEST",
    "ID": "IMAGE ID",
    "CreatedSince": "CREATED",
    "CreatedAt": "CREATED AT",
    "Size": "SIZE",
    "Containers": "CONTAINERS",
    "SharedSize": "SHARED SIZE",
    "UniqueSize": "UNIQUE SIZE",
    "VirtualSize": "SIZE",
}
NONE = "<none>"


def run(context: Context, flags: Values, arguments: list[str]) -> int:
    """Print one line a tag."""
    filters = check_filter_words(flags.many("filter"))
    if arguments:
        filters.append(f"reference={arguments[0]}")
    images = context.store().images(all=flags.on("all"), filters=filters)
    form = flags.text("format")
    digests = flags.on("digests") or ".Digest" in form
    rows = (row for image in images for row in image_rows(image, digests=digests, whole=flags.on("no-trunc")))
    columns = ["Repository", "Tag", *(["Digest"] if flags.on("digests") else []), "ID", "CreatedSince", "Size"]
    print_listing(context.output, Listing(HEADINGS, columns), list(rows), form, quiet="ID" if flags.on("quiet") else "")
    return 0


def image_rows(image: Image, *, digests: bool, whole: bool) -> Iterator[Row]:
    """Make the rows of one image: one a tag, digests beside it or, without a tag, alone."""
    from lamella.model.units import human_size

    size = human_size(image.size, precision=3)
    common: dict[str, object] = {
        "ID": image.id if whole else image.short_id,
        "CreatedSince": ago(image.created),
        "CreatedAt": local_time(image.created),
        "Size": size,
        "Containers": "N/A",
        "SharedSize": "N/A",
        "UniqueSize": "N/A",
        "VirtualSize": size,
    }
    found = False
    tags: dict[str, list[str]] = {}
    by_repository: dict[str, list[str]] = {}
    for reference in image.references:
        name = reference.familiar_name()
        if reference.digest:
            by_repository.setdefault(name, []).append(reference.digest)
        else:
            tags.setdefault(name, []).append(reference.tag or "latest")
    for name in sorted({*tags, *by_repository}):
        known = by_repository.get(name, []) if digests or name not in tags else []
        for tag in sorted(tags.get(name, [NONE])):
            for digest in (known if digests else known[:1]) or [NONE]:
                found = True
                yield {**common, "Repository": name, "Tag": tag, "Digest": digest}
    if not found:
        yield {**common, "Repository": NONE, "Tag": NONE, "Digest": NONE}


IMAGES = Command(
    usage="[OPTIONS] [REPOSITORY[:TAG]]",
    run=run,
    most=1,
    completes="image",
    flags=(
        Flag("all", "Show all images (default hides intermediate images)", short="a"),
        Flag("digests", "Show digests"),
        Flag(
            "filter",
            "Filter output: dangling, label, before, since, until, reference",
            short="f",
            kind="filter",
            many=True,
        ),
        FORMAT,
        Flag("no-trunc", "Don't truncate output"),
        Flag("quiet", "Only show image IDs", short="q"),
    ),
)

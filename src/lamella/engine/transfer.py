"""Images in and out: archives loaded and saved, root file systems imported."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from lamella.engine.images import Image, get_image
from lamella.errors import InvalidArgument, NotFound
from lamella.model.digest import ImageID
from lamella.model.progress import Reporter
from lamella.model.reference import Reference, parse_new_name, parse_reference

if TYPE_CHECKING:
    from lamella.engine.opened import Opened


class Loaded(NamedTuple):
    """One image that came in with an archive, and the names it was given."""

    image: Image
    references: list[str]


def load_images(opened: Opened, source: BinaryIO | Path, report: Reporter) -> list[Loaded]:
    """Load every image of an archive and look each up as it now is."""
    from lamella.transports.loading import load

    return [
        Loaded(get_image(opened, item.id), [reference.familiar() for reference in item.references])
        for item in load(opened.parts, source, report=report)
    ]


def save_images(opened: Opened, names: Sequence[str], sink: BinaryIO, report: Reporter) -> None:
    """Write the images that *names* name, each once, with the tags by which they were named."""
    from lamella.transports.saving import save

    chosen: dict[ImageID, list[Reference]] = {}
    for name in names:
        for image, references in plan_save(opened, name):
            known = chosen.setdefault(image, [])
            known += [reference for reference in references if reference not in known]
    save(opened.parts, list(chosen.items()), sink, report=report)


def plan_save(opened: Opened, name: str) -> list[tuple[ImageID, list[Reference]]]:
    """Return what *name* stands for in ``save``: an ID one image without tags, a repository all that it tags."""
    tags = opened.parts.tags
    with contextlib.suppress(InvalidArgument):
        reference = parse_reference(name)
        if reference.tag is None and reference.digest is None:
            found = [
                (image, [known for known in references if known.repository() == reference and not known.digest])
                for image, references in tags.by_image().items()
            ]
            if found := [(image, references) for image, references in found if references]:
                return found
        else:
            tagged = tags.find(reference)
            if tagged is not None:
                return [(tagged, [] if reference.digest else [reference])]
    try:
        return [(opened.parts.resolve(name), [])]
    except NotFound:
        raise NotFound(f"No such image: {name}") from None


def import_image(
    opened: Opened,
    source: BinaryIO | Path,
    reference: str | None,
    *,
    changes: Sequence[str],
    message: str,
    platform: str,
    report: Reporter,
) -> Image:
    """Make an image of one layer from the tar of a root file system."""
    from lamella.model.platform import host_platform, parse_platform
    from lamella.transports.rootfs import import_filesystem

    with contextlib.ExitStack() as scope:
        if isinstance(source, Path):
            if source.is_dir():
                raise InvalidArgument(f"{source} is a directory; pack it: tar -C {source} -c . | lamella import -")
            source = scope.enter_context(source.open("rb"))
        image = import_filesystem(
            opened.parts,
            source,
            reference=None if reference is None else parse_new_name(reference),
            changes=changes,
            message=message,
            platform=parse_platform(platform) if platform else host_platform(),
            report=report,
        )
    return get_image(opened, image)

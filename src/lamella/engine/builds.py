"""Building: the library's keywords into the builder's options, the builder's events to whoever listens."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from lamella.build.events import BuildEvent, Output, silent
from lamella.engine.images import Image, get_image

if TYPE_CHECKING:
    from lamella.engine.opened import Opened
    from lamella.engine.registries import Registries
    from lamella.model.progress import Reporter

__all__ = ["BuildEvent", "Output", "build_image"]


def build_image(
    opened: Opened,
    context: Path | BinaryIO,
    *,
    tags: Sequence[str],
    dockerfile: Path | bytes | None,
    build_args: Mapping[str, str],
    labels: Mapping[str, str],
    target: str,
    network: str,
    platform: str,
    no_cache: bool,
    timestamp: int | None,
    pull: bool,
    registries: Registries | None,
    pull_report: Reporter,
    report: Callable[[BuildEvent], None] | None,
) -> Image:
    """Build an image; see ``Store.build``."""
    from lamella.build.executor import build_image as build
    from lamella.build.request import BuildOptions

    def fetch(name: str, wanted: str) -> None:
        from lamella.engine.registries import ANONYMOUS, pull_images

        pull_images(
            opened,
            name,
            all_tags=False,
            platform=wanted,
            registries=registries or ANONYMOUS,
            report=pull_report,
        )

    options = BuildOptions(
        tags=tuple(tags),
        dockerfile=dockerfile,
        build_args=dict(build_args),
        labels=dict(labels),
        target=target,
        no_cache=no_cache,
        network=network,
        platform=platform,
        timestamp=timestamp,
        fetch=None if registries is None else fetch,
        pull=pull,
    )
    result = build(opened.site, context, options, report=report or silent)
    return get_image(opened, result.image_id)

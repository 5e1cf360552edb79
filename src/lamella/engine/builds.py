"""Building: the library's keywords into the builder's options, the builder's events to whoever listens."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from lamella.build.events import (
    BuildEvent,
    CacheUsed,
    Output,
    RunRemoved,
    RunStarted,
    StageMark,
    StepFinished,
    StepStarted,
    silent,
    stage_of,
)
from lamella.build.request import RunLimits
from lamella.engine.images import Image, get_image

if TYPE_CHECKING:
    from lamella.engine.opened import Opened
    from lamella.engine.registries import Registries
    from lamella.model.progress import Reporter

__all__ = [
    "BuildEvent",
    "CacheUsed",
    "Output",
    "RunLimits",
    "RunRemoved",
    "RunStarted",
    "StageMark",
    "StepFinished",
    "StepStarted",
    "build_image",
    "read_context",
    "stage_of",
    "writes_to_stdout",
]


def writes_to_stdout(outputs: Sequence[str]) -> bool:
    """Tell whether one of these outputs goes to standard output.  Raises InvalidArgument for one that is wrong."""
    if not outputs:
        return False
    from lamella.build.outputs import parse_output

    outputs_to_stdout = [parse_output(text).to_stdout for text in outputs]  # each is checked
    return any(outputs_to_stdout)


def read_context(text: str) -> Path | str:
    """Tell a directory from the URL of a context, which stays text."""
    is_url = "://" in text or text.startswith("git@") or (text.startswith("github.com/") and not Path(text).exists())
    return text if is_url else Path(text)


def build_image(
    opened: Opened,
    context: Path | BinaryIO | str,
    *,
    tags: Sequence[str],
    dockerfile: Path | bytes | None,
    build_args: Mapping[str, str],
    labels: Mapping[str, str],
    target: str,
    network: str,
    platform: str,
    no_cache: bool,
    no_cache_filter: Sequence[str],
    jobs: int | None,
    secrets: Mapping[str, bytes],
    ssh: Mapping[str, Path],
    limits: RunLimits | None,
    outputs: Sequence[str],
    stdout: BinaryIO | None,
    squash: bool,
    cache_from: Sequence[str],
    cache_to: Sequence[str],
    timestamp: int | None,
    pull: bool,
    registries: Registries | None,
    pull_report: Reporter,
    report: Callable[[BuildEvent], None] | None,
) -> Image:
    """Build an image; see ``Store.build``."""
    from lamella.build.arguments import given_epoch
    from lamella.build.executor import build_image as build
    from lamella.build.request import BuildOptions
    from lamella.engine.deliveries import connector, deliver, parse_deliveries
    from lamella.engine.registries import ANONYMOUS

    wanted = parse_deliveries(outputs, cache_from, cache_to, tags)

    def fetch(name: str, wanted: str) -> None:
        from lamella.engine.registries import pull_images

        pull_images(
            opened,
            name,
            all_tags=False,
            platform=wanted,
            registries=registries or ANONYMOUS,
            report=pull_report,
        )

    options = BuildOptions(
        tags=tuple(dict.fromkeys((*tags, *wanted.names()))),
        dockerfile=dockerfile,
        build_args=dict(build_args),
        labels=dict(labels),
        target=target,
        no_cache=no_cache,
        no_cache_stages=tuple(no_cache_filter),
        jobs=jobs,
        network=network,
        platform=platform,
        secrets=dict(secrets),
        ssh=dict(ssh),
        limits=limits or RunLimits(),
        squash=squash,
        cache_from=wanted.cache_from,
        connect=connector(registries or ANONYMOUS),
        timestamp=given_epoch(build_args) if timestamp is None else timestamp,
        fetch=None if registries is None else fetch,
        pull=pull,
        proxies={} if registries is None else registries.settings.proxies,
    )
    result = build(opened.site, context, options, report=report or silent)
    deliver(
        opened,
        result,
        wanted,
        registries=registries or ANONYMOUS,
        stdout=stdout,
        transfer_report=pull_report,
        report=report or silent,
    )
    return get_image(opened, result.image_id)

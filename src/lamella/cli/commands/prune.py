"""``image prune``, ``container prune``, ``builder prune``, ``system prune``: remove what nothing uses, after asking."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lamella.cli.command import Command
from lamella.cli.common import check_filter_words
from lamella.cli.flags import Flag, Values
from lamella.cli.output import confirm

if TYPE_CHECKING:
    from lamella.cli.context import Context


def run_images(context: Context, flags: Values, _arguments: list[str]) -> int:
    """Remove dangling images, or with ``--all`` every image without a container."""
    what = "all images without at least one container associated to them" if flags.on("all") else "all dangling images"
    if not _agreed(context, flags, what):
        return 0
    _total(context, _prune_images(context, flags, check_filter_words(flags.many("filter"))))
    return 0


def run_containers(context: Context, flags: Values, _arguments: list[str]) -> int:
    """Remove all stopped containers."""
    if not _agreed(context, flags, "all stopped containers"):
        return 0
    _total(context, _prune_containers(context, check_filter_words(flags.many("filter"))))
    return 0


def run_build_cache(context: Context, flags: Values, _arguments: list[str]) -> int:
    """Remove the directories of cache mounts, or with ``--all`` also the steps that nothing needs."""
    if not _agreed(context, flags, "all build cache" if flags.on("all") else "all dangling build cache"):
        return 0
    _total(context, _prune_build_cache(context, flags, check_filter_words(flags.many("filter"))))
    return 0


def run_system(context: Context, flags: Values, _arguments: list[str]) -> int:
    """Remove stopped containers, then images and build cache that nothing needs any more."""
    filters = check_filter_words(flags.many("filter"))
    images = (
        "all images without at least one container associated to them" if flags.on("all") else "all dangling images"
    )
    cache = "all build cache" if flags.on("all") else "all dangling build cache"
    if not _agreed(context, flags, "all stopped containers", images, cache):
        return 0
    freed = _prune_containers(context, filters)
    freed += _prune_images(context, flags, filters)
    freed += _prune_build_cache(context, flags, [word for word in filters if word.startswith("until=")])
    _total(context, freed)
    return 0


def _prune_images(context: Context, flags: Values, filters: list[str]) -> int:
    report = context.store().prune_images(everything=flags.on("all"), filters=filters)
    lines = [f"untagged: {step.untagged}" if step.untagged else f"deleted: {step.deleted}" for step in report.removed]
    _list(context, "Deleted Images:", lines)
    return report.reclaimed


def _prune_containers(context: Context, filters: list[str]) -> int:
    report = context.store().prune_containers(filters=filters)
    _list(context, "Deleted Containers:", report.removed)
    return report.reclaimed


def _prune_build_cache(context: Context, flags: Values, filters: list[str]) -> int:
    report = context.store().prune_build_cache(everything=flags.on("all"), filters=filters)
    _list(context, "Deleted build cache objects:", report.removed)
    return report.reclaimed


def _list(context: Context, title: str, lines: Sequence[str]) -> None:
    if lines:
        for line in (title, *lines, ""):
            context.output.line(line)


def _agreed(context: Context, flags: Values, *what: str) -> bool:
    if flags.on("force"):
        return True
    context.output.flush()
    listed = f" {what[0]}.\n" if len(what) == 1 else "".join((":", *(f"\n  - {each}" for each in what), "\n\n"))
    return confirm(f"WARNING! This will remove{listed}Are you sure you want to continue? [y/N] ", input)


def _total(context: Context, size: int) -> None:
    from lamella.model.units import human_size

    context.output.line(f"Total reclaimed space: {human_size(size)}")


_FILTER = Flag("filter", 'Provide filter values (e.g. "until=<timestamp>")', kind="filter", many=True)
_FORCE = Flag("force", "Do not prompt for confirmation", short="f")

IMAGE_PRUNE = Command(
    usage="[OPTIONS]",
    run=run_images,
    most=0,
    flags=(Flag("all", "Remove all unused images, not just dangling ones", short="a"), _FILTER, _FORCE),
)
BUILDER_PRUNE = Command(
    usage="[OPTIONS]",
    run=run_build_cache,
    most=0,
    flags=(Flag("all", "Remove all unused build cache, not just dangling ones", short="a"), _FILTER, _FORCE),
)
SYSTEM_PRUNE = Command(
    usage="[OPTIONS]",
    run=run_system,
    most=0,
    flags=(Flag("all", "Remove all unused images and build cache, not just dangling ones", short="a"), _FILTER, _FORCE),
)
CONTAINER_PRUNE = Command(usage="[OPTIONS]", run=run_containers, most=0, flags=(_FILTER, _FORCE))

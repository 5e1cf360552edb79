"""``image prune``, ``container prune`` and ``builder prune``: remove what nothing uses, after asking."""

from __future__ import annotations

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
    filters = check_filter_words(flags.many("filter"))
    report = context.store().prune_images(everything=flags.on("all"), filters=filters)
    if report.removed:
        context.output.line("Deleted Images:")
        for step in report.removed:
            context.output.line(f"untagged: {step.untagged}" if step.untagged else f"deleted: {step.deleted}")
        context.output.line()
    _total(context, report.reclaimed)
    return 0


def run_containers(context: Context, flags: Values, _arguments: list[str]) -> int:
    """Remove all stopped containers."""
    if not _agreed(context, flags, "all stopped containers"):
        return 0
    report = context.store().prune_containers(filters=check_filter_words(flags.many("filter")))
    if report.removed:
        context.output.line("Deleted Containers:")
        for identity in report.removed:
            context.output.line(identity)
        context.output.line()
    _total(context, report.reclaimed)
    return 0


def run_build_cache(context: Context, flags: Values, _arguments: list[str]) -> int:
    """Remove the directories of cache mounts, or with ``--all`` also the steps that nothing needs."""
    if not _agreed(context, flags, "all build cache" if flags.on("all") else "all dangling build cache"):
        return 0
    filters = check_filter_words(flags.many("filter"))
    report = context.store().prune_build_cache(everything=flags.on("all"), filters=filters)
    if report.removed:
        context.output.line("Deleted build cache objects:")
        for identity in report.removed:
            context.output.line(identity)
        context.output.line()
    _total(context, report.reclaimed)
    return 0


def _agreed(context: Context, flags: Values, what: str) -> bool:
    if flags.on("force"):
        return True
    context.output.flush()
    return confirm(f"WARNING! This will remove {what}.\nAre you sure you want to continue? [y/N] ", input)


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
CONTAINER_PRUNE = Command(usage="[OPTIONS]", run=run_containers, most=0, flags=(_FILTER, _FORCE))

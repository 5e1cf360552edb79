"""What a build is for besides the store: its outputs, and its cache for other stores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from lamella.build.events import Report, Warned
from lamella.errors import LamellaError

if TYPE_CHECKING:
    from lamella.build.cacheplaces import CachePlace
    from lamella.build.outputs import Output
    from lamella.build.request import BuildResult
    from lamella.engine.opened import Opened
    from lamella.engine.registries import Registries
    from lamella.model.progress import Reporter
    from lamella.model.reference import Reference


class Deliveries(NamedTuple):
    """What was asked for, parsed."""

    outputs: tuple[Output, ...]
    cache_from: tuple[CachePlace, ...]
    cache_to: tuple[CachePlace, ...]

    def names(self) -> list[str]:
        """Give the names that outputs of type ``image`` want in the store."""
        return [name for output in self.outputs if output.type == "image" for name in output.names]


def parse_deliveries(
    outputs: Sequence[str], cache_from: Sequence[str], cache_to: Sequence[str], tags: Sequence[str]
) -> Deliveries:
    """Parse and check all of it, before anything is built."""
    if not (outputs or cache_from or cache_to):
        return Deliveries((), (), ())
    from lamella.build.cacheplaces import parse_cache_from, parse_cache_to
    from lamella.build.outputs import check_outputs, parse_output

    parsed = Deliveries(
        tuple(map(parse_output, outputs)),
        tuple(dict.fromkeys(map(parse_cache_from, cache_from))),
        tuple(map(parse_cache_to, cache_to)),
    )
    check_outputs(parsed.outputs, tags)
    return parsed


def connector(registries: Registries) -> Callable[[Reference, str], AbstractContextManager[Any]]:
    """Give what opens a repository for some actions."""

    def connect(reference: Reference, actions: str) -> AbstractContextManager[Any]:
        from lamella.engine.registries import connected

        return connected(reference, registries, actions=actions)

    return connect


def deliver(
    opened: Opened,
    result: BuildResult,
    wanted: Deliveries,
    *,
    registries: Registries,
    stdout: BinaryIO | None,
    transfer_report: Reporter,
    report: Report,
) -> None:
    """Write each output in turn, then the cache.  The first that fails ends it; the image is in the store already."""
    for output in wanted.outputs:
        from lamella.build.outputs import write_output

        write_output(opened.parts, result.image_id, output, result.tags, stdout=stdout)
        if output.push:
            from lamella.engine.registries import push_images

            for name in output.names or result.tags:
                push_images(
                    opened,
                    name,
                    all_tags=False,
                    compression=output.compression,
                    registries=registries,
                    report=transfer_report,
                )
    for place in wanted.cache_to:
        from lamella.build.cacheexport import export_cache

        try:
            export_cache(
                opened.parts,
                place,
                result.steps if place.every_stage else result.steps[:1],
                connect=connector(registries),
                parallel=registries.settings.max_parallel,
                report=transfer_report,
            )
        except (LamellaError, OSError) as error:
            if not place.ignore_error:
                raise
            report(Warned(f"cache {place} is not written: {error}"))

"""The build cache: cache mounts, and the images of steps that no name needs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from lamella.model.filters import parse_filters

if TYPE_CHECKING:
    from lamella.engine.opened import Opened

_FILTERS = ("id", "until")


class PrunedBuildCache(NamedTuple):
    """What pruning the build cache removed: keys of cache mounts and IDs of images; and the bytes it freed."""

    removed: Sequence[str]
    reclaimed: int


def prune_build_cache(opened: Opened, *, everything: bool, filters: Sequence[str]) -> PrunedBuildCache:
    """Remove the cache mounts that no build uses; see ``Store.prune_build_cache``."""
    from lamella.build.runner import remove_dead_builds
    from lamella.engine.selection import parse_moment
    from lamella.store.cachemounts import CacheMounts

    wanted = parse_filters(filters, _FILTERS)
    moments = [parse_moment(text, time.time_ns()) for text in wanted.get("until", [])]
    names = wanted.get("id", [])
    removed: list[str] = []
    freed = 0
    if opened.site.state.exists():
        remove_dead_builds(opened.site)
    with opened.parts.root.writing():
        pass  # what the dead held is given back first
    caches = CacheMounts(opened.parts.root.lamella_dir)
    caches.sweep()
    for cache in caches.iter_mounts():
        if names and cache.id not in names and cache.key not in names:
            continue
        size = caches.remove(cache.key, used_before=min(moments) / 10**9 if moments else None)
        if size is not None:
            removed.append(cache.key)
            freed += size
    if everything and not names:
        steps, size = _prune_steps(opened, moments)
        removed += steps
        freed += size
    return PrunedBuildCache(tuple(removed), freed)


def _prune_steps(opened: Opened, moments: Sequence[int]) -> tuple[list[str], int]:
    """Remove the images that builds made and no name, container or other image needs."""
    from lamella.engine import removal
    from lamella.engine.images import list_images
    from lamella.engine.shelf import StoreShelf

    parts = opened.parts
    with parts.root.writing():
        sizes = {str(chain): size for chain, size in parts.layers.sizes().items()}
        images = list_images(opened, steps=True)
        chosen = {
            image.id
            for image in images
            if parts.images.is_built_locally(image.id) and all(image.created <= moment for moment in moments)
        }
        removed = removal.prune_images(
            StoreShelf(opened), [image.id for image in images], everything=False, keep=lambda image: image not in chosen
        )
    deleted = [step.deleted for step in removed if step.deleted]
    return [name for name in deleted if name not in sizes], sum(sizes.get(name, 0) for name in deleted)

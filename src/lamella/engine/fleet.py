"""All containers of a store: finding, listing, making and pruning them."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lamella.engine.containers import Container
from lamella.engine.images import get_image, list_images
from lamella.errors import Conflict, NotFound
from lamella.model.gojson import now_ns
from lamella.model.ids import short_id

if TYPE_CHECKING:
    from lamella.engine.opened import Opened
    from lamella.engine.options import ContainerOptions
    from lamella.store.imagedb import StoredImage


def get_container(opened: Opened, name: str) -> Container:
    """Return the container of a name, an ID, or the beginning of one.  Raises NotFound."""
    return Container(opened, opened.parts.containers.resolve(name))


def find_container(opened: Opened, name: str) -> Container | None:
    """Return the container that *name* names, or None if there is none."""
    try:
        return get_container(opened, name)
    except NotFound:
        return None


def list_containers(opened: Opened, *, resting: bool, filters: Sequence[str] = ()) -> list[Container]:
    """Return the running containers, newest first; with *resting* the others too."""
    containers = [Container(opened, record) for record in opened.parts.containers.iter_records()]
    if filters:
        from lamella.engine.selection import container_test, implies_all

        resting = resting or implies_all(filters)
        passes = container_test(
            filters, lambda name: get_container(opened, name), lambda name: _descendants(opened, name)
        )
        containers = [container for container in containers if passes(container)]
    if not resting:
        containers = [container for container in containers if container.running]
    return sorted(containers, key=lambda container: container.created, reverse=True)


def _descendants(opened: Opened, name: str) -> set[str]:
    """Return the image's ID and those of the images whose layers begin with all of its own, as Docker counts them."""
    image = get_image(opened, name)
    own = image.diff_ids
    others = list_images(opened, steps=True) if own else []
    return {image.id, *(other.id for other in others if other.diff_ids[: len(own)] == own)}


def create_container(
    opened: Opened, image: str, command: Sequence[str], options: ContainerOptions, *, platform: str
) -> Container:
    """Create a container at rest; see ``Store.create_container``."""
    from lamella.container.create import create_container as create
    from lamella.engine.options import plan_host_config, plan_settings

    found = opened.parts.images.get(opened.parts.resolve(image))
    if platform:
        check_platform(found, platform)
    settings = plan_settings(options, image, command)
    return Container(opened, create(opened.parts, found, settings, plan_host_config(options), options.name))


def check_platform(image: StoredImage, text: str) -> None:
    """Refuse an image that is not for the platform *text*."""
    from lamella.model.platform import Platform, parse_platform

    wanted = parse_platform(text)
    config = image.config
    offered = Platform(config.os or "linux", config.architecture or wanted.architecture, config.variant)
    if offered[:2] != wanted[:2] or (wanted.variant and offered.variant and offered.variant != wanted.variant):
        raise NotFound(f"image {short_id(image.id)} is for {offered}, not for {wanted}; load one for that platform")


def prune_containers(opened: Opened, filters: Sequence[str]) -> tuple[list[str], int]:
    """Remove every container at rest; return their IDs and the bytes they held."""
    from lamella.engine.selection import parse_moment
    from lamella.model.filters import match_pairs, parse_filters

    wanted = parse_filters(filters, ("label", "until"))
    until = [parse_moment(text, now_ns()) for text in wanted.get("until", [])]
    removed: list[str] = []
    freed = 0
    for container in list_containers(opened, resting=True):
        if container.running or not match_pairs(wanted.get("label", []), container.labels):
            continue
        if any(container.created > moment for moment in until):
            continue
        with contextlib.suppress(NotFound, Conflict):  # gone or started meanwhile
            size = container.sizes()[0]
            container.remove()
            removed.append(container.id)
            freed += size
    return removed, freed


def cleanup_container(opened: Opened, name: str) -> None:
    """Take up what an unattended end left; see ``Store.cleanup``."""
    from lamella.container.ending import clean_up

    found = find_container(opened, name)
    if found is not None:
        clean_up(opened.site, found.id)

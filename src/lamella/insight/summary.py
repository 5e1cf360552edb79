"""The ledger's tables, made from the accounts: sections, images, layers, containers, volumes, caches, unaccounted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final, NamedTuple

from lamella.insight.claims import OTHER_DRIVER
from lamella.insight.ledger import LIVE, Accounts, Sum

SECTIONS: Final = {
    "layers": "Image layers",
    "images": "Image records",
    "blobs": "Image blobs",
    "containers": "Containers",
    "logs": "Logs",
    "volumes": "Volumes",
    "build": "Build cache",
    "lamella": "lamella's own",
    "engine": "Engine's own",
    "unaccounted": "Unaccounted",
}


class SectionUse(NamedTuple):
    """One line of the ledger."""

    section: str
    title: str
    items: int
    bytes: int
    inodes: int
    reclaimable: int


class ImageUse(NamedTuple):
    """What an image takes: ``bytes`` is `own`, which nobody else has, and `shared`."""

    id: str
    names: Sequence[str]
    layers: int
    bytes: int
    own: int
    shared: int
    inodes: int
    containers: int
    build: bool
    """Whether it is a step of a build that has no name."""
    reclaimable: int
    """What its removal frees: nothing while a container uses it or an image was made from it."""


class LayerUse(NamedTuple):
    """What a layer takes."""

    id: str
    directory: str
    role: str
    bytes: int
    inodes: int
    images: int
    containers: int
    reclaimable: int


class ContainerUse(NamedTuple):
    """What a container takes besides its image."""

    id: str
    name: str
    status: str
    bytes: int
    writable: int
    init: int
    log: int
    records: int
    inodes: int
    reclaimable: int


class VolumeUse(NamedTuple):
    """What a named volume takes."""

    name: str
    bytes: int
    inodes: int
    containers: int
    reclaimable: int


class CacheUse(NamedTuple):
    """What one part of the build cache takes."""

    id: str
    what: str
    bytes: int
    inodes: int
    reclaimable: int


class Unaccounted(NamedTuple):
    """Something that belongs to nobody."""

    path: str
    why: str
    bytes: int
    inodes: int


class Ledger(NamedTuple):
    """All of it; the sections' bytes and inodes add up to the totals, and these to what ``du`` finds."""

    root: str
    kind: str
    driver: str
    bytes: int
    inodes: int
    reclaimable: int
    sections: Sequence[SectionUse]
    images: Sequence[ImageUse]
    layers: Sequence[LayerUse]
    containers: Sequence[ContainerUse]
    volumes: Sequence[VolumeUse]
    build_cache: Sequence[CacheUse]
    unaccounted: Sequence[Unaccounted]
    mounted: Sequence[str]
    """Places where something else is mounted, which is not counted."""
    problems: Sequence[str]


def make_ledger(accounts: Accounts) -> Ledger:
    """Make the tables, the largest item of each first."""
    layers = _layers(accounts)
    containers = _containers(accounts)
    volumes = _volumes(accounts)
    cache = _cache(accounts)
    unaccounted = sorted(
        (
            Unaccounted(item, accounts.why(item), *accounts.of("unaccounted", item))
            for item in accounts.items("unaccounted")
        ),
        key=lambda item: (-item.bytes, item.path),
    )
    used = accounts.holding.used_images | accounts.holding.parents
    reclaimable = {
        "layers": sum(layer.reclaimable for layer in layers),
        "images": sum(accounts.of("images", item).bytes for item in accounts.items("images") if item not in used),
        "containers": sum(item.reclaimable for item in containers),
        "logs": sum(item.log for item in containers if item.status not in LIVE),
        "volumes": sum(item.reclaimable for item in volumes),
        "build": sum(item.reclaimable for item in cache),
        "unaccounted": sum(item.bytes for item in unaccounted if not item.why.endswith(_KEPT)),
    }
    reclaimable["containers"] -= reclaimable["logs"]
    sections = []
    for section, title in SECTIONS.items():
        items = accounts.items(section)
        found = [accounts.of(section, item) for item in items]
        if found or section not in {"blobs", "lamella"}:
            size = sum(item.bytes for item in found)
            inodes = sum(item.inodes for item in found)
            sections.append(SectionUse(section, title, len(items), size, inodes, reclaimable.get(section, 0)))
    total = accounts.total()
    return Ledger(
        root=str(accounts.reader.root),
        kind=accounts.reader.kind,
        driver=accounts.reader.driver,
        bytes=total.bytes,
        inodes=total.inodes,
        reclaimable=sum(item.reclaimable for item in sections),
        sections=sections,
        images=_images(accounts),
        layers=layers,
        containers=containers,
        volumes=volumes,
        build_cache=cache,
        unaccounted=unaccounted,
        mounted=sorted(accounts.mounted),
        problems=list(accounts.reader.problems),
    )


_KEPT = ("set it aside", "may be making it", OTHER_DRIVER)


def layer_sum(accounts: Accounts, layer: str) -> Sum:
    """Return what a layer takes, its record and short name included."""
    for section in ("layers", "build", "unaccounted"):
        found = accounts.of(section, layer)
        if found.inodes:
            return found
    return Sum()


def record_sum(accounts: Accounts, image: str) -> Sum:
    """Return what an image's own files take."""
    return accounts.of("build" if image in accounts.holding.steps else "images", image)


def _images(accounts: Accounts) -> list[ImageUse]:
    holding = accounts.holding
    users = Counter(container.image for container in holding.containers)
    uses = {layer: layer_sum(accounts, layer) for layer in holding.holders}
    alone = {
        layer for layer, holders in holding.holders.items() if len(set(holders)) == 1 and layer not in holding.built_on
    }
    found = []
    for image in holding.images.values():
        record = record_sum(accounts, image.id)
        total, inodes, own = record.bytes, record.inodes, record.bytes
        for layer in dict.fromkeys(image.layers):
            use = uses[layer]
            total += use.bytes
            inodes += use.inodes
            if layer in alone:
                own += use.bytes
        containers = users[image.id]
        free = not containers and image.id not in holding.parents
        found.append(
            ImageUse(
                id=image.id,
                names=(*image.names, *image.digests),
                layers=len(image.layers),
                bytes=total,
                own=own,
                shared=total - own,
                inodes=inodes,
                containers=containers,
                build=image.id in holding.steps,
                reclaimable=own if free else 0,
            )
        )
    return sorted(found, key=lambda item: (-item.bytes, item.id))


def _layers(accounts: Accounts) -> list[LayerUse]:
    holding = accounts.holding
    found = []
    for layer in holding.layers.values():
        if layer.role != "image":
            continue
        use = layer_sum(accounts, layer.id)
        containers = len(holding.used_layers.get(layer.id, ()))
        images = len(set(holding.holders.get(layer.id, ())))
        kept = containers or not accounts.of("layers", layer.id).inodes
        found.append(
            LayerUse(
                layer.id,
                layer.directory_id,
                layer.role,
                use.bytes,
                use.inodes,
                images,
                containers,
                0 if kept else use.bytes,
            )
        )
    return sorted(found, key=lambda item: (-item.bytes, item.id))


def _containers(accounts: Accounts) -> list[ContainerUse]:
    found = []
    for container in accounts.holding.containers:
        log = accounts.of("logs", container.id)
        own = accounts.of("containers", container.id)
        found.append(
            ContainerUse(
                id=container.id,
                name=container.name,
                status=container.status,
                bytes=own.bytes + log.bytes,
                writable=accounts.of("containers", container.id, "writable").bytes,
                init=accounts.of("containers", container.id, "init").bytes,
                log=log.bytes,
                records=accounts.of("containers", container.id, "records").bytes,
                inodes=own.inodes + log.inodes,
                reclaimable=0 if container.status in LIVE else own.bytes + log.bytes,
            )
        )
    return sorted(found, key=lambda item: (-item.bytes, item.id))


def _volumes(accounts: Accounts) -> list[VolumeUse]:
    mounted = Counter(name for container in accounts.holding.containers for name in set(container.volumes))
    found = []
    for name in accounts.items("volumes"):
        use = accounts.of("volumes", name)
        users = mounted[name]
        found.append(VolumeUse(name, use.bytes, use.inodes, users, 0 if users else use.bytes))
    return sorted(found, key=lambda item: (-item.bytes, item.name))


def _cache(accounts: Accounts) -> list[CacheUse]:
    holding = accounts.holding
    needed = _ancestors(accounts)
    found = []
    for item in accounts.items("build"):
        use = accounts.of("build", item)
        if item in holding.images:
            what, free = "image of a step", item not in needed
        elif item in holding.layers:
            what, free = ("layer of a build" if holding.layers[item].role == "build" else "layer of a step"), True
        elif item.startswith("cache-mount "):
            what, free = "cache mount", not _in_use(accounts, item)
        else:
            what, free = "catalogue", False
        found.append(CacheUse(item.removeprefix("cache-mount "), what, *use, use.bytes if free else 0))
    return sorted(found, key=lambda item: (-item.bytes, item.id))


def _in_use(accounts: Accounts, item: str) -> bool:
    from lamella.linux.locks import is_locked

    return is_locked(accounts.reader.root / "lamella" / "cache-mounts" / item.partition(" ")[2] / "lock")


def _ancestors(accounts: Accounts) -> set[str]:
    """Return the images that those which are no steps were made from."""
    images = accounts.holding.images
    found: set[str] = set()
    for image in images.values():
        if image.id in accounts.holding.steps:
            continue
        parent = image.parent
        while parent and parent in images and parent not in found:
            found.add(parent)
            parent = images[parent].parent
    return found

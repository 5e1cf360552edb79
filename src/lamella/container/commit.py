"""A container's writable layer becomes an image.

The layer's tar is made, unpacked again as an image layer and hashed in one stream; nothing is stored in between.
Commit point: the image config's rename, then the tag's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from lamella.container.freezing import frozen
from lamella.container.site import Site
from lamella.errors import NotFound
from lamella.model.changes import apply_change
from lamella.model.digest import EMPTY_LAYER, DiffID, ImageID
from lamella.model.gojson import format_time, now_ns
from lamella.model.ids import ContainerID
from lamella.model.imageconfig import ContainerSettings, History, ImageConfig, encode_image_config, parse_settings
from lamella.model.platform import host_platform
from lamella.model.reference import Reference
from lamella.store.imagedb import StoredImage


def commit_container(
    site: Site,
    container: ContainerID,
    reference: Reference | None = None,
    *,
    author: str = "",
    message: str = "",
    changes: Sequence[str] = (),
    pause: bool = True,
) -> ImageID:
    """Make an image of what the container changed, and tag it if *reference* is given; return its ID.

    A running container is paused meanwhile unless *pause* is off.  One that changed nothing gives an image of the
    same layers.  *changes* are Dockerfile instructions applied to the image's settings.
    """
    store = site.store
    record = store.containers.get(container)
    settings = parse_settings(record.settings)
    made_with = settings
    for change in changes:
        settings = apply_change(settings, change)
    base = store.images.find(record.image)
    layer = store.rwlayers.get(container)
    if base is None and layer.parent is not None:
        raise NotFound(f"container {record.name}: its image {record.image} is gone, so its layers have no list")
    with store.root.transaction("commit", ids=1) as tx:
        with _held(site, container, pause=pause):
            made = store.layers.copy(layer, layer.parent, tx)
        empty = made.diff_id == EMPTY_LAYER
        raw = _encode(base, settings, made_with, container, [] if empty else [made.diff_id], author, message)
        image = store.images.put(raw, parent=base.id if base is not None else None, built_locally=True, tx=tx)
        store.commit(tx, {reference.familiar(): image} if reference is not None else {})
        if reference is not None:
            store.images.touch(image)
    return image


@contextmanager
def _held(site: Site, container: ContainerID, *, pause: bool) -> Iterator[None]:
    if not pause:
        yield
        return
    with frozen(site, container):
        yield


def _encode(
    base: StoredImage | None,
    settings: ContainerSettings,
    made_with: ContainerSettings,
    container: ContainerID,
    diff_ids: Sequence[DiffID],
    author: str,
    message: str,
) -> bytes:
    moment = format_time(now_ns())
    entry = History(
        created=moment,
        created_by=" ".join(made_with.cmd or ()),
        author=author,
        comment=message,
        empty_layer=not diff_ids,
    )
    before = base.config if base is not None else ImageConfig(architecture=host_platform().architecture)
    return encode_image_config(
        architecture=before.architecture,
        os=before.os or "linux",
        variant=before.variant,
        created=moment,
        author=author,
        config=settings,
        history=[*before.history, entry],
        diff_ids=[*before.diff_ids, *diff_ids],
        container=container,
        container_config=made_with,
    )

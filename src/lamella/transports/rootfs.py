"""Importing one flat tar of a root filesystem as an image of one layer, as ``docker import`` does."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import BinaryIO

from lamella.model.changes import apply_changes
from lamella.model.digest import ImageID, digest_of
from lamella.model.gojson import format_time, now
from lamella.model.imageconfig import ContainerSettings, History, encode_image_config
from lamella.model.platform import Platform, host_platform
from lamella.model.progress import Advanced, Finished, Reporter, Started, silent
from lamella.model.reference import Reference
from lamella.store.imagestore import ImageStore


def import_filesystem(
    store: ImageStore,
    stream: BinaryIO,
    *,
    message: str = "",
    changes: Sequence[str] = (),
    reference: Reference | None = None,
    platform: Platform | None = None,
    created: datetime | None = None,
    report: Reporter = silent,
) -> ImageID:
    """Make an image from a tar, compressed or not, and name it.

    ``changes`` are Dockerfile instructions for its settings.  Durable on return; an error leaves the store as it was.
    """
    settings = apply_changes(ContainerSettings(), changes)
    made_for = platform or host_platform()
    moment = format_time(created if created is not None else now())
    tags = {} if reference is None else {reference.familiar(): None}
    store.tags.check(tags)
    with store.root.transaction("import", ids=1) as tx:
        report(Started("import", "Importing"))
        layer = store.layers.register(stream, None, tx=tx, advance=lambda amount: report(Advanced("import", amount)))
        raw = encode_image_config(
            architecture=made_for.architecture,
            os=made_for.os,
            variant=made_for.variant,
            created=moment,
            comment=message,
            config=settings,
            container_config=ContainerSettings(),
            history=[History(created=moment, comment=message)],
            diff_ids=[layer.diff_id],
        )
        store.images.announce(ImageID(digest_of(raw)), tx)
        image = store.images.put(raw, tx=tx)
        store.commit(tx, dict.fromkeys(tags, image))
        if reference is not None:
            store.images.touch(image)
        report(Finished("import", image))
    return image

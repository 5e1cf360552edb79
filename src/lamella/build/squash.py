"""``--squash``: all layers that a build put on its base as one layer, as the classic builder does it.

The new layer is the difference between two trees, so what a later step removed is in no layer of the result.  The
image keeps the whole history; entries whose layers were merged are marked empty, and one entry more says what was
merged.  The image it is made from stays in the store as the cache of the next build.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import BinaryIO

import msgspec

from lamella.build.snapshot import Snapshot
from lamella.changeset.diff import write_difference
from lamella.changeset.membernames import iter_member_paths
from lamella.drivers.naive import tree_below
from lamella.model.digest import EMPTY_LAYER, ChainID, DiffID, ImageID, digest_of
from lamella.model.imageconfig import History, ImageConfig, encode_image_config
from lamella.store.imagestore import ImageStore
from lamella.store.pipes import reading_from
from lamella.store.transactions import Transaction

_MERGED = ("merge sha256:", "create new from sha256:")


def squash_image(
    store: ImageStore, tx: Transaction, image: Snapshot, base: Snapshot, *, created: str
) -> tuple[bytes, Snapshot] | None:
    """Make the config of *image* with one layer on *base* in place of its own; None if it has none of its own.

    All of the layers must be here; the new one is published with *tx*.  The image is left for the caller to put.
    """
    if image.id is None or image.chain is None or image.chain == base.chain:
        return None
    diff_id = _merge(store, tx, image.chain, base.chain)
    old = image.config
    kept = len(base.config.history)
    history = [
        entry if index < kept else msgspec.structs.replace(entry, empty_layer=True)
        for index, entry in enumerate(old.history)
    ]
    comment = f"merge {image.id} to {base.id}" if base.id else f"create new from {image.id}"
    history.append(History(created=created, comment=comment, empty_layer=diff_id == EMPTY_LAYER))
    diff_ids = base.config.diff_ids if diff_id == EMPTY_LAYER else (*base.config.diff_ids, diff_id)
    raw = encode_image_config(
        architecture=old.architecture,
        os=old.os or "linux",
        variant=old.variant,
        os_version=old.os_version,
        os_features=old.os_features,
        created=created,
        author=old.author,
        config=old.config,
        history=history,
        diff_ids=diff_ids,
        container_config=old.container_config,
    )
    view = msgspec.structs.replace(old, created=created, history=tuple(history), diff_ids=diff_ids)
    return raw, Snapshot(ImageID(digest_of(raw)), view)


def is_squashed(config: ImageConfig) -> bool:
    """Tell whether an image's history says of layers that they are empty because they were merged."""
    return any(entry.comment.startswith(_MERGED) for entry in config.history)


def _merge(store: ImageStore, tx: Transaction, top: ChainID, base: ChainID | None) -> DiffID:
    """Make one layer on *base* of all that lie between it and *top*."""
    driver = store.root.driver
    stack = store.layers.stack(top)
    below = 0 if base is None else len(store.layers.stack(base))
    # Two trees are told apart by status, but a step may write other bytes of the same length and time.
    touched = {path for layer in stack[below:] for path in iter_member_paths(store.layers.tar_split(layer))}
    lower_id = None if base is None else store.layers.get(base).cache_id
    with (
        tree_below(lower_id, driver.mounted_read_only, store.root.wip_dir) as lower,
        driver.mounted_read_only(stack[-1].cache_id) as upper,
        reading_from(partial(_write, lower, upper, touched)) as stream,
    ):
        return store.layers.register_unless_empty(stream, base, tx=tx).diff_id


def _write(lower: Path, upper: Path, touched: set[bytes], sink: BinaryIO) -> None:
    write_difference(lower, upper, sink, touched=touched)

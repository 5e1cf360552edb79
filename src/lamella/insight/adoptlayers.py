"""Layers from another store into ours: from where their tar can be had, and what of their files may be shared.

A layer comes in as its tar and in no other way: packed from the other store's blob, put together again from tar-split
and files, or made from the files alone.  It is unpacked like any other and counts only if it has the diff ID that the
image names, so no damage and no trick of the other store gets in.  What the file system can share is shared afterwards:
blocks if the kernel, which compares them itself, agrees, or whole files by hard links where that was asked for.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

from lamella.changeset.tarsplit import reassemble
from lamella.changeset.verify import VerifiedReader
from lamella.errors import DataLoss, NotFound, Unsupported
from lamella.insight.sharing import share_files
from lamella.model.digest import ChainID, DiffID, Digest, chain_id, chain_ids
from lamella.model.ids import short_id
from lamella.readers.base import ContainerRecord, ImageRecord, StoredLayer, StoreReader
from lamella.store.imagestore import ImageStore
from lamella.store.pipes import reading_from
from lamella.store.transactions import Transaction

#: What a damaged or vanished source says, as against a target that is full.
_SOURCE_FAULTS: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EIO, errno.ELOOP, errno.ESTALE, errno.EUCLEAN})

_Open = Callable[[], AbstractContextManager[BinaryIO]]


class BrokenLayer(DataLoss):
    """A layer whose tar cannot be had from the other store."""

    def __init__(self, message: str, chain: ChainID) -> None:
        super().__init__(message)
        self.chain = chain


class Origin(NamedTuple):
    """One way to a layer's tar."""

    way: str
    """``blob``, ``tar-split`` or ``files``."""
    open: _Open


class WantedLayer(NamedTuple):
    """One layer of a stack to be adopted."""

    diff_id: DiffID
    origins: tuple[Origin, ...]
    """The ways to its tar, best first; none if the layer is not there."""
    directory: Path | None
    """Its files in the other store."""
    size: int | None


class Moved(NamedTuple):
    """What adopting a stack did."""

    top: ChainID | None
    made: int
    known: int
    size: int
    """Bytes of the files of the layers that were made."""
    shared: int
    """Bytes of them that the two stores now hold in common."""


def image_layers(reader: StoreReader, image: ImageRecord) -> list[WantedLayer]:
    """Say for each of an image's diff IDs, base first, how its tar can be had."""
    diff_ids = image.diff_ids
    stored = [reader.find_layer(name) for name in image.layers]
    known = [layer for layer in stored if layer is not None]
    by_chain = {layer.chain_id: layer for layer in known if layer.chain_id is not None}
    aligned: Sequence[StoredLayer | None] = [by_chain.get(chain) for chain in chain_ids(diff_ids)]
    if len(known) == len(diff_ids):
        aligned = known
    blobs = list(reader.image_blobs(image))
    blobs += [None] * (len(diff_ids) - len(blobs))
    below: list[StoredLayer | None] = [None, *aligned[:-1]]
    return [
        _wanted(reader, diff_id, layer, blob, parent)
        for diff_id, layer, blob, parent in zip(diff_ids, aligned, blobs, below, strict=False)
    ]


def container_layers(reader: StoreReader, container: ContainerRecord) -> list[WantedLayer]:
    """Say how the image layers below a container can be had whose image is gone.  Raises DataLoss if one is."""
    found: list[WantedLayer] = []
    below: StoredLayer | None = None
    for name in container.layers:
        layer = reader.find_layer(name)
        if layer is None:
            raise DataLoss(f"layer {name} below it is missing or damaged")
        if layer.role == "image":
            if layer.diff_id is None:
                raise DataLoss(f"the digest of layer {name} below it is not known")
            found.append(_wanted(reader, layer.diff_id, layer, reader.blob(layer), below))
            below = layer
    return found


def _wanted(
    reader: StoreReader, diff_id: DiffID, layer: StoredLayer | None, blob: Path | None, below: StoredLayer | None
) -> WantedLayer:
    origins: list[Origin] = []
    if blob is not None:
        origins.append(Origin("blob", lambda: _open_blob(blob)))
    if layer is not None:
        directory = layer.directory
        tar_split = reader.tar_split(layer)
        if tar_split is not None:
            origins.append(
                Origin("tar-split", lambda: _written(lambda sink: reassemble(tar_split, directory, sink.write)))
            )
        elif layer.directory.is_dir():
            origins.append(Origin("files", lambda: _written(lambda sink: write_files(layer, below, sink))))
    return WantedLayer(
        diff_id, tuple(origins), None if layer is None else layer.directory, None if layer is None else layer.size
    )


def write_files(layer: StoredLayer, below: StoredLayer | None, sink: BinaryIO) -> None:
    """Write the tar that a layer's files alone make, on top of those of the layer below where each holds all."""
    from lamella.changeset.diff import write_difference, write_layer

    if layer.whole:
        if below is None:
            from lamella.changeset.diff import write_tree

            write_tree(layer.directory, sink)
        else:
            write_difference(below.directory, layer.directory, sink)
    else:
        write_layer(layer.directory, sink)


def adopt_stack(
    store: ImageStore,
    layers: Sequence[WantedLayer],
    *,
    tx: Transaction,
    hard_link: bool,
    advance: Callable[[DiffID, int], None],
) -> Moved:
    """Bring in the layers of a stack that are not here yet, base first; they are published with *tx*.

    Raises BrokenLayer naming the one whose tar cannot be had or is not what its diff ID says.
    """
    top: ChainID | None = None
    made = known = size = shared = 0
    for number, layer in enumerate(layers, 1):
        chain = chain_id(top, layer.diff_id)
        if store.layers.lease(chain, tx) is not None:
            known += 1
        else:
            size += _register(store, layer, number, top, tx, advance)
            made += 1
            if layer.directory is not None:
                shared += _share(store, chain, layer.directory, hard_link=hard_link)
        top = chain
    return Moved(top, made, known, size, shared)


def _register(
    store: ImageStore,
    layer: WantedLayer,
    number: int,
    parent: ChainID | None,
    tx: Transaction,
    advance: Callable[[DiffID, int], None],
) -> int:
    """Unpack one layer by the first way that gives what its diff ID promises; return its size."""
    what, chain = f"layer {number} ({short_id(layer.diff_id)})", chain_id(parent, layer.diff_id)
    failure: BrokenLayer | None = None
    for origin in layer.origins:
        try:
            with origin.open() as stream:
                return store.layers.register(
                    stream,
                    parent,
                    tx=tx,
                    expected=layer.diff_id,
                    advance=lambda amount: advance(layer.diff_id, amount),
                ).size
        except (DataLoss, Unsupported) as error:
            reason = str(error)
            if origin.way == "files":
                reason = f"its tar-split is gone, and its files alone do not give the tar it came as ({error})"
            failure = failure or BrokenLayer(f"{what} is damaged: {reason}", chain)
        except OSError as error:
            if error.errno not in _SOURCE_FAULTS:
                raise
            failure = failure or BrokenLayer(f"{what} cannot be read: {error}", chain)
    raise failure or BrokenLayer(f"{what} is not in the store", chain)


@contextmanager
def _open_blob(path: Path) -> Iterator[BinaryIO]:
    """Open a blob that is checked against the digest it is named by."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(fd, "rb", buffering=0) as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise DataLoss(f"{path} is not a regular file")
        stream = VerifiedReader(file, Digest(f"sha256:{path.name}"), what=f"blob {path}")
        yield stream  # type: ignore[misc]
        stream.drain()


@contextmanager
def _written(write: Callable[[BinaryIO], object]) -> Iterator[BinaryIO]:
    with reading_from(write) as stream:
        yield stream


def _share(store: ImageStore, chain: ChainID, source: Path, *, hard_link: bool) -> int:
    """Let a layer that was just unpacked share what it can with the files it came from; return the bytes."""
    try:
        layer = store.layers.get(chain)
    except NotFound:
        return 0
    with store.root.driver.files(layer.cache_id) as target:
        return share_files(source, target, hard_link=hard_link)

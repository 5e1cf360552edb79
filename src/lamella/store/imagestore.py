"""One data-root with all its parts wired together: what the packages above take as the store."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from lamella.errors import Conflict, DataLoss, NotFound
from lamella.model.digest import ChainID, ImageID, hex_of
from lamella.model.ids import ContainerID
from lamella.store.containerdb import ContainerDB
from lamella.store.dataroot import DataRoot
from lamella.store.imagedb import ImageDB, ImageHead, StoredImage
from lamella.store.lastuse import LastUse
from lamella.store.layerdb import LayerDB
from lamella.store.layerremoval import LayerRemoval
from lamella.store.layers import LayerStore
from lamella.store.mountdb import MountDB
from lamella.store.recovery import StoreRecovery
from lamella.store.rwlayers import RWLayers
from lamella.store.tags import Tags
from lamella.store.transactions import Transaction

if TYPE_CHECKING:
    from lamella.store.distribution import Distribution


class ImageStore:
    """The images, layers, references and containers of one data-root."""

    def __init__(self, root: DataRoot) -> None:
        layerdb = LayerDB(root.layerdb_dir)
        mounts = MountDB(root.layerdb_dir)
        self.root = root
        self.images = ImageDB(root, layerdb)
        self.removal = LayerRemoval(root, layerdb, self.images, mounts)
        self.layers = LayerStore(root, layerdb, self.removal)
        self.rwlayers = RWLayers(root, mounts, self.layers)
        self.tags = Tags(root)
        self.containers = ContainerDB(root)
        self.last_use = LastUse(root.lamella_dir)
        root.recovery = StoreRecovery(root, self.layers, self.removal, mounts, self.images, self.tags, self.containers)

    @classmethod
    def open(cls, path: Path, *, driver: str | None = None, create: bool = True) -> ImageStore:
        """Open the data-root at ``path`` with all its parts; see ``DataRoot.open``."""
        return cls(DataRoot.open(path, driver=driver, create=create))

    @cached_property
    def distribution(self) -> Distribution:
        """What is known about blobs in registries."""
        from lamella.store.distribution import Distribution

        return Distribution(self.root)

    @property
    def problems(self) -> list[str]:
        """What was found damaged so far, a line each."""
        return self.root.problems

    def resolve(self, text: str) -> ImageID:
        """Return the image that ``text`` names: by reference if there is one, else by the beginning of its ID.

        Raises NotFound with Docker's words, InvalidArgument for an ambiguous ID or a malformed reference.
        """
        from lamella.errors import InvalidArgument
        from lamella.model.reference import parse_tagged

        refusal: InvalidArgument | None = None
        try:
            found = self.tags.find(parse_tagged(text))
        except InvalidArgument as error:
            found, refusal = None, error
        if found is not None:
            return found
        try:
            return self.images.resolve_prefix(text)
        except NotFound:
            if refusal is not None and not text.startswith("sha256:") and len(text) != 64:
                raise refusal from None
            raise NotFound(f"No such image: {text}") from None

    def is_usable(self, image: StoredImage) -> bool:
        """Tell whether all layers of an image are here and sound; what is missing is reported.

        Docker would answer a pull of such an image with "up to date" for ever: loading it again repairs it.
        """
        try:
            self.layers.stack(image.top)
        except (NotFound, DataLoss) as error:
            self.root.report(f"image {image.id}: {error}; load or pull the image again")
            return False
        return True

    def iter_heads(self, sizes: Mapping[ChainID, int]) -> Iterator[ImageHead]:
        """Yield the head of every image whose layers are all among *sizes*, as of ``layers.sizes``.

        The others are reported.  A list of a thousand images is not the place to look into the records of their layers:
        whoever uses one does, and so does fsck.
        """
        for image in self.images.iter_heads():
            missing = next((chain for chain in image.chains if chain not in sizes), None)
            if missing is None:
                yield image
            else:
                self.root.report(
                    f"image {image.id}: layer {missing} is missing or damaged; load or pull the image again"
                )

    def commit(self, tx: Transaction, tags: Mapping[str, ImageID]) -> None:
        """Decide a transaction and set its references: after a kill at any point, all of them are set or none.

        The rename that sets the references decides by itself where each new image has one; else a line in the record
        does, for recovery to go on from.
        """
        if tags:
            tx.flush()
            with self.root.writing():
                self.tags.check(tags)  # after the decision nothing may be refused any more
                self._require(tags.values())
                if not set(tx.intent.images) <= set(tags.values()):
                    tx.commit(tags)
                self.tags.set_many(tags)
        else:
            tx.commit({})

    def name_images(self, tags: Mapping[str, ImageID]) -> None:
        """Point familiar references at images of the store by one rename; Conflict if one has gone meanwhile."""
        with self.root.writing():
            self._require(tags.values())
            self.tags.set_many(tags)

    def _require(self, images: Iterable[ImageID]) -> None:
        for image in images:
            if not self.images.exists(image):
                raise Conflict(f"image {image} was removed by another process meanwhile; try again")

    def delete_image(self, id: ImageID) -> list[ChainID]:  # noqa: A002  (the vocabulary's word)
        """Remove an image's config and the layers that nothing else needs; return what layers went, top first."""
        with self.root.writing(), self.root.transaction("delete", ids=0) as tx:
            for chain in self._chains_of(id):
                tx.note("chain", chain)
            tx.note("delete", id)
            tx.sync()  # from here on a writer that comes after a crash goes on with it
            self.images.remove(id)
            with contextlib.suppress(OSError):  # only a cache: the manifest it came with
                os.unlink(self.root.lamella_dir / "manifests" / hex_of(id))
            self.last_use.forget(id)
            return self.removal.release_unused(reversed(tx.intent.chains), but=tx.id)

    def delete_container(self, id: ContainerID) -> None:  # noqa: A002  (the vocabulary's word)
        """Remove a container's layer and directory, and the image layers if the image went before it.

        Its processes must be gone and its log closed.  Raises NotFound, or InUse while its layer is mounted.  Killed
        in the middle, it is finished by the next writer.
        """
        rw = self.rwlayers.find(id)
        record = self.containers.find(id)
        if rw is None and record is None and not self.containers.path(id).is_dir():
            raise NotFound(f"No such container: {id}")
        with self.root.transaction("discard", ids=0) as tx:
            if rw is not None:
                self.rwlayers.remove(rw, tx=tx)
            if self.containers.path(id).is_dir():
                self.containers.remove(id)
            if rw is not None and rw.parent is not None and (record is None or not self.images.exists(record.image)):
                self.removal.release_unused([rw.parent], but=tx.id)

    def _chains_of(self, id: ImageID) -> list[ChainID]:  # noqa: A002  (the vocabulary's word)
        try:
            return self.images.get(id).chains
        except DataLoss:
            return []  # a damaged config does not say: its layers stay

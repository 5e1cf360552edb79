"""Writable layers: the directory a container writes to, its init layer below, and their mount record.

Order of making: init layer, writable layer, one sync, mount record.  Removal: the writable layer, the init layer, the
record.  Who may remove what is the engine's decision; mounting is counted by the driver.

Commit point: the rename in ``MountDB.publish``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from lamella.errors import InUse, NotFound
from lamella.model.digest import ChainID
from lamella.model.ids import CacheID, ContainerID, init_id
from lamella.store.dataroot import DataRoot
from lamella.store.layers import LayerStore
from lamella.store.mountdb import MountDB, RWLayer
from lamella.store.transactions import Transaction

if TYPE_CHECKING:
    from lamella.changeset.diff import Change


class RWLayers:
    """The writable layers of one data-root."""

    def __init__(self, root: DataRoot, db: MountDB, layers: LayerStore) -> None:
        self._root = root
        self._layers = layers
        self.db = db

    def create(
        self,
        owner: ContainerID,
        parent: ChainID | None,
        *,
        tx: Transaction,
        init: Callable[[Path], None] | None = None,
        recorded: bool = True,
        sync: bool = True,
    ) -> RWLayer:
        """Make a writable layer on the image layer ``parent``, which may still be pending in this process.

        ``init`` fills the init layer through its mount.  Without ``recorded`` there is no mount record, and the layer
        lives no longer than the transaction, which removes it if the caller does not; without ``sync`` the caller
        syncs the file system before it publishes what names the layer.
        """
        below = None if parent is None else self._layers.get(parent).cache_id
        driver = self._root.driver
        tx.note("container", owner)
        if parent is not None:
            tx.note("lease", parent)
        mount_id = tx.new_cache_id()
        init_layer: CacheID | None = None
        if init is not None:
            init_layer = init_id(mount_id)
            driver.create_read_write(init_layer, below)
            with driver.mounted(init_layer, volatile=True) as merged:
                init(merged)
            below = init_layer
        driver.create_read_write(mount_id, below)
        layer = RWLayer(owner, mount_id, init_layer, parent)
        if recorded:
            staged = self.db.stage(layer)
            if sync:
                written = tx.written
                self._root.sync()
                tx.synced(written)
            self.db.publish(staged, owner, sync=sync)
        return layer

    def get(self, owner: ContainerID) -> RWLayer:
        """Return a container's writable layer.  Raises NotFound, or DataLoss if its record is damaged."""
        return self.db.read(owner)

    def find(self, owner: ContainerID) -> RWLayer | None:
        """Return a container's writable layer, or None if it has none."""
        return self.db.find(owner)

    def iter_layers(self) -> Iterator[RWLayer]:
        """Yield every recorded writable layer; damaged records are reported."""
        problems: list[str] = []
        yield from self.db.iter_records(problems)
        for problem in problems:
            self._root.report(problem)

    def mount(self, rw: RWLayer, holder: str) -> Path:
        """Mount a writable layer for ``holder``, which outlives this process, and return the root directory."""
        return self._root.driver.mount(rw.mount_id, holder)

    def unmount(self, rw: RWLayer, holder: str) -> None:
        """Let go of a mount; the last holder's going takes it away."""
        self._root.driver.unmount(rw.mount_id, holder)

    def mounted(self, rw: RWLayer, *, volatile: bool = False) -> AbstractContextManager[Path]:
        """Hold a writable layer mounted for a scope; if *volatile*, the caller syncs what is to last."""
        return self._root.driver.mounted(rw.mount_id, volatile=volatile)

    def mounted_read_only(self, rw: RWLayer) -> AbstractContextManager[Path]:
        """Hold a writable layer mounted read-only for a scope."""
        return self._root.driver.mounted_read_only(rw.mount_id)

    def remove(self, rw: RWLayer, *, tx: Transaction | None = None) -> None:
        """Remove a writable layer, its init layer and its record; what is missing already is fine.

        Raises InUse while somebody holds it mounted.  The image layers below are left to ``release_unused``.  What a
        kill interrupts, here or until ``tx`` ends, is finished by the next writer, the container's record included.
        """
        if tx is None:
            with self._root.transaction("discard", ids=0) as own:
                self.remove(rw, tx=own)
            return
        driver = self._root.driver
        tx.note("ids", [rw.mount_id])
        tx.note("discard", rw.owner)
        if rw.parent is not None:
            tx.note("chain", rw.parent)
        try:
            driver.remove(rw.mount_id)
        except InUse:
            tx.intent.discards.remove(rw.owner)  # refused: there is nothing to finish
            tx.intent.ids.remove(rw.mount_id)
            raise
        if rw.init_id is not None:
            driver.remove(rw.init_id)
        self.db.remove(rw.owner)

    def changes(self, rw: RWLayer) -> list[Change]:
        """Return what a container changed, as ``docker diff`` does: against its init layer."""
        return self._root.driver.changes(rw.mount_id, self._below(rw))

    def size(self, rw: RWLayer) -> int:
        """Return the bytes of a writable layer's own files."""
        return self._root.driver.size(rw.mount_id, self._below(rw))

    def diff(self, rw: RWLayer, sink: BinaryIO) -> None:
        """Write a writable layer as a layer tar."""
        self._root.driver.diff(rw.mount_id, self._below(rw), sink)

    def metadata(self, rw: RWLayer) -> dict[str, str] | None:
        """Return Docker's ``GraphDriver.Data`` of a container."""
        return self._root.driver.metadata(rw.mount_id)

    def _below(self, rw: RWLayer) -> CacheID | None:
        if rw.init_id is not None:
            return rw.init_id
        if rw.parent is None:
            return None
        layer = self._layers.find(rw.parent)
        if layer is None:
            raise NotFound(f"container {rw.owner[:12]}: its image's layer {rw.parent} is gone")
        return layer.cache_id

"""Taking back, or finishing, what a dead process left.

Runs under the store lock before a process writes for the first time, and costs one listing of a few directories when
there is nothing to do.  Only what an intent record names, or what bears lamella's own pattern of a leftover, is
touched: orphans that dockerd left are not ours to remove here.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from lamella.errors import DataLoss, InUse, LamellaError, NotFound
from lamella.model.ids import CacheID, ContainerID, init_id, is_cache_id, is_container_id
from lamella.store.containerdb import ContainerDB
from lamella.store.dataroot import DataRoot
from lamella.store.imagedb import ImageDB
from lamella.store.layerremoval import LayerRemoval
from lamella.store.layers import LayerStore
from lamella.store.mountdb import MountDB, write_set_name
from lamella.store.smallfiles import list_names
from lamella.store.tags import Tags
from lamella.store.transactions import Intent, iter_dead

_DRAFT = re.compile(
    r"\.tmp-(repositories\.json|[0-9a-f]{64}|parent|lastUpdated|builtLocally|config\.v2\.json|hostconfig\.json)[0-9]+",
    re.ASCII,
)


class StoreRecovery:
    """The recovery of one data-root."""

    def __init__(
        self,
        root: DataRoot,
        layers: LayerStore,
        removal: LayerRemoval,
        mounts: MountDB,
        images: ImageDB,
        tags: Tags,
        containers: ContainerDB,
    ) -> None:
        self._root = root
        self._layers = layers
        self._removal = removal
        self._mounts = mounts
        self._images = images
        self._tags = tags
        self._containers = containers

    def recover(self, *, thorough: bool) -> None:
        """See to every dead transaction, unfinished removal, draft and stale mount; the store lock is held.

        Drafts in the many small directories of images and containers are looked for only if ``thorough``.
        """
        with self._reported("undoing the mounts of dead processes"):
            self._root.driver.sweep_mounts()
        self.recover_dead()
        with self._reported("removing layers"):
            self._removal.release_deferred()
        for record in list(self._layers.db.iter_removing()):
            self._root.afterwards(partial(self._finish_removal, record))
        places = [self._root.image_dir, self._images.content]
        if thorough:
            for parent in (self._images.metadata, self._containers.directory):
                places += [parent / name for name in list_names(parent) if not (parent / name).is_symlink()]
        for directory in places:
            for name in filter(_DRAFT.fullmatch, list_names(directory)):
                with self._reported("removing a draft"):
                    (directory / name).unlink(missing_ok=True)
        if list_names(self._root.wip_dir):
            self._root.afterwards(self._remove_drafts)
        for name in list_names(self._root.locks_dir):
            with self._reported("removing a lock that nobody holds"):
                self._drop_idle_lock(self._root.locks_dir / name)

    def recover_dead(self) -> None:
        """See to the transactions whose process is gone; the store lock is held."""
        if {tx.path.name for tx in self._root.transactions}.issuperset(list_names(self._root.tx_dir)):
            return
        for path, intent in iter_dead(self._root.tx_dir):
            with self._reported(f"undoing {intent.kind} {path.name}"):
                self.undo(intent)
                path.unlink(missing_ok=True)

    def _finish_removal(self, record: Path) -> None:
        with self._reported(f"removing {record.name}"):
            self._removal.finish_removal(record)

    def _remove_drafts(self) -> None:
        from lamella.store.drafts import remove_dead_drafts

        with self._reported("removing drafts"):
            remove_dead_drafts(self._root.wip_dir)

    def release_deferred(self) -> None:
        """Remove what only the transaction that just ended still needed."""
        self._removal.release_deferred()

    def undo(self, intent: Intent) -> None:
        """Take one transaction back, or forward if it was decided; the store lock is held.  May be repeated."""
        if intent.tags is not None:
            # The tags go on the images that are there: one that was removed since needs none.
            self._tags.set_many({tag: image for tag, image in intent.tags.items() if self._images.exists(image)})
            self._remove_spares(intent)
            return
        for image in intent.deletions:
            if self._images.exists(image) and image not in set(self._tags.read().values()):
                self._images.remove(image)
        for owner in filter(is_container_id, intent.discards):
            self._discard(owner)
        with contextlib.suppress(DataLoss):  # unreadable references: keep the images, they do no harm
            self._tags.check(())
            self._remove_images(intent)
        for container in intent.containers:
            if is_container_id(container) and not self._is_whole(container):
                self._remove_container(container)
        self._removal.release_unused(reversed([*intent.leases, *intent.chains]), but=intent.id)
        self._remove_spares(intent)

    def _remove_images(self, intent: Intent) -> None:
        tagged = set(self._tags.read().values())
        used = {record.image for record in self._containers.iter_records()}
        for image in reversed(intent.images):
            if image in tagged or image in used or next(self._images.iter_children(image), None) is not None:
                continue
            with contextlib.suppress(NotFound):
                self._images.remove(image)

    def _is_whole(self, container: ContainerID) -> bool:
        try:
            return self._containers.find(container) is not None
        except DataLoss:
            return False  # its name was on disk before its contents when the power went

    def _discard(self, owner: ContainerID) -> None:
        """Finish the removal of a writable layer; a container without one could not be used any more."""
        with contextlib.suppress(NotFound, DataLoss):
            rw = self._mounts.read(owner)
            try:
                self._root.driver.remove(rw.mount_id)
            except InUse:
                return  # its removal was refused, and the process killed before it could say so
            if rw.init_id is not None:
                self._root.driver.remove(rw.init_id)
        self._remove_container(owner)

    def _remove_container(self, container: ContainerID) -> None:
        from lamella.fs.tree import remove_tree

        remove_tree(self._containers.path(container))
        self._mounts.remove(container)

    def _remove_spares(self, intent: Intent) -> None:
        """Remove the layer directories and write-sets of a transaction that nothing came to name."""
        from lamella.fs.tree import remove_tree

        named = {rw.mount_id for rw in self._mounts.iter_records()}
        for chain in intent.chains:
            layer = self._layers.find(chain) if self._layers.db.exists(chain) else None
            if layer is not None:
                named.add(layer.cache_id)
        driver = self._root.driver
        for cache_id in intent.ids:
            if not is_cache_id(cache_id):
                continue
            for part in (0, 1):
                remove_tree(self._layers.db.staging / write_set_name(cache_id, part))
            if cache_id in named:
                continue
            for spare in (cache_id, init_id(CacheID(cache_id))):
                if driver.exists(spare):
                    # A container that died while being made may be noted as holding its layer mounted.
                    for holder in driver.holders(spare):
                        driver.release_holder(spare, holder)
                    driver.remove(spare)

    def _drop_idle_lock(self, path: Path) -> None:
        from lamella.linux.locks import try_lock, unlock

        fd = try_lock(path)
        if fd is not None:
            path.unlink(missing_ok=True)
            unlock(fd)

    @contextlib.contextmanager
    def _reported(self, what: str) -> Iterator[None]:
        try:
            yield
        except (LamellaError, OSError) as error:
            self._root.report(f"{what} failed: {error}")

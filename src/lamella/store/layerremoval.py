"""Removing layers that nothing needs.

Nobody counts references on disk: who needs a layer is found by looking at the images, the mount records, the layers
above it and the intent records of running operations.  Removal renames the record away, then takes the driver's
directory, then the record; the slow part happens after the store lock is given back.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
from collections.abc import Iterable
from pathlib import Path

from lamella.errors import DataLoss, NotFound
from lamella.fs.atomic import fsync_dir
from lamella.model.digest import ChainID, DiffID, parse_digest
from lamella.model.ids import CacheID
from lamella.store.dataroot import DataRoot
from lamella.store.imagedb import ImageDB
from lamella.store.layerdb import Layer, LayerDB, find_cache_id
from lamella.store.mountdb import MountDB
from lamella.store.smallfiles import find_small
from lamella.store.transactions import iter_intents

_DEFERRED_LIMIT = 16 << 20
_CHAIN = re.compile(r"sha256:[0-9a-f]{64}", re.ASCII)


class LayerRemoval:
    """What removes layers of one data-root."""

    def __init__(self, root: DataRoot, db: LayerDB, images: ImageDB, mounts: MountDB) -> None:
        self._root = root
        self._db = db
        self._images = images
        self._mounts = mounts
        self._deferred = root.lamella_dir / "deferred"

    def release_unused(self, candidates: Iterable[ChainID], *, but: str = "") -> list[ChainID]:
        """Remove those of ``candidates``, and of the layers below them, that nothing needs; return what went, top first.

        Needed is what an image, a mount record, another layer or a running operation (except ``but``) names.  What
        only a running operation keeps is looked at again when one ends; and so is everything as long as there is an
        image whose config cannot be read, since it may be mended and need what nobody else does.
        """
        with contextlib.ExitStack() as stack:
            wanted = list(candidates)
            stack.enter_context(self._root.writing())
            if not but:  # nobody else remembers what is to go, should this process be killed in the middle
                tx = stack.enter_context(self._root.transaction("release", ids=0))
                for chain in wanted:
                    tx.note("chain", chain)
                but = tx.id
            return self._release(wanted, but)

    def release_deferred(self) -> None:
        """Look again at what running operations kept from being removed; costs one look if there was nothing."""
        if not os.path.lexists(self._deferred):
            return
        with self._root.writing(), self._root.transaction("release", ids=0) as tx:
            wanted = self._read_deferred()
            for chain in wanted:
                tx.note("chain", chain)
            tx.sync()  # before the list goes: from here on the record remembers
            self._deferred.unlink(missing_ok=True)
            self._release(wanted, tx.id)

    def _read_deferred(self) -> list[ChainID]:
        try:
            lines = (find_small(self._deferred, _DEFERRED_LIMIT) or b"").decode("ascii", "replace").split()
        except DataLoss as error:
            self._root.report(str(error))
            return []
        return [ChainID(DiffID(parse_digest(line))) for line in lines if _CHAIN.fullmatch(line)]

    def _defer(self, chains: Iterable[ChainID]) -> None:
        """Remember layers to be looked at again; on disk on return, since the record of who asked goes next."""
        lines = "".join(f"{chain}\n" for chain in dict.fromkeys(chains))
        if not lines:
            return
        fd = os.open(self._deferred, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, lines.encode())
            os.fsync(fd)
        finally:
            os.close(fd)

    def _release(self, candidates: list[ChainID], but: str) -> list[ChainID]:
        gone: list[ChainID] = []
        deferred: list[ChainID] = []
        with self._root.writing():
            pinned, all_known = self._needed()
            leased = self._leased(but)
            children: dict[ChainID, int] = {}
            owners: dict[CacheID, int] = {}
            records: dict[ChainID, Layer | None] = {}
            for chain in self._db.iter_chains():
                layer = records[chain] = self._lenient(chain)
                if layer is not None:
                    owners[layer.cache_id] = owners.get(layer.cache_id, 0) + 1
                    if layer.parent is not None:
                        children[layer.parent] = children.get(layer.parent, 0) + 1
            mounted = {item for rw in self._mounts.iter_records() for item in (rw.mount_id, rw.init_id)}
            for candidate in candidates:
                current: ChainID | None = candidate
                while (
                    current is not None and current in records and current not in pinned and not children.get(current)
                ):
                    if current in leased or not all_known:
                        deferred.append(current)
                        break
                    layer = records.pop(current)
                    # Two records of one directory are the work of an enemy: the files go with the last.
                    shared = layer is not None and (owners[layer.cache_id] > 1 or layer.cache_id in mounted)
                    self.remove(current, keep_files=shared)
                    gone.append(current)
                    current = None if layer is None else layer.parent
                    if layer is not None:
                        owners[layer.cache_id] -= 1
                        if layer.parent is not None:
                            children[layer.parent] -= 1
            self._defer(deferred)
            if gone:
                fsync_dir(self._db.records)
        return gone

    def finish_removal(self, record: Path) -> None:
        """Take away what a ``-removing`` record stands for, unless another process is at it; harmless if repeated."""
        try:
            fd = os.open(record, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            return
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        else:
            self._take_files(record)
        finally:
            os.close(fd)

    def remove(self, chain: ChainID, *, keep_files: bool) -> None:
        """Take a record out of sight at once, and what it stands for afterwards; its files stay if *keep_files*."""
        record = self._db.begin_removal(chain)
        if not record.is_dir() or record.is_symlink():  # the work of an enemy
            record.unlink()
            return
        if keep_files:
            (record / "cache-id").unlink(missing_ok=True)
        fd = os.open(record, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        fcntl.flock(fd, fcntl.LOCK_EX)

        def finish() -> None:
            try:
                self._take_files(record)
            finally:
                os.close(fd)

        self._root.afterwards(finish)

    # ------------------------------------------------------------------------------------------------ internals

    def _take_files(self, record: Path) -> None:
        from lamella.fs.tree import remove_tree

        cache_id = find_cache_id(record)
        if cache_id is not None:
            self._root.driver.remove(cache_id)
        remove_tree(record)

    def _lenient(self, chain: ChainID) -> Layer | None:
        try:
            return self._db.read(chain)
        except (NotFound, DataLoss):
            return None

    def _needed(self) -> tuple[set[ChainID], bool]:
        """Return the layers that images and containers need, and whether those are all."""
        needed: set[ChainID] = set()
        unknown = set(self._images.iter_ids())
        for image in self._images.iter_heads():
            needed.update(image.chains)
            unknown.discard(image.id)
        needed.update(rw.parent for rw in self._mounts.iter_records() if rw.parent is not None)
        return needed, not unknown

    def _leased(self, but: str) -> set[ChainID]:
        leased: set[ChainID] = set()
        for intent in iter_intents(self._root.tx_dir):
            if intent.id != but and intent.kind != "release":
                leased.update(intent.leases)
                leased.update(intent.chains)
        return leased

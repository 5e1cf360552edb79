"""Read-only layers: registered from a tar or from a writable layer, found by chain ID.

A layer is unpacked under a fresh cache ID, its record written into a write-set.  It then waits in its transaction:
layers that follow one another are published by one sync of the file system and one rename each (``publish``), so that
no record exists whose files could be lost.  Taking them away again is ``layerremoval``.

Commit point: the renames in ``publish``.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from lamella.errors import Conflict, DataLoss, InvalidArgument, NotFound
from lamella.fs.atomic import fsync_dir
from lamella.linux.locks import try_lock, unlock
from lamella.model.digest import EMPTY_LAYER, ChainID, DiffID, chain_id, hex_of
from lamella.model.ids import CacheID
from lamella.store.dataroot import DataRoot
from lamella.store.layerdb import MAX_DEPTH, TAR_SPLIT, Layer, LayerDB, write_record
from lamella.store.layerremoval import LayerRemoval
from lamella.store.mountdb import RWLayer, write_set_name
from lamella.store.transactions import PendingLayer, Transaction

if TYPE_CHECKING:
    from lamella.changeset.apply import Applied

Advance = Callable[[int], None]
_SMALL = 1 << 20
"""A layer tar of no more bytes is made in memory."""


class Draft(NamedTuple):
    """The place of a layer that nobody else makes meanwhile, to be filled by any thread."""

    chain_id: ChainID
    diff_id: DiffID
    parent: ChainID | None
    cache_id: CacheID
    write_set: Path
    lock: contextlib.ExitStack


class LayerStore:
    """The layers of one data-root."""

    def __init__(self, root: DataRoot, db: LayerDB, removal: LayerRemoval) -> None:
        self._root = root
        self._removal = removal
        self.db = db

    # ------------------------------------------------------------------------------------------------ finding

    def get(self, chain: ChainID) -> Layer:
        """Return a layer.  Raises NotFound, or DataLoss if its record is damaged."""
        return self._root.find_pending(chain) or self.db.read(chain)

    def find(self, chain: ChainID) -> Layer | None:
        """Return a layer, or None if there is none; a damaged record is reported and counts as none."""
        try:
            return self.get(chain)
        except NotFound:
            return None
        except DataLoss as error:
            self._root.report(str(error))
            return None

    def iter_layers(self) -> Iterator[Layer]:
        """Yield every sound layer that stands on sound ones; the others are reported."""
        problems: list[str] = []
        found = self.db.read_all(problems)
        for problem in problems:
            self._root.report(problem)
        yield from found.values()

    def sizes(self) -> dict[ChainID, int]:
        """Return the size of every layer that has a record that tells it; nothing else in the record is looked at."""
        problems: list[str] = []
        found = self.db.read_sizes(problems)
        for problem in problems:
            self._root.report(problem)
        return found

    def stack(self, chain: ChainID | None) -> list[Layer]:
        """Return a layer and all below it, base first.  Raises NotFound or DataLoss for the first that is missing."""
        found: list[Layer] = []
        while chain is not None:
            layer = self.get(chain)  # a record's name is the hash of its parent's: there are no loops
            found.append(layer)
            chain = layer.parent
        return found[::-1]

    # ------------------------------------------------------------------------------------------------ making

    def register(
        self,
        stream: BinaryIO,
        parent: ChainID | None,
        *,
        tx: Transaction,
        expected: DiffID | None = None,
        advance: Advance | None = None,
    ) -> Layer:
        """Unpack a layer tar, compressed or not, on top of ``parent``.

        With ``expected`` a layer that is known is returned without reading the stream, and two processes that make
        the same one make it once.  The layer is published with its transaction or at the next ``flush``.
        """
        lock: contextlib.ExitStack | None = None
        if expected is not None:
            chain = chain_id(parent, expected)
            known, lock = self._claim(chain, tx)
            if known is not None:
                return known
        try:
            below = self._below(parent)
            cache_id = tx.new_cache_id()
            with self._making(cache_id) as (write_set, tar_split):
                self._root.driver.create(cache_id, below)
                applied = self._root.driver.apply(
                    cache_id, below, stream, tar_split=tar_split, expected=expected, advance=advance
                )
            made = Layer(chain_id(parent, applied.diff_id), applied.diff_id, parent, cache_id, applied.size)
            return self._enqueue(made, write_set, tx, lock)
        except BaseException:
            if lock is not None and not any(item.lock is lock for item in tx.pending):
                lock.close()
            raise

    def draft(
        self, expected: DiffID, parent: ChainID | None, *, tx: Transaction, below: Draft | None = None
    ) -> Layer | Draft:
        """Return a layer that is known, leased to ``tx``, or else make its place on ``parent``.

        Layers of one stack may be drafted base first, each with the one under it as ``below`` if that is a draft too,
        filled in any order and by several threads, and must then be put in line by ``complete``, base first.  The
        driver must keep layers ``apart``.  Whoever gives up closes the locks; the files go with the transaction.
        """
        chain = chain_id(parent, expected)
        known, lock = self._claim(chain, tx)
        if known is not None or lock is None:
            return self.get(chain) if known is None else known
        try:
            cache_id = tx.new_cache_id()
            write_set = self.db.staging / write_set_name(cache_id)
            os.mkdir(write_set, 0o700)
            self._root.driver.create(cache_id, self._below(parent) if below is None else below.cache_id)
        except BaseException:
            lock.close()
            raise
        return Draft(chain, expected, parent, cache_id, write_set, lock)

    def fill(self, draft: Draft, stream: BinaryIO, *, advance: Advance | None = None) -> Applied:
        """Unpack a layer tar, compressed or not, into its place; may run beside others in threads."""
        with _tar_split_in(draft.write_set) as tar_split:
            return self._root.driver.apply(
                draft.cache_id, None, stream, tar_split=tar_split, expected=draft.diff_id, advance=advance
            )

    def complete(self, draft: Draft, size: int, tx: Transaction) -> Layer:
        """Put a layer that was filled in line for being published; those below it must be in line before it."""
        made = Layer(draft.chain_id, draft.diff_id, draft.parent, draft.cache_id, size)
        return self._enqueue(made, draft.write_set, tx, draft.lock)

    def capture(self, rw: RWLayer, parent: ChainID | None, tx: Transaction, *, advance: Advance | None = None) -> Layer:
        """Turn a writable layer, which must not be mounted, into a layer on ``parent`` without copying its files.

        The writable layer is used up; its record, if it has one, and its init layer are left to ``RWLayers.remove``.
        If nothing was changed the result has diff ID ``EMPTY_LAYER`` and is not registered.
        """
        below = self._below(parent)
        cache_id = tx.new_cache_id()
        with self._making(cache_id) as (write_set, tar_split):
            captured = self._root.driver.capture(rw.mount_id, cache_id, below, tar_split=tar_split, advance=advance)
        made = Layer(chain_id(parent, captured.diff_id), captured.diff_id, parent, cache_id, captured.size)
        if captured.diff_id == EMPTY_LAYER:
            self._discard(cache_id, write_set)
            return made
        return self._enqueue(made, write_set, tx, None)

    def copy(self, rw: RWLayer, parent: ChainID | None, tx: Transaction, *, advance: Advance | None = None) -> Layer:
        """Make a layer on ``parent`` from what a writable layer holds now, leaving that as it is.

        If nothing was changed the result has diff ID ``EMPTY_LAYER`` and is not registered.
        """
        from lamella.store.pipes import reading_from

        below = rw.init_id if rw.init_id is not None else self._below(rw.parent, limit=False)
        with reading_from(lambda sink: self._root.driver.diff(rw.mount_id, below, sink), small=_SMALL) as stream:
            return self.register_unless_empty(stream, parent, tx=tx, advance=advance)

    def register_unless_empty(
        self, stream: BinaryIO, parent: ChainID | None, *, tx: Transaction, advance: Advance | None = None
    ) -> Layer:
        """Do as ``register``, but leave out a layer of diff ID ``EMPTY_LAYER``."""
        layer = self.register(stream, parent, tx=tx, advance=advance)
        if layer.diff_id == EMPTY_LAYER and tx.pending and tx.pending[-1].layer is layer:
            dropped = tx.pending.pop()
            self._discard(layer.cache_id, dropped.write_set)
            if dropped.lock is not None:
                dropped.lock.close()
        return layer

    def publish(self, tx: Transaction) -> None:
        """Put the pending layers of ``tx`` on disk and under their names; durable on return.

        What other threads put in line meanwhile waits for the next call.
        """
        with self._root.alone():
            batch = tuple(tx.pending)
            if not batch:
                return
            for item in batch:
                tx.note("chain", item.layer.chain_id)
            written = tx.written
            self._root.sync()
            tx.synced(written)
            with self._root.writing():
                for item in batch:
                    final = self.db.path(item.layer.chain_id)
                    if os.path.lexists(final):
                        self._make_way(item.layer)
                    os.rename(item.write_set, final)
                fsync_dir(self.db.records)
            del tx.pending[: len(batch)]
        for item in reversed(batch):
            if item.lock is not None:
                item.lock.close()

    # ------------------------------------------------------------------------------------------------ reading out

    def reassemble(self, layer: Layer, sink: Callable[[bytes | memoryview], object]) -> None:
        """Write a layer's original tar, checked against its diff ID.  Raises DataLoss naming the file at fault."""
        from lamella.changeset.tarsplit import reassemble

        with self._root.driver.files(layer.cache_id) as directory:
            reassemble(self.tar_split(layer), directory, sink, expected=layer.diff_id)

    def open_tar(self, chain: ChainID) -> contextlib.AbstractContextManager[BinaryIO]:
        """Open a layer's original tar for reading in a scope."""
        from lamella.store.pipes import reading_from

        layer = self.get(chain)
        return reading_from(lambda sink: self.reassemble(layer, sink.write))

    def tar_split(self, layer: Layer) -> Path:
        """Return where a layer's tar-split is, published or pending."""
        for tx in tuple(self._root.transactions):
            for item in tuple(tx.pending):
                if item.layer.chain_id == layer.chain_id:
                    return item.write_set / TAR_SPLIT
        return self.db.tar_split(layer.chain_id)

    # ------------------------------------------------------------------------------------------------ internals

    def _below(self, parent: ChainID | None, *, limit: bool = True) -> CacheID | None:
        if parent is None:
            return None
        stack = self.stack(parent)
        if limit and len(stack) >= MAX_DEPTH:
            raise InvalidArgument("max depth exceeded")
        return stack[-1].cache_id

    def _claim(self, chain: ChainID, tx: Transaction) -> tuple[Layer | None, contextlib.ExitStack | None]:
        """Return a layer that exists, leased to ``tx``, or else the lock under which it is to be made."""
        if (known := self.lease(chain, tx)) is not None:
            return known, None
        path = self._root.locks_dir / hex_of(chain)
        pause = 0.001
        while (fd := try_lock(path)) is None:
            # Who waits holds nothing back meanwhile, nor do its other threads: two that wait for each other would
            # close a circle.
            self._root.flush()
            if (known := self._root.find_pending(chain)) is not None:
                return known, None
            time.sleep(pause)
            pause = min(2 * pause, 0.05)
        lock = contextlib.ExitStack()
        lock.callback(unlock, fd)
        lock.callback(path.unlink, missing_ok=True)
        try:
            known = self.lease(chain, tx)
        except BaseException:
            lock.close()
            raise
        if known is not None:
            lock.close()
            return known, None
        return None, lock

    def lease(self, chain: ChainID, tx: Transaction) -> Layer | None:
        """Find a layer, and see that nobody removes it before ``tx`` ends."""
        pending = self._root.find_pending(chain)
        if pending is not None:
            return pending
        with self._root.reading():
            try:
                layer = self.db.read(chain)
            except (NotFound, DataLoss):
                return None  # a damaged one is made again, and takes the record's place
            if not self._root.driver.exists(layer.cache_id):
                return None
            tx.note("lease", chain)
        return layer

    @contextlib.contextmanager
    def _making(self, cache_id: CacheID) -> Iterator[tuple[Path, BinaryIO]]:
        write_set = self.db.staging / write_set_name(cache_id)
        os.mkdir(write_set, 0o700)
        try:
            with _tar_split_in(write_set) as tar_split:
                yield write_set, tar_split
        except BaseException:
            with contextlib.suppress(OSError):
                self._discard(cache_id, write_set)
            raise

    def _enqueue(self, layer: Layer, write_set: Path, tx: Transaction, lock: contextlib.ExitStack | None) -> Layer:
        if lock is None:
            known, lock = self._claim(layer.chain_id, tx)
            if known is not None:
                self._discard(layer.cache_id, write_set)
                return known
        try:
            write_record(write_set, layer)
            tx.publish = self.publish
            tx.pending.append(PendingLayer(layer, write_set, lock))
        except BaseException:
            if lock is not None:
                lock.close()
            raise
        return layer

    def _discard(self, cache_id: CacheID, write_set: Path) -> None:
        from lamella.fs.tree import remove_tree

        remove_tree(write_set)
        self._root.driver.remove(cache_id)

    def _make_way(self, layer: Layer) -> None:
        """Take a damaged record from the place where a sound one is about to be put."""
        try:
            present = self.db.read(layer.chain_id)
        except DataLoss:
            present = None
        if present is not None and self._root.driver.exists(present.cache_id):
            raise Conflict(f"layer {layer.chain_id} was made by another program meanwhile; try again")
        self._removal.remove(layer.chain_id, keep_files=True)


@contextlib.contextmanager
def _tar_split_in(write_set: Path) -> Iterator[BinaryIO]:
    fd = os.open(write_set / TAR_SPLIT, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    with open(fd, "wb", buffering=1 << 16) as tar_split:
        os.fchmod(fd, 0o644)
        yield tar_split

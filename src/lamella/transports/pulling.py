"""Pulling: from a repository's manifest to an image in the store, all of it or nothing.

The config names every layer (``resolving`` finds it), so that the places of all missing layers are made first, base
first, under the locks of their names.  Then a few layers at a time are fetched and unpacked, each into its own
directory while its bytes arrive; when all are verified they are put in line and published with one sync.  What is known
under any image is not fetched: a layer that the store has on another base is copied from there.

How bytes come over the network, with retries and verification, is the repository's business.
"""

from __future__ import annotations

import errno
import os
import threading
from functools import partial
from typing import BinaryIO, Literal, NamedTuple, cast

from lamella.errors import DataLoss, DigestMismatch, InvalidArgument, NotFound
from lamella.model.digest import ChainID, Digest, ImageID, chain_id
from lamella.model.ids import short_id
from lamella.model.platform import Platform
from lamella.model.progress import Advanced, Finished, Reporter, Started, silent
from lamella.model.reference import DEFAULT_TAG, Reference
from lamella.store.distribution import BlobSource
from lamella.store.imagestore import ImageStore
from lamella.store.layerdb import Layer
from lamella.store.layers import Draft
from lamella.store.pipes import reading_from
from lamella.store.transactions import Transaction
from lamella.transports.blobs import Feed, Partial, open_partial, space_explained
from lamella.transports.kept import keep_manifest
from lamella.transports.manifests import Descriptor, Manifest
from lamella.transports.plans import ImagePlan
from lamella.transports.ranges import Spare, read_in_order
from lamella.transports.resolving import Repository, fetch_plan, resolve
from lamella.transports.workers import for_each

#: Blobs below this size wait in memory; fetching them again costs less than a file.
SMALL = 8 << 20
PARALLEL = 3


class Pulled(NamedTuple):
    """An image that was pulled: its ID, the digest it was served under, and whether anything is new."""

    id: ImageID
    digest: Digest
    reference: Reference
    fresh: bool


def pull(
    store: ImageStore,
    repository: Repository,
    reference: Reference,
    *,
    origin: Reference | Literal[""] | None = "",
    platform: Platform | None = None,
    parallel: int = PARALLEL,
    report: Reporter = silent,
) -> Pulled:
    """Pull what *reference* names, for *platform* or this machine, and name it as Docker does.

    *origin* is where the bytes really come from, if not from where the name says: another repository, or None for
    no registry at all.

    Durable on return.  An error or a kill leaves the store as it was; what was fetched of large layers stays for the
    next pull.  Raises NotFound if nothing fits the platform, Unsupported for what is no image of fetchable layers.
    """
    wanted = str(reference.digest or reference.tag or DEFAULT_TAG)
    raw, manifest, actual = resolve(repository, reference, platform)
    image_id = ImageID(manifest.config.digest)
    came_from = reference if origin == "" else origin
    tags = {} if came_from is None else {came_from.repository().with_digest(actual).familiar(): image_id}
    if reference.digest is None:
        tags[reference.with_tag(wanted).familiar()] = image_id
    if _is_here(store, image_id):
        known = store.tags.read()
        moved = {key: image for key, image in tags.items() if known.get(key) != image}
        if moved:
            store.name_images(moved)
        return Pulled(image_id, actual, reference, fresh=bool(moved))
    with space_explained(manifest.config.digest):
        plan = fetch_plan(repository, reference, manifest, platform)
    store.tags.check(tags)
    with store.root.transaction("pull", ids=len(plan.layers)) as tx:
        _Pull(store, repository, reference, plan, manifest, tx, report).run(parallel)
        store.images.announce(plan.id, tx)
        keep_manifest(store, plan.id, raw)
        tx.flush()
        store.images.put(plan.raw, tx=tx)
        _remember(store, plan, manifest, came_from)
        store.commit(tx, tags)
    return Pulled(plan.id, actual, reference, fresh=True)


def fetch_layers(
    store: ImageStore,
    repository: Repository,
    reference: Reference,
    plan: ImagePlan,
    manifest: Manifest,
    tx: Transaction,
    *,
    parallel: int = PARALLEL,
    report: Reporter = silent,
) -> None:
    """Bring in the layers of an image that are missing, as part of *tx*; the image is left for the caller to put."""
    with space_explained(manifest.config.digest):
        _Pull(store, repository, reference, plan, manifest, tx, report).run(parallel)


class _Task(NamedTuple):
    """One missing layer."""

    descriptor: Descriptor
    draft: Draft


class _Pull:
    """The layers of one image on their way in."""

    def __init__(
        self,
        store: ImageStore,
        repository: Repository,
        reference: Reference,
        plan: ImagePlan,
        manifest: Manifest,
        tx: Transaction,
        report: Reporter,
    ) -> None:
        self._store = store
        self._repository = repository
        self._reference = reference
        self._plan = plan
        self._manifest = manifest
        self._tx = tx
        self._report = report
        self._guard = threading.Lock()
        self._parallel = 1
        self._spare = Spare(0)
        self._stopped = threading.Event()
        self._feeds: set[Feed] = set()
        self._spent: list[Partial] = []
        # A blob that occurs twice is fetched once, which its file sees to.
        counts: dict[Digest, int] = {}
        for layer in manifest.layers:
            counts[layer.digest] = counts.get(layer.digest, 0) + 1
        self._repeated = {digest for digest, count in counts.items() if count > 1}

    def run(self, parallel: int) -> None:
        """Bring in every missing layer, in line to be published."""
        if not self._store.root.driver.apart:
            self._run_in_order()
            return
        tasks: list[_Task] = []
        sizes: dict[ChainID, int] = {}
        try:
            self._draft(tasks)
            for task in tasks:
                self._report(Started(_name(task.descriptor), "Pulling fs layer", task.descriptor.size))
            self._work(tasks, sizes, max(1, parallel))
            for task in tasks:
                self._store.layers.complete(task.draft, sizes[task.draft.chain_id], self._tx)
            # Taken away before the sync, so that they need not be written to disk first.
            for kept in self._spent:
                kept.path.unlink(missing_ok=True)
        except BaseException as error:
            if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}:
                for kept in self._spent:
                    kept.remove()
            for task in reversed(tasks):
                if not any(item.lock is task.draft.lock for item in self._tx.pending):
                    task.draft.lock.close()
            raise
        finally:
            for kept in self._spent:
                kept.close()

    def _draft(self, tasks: list[_Task]) -> None:
        parent: ChainID | None = None
        below: Draft | None = None
        for descriptor, diff_id in zip(self._manifest.layers, self._plan.config.diff_ids, strict=True):
            made = self._store.layers.draft(diff_id, parent, tx=self._tx, below=below)
            parent = made.chain_id
            if isinstance(made, Layer):
                below = None
                self._report(Finished(_name(descriptor), "Already exists"))
            else:
                below = made
                tasks.append(_Task(descriptor, made))

    def _run_in_order(self) -> None:
        """Bring the layers in one by one, for a driver whose layers hold all that is below them."""
        parent: ChainID | None = None
        for descriptor, diff_id in zip(self._manifest.layers, self._plan.config.diff_ids, strict=True):
            name = _name(descriptor)
            self._report(Started(name, "Pulling fs layer", descriptor.size))
            before = len(self._tx.pending)
            if (known := self._store.layers.lease(chain_id(parent, diff_id), self._tx)) is None:
                with reading_from(partial(self._write, descriptor)) as stream:
                    known = self._store.layers.register(stream, parent, tx=self._tx, expected=diff_id)
            parent = known.chain_id
            fresh = len(self._tx.pending) > before
            self._report(Finished(name, "Pull complete" if fresh else "Already exists"))

    def _write(self, descriptor: Descriptor, sink: BinaryIO) -> None:
        def take(chunk: bytes) -> None:
            sink.write(chunk)
            self._report(Advanced(_name(descriptor), len(chunk)))

        self._repository.read_blob(descriptor.digest, size=descriptor.size, sink=take)

    # ------------------------------------------------------------------------------------------------- working

    def _work(self, tasks: list[_Task], sizes: dict[ChainID, int], parallel: int) -> None:
        """Fill all drafts, *parallel* at a time; the first failure ends the others and is raised here."""
        self._parallel = parallel
        self._spare = Spare(max(0, parallel - len(tasks)))
        waiting = len(tasks)

        def work(task: _Task) -> None:
            nonlocal waiting
            with self._guard:
                waiting -= 1
            size = self._fill(task)
            with self._guard:
                sizes[task.draft.chain_id] = size
            if waiting == 0:
                self._spare.give()

        for_each(tasks, work, parallel=parallel, name="pull", stop=self._stop)

    def _stop(self) -> None:
        self._stopped.set()
        with self._guard:
            feeds = list(self._feeds)
        for feed in feeds:
            feed.abort()

    def _fill(self, task: _Task) -> int:
        descriptor = task.descriptor
        name = _name(descriptor)
        local = self._elsewhere(task)
        if local is not None:
            size = self._copy(task, local)
            if size is not None:
                self._report(Finished(name, "Already exists"))
                return size
        kept: Partial | None = None
        if descriptor.size >= SMALL or descriptor.digest in self._repeated:
            kept = open_partial(self._store.root, descriptor.digest, stopped=self._stopped.is_set)
            with self._guard:
                self._spent.append(kept)
        try:
            with space_explained(descriptor.digest):
                size = self._fetch(task, kept)
        finally:
            if kept is not None and descriptor.digest in self._repeated:
                kept.close()  # the next layer of the same bytes waits for it
        self._report(Finished(name, "Pull complete"))
        return size

    def _fetch(self, task: _Task, kept: Partial | None) -> int:
        descriptor, name = task.descriptor, _name(task.descriptor)
        resumed = kept is not None and kept.length > 0
        if kept is not None and resumed:
            # Whether the bytes of an earlier try are right shows only at the end: nothing is unpacked before that.
            self._complete(kept, descriptor)
        feed = Feed(kept)
        with self._guard:
            self._feeds.add(feed)
        if self._stopped.is_set():
            feed.abort()
        if resumed:
            feed.finish()
        else:
            threading.Thread(target=self._download, args=(descriptor, feed), name=f"fetch-{name}", daemon=True).start()
        try:
            applied = self._store.layers.fill(task.draft, cast("BinaryIO", feed))
        except (DataLoss, InvalidArgument):
            if kept is not None:
                kept.remove()  # these bytes will never be right
            raise
        finally:
            feed.abort()
            with self._guard:
                self._feeds.discard(feed)
        if applied.digest != descriptor.digest:
            if kept is not None:
                kept.remove()
            raise DigestMismatch("layer", descriptor.digest, applied.digest)
        return applied.size

    def _download(self, descriptor: Descriptor, feed: Feed) -> None:
        name = _name(descriptor)

        def take(chunk: bytes) -> None:
            feed.put(chunk)
            self._report(Advanced(name, len(chunk)))

        try:
            read_in_order(
                self._repository, descriptor.digest, descriptor.size, take, spare=self._spare, most=self._parallel
            )
        except BaseException as error:  # noqa: BLE001  (raised again where the bytes are read)
            feed.finish(error)
        else:
            feed.finish()

    def _complete(self, kept: Partial, descriptor: Descriptor) -> None:
        """Fetch what an earlier try left out; if the whole is then wrong, fetch all of it again."""
        from hashlib import sha256

        for attempt in (1, 2):
            if kept.length > descriptor.size:
                kept.truncate()
            checksum = sha256()
            offset = 0
            while offset < kept.length and (piece := os.pread(kept.fd, 1 << 20, offset)):
                checksum.update(piece)
                offset += len(piece)
            self._report(Advanced(_name(descriptor), offset))
            if offset < descriptor.size:
                rest = Feed(kept)
                with self._guard:
                    self._feeds.add(rest)

                def take(chunk: bytes, rest: Feed = rest, checksum: object = checksum) -> None:
                    rest.put(chunk)
                    checksum.update(chunk)  # type: ignore[attr-defined]
                    self._report(Advanced(_name(descriptor), len(chunk)))

                try:
                    read_in_order(
                        self._repository,
                        descriptor.digest,
                        descriptor.size,
                        take,
                        offset=offset,
                        spare=self._spare,
                        most=self._parallel,
                    )
                finally:
                    with self._guard:
                        self._feeds.discard(rest)
            if f"sha256:{checksum.hexdigest()}" == descriptor.digest:
                return
            kept.truncate()
            if attempt == 2:
                raise DigestMismatch("layer", descriptor.digest, f"sha256:{checksum.hexdigest()}")

    # ------------------------------------------------------------------------------------- layers that are here

    def _elsewhere(self, task: _Task) -> Layer | None:
        """Find the same layer on another base; only looked for if this store has met its blob."""
        distribution, diff_id = self._store.distribution, task.draft.diff_id
        if distribution.find_diff_id(task.descriptor.digest) != diff_id and not distribution.sources(diff_id):
            return None
        return next((layer for layer in self._store.layers.iter_layers() if layer.diff_id == diff_id), None)

    def _copy(self, task: _Task, source: Layer) -> int | None:
        """Unpack a layer from another one of the same contents; None if that turned out damaged or went away."""
        with self._guard:
            leased = self._store.layers.lease(source.chain_id, self._tx)
        if leased is None or not self._is_sound(leased):
            return None
        with reading_from(lambda sink: self._store.layers.reassemble(leased, sink.write)) as stream:
            return self._store.layers.fill(task.draft, stream).size

    def _is_sound(self, layer: Layer) -> bool:
        try:
            self._store.layers.reassemble(layer, lambda _: None)
        except (DataLoss, NotFound, OSError) as error:
            self._store.root.report(f"layer {layer.chain_id}: {error}")
            return False
        return True


def _is_here(store: ImageStore, image_id: ImageID) -> bool:
    """Tell whether an image is complete: Docker would believe its config alone."""
    try:
        image = store.images.find(image_id)
    except DataLoss:
        return False
    if image is None:
        return False
    try:
        layers = store.layers.stack(image.top)
    except (NotFound, DataLoss):
        return False
    return all(store.root.driver.exists(layer.cache_id) for layer in layers)


def _remember(store: ImageStore, plan: ImagePlan, manifest: Manifest, reference: Reference | None) -> None:
    with store.root.writing():
        for layer, diff_id in zip(manifest.layers, plan.config.diff_ids, strict=True):
            seen = None if reference is None else BlobSource(layer.digest, reference.normalised_name())
            store.distribution.put(diff_id, layer.digest, seen)


def _name(descriptor: Descriptor) -> str:
    return short_id(descriptor.digest)

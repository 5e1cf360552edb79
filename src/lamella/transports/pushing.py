"""Pushing: an image of the store into a repository, with as few bytes over the network as can be.

A layer's tar is reassembled bit for bit, but the gzip stream it once came in cannot be: compressors differ.  So the
digests under which a layer is known are tried first, those of the manifest the image was pulled with before all others:
a blob that the registry has, or can mount from another of its repositories, is not sent.  If in the end every layer
goes by the digest in that manifest, its very bytes are pushed, and so the image keeps its digest.  What has to be packed
is packed the same way each time, into a nameless file, since a registry wants digest and size first.
"""

from __future__ import annotations

import hashlib
import hmac
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

from lamella.changeset.compression import Compression, sniff_compression
from lamella.errors import InvalidArgument, LamellaError, NotFound
from lamella.model.digest import DiffID, Digest, ImageID, digest_of
from lamella.model.gojson import encode
from lamella.model.ids import short_id
from lamella.model.platform import Platform
from lamella.model.progress import Advanced, Finished, Reporter, Started, silent
from lamella.model.reference import DEFAULT_TAG, Reference
from lamella.store.distribution import BlobSource
from lamella.store.imagedb import StoredImage
from lamella.store.imagestore import ImageStore
from lamella.store.layerdb import Layer
from lamella.transports.kept import find_kept, iter_kept, keep_manifest
from lamella.transports.manifests import Descriptor, layer_type, make_index, make_manifest, packing_of
from lamella.transports.packing import Packed, pack_layer
from lamella.transports.workers import for_each

PARALLEL = 3
# What a HEAD or a mount may cost, by the size of the layer that it could save: (up to, mounts, checks).
_BUDGETS = ((100 << 10, 1, 1), (10 << 20, 3, 1), (1 << 63, 4, 3))


class Target(Protocol):
    """What a push asks of a registry; may be called by several threads."""

    def has_blob(self, digest: Digest) -> int | None:
        """Return a blob's size, or None if the repository lacks it."""
        ...

    def mount_blob(self, digest: Digest, from_repository: str) -> bool:
        """Have a blob of another repository of the registry appear in this one, if it can."""
        ...

    def upload_blob(self, digest: Digest, size: int, chunks: Callable[[], Iterator[bytes]]) -> None:
        """Send a blob; *chunks* yields its bytes from the start each time it is called."""
        ...

    def put_manifest(self, tag_or_digest: str, raw: bytes, media_type: str) -> Digest:
        """Store a manifest."""
        ...

    def read_blob(
        self,
        digest: Digest,
        *,
        size: int | None,
        sink: Callable[[bytes], object],
        offset: int = 0,
        end: int | None = None,
    ) -> int:
        """Fetch a part of a blob."""
        ...

    def close(self) -> None:
        """Cut what is under way; it ends with Cancelled, and nothing more can be asked."""
        ...


class Pushed(NamedTuple):
    """What a push left in the repository: the manifest's digest and size, and whether it is the one once pulled."""

    digest: Digest
    size: int
    reference: Reference
    same: bool


def push(
    store: ImageStore,
    target: Target,
    reference: Reference,
    image_id: ImageID,
    *,
    compression: Compression | None = None,
    credentials: Mapping[str, str] | None = None,
    parallel: int = PARALLEL,
    report: Reporter = silent,
) -> Pushed:
    """Push an image under *reference* and remember where its layers are.

    With *compression* every layer is packed that way, whatever it was packed in before.  Raises DataLoss, before the
    manifest is sent, for a layer whose files are not what they should be.
    """
    work = _Push(store, target, reference, _image_of(store, image_id), compression, credentials, report)
    manifest, same = work.send(parallel, name=str(reference.tag or DEFAULT_TAG))
    return Pushed(manifest.digest, manifest.size, reference, same)


def push_layers(
    store: ImageStore,
    target: Target,
    reference: Reference,
    image_id: ImageID,
    *,
    compression: Compression | None = None,
    parallel: int = PARALLEL,
    report: Reporter = silent,
) -> dict[DiffID, Descriptor]:
    """See that an image's layers are in a repository, as :func:`push` does; return where each is.

    Neither config nor manifest is sent, and the image gets no name.
    """
    image = store.images.get(image_id)
    if not image.config.diff_ids:
        return {}
    work = _Push(store, target, reference, image, compression, None, report)
    layers = work.send_layers(parallel)
    with store.root.writing():
        for diff_id, layer in zip(image.config.diff_ids, layers, strict=True):
            store.distribution.put(diff_id, layer.digest, work.source(layer.digest))
    return dict(zip(image.config.diff_ids, layers, strict=True))


def push_index(
    store: ImageStore,
    target: Target,
    reference: Reference,
    image_ids: Sequence[ImageID],
    *,
    compression: Compression | None = None,
    credentials: Mapping[str, str] | None = None,
    parallel: int = PARALLEL,
    report: Reporter = silent,
) -> Pushed:
    """Push several images by their digests, each for a platform of its own, and an index of them under *reference*.

    As with :func:`push`, what was pulled and not changed keeps its manifest, so that the same images in the same order
    make the same index.  Raises InvalidArgument, before anything is sent, for two images for one platform.
    """
    images: dict[Platform, StoredImage] = {}
    for image_id in image_ids:
        image = _image_of(store, image_id)
        platform = Platform(image.config.os or "linux", image.config.architecture, image.config.variant)
        if not platform.architecture:
            raise InvalidArgument(f"image {short_id(image.id)} does not say which platform it is for")
        if platform in images:
            both = f"{short_id(images[platform].id)} and {short_id(image.id)}"
            raise InvalidArgument(f"images {both} are both for {platform}; an index has one for each")
        images[platform] = image
    manifests: list[Descriptor] = []
    for platform, image in images.items():
        work = _Push(store, target, reference, image, compression, credentials, report)
        manifest, _ = work.send(parallel, name="")
        manifests.append(manifest._replace(platform=platform))
    raw, media_type = make_index(manifests)
    target.put_manifest(str(reference.tag or DEFAULT_TAG), raw, media_type)
    return Pushed(digest_of(raw), len(raw), reference, same=False)


def _image_of(store: ImageStore, image_id: ImageID) -> StoredImage:
    image = store.images.get(image_id)
    if not image.config.diff_ids:
        raise InvalidArgument(f"image {short_id(image.id)} has no layers; an empty image cannot be pushed")
    return image


class _Push:
    """The layers of one image on their way out."""

    def __init__(
        self,
        store: ImageStore,
        target: Target,
        reference: Reference,
        image: StoredImage,
        compression: Compression | None,
        credentials: Mapping[str, str] | None,
        report: Reporter,
    ) -> None:
        self._store = store
        self._target = target
        self._reference = reference
        self._image = image
        self._compression = compression
        self._report = report
        self._guard = threading.Lock()
        self._stopped = threading.Event()
        self._types: dict[Digest, str] | None = None
        self._key = b""
        if credentials is not None:
            self._key = f"sha256:{hashlib.sha256(encode(dict(credentials))).hexdigest()}".encode()
        self.kept = find_kept(store, image.id)

    def source(self, digest: Digest) -> BlobSource:
        """Say where a blob is now, signed with the credentials that put it there, as Docker does."""
        repository = self._reference.normalised_name()
        return BlobSource(digest, repository, self._signature(digest, repository))

    def _signature(self, digest: Digest, repository: str) -> str:
        if not self._key:
            return ""
        return hmac.new(self._key, (digest + repository).encode(), "sha256").hexdigest()

    def send(self, parallel: int, *, name: str) -> tuple[Descriptor, bool]:
        """Push the image under the tag *name*, or by its digest if that is empty.

        Returns its manifest, and whether that is the one it was pulled with.
        """
        store, target, image = self._store, self._target, self._image
        layers = self.send_layers(parallel)
        if target.has_blob(image.id) is None:
            target.upload_blob(image.id, len(image.raw), lambda: iter([image.raw]))
        kept = self.kept
        same = kept is not None and [layer.digest for layer in kept.layers] == [layer.digest for layer in layers]
        if kept is not None and same:
            raw, media_type = kept.raw, kept.media_type
        else:
            raw, media_type = make_manifest(image.id, len(image.raw), layers)
        digest = digest_of(raw)
        target.put_manifest(name or digest, raw, media_type)
        with store.root.writing():
            for diff_id, layer in zip(image.config.diff_ids, layers, strict=True):
                store.distribution.put(diff_id, layer.digest, self.source(layer.digest))
            keep_manifest(store, image.id, raw)
            store.name_images({self._reference.repository().with_digest(digest).familiar(): image.id})
        return Descriptor(media_type, digest, len(raw)), same

    def send_layers(self, parallel: int) -> list[Descriptor]:
        """See that every layer is in the repository, several at a time; return their descriptors, base first."""
        layers = self._store.layers.stack(self._image.top)
        sent: dict[DiffID, Descriptor] = {}

        def send(layer: Layer) -> None:
            descriptor = self._send(layer)
            with self._guard:
                sent[layer.diff_id] = descriptor

        distinct = {layer.diff_id: layer for layer in layers}.values()
        for_each(distinct, send, parallel=parallel, name="push", stop=self._stop)
        return [sent[layer.diff_id] for layer in layers]

    def _stop(self) -> None:
        self._stopped.set()
        self._target.close()

    def _send(self, layer: Layer) -> Descriptor:
        name = short_id(layer.diff_id)
        self._report(Started(name, "Preparing", layer.size))
        found = self._find(layer)
        if found is not None:
            descriptor, note = found
            self._report(Finished(name, note))
            return descriptor
        compression = self._compression or self._former_packing(layer) or Compression.GZIP
        packed = pack_layer(self._store, layer, compression, stopped=self._stopped.is_set)
        try:
            if self._target.has_blob(packed.digest) is not None:
                note = "Layer already exists"
            else:
                self._report(Started(name, "Pushing", packed.size))
                self._target.upload_blob(packed.digest, packed.size, lambda: self._counted(name, packed))
                note = "Pushed"
        finally:
            packed.close()
        self._report(Finished(name, note))
        return Descriptor(layer_type(compression), packed.digest, packed.size)

    def _counted(self, name: str, packed: Packed) -> Iterator[bytes]:
        for piece in packed.chunks():
            yield piece
            self._report(Advanced(name, len(piece)))

    def _former_packing(self, layer: Layer) -> Compression | None:
        former = self._former(layer)
        return None if former is None else packing_of(former.media_type)

    def _former(self, layer: Layer) -> Descriptor | None:
        if self.kept is None:
            return None
        pairs = zip(self._image.config.diff_ids, self.kept.layers, strict=False)
        return next((descriptor for diff_id, descriptor in pairs if diff_id == layer.diff_id), None)

    def _find(self, layer: Layer) -> tuple[Descriptor, str] | None:
        """Find a blob of this layer that the registry has already, or can mount."""
        former = self._former(layer)
        sources = self._store.distribution.sources(layer.diff_id)[::-1]
        here = self._reference.normalised_name()
        mounts, checks = next((m, c) for limit, m, c in _BUDGETS if layer.size <= limit)
        known = [former.digest] if former is not None else []
        known += [source.digest for source in sources if source.repository == here and source.digest not in known]
        for digest in known[: checks + 1]:
            if (found := self._described(digest, former)) is not None:
                return found, "Layer already exists"
        elsewhere = [
            s for s in sources if s.repository != here and s.repository.partition("/")[0] == self._reference.domain
        ]
        elsewhere.sort(key=self._nearness, reverse=True)
        if former is not None:
            elsewhere.sort(key=lambda source: source.digest != former.digest)
        for source in elsewhere[:mounts]:
            path = source.repository.partition("/")[2]
            if self._wrong_type(source.digest) or not self._target.mount_blob(source.digest, path):
                continue
            if (found := self._described(source.digest, former)) is not None:
                return found, f"Mounted from {path}"
        return None

    def _nearness(self, source: BlobSource) -> tuple[bool, int]:
        signed = bool(self._key) and source.hmac == self._signature(source.digest, source.repository)
        ours = self._reference.normalised_name().split("/")
        common = 0
        for mine, theirs in zip(ours, source.repository.split("/"), strict=False):
            if mine != theirs:
                break
            common += 1
        return signed, common

    def _wrong_type(self, digest: Digest) -> bool:
        media_type = self._known_types().get(digest)
        return self._compression is not None and media_type is not None and packing_of(media_type) != self._compression

    def _described(self, digest: Digest, former: Descriptor | None) -> Descriptor | None:
        """Describe a blob if the repository has it, packed as is wanted."""
        if self._wrong_type(digest) or (size := self._target.has_blob(digest)) is None:
            return None
        if former is not None and former.digest == digest:
            return former if former.size == size else None
        media_type = self._known_types().get(digest) or self._sniffed(digest, size)
        if self._compression is not None and packing_of(media_type) != self._compression:
            return None
        return Descriptor(layer_type(packing_of(media_type)), digest, size)

    def _known_types(self) -> dict[Digest, str]:
        with self._guard:
            if self._types is None:
                self._types = {
                    layer.digest: layer.media_type for kept in iter_kept(self._store) for layer in kept.layers
                }
            return self._types

    def _sniffed(self, digest: Digest, size: int) -> str:
        """Look at a blob's first bytes: nobody noted how it is packed."""
        start = bytearray()
        try:
            self._target.read_blob(digest, size=size, sink=start.extend, end=min(size, 512))
        except LamellaError:
            return layer_type(Compression.GZIP)  # as Docker takes for granted
        return layer_type(sniff_compression(bytes(start)))


def check_pushed(reference: Reference, *, all_tags: bool) -> None:
    """Refuse a name that nothing can be pushed to, in Docker's words."""
    if reference.digest is not None:
        raise InvalidArgument("cannot push a digest reference")
    if all_tags and reference.tag is not None:
        raise InvalidArgument("tag can't be used with --all-tags/-a")


def find_pushed(store: ImageStore, reference: Reference, *, all_tags: bool) -> list[tuple[Reference, ImageID]]:
    """Return what a push of *reference* is to send: one tag's image, or every tag's of the repository.

    Raises NotFound in Docker's words.
    """
    check_pushed(reference, all_tags=all_tags)
    if all_tags:
        found = [
            (known, image)
            for image, references in store.tags.by_image().items()
            for known in references
            if known.repository() == reference.repository() and known.tag is not None and known.digest is None
        ]
        if not found:
            raise NotFound(f"An image does not exist locally with the tag: {reference.familiar_name()}")
        return sorted(found, key=lambda item: str(item[0].tag))
    tagged = reference if reference.tag is not None else reference.with_tag(DEFAULT_TAG)
    image_or_none = store.tags.find(tagged)
    if image_or_none is None:
        raise NotFound(f"An image does not exist locally with the tag: {tagged.familiar_name()}")
    return [(tagged, image_or_none)]

"""Where a copy reads from: each place answers for its documents and blobs as a registry would.

``get_manifest("")`` is the document that the place was named for; what a descriptor promises of the rest is checked
while it is read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol, cast

from lamella.changeset.compression import Compression, iter_decompressed, sniff_compression
from lamella.changeset.verify import VerifiedReader
from lamella.errors import InvalidArgument, NotFound
from lamella.model.digest import DiffID, Digest, ImageID, digest_of, hex_of
from lamella.model.documents import MANIFEST_LIMIT
from lamella.model.reference import DEFAULT_TAG, Reference, parse_tagged
from lamella.store.imagestore import ImageStore
from lamella.transports import docker_archive, oci_layout
from lamella.transports.archive import Members, read_member
from lamella.transports.manifests import Descriptor, document_type, layer_type, make_manifest
from lamella.transports.packing import Packed, Sink, pack_layer
from lamella.transports.plans import ImagePlan
from lamella.transports.resolving import Served

_PIECE = 1 << 20


class Document(NamedTuple):
    """A manifest or index: bytes, type and digest."""

    raw: bytes
    media_type: str
    digest: Digest


class Source(Protocol):
    """An image's documents and blobs."""

    def get_manifest(self, tag_or_digest: str) -> Served:
        """Return a document by its digest, or with ``""`` the one that was named."""
        ...

    def read_blob(self, digest: Digest, *, size: int, sink: Callable[[bytes], object], offset: int = 0) -> int:
        """Hand a blob's bytes to *sink* in order; an error if they are not what the digest says."""
        ...


class RegistrySource:
    """A repository."""

    def __init__(self, client: Source, reference: Reference) -> None:
        self._client = client
        self._wanted = str(reference.digest or reference.tag or DEFAULT_TAG)
        self.reference = reference

    def get_manifest(self, tag_or_digest: str) -> Served:
        """Ask the registry."""
        return self._client.get_manifest(tag_or_digest or self._wanted)

    def read_blob(self, digest: Digest, *, size: int, sink: Callable[[bytes], object], offset: int = 0) -> int:
        """Ask the registry."""
        return self._client.read_blob(digest, size=size, sink=sink, offset=offset)


class MemberSource:
    """Documents and blobs that lie as files under names made of their digests."""

    def __init__(self, members: Members, top: Document, name_of: Callable[[Digest], str]) -> None:
        self._members = members
        self._top = top
        self._name_of = name_of

    def get_manifest(self, tag_or_digest: str) -> Document:
        """Read a document."""
        if tag_or_digest in {"", self._top.digest}:
            return self._top
        digest = Digest(tag_or_digest)
        name = self._name_of(digest)
        if not self._members.exists(name):
            name = f"{hex_of(digest)}.manifest.json"  # as directories have it
        raw = read_member(self._members, name, MANIFEST_LIMIT)
        return Document(raw, document_type(raw, str(digest), None), digest_of(raw))

    def read_blob(self, digest: Digest, *, size: int, sink: Callable[[bytes], object], offset: int = 0) -> int:
        """Read a blob's file."""
        with self._members.open(self._name_of(digest)) as stream:
            return hand_over(stream, digest, size, sink, offset)


def hand_over(stream: BinaryIO, digest: Digest, size: int, sink: Callable[[bytes], object], offset: int) -> int:
    """Give a stream's bytes from *offset* on to *sink*, all of them checked."""
    verified = VerifiedReader(stream, digest, size)
    position = given = 0
    while piece := verified.read(_PIECE):
        useful = piece[max(0, offset - position) :]
        position += len(piece)
        if useful:
            sink(useful)
            given += len(useful)
    return given


def open_layout(members: Members, name: str) -> MemberSource:
    """Read from an OCI layout the image called *name*, or its only one.  Raises NotFound, InvalidArgument."""
    entries = oci_layout.read_index(members)
    if name:
        entries = [item for item in entries if name in _names(item)]
    if not entries:
        raise NotFound(f"the layout has no image{f' named {name}' if name else ''}")
    if len({item.digest for item in entries}) > 1:
        raise InvalidArgument(
            f"the layout has several images ({', '.join(_all_names(entries))}); name one after a colon"
        )
    raw = oci_layout.read_document(members, entries[0])
    return MemberSource(members, Document(raw, entries[0].media_type, entries[0].digest), oci_layout.blob_path)


def _names(item: Descriptor) -> set[str]:
    keys = ("org.opencontainers.image.ref.name", "io.containerd.image.name")
    return {item.annotations[key] for key in keys if key in item.annotations}


def _all_names(entries: list[Descriptor]) -> list[str]:
    return sorted(name for item in entries for name in (_names(item) or {item.digest}))


def open_directory(members: Members) -> MemberSource:
    """Read from a directory as skopeo writes it."""
    raw = read_member(members, "manifest.json", MANIFEST_LIMIT)
    return MemberSource(members, Document(raw, document_type(raw, "manifest.json", None), digest_of(raw)), hex_of)


class _Blob(NamedTuple):
    size: int
    write: Callable[[Callable[[bytes], object]], object]


class MadeSource:
    """A manifest made here, for a place that has none."""

    def __init__(self, config: bytes, layers: list[Descriptor], blobs: dict[Digest, _Blob]) -> None:
        raw, media_type = make_manifest(digest_of(config), len(config), layers)
        self._top = Document(raw, media_type, digest_of(raw))
        self._blobs = {**blobs, digest_of(config): _Blob(len(config), lambda sink: sink(config))}

    def get_manifest(self, tag_or_digest: str) -> Document:
        """Return the one manifest."""
        if tag_or_digest not in {"", self._top.digest}:
            raise NotFound(f"there is no manifest {tag_or_digest}")
        return self._top

    def read_blob(self, digest: Digest, *, size: int, sink: Callable[[bytes], object], offset: int = 0) -> int:
        """Hand over a layer or the config; they were hashed when the manifest was made, and a layer is again."""
        checksum = hashlib.sha256()
        position = 0

        def take(piece: bytes) -> None:
            nonlocal position
            checksum.update(piece)
            if useful := piece[max(0, offset - position) :]:
                sink(useful)
            position += len(piece)

        self._blobs[digest].write(take)
        if position != size or f"sha256:{checksum.hexdigest()}" != digest:
            raise InvalidArgument(f"blob {digest} changed while it was copied")
        return max(0, position - offset)


def open_docker_archive(
    members: Members, name: str, compression: Compression | None, spool: Path, scope: ExitStack
) -> MadeSource:
    """Read from an archive of ``docker save`` the image called *name*, or its only one, packed if so wished."""
    plan = _chosen(docker_archive.plan_images(members), name)
    layers: list[Descriptor] = []
    blobs: dict[Digest, _Blob] = {}
    for source, diff_id in zip(plan.layers, plan.config.diff_ids, strict=True):
        with source.open() as stream:
            start = stream.read(512)
        if compression in {None, Compression.NONE} or sniff_compression(start) is not Compression.NONE:
            descriptor, blob = _as_it_is(source.open, sniff_compression(start))
        else:
            packed = Packed(spool, cast("Compression", compression), _unpacked(source.open, diff_id))
            scope.callback(packed.close)
            descriptor, blob = _described(packed, cast("Compression", compression))
        layers.append(descriptor)
        blobs[descriptor.digest] = blob
    return MadeSource(plan.raw, layers, blobs)


def _chosen(plans: list[ImagePlan], name: str) -> ImagePlan:
    if name:
        wanted = parse_tagged(name)
        plans = [plan for plan in plans if wanted in plan.references]
        if not plans:
            raise NotFound(f"the archive has no image named {wanted.familiar()}")
    if len({plan.id for plan in plans}) != 1:
        names = sorted(reference.familiar() for plan in plans for reference in plan.references)
        raise InvalidArgument(f"the archive has {len(plans)} images ({', '.join(names)}); name one after a colon")
    return plans[0]


def _as_it_is(open_layer: Callable[[], BinaryIO], compression: Compression) -> tuple[Descriptor, _Blob]:
    checksum = hashlib.sha256()
    size = 0
    with open_layer() as stream:
        while piece := stream.read(_PIECE):
            checksum.update(piece)
            size += len(piece)

    def write(sink: Callable[[bytes], object]) -> None:
        with open_layer() as stream:
            while piece := stream.read(_PIECE):
                sink(piece)

    return Descriptor(layer_type(compression), Digest(f"sha256:{checksum.hexdigest()}"), size), _Blob(size, write)


def _unpacked(open_layer: Callable[[], BinaryIO], diff_id: DiffID) -> Callable[[Sink], None]:
    def write(sink: Sink) -> None:
        with open_layer() as stream:
            verified = VerifiedReader(stream, diff_id, what="layer of the archive")
            for piece in iter_decompressed(cast("BinaryIO", verified)):
                sink(piece)

    return write


def _described(packed: Packed, compression: Compression) -> tuple[Descriptor, _Blob]:
    def write(sink: Callable[[bytes], object]) -> None:
        for piece in packed.chunks():
            sink(piece)

    return Descriptor(layer_type(compression), packed.digest, packed.size), _Blob(packed.size, write)


def open_stored(store: ImageStore, image_id: ImageID, compression: Compression, scope: ExitStack) -> MadeSource:
    """Read from the store an image, its layers packed anew."""
    image = store.images.get(image_id)
    layers: list[Descriptor] = []
    blobs: dict[Digest, _Blob] = {}
    for layer in store.layers.stack(image.top):
        packed = pack_layer(store, layer, compression)
        scope.callback(packed.close)
        descriptor, blob = _described(packed, compression)
        layers.append(descriptor)
        blobs[descriptor.digest] = blob
    return MadeSource(image.raw, layers, blobs)

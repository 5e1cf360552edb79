"""Saving images as one archive that docker, podman, skopeo, containerd and umoci read.

The form is that of ``docker save`` 25 and newer: an OCI layout with ``manifest.json`` and ``repositories`` beside it.
Layers are the original tars, so a blob's digest is its diff ID; packed ones are first written to a nameless file, for
a tar wants sizes before bytes.  The same images give the same bytes: names are sorted and all times zero.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import BinaryIO, NamedTuple, cast

from lamella.changeset.compression import Compression, open_compressed
from lamella.changeset.entry import Entry, Kind
from lamella.changeset.tarheader import BLOCK, format_header
from lamella.changeset.tarsplit import iter_records
from lamella.errors import DataLoss, InvalidArgument
from lamella.model.digest import DiffID, Digest, ImageID, digest_of, hex_of
from lamella.model.gojson import encode
from lamella.model.ids import short_id
from lamella.model.progress import Advanced, Finished, Reporter, Started, silent
from lamella.model.reference import Reference
from lamella.store.imagedb import StoredImage
from lamella.store.imagestore import ImageStore
from lamella.store.layerdb import Layer
from lamella.transports.archive import open_nameless

Buffer = bytes | memoryview
_LAYER_TYPES = {
    Compression.NONE: "application/vnd.oci.image.layer.v1.tar",
    Compression.GZIP: "application/vnd.oci.image.layer.v1.tar+gzip",
    Compression.ZSTD: "application/vnd.oci.image.layer.v1.tar+zstd",
}
_MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
_CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
_INDEX_TYPE = "application/vnd.oci.image.index.v1+json"


class _Blob(NamedTuple):
    """A layer as it will stand in the archive."""

    media_type: str
    digest: Digest
    size: int
    write: Callable[[Callable[[Buffer], object]], None]

    def descriptor(self) -> dict[str, object]:
        return {"mediaType": self.media_type, "digest": self.digest, "size": self.size}


def save(
    store: ImageStore,
    images: Sequence[tuple[ImageID, Sequence[Reference]]],
    sink: BinaryIO,
    *,
    compression: Compression = Compression.NONE,
    report: Reporter = silent,
) -> None:
    """Write images with the given references as one archive; blobs they share are written once.

    Every layer is verified on its way out: an error, DataLoss above all, leaves an incomplete archive, which the
    caller must throw away.
    """
    if compression not in _LAYER_TYPES:
        raise InvalidArgument(f"layers cannot be saved as {compression}; use none, gzip or zstd")
    stored = [(store.images.get(image), list(references)) for image, references in images]
    for image, _ in stored:
        if not image.config.diff_ids:
            raise InvalidArgument(f"image {short_id(image.id)} has no layers; an empty image cannot be saved")
    blobs: dict[DiffID, _Blob] = {}
    with ExitStack() as spools:
        for image, _ in stored:
            for layer in store.layers.stack(image.top):
                if layer.diff_id in blobs:
                    continue
                if compression is Compression.NONE:
                    blobs[layer.diff_id] = _original(store, layer, report)
                else:
                    blobs[layer.diff_id] = _packed(store, layer, compression, spools)
        small, documents = _documents(stored, blobs)
        _write(sink, small, {hex_of(blob.digest): blob for blob in blobs.values()}, documents)


def tar_size(store: ImageStore, layer: Layer) -> int:
    """Return the bytes of a layer's tar, from its tar-split."""
    records = iter_records(store.layers.tar_split(layer))
    return sum(size if name is not None else len(payload) for payload, name, size in records)


def _original(store: ImageStore, layer: Layer, report: Reporter) -> _Blob:
    """Plan a layer as it was: made again only when it is written."""
    name = short_id(layer.diff_id)
    size = tar_size(store, layer)

    def write(emit: Callable[[Buffer], object]) -> None:
        report(Started(name, "Saving layer", size))

        def counted(piece: Buffer) -> None:
            emit(piece)
            report(Advanced(name, len(piece)))

        store.layers.reassemble(layer, counted)
        report(Finished(name, "Saved"))

    return _Blob(_LAYER_TYPES[Compression.NONE], layer.diff_id, size, write)


def _packed(store: ImageStore, layer: Layer, compression: Compression, spools: ExitStack) -> _Blob:
    """Pack a layer into a nameless file of *spools*, which closes it."""
    from hashlib import sha256

    if not store.root.wip_dir.is_dir():
        with store.root.writing():  # makes it
            pass
    fd = open_nameless(store.root.wip_dir)
    spool = spools.enter_context(open(fd, "w+b", buffering=1 << 18))  # noqa: SIM115  (the stack closes it)
    with open_compressed(spool, compression) as packer:
        store.layers.reassemble(layer, packer.write)
    spool.flush()
    size = os.fstat(fd).st_size
    checksum = sha256()

    def pieces() -> Iterator[bytes]:
        offset = 0
        while piece := os.pread(fd, 1 << 20, offset):
            offset += len(piece)
            yield piece

    for piece in pieces():
        checksum.update(piece)

    def write(emit: Callable[[Buffer], object]) -> None:
        for piece in pieces():
            emit(piece)
        spool.close()

    return _Blob(_LAYER_TYPES[compression], Digest(f"sha256:{checksum.hexdigest()}"), size, write)


def _documents(
    stored: list[tuple[StoredImage, list[Reference]]], blobs: dict[DiffID, _Blob]
) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """Make every JSON document: those named by their digest, and those at the top."""
    small: dict[str, bytes] = {}
    legacy: list[dict[str, object]] = []
    index: list[dict[str, object]] = []
    repositories: dict[str, dict[str, str]] = {}
    present = {image.id for image, _ in stored}
    for image, references in stored:
        layers = [blobs[diff_id] for diff_id in image.config.diff_ids]
        manifest = encode(
            {
                "schemaVersion": 2,
                "mediaType": _MANIFEST_TYPE,
                "config": {"mediaType": _CONFIG_TYPE, "digest": image.id, "size": len(image.raw)},
                "layers": [blob.descriptor() for blob in layers],
            }
        )
        small[hex_of(image.id)] = image.raw
        small[hex_of(digest := digest_of(manifest))] = manifest
        tags = [reference for reference in references if reference.tag is not None]
        descriptor: dict[str, object] = {"mediaType": _MANIFEST_TYPE, "digest": digest, "size": len(manifest)}
        if image.config.architecture:
            platform = {"architecture": image.config.architecture, "os": image.config.os or "linux"}
            if image.config.variant:
                platform["variant"] = image.config.variant
            descriptor["platform"] = platform
        for reference in tags:
            annotations = {
                "io.containerd.image.name": f"{reference.normalised_name()}:{reference.tag}",
                "org.opencontainers.image.ref.name": cast("str", reference.tag),
            }
            index.append({**descriptor, "annotations": annotations})
            repositories.setdefault(reference.familiar_name(), {})[cast("str", reference.tag)] = hex_of(
                image.config.diff_ids[-1]
            )
        if not tags and not any(item["digest"] == digest for item in index):
            index.append(descriptor)
        legacy.append(_legacy_entry(image, tags, layers, image.parent if image.parent in present else None))
    documents = {
        "index.json": encode({"schemaVersion": 2, "mediaType": _INDEX_TYPE, "manifests": index}),
        "manifest.json": encode(legacy, newline=True),
        "oci-layout": b'{"imageLayoutVersion": "1.0.0"}',
    }
    if repositories:
        ordered = {name: dict(sorted(tagged.items())) for name, tagged in sorted(repositories.items())}
        documents["repositories"] = encode(ordered, newline=True)
    return small, documents


def _legacy_entry(
    image: StoredImage, tags: list[Reference], layers: list[_Blob], parent: ImageID | None
) -> dict[str, object]:
    entry: dict[str, object] = {
        "Config": f"blobs/sha256/{hex_of(image.id)}",
        "RepoTags": sorted(reference.familiar() for reference in tags) or None,
        "Layers": [f"blobs/sha256/{hex_of(blob.digest)}" for blob in layers],
    }
    if parent is not None:
        entry["Parent"] = parent
    sources = zip(image.config.diff_ids, layers, strict=True)
    entry["LayerSources"] = {
        diff_id: {"mediaType": blob.media_type, "size": blob.size, "digest": blob.digest}
        for diff_id, blob in sorted(sources)
    }
    return entry


def _write(sink: BinaryIO, small: dict[str, bytes], blobs: dict[str, _Blob], documents: dict[str, bytes]) -> None:
    sink.writelines(
        format_header(Entry(directory, Kind.DIRECTORY, mode=0o755)) for directory in (b"blobs/", b"blobs/sha256/")
    )
    for name in sorted({*small, *blobs}):
        path = b"blobs/sha256/" + name.encode()
        if name in small:
            _write_file(sink, path, small[name])
            continue
        blob = blobs[name]
        sink.write(format_header(Entry(path, Kind.REGULAR, size=blob.size)))
        written = 0

        def emit(piece: Buffer) -> None:
            nonlocal written
            written += len(piece)
            sink.write(piece)

        blob.write(emit)
        if written != blob.size:
            raise DataLoss(f"layer {blob.digest} came out as {written} bytes, {blob.size} were recorded")
        sink.write(bytes(-blob.size % BLOCK))
    for name, content in sorted(documents.items()):
        _write_file(sink, name.encode(), content)
    sink.write(bytes(2 * BLOCK))


def _write_file(sink: BinaryIO, path: bytes, content: bytes) -> None:
    sink.write(format_header(Entry(path, Kind.REGULAR, size=len(content))) + content + bytes(-len(content) % BLOCK))

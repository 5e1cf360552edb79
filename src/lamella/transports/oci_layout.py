"""OCI image layouts, as a tar or a directory: ``index.json`` leads to manifests, these to configs and layers.

Every blob is checked against the descriptor that led to it, in size and digest.  The type of a document comes from its
descriptor, and the document may not say otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import NamedTuple

from lamella.errors import DataLoss, DigestMismatch, InvalidArgument, NotFound, Unsupported
from lamella.model.digest import Digest, digest_of, hex_of, parse_digest
from lamella.model.documents import CONFIG_LIMIT, MANIFEST_LIMIT, decode_object
from lamella.model.platform import Platform, host_platform
from lamella.model.reference import Reference, parse_reference, parse_tagged
from lamella.transports.archive import Members, read_member
from lamella.transports.plans import ImagePlan, LayerSource, plan_image

INDEX, LAYOUT = "index.json", "oci-layout"
_NESTING = 4
_INDEX_TYPES = frozenset({
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
})  # fmt: skip
_MANIFEST_TYPES = frozenset({
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
})  # fmt: skip
_CONFIG_TYPES = frozenset({
    "application/vnd.oci.image.config.v1+json",
    "application/vnd.docker.container.image.v1+json",
})  # fmt: skip
_LAYER_TYPES = frozenset(
    f"application/vnd.{name}"
    for name in (
        "oci.image.layer.v1.tar",
        "oci.image.layer.v1.tar+gzip",
        "oci.image.layer.v1.tar+zstd",
        "oci.image.layer.nondistributable.v1.tar",
        "oci.image.layer.nondistributable.v1.tar+gzip",
        "oci.image.layer.nondistributable.v1.tar+zstd",
        "docker.image.rootfs.diff.tar",
        "docker.image.rootfs.diff.tar.gzip",
        "docker.image.rootfs.diff.tar.zstd",
        "docker.image.rootfs.foreign.diff.tar.gzip",
    )
)


class _Descriptor(NamedTuple):
    media_type: str
    digest: Digest
    size: int
    annotations: Mapping[str, str]
    platform: Platform | None


def plan_images(members: Members, *, platform: Platform | None = None) -> list[ImagePlan]:
    """Plan the load of every image of a layout; of an index, the one for ``platform`` (this machine's if None).

    Raises InvalidArgument, DigestMismatch or DataLoss naming the document at fault, NotFound if nothing fits.
    """
    if members.exists(LAYOUT):
        layout = decode_object(read_member(members, LAYOUT, 4096), limit=4096, what=LAYOUT)
        version = layout.get("imageLayoutVersion")
        if not isinstance(version, str) or version.partition(".")[0] != "1":
            raise Unsupported(f"{LAYOUT}: layout version {version!r:.40} is not one lamella reads")
    wanted = platform or host_platform()
    index = _document(read_member(members, INDEX, MANIFEST_LIMIT), INDEX, None)
    top = [item for item in _descriptors(index, "manifests", INDEX) if not _is_attestation(item)]
    plans: dict[str, ImagePlan] = {}
    others: list[str] = []
    for descriptor in top:
        found = _choose(members, descriptor, wanted, 1, others, strict=platform is not None or len(top) > 1)
        if found is None:
            continue
        plan = _plan(members, found, _references(descriptor, found))
        known = plans.get(plan.id)
        if known is not None:
            extra = tuple(reference for reference in plan.references if reference not in known.references)
            plan = known._replace(references=known.references + extra)
        plans[plan.id] = plan
    if not plans:
        has = f" (it has {', '.join(sorted(set(others)))})" if others else ""
        raise NotFound(f"the layout holds no image for {wanted}{has}")
    return list(plans.values())


def _choose(
    members: Members, descriptor: _Descriptor, wanted: Platform, depth: int, others: list[str], *, strict: bool
) -> _Descriptor | None:
    """Follow an index to the manifest for a platform; with ``strict`` a lone manifest must be for it, too."""
    if descriptor.media_type in _MANIFEST_TYPES:
        if strict and descriptor.platform is not None and not _fits(descriptor.platform, wanted):
            others.append(str(descriptor.platform))
            return None
        return descriptor
    if descriptor.media_type not in _INDEX_TYPES:
        raise Unsupported(f"{INDEX}: {descriptor.media_type!r:.100} is neither an image nor an index")
    if depth > _NESTING:
        raise InvalidArgument(f"{INDEX}: indexes are nested deeper than {_NESTING}")
    document = _document(_blob(members, descriptor, MANIFEST_LIMIT), descriptor.digest, descriptor.media_type)
    inner = [item for item in _descriptors(document, "manifests", descriptor.digest) if not _is_attestation(item)]
    # An exact variant first, then what fits, each in the order of the index.
    inner.sort(key=lambda item: item.platform is None or item.platform.variant != wanted.variant)
    for item in inner:
        found = _choose(members, item, wanted, depth + 1, others, strict=True)
        if found is not None:
            return found
    return None


def _plan(members: Members, descriptor: _Descriptor, references: tuple[Reference, ...]) -> ImagePlan:
    manifest = _document(_blob(members, descriptor, MANIFEST_LIMIT), descriptor.digest, descriptor.media_type)
    config = _descriptor(manifest.get("config"), f"manifest {descriptor.digest}: config")
    if config.media_type not in _CONFIG_TYPES:
        raise Unsupported(f"manifest {descriptor.digest} is of {config.media_type!r:.100}, not of a container image")
    raw = _blob(members, config, CONFIG_LIMIT)
    layers = []
    for layer in _descriptors(manifest, "layers", descriptor.digest):
        if layer.media_type not in _LAYER_TYPES:
            raise Unsupported(f"manifest {descriptor.digest}: layers of {layer.media_type!r:.100} cannot be unpacked")
        layers.append(LayerSource(partial(members.open, _path(layer.digest)), layer.digest, layer.size))
    return plan_image(raw, tuple(layers), references)


def _references(*descriptors: _Descriptor) -> tuple[Reference, ...]:
    found: list[Reference] = []
    for descriptor in descriptors:
        full = descriptor.annotations.get("io.containerd.image.name")
        short = descriptor.annotations.get("org.opencontainers.image.ref.name")
        text = full or (short if short and ("/" in short or ":" in short) else None)
        if text is None:
            continue  # a bare tag names nothing
        try:
            reference = parse_tagged(text) if full else parse_reference(text)
        except InvalidArgument as error:
            raise InvalidArgument(f"{INDEX}: name {text!r:.200}: {error}") from error
        if reference.digest is None and reference.tag is not None and reference not in found:
            found.append(reference)
    return tuple(found)


def _fits(platform: Platform, wanted: Platform) -> bool:
    return (platform.os, platform.architecture) == (wanted.os, wanted.architecture) and (
        not wanted.variant or not platform.variant or platform.variant <= wanted.variant
    )


def _is_attestation(descriptor: _Descriptor) -> bool:
    return descriptor.annotations.get("vnd.docker.reference.type") == "attestation-manifest" or (
        descriptor.platform is not None and descriptor.platform.os == "unknown"
    )


def _path(digest: Digest) -> str:
    return f"blobs/sha256/{hex_of(digest)}"


def _blob(members: Members, descriptor: _Descriptor, limit: int) -> bytes:
    if descriptor.size > limit:
        raise InvalidArgument(f"blob {descriptor.digest} is larger than {limit} bytes")
    raw = read_member(members, _path(descriptor.digest), limit)
    if len(raw) != descriptor.size:
        raise DataLoss(f"blob {descriptor.digest} has {len(raw)} bytes, its descriptor says {descriptor.size}")
    if (actual := digest_of(raw)) != descriptor.digest:
        raise DigestMismatch("blob of the layout", descriptor.digest, actual)
    return raw


def _document(raw: bytes, what: str, media_type: str | None) -> dict[str, object]:
    document = decode_object(raw, limit=MANIFEST_LIMIT, what=what)
    if "manifests" in document and "layers" in document:
        raise InvalidArgument(f"{what}: both an index and a manifest")
    stated = document.get("mediaType")
    if stated is not None and media_type is not None and stated != media_type:
        raise InvalidArgument(f"{what}: says it is {stated!r:.100}, its descriptor says {media_type}")
    return document


def _descriptors(document: Mapping[str, object], key: str, what: str) -> Iterator[_Descriptor]:
    items = document.get(key)
    if items is None and key == "layers":
        return
    if not isinstance(items, list):
        raise InvalidArgument(f"{what}: {key} is not a list")
    for index, item in enumerate(items):
        yield _descriptor(item, f"{what}: {key} {index}")


def _descriptor(item: object, what: str) -> _Descriptor:
    if not isinstance(item, dict):
        raise InvalidArgument(f"{what} is not a descriptor")
    media_type, digest, size = item.get("mediaType"), item.get("digest"), item.get("size")
    if not isinstance(media_type, str) or not isinstance(digest, str):
        raise InvalidArgument(f"{what}: mediaType or digest is missing")
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise InvalidArgument(f"{what}: size {size!r:.40} is not a number of bytes")
    annotations = item.get("annotations")
    platform = item.get("platform")
    return _Descriptor(
        media_type,
        parse_digest(digest),
        size,
        {key: value for key, value in annotations.items() if isinstance(value, str)}
        if isinstance(annotations, dict)
        else {},
        Platform(*(str(platform.get(key) or "") for key in ("os", "architecture", "variant")))
        if isinstance(platform, dict)
        else None,
    )

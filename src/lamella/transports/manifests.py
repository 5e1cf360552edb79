"""Manifests and indexes as values: what they say, checked, whatever they were read from.

The type of a document comes from whoever led to it (a descriptor, a Content-Type), and the document may not say
otherwise.  What is not a Linux container image made of layers that can be fetched is refused here, before anybody asks
for a layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from lamella.changeset.compression import Compression
from lamella.errors import InvalidArgument, Unsupported
from lamella.model.digest import Digest, digest_of, parse_digest
from lamella.model.documents import CONFIG_LIMIT, MANIFEST_LIMIT, decode_object
from lamella.model.gojson import encode
from lamella.model.platform import Platform, host_platform

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"

NESTING = 4
INDEX_TYPES = frozenset({OCI_INDEX, DOCKER_LIST})
MANIFEST_TYPES = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
CONFIG_TYPES = frozenset({OCI_CONFIG, DOCKER_CONFIG})
FOREIGN_TYPES = frozenset({
    "application/vnd.oci.image.layer.nondistributable.v1.tar",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
    "application/vnd.docker.image.rootfs.foreign.diff.tar",
    "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
})  # fmt: skip
LAYER_TYPES = frozenset({
    *(OCI_LAYER + packed for packed in ("", "+gzip", "+zstd")),
    *(DOCKER_LAYER + packed for packed in ("", ".gzip", ".zstd")),
})  # fmt: skip
_DOCKER_SUFFIX = {Compression.NONE: "", Compression.GZIP: ".gzip"}
_OCI_SUFFIX = {Compression.NONE: "", Compression.GZIP: "+gzip", Compression.ZSTD: "+zstd"}
_AS_OCI = {
    DOCKER_LIST: OCI_INDEX,
    DOCKER_MANIFEST: OCI_MANIFEST,
    DOCKER_CONFIG: OCI_CONFIG,
    DOCKER_LAYER: OCI_LAYER,
    f"{DOCKER_LAYER}.gzip": f"{OCI_LAYER}+gzip",
    f"{DOCKER_LAYER}.zstd": f"{OCI_LAYER}+zstd",
    "application/vnd.docker.image.rootfs.foreign.diff.tar": "application/vnd.oci.image.layer.nondistributable.v1.tar",
    "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip": (
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
    ),
}
_SCHEMA1 = "application/vnd.docker.distribution.manifest.v1+"


class Descriptor(NamedTuple):
    """What one document says of another, or of a blob."""

    media_type: str
    digest: Digest
    size: int
    annotations: Mapping[str, str] = {}
    platform: Platform | None = None

    def document(self) -> dict[str, object]:
        """Return the three fields that every descriptor has, in their usual order."""
        return {"mediaType": self.media_type, "size": self.size, "digest": self.digest}


class Manifest(NamedTuple):
    """An image manifest: its config and layers, base first."""

    config: Descriptor
    layers: tuple[Descriptor, ...]


def parse_document(raw: bytes, what: str, media_type: str | None) -> dict[str, object]:
    """Decode a manifest or index that must be of *media_type*, if that is known."""
    document = decode_object(raw, limit=MANIFEST_LIMIT, what=what)
    if "manifests" in document and "layers" in document:
        raise InvalidArgument(f"{what}: both an index and a manifest")
    stated = document.get("mediaType")
    if stated is not None and media_type is not None and stated != media_type:
        raise InvalidArgument(f"{what}: says it is {stated!r:.100}, its descriptor says {media_type}")
    return document


def document_type(raw: bytes, what: str, given: str | None) -> str:
    """Tell which of the four types a document is; *given* is its Content-Type, if any.

    Raises Unsupported for schema 1 and for what is neither a manifest nor an index.
    """
    given = given.partition(";")[0].strip().lower() if given else ""
    if given in INDEX_TYPES or given in MANIFEST_TYPES:
        return given
    if given.startswith(_SCHEMA1):
        raise schema1(what)
    document = decode_object(raw, limit=MANIFEST_LIMIT, what=what)
    if document.get("schemaVersion") == 1:
        raise schema1(what)
    stated = document.get("mediaType")
    if isinstance(stated, str) and (stated in INDEX_TYPES or stated in MANIFEST_TYPES):
        return stated
    if given in {"", "application/json", "application/octet-stream", "text/plain"} and stated is None:
        # OCI documents need not say what they are, and plain file servers do not know.
        if isinstance(document.get("manifests"), list):
            return OCI_INDEX
        if isinstance(document.get("config"), dict):
            return OCI_MANIFEST
    raise Unsupported(f"{what}: {(given or str(stated))!r:.100} is neither an image manifest nor an index")


def schema1(what: str) -> Unsupported:
    """Make the refusal of a manifest as registries had them before 2016."""
    return Unsupported(
        f"{what} is a manifest of schema 1, which is no longer supported; push the image again with a newer client"
    )


def parse_manifest(raw: bytes, what: str, media_type: str | None) -> Manifest:
    """Parse an image manifest.  Raises Unsupported for artifacts, foreign layers and layers of unknown kinds."""
    document = parse_document(raw, what, media_type)
    if document.get("schemaVersion") == 1:
        raise schema1(what)
    config = parse_descriptor(document.get("config"), f"{what}: config")
    if config.media_type not in CONFIG_TYPES:
        raise Unsupported(f"{what} has unsupported media type {config.media_type!r:.100}, not of a container image")
    if config.size > CONFIG_LIMIT:
        raise InvalidArgument(f"{what}: its config of {config.size} bytes is larger than {CONFIG_LIMIT} bytes")
    layers = tuple(parse_descriptors(document, "layers", what))
    return Manifest(config, layers)


def check_layer(layer: Descriptor, what: str, *, foreign: bool = False) -> None:
    """Refuse a layer that cannot be unpacked, and unless *foreign* one that a registry does not hand out."""
    if layer.media_type in FOREIGN_TYPES:
        if foreign:
            return
        raise Unsupported(
            f"{what}: layer {layer.digest} is foreign ({layer.media_type}): registries do not hold such layers"
        )
    if layer.media_type not in LAYER_TYPES:
        raise Unsupported(f"{what}: layers of {layer.media_type!r:.100} cannot be unpacked")


def parse_index(raw: bytes, what: str, media_type: str | None) -> list[Descriptor]:
    """Parse an index into the descriptors of its manifests, attestations left out."""
    document = parse_document(raw, what, media_type)
    return [item for item in parse_descriptors(document, "manifests", what) if not is_attestation(item)]


def choose_manifest(
    top: Descriptor,
    read: Callable[[Descriptor], bytes],
    wanted: Platform,
    *,
    others: list[str],
    strict: bool,
    what: str,
) -> Descriptor | None:
    """Follow indexes from *top* to the manifest for a platform, or None; *others* collects the platforms passed over.

    With *strict* a lone manifest must be for the platform, too.
    """
    return _choose(top, read, wanted, 1, others, strict=strict, what=what)


def _choose(
    descriptor: Descriptor,
    read: Callable[[Descriptor], bytes],
    wanted: Platform,
    depth: int,
    others: list[str],
    *,
    strict: bool,
    what: str,
) -> Descriptor | None:
    if descriptor.media_type in MANIFEST_TYPES:
        if strict and descriptor.platform is not None and not fits(descriptor.platform, wanted):
            others.append(str(descriptor.platform))
            return None
        return descriptor
    if descriptor.media_type not in INDEX_TYPES:
        if depth > 1:
            return None  # something else that travels with the images
        raise Unsupported(f"{what}: {descriptor.media_type!r:.100} is neither an image nor an index")
    if depth > NESTING:
        raise InvalidArgument(f"{what}: indexes are nested deeper than {NESTING}")
    for item in by_closeness(parse_index(read(descriptor), descriptor.digest, descriptor.media_type), wanted):
        found = _choose(item, read, wanted, depth + 1, others, strict=True, what=what)
        if found is not None:
            return found
    return None


def by_closeness(items: Sequence[Descriptor], wanted: Platform) -> list[Descriptor]:
    """Sort an index's entries: an exact variant first, then what fits, each in the order of the index."""
    return sorted(items, key=lambda item: item.platform is None or item.platform.variant != wanted.variant)


def fits(platform: Platform, wanted: Platform) -> bool:
    """Tell whether what is made for *platform* runs where *wanted* does."""
    return (platform.os, platform.architecture) == (wanted.os, wanted.architecture) and (
        not wanted.variant or not platform.variant or platform.variant <= wanted.variant
    )


def is_attestation(descriptor: Descriptor) -> bool:
    """Tell whether an index's entry only says something about another one."""
    return descriptor.annotations.get("vnd.docker.reference.type") == "attestation-manifest" or (
        descriptor.platform is not None and descriptor.platform.os == "unknown"
    )


def parse_descriptors(document: Mapping[str, object], key: str, what: str) -> Iterator[Descriptor]:
    """Yield the descriptors in a document's list *key*."""
    items = document.get(key)
    if items is None and key == "layers":
        return
    if not isinstance(items, list):
        raise InvalidArgument(f"{what}: {key} is not a list")
    for index, item in enumerate(items):
        yield parse_descriptor(item, f"{what}: {key} {index}")


def parse_descriptor(item: object, what: str) -> Descriptor:
    """Check one descriptor's shape."""
    if not isinstance(item, dict):
        raise InvalidArgument(f"{what} is not a descriptor")
    media_type, digest, size = item.get("mediaType"), item.get("digest"), item.get("size")
    if not isinstance(media_type, str) or not isinstance(digest, str):
        raise InvalidArgument(f"{what}: mediaType or digest is missing")
    if not isinstance(size, int) or isinstance(size, bool) or size < 0 or size >= 1 << 63:
        raise InvalidArgument(f"{what}: size {size!r:.40} is not a number of bytes")
    annotations = item.get("annotations")
    platform = item.get("platform")
    return Descriptor(
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


def make_manifest(config: Digest, size: int, layers: list[Descriptor]) -> tuple[bytes, str]:
    """Make a manifest: Docker's schema 2 where it has names for all layers, as ``docker push`` does, else OCI's."""
    docker = all(layer.media_type.startswith(DOCKER_LAYER) for layer in layers)
    media_type = DOCKER_MANIFEST if docker else OCI_MANIFEST
    named = [
        layer if docker else layer._replace(media_type=OCI_LAYER + _OCI_SUFFIX[packing_of(layer.media_type)])
        for layer in layers
    ]
    document = {
        "schemaVersion": 2,
        "mediaType": media_type,
        "config": Descriptor(DOCKER_CONFIG if docker else OCI_CONFIG, config, size).document(),
        "layers": [layer.document() for layer in named],
    }
    return encode(document), media_type


def make_index(manifests: Sequence[Descriptor]) -> tuple[bytes, str]:
    """Make an index of manifests for a platform each: Docker's list if they all are Docker's, else OCI's."""
    docker = all(manifest.media_type == DOCKER_MANIFEST for manifest in manifests)
    media_type = DOCKER_LIST if docker else OCI_INDEX
    listed = []
    for manifest in manifests:
        fields = (manifest.platform or host_platform())._asdict()
        order = ("architecture", "os", "variant")
        listed.append({**manifest.document(), "platform": {key: fields[key] for key in order if fields[key]}})
    return encode({"schemaVersion": 2, "mediaType": media_type, "manifests": listed}), media_type


def packing_of(media_type: str) -> Compression:
    """Tell from a layer's media type how it is packed."""
    if media_type.endswith("gzip"):
        return Compression.GZIP
    return Compression.ZSTD if media_type.endswith("zstd") else Compression.NONE


def layer_type(compression: Compression) -> str:
    """Return the media type of a layer to be pushed: Docker's name if it has one."""
    if compression in _DOCKER_SUFFIX:
        return DOCKER_LAYER + _DOCKER_SUFFIX[compression]
    return OCI_LAYER + _OCI_SUFFIX[compression]


def translate_to_oci(
    raw: bytes, media_type: str, what: str, renamed: Mapping[Digest, tuple[bytes, str]]
) -> tuple[bytes, str]:
    """Put a document of Docker's into OCI's words; *renamed* says what became of those that an index names.

    OCI's own pass unchanged, byte for byte, unless a document they name did not.
    """
    document = parse_document(raw, what, media_type)
    changed = media_type in _AS_OCI
    document["mediaType"] = _AS_OCI.get(media_type, media_type)
    for key in ("config", "layers", "manifests"):
        part = document.get(key)
        for item in part if isinstance(part, list) else [part]:
            if not isinstance(item, dict):
                continue
            new = renamed.get(item.get("digest"))  # type: ignore[arg-type]  # any value may be looked up
            if new is not None and key == "manifests":
                changed = changed or digest_of(new[0]) != item["digest"]
                item.update({"mediaType": new[1], "digest": digest_of(new[0]), "size": len(new[0])})
            elif (stated := item.get("mediaType")) in _AS_OCI:
                item["mediaType"] = _AS_OCI[str(stated)]
                changed = True
    return (encode(document), str(document["mediaType"])) if changed else (raw, media_type)

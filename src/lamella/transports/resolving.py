"""From a reference to one image's manifest and config, all that is to be known before any layer is asked for.

What fits no platform, is no image, or has layers that cannot be fetched ends here.  Every document is held against the
digest and the size that led to it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import BinaryIO, Protocol

from lamella.errors import DataLoss, DigestMismatch, InvalidArgument, NotFound
from lamella.model.digest import Digest, digest_of
from lamella.model.documents import CONFIG_LIMIT, MANIFEST_LIMIT
from lamella.model.platform import Platform, host_platform
from lamella.model.reference import DEFAULT_TAG, Reference
from lamella.transports.manifests import (
    Descriptor,
    Manifest,
    check_layer,
    choose_manifest,
    document_type,
    parse_manifest,
)
from lamella.transports.plans import ImagePlan, LayerSource, plan_image


class Served(Protocol):
    """A document as a repository served it."""

    @property
    def raw(self) -> bytes:
        """Its exact bytes."""
        ...

    @property
    def media_type(self) -> str:
        """What the server says it is."""
        ...

    @property
    def digest(self) -> Digest:
        """The digest of the bytes."""
        ...


class Repository(Protocol):
    """What a pull asks of a registry; each call verifies what it returns, and may be made by several threads."""

    def get_manifest(self, tag_or_digest: str) -> Served:
        """Fetch a manifest or index."""
        ...

    def read_blob(self, digest: Digest, *, size: int, sink: Callable[[bytes], object], offset: int = 0) -> int:
        """Fetch a blob from *offset* on, in order, going on by itself where a connection breaks."""
        ...


def resolve(repository: Repository, reference: Reference, platform: Platform | None) -> tuple[bytes, Manifest, Digest]:
    """Find the manifest for a platform; return its bytes, what they say, and the digest *reference* was served under.

    Raises NotFound if nothing fits the platform, Unsupported for what is no image of fetchable layers.
    """
    served = repository.get_manifest(str(reference.digest or reference.tag or DEFAULT_TAG))
    if (actual := digest_of(served.raw)) != (reference.digest or served.digest):
        raise DigestMismatch(f"manifest {reference.familiar()}", reference.digest or served.digest, actual)
    raw, manifest = find_manifest(repository, reference, served, platform)
    return raw, manifest, actual


def fetch_plan(
    repository: Repository, reference: Reference, manifest: Manifest, platform: Platform | None
) -> ImagePlan:
    """Fetch an image's config and check it against its manifest and the platform that was asked for."""
    config = fetch_small(repository, manifest.config, CONFIG_LIMIT, "config")
    plan = plan_image(
        config, tuple(LayerSource(_never, layer.digest, layer.size) for layer in manifest.layers), (reference,)
    )
    if platform is not None and plan.config.architecture and not _made_for(plan, platform):
        raise NotFound(
            f"image {reference.familiar()} was found but is for {plan.config.os or 'linux'}/{plan.config.architecture},"
            f" not for {platform}"
        )
    return plan


def find_manifest(
    repository: Repository, reference: Reference, served: Served, platform: Platform | None
) -> tuple[bytes, Manifest]:
    """Follow what was served to the manifest for a platform; every layer in it is one that can be fetched."""
    what = f"manifest of {reference.familiar()}"
    top = Descriptor(document_type(served.raw, what, served.media_type), digest_of(served.raw), len(served.raw))
    found: dict[str, bytes] = {top.digest: served.raw}

    def read(descriptor: Descriptor) -> bytes:
        if descriptor.digest not in found:
            if descriptor.size > MANIFEST_LIMIT:
                raise InvalidArgument(f"manifest {descriptor.digest} is larger than {MANIFEST_LIMIT} bytes")
            answer = repository.get_manifest(descriptor.digest)
            if (actual := digest_of(answer.raw)) != descriptor.digest:
                raise DigestMismatch("manifest", descriptor.digest, actual)
            if len(answer.raw) != descriptor.size:
                raise DataLoss(
                    f"manifest {descriptor.digest} has {len(answer.raw)} bytes, its descriptor says {descriptor.size}"
                )
            found[descriptor.digest] = answer.raw
        return found[descriptor.digest]

    others: list[str] = []
    chosen = choose_manifest(top, read, platform or host_platform(), others=others, strict=False, what=what)
    if chosen is None:
        has = f"; it has {', '.join(sorted(set(others)))}" if others else ""
        raise NotFound(
            f"no matching manifest for {platform or host_platform()} in the manifest list entries of"
            f" {reference.familiar()}{has}"
        )
    raw = read(chosen)
    manifest = parse_manifest(raw, f"manifest {chosen.digest}", chosen.media_type)
    for layer in manifest.layers:
        check_layer(layer, f"manifest {chosen.digest}")
    return raw, manifest


def fetch_small(repository: Repository, descriptor: Descriptor, limit: int, what: str) -> bytes:
    """Fetch a small blob into memory, checked against its descriptor."""
    if descriptor.size > limit:
        raise InvalidArgument(f"{what} {descriptor.digest} is larger than {limit} bytes")
    content = bytearray()

    def take(chunk: bytes) -> None:
        content.extend(chunk)
        if len(content) > descriptor.size:
            raise DataLoss(f"{what} {descriptor.digest} is longer than the {descriptor.size} bytes it should have")

    repository.read_blob(descriptor.digest, size=descriptor.size, sink=take)
    if (actual := digest_of(content)) != descriptor.digest:
        raise DigestMismatch(what, descriptor.digest, actual)
    return bytes(content)


def _made_for(plan: ImagePlan, platform: Platform) -> bool:
    return (plan.config.os or "linux", plan.config.architecture) == (platform.os, platform.architecture) and (
        not platform.variant or not plan.config.variant or plan.config.variant == platform.variant
    )


def _never() -> BinaryIO:
    raise AssertionError("a pull reads its layers by their descriptors")

"""containerd's content store: blobs under their digests, and the way from an image's target to its config."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from lamella.errors import DataLoss, DigestMismatch, InvalidArgument
from lamella.model.digest import ImageID, digest_of, hex_of, parse_digest
from lamella.model.documents import CONFIG_LIMIT, MANIFEST_LIMIT, decode_object
from lamella.model.imageconfig import ImageConfig, decode_image_config
from lamella.model.platform import host_platform
from lamella.readers.common import Json
from lamella.store.smallfiles import find_small, is_directory

_CONFIG_TYPES = frozenset({
    "", "application/vnd.docker.container.image.v1+json", "application/vnd.oci.image.config.v1+json",
})  # fmt: skip
#: An index may lead to an index; no tool makes more of them.
_DEPTH = 3


class Resolved(NamedTuple):
    """An image's target followed to its config."""

    id: ImageID
    target: str
    manifest: bytes
    config: ImageConfig
    raw: bytes
    layers: tuple[str, ...]
    """The digests of the layers' blobs, base first."""


class Content:
    """The directory ``blobs/sha256``."""

    def __init__(self, directory: Path, problems: list[str]) -> None:
        self.directory = directory
        self._problems = problems
        self._usable = (
            is_directory(directory.parent.parent) and is_directory(directory.parent) and is_directory(directory)
        )

    def find(self, digest: str) -> Path | None:
        """Return where a blob is, if it is there and a file of the store's own."""
        try:
            path = self.directory / hex_of(parse_digest(digest))
        except InvalidArgument:
            return None
        return path if self._usable and path.is_file() and not path.is_symlink() else None

    def resolve(self, target: str) -> Resolved | None:
        """Follow an image's target to the config of the platform nearest to this machine's.

        None if it is no image, or only an index of what was never fetched.  Raises DataLoss for what is missing or
        damaged, InvalidArgument for what is malformed.
        """
        found = self._follow(target, target, 0)
        if isinstance(found, DataLoss):
            raise found
        return found

    def _follow(self, digest: str, target: str, depth: int) -> Resolved | DataLoss | None:
        raw = self._read(digest, MANIFEST_LIMIT)
        if raw is None:
            return DataLoss(f"its manifest {digest[:80]} is missing; pull the image again")
        document = Json(decode_object(raw, limit=MANIFEST_LIMIT, what=f"manifest {digest}"))
        if "manifests" in document.raw:
            if depth >= _DEPTH:
                raise InvalidArgument(f"index {digest} leads to an index too often")
            candidates = sorted(document.children("manifests"), key=_distance)
            for candidate in candidates:
                if candidate.child("platform").text("os") == "unknown":  # a builder's attestation
                    continue
                found = self._follow(candidate.text("digest"), target, depth + 1)
                if isinstance(found, Resolved):
                    return found
            return None
        config = document.child("config")
        if config.text("mediaType") not in _CONFIG_TYPES or not config.text("digest"):
            return None
        raw_config = self._read(config.text("digest"), CONFIG_LIMIT)
        if raw_config is None:
            return DataLoss(f"its config {config.text('digest')[:80]} is missing; pull the image again")
        return Resolved(
            id=ImageID(digest_of(raw_config)),
            target=target,
            manifest=raw,
            config=decode_image_config(raw_config),
            raw=raw_config,
            layers=tuple(layer.text("digest") for layer in document.children("layers")),
        )

    def _read(self, digest: str, limit: int) -> bytes | None:
        path = self.find(digest)
        raw = None if path is None else find_small(path, limit)
        if raw is not None and digest_of(raw) != digest:
            raise DigestMismatch(f"blob {path}", digest, digest_of(raw))
        return raw


def _distance(descriptor: Json) -> int:
    """Tell how far a platform is from this machine's: 0 is it."""
    host, platform = host_platform(), descriptor.child("platform")
    if platform.text("os") != host.os:
        return 3
    if platform.text("architecture") != host.architecture:
        return 2
    return 0 if platform.text("variant") in (host.variant, "") else 1

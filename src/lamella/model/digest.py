"""Digests and the names computed from them: diff IDs, chain IDs, image IDs.

Only sha256 exists here, because Docker's store is keyed by nothing else.  Reading the bytes to be hashed is the
business of the callers.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import NewType

from lamella.errors import InvalidArgument

Digest = NewType("Digest", str)
"""``sha256:`` and 64 lower-case hexadecimal digits."""
DiffID = NewType("DiffID", Digest)
"""Digest of a layer's uncompressed tar."""
ChainID = NewType("ChainID", Digest)
"""Names a layer together with all below it."""
ImageID = NewType("ImageID", Digest)
"""Digest of an image config's exact bytes."""

PREFIX = "sha256:"
_HEX = frozenset("0123456789abcdef")

EMPTY_LAYER = DiffID(Digest("sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef"))
"""Diff ID of the empty tar, 1024 zero bytes."""


def is_hex64(text: str) -> bool:
    """Tell whether *text* is 64 lower-case hexadecimal digits."""
    return len(text) == 64 and _HEX.issuperset(text)


def parse_digest(text: str) -> Digest:
    """Parse ``sha256:<64 hex>``; nothing else, not even white space around it, is a digest."""
    algorithm, colon, digits = text.partition(":")
    if not colon or not algorithm:
        raise InvalidArgument(f"invalid checksum digest format: {_shown(text)}")
    if algorithm != "sha256":
        raise InvalidArgument(f"unsupported digest algorithm: {_shown(text)}")
    if len(digits) != 64:
        raise InvalidArgument(f"invalid checksum digest length: {_shown(text)}")
    if not _HEX.issuperset(digits):
        raise InvalidArgument(f"invalid checksum digest format: {_shown(text)}")
    return Digest(text)


def _shown(text: str) -> str:
    return repr(text if len(text) <= 100 else text[:100] + "…")


def digest_of(content: bytes | bytearray | memoryview) -> Digest:
    """Hash *content*."""
    from hashlib import sha256

    return Digest(PREFIX + sha256(content).hexdigest())


def hex_of(digest: str) -> str:
    """Return the 64 digits of *digest*: its file name in the store."""
    return digest.removeprefix(PREFIX)


@lru_cache(1 << 16)  # a store's images share most of their layers
def chain_id(parent: ChainID | None, diff: DiffID) -> ChainID:
    """Name the layer *diff* on top of *parent* (OCI image-spec, ChainID)."""
    if parent is None:
        return ChainID(diff)
    return ChainID(digest_of(f"{parent} {diff}".encode("ascii")))


def chain_ids(diffs: Iterable[DiffID]) -> list[ChainID]:
    """Name every layer of a stack given base first."""
    chains: list[ChainID] = []
    parent: ChainID | None = None
    for diff in diffs:
        parent = chain_id(parent, diff)
        chains.append(parent)
    return chains

"""How much a layer may ask for before it is refused.

Numbers, and the check of free space; the readers and the writer in this package enforce the others.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from lamella.errors import Unavailable

#: How many bytes are written between two looks at the free space.
SPACE_EVERY: Final = 64 << 20


class Limits(NamedTuple):
    """Bounds on one layer; every default is far above what real images hold."""

    layer_bytes: int = 64 << 30
    """Bytes of the uncompressed archive, and the sum of the sizes of the files it makes (holes counted)."""

    entries: int = 10_000_000
    extended_header: int = 1 << 20
    """Bytes of one PAX record set or GNU long name."""

    sparse_regions: int = 65_536
    window: int = 128 << 20
    """Largest zstd window, and memory an xz stream may ask for."""

    reserve_share: int = 20
    """Keep one part in this many of the file system free …"""

    reserve_bytes: int = 1 << 30
    """… or this much, whichever is less."""


DEFAULT_LIMITS = Limits()


def require_space(fd: int, limits: Limits = DEFAULT_LIMITS) -> None:
    """Raise Unavailable if the file system that *fd* lies on is nearly full: what is unpacked may have no end."""
    space = os.fstatvfs(fd)
    floor = min(space.f_blocks * space.f_frsize // limits.reserve_share, limits.reserve_bytes)
    if space.f_bavail * space.f_frsize < floor:
        raise Unavailable("the store's file system is nearly full: remove images with `lamella image prune`")


def within_space(pieces: Iterable[bytes], fd: int, limits: Limits = DEFAULT_LIMITS) -> Iterator[bytes]:
    """Pass on what is to be written to the file system of *fd*, looking at its free space now and then."""
    left = 0
    for piece in pieces:
        if left <= 0:
            require_space(fd, limits)
            left = SPACE_EVERY
        left -= len(piece)
        yield piece

"""How much a layer may ask for before it is refused.

Plain numbers; the readers and the writer in this package enforce them.
"""

from __future__ import annotations

from typing import NamedTuple


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

"""What an archive offers, as values: the formats make plans, ``loading`` carries them out."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any, BinaryIO, NamedTuple

from lamella.changeset.verify import VerifiedReader
from lamella.errors import InvalidArgument, Unsupported
from lamella.model.digest import Digest, ImageID, digest_of
from lamella.model.imageconfig import ImageConfig, decode_image_config
from lamella.model.reference import Reference

#: Docker registers 125 layers; two more belong to a container.
MOST_LAYERS = 125


class LayerSource(NamedTuple):
    """Where the bytes of one layer are; ``digest`` and ``size`` are what a descriptor promises of them."""

    open: Callable[[], BinaryIO]
    digest: Digest | None = None
    size: int | None = None


class ImagePlan(NamedTuple):
    """One image to be loaded."""

    id: ImageID
    raw: bytes
    config: ImageConfig
    layers: tuple[LayerSource, ...]
    references: tuple[Reference, ...]
    parent: ImageID | None = None


def plan_image(
    raw: bytes, layers: tuple[LayerSource, ...], references: tuple[Reference, ...], *, parent: ImageID | None = None
) -> ImagePlan:
    """Check that a config and its layers go together.  Raises InvalidArgument, or Unsupported for another system."""
    config = decode_image_config(raw)
    image_id = ImageID(digest_of(raw))
    if config.os not in {"", "linux"}:
        raise Unsupported(f"image {image_id} is for {config.os}; this store holds Linux images")
    if len(layers) != len(config.diff_ids):
        raise InvalidArgument(
            f"invalid manifest, layers length mismatch: expected {len(config.diff_ids)}, got {len(layers)}"
        )
    if len(layers) > MOST_LAYERS:
        raise InvalidArgument(f"image {image_id}: max depth exceeded ({len(layers)} layers, {MOST_LAYERS} allowed)")
    return ImagePlan(image_id, raw, config, layers, references, parent)


class LayerStream(io.RawIOBase):
    """A layer's bytes, opened at the first read: what is known already is never opened."""

    def __init__(self, source: LayerSource, what: str) -> None:
        self._source = source
        self._what = what
        self._file: BinaryIO | None = None
        self._stream: Any = None

    def readable(self) -> bool:  # type: ignore[explicit-override]
        """Say yes."""
        return True

    def read(self, size: int = -1, /) -> bytes:  # type: ignore[explicit-override]
        """Read at most ``size`` bytes without a copy."""
        data: bytes = self._opened().read(size)
        return data

    def readinto(self, buffer: Any, /) -> int:  # type: ignore[explicit-override]
        """Read, and verify what a descriptor promised."""
        count: int = self._opened().readinto(buffer)
        return count

    def _opened(self) -> Any:
        if self._stream is None:
            self._file = self._stream = self._source.open()
            if self._source.digest is not None:
                self._stream = VerifiedReader(self._file, self._source.digest, self._source.size, what=self._what)
        return self._stream

    def finish(self) -> None:
        """See that what was read was all, and right; to be called when the layer is made."""
        if isinstance(self._stream, VerifiedReader):
            self._stream.drain()

    def close(self) -> None:  # type: ignore[explicit-override]
        """Close what was opened."""
        if self._file is not None:
            self._file.close()
        super().close()

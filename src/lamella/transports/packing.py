"""Layers packed into nameless files: a registry and a tar want digest and size before the first byte."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, cast

from lamella.changeset.compression import Compression, open_compressed
from lamella.errors import Cancelled
from lamella.model.digest import Digest
from lamella.store.imagestore import ImageStore
from lamella.store.layerdb import Layer
from lamella.transports.archive import open_nameless

_CHUNK = 1 << 20
Sink = Callable[[bytes | memoryview], object]


class Packed:
    """What a function writes, packed: its bytes, their digest and size.  Nothing of it is left after a kill."""

    def __init__(self, directory: Path, compression: Compression, write: Callable[[Sink], object]) -> None:
        """Call *write* with a sink and pack what that gets, the same way each time."""
        checksum = hashlib.sha256()
        self.size = 0
        self.fd = open_nameless(directory)

        def keep(piece: bytes | memoryview) -> None:
            checksum.update(piece)
            view = memoryview(piece)
            self.size += len(view)
            while view:
                view = view[os.write(self.fd, view) :]

        gathered = _Gathered(keep)
        try:
            with open_compressed(cast("BinaryIO", gathered), compression) as packer:
                write(packer.write)
            gathered.flush()
        except BaseException:
            self.close()
            raise
        self.digest = Digest(f"sha256:{checksum.hexdigest()}")

    def chunks(self) -> Iterator[bytes]:
        """Yield the packed bytes from the start."""
        offset = 0
        while piece := os.pread(self.fd, _CHUNK, offset):
            offset += len(piece)
            yield piece

    def close(self) -> None:
        """Give the file back."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def pack_layer(
    store: ImageStore, layer: Layer, compression: Compression, *, stopped: Callable[[], bool] = lambda: False
) -> Packed:
    """Pack a layer of the store; ends with Cancelled once *stopped* says so.

    Raises DataLoss if the layer's files are not what they should be.
    """

    def write(sink: Sink) -> None:
        def put(piece: bytes | memoryview) -> None:
            if stopped():
                raise Cancelled("the transfer was given up")
            sink(piece)

        store.layers.reassemble(layer, put)

    return Packed(store.root.wip_dir, compression, write)


class _Gathered:
    """Collects small pieces into large ones: a compressor hands out many."""

    def __init__(self, keep: Callable[[bytes | memoryview], None]) -> None:
        self._keep = keep
        self._pending = bytearray()

    def write(self, piece: bytes | memoryview, /) -> int:
        if len(piece) >= _CHUNK and not self._pending:
            self._keep(piece)
        else:
            self._pending += piece
            if len(self._pending) >= _CHUNK:
                self.flush()
        return len(piece)

    def flush(self) -> None:
        if self._pending:
            pending, self._pending = self._pending, bytearray()
            self._keep(memoryview(pending))

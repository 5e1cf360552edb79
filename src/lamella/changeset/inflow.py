"""One pass over the bytes of a layer as they come: read, hash, unpack, hash again, hand on.

A thread of its own does it, in large pieces, so that reading, hashing and inflating (all of which release the
interpreter lock) run beside the applier.  A bounded queue keeps memory flat.
"""

from __future__ import annotations

import hashlib
import queue
import threading
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import BinaryIO, Final, Self

from lamella.changeset.compression import iter_decompressed
from lamella.changeset.limits import Limits
from lamella.errors import InvalidArgument
from lamella.model.digest import PREFIX, DiffID, Digest

_DEPTH: Final = 8
_UNAIDED: Final = 2
"""Pieces read before a thread is worth its start; most layers of a build have no more."""
_PATIENCE: Final = 5.0


class Inflow:
    """The unpacked bytes of one layer stream, and after their end what both forms hash to.

    `pull` raises in the caller's thread whatever went wrong in the reading one.  *advance* is called from `pull`
    with the number of packed bytes taken since the last call.
    """

    def __init__(self, stream: BinaryIO, limits: Limits, advance: Callable[[int], None] | None = None) -> None:
        self._stream = stream
        self._limits = limits
        self._advance = advance
        self._queue: queue.Queue[bytes | BaseException] = queue.Queue(_DEPTH)
        self._stopped = threading.Event()
        self._ended = False
        self._packed_hash = hashlib.sha256()
        self._plain_hash = hashlib.sha256()
        self._reported = 0
        self.length = 0
        """Packed bytes read so far."""
        self.plain_length = 0
        """Unpacked bytes so far; complete once `pull` has returned nothing."""
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        pieces = iter_decompressed(self._stream, observe=self._observe, limits=self._limits)
        if not self._run(pieces, _UNAIDED):
            return self
        self._thread = threading.Thread(target=self._run, args=(pieces,), name="layer-inflow", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        while self._thread is not None and self._thread.is_alive():
            try:
                self._queue.get_nowait()
            except queue.Empty:
                # It ends at its next piece; a stream that gives none is the caller's to close, not ours to wait for.
                self._thread.join(_PATIENCE if problem is not None else None)
                break

    def pull(self) -> bytes:
        """Return the next piece of unpacked bytes, ``b""`` for ever after the last."""
        if self._ended:
            return b""
        piece = self._queue.get()
        if self._advance is not None and self.length != self._reported:
            step = self.length - self._reported
            self._reported += step
            self._advance(step)
        if isinstance(piece, BaseException):
            self._ended = True
            raise piece
        self._ended = not piece
        return piece

    @property
    def ahead(self) -> bool:
        """Tell whether pieces come faster than they are pulled, so that no more can wait; true after the last, too."""
        return self._ended or self._queue.full()

    @property
    def digest(self) -> Digest:
        """Digest of the bytes as given; right once `pull` has returned nothing."""
        return Digest(PREFIX + self._packed_hash.hexdigest())

    @property
    def diff_id(self) -> DiffID:
        """Digest of the unpacked bytes; right once `pull` has returned nothing."""
        return DiffID(Digest(PREFIX + self._plain_hash.hexdigest()))

    def _observe(self, chunk: bytes) -> None:
        self.length += len(chunk)
        self._packed_hash.update(chunk)

    def _check_length(self) -> None:
        if self.plain_length > self._limits.layer_bytes:
            raise InvalidArgument(f"layer unpacks to more than the {self._limits.layer_bytes} bytes allowed")

    def _run(self, pieces: Iterator[bytes], count: int | None = None) -> bool:
        """Queue at most *count* pieces, or the end, or what went wrong; tell whether there may be more."""
        try:
            for number, piece in enumerate(pieces, 1):
                self._plain_hash.update(piece)
                self.plain_length += len(piece)
                self._check_length()
                self._queue.put(piece)
                if self._stopped.is_set():
                    return False
                if number == count:
                    return True
            self._queue.put(b"")
        except BaseException as problem:  # noqa: BLE001 — it is raised again where the caller can see it
            self._queue.put(problem)
        return False

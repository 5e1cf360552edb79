"""One blob by several ranges at a time, delivered in order.

A server, or the way to it, often gives each connection less than the network could carry.  Where ranges are honoured,
idle connections of a pull fetch the next pieces ahead; they wait in memory, a few of them at most, until their turn.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Final, Protocol, runtime_checkable

from lamella.errors import Cancelled
from lamella.model.digest import Digest
from lamella.transports.resolving import Repository

#: Blobs below this size are one request: asking again costs more than it brings.
LARGE: Final = 32 << 20
PIECE: Final = 4 << 20
_PAUSE: Final = 0.1


@runtime_checkable
class Ranged(Protocol):
    """A repository whose blobs can be read in parts."""

    def serves_ranges(self, digest: Digest, *, size: int) -> bool:
        """Tell whether parts of this blob can be had."""
        ...

    def read_blob(
        self, digest: Digest, *, size: int, sink: Callable[[bytes], object], offset: int = 0, end: int | None = None
    ) -> int:
        """Deliver the part from *offset* to before *end*."""
        ...


class Spare:
    """The connections that a pull may use and no layer of its own does."""

    def __init__(self, count: int) -> None:
        self._free = threading.Semaphore(count)

    def give(self) -> None:
        """Add one: a layer is done and no other waits."""
        self._free.release()

    def take(self) -> bool:
        """Take one for a moment, if there is one."""
        return self._free.acquire(blocking=False)


def read_in_order(
    repository: Repository,
    digest: Digest,
    size: int,
    sink: Callable[[bytes], object],
    *,
    offset: int = 0,
    spare: Spare,
    most: int,
) -> None:
    """Deliver a blob from *offset* on to *sink*, by up to *most* ranges at a time while *spare* has connections.

    Raises what the repository and the sink raise.  The caller hashes.
    """
    large = size - offset >= LARGE and most > 1
    if large and isinstance(repository, Ranged) and repository.serves_ranges(digest, size=size):
        _Ranges(repository, digest, size, sink, offset, spare, most).run()
    else:
        repository.read_blob(digest, size=size, sink=sink, offset=offset)


class _Ranges:
    def __init__(
        self,
        repository: Ranged,
        digest: Digest,
        size: int,
        sink: Callable[[bytes], object],
        offset: int,
        spare: Spare,
        most: int,
    ) -> None:
        self._repository = repository
        self._digest = digest
        self._size = size
        self._sink = sink
        self._spare = spare
        self._most = most
        self._change = threading.Condition()
        self._next = offset
        """Where the next piece to be fetched begins."""
        self._turn = offset
        """Where the next piece to be delivered begins."""
        self._pieces: dict[int, list[bytes]] = {}
        self._failure: BaseException | None = None
        self._ended = False

    def run(self) -> None:
        """Fetch and deliver in this thread, helped by others while there are connections to spare."""
        helpers = [
            threading.Thread(target=self._help, name=f"range-{number}", daemon=True) for number in range(self._most - 1)
        ]
        try:
            for helper in helpers:
                helper.start()
            while self._deliver():
                start = self._claim()
                if start is None:
                    with self._change:
                        if self._turn not in self._pieces and self._failure is None:
                            self._change.wait()
                elif start == self._turn:
                    # Its turn is now: nothing need wait in memory.
                    self._fetch(start, self._sink)
                    with self._change:
                        self._turn = self._end_of(start)
                        self._change.notify_all()
                else:
                    self._keep(start)
        finally:
            with self._change:
                self._ended = True
                self._change.notify_all()
            for helper in helpers:
                if helper.ident is not None:
                    helper.join()

    def _deliver(self) -> bool:
        """Pass on the pieces whose turn it is; tell whether any are left."""
        while True:
            with self._change:
                if self._failure is not None:
                    raise self._failure
                piece = self._pieces.pop(self._turn, None)
            if piece is None:
                return self._turn < self._size
            for chunk in piece:
                self._sink(chunk)
            with self._change:
                self._turn = self._end_of(self._turn)
                self._change.notify_all()

    def _claim(self) -> int | None:
        """Take the next piece to be fetched, unless it lies too far ahead of the one to be delivered."""
        with self._change:
            start = self._next
            if start >= self._size or start >= self._turn + self._most * PIECE:
                return None
            self._next = self._end_of(start)
            return start

    def _help(self) -> None:
        while not self._ended:
            if not self._spare.take():
                with self._change:
                    if not self._ended:
                        self._change.wait(_PAUSE)
                continue
            try:
                start = self._claim()
                if start is not None:
                    self._keep(start)
            finally:
                self._spare.give()
            if start is None:
                with self._change:
                    if self._next >= self._size:
                        return
                    if not self._ended:
                        self._change.wait(_PAUSE)

    def _keep(self, start: int) -> None:
        piece: list[bytes] = []

        def take(chunk: bytes) -> None:
            if self._ended:
                raise Cancelled("the pull was given up")
            piece.append(bytes(chunk))

        try:
            self._fetch(start, take)
        except BaseException as problem:  # noqa: BLE001 — raised again by the thread that delivers
            with self._change:
                self._failure = self._failure or problem
                self._change.notify_all()
            return
        with self._change:
            self._pieces[start] = piece
            self._change.notify_all()

    def _fetch(self, start: int, sink: Callable[[bytes], object]) -> None:
        read = partial(self._repository.read_blob, self._digest, size=self._size, sink=sink)
        read(offset=start, end=self._end_of(start))

    def _end_of(self, start: int) -> int:
        return min(start + PIECE, self._size)

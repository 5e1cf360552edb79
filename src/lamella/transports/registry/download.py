"""Blobs coming down: one stream of one answer, and the loop that makes a whole of many broken ones.

Nothing is hashed here: bytes are delivered in order, never one beyond the promised size, and the caller verifies them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from lamella.errors import DataLoss, LamellaError, Unavailable
from lamella.model.digest import Digest
from lamella.transports.registry.http import Answer, Fault
from lamella.transports.registry.session import Session

Sink: TypeAlias = Callable[[bytes], object]

_PIECE = 512 << 10
#: TLS hands out 16 KiB at a time; a consumer is not to be called for each.
_GATHERED = 128 << 10
#: What counts as progress after a failure; less would let a server keep us for ever, a byte a connection.
_PROGRESS = 32 << 10
_CONTENT_RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19}|\*)", re.ASCII)


class Part(NamedTuple):
    """Which bytes of which blob: from *offset* to before *end*, of *size* in all; None where nobody knows."""

    digest: Digest
    size: int | None
    offset: int = 0
    end: int | None = None

    @property
    def stop(self) -> int | None:
        """Where the part ends."""
        return self.size if self.end is None else self.end


class RangeRefused(Fault):
    """The server made nonsense of a Range; the whole blob is to be asked for."""


class SinkFailed(Exception):
    """Keeps what a sink raised apart from what the network did."""

    def __init__(self, problem: Exception) -> None:
        super().__init__()
        self.problem = problem


class BlobStream:
    """One answer with a part of a blob, read once from front to back.

    *start* is where it begins, which is 0 if the server did not honour the offset (*ranged* says).  *length* is the
    blob's size as far as anyone knows.
    """

    def __init__(self, answer: Answer, part: Part, where: str) -> None:
        self._answer = answer
        self._what = f"blob {part.digest} of {where}"
        self.ranged = answer.status == 206
        self.accepts_ranges = self.ranged or answer.header("Accept-Ranges").strip().lower() == "bytes"
        etag = answer.header("ETag")
        #: A validator for If-Range, if it is a strong one.
        self.etag = etag if etag.startswith('"') else ""
        self.start = 0
        self.length = part.size
        answer.refuse_encoding(self._what)
        if self.ranged:
            self._check_range(part)
            self.start = part.offset
        elif answer.length is not None:
            if part.size is not None and answer.length != part.size:
                raise DataLoss(f"{self._what} has {answer.length} bytes there, not the {part.size} it should have")
            self.length = answer.length
        self.position = self.start
        # A whole blob in place of a part is read to the part's end only; up to the blob's end it must end there.
        self._stop = part.stop if part.stop is not None else self.length
        self._ends = self.ranged or part.end is None or part.end == self.length

    def take(self, size: int) -> bytes:
        """Return what has come, at most *size* bytes; none at the end.  Raises Fault for a stream cut off before it."""
        if self._stop is not None and self.position >= self._stop:
            if self._ends and self._answer.read(1):
                raise DataLoss(f"{self._what} is longer than it should be")
            return b""
        wanted = size if self._stop is None else min(size, self._stop - self.position)
        data = self._answer.read(wanted)
        if not data and self._stop is not None:
            raise Fault(f"{self._what} was cut off at {self.position} of {self._stop} bytes")
        self.position += len(data)
        return data

    def read(self, size: int = -1, /) -> bytes:
        """Read *size* bytes, fewer only at the end.  Raises Unavailable; nothing is tried again."""
        found = bytearray()
        try:
            while size < 0 or len(found) < size:
                data = self.take(_PIECE if size < 0 else size - len(found))
                if not data:
                    break
                found += data
        except Fault as fault:
            raise Unavailable(str(fault)) from fault
        return bytes(found)

    def close(self) -> None:
        """Let go of the connection."""
        self._answer.close()

    def _check_range(self, part: Part) -> None:
        match = _CONTENT_RANGE.fullmatch(self._answer.header("Content-Range").strip())
        if match is None:
            raise RangeRefused(f"{self._what}: a part came without saying which")
        first, last = int(match[1]), int(match[2])
        total = None if match[3] == "*" else int(match[3])
        if total is not None and part.size is not None and total != part.size:
            raise RangeRefused(f"{self._what} has {total} bytes there, not the {part.size} it should have")
        if first != part.offset or last < first or (part.stop is not None and last + 1 != part.stop):
            raise RangeRefused(f"{self._what}: bytes {first}-{last} came, which are not those asked for")
        self.length = part.size if part.size is not None else total


def open_part(session: Session, part: Part, *, whole: bool = False, etag: str = "") -> BlobStream:
    """Ask once for *part*, or with *whole* for all of its blob.  Raises Fault for what another try may mend."""
    headers: dict[str, str] = {}
    if not whole and (part.offset or part.end is not None):
        headers["Range"] = f"bytes={part.offset}-{'' if part.end is None else part.end - 1}"
        if etag:
            headers["If-Range"] = etag
    answer = session.exchange("GET", session.location(f"blobs/{part.digest}"), headers=headers)
    try:
        _check_status(session, answer, part, ranged=bool(headers))
        return BlobStream(answer, part, session.where)
    except BaseException:
        answer.close()
        raise


def _check_status(session: Session, answer: Answer, part: Part, *, ranged: bool) -> None:
    if answer.status == 416 and ranged:
        raise RangeRefused(f"{session.where}: range refused for blob {part.digest}")
    if answer.status != 200 and not (ranged and answer.status == 206):
        raise session.error(answer, f"blob {part.digest}")


class Download:
    """A part of a blob on its way to a sink, however many answers and servers it takes."""

    def __init__(self, part: Part, sink: Sink) -> None:
        self._part = part
        self._sink = sink
        self._gathered: list[bytes] = []
        self._waiting = 0
        self.position = part.offset

    def run(self, session: Session) -> None:
        """Get from *session* what is still missing, going on where an answer broke off.

        Raises Unavailable when nothing more comes, and SinkFailed.
        """
        attempts = session.attempts()
        whole = False
        etag = ""
        while self._part.stop is None or self.position < self._part.stop or self._part.stop == self._part.offset:
            before = self.position
            try:
                stream = open_part(session, self._part._replace(offset=self.position), whole=whole, etag=etag)
            except RangeRefused as fault:
                whole = True
                attempts.failed(fault)
                continue
            except Fault as fault:
                attempts.failed(fault)
                continue
            try:
                etag = stream.etag
                failure = self._drain(stream)
            finally:
                stream.close()
            if failure is None:
                return
            if self.position - before >= _PROGRESS:
                attempts.progress()
            attempts.failed(failure)

    def _drain(self, stream: BlobStream) -> Fault | None:
        """Deliver what *stream* brings; return the fault that ended it early."""
        failure: Fault | None = None
        while True:
            try:
                data = stream.take(_PIECE)
            except Fault as fault:
                # With all bytes here it matters no more whether the answer ended well.
                failure = fault if self.position != self._part.stop else None
                break
            except LamellaError:
                # What came before a cancellation may be kept for a later try.
                self._flush()
                raise
            if not data:
                break
            new = stream.position - self.position
            if new > 0:
                self._deliver(data if new >= len(data) else data[-new:])
        self._flush()
        return failure

    def _deliver(self, data: bytes) -> None:
        self.position += len(data)
        if not self._gathered and len(data) >= _GATHERED:
            self._give(data)
            return
        self._gathered.append(data)
        self._waiting += len(data)
        if self._waiting >= _GATHERED:
            self._flush()

    def _flush(self) -> None:
        if self._gathered:
            data = self._gathered[0] if len(self._gathered) == 1 else b"".join(self._gathered)
            self._gathered.clear()
            self._waiting = 0
            self._give(data)

    def _give(self, data: bytes) -> None:
        try:
            self._sink(data)
        except Exception as problem:
            raise SinkFailed(problem) from problem

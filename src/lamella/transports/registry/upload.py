"""Blobs going up: begin, send, finish; in one request first, in chunks where that is asked for or fails.

The registry verifies the digest; that the bytes are as many as said is checked while they go.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from lamella.errors import DataLoss, InvalidArgument, LamellaError
from lamella.model.digest import Digest
from lamella.transports.registry.hosts import Location, parse_location
from lamella.transports.registry.http import Answer, Body, Fault
from lamella.transports.registry.session import Session

#: Above the 5 MiB that object stores want of a part.
CHUNK = 8 << 20
_LARGEST_CHUNK = 256 << 20
_RANGE = re.compile(r"(?:bytes=)?0-(\d{1,19})", re.ASCII)


def find_size(session: Session, digest: Digest) -> int | None:
    """Return the size of a blob the repository has, None if it has not."""

    def read(answer: Answer) -> int | None:
        return None if answer.status == 404 else answer.length or 0

    location = session.location(f"blobs/{digest}")
    return session.request("HEAD", location, read, what=f"blob {digest}", expected=frozenset({200, 404}))


def mount(session: Session, digest: Digest, source: str) -> bool:
    """Have the registry take the blob over from its repository *source*; tell whether it did."""
    location = session.location("blobs/uploads/").with_query(f"mount={digest}&from={source}")
    scopes = (*session.scopes, f"repository:{source}:pull")
    attempts = session.attempts()
    while True:
        try:
            with session.exchange("POST", location, scopes=scopes) as answer:
                if answer.status == 201:
                    answer.discard()
                    return True
                if answer.status == 202:
                    upload = _place(session, answer)
                    answer.discard()
                    _abandon(session, upload)
                    return False
                problem = session.error(answer, f"a mount of blob {digest}")
                if isinstance(problem, Fault):
                    raise problem
                # Whatever stands in the way of a mount, an upload goes another way and says so if it is barred too.
                return False
        except Fault as fault:
            attempts.failed(fault)


class Upload:
    """One blob on its way to a repository; *chunks* yields its bytes anew each time it is called."""

    def __init__(
        self, session: Session, digest: Digest, size: int, chunks: Callable[[], Iterator[bytes]], *, chunk: int = 0
    ) -> None:
        self._session = session
        self._digest = digest
        self._size = size
        self._chunks = chunks
        self._chunk = chunk
        self._what = f"an upload of blob {digest}"

    def run(self) -> None:
        """Send the blob, anew if it must be.  Raises what `chunks` raises as it is, DataLoss if the sizes differ."""
        attempts = self._session.attempts()
        while True:
            try:
                if self._chunk and self._size > self._chunk:
                    self._send_chunks()
                else:
                    self._send_whole()
            except _TooLarge:
                if self._chunk:
                    raise InvalidArgument(
                        f"{self._session.where} refused {self._what}: too large, in chunks of {self._chunk} bytes too"
                    ) from None
                self._chunk = CHUNK
            except Fault as fault:
                attempts.failed(fault)
                # Its confirmation may be all that was lost.
                if find_size(self._session, self._digest) == self._size:
                    return
                self._chunk = self._chunk or CHUNK
            else:
                return

    def _begin(self) -> Location:
        location = self._session.location("blobs/uploads/")
        with self._session.exchange("POST", location) as answer:
            if answer.status != 202:
                raise self._session.error(answer, self._what)
            place = _place(self._session, answer)
            least = answer.header("OCI-Chunk-Min-Length")
            if self._chunk and least.isascii() and least.isdigit():
                self._chunk = min(max(self._chunk, int(least[:12])), _LARGEST_CHUNK)
            answer.discard()
        return place

    def _send_whole(self) -> None:
        self._finish(self._begin(), Body(self._size, self._chunks))

    def _send_chunks(self) -> None:
        place = self._begin()
        try:
            sent = 0
            for chunk in _rechunked(self._chunks(), self._chunk):
                place = self._send_chunk(place, chunk, sent)
                sent += len(chunk)
            if sent != self._size:
                raise DataLoss(f"{self._what}: {sent} bytes were to be sent, not the {self._size} it should have")
            self._finish(place, Body.of(b""))
        except Fault:
            raise
        except LamellaError:
            _abandon(self._session, place)
            raise

    def _send_chunk(self, place: Location, chunk: bytes, start: int) -> Location:
        """Send one chunk, asking after a failure how much of it arrived."""
        attempts = self._session.attempts()
        done = 0
        while True:
            headers = {
                "Content-Type": "application/octet-stream",
                "Content-Range": f"{start + done}-{start + len(chunk) - 1}",
            }
            try:
                with self._session.exchange("PATCH", place, headers=headers, body=Body.of(chunk[done:])) as answer:
                    if answer.status in {202, 204}:
                        place = _place(self._session, answer, place)
                        answer.discard()
                        return place
                    self._refuse(answer)
            except Fault as fault:
                attempts.failed(fault)
                place, arrived = self._ask(place, fault)
                done = arrived - start
                if not 0 <= done <= len(chunk):
                    raise Fault(f"{self._session.where}: {self._what} went out of step") from fault
                if done == len(chunk):
                    return place

    def _ask(self, place: Location, fault: Fault) -> tuple[Location, int]:
        """Ask how far an upload got; one that is gone is begun anew by passing *fault* on."""
        with self._session.exchange("GET", place) as answer:
            if answer.status != 204:
                raise fault
            match = _RANGE.fullmatch(answer.header("Range").strip())
            if match is None:
                raise fault
            # "0-0" stands for nothing as well as for one byte; no chunk ends after one byte.
            last = int(match[1])
            return _place(self._session, answer, place), last + 1 if last else 0

    def _finish(self, place: Location, body: Body) -> None:
        headers = {"Content-Type": "application/octet-stream"} if body.size else {}
        last = place.with_query(f"digest={self._digest}")
        # The registry hashes and moves the blob before it answers.
        patience = self._session.settings.retry_time
        with self._session.exchange("PUT", last, headers=headers, body=body, patience=patience) as answer:
            if answer.status not in {201, 204}:
                self._refuse(answer)
            answer.discard()

    def _refuse(self, answer: Answer) -> None:
        if answer.status == 413:
            raise _TooLarge
        problem = self._session.error(answer, self._what)
        if answer.status in {404, 416}:
            # The upload expired or went out of step: to be begun anew.
            raise Fault(str(problem))
        raise problem


class _TooLarge(Exception):
    """The registry, or a proxy before it, takes no body of that size."""


def _place(session: Session, answer: Answer, before: Location | None = None) -> Location:
    """Return where an upload goes on.

    A registry behind a proxy that ends TLS often says ``http``: to the same host, its own scheme is meant.
    """
    text = answer.header("Location")
    if not text and before is not None:
        return before
    place = parse_location(text, base=answer.location, what=f"{session.where}: upload")
    own = session.root().origin
    if own.scheme == "https" and place.origin.scheme == "http":
        if place.origin.host != own.host:
            raise InvalidArgument(f"{session.where}: an upload led from https to {place.shown}, which is refused")
        return Location(own, place.target)
    return place


def _abandon(session: Session, place: Location) -> None:
    """Cancel an upload; one that cannot be is the registry's to clear away."""
    try:
        with session.exchange("DELETE", place) as answer:
            answer.discard()
    except LamellaError:
        return


def _rechunked(pieces: Iterator[bytes], size: int) -> Iterator[bytes]:
    """Cut *pieces* into chunks of *size* bytes, the last one shorter."""
    waiting = bytearray()
    for piece in pieces:
        waiting += piece
        while len(waiting) >= size:
            yield bytes(waiting[:size])
            del waiting[:size]
    if waiting:
        yield bytes(waiting)

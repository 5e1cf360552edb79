"""The connections beneath urllib3: bounded heads, a stall limit on every receive, and an end on demand.

http.client bounds a line and their number, not a head as a whole, and a socket's timeout restarts with every byte;
both are mended here, below buffering, so that heads, chunk sizes, trailers and bodies are all covered.
"""

from __future__ import annotations

import http.client
import io
import socket
import threading
import time
from typing import Any
from weakref import WeakSet

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError

HEAD_LIMIT = 64 << 10
#: Bytes per second below which a transfer counts as stalled.
SLOWEST = 1 << 10


class HeadTooLong(http.client.HTTPException):
    """More lines than any head, chunk size or trailer needs."""


class HandshakeFailed(OSError):
    """Connected, but no TLS came of it; the cause says why."""


class Wire:
    """Makes the connection classes of one transport and can cut all their sockets."""

    def __init__(self, stall_time: float) -> None:
        self._sockets: WeakSet[socket.socket] = WeakSet()
        self._lock = threading.Lock()
        wire = self

        class Response(_Response):
            window = stall_time

        class Plain(HTTPConnection):
            response_class = Response

            def connect(self) -> None:  # type: ignore[explicit-override]
                super().connect()
                wire.adopt(self.sock, stall_time)

        class Secure(HTTPSConnection):
            response_class = Response

            def connect(self) -> None:  # type: ignore[explicit-override]
                try:
                    super().connect()
                except HTTPError:
                    raise
                except OSError as problem:
                    raise HandshakeFailed(str(problem)) from problem
                # Whom to trust was decided by the context; urllib3 need not warn of it.
                self.is_verified = True
                wire.adopt(self.sock, stall_time)

        self.classes: dict[str, Any] = {"http": Plain, "https": Secure}

    def adopt(self, connected: Any, stall_time: float) -> None:
        """Take note of a new connection; sending is held to the stall limit, not to the time for connecting."""
        connected.settimeout(stall_time)
        with self._lock:
            self._sockets.add(connected)

    def cut(self) -> None:
        """End every transfer under way: its next or present receive fails."""
        with self._lock:
            sockets = list(self._sockets)
        for each in sockets:
            try:
                # The plain socket's way: SSLSocket.shutdown() would let a reader see undecrypted bytes.
                socket.socket.shutdown(each, socket.SHUT_RDWR)
            except OSError:
                continue


class _Paced(io.RawIOBase):
    """A socket's stream that gives up when it has waited *window* seconds for fewer than SLOWEST bytes a second.

    Only the time spent in receiving counts, not that of a slow consumer.
    """

    def __init__(self, raw: Any, window: float) -> None:
        self._raw = raw
        self._window = window
        self._waited = 0.0
        self._received = 0

    def readable(self) -> bool:  # type: ignore[explicit-override]
        """Say yes."""
        return True

    def readinto(self, buffer: Any, /) -> int | None:  # type: ignore[explicit-override]
        """Receive once."""
        started = time.monotonic()
        count: int | None = self._raw.readinto(buffer)
        self._waited += time.monotonic() - started
        self._received += count or 0
        if self._waited >= self._window:
            if self._received < SLOWEST * self._waited and count:
                raise TimeoutError(f"only {self._received} bytes came in {self._waited:.0f} s")
            self._waited = 0.0
            self._received = 0
        return count

    def close(self) -> None:  # type: ignore[explicit-override]
        """Close the socket's stream."""
        if not self.closed:
            self._raw.close()
        super().close()


class _Lines(io.BufferedReader):
    """Counts the bytes of lines since the last read of a body."""

    def __init__(self, raw: io.RawIOBase) -> None:
        super().__init__(raw, 16 << 10)
        self._lines = 0

    def readline(self, size: int | None = -1, /) -> bytes:  # type: ignore[explicit-override]
        """Read a line of a head, or raise HeadTooLong."""
        line = super().readline(-1 if size is None else size)
        self._lines += len(line)
        if self._lines > HEAD_LIMIT:
            raise HeadTooLong(f"more than {HEAD_LIMIT >> 10} KiB of headers")
        return line

    def read1(self, size: int = -1, /) -> bytes:  # type: ignore[explicit-override]
        """Read what is there; lines are counted anew only after as many bytes of body."""
        data = super().read1(size)
        self._lines = max(0, self._lines - len(data))
        return data


class _Response(http.client.HTTPResponse):
    """http.client's response over a paced stream of bounded lines."""

    window = 30.0

    def __init__(self, sock: socket.socket, *args: Any, **options: Any) -> None:
        super().__init__(sock, *args, **options)
        stream: Any = self.fp
        self.fp = _Lines(_Paced(stream.detach(), self.window))

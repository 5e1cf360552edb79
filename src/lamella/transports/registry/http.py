"""One exchange over HTTP: a request sent, a head received, a body to be read within bounds.

Pools, TLS and proxies are urllib3's; it follows no redirect and retries nothing, since credentials and transfers have
their own rules for that (``session``).
"""

from __future__ import annotations

import http.client
import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, NamedTuple, Self

import urllib3
from urllib3 import exceptions

from lamella.errors import Cancelled, DataLoss, InvalidArgument, Unavailable, Unsupported
from lamella.transports.registry.hosts import Endpoint, Location, Origin, find_proxy
from lamella.transports.registry.settings import RegistrySettings
from lamella.transports.registry.tls import Trust
from lamella.transports.registry.wire import HandshakeFailed, HeadTooLong, Wire

_NOT_IN_HEADER = re.compile(r"[^\x20-\x7e]")
_PIECE = 256 << 10


class Fault(Unavailable):
    """An exchange that came to nothing; with *retryable* another may not.

    *handshake* marks one that ended before TLS was up, *retry_after* is what the server asked for, in seconds.
    """

    def __init__(
        self,
        message: str,
        *,
        retryable: bool = True,
        handshake: bool = False,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.retryable = retryable
        self.handshake = handshake
        self.retry_after = retry_after


class Body(NamedTuple):
    """What a request sends: *size* bytes, produced anew for each try."""

    size: int
    pieces: Callable[[], Iterator[bytes]]

    @classmethod
    def of(cls, data: bytes) -> Self:
        """Send *data*."""
        return cls(len(data), lambda: iter((data,)))


class Answer:
    """A response whose head was received; to be closed."""

    def __init__(
        self, response: urllib3.BaseHTTPResponse, method: str, location: Location, transport: Transport
    ) -> None:
        self._response = response
        self._method = method
        self._transport = transport
        self.location = location
        self.status = response.status
        self.headers = response.headers

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def header(self, name: str) -> str:
        """Return a header's value, or nothing."""
        return str(self.headers.get(name, ""))

    @property
    def length(self) -> int | None:
        """What the head says of the body's length."""
        text = self.header("Content-Length")
        return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None

    def read(self, size: int) -> bytes:
        """Read some bytes of the body, at most *size*; none at its end.  Raises Fault, also for a body cut short."""
        try:
            return self._response.read1(size) or b""
        except (exceptions.HTTPError, http.client.HTTPException, OSError) as problem:
            raise self._transport.fault(problem, self.location) from problem

    def read_all(self, limit: int, what: str) -> bytes:
        """Read a body of at most *limit* bytes.  Raises InvalidArgument for a longer one, before it is read."""
        self.refuse_encoding(what)
        if self.length is not None and self.length > limit:
            raise InvalidArgument(f"{what}: {self.length} bytes is more than the {limit} allowed")
        found = bytearray()
        while data := self.read(min(_PIECE, limit + 1 - len(found))):
            found += data
            if len(found) > limit:
                raise InvalidArgument(f"{what}: more than the {limit} bytes allowed")
        return bytes(found)

    def refuse_encoding(self, what: str) -> None:
        """Raise InvalidArgument for a body compressed in transit: its digest would be of other bytes."""
        encoding = self.header("Content-Encoding").strip().lower()
        if encoding not in {"", "identity"}:
            raise InvalidArgument(f"{what}: sent with Content-Encoding {encoding[:40]!r}, which was not asked for")

    def close(self) -> None:
        """Give the connection back if the body was read or there is none, else close it."""
        if self._method == "HEAD" or self.length == 0:
            with suppress(Fault, Cancelled):
                self.read(1)
        self._response.close()

    def discard(self) -> None:
        """Read a short rest, so that the connection can be used again, and close."""
        try:
            if (self.length or 0) <= _PIECE and self.header("Transfer-Encoding") == "":
                self.read_all(_PIECE, "answer")
        except (Fault, InvalidArgument):
            pass
        finally:
            self.close()


class Transport:
    """Connections to one registry and to where it leads; thread-safe."""

    def __init__(self, endpoint: Endpoint, settings: RegistrySettings) -> None:
        self._settings = settings
        self.trust = Trust(endpoint, settings)
        self._wire = Wire(settings.stall_time)
        self._managers: dict[Origin, urllib3.PoolManager] = {}
        self._lock = threading.Lock()
        self.closed = threading.Event()

    def send(
        self,
        method: str,
        location: Location,
        headers: Mapping[str, str],
        body: Body | None = None,
        *,
        patience: float | None = None,
    ) -> Answer:
        """Send a request and return the answer's head.  Raises Fault, and Cancelled after `close`.

        *patience* is how long the answer may take to begin, if longer than the stall limit.
        """
        self._check_open()
        sent = {
            "User-Agent": self._settings.user_agent,
            "Accept-Encoding": "identity",
            **headers,
        }
        if body is not None:
            sent["Content-Length"] = str(body.size)
        for name, value in sent.items():
            if _NOT_IN_HEADER.search(value):
                raise InvalidArgument(f"{location.shown}: the value for header {name} is malformed")
        wait = max(self._settings.stall_time, patience or 0.0)
        proxied = find_proxy(location.origin, self._settings.proxies)
        pool = self._manager(location.origin, proxied).connection_from_host(
            location.origin.host, location.origin.port, location.origin.scheme
        )
        absolute = proxied is not None and location.origin.scheme == "http"
        source: Any = _Source(body, location.shown) if body is not None and body.size else None
        try:
            response = pool.urlopen(
                method,
                location.url if absolute else location.target,
                body=source,
                headers=sent,
                retries=False,
                redirect=False,
                assert_same_host=False,
                timeout=urllib3.Timeout(connect=self._settings.connect_time, read=wait),
                preload_content=False,
                decode_content=False,
            )
        except _SourceFailed as problem:
            raise problem.__cause__ or problem from None
        except (exceptions.HTTPError, http.client.HTTPException, OSError) as problem:
            raise self.fault(problem, location) from problem
        return Answer(response, method, location, self)

    def close(self) -> None:
        """Cut what is under way and close all connections."""
        self.closed.set()
        self._wire.cut()
        with self._lock:
            for manager in self._managers.values():
                manager.clear()

    def fault(self, problem: BaseException, location: Location) -> Fault:
        """Name what went wrong on the way to or from *location*.  Raises Cancelled if it was our doing."""
        self._check_open()
        cause = _innermost(problem)
        shown = location.origin.authority
        handshake = isinstance(cause, HandshakeFailed)
        if isinstance(cause, HandshakeFailed) and cause.__cause__ is not None:
            cause = cause.__cause__
        if isinstance(cause, ssl.SSLCertVerificationError):
            advice = self.trust.advice(location.origin)
            reason = f"its certificate is not trusted ({cause.verify_message}); {advice}"
            return Fault(f"{shown}: {reason}", retryable=False, handshake=True)
        if isinstance(cause, ssl.SSLError) and not isinstance(cause, (ssl.SSLEOFError, ssl.SSLZeroReturnError)):
            said = (cause.reason or str(cause)).replace("_", " ").lower()
            hint = "; if it speaks plain HTTP, name it insecure" if handshake and "version" in said else ""
            return Fault(f"{shown}: TLS failed ({said}){hint}", retryable=not handshake, handshake=handshake)
        if isinstance(cause, (HeadTooLong, exceptions.InvalidHeader, exceptions.LocationValueError)):
            return Fault(f"{shown}: its answer is malformed: {_line(cause)}", retryable=False)
        broken = isinstance(cause, http.client.HTTPException)
        if broken and not isinstance(cause, (http.client.RemoteDisconnected, http.client.IncompleteRead)):
            return Fault(f"{shown}: its answer is not HTTP: {_line(cause)}", retryable=False)
        phase = "TLS could not be set up: " if handshake else ""
        if isinstance(problem, exceptions.ProxyError):
            phase = "the proxy does not answer: "
        # That a name does not exist will not change while we wait; that nobody could be asked may.
        unknown = isinstance(cause.__cause__, socket.gaierror) and cause.__cause__.errno == socket.EAI_NONAME
        return Fault(f"{shown}: {phase}{_reason(cause, self._settings)}", retryable=not unknown, handshake=handshake)

    def _check_open(self) -> None:
        if self.closed.is_set():
            raise Cancelled("the transfer was cancelled")

    def _manager(self, origin: Origin, proxy: str | None) -> urllib3.PoolManager:
        with self._lock:
            manager = self._managers.get(origin)
            if manager is None:
                manager = self._managers[origin] = self._new_manager(origin, proxy)
        return manager

    def _new_manager(self, origin: Origin, proxy: str | None) -> urllib3.PoolManager:
        options: dict[str, Any] = {"maxsize": self._settings.max_parallel * 4, "block": False}
        if origin.scheme == "https":
            options["ssl_context"] = self.trust.context(origin)
        manager: urllib3.PoolManager
        if proxy is None:
            manager = urllib3.PoolManager(**options)
        else:
            url, credentials = _split_proxy(proxy)
            headers = urllib3.make_headers(proxy_basic_auth=credentials) if credentials else None
            manager = urllib3.ProxyManager(url, proxy_headers=headers, **options)
        wire = self._wire

        class PlainPool(urllib3.HTTPConnectionPool):
            ConnectionCls = wire.classes["http"]

        class SecurePool(urllib3.HTTPSConnectionPool):
            ConnectionCls = wire.classes["https"]

        manager.pool_classes_by_scheme = {"http": PlainPool, "https": SecurePool}
        return manager


class _SourceFailed(Exception):
    """Carries an error of the one who makes the body past urllib3, which would take it for the network's."""


class _Source:
    """A request's body, in pieces that the stall limit can be applied to, and of exactly the size that was said."""

    def __init__(self, body: Body, what: str) -> None:
        self._body = body
        self._what = what

    def __iter__(self) -> Iterator[memoryview]:
        left = self._body.size
        try:
            for piece in self._body.pieces():
                left -= len(piece)
                if left < 0:
                    break
                view = memoryview(piece)
                for start in range(0, len(view), _PIECE):
                    yield view[start : start + _PIECE]
        except Exception as problem:
            raise _SourceFailed from problem
        if left:
            # urllib3 would send what there is and wait for an answer that cannot come.
            wrong = f"{self._what}: what was to be sent is not {self._body.size} bytes long, as it should be"
            raise _SourceFailed from DataLoss(wrong)


def _innermost(problem: BaseException) -> BaseException:
    """Unwrap what urllib3 wraps."""
    while True:
        inner: object = None
        if isinstance(problem, exceptions.ProxyError):
            inner = problem.original_error
        elif isinstance(problem, (exceptions.ProtocolError, exceptions.SSLError)) and problem.args:
            inner = problem.args[-1]
        if not isinstance(inner, BaseException) or inner is problem:
            return problem
        problem = inner


def _reason(cause: BaseException, settings: RegistrySettings) -> str:
    match cause:
        case exceptions.NameResolutionError():
            return "no such host: its name cannot be resolved; see that the name and the network are right"
        case exceptions.NewConnectionError():
            return f"no connection ({_line(cause.__cause__ or cause).lower()}); see that it runs and the network reaches it"
        case exceptions.ConnectTimeoutError():
            return f"no connection within {settings.connect_time:g} s; see that the network reaches it"
        case exceptions.ReadTimeoutError() | TimeoutError():
            return f"the transfer stalled for {settings.stall_time:g} s"
        case http.client.IncompleteRead() | exceptions.IncompleteRead():
            return "the body was cut off"
        case http.client.RemoteDisconnected():
            return "it closed the connection without an answer"
        case _:
            return f"the connection broke ({_line(cause)})"


def _line(problem: BaseException) -> str:
    text = problem.strerror if isinstance(problem, OSError) and problem.strerror else str(problem)
    return "".join(char if char.isprintable() else " " for char in (text or type(problem).__name__))[:200]


def _split_proxy(proxy: str) -> tuple[str, str]:
    """Take user and password out of a proxy's URL."""
    from urllib.parse import unquote

    scheme, _, rest = proxy.partition("://")
    if scheme not in {"http", "https"}:
        raise Unsupported(f"proxies of kind {scheme[:20]!r} are not supported; use an http or https proxy")
    userinfo, _, host = rest.partition("/")[0].rpartition("@")
    return f"{scheme}://{host}", unquote(userinfo)

"""The page's server: this machine only, only who knows the address, and nothing but reading.

The address holds a secret that is made anew for each run.  A request counts only if it was sent to a name of this
machine's (so that no foreign name can be made to lead here), knows the secret, and comes from no other page.
"""

from __future__ import annotations

import hmac
import json
import secrets
import socket
import threading
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

from lamella.errors import InvalidArgument, LamellaError, NotFound, PermissionDenied
from lamella.ui.documents import Documents
from lamella.ui.helper import Helper

LOOPBACK: Final = "127.0.0.1"
_PAGE: Final = Path(__file__).parent / "page"
_TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}
_MOST_REQUESTS: Final = 64
Question = Mapping[str, str]


class PageServer(ThreadingHTTPServer):
    """One store's page."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, documents: Documents, helpers: Mapping[str, Helper], *, port: int = 0) -> None:
        """Listen on *port* of the loopback address, 0 for any that is free.  Raises OSError if it is taken."""
        self.documents = documents
        self.helpers = helpers
        self.secret = secrets.token_urlsafe(32)
        self.files = {path.name: path.read_bytes() for path in _PAGE.iterdir() if path.suffix in _TYPES}
        self.room = threading.BoundedSemaphore(_MOST_REQUESTS)
        super().__init__((LOOPBACK, port), Handler)

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self.server_address[1])

    @property
    def address(self) -> str:
        """The page's address, with the secret."""
        return f"http://{LOOPBACK}:{self.port}/{self.secret}/"

    def server_bind(self) -> None:  # type: ignore[explicit-override]  # override() came with Python 3.12
        """Bind without asking for the machine's name, which may take a resolver's patience."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = LOOPBACK, self.port

    def process_request(self, request: Any, client_address: Any) -> None:  # type: ignore[explicit-override]
        """Answer in a thread, or hang up on whoever comes while there are too many."""
        if not self.room.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:  # type: ignore[explicit-override]
        """Answer one connection and make room for another."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:  # type: ignore[explicit-override]
        """Say nothing: a browser that hangs up is no news."""


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    server: PageServer  # pyright: ignore[reportIncompatibleVariableOverride]
    protocol_version = "HTTP/1.1"
    timeout = 30
    server_version = "lamella"
    sys_version = ""

    def do_GET(self) -> None:
        """Answer, if the request may be answered."""
        refusal = self._refusal()
        if refusal is not None:
            self.close_connection = True
            self._send(refusal, b"refused\n", "text/plain; charset=utf-8")
            return
        split = urlsplit(self.path)
        name = split.path.split("/", 2)[2]
        try:
            question = dict(parse_qsl(split.query, keep_blank_values=True, errors="surrogateescape", max_num_fields=20))
        except ValueError:
            self._send(HTTPStatus.BAD_REQUEST, b"malformed question\n", "text/plain; charset=utf-8")
            return
        if name.startswith("api/"):
            self._answer(name.removeprefix("api/"), question)
        else:
            self._file(name or "index.html")

    do_HEAD = do_GET  # noqa: N815 - the base class's names, here and below

    def _refuse_method(self) -> None:
        self.close_connection = True
        self._send(HTTPStatus.METHOD_NOT_ALLOWED, b"this page only reads\n", "text/plain; charset=utf-8")

    do_POST = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = _refuse_method  # noqa: N815

    def send_error(self, code: int, *_: Any, **__: Any) -> None:  # type: ignore[explicit-override]
        """Refuse what is no request that can be answered, under the same policy as all else."""
        self.close_connection = True
        self._send(HTTPStatus(code), b"refused\n", "text/plain; charset=utf-8")

    def _refusal(self) -> HTTPStatus | None:
        """Say why not, None if the request is the page's own."""
        port = self.server.port
        hosts = self.headers.get_all("Host") or []
        if len(hosts) != 1 or hosts[0].lower() not in {f"{LOOPBACK}:{port}", f"localhost:{port}"}:
            return HTTPStatus.MISDIRECTED_REQUEST
        origin = self.headers.get("Origin")
        if origin is not None and origin != f"http://{hosts[0].lower()}":
            return HTTPStatus.FORBIDDEN
        # A browser may be led here from elsewhere, as by a bookmark; other pages may not ask behind its back.
        led = self.headers.get("Sec-Fetch-Dest") == "document"
        if not led and self.headers.get("Sec-Fetch-Site", "none") not in {"none", "same-origin"}:
            return HTTPStatus.FORBIDDEN
        parts = urlsplit(self.path).path.split("/", 2)
        told = parts[1] if len(parts) == 3 else ""
        if not hmac.compare_digest(told.encode(errors="replace"), self.server.secret.encode()):
            return HTTPStatus.FORBIDDEN
        return None

    def _file(self, name: str) -> None:
        content = self.server.files.get(name)
        if content is None:
            self._send(HTTPStatus.NOT_FOUND, b"no such file\n", "text/plain; charset=utf-8")
            return
        self._send(HTTPStatus.OK, content, _TYPES[name[name.rindex(".") :]])

    def _answer(self, name: str, question: Question) -> None:
        status = HTTPStatus.OK
        try:
            document = ANSWERS.get(name, _nothing)(self.server, question)
        except (LamellaError, OSError) as error:
            status = _status(error)
            document = {"error": str(error)}
        except Exception as error:  # noqa: BLE001 - the page is told, and the next request is answered
            status = HTTPStatus.INTERNAL_SERVER_ERROR
            document = {"error": f"internal error: {type(error).__name__}: {error}"}
        self._send(status, json.dumps(document).encode(), "application/json")

    def _send(self, status: HTTPStatus, content: bytes, kind: str) -> None:
        self.send_response(status)
        self._send_headers({"Content-Type": kind, "Content-Length": str(len(content))})
        if self.command != "HEAD":
            self.wfile.write(content)

    def _send_headers(self, headers: Mapping[str, str]) -> None:
        for name, value in {**_HEADERS, **headers}.items():
            self.send_header(name, value)
        if self.close_connection and "Connection" not in headers:
            self.send_header("Connection", "close")
        self.end_headers()

    def log_message(self, format: str, *arguments: Any) -> None:  # type: ignore[explicit-override]  # noqa: A002 - the base class's name
        """Keep no log: the address is a secret."""


def _status(error: BaseException) -> HTTPStatus:
    for kind, status in (
        (NotFound, HTTPStatus.NOT_FOUND),
        (InvalidArgument, HTTPStatus.BAD_REQUEST),
        (PermissionDenied, HTTPStatus.FORBIDDEN),
    ):
        if isinstance(error, kind):
            return status
    return HTTPStatus.SERVICE_UNAVAILABLE


def _bytes(question: Question, key: str) -> bytes:
    return question.get(key, "").encode("utf-8", "surrogateescape")


def _number(question: Question, key: str, default: int) -> int:
    text = question.get(key, "")
    if not text:
        return default
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise InvalidArgument(f"{key}={text!r} is no number")
    return int(text)


def _on(question: Question, key: str) -> bool:
    return question.get(key, "") in {"1", "true"}


def _nothing(_server: PageServer, _question: Question) -> Mapping[str, Any]:
    raise NotFound("the page has no such part")


def _stacks(server: PageServer, question: Question) -> Mapping[str, Any]:
    start = _number(question, "from", 0)
    return server.documents.stacks(
        start, _number(question, "to", start + 64), question.get("filter", ""), steps=_on(question, "steps")
    )


def _place(server: PageServer, question: Question) -> Mapping[str, Any]:
    return server.documents.place(
        question.get("kind", ""), question.get("id", ""), question.get("filter", ""), steps=_on(question, "steps")
    )


ANSWERS: Final[Mapping[str, Callable[[PageServer, Question], Mapping[str, Any]]]] = {
    "version": lambda server, _: {"version": server.documents.version()},
    "store": lambda server, _: server.documents.store(),
    "stacks": _stacks,
    "overview": lambda server, question: server.documents.overview(
        question.get("filter", ""), steps=_on(question, "steps")
    ),
    "place": _place,
    "image": lambda server, question: server.documents.image(question.get("id", "")),
    "layer": lambda server, question: server.documents.layer(question.get("id", ""), question.get("stack", "")),
    "container": lambda server, question: server.documents.container(question.get("id", "")),
    "files": lambda server, question: server.documents.files(
        question.get("layer", ""), question.get("stack", ""), _bytes(question, "path")
    ),
    "find": lambda server, question: server.documents.find(_bytes(question, "path")),
    "ledger": lambda server, _: server.helpers["ledger"].ask(),
    "check": lambda server, question: server.helpers["check"].ask(deep=_on(question, "deep")),
}

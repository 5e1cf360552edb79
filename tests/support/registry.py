"""Registries on loopback: Debian's real one, and one that misbehaves as it is told."""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import socket
import ssl
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple, Self
from urllib.parse import parse_qs, urlsplit

REGISTRY = "/usr/bin/docker-registry"
USER, PASSWORD = "someone", "correct horse"
#: bcrypt of PASSWORD at the lowest cost.
HTPASSWD = f"{USER}:$2y$04$abcdefghijklmnopqrstuujydOTSfIH/d5oUHpsygqV5X9xJLQc6e\n"


def sha256(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Authority(NamedTuple):
    """A certificate authority of the test's own and a certificate it gave to the registry."""

    authority: Path
    certificate: Path
    key: Path


def make_authority(directory: Path, *, name: str = "IP:127.0.0.1,DNS:localhost", days: int = 2) -> Authority:
    """Make an authority and a server certificate for *name*."""
    directory.mkdir(parents=True, exist_ok=True)
    made = Authority(directory / "ca.crt", directory / "server.cert", directory / "server.key")

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], check=True, capture_output=True, cwd=directory)

    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl("req", "-x509", *curve, "-keyout", "ca.key", "-out", "ca.crt", "-days", "2", "-subj", "/CN=test authority")
    openssl("req", *curve, "-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=registry")
    (directory / "ext").write_text(f"subjectAltName={name}\n")
    openssl(
        *("x509", "-req", "-in", "server.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial"),
        *("-out", "server.cert", "-days", str(days), "-extfile", "ext"),
    )
    return made


class RealRegistry:
    """Debian's docker-registry, started by ``with`` on a free port of loopback and stopped at its end."""

    def __init__(
        self,
        root: Path | None = None,
        *,
        tls: Authority | None = None,
        clients: Path | None = None,
        password: bool = False,
        host: str = "127.0.0.1",
    ) -> None:
        self._state = tempfile.TemporaryDirectory(prefix="registry-")
        self.root = root or Path(self._state.name) / "data"
        self._tls = tls
        self._clients = clients
        self._password = password
        self.port = free_port()
        self.host = f"{host}:{self.port}"
        self.url = f"{'https' if tls else 'http'}://{self.host}"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> str:
        """What the registry has logged so far."""
        return (Path(self._state.name) / "log").read_text(errors="replace")

    def _config(self) -> dict[str, Any]:
        config: dict[str, Any] = {
            "version": 0.1,
            "log": {"level": "info", "accesslog": {"disabled": False}},
            "storage": {"filesystem": {"rootdirectory": str(self.root)}, "delete": {"enabled": True}},
            "http": {"addr": f"127.0.0.1:{self.port}", "secret": "not one"},
        }
        if self._tls:
            config["http"]["tls"] = {"certificate": str(self._tls.certificate), "key": str(self._tls.key)}
            if self._clients:
                config["http"]["tls"]["clientcas"] = [str(self._clients)]
        if self._password:
            path = Path(self._state.name) / "htpasswd"
            path.write_text(HTPASSWD)
            config["auth"] = {"htpasswd": {"realm": "test", "path": str(path)}}
        return config

    def __enter__(self) -> Self:
        state = Path(self._state.name)
        # YAML is a superset of JSON.
        (state / "config.yml").write_text(json.dumps(self._config()))
        with (state / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [REGISTRY, "serve", str(state / "config.yml")],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env={"PATH": "/usr/bin:/bin", "HOME": str(state), "OTEL_TRACES_EXPORTER": "none"},
            )
        deadline = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            except OSError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise AssertionError(f"docker-registry did not start:\n{self.log[-3000:]}") from None
                time.sleep(0.02)
            else:
                return self

    def __exit__(self, *exc: object) -> None:
        assert self._process is not None
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._state.cleanup()


class Seen(NamedTuple):
    """One request as the misbehaving registry got it."""

    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: bytes


Behaviour = Callable[["Exchange"], None]


class Exchange(BaseHTTPRequestHandler):
    """One request being answered; a behaviour may write whatever it likes, well-formed or not."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: FaultServer
    seen: Seen

    def answer(self, status: int = 200, body: bytes = b"", **headers: str) -> None:
        """Answer properly."""
        self.send_response(status)
        sent = {name.replace("_", "-").lower(): value for name, value in headers.items()}
        sent.setdefault("content-length", str(len(body)))
        for name, value in sent.items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def raw(self, data: bytes) -> None:
        """Write bytes as they are."""
        self.wfile.write(data)
        self.wfile.flush()

    def reset(self) -> None:
        """Break the connection with an RST."""
        self.wfile.flush()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.connection.close()
        self.close_connection = True

    def hang_up(self) -> None:
        """End the connection in order."""
        self.wfile.flush()
        self.close_connection = True

    @property
    def offset(self) -> int:
        """Where a Range asks to begin."""
        text = self.headers.get("Range", "bytes=0-")
        return int(text.removeprefix("bytes=").partition("-")[0])

    def part(self, data: bytes) -> tuple[int, bytes, dict[str, str]]:
        """Return status, body and headers for the Range asked for."""
        text = self.headers.get("Range")
        if text is None:
            return 200, data, {"accept_ranges": "bytes", "etag": '"one"'}
        first, _, last = text.removeprefix("bytes=").partition("-")
        start, stop = int(first), int(last) + 1 if last else len(data)
        told = f"bytes {start}-{stop - 1}/{len(data)}"
        return 206, data[start:stop], {"content_range": told, "etag": '"one"'}

    def _serve(self) -> None:
        url = urlsplit(self.path)
        length = int(self.headers.get("Content-Length", "0"))
        headers = {name.lower(): value for name, value in self.headers.items()}
        body = self.rfile.read(length)
        self.seen = Seen(self.command, url.path, parse_qs(url.query), headers, body)
        self.server.note(self.seen)
        try:
            self.server.behave(self)
        except (OSError, ValueError):
            self.close_connection = True

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = _serve  # noqa: N815 - http.server's names

    def log_message(self, *arguments: object) -> None:  # type: ignore[explicit-override]
        pass

    def finish(self) -> None:  # type: ignore[explicit-override]
        with suppress(OSError, ValueError):
            super().finish()


class FaultServer(ThreadingHTTPServer):
    """A registry that does to each path what the test says; everything else is 404."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, host: str = "127.0.0.1", tls: Authority | None = None, port: int = 0) -> None:
        super().__init__((host, port), Exchange)
        self.host = f"{host}:{self.server_address[1]}"
        self.url = f"{'https' if tls else 'http'}://{self.host}"
        self.requests: list[Seen] = []
        self._rules: list[tuple[str, str, Behaviour]] = []
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._context: ssl.SSLContext | None = None
        if tls:
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._context.load_cert_chain(tls.certificate, tls.key)

    def on(self, path: str, behaviour: Behaviour, method: str = "") -> None:
        """Answer *path* (with what follows, if it ends in ``*``) by *behaviour*; the latest rule counts."""
        self._rules.insert(0, (method, path, behaviour))

    def each(self, path: str, *behaviours: Behaviour, method: str = "") -> None:
        """Answer *path* by one behaviour after another; the last one stays."""
        left = list(behaviours)

        def next_one(exchange: Exchange) -> None:
            with self._lock:
                behaviour = left.pop(0) if len(left) > 1 else left[0]
            behaviour(exchange)

        self.on(path, next_one, method)

    def note(self, seen: Seen) -> None:
        with self._lock:
            self.requests.append(seen)

    def of(self, path: str) -> list[Seen]:
        """Return the requests for *path* so far."""
        with self._lock:
            return [seen for seen in self.requests if seen.path.startswith(path)]

    def behave(self, exchange: Exchange) -> None:
        path = exchange.seen.path
        for method, rule, behaviour in self._rules:
            fits = path.startswith(rule[:-1]) if rule.endswith("*") else path == rule
            if fits and method in {"", exchange.command}:
                behaviour(exchange)
                return
        if path == "/v2/":
            exchange.answer(200, b"{}")
        else:
            exchange.answer(404, b'{"errors":[{"code":"NAME_UNKNOWN","message":"no such thing"}]}')

    def get_request(self) -> tuple[Any, Any]:  # type: ignore[explicit-override]
        connection, address = super().get_request()
        if self._context:
            connection.settimeout(5)
            connection = self._context.wrap_socket(connection, server_side=True)
        return connection, address

    def handle_error(self, request: object, client_address: object) -> None:  # type: ignore[explicit-override]
        pass

    def __enter__(self) -> Self:  # type: ignore[explicit-override]
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:  # type: ignore[explicit-override]
        self.shutdown()
        self.server_close()
        self._thread.join()


def whole(data: bytes) -> Behaviour:
    """Serve *data* properly, with ranges."""

    def behave(exchange: Exchange) -> None:
        status, body, headers = exchange.part(data)
        exchange.answer(status, body, **headers)

    return behave


def status(code: int, **headers: str) -> Behaviour:
    """Answer with a bare status."""
    return lambda exchange: exchange.answer(code, b"", **headers)


def document(value: object, media_type: str = "application/json", code: int = 200, **headers: str) -> Behaviour:
    """Serve JSON."""
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return lambda exchange: exchange.answer(code, raw, content_type=media_type, **headers)


def cut(data: bytes, count: int, *, reset: bool = False) -> Behaviour:
    """Announce the asked part of *data*, deliver *count* bytes of it, and break the connection."""

    def behave(exchange: Exchange) -> None:
        code, body, headers = exchange.part(data)
        exchange.answer(code, body[:count], content_length=str(len(body)), **headers)
        exchange.wfile.flush()
        if reset:
            # What is in flight is lost with a reset: let it arrive first.
            time.sleep(0.05)
            exchange.reset()
        else:
            exchange.hang_up()

    return behave


def forward(port: int) -> Behaviour:
    """Pass the request on to the plain registry on *port*, without its credentials, and the answer back."""

    def behave(exchange: Exchange) -> None:
        seen = exchange.seen
        sent = {name: value for name, value in seen.headers.items() if name != "authorization"}
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        try:
            connection.request(seen.method, exchange.path, seen.body, sent)
            answer = connection.getresponse()
            body = answer.read()
        finally:
            connection.close()
        headers = {name.lower().replace("-", "_"): value for name, value in answer.headers.items()}
        if headers.pop("transfer_encoding", ""):
            headers["content_length"] = str(len(body))
        exchange.answer(answer.status, body, **{key: headers[key] for key in headers if key not in {"date", "server"}})

    return behave


class TokenServer:
    """Guards paths of a FaultServer by bearer tokens, each good for *uses* requests."""

    def __init__(self, server: FaultServer, *, uses: int = 1 << 30, password: bool = False, realm: str = "") -> None:
        self.server = server
        self.uses = uses
        self.password = password
        self.realm = realm or f"{server.url}/token"
        self.issued = 0
        self._left: dict[str, int] = {}
        self._lock = threading.Lock()
        server.on("/token", self.issue)

    def issue(self, exchange: Exchange) -> None:
        wanted = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        if self.password and exchange.headers.get("Authorization") != wanted:
            exchange.answer(401, b"{}")
            return
        with self._lock:
            self.issued += 1
            token = f"token-{self.issued}"
            self._left[token] = self.uses
        exchange.answer(200, json.dumps({"token": token, "expires_in": 300}).encode())

    def guard(self, behaviour: Behaviour) -> Behaviour:
        """Let *behaviour* answer only who brings a token that is good."""

        def behave(exchange: Exchange) -> None:
            token = exchange.headers.get("Authorization", "").removeprefix("Bearer ")
            with self._lock:
                left = self._left.get(token, 0)
                self._left[token] = left - 1
            if left > 0:
                behaviour(exchange)
                return
            challenge = f'Bearer realm="{self.realm}",service="test",scope="repository:other/secret:pull,push"'
            exchange.answer(401, b"{}", www_authenticate=challenge)

        return behave


@contextmanager
def tunnel(port: int) -> Generator[tuple[str, list[bytes]]]:
    """Run a proxy whose every CONNECT leads to *port*; yield its address and the heads it got."""
    heads: list[bytes] = []

    def relay(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        with suppress(OSError):
            target.shutdown(socket.SHUT_WR)

    def serve(client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", port)) as server:
            head = b""
            while b"\r\n\r\n" not in head:
                head += client.recv(4096)
            heads.append(head)
            client.sendall(b"HTTP/1.1 200 Connected\r\n\r\n")
            back = threading.Thread(target=relay, args=(server, client))
            back.start()
            relay(client, server)
            back.join()

    def accept() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(16)
        accepting = threading.Thread(target=accept)
        accepting.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}", heads
        listener.shutdown(socket.SHUT_RDWR)
        accepting.join()


@contextmanager
def silent_port() -> Generator[str]:
    """Yield the address of a port that takes connections and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(16)
        yield f"127.0.0.1:{listener.getsockname()[1]}"


def put_blob(host: str, repository: str, data: bytes) -> str:
    """Put a blob into a plain registry, past lamella."""
    digest = sha256(data)
    connection = http.client.HTTPConnection(host, timeout=20)
    try:
        connection.request("POST", f"/v2/{repository}/blobs/uploads/")
        answer = connection.getresponse()
        answer.read()
        place = urlsplit(answer.headers["Location"])
        target = f"{place.path}?{place.query}&digest={digest}"
        connection.request("PUT", target, data, {"Content-Type": "application/octet-stream"})
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 201, answer.status
    finally:
        connection.close()
    return digest

"""``lamella ui`` as a process of its own, and bare requests to it."""

from __future__ import annotations

import http.client
import json
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self
from urllib.parse import urlsplit

from tests.support.cli import LAMELLA


class Reply(NamedTuple):
    """What the server said."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def document(self) -> Any:
        return json.loads(self.body)


class ServedPage:
    """The page of one store; `with` ends it."""

    def __init__(self, root: Path) -> None:
        self.process = subprocess.Popen(
            [LAMELLA, "ui", "--root", root, "--no-open"], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert " at http://" in line, line
        self.address = line.split(" at ")[1].strip()
        split = urlsplit(self.address)
        self.port = split.port or 0
        self.host = f"127.0.0.1:{self.port}"
        self.secret = split.path.strip("/")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.terminate()
        self.process.communicate(timeout=60)

    def request(
        self, path: str, *, method: str = "GET", headers: dict[str, str] | None = None, host: str | None = None
    ) -> Reply:
        """Send one request to exactly this path."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            connection.putheader("Host", self.host if host is None else host)
            for name, value in (headers or {}).items():
                connection.putheader(name, value)
            connection.endheaders()
            answer = connection.getresponse()
            return Reply(answer.status, dict(answer.getheaders()), answer.read())
        finally:
            connection.close()

    def ask(self, question: str) -> Any:
        """Return the answer to a question below ``api/``, which must be given."""
        reply = self.request(f"/{self.secret}/api/{question}")
        assert reply.status == 200, reply
        return reply.document

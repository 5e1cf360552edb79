"""Processes beside the server for what takes long and forks: the check of the store, and the ledger.

Each is made before the server has threads, and ends when the server does: it reads
questions until its socket is closed.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self

from lamella.errors import LamellaError, Unavailable

Answer = Callable[..., Mapping[str, Any]]


class Helper:
    """One such process; it answers one question at a time."""

    def __init__(self, answer: Answer) -> None:
        """Fork the process; *answer* is what it is asked for, and gives what can be told as JSON."""
        ours, theirs = socket.socketpair()
        self.pid = os.fork()
        if not self.pid:
            ours.close()
            _serve(theirs, answer)
        theirs.close()
        self._socket = ours
        self._stream = ours.makefile("rwb")
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def ask(self, **arguments: Any) -> Mapping[str, Any]:
        """Return the answer; others wait meanwhile.  What the function raises of lamella's own is raised here."""
        with self._lock:
            try:
                self._stream.write(json.dumps(arguments).encode() + b"\n")
                self._stream.flush()
                line = self._stream.readline()
            except OSError:
                line = b""
        if not line:
            raise Unavailable("the process that answers this has ended; start 'lamella ui' again")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise Unavailable(str(answer["error"]))
        result: Mapping[str, Any] = answer["result"]
        return result

    def close(self) -> None:
        """End the process, whatever it is at: it only reads."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        self._socket.close()


def _serve(channel: socket.socket, answer: Answer) -> NoReturn:  # pragma: no cover - in the child
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        stream = channel.makefile("rwb")
        for line in stream:
            try:
                told: dict[str, Any] = {"result": answer(**json.loads(line))}
            except (LamellaError, OSError) as error:
                told = {"error": str(error)}
            except Exception as error:  # noqa: BLE001 - told to the page; the process goes on
                told = {"error": f"internal error: {type(error).__name__}: {error}"}
            stream.write(json.dumps(told).encode() + b"\n")
            stream.flush()
    finally:
        os._exit(0)


def _named(value: Any) -> Any:
    """Turn named tuples, at any depth, into mappings of their fields."""
    fields = getattr(value, "_fields", None)
    if fields is not None:
        return {name: _named(each) for name, each in zip(fields, value, strict=True)}
    if isinstance(value, (list, tuple)):
        return [_named(each) for each in value]
    return value


def store_answers(root: Path) -> Mapping[str, Answer]:
    """Return what helpers can be asked of the store at *root*."""

    def check(deep: bool) -> Mapping[str, Any]:
        from lamella.engine.keeping import check_store

        return check_store(root, deep=deep).to_document()

    def ledger() -> Mapping[str, Any]:
        from lamella.engine.ledger import read_ledger

        document: Mapping[str, Any] = _named(read_ledger(root))
        return document

    return {"check": check, "ledger": ledger}

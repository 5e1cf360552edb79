"""A socket that hands its connections on to another one: an ssh agent, for a user who may not open the agent's own."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from lamella.errors import Unavailable

if TYPE_CHECKING:
    from threading import Thread

_PIECE = 1 << 16


class Relay:
    """Listens at one path for the length of its scope; each connection has a thread that ends with it."""

    def __init__(self, path: Path, target: Path) -> None:
        self._target = str(target)
        self._open: set[socket.socket] = set()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            # By this way round, since an address has room for 107 bytes only.
            self._socket.bind(f"/proc/self/fd/{directory}/{path.name}")
        except OSError as error:
            self._socket.close()
            raise Unavailable(f"{path}: no socket can be made there: {error.strerror or error}") from error
        finally:
            os.close(directory)
        self._path = path

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # Shut down, not only closed: that ends the waiting of other threads.
        for each in (self._socket, *tuple(self._open)):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._path.unlink(missing_ok=True)

    def start(self) -> None:
        """Begin to take connections."""
        self._socket.listen()
        self._thread(self._accept)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._socket.accept()
                self._thread(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        with connection, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as agent, suppress(OSError):
            ends = {connection, agent}
            self._open |= ends
            try:
                agent.connect(self._target)
                back = self._thread(_pump, agent, connection)
                _pump(connection, agent)
                back.join()
            finally:
                self._open -= ends

    @staticmethod
    def _thread(work: Callable[..., None], *arguments: socket.socket) -> Thread:
        from threading import Thread

        thread = Thread(target=work, args=arguments, daemon=True)
        thread.start()
        return thread


def _pump(source: socket.socket, sink: socket.socket) -> None:
    """Carry what one end says to the other, and that it has ended."""
    with suppress(OSError):
        while piece := source.recv(_PIECE):
            sink.sendall(piece)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_WR)

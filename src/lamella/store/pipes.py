"""Reading what a function writes: from memory if it is little, else through a pipe and a thread."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable, Iterator
from typing import BinaryIO

_PIPE_SIZE = 1 << 20


class _TooMuch(Exception):
    """More was written than was to be kept."""


class _Kept(io.BytesIO):
    """Up to *limit* bytes in memory."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self._limit = limit

    def write(self, data: bytes | bytearray | memoryview) -> int:  # type: ignore[override,explicit-override]
        if self.tell() + len(data) > self._limit:
            raise _TooMuch
        return super().write(data)


@contextlib.contextmanager
def reading_from(write: Callable[[BinaryIO], object], *, small: int = 0) -> Iterator[BinaryIO]:
    """Yield a stream of what ``write`` writes; its error, if any, is raised in the reader's place.

    It writes in a thread, and a reader that stops early ends it with a broken pipe, which is no error.  What fits in
    *small* bytes is kept in memory and costs no thread; if it turns out not to fit, ``write`` is called once more.
    """
    kept = _Kept(small)
    try:
        if small:
            write(kept)
    except _TooMuch:
        small = 0
    if small:
        kept.seek(0)
        yield kept
        return
    kept.close()
    with _through_pipe(write) as stream:
        yield stream


@contextlib.contextmanager
def _through_pipe(write: Callable[[BinaryIO], object]) -> Iterator[BinaryIO]:
    import fcntl
    import threading

    failure: list[BaseException] = []
    read_fd, write_fd = os.pipe2(os.O_CLOEXEC)
    with contextlib.suppress(OSError):
        fcntl.fcntl(write_fd, fcntl.F_SETPIPE_SZ, _PIPE_SIZE)

    def work() -> None:
        try:
            with open(write_fd, "wb", buffering=1 << 18) as sink:
                write(sink)
        except BaseException as error:  # noqa: BLE001  (raised again in the reading thread)
            failure.append(error)

    thread = threading.Thread(target=work, name="lamella-pipe", daemon=True)
    thread.start()
    try:
        with open(read_fd, "rb", buffering=0) as stream:
            yield stream
    except BaseException as error:
        thread.join()
        if failure and not isinstance(failure[0], BrokenPipeError):
            raise failure[0] from error
        raise
    thread.join()
    if failure and not isinstance(failure[0], BrokenPipeError):
        raise failure[0]

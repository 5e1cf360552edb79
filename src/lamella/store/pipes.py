"""Reading what a function writes, through a pipe and a thread."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import BinaryIO

_PIPE_SIZE = 1 << 20


@contextlib.contextmanager
def reading_from(write: Callable[[BinaryIO], object]) -> Iterator[BinaryIO]:
    """Yield a stream of what ``write`` writes in a thread; its error, if any, is raised in the reader's place.

    A reader that stops early ends the writer with a broken pipe, which is no error.
    """
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

"""Having the kernel read many small files before they are asked for one by one.

A disk that is asked for one thing at a time is idle most of the time.  Nothing that is read here is looked at, so what
it says cannot matter, and what cannot be read is left to whoever asks for it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import stat
from collections.abc import Iterator, Sequence

_PROCESSES = 4
_FEWEST = 128
_SAMPLES = 16
_MOST = 32 << 10
_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@contextlib.contextmanager
def reading_ahead(directories: Sequence[str]) -> Iterator[None]:
    """Have forked children read the files of *directories*, of each the first 32 KiB, while the block goes on.

    They are gone when it ends.  Nothing is done for a few directories, or for files that are in memory already.
    """
    if len(directories) < _FEWEST or _are_in_memory(directories[:: len(directories) // _SAMPLES]):
        yield
        return
    children: list[int] = []
    try:
        with contextlib.suppress(BlockingIOError):  # no more processes to be had: it goes without
            for number in range(_PROCESSES):
                child = os.fork()
                if not child:
                    _read_all(directories[number::_PROCESSES])
                children.append(child)
        yield
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def _are_in_memory(directories: Sequence[str]) -> bool:
    buffer = bytearray(_MOST)
    for path in _files(directories):
        try:
            fd = os.open(path, _FLAGS)
        except OSError:
            continue
        try:
            os.preadv(fd, [buffer], 0, os.RWF_NOWAIT)
        except BlockingIOError:  # it would have to wait
            return False
        except OSError:  # a file system that cannot tell, such as one in memory
            return True
        finally:
            os.close(fd)
    return True


def _read_all(directories: Sequence[str]) -> None:  # pragma: no cover - in the child
    try:
        for path in _files(directories):
            with contextlib.suppress(OSError):
                fd = os.open(path, _FLAGS)
                if stat.S_ISREG(os.fstat(fd).st_mode):
                    os.read(fd, _MOST)
                os.close(fd)
    finally:
        os._exit(0)


def _files(directories: Sequence[str]) -> Iterator[str]:
    for directory in directories:
        try:
            with os.scandir(directory) as entries:
                names = [entry.path for entry in entries if entry.is_file(follow_symlinks=False)]
        except OSError:
            continue
        yield from names

"""Blobs on their way into the store: what was fetched of a large one is kept until its layer is in place.

``DATA-ROOT/lamella/blobs/<hex>.partial`` holds the first bytes of a blob, in order, under an exclusive lock of whoever
fetches it: a second process waits and then finds the work done.  A killed pull leaves the file, the next one goes on
where it ends, and ``prune_blobs`` takes away what nobody uses.  Small blobs are kept in memory.  Nothing here is
trusted: whoever reads hashes.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from lamella.errors import Cancelled, DataLoss
from lamella.linux.locks import try_lock, unlock
from lamella.model.digest import Digest, hex_of
from lamella.store.dataroot import DataRoot
from lamella.store.smallfiles import list_names

SUFFIX = ".partial"
_PAUSE = 0.05


class Partial:
    """A blob's file, locked for this thread alone."""

    def __init__(self, path: Path, fd: int, lock: int) -> None:
        self.path = path
        self.fd = fd
        self._lock = lock
        self.length = os.fstat(fd).st_size

    def truncate(self, length: int = 0) -> None:
        """Forget all bytes from *length* on."""
        os.ftruncate(self.fd, length)
        self.length = length

    def remove(self) -> None:
        """Take the file away, unless it was given back; what is not yet on disk never will be."""
        if self.fd >= 0:
            self.truncate()
            self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Let another process have it."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
            unlock(self._lock)


def blobs_directory(root: DataRoot) -> Path:
    """Return where the blobs of a data-root wait."""
    return root.lamella_dir / "blobs"


def open_partial(root: DataRoot, digest: Digest, *, stopped: Callable[[], bool]) -> Partial:
    """Open what there is of a blob, once no other process is at it.  Raises Cancelled if told to stop waiting."""
    directory = blobs_directory(root)
    directory.mkdir(mode=0o700, exist_ok=True)
    path = directory / (hex_of(digest) + SUFFIX)
    while (lock := try_lock(path)) is None:
        if stopped():
            raise Cancelled("the pull was given up")
        time.sleep(_PAUSE)
    try:
        return Partial(path, os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC), lock)
    except BaseException:
        unlock(lock)
        raise


def iter_idle(root: DataRoot) -> Iterator[tuple[Path, int]]:
    """Yield each blob that nobody is fetching, locked meanwhile, and its bytes on disk."""
    directory = blobs_directory(root)
    for name in list_names(directory):
        path = directory / name
        if not name.endswith(SUFFIX) or (lock := try_lock(path)) is None:
            continue
        try:
            yield path, os.fstat(lock).st_blocks * 512
        finally:
            unlock(lock)


def prune_blobs(root: DataRoot) -> int:
    """Remove what pulls that never came to an end have left; return the bytes freed."""
    freed = 0
    if blobs_directory(root).is_dir():
        with root.writing():
            for path, size in iter_idle(root):
                path.unlink(missing_ok=True)
                freed += size
    return freed


class Feed(io.RawIOBase):
    """The bytes of one blob between the thread that fetches them and the one that unpacks them.

    With a file they go through it, so that fetching may run ahead without bound and nothing is lost if the process is
    killed; without, they wait in memory.
    """

    def __init__(self, partial: Partial | None = None) -> None:
        self._partial = partial
        self._chunks: deque[bytes] = deque()
        self._ready = threading.Condition()
        self._available = 0 if partial is None else partial.length
        self._position = 0
        self._ended = False
        self._error: BaseException | None = None

    # ------------------------------------------------------------------------------------------- the fetching side

    def put(self, chunk: bytes | bytearray | memoryview) -> None:
        """Take the next bytes.  Raises Cancelled once the other side has given up."""
        if self._error is not None:
            raise Cancelled("the pull was given up")
        if self._partial is None:
            # A view may be of a buffer that is used again.
            self._chunks.append(chunk if isinstance(chunk, bytes) else bytes(chunk))
        else:
            view = memoryview(chunk)
            while view:
                done = os.pwrite(self._partial.fd, view, self._partial.length)
                self._partial.length += done
                view = view[done:]
        with self._ready:
            self._available += len(chunk)
            self._ready.notify()

    def finish(self, error: BaseException | None = None) -> None:
        """Say that all bytes are there, or why no more will come."""
        with self._ready:
            self._ended = True
            self._error = self._error or error
            self._ready.notify_all()

    # ------------------------------------------------------------------------------------------ the unpacking side

    def abort(self) -> None:
        """Give up: both sides get Cancelled at their next step."""
        self.finish(Cancelled("the pull was given up"))

    def readable(self) -> bool:  # type: ignore[explicit-override]
        """Say yes."""
        return True

    def read(self, size: int = -1, /) -> bytes:  # type: ignore[explicit-override]
        """Return at least one byte unless all have been read; waits for them.  Raises what ended the fetching."""
        with self._ready:
            while self._position >= self._available and not self._ended:
                self._ready.wait()
            if self._error is not None:
                raise self._error
            have = self._available - self._position
        if not have:
            return b""
        count = have if size < 0 else min(size, have)
        if self._partial is None:
            chunk = self._chunks.popleft()
            if len(chunk) > count:
                self._chunks.appendleft(chunk[count:])
                chunk = chunk[:count]
        else:
            chunk = os.pread(self._partial.fd, count, self._position)
            if not chunk:
                raise DataLoss(f"{self._partial.path} became shorter while it was read")
        self._position += len(chunk)
        return chunk

    def readinto(self, buffer: Any, /) -> int:  # type: ignore[explicit-override]
        """Read into a buffer."""
        chunk = self.read(len(buffer))
        buffer[: len(chunk)] = chunk
        return len(chunk)


@contextlib.contextmanager
def space_explained(digest: Digest) -> Iterator[None]:
    """Name the blob for which the disk was too small."""
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT} and error.filename is None:
            raise OSError(error.errno, error.strerror, f"blob {digest}") from error
        raise

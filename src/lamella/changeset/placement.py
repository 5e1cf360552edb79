"""The directories of a layer being written: resolved inside the root, kept open for a while, filled by threads.

`Directories` turns the path of a member into an open parent and a last name.  `Crew` makes small inodes in several
directories at once, since making one waits mostly for the file system.  What is made, and in which order that
matters, is for apply to say.
"""

from __future__ import annotations

import os
import queue
import stat
import threading
from collections.abc import Callable
from typing import Final, NamedTuple

from lamella.changeset.entry import Entry, Kind
from lamella.changeset.inodes import Buffer, Maker
from lamella.fs.rooted import Root
from lamella.linux.openat2 import open_in_root

_KEPT_OPEN: Final = 64
_WORKERS: Final = 2
_BATCH: Final = 48
_BATCH_BYTES: Final = 1 << 20
_IN_FLIGHT: Final = 8
_UNAIDED: Final = 4
"""Batches done before threads are worth their start; most layers of a build have no more."""


class Directory:
    """An open directory of the layer.

    *path* is how members name it, *real* where it is; they differ behind symbolic links.  *inherited* is the group
    its set-group-ID bit gives to what is made in it.
    """

    __slots__ = ("dropped", "fd", "inherited", "path", "real", "users", "worker")

    def __init__(self, path: bytes, real: bytes | None, fd: int) -> None:
        self.path = path
        self.real = path if real is None else real
        self.fd = fd
        self.inherited: int | None = None
        self.users = 0
        self.dropped = False
        self.worker = 0

    def look(self) -> os.stat_result:
        """Return the status, and note what it gives to new inodes."""
        status = os.fstat(self.fd)
        self.inherited = status.st_gid if status.st_mode & stat.S_ISGID else None
        return status

    def join(self, name: bytes) -> bytes:
        """Return the real path of *name* in it."""
        return self.real + b"/" + name if self.real else name


class Directories:
    """Finds parents inside *root*; makes those that are missing, as 0755 root:root.

    *settle* is called before one is found missing: links that lead to it may still be in the making.
    """

    def __init__(self, root: Root) -> None:
        self.root = root
        self.settle: Callable[[], None] = lambda: None
        self.made: set[bytes] = set()
        """Real paths of directories made only because something lies in them."""
        self._prefix = os.readlink(b"/proc/self/fd/%d" % root.fd)
        self._top = Directory(b"", b"", root.fd)
        self._top.look()
        self._open: dict[bytes, Directory] = {}
        self._lingering: set[Directory] = set()

    @property
    def top(self) -> Directory:
        """Return the root itself."""
        return self._top

    def parent(self, path: bytes, *, make: bool = True) -> tuple[Directory, bytes]:
        """Return the open directory that *path* lies in and its last name.

        Without *make*, or where a file stands in the way, the ``OSError`` of the kernel comes through.
        """
        directory, _, name = path.rpartition(b"/")
        return self.get(directory, make=make), name

    def get(self, path: bytes, *, make: bool = True) -> Directory:
        """Return the directory *path*, following links inside the root."""
        if not path:
            return self._top
        found = self._open.pop(path, None)
        if found is None:
            fd = self._find(path, make=make)
            found = Directory(path, self._real(fd), fd)
            found.look()
            self._trim()
        self._open[path] = found
        return found

    def adopt(self, parent: Directory, path: bytes, name: bytes, fd: int) -> Directory:
        """Keep a directory that was just opened as *name* in *parent*."""
        old = self._open.pop(path, None)
        if old is not None:
            self._drop(old)
        directory = Directory(path, parent.join(name), fd)
        self._trim()
        self._open[path] = directory
        return directory

    def forget(self) -> None:
        """Let go of everything open: some directory or link on the way to it is no longer what it was."""
        for directory in self._open.values():
            self._drop(directory)
        self._open.clear()

    def release(self, directory: Directory) -> None:
        """Note that one user of *directory* is done with it."""
        directory.users -= 1
        if directory.dropped and not directory.users:
            self._lingering.discard(directory)
            os.close(directory.fd)

    def close(self) -> None:
        """Close everything, used or not; the root stays its owner's."""
        self.forget()
        for directory in self._lingering:
            os.close(directory.fd)
        self._lingering.clear()

    def _find(self, path: bytes, *, make: bool) -> int:
        try:
            return self._open_path(path)
        except FileNotFoundError:
            self.settle()
        try:
            return self._open_path(path)
        except FileNotFoundError:
            if not make:
                raise
        self._make(path)
        return self._open_path(path)

    def _open_path(self, path: bytes) -> int:
        return open_in_root(self.root.fd, path, os.O_RDONLY | os.O_DIRECTORY, cross_mounts=False)

    def _make(self, path: bytes) -> None:
        real = self.root.make_directories(path)
        while real and real not in self.made:
            # Those that existed are noted too: they are parents of something in the layer either way.
            self.made.add(real)
            real = real.rpartition(b"/")[0]

    def _real(self, fd: int) -> bytes | None:
        try:
            full = os.readlink(b"/proc/self/fd/%d" % fd)
        except OSError:
            return None  # longer than the kernel can say
        prefix = self._prefix.rstrip(b"/") + b"/"
        return full[len(prefix) :] if full.startswith(prefix) else None

    def _trim(self) -> None:
        if len(self._open) >= _KEPT_OPEN:
            self._drop(self._open.pop(next(iter(self._open))))

    def _drop(self, directory: Directory) -> None:
        directory.dropped = True
        if directory.users:
            self._lingering.add(directory)
        else:
            os.close(directory.fd)


class Task(NamedTuple):
    """One small inode to be made."""

    name: bytes
    entry: Entry
    data: Buffer


Batch = tuple[Directory, list[Task]]


class Crew:
    """A few threads that make small inodes, and the batches they are given.

    Tasks of one directory stay in order; between directories there is no order until `drain` returns.  A name that
    is taken comes back to *taken*, in the caller's thread.  The first error is raised by the next call.
    """

    def __init__(
        self, maker: Maker, directories: Directories, taken: Callable[[Directory, Task], None], workers: int = _WORKERS
    ) -> None:
        self._maker = maker
        self._directories = directories
        self._taken = taken
        self._batch: list[Task] = []
        self._batch_bytes = 0
        self._directory = directories.top
        self._in_flight = 0
        self._next = 0
        self._queues: list[queue.SimpleQueue[Batch | None]] = [queue.SimpleQueue() for _ in range(workers)]
        self._done: queue.SimpleQueue[tuple[Directory, list[Task], BaseException | None]] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._unaided = 0

    def add(self, directory: Directory, task: Task) -> None:
        """Take one task; it is done at the latest when `drain` returns."""
        if directory is not self._directory or len(self._batch) >= _BATCH or self._batch_bytes > _BATCH_BYTES:
            self._send()
        if not self._batch:
            # In use from the first task on, lest it be closed before the batch is sent.
            self._directory = directory
            directory.users += 1
        self._batch.append(task)
        self._batch_bytes += len(task.data)

    def busy(self, directory: Directory) -> bool:
        """Tell whether tasks for *directory* may be unfinished."""
        return directory.users > 0

    def drain(self) -> None:
        """Return when all tasks are done."""
        self._send()
        while self._in_flight:
            self._collect()

    def close(self) -> None:
        """End the threads; what was not drained may or may not be made."""
        for inbox in self._queues:
            inbox.put(None)
        for thread in self._threads:
            thread.join()

    def _send(self) -> None:
        if not self._batch:
            return
        batch = self._batch
        directory = self._directory
        self._batch = []
        self._batch_bytes = 0
        if self._unaided < _UNAIDED:
            self._unaided += 1
            self._in_flight += 1
            self._done.put(self._perform((directory, batch)))
            self._collect()
            return
        if not self._threads:
            self._start()
        if directory.users == 1:
            self._next = (self._next + 1) % len(self._queues)
            directory.worker = self._next
        self._in_flight += 1
        self._queues[directory.worker].put((directory, batch))
        while self._in_flight > _IN_FLIGHT:
            self._collect()

    def _collect(self) -> None:
        directory, taken, problem = self._done.get()
        self._in_flight -= 1
        self._directories.release(directory)
        if problem is not None:
            raise problem
        if taken:
            # What comes after in this directory must not overtake the names that have to be cleared first.
            while self._in_flight:
                self._collect()
            for task in taken:
                self._taken(directory, task)

    def _start(self) -> None:
        for number, inbox in enumerate(self._queues):
            thread = threading.Thread(target=self._work, args=(inbox,), name=f"layer-writer-{number}", daemon=True)
            thread.start()
            self._threads.append(thread)

    def _work(self, inbox: queue.SimpleQueue[Batch | None]) -> None:
        while (batch := inbox.get()) is not None:
            self._done.put(self._perform(batch))

    def _perform(self, batch: Batch) -> tuple[Directory, list[Task], BaseException | None]:
        """Do a batch; return the tasks whose name was taken, and the error that ended it early, if one did."""
        directory, tasks = batch
        taken: list[Task] = []
        for task in tasks:
            try:
                place(self._maker, directory, task)
            except FileExistsError:
                taken.append(task)
            except BaseException as problem:  # noqa: BLE001 — raised again by the thread that asked
                return directory, taken, problem
        return directory, taken, None


def place(maker: Maker, directory: Directory, task: Task) -> None:
    """Make the inode of *task* now; FileExistsError if its name is taken."""
    try:
        if task.entry.kind is Kind.REGULAR:
            maker.regular(directory.fd, task.name, task.entry, task.data, directory.inherited)
        else:
            maker.other(directory.fd, task.name, task.entry, directory.inherited)
    except FileExistsError:
        raise
    except OSError as problem:
        problem.filename = task.entry.name
        raise

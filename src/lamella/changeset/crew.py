"""Handing small inodes to a process that makes them, while this one reads the layer on.

Reading a layer and making its files keep one processor busy each.  Threads cannot share that, since every system call
takes the interpreter's lock anew.  Order, errors and names that are taken stay those of one process: tasks are done
one after the other, and where one cannot be done, it and all after it come back to be done here.
"""

from __future__ import annotations

import marshal
import mmap
import os
import socket
import sys
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from lamella.changeset.entry import Entry, Kind
from lamella.changeset.inodes import Buffer, Maker
from lamella.changeset.placement import Directory, Task
from lamella.changeset.placer import ANSWER, BATCH, DIRECTORIES, READY, Order, fields
from lamella.errors import Unavailable

if TYPE_CHECKING:
    from lamella.linux.spawn import Running

UNAIDED = 1000
"""Inodes made before a process is worth its start; most layers of a build have fewer."""
PATIENCE = 0.0
"""Seconds to wait for a process just started: it is better to go on without until it is there."""

_LOOK: Final = 16
"""Inodes made between two looks."""
_SLOTS: Final = 4
_SLOT: Final = 1 << 20
_BATCH: Final = 256
_TELL: Final = 64 << 10
"""Most bytes that names, links and attributes of one task may have to be handed over."""
_ROOM: Final = 256 << 10
"""What a slot keeps for them; the rest is for data."""
_PER_TASK: Final = 160
_BOOTSTRAP: Final = "import sys; sys.path.insert(0, sys.argv[1]); from lamella.changeset.placer import main; main()"


class _Batch:
    """Tasks that lie in one slot of the shared memory, and the directories they go to."""

    __slots__ = ("data", "fds", "names", "numbers", "orders", "slot", "told")

    def __init__(self, slot: int) -> None:
        self.slot = slot
        self.orders: list[Order] = []
        self.names: list[tuple[bytes, Entry]] = []
        """For each order the path of its directory, and its entry."""
        self.numbers: dict[bytes, int] = {}
        """Real path of each directory, and its number."""
        self.fds: list[int] = []
        self.data = slot * _SLOT
        self.told = 0


class Crew:
    """One process that makes small inodes, from the moment that it is worth it, and the tasks it is given.

    *again* is called, in the caller's thread and in order, with the directory's path and each task that the process
    could not do, and with all that came after.  *behind* tells whether the caller is what the layer waits for: else
    there is nothing to gain.
    """

    def __init__(self, maker: Maker, again: Callable[[bytes, Task], None], behind: Callable[[], bool]) -> None:
        self._maker = maker
        self._again = again
        self._behind = behind
        self._left: int | None = UNAIDED
        self._process: Running | None = None
        self._orders: socket.socket | None = None
        self._memory: mmap.mmap | None = None
        self._ready = False
        self._batch: _Batch | None = None
        self._in_flight: deque[_Batch] = deque()
        self._free: list[int] = []

    def takes(self, task: Task) -> bool:
        """Tell whether *task* may be given to `add`; if not, the caller makes it."""
        if not self._ready:
            if self._left is None:
                return False
            self._left -= 1
            if self._left > 0 or not self._prepare():
                return False
        entry = task.entry
        return len(entry.link) <= _TELL and (entry.xattrs is None or _length(entry.xattrs) <= _TELL)

    def add(self, directory: Directory, task: Task) -> None:
        """Take one task; it is done at the latest when `drain` returns."""
        entry, data = task.entry, task.data
        tell = _PER_TASK + len(task.name) + len(entry.link)
        if entry.xattrs:
            tell += _length(entry.xattrs)
        batch = self._batch
        if batch is not None and (
            len(batch.orders) >= _BATCH
            or batch.told + tell > _ROOM
            or batch.data + len(data) > (batch.slot + 1) * _SLOT - _ROOM
            or (len(batch.fds) >= DIRECTORIES and directory.real not in batch.numbers)
        ):
            self._send()
            batch = None
        if batch is None:
            while not self._free and self._ready:
                self._collect()
            if not self._ready:
                self._again(directory.path, task)
                return
            batch = self._batch = _Batch(self._free.pop())
        number = batch.numbers.get(directory.real)
        if number is None:
            number = batch.numbers[directory.real] = len(batch.fds)
            # The directory may be closed before the batch is sent.
            batch.fds.append(os.dup(directory.fd))
        assert self._memory is not None
        start, size = batch.data, len(data)
        if size:
            self._memory[start : start + size] = data
            batch.data = start + size
        batch.told += tell
        batch.orders.append((number, directory.inherited, task.name, start, size, fields(entry)))
        batch.names.append((directory.path, entry))

    def busy(self, real: bytes) -> bool:
        """Tell whether something in the directory with the path *real* may still have to be made."""
        return any(real in batch.numbers for batch in self._in_flight) or (
            self._batch is not None and real in self._batch.numbers
        )

    @property
    def idle(self) -> bool:
        """Tell whether everything is done."""
        return not self._in_flight and self._batch is None

    def drain(self) -> None:
        """Return when all tasks are done."""
        self._send()
        while self._in_flight:
            self._collect()

    def close(self) -> None:
        """End the process, and return when it has; what was not drained may or may not be made."""
        self._left = None
        self._ready = False
        unfinished = not self.idle
        if self._batch is not None:
            _close(self._batch)
            self._batch = None
        self._in_flight.clear()
        if self._orders is not None:
            self._orders.close()
            self._orders = None
        if self._process is not None:
            if unfinished:
                self._process.kill()
            self._process.wait()
            self._process = None
        if self._memory is not None:
            self._memory.close()
            self._memory = None

    # ---- the process ----------------------------------------------------------------------------------------------

    def _prepare(self) -> bool:
        """Start the process unless it was, and tell whether it is there."""
        self._left = _LOOK
        if self._orders is None:
            if not self._behind():
                return False
            if not self._start():
                self._left = None
                return False
        assert self._orders is not None
        try:
            said = self._orders.recv(len(READY))
        except (BlockingIOError, TimeoutError):
            return False
        except OSError:
            said = b""
        if said != READY:
            # It could not even start: whatever this interpreter is embedded in, the work is done here.
            self.close()
            return False
        self._orders.settimeout(None)
        self._ready = True
        self._free = list(range(_SLOTS))
        return True

    def _start(self) -> bool:
        from lamella.linux.spawn import NULL, start

        if not os.path.basename(sys.executable or "").startswith("python"):
            return False
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        memory = -1
        try:
            memory = os.memfd_create("lamella-layer", os.MFD_CLOEXEC)
            os.ftruncate(memory, _SLOTS * _SLOT)
            self._memory = mmap.mmap(memory, _SLOTS * _SLOT)
            package = Path(__file__).resolve().parents[2]
            self._process = start(
                [
                    *(sys.executable, "-I", "-S", "-c", _BOOTSTRAP, str(package)),
                    *(str(memory), str(os.getpid()), str(self._maker.umask)),
                ],
                env={},
                stdin=theirs.fileno(),
                stdout=NULL,
                stderr=NULL,
                pass_fds=(memory,),
                cwd=Path("/"),
                # Whoever interrupts us from a terminal means us: what is under way is ended by `close`.
                start_new_session=True,
            )
        except (OSError, Unavailable):
            ours.close()
            return False
        finally:
            theirs.close()
            if memory >= 0:
                os.close(memory)
        ours.settimeout(PATIENCE)
        self._orders = ours
        return True

    # ---- batches --------------------------------------------------------------------------------------------------

    def _send(self) -> None:
        batch = self._batch
        if batch is None:
            return
        assert self._memory is not None and self._orders is not None
        told = marshal.dumps(batch.orders, 2)
        start = batch.data
        self._memory[start : start + len(told)] = told
        try:
            socket.send_fds(self._orders, [BATCH.pack(start, len(told))], batch.fds)
        except (BrokenPipeError, ConnectionResetError):
            pass  # `_collect` tells an end that was told of from one that was not
        _close(batch)
        self._batch = None
        self._in_flight.append(batch)

    def _collect(self) -> None:
        assert self._orders is not None
        try:
            answer = self._orders.recv(ANSWER.size)
        except ConnectionResetError:
            answer = b""
        if not answer:
            raise self._died()
        batch = self._in_flight.popleft()
        (done,) = ANSWER.unpack(answer)
        if done == len(batch.orders):
            self._free.append(batch.slot)
            return
        self._take_back(batch, done)

    def _take_back(self, batch: _Batch, done: int) -> None:
        """Do here what was not done, and all that will come: the process has ended."""
        memory = self._memory
        assert memory is not None
        self._memory = None
        batches = [batch, *self._in_flight]
        if self._batch is not None:
            batches.append(self._batch)
        self.close()
        with memory:
            for each in batches:
                for (_, _, name, start, size, _), (path, entry) in zip(
                    each.orders[done:], each.names[done:], strict=True
                ):
                    self._again(path, Task(name, entry, memory[start : start + size]))
                done = 0

    def _died(self) -> Unavailable:
        assert self._process is not None
        code = self._process.wait()
        how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
        return Unavailable(f"the process that makes the files of a layer {how}; try again")


def _length(xattrs: dict[bytes, bytes]) -> int:
    return sum(len(name) + len(value) + 16 for name, value in xattrs.items())


def _close(batch: _Batch) -> None:
    for fd in batch.fds:
        os.close(fd)
    batch.fds.clear()

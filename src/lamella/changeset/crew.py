"""Handing small inodes to a process that makes them, while this one reads the layer on.

Reading a layer and making its files keep one processor busy each.  Threads cannot share that, since every system call
takes the interpreter's lock anew.  Order, errors and names that are taken stay those of one process: tasks are done
one after the other, and where one cannot be done, it and all after it come back to be done here.
"""

from __future__ import annotations

import contextlib
import marshal
import mmap
import os
import socket
import sys
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from lamella.changeset.entry import Entry
from lamella.changeset.inodes import Maker
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

    def close(self) -> None:
        """Let go of the directories, of which the helper has descriptors of its own once they are sent."""
        for fd in self.fds:
            os.close(fd)
        self.fds.clear()


class _Helper(NamedTuple):
    """The process, the socket it takes its orders from, and the memory both see."""

    process: Running
    orders: socket.socket
    memory: mmap.mmap

    def end(self, *, kill: bool) -> int:
        """End it, and return how it ended; the memory stays."""
        if kill:
            self.process.kill()
        self.orders.close()
        return self.process.wait()


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
        self._helper: _Helper | None = None
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
        return len(task.name) + len(entry.link) <= _TELL and (entry.xattrs is None or _length(entry.xattrs) <= _TELL)

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
        while batch is None and not self._free and self._ready:
            self._collect()
        helper = self._helper
        if helper is None:
            self._again(directory.path, task)
            return
        if batch is None:
            batch = self._batch = _Batch(self._free.pop())
        number = batch.numbers.get(directory.real)
        if number is None:
            number = batch.numbers[directory.real] = len(batch.numbers)
            # The directory may be closed before the batch is sent.
            batch.fds.append(os.dup(directory.fd))
        start, size = batch.data, len(data)
        if size:
            helper.memory[start : start + size] = data
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
        helper = self._leave(kill=not self.idle)
        if helper is not None:
            helper.memory.close()

    def _leave(self, *, kill: bool) -> _Helper | None:
        """End the process for good and forget all tasks; its memory is the caller's to close."""
        self._left = None
        self._ready = False
        if self._batch is not None:
            self._batch.close()
        self._batch = None
        self._in_flight.clear()
        helper, self._helper = self._helper, None
        if helper is not None:
            helper.end(kill=kill)
        return helper

    # ---- the process ----------------------------------------------------------------------------------------------

    def _prepare(self) -> bool:
        """Start the process unless it was, and tell whether it is there."""
        self._left = _LOOK
        helper = self._helper
        if helper is None:
            if not self._behind():
                return False
            helper = self._helper = self._start()
            if helper is None:
                self._left = None
                return False
        try:
            said = helper.orders.recv(len(READY))
        except (BlockingIOError, TimeoutError):
            return False
        except OSError:
            said = b""
        if said != READY:
            # It could not even start: whatever this interpreter is embedded in, the work is done here.
            self.close()
            return False
        helper.orders.settimeout(None)
        self._ready = True
        self._free = list(range(_SLOTS))
        return True

    def _start(self) -> _Helper | None:
        """Start a fresh interpreter, not a fork of this one: that would have its locks and descriptors."""
        from lamella.linux.spawn import NULL, start

        if not os.path.basename(sys.executable or "").startswith("python"):
            return None
        with contextlib.ExitStack() as held:
            try:
                ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                undo = held.enter_context(contextlib.ExitStack())
                undo.callback(ours.close)
                held.callback(theirs.close)
                shared = os.memfd_create("lamella-layer", os.MFD_CLOEXEC)
                held.callback(os.close, shared)
                os.ftruncate(shared, _SLOTS * _SLOT)
                memory = undo.enter_context(mmap.mmap(shared, _SLOTS * _SLOT))
                package = Path(__file__).resolve().parents[2]
                arguments = (package, shared, os.getpid(), self._maker.umask)
                process = start(
                    (sys.executable, "-I", "-S", "-c", _BOOTSTRAP, *map(str, arguments)),
                    env={},
                    stdin=theirs.fileno(),
                    stdout=NULL,
                    stderr=NULL,
                    pass_fds=(shared,),
                    cwd=Path("/"),
                    # Whoever interrupts us from a terminal means us: what is under way is ended by `close`.
                    start_new_session=True,
                )
            except (OSError, Unavailable):
                return None
            undo.pop_all()
        ours.settimeout(PATIENCE)
        return _Helper(process, ours, memory)

    # ---- batches --------------------------------------------------------------------------------------------------

    def _send(self) -> None:
        batch, helper = self._batch, self._helper
        if batch is None or helper is None:
            return
        told = marshal.dumps(batch.orders, 2)
        start = batch.data
        helper.memory[start : start + len(told)] = told
        # `_collect` tells an end that was told of from one that was not.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            socket.send_fds(helper.orders, [BATCH.pack(start, len(told))], batch.fds)
        batch.close()
        self._batch = None
        self._in_flight.append(batch)

    def _collect(self) -> None:
        helper = self._helper
        if helper is None:
            return
        try:
            answer = helper.orders.recv(ANSWER.size)
        except ConnectionResetError:
            answer = b""
        if not answer:
            raise _died(helper.end(kill=False))
        (done,) = ANSWER.unpack(answer)
        if done < len(self._in_flight[0].orders):
            self._take_back(done)
        else:
            self._free.append(self._in_flight.popleft().slot)

    def _take_back(self, done: int) -> None:
        """Do here what comes after the first *done* tasks, and all that will come: the process has ended."""
        batches = [*self._in_flight] if self._batch is None else [*self._in_flight, self._batch]
        helper = self._leave(kill=False)
        if helper is None:
            return
        with helper.memory as memory:
            for batch in batches:
                for order, (path, entry) in zip(batch.orders[done:], batch.names[done:], strict=True):
                    _, _, name, start, size, _ = order
                    self._again(path, Task(name, entry, memory[start : start + size]))
                done = 0


def _died(code: int) -> Unavailable:
    how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
    return Unavailable(f"the process that makes the files of a layer {how}; try again")


def _length(xattrs: dict[bytes, bytes]) -> int:
    return sum(len(name) + len(value) + 16 for name, value in xattrs.items())

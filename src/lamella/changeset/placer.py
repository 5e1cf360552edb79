"""The process that makes a layer's small inodes while its parent reads the layer on; see crew for the parent's side.

It imports little, so that it starts fast.  What it is told stands in memory it shares with its parent; directories come
as descriptors, so it can make nothing outside of them.  It ends, with no word, when its parent has.
"""

from __future__ import annotations

import marshal
import mmap
import os
import socket
import struct
import sys
from typing import Final

from lamella.changeset.entry import Entry, Kind
from lamella.changeset.inodes import Buffer, Maker, make

BATCH: Final = struct.Struct("=QQ")
"""One batch: where in the shared memory its marshalled tasks stand, and how long they are.  Its directories come along."""
ANSWER: Final = struct.Struct("=Q")
"""How many tasks of the batch were done.  Fewer than it has say that the next failed and no more will be done."""
READY: Final = b"ready"
DIRECTORIES: Final = 32
"""Most directories that one batch may have."""

_Fields = tuple[int, int, int, int, int, int | None, dict[bytes, bytes] | None, bytes, int, int]
Order = tuple[int, int | None, bytes, int, int, _Fields]
"""Directory by its number, the group it gives, name, where the data are and their length, the fields of the entry."""

_KINDS: Final = tuple(Kind)


def fields(entry: Entry) -> _Fields:
    """Take apart what `Maker` asks of an entry; `_entry` puts it together again."""
    return (
        int(entry.kind),
        entry.mode,
        entry.uid,
        entry.gid,
        entry.mtime_ns,
        entry.atime_ns,
        entry.xattrs,
        entry.link,
        entry.major,
        entry.minor,
    )


def _entry(given: _Fields) -> Entry:
    kind, mode, uid, gid, mtime, atime, xattrs, link, major, minor = given
    return Entry(
        b"",
        _KINDS[kind],
        path=b"",
        mode=mode,
        uid=uid,
        gid=gid,
        mtime_ns=mtime,
        atime_ns=atime,
        xattrs=xattrs,
        link=link,
        major=major,
        minor=minor,
    )


def main() -> None:
    """Do what comes in by standard input until it ends; arguments: memory descriptor, parent's process ID and umask."""
    memory_fd, parent, umask = map(int, sys.argv[-3:])
    os.umask(umask)
    with socket.socket(fileno=0) as orders, mmap.mmap(memory_fd, 0) as memory, memoryview(memory) as view:
        os.close(memory_fd)
        orders.send(READY)
        _serve(orders, view, parent)
    os._exit(0)


def _serve(orders: socket.socket, view: memoryview, parent: int) -> None:
    maker = Maker()
    while True:
        message, directories, _, _ = socket.recv_fds(orders, BATCH.size, DIRECTORIES)
        if not message:
            return
        start, length = BATCH.unpack(message)
        tasks: list[Order] = marshal.loads(view[start : start + length])  # noqa: S302 — our parent's word
        done = _perform(maker, tasks, directories, view, parent)
        for fd in directories:
            os.close(fd)
        orders.send(ANSWER.pack(done))
        if done < len(tasks):
            _ignore(orders)
            return


def _ignore(orders: socket.socket) -> None:
    """Wait for the end: who hangs up on words unread makes the answer before be lost."""
    while orders.recv(BATCH.size):
        pass


def _perform(maker: Maker, tasks: list[Order], directories: list[int], view: Buffer, parent: int) -> int:
    """Do *tasks* until one fails, and return how many were done; why it failed, the parent sees when it tries."""
    for number, (directory, inherited, name, start, size, given) in enumerate(tasks):
        if os.getppid() != parent:
            os._exit(0)  # killed; what it has left behind may be on its way out already
        try:
            make(maker, directories[directory], name, _entry(given), view[start : start + size], inherited)
        except Exception:  # noqa: BLE001 — the parent meets the same
            return number
    return len(tasks)

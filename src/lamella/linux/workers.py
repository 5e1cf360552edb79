"""Work spread over forked processes, for what would otherwise wait for the interpreter lock.

The function and its tasks need not be picklable: children inherit them.  Results come back as JSON, so they are made of
lists, dicts, text, numbers and None.
"""

from __future__ import annotations

import json
import os
import selectors
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from lamella.errors import Unavailable

T = TypeVar("T")

_LENGTH = struct.Struct("<I?")


def usable_processors() -> int:
    """Return how many processors this process may use."""
    return max(1, len(os.sched_getaffinity(0)))


def forked_map(work: Callable[[T], Any], tasks: Sequence[T], processes: int | None = None) -> Iterator[tuple[T, Any]]:
    """Yield each task with what *work* made of it, in no order, worked on by forked children.

    One process, or one task, costs no fork.  Raises Unavailable if a child dies or its work fails with what is not
    expected of it.  The caller must not run threads that hold locks.
    """
    count = min(usable_processors() if processes is None else processes, len(tasks))
    if count <= 1:
        for task in tasks:
            yield task, work(task)
        return
    # Every child takes the next task from a pipe that already holds the numbers of all of them.
    groups = [range(len(tasks))[start :: _groups(len(tasks))] for start in range(_groups(len(tasks)))]
    queue_read, queue_write = os.pipe2(os.O_CLOEXEC)
    children: dict[int, int] = {}
    try:
        os.write(queue_write, b"".join(number.to_bytes(4, "little") for number in range(len(groups))))
        os.close(queue_write)
        queue_write = -1
        for _ in range(count):
            read_end, write_end = os.pipe2(os.O_CLOEXEC)
            pid = os.fork()
            if not pid:
                _serve(queue_read, write_end, work, tasks, groups)
            os.close(write_end)
            children[read_end] = pid
        yield from _collect(children, tasks)
    finally:
        for fd in (queue_read, queue_write):
            if fd >= 0:
                os.close(fd)
        for fd, pid in children.items():
            os.close(fd)  # who still writes gets EPIPE
            os.waitpid(pid, 0)


def _groups(count: int) -> int:
    """Return into how many groups tasks go: an empty pipe takes 16,384 numbers without a reader."""
    return min(count, 8192)


def _serve(
    queue: int, sink: int, work: Callable[[T], Any], tasks: Sequence[T], groups: Sequence[range]
) -> None:  # pragma: no cover - in the child
    code = 1
    try:
        while raw := os.read(queue, 4):
            for number in groups[int.from_bytes(raw, "little")]:
                _send(sink, False, [number, work(tasks[number])])
        code = 0
    except BaseException as error:  # noqa: BLE001 - told to the parent, which raises it
        try:
            _send(sink, True, f"{type(error).__name__}: {error}")
        except OSError:
            code = 2
    finally:
        os._exit(code)


def _send(sink: int, failed: bool, value: object) -> None:
    raw = json.dumps(value).encode()
    view = memoryview(_LENGTH.pack(len(raw), failed) + raw)
    while view:
        view = view[os.write(sink, view) :]


def _collect(children: dict[int, int], tasks: Sequence[T]) -> Iterator[tuple[T, Any]]:
    left = len(tasks)
    buffers = {fd: bytearray() for fd in children}
    with selectors.DefaultSelector() as selector:
        for fd in children:
            selector.register(fd, selectors.EVENT_READ)
        while selector.get_map():
            for key, _ in selector.select():
                piece = os.read(key.fd, 1 << 16)
                if not piece:
                    selector.unregister(key.fd)
                    continue
                buffer = buffers[key.fd]
                buffer += piece
                while len(buffer) >= _LENGTH.size:
                    length, failed = _LENGTH.unpack_from(buffer)
                    if len(buffer) < _LENGTH.size + length:
                        break
                    value = json.loads(bytes(buffer[_LENGTH.size : _LENGTH.size + length]))
                    del buffer[: _LENGTH.size + length]
                    if failed:
                        raise Unavailable(f"a helper process failed: {value}")
                    left -= 1
                    yield tasks[value[0]], value[1]
    if left:
        raise Unavailable(f"a helper process died with {left} tasks left; free some memory and try again")

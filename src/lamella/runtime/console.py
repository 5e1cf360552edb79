"""A terminal for a command whose client has none: the runtime makes it and hands over its other end.

The client's streams are copied to and from that end as they are; modes, sizes and keys belong to clients that have a
terminal themselves, and those let the runtime use it directly.
"""

from __future__ import annotations

import errno
import os
import select
import socket
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from lamella.linux import spawn
from lamella.runtime.attach import Streams
from lamella.runtime.oci_cli import TOOL_ENVIRONMENT
from lamella.runtime.rundir import RunDirectory

_BLOCK: Final = 1 << 14
_END_OF_INPUT: Final = b"\x04"


def run_on_console(line: Sequence[str], run: RunDirectory, name: str, streams: Streams) -> int:
    """Run the runtime's *line* with a terminal of its own and return its exit code.

    *name* is a file name nobody else uses in the run directory, which becomes the working directory; the line must
    name it as the console socket.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        directory = os.open(run.path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            listener.bind(f"/proc/self/fd/{directory}/{name}")
        finally:
            os.close(directory)
        try:
            listener.listen(1)
            return _run(line, run, listener, streams)
        finally:
            with suppress(FileNotFoundError):
                (run.path / name).unlink()


def _run(line: Sequence[str], run: RunDirectory, listener: socket.socket, streams: Streams) -> int:
    program = spawn.start(
        list(line), env=TOOL_ENVIRONMENT, stdin=spawn.NULL, stdout=spawn.NULL, stderr=spawn.NULL, cwd=run.path
    )
    finished = False
    try:
        console = _accept(listener, program.pid)
        if console is not None:
            try:
                _copy(console, streams)
            finally:
                os.close(console)
        code = program.wait()
        finished = True
    finally:
        if not finished:
            program.kill()
            program.wait()
    return code if code >= 0 else 128 - code


def _accept(listener: socket.socket, pid: int) -> int | None:
    """Wait for the terminal's other end; None if the runtime ended without sending one."""
    process = os.pidfd_open(pid)
    try:
        poll = select.poll()
        poll.register(listener, select.POLLIN)
        poll.register(process, select.POLLIN)
        ready = {fd for fd, _ in poll.poll()}
    finally:
        os.close(process)
    if listener.fileno() not in ready:
        return None
    connection, _ = listener.accept()
    with connection:
        _, descriptors, _, _ = socket.recv_fds(connection, 4096, 1)
    if not descriptors:
        return None
    os.set_inheritable(descriptors[0], False)
    return descriptors[0]


def _copy(console: int, streams: Streams) -> None:
    """Copy both ways until the terminal's last holder in the container is gone."""
    stdin, stdout = streams.stdin, streams.stdout
    while True:
        poll = select.poll()
        poll.register(console, select.POLLIN)
        if stdin is not None:
            poll.register(stdin, select.POLLIN)
        for fd, _ in poll.poll():
            if fd == console:
                try:
                    piece = os.read(console, _BLOCK)
                except OSError as problem:
                    if problem.errno == errno.EIO:
                        return
                    raise
                if not piece:
                    return
                if stdout is not None:
                    _write_all(stdout, piece)
            elif stdin is not None:
                piece = os.read(stdin, _BLOCK)
                with suppress(OSError):  # nobody in the container holds the terminal any more
                    _write_all(console, piece or _END_OF_INPUT)
                if not piece:
                    stdin = None


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]

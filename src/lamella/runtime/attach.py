"""A client's streams joined to a container's, over the monitor's socket.

The monitor sends packets whose first byte names the stream; what it receives is the container's input.  Terminal
modes, sizes, the detach keys and the forwarding of signals are here, because they belong to the client's side.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
from collections.abc import Callable, Generator
from typing import Final, NamedTuple, Self

from lamella.errors import InvalidArgument, Unavailable
from lamella.runtime.monitor import resize_terminal
from lamella.runtime.rundir import RunDirectory, open_pidfd

#: ctrl-p ctrl-q
DETACH_KEYS: Final = b"\x10\x11"

_STDERR_PACKET: Final = 3
# The monitor reads at most 32 KiB of a packet and sends at most 8 KiB and one byte.
_INPUT_CHUNK: Final = 16384
_PACKET: Final = 1 << 16
_UNFORWARDED: Final = frozenset(
    {signal.SIGCHLD, signal.SIGPIPE, signal.SIGURG, signal.SIGWINCH, signal.SIGKILL, signal.SIGSTOP, signal.SIGTSTP}
    | {signal.SIGTTIN, signal.SIGTTOU, signal.SIGCONT, signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL}
    | {signal.SIGTRAP, signal.SIGSYS, signal.SIGABRT, signal.SIGALRM, signal.SIGVTALRM, signal.SIGPROF}
)


class Streams(NamedTuple):
    """The client's descriptors; None is a stream the client does not want."""

    stdin: int | None
    stdout: int | None
    stderr: int | None


def parse_detach_keys(text: str) -> bytes:
    """Read Docker's ``--detach-keys``: characters and ``ctrl-X`` separated by commas; empty means none."""
    if not text:
        return b""
    keys = bytearray()
    for word in text.split(","):
        if len(word) == 1:
            keys += word.encode()
        elif len(word) == 6 and word.startswith("ctrl-") and (word[5].isalpha() or word[5] in "@[\\]^_"):
            keys.append(ord(word[5].upper()) & 0x1F)
        else:
            raise InvalidArgument(f"invalid detach keys {text!r}: {word!r} is neither a character nor ctrl-<key>")
    return bytes(keys)


class Attachment:
    """One connection to a container's monitor; a context manager."""

    def __init__(self, run: RunDirectory) -> None:
        self._run = run
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            # By descriptor: a path of any length fits a socket's address this way.
            directory = os.open(run.path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                self._socket.connect(f"/proc/self/fd/{directory}/{run.attach_socket.name}")
            finally:
                os.close(directory)
        except OSError as problem:
            self._socket.close()
            raise Unavailable(f"container {run.name[:12]} has no monitor to attach to") from problem

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def stream(
        self, streams: Streams, *, terminal: bool, detach_keys: bytes = DETACH_KEYS, forward_signals: bool = False
    ) -> bool:
        """Copy until the container's output ends (True) or the client types the detach keys (False).

        With *terminal*, a stdin that is a terminal is put into raw mode meanwhile and its size followed.  The end of
        the client's input is passed on as the end of the container's.  Raises OSError, BrokenPipeError above all, when
        the client's output takes no more: going on would lose what is printed.  The connection is closed then, for a
        monitor that waits to be read from sees nothing else, not even the container's end.
        """
        console = terminal and streams.stdin is not None and os.isatty(streams.stdin)
        with contextlib.ExitStack() as scope:
            if console and streams.stdin is not None:
                scope.enter_context(_raw_terminal(streams.stdin))
                scope.enter_context(
                    _followed_size(streams.stdin, lambda rows, columns: resize_terminal(self._run, rows, columns))
                )
            elif forward_signals:
                scope.enter_context(forwarded_signals(self._run))
            try:
                return self._copy(streams, detach_keys if console else b"")
            except OSError:
                self._socket.close()
                raise

    def _copy(self, streams: Streams, detach_keys: bytes) -> bool:
        stdin, stdout, stderr = streams
        held = pending = b""
        ended = False
        while True:
            # While input waits for the monitor no more is read: both directions blocking at once would never end.
            poll = select.poll()
            poll.register(self._socket, select.POLLIN | (select.POLLOUT if pending else 0))
            if stdin is not None and not pending:
                poll.register(stdin, select.POLLIN)
            for fd, events in poll.poll():
                if fd == self._socket.fileno():
                    if events & (select.POLLIN | select.POLLHUP | select.POLLERR):
                        packet = self._receive()
                        if not packet:
                            return True
                        target = stderr if packet[0] == _STDERR_PACKET else stdout
                        if target is not None:
                            _write_all(target, memoryview(packet)[1:])
                elif stdin is not None:
                    typed = _read(stdin, _INPUT_CHUNK) if events & ~select.POLLNVAL else b""
                    if not typed:
                        stdin, pending, held, ended = None, held, b"", True
                    elif detach_keys:
                        pending, held, detached = _scan(held + typed, detach_keys)
                        if detached:
                            self._send(pending)
                            return False
                    else:
                        pending = typed
            if pending:
                pending = self._send(pending)
            if ended and not pending:
                ended = False
                self._end_input()

    def _receive(self) -> bytes:
        try:
            return self._socket.recv(_PACKET)
        except ConnectionError:
            return b""

    def _send(self, data: bytes) -> bytes:
        """Send one packet if the monitor takes it now; return what is still to be sent."""
        try:
            self._socket.send(data, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return data
        except ConnectionError:
            return b""
        return b""

    def _end_input(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)


def _scan(typed: bytes, keys: bytes) -> tuple[bytes, bytes, bool]:
    """Split what was typed into what goes on, what may be the begin of *keys*, and whether *keys* came."""
    at = typed.find(keys)
    if at >= 0:
        return typed[:at], b"", True
    for length in range(min(len(keys) - 1, len(typed)), 0, -1):
        if typed.endswith(keys[:length]):
            return typed[:-length], typed[-length:], False
    return typed, b"", False


def _read(fd: int, size: int) -> bytes:
    try:
        return os.read(fd, size)
    except OSError:
        # A terminal that hung up reads as an error.
        return b""


def _write_all(fd: int, data: memoryview) -> None:
    while data:
        try:
            data = data[os.write(fd, data) :]
        except BlockingIOError:
            select.select([], [fd], [])


@contextlib.contextmanager
def _raw_terminal(fd: int) -> Generator[None]:
    import termios
    import tty

    before = termios.tcgetattr(fd)
    tty.setraw(fd, termios.TCSANOW)
    try:
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


def read_terminal_size(fd: int) -> tuple[int, int] | None:
    """Return a terminal's rows and columns, None if *fd* is none or has no size."""
    try:
        size = os.get_terminal_size(fd)
    except OSError:
        return None
    return (size.lines, size.columns) if size.lines and size.columns else None


@contextlib.contextmanager
def _followed_size(fd: int, resize: Callable[[int, int], None]) -> Generator[None]:
    def follow(*_: object) -> None:
        size = read_terminal_size(fd)
        if size is not None:
            resize(*size)

    follow()
    with _handler({signal.SIGWINCH}, follow):
        yield


@contextlib.contextmanager
def forwarded_signals(run: RunDirectory) -> Generator[None]:
    """Pass the signals this process gets on to the container's first process, for the length of the block."""
    found = run.read_identity()
    target = None if found is None else open_pidfd(found.pid, found.started)
    if target is None:
        yield
        return

    def forward(number: int, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(target, number)

    try:
        with _handler(signal.valid_signals() - _UNFORWARDED, forward):
            yield
    finally:
        os.close(target)


@contextlib.contextmanager
def _handler(signals: set[signal.Signals] | set[int], function: Callable[..., None]) -> Generator[None]:
    """Install *function* for *signals* where that is allowed: in a program's main thread."""
    before: dict[int, object] = {}
    try:
        for number in signals:
            try:
                before[int(number)] = signal.signal(number, function)
            except (ValueError, OSError):
                continue
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old if old is not None else signal.SIG_DFL)  # type: ignore[arg-type]

"""Running other programs: the one place that does.

A program gets exactly the environment, descriptors and directory its caller names; nothing is inherited by accident
and no shell is involved.  Which program and why is for the callers.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Required, TypedDict, Unpack

from lamella.errors import Unavailable

if TYPE_CHECKING:
    import subprocess
    from typing import TypeAlias

    Running: TypeAlias = subprocess.Popen[bytes]

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# What `start` takes for a stream besides a descriptor; the values are subprocess's.
PIPE = -1
STDOUT = -2
NULL = -3


class Streams(TypedDict, total=False):
    """What ``start`` is told about environment and standard streams."""

    env: Required[Mapping[str, str]]
    stdin: int | None
    stdout: int | None
    stderr: int | None


class Completed(NamedTuple):
    """How a program ended; *code* is negative for the signal that killed it."""

    code: int
    stdout: bytes
    stderr: bytes


def find_tool(name: str, *, package: str, path: str = DEFAULT_PATH) -> str:
    """Return the absolute path of the program *name*, or raise :class:`Unavailable` saying how to get it."""
    for directory in path.split(":"):
        if directory.startswith("/"):
            candidate = f"{directory}/{name}"
            if os.access(candidate, os.X_OK) and os.path.isfile(candidate):
                return candidate
    raise Unavailable(f"{name} is not installed; install it with: apt-get install {package}")


def start(
    argv: Sequence[str | bytes],
    *,
    env: Mapping[str, str],
    stdin: int | None = NULL,
    stdout: int | None = None,
    stderr: int | None = None,
    pass_fds: Sequence[int] = (),
    cwd: Path | None = None,
    start_new_session: bool = False,
) -> Running:
    """Start *argv* and return it running; the caller streams and must ``wait()`` (or use it as a context manager).

    A stream is a descriptor, ``PIPE``, ``NULL`` or None for the caller's own.  ``argv[0]`` should be an absolute path.
    """
    import subprocess

    try:
        # Without preexec_fn this goes through vfork, whose cost does not grow with our memory.
        return subprocess.Popen(
            argv,
            env=dict(env),
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            pass_fds=tuple(pass_fds),
            cwd=cwd,
            start_new_session=start_new_session,
        )
    except FileNotFoundError as problem:
        if cwd is not None and not cwd.is_dir():
            raise
        raise Unavailable(f"{os.fsdecode(argv[0])} cannot be run: no such program") from problem


def start_without(hidden: Path, argv: Sequence[str | bytes], **streams: Unpack[Streams]) -> Running:
    """Start *argv* as ``start`` does, in a mount namespace of its own in which nothing is mounted at *hidden*.

    The namespace is that of a thread that ends at once, which costs less than a program that would make one.
    """
    import threading

    from lamella.linux import libc

    started: list[Running] = []
    failure: list[BaseException] = []

    def work() -> None:
        try:
            libc.unshare(libc.CLONE_FS | libc.CLONE_NEWNS)
            libc.mount("none", "/", "none", libc.MS_REC | libc.MS_SLAVE)
            libc.umount2(os.fsencode(hidden), libc.UMOUNT_NOFOLLOW)
            started.append(start(argv, **streams))
        except BaseException as problem:  # noqa: BLE001 - carried to the calling thread and raised there
            failure.append(problem)

    thread = threading.Thread(target=work, name="lamella-start")
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return started[0]


def run(
    argv: Sequence[str | bytes],
    *,
    env: Mapping[str, str],
    stdin: bytes | int | None = None,
    capture: bool = True,
    pass_fds: Sequence[int] = (),
    cwd: Path | None = None,
    timeout: float | None = None,
    start_new_session: bool = False,
) -> Completed:
    """Run *argv* to its end.

    *stdin* is what it reads (bytes or a descriptor; None is an empty input).  With *capture* both outputs are
    returned, otherwise they are the caller's own.  After *timeout* seconds the program is killed and
    :class:`Unavailable` raised.  A non-zero code is the caller's to judge.
    """
    import subprocess

    given = stdin if isinstance(stdin, bytes) else None
    source = PIPE if given is not None else NULL if stdin is None else stdin
    sink = PIPE if capture else None
    with start(
        argv,
        env=env,
        stdin=source if isinstance(source, int) else NULL,
        stdout=sink,
        stderr=sink,
        pass_fds=pass_fds,
        cwd=cwd,
        start_new_session=start_new_session,
    ) as program:
        try:
            out, err = program.communicate(given, timeout=timeout)
        except subprocess.TimeoutExpired:
            _kill(program.pid, group=start_new_session)
            program.wait()
            raise Unavailable(f"{os.fsdecode(argv[0])} did not finish within {timeout:g} s and was killed") from None
        except BaseException:
            _kill(program.pid, group=start_new_session)
            raise
    return Completed(program.returncode, out or b"", err or b"")


def _kill(pid: int, *, group: bool) -> None:
    """Kill a program that has not been waited for, with its children if it leads a session."""
    import signal

    try:
        if group:
            os.killpg(pid, signal.SIGKILL)
        else:
            os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass

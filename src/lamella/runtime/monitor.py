"""conmon, the process that outlives us: it keeps a container's streams and its exit code.

Starts a container through it, waits for its end and resizes its terminal.  Talking over its socket is ``attach``'s,
reading what it logged is ``logs``'.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from lamella.errors import InvalidArgument, StartFailed, Unavailable
from lamella.linux import spawn
from lamella.linux.locks import is_locked, try_lock
from lamella.runtime.oci_cli import TOOL_ENVIRONMENT, OCIRuntime, start_failure
from lamella.runtime.rundir import RunDirectory, open_pidfd

#: The monitor's own log inside the directory that ``log`` links to.
LOG_NAME: Final = "lamella.log"
#: The exit code of a container whose own is not known.
UNKNOWN_EXIT: Final = 255

_SOCKET_LIMIT: Final = 107
_MESSAGE_LIMIT: Final = 1 << 16
# How long a monitor may take to write the exit code once the container's first process is gone: it first copies what
# is left in the pipes, and a reader of them may be slow.
_LINGER: Final = 30.0


def create_monitored(
    runtime: OCIRuntime,
    run: RunDirectory,
    *,
    log_directory: Path | None,
    terminal: bool,
    stdin: bool,
    keep_stdin: bool,
    exit_command: Sequence[str],
) -> int:
    """Create the container of bundle *run* under a monitor and return its first process, which waits for ``start``.

    *log_directory* gets the monitor's log (None: nothing is logged).  *keep_stdin* leaves the container's input open
    when a client goes away.  *exit_command* is run by the monitor after the exit unless somebody holds a shared lock
    on ``run.attended``.  Raises StartFailed or one of its kinds; then nothing is left running.
    """
    program, *prefix = runtime.creating_program()
    line = [
        spawn.find_tool("conmon", package="conmon"),
        "--api-version",
        f"--cid={run.name}",
        f"--cuuid={run.name}",
        f"--runtime={program}",
        *(f"--runtime-arg={argument}" for argument in prefix),
        f"--bundle={run.path}",
        f"--persist-dir={run.path}",
        f"--container-pidfile={run.pid_file}",
        f"--conmon-pidfile={run.monitor_pid_file}",
        "--full-attach",
        "--no-sync-log",
        "--log-level=error",
        f"--log-path={_log_argument(run, log_directory)}",
    ]
    line += ["--terminal"] if terminal else []
    line += ["--stdin"] if stdin else []
    line += ["--leave-stdin-open"] if keep_stdin else []
    run.attended.touch(0o600)
    if exit_command:
        # Nobody attends: flock gets the lock and becomes the clean-up.  Somebody does: it ends at once, successfully.
        flock = spawn.find_tool("flock", package="util-linux")
        guarded = ["-n", "-E", "0", "-F", str(run.attended), *exit_command]
        line += [f"--exit-command={flock}", *(f"--exit-command-arg={argument}" for argument in guarded)]
    reader, writer = os.pipe2(os.O_CLOEXEC)
    # Inherited, so that it is held for as long as anything works on this directory, whatever becomes of us.
    lock = try_lock(run.monitor_lock)
    try:
        try:
            environment = dict(TOOL_ENVIRONMENT, _OCI_SYNCPIPE=str(writer))
            if terminal and len(os.fsencode(run.state)) + len("/conmon-term.XXXXXX") < _SOCKET_LIMIT:
                environment["TMPDIR"] = str(run.state)
            # The monitor leaves an "oom" file in its working directory, and would keep any other busy.
            done = spawn.run(line, env=environment, pass_fds=(writer, *(() if lock is None else (lock,))), cwd=run.path)
        finally:
            os.close(writer)
            if lock is not None:
                os.close(lock)
        if done.code != 0:
            text = " ".join(done.stderr.decode("utf-8", "replace").split())
            raise StartFailed(f"container {run.name[:12]} could not be started: conmon said: {text or done.code}")
        pid = _read_verdict(reader, run)
    finally:
        os.close(reader)
    run.write_identity(pid)
    return pid


def end_creation(runtime: OCIRuntime, run: RunDirectory) -> None:
    """End a creation that nobody knows of: its caller was killed before it had recorded the container as running.

    What may be at work are the monitor, the runtime, and a first process that was made and not yet written down
    anywhere; all of them have the lock open, and by that they are found.
    """
    deadline = time.monotonic() + _LINGER
    while is_locked(run.monitor_lock):
        for pid in run.creators(("conmon", "unshare", "sh", runtime.name)):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > deadline:
            raise Unavailable(f"container {run.name[:12]} is still being created by another process; try again")
        time.sleep(0.005)


def wait_exit(run: RunDirectory, *, timeout: float | None = None) -> int | None:
    """Wait until the container has ended and its output is complete; return its exit code.

    None means that it still runs after *timeout* seconds.  A monitor that died takes the code with it: 255.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    found = run.read_identity()
    if found is not None:
        fd = open_pidfd(found.pid, found.started)
        if fd is not None:
            try:
                if not _readable(fd, deadline):
                    return None
            finally:
                os.close(fd)
    pause, give_up = 0.0005, time.monotonic() + _LINGER
    while (code := run.read_exit_code()) is None:
        if not run.is_monitored() or time.monotonic() > give_up:
            code = run.read_exit_code()
            return UNKNOWN_EXIT if code is None else code
        time.sleep(pause)
        pause = min(pause * 2, 0.05)
    return code


def resize_terminal(run: RunDirectory, rows: int, columns: int) -> None:
    """Tell the monitor the size of the container's terminal; one that is gone needs none."""
    _tell(run, f"1 {rows} {columns}\n")


def _tell(run: RunDirectory, line: str) -> None:
    try:
        fd = os.open(run.control, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return
    try:
        os.write(fd, line.encode())
    finally:
        os.close(fd)


def _log_argument(run: RunDirectory, directory: Path | None) -> str:
    if directory is None:
        return "none"
    if ":" in str(run.path):
        raise InvalidArgument(f"state directory {run.state} must not contain a colon: conmon splits its log path there")
    # The data root may contain one, so the monitor is shown a link to it.
    run.log_link.symlink_to(directory)
    return f"k8s-file:{run.log_link}/{LOG_NAME}"


def _read_verdict(reader: int, run: RunDirectory) -> int:
    """Read the monitor's one line: the process, or what the runtime said."""
    import json

    received = b""
    while not received.endswith(b"\n") and len(received) < _MESSAGE_LIMIT:
        part = os.read(reader, 8192)
        if not part:
            break
        received += part
    if not received:
        raise Unavailable(f"container {run.name[:12]} could not be started: conmon ended without a word")
    try:
        verdict = json.loads(received.decode("utf-8", "replace"))
        pid, text = int(verdict["data"]), str(verdict.get("message", ""))
    except (ValueError, KeyError, TypeError) as problem:
        # The monitor does not escape every control character; the text is still worth showing.
        shown = " ".join(received.decode("utf-8", "replace").split())
        raise start_failure(run.name, shown, run.read_command()) from problem
    if pid <= 0:
        from lamella.runtime.oci_cli import message_of

        raise start_failure(run.name, message_of(text.encode()), run.read_command())
    return pid


def _readable(fd: int, deadline: float | None) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    left = None if deadline is None else max(0.0, deadline - time.monotonic()) * 1000
    return bool(poll.poll(left))

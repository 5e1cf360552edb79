"""A running container's directory under the state directory, and whether its processes still live.

::

    <state>/<container id>/      0700, gone after clean-up and after a reboot
        config.json              the OCI configuration; the directory is the bundle
        pid                      first process, written by the monitor
        monitor.pid              the monitor
        monitor.lock             held by the monitor and by the runtime while it creates
        identity                 both with their start times, written when the container had been created
        attach  ctl  winsz       the monitor's socket and fifos
        exit                     exit code, written by the monitor after the last output
        oom                      there if the kernel killed for lack of memory
        attended                 locked, shared, by each command that will clean up after the exit itself
        log                      link to the directory that holds the monitor's log
    <state>/oci/                 what the OCI runtime knows
    <state>/locks/               one lock a container

Nothing here is durable, and nothing needs to be.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple


class Identity(NamedTuple):
    """A container's first process and its monitor, each with its start time in clock ticks since boot."""

    pid: int
    started: int
    monitor: int
    monitor_started: int


class RunDirectory:
    """The run directory of container *name* below *state*; makes no claim that it exists."""

    def __init__(self, state: Path, name: str) -> None:
        self.name = name
        self.state = state
        self.path = state / name
        self.config = self.path / "config.json"
        self.pid_file = self.path / "pid"
        self.monitor_pid_file = self.path / "monitor.pid"
        self.monitor_lock = self.path / "monitor.lock"
        self.identity_file = self.path / "identity"
        self.attach_socket = self.path / "attach"
        self.control = self.path / "ctl"
        self.exit_file = self.path / "exit"
        self.attended = self.path / "attended"
        self.log_link = self.path / "log"

    def create(self) -> None:
        """Make the directory anew, empty; what an earlier run left in it is removed."""
        from lamella.fs.tree import remove_tree

        self.state.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            self.path.mkdir(mode=0o700)
        except FileExistsError:
            remove_tree(self.path)
            self.path.mkdir(mode=0o700)

    def remove(self) -> None:
        """Remove the directory; missing is fine."""
        from lamella.fs.tree import remove_tree

        remove_tree(self.path)

    def write_identity(self, pid: int) -> None:
        """Note the start times of *pid* and of the monitor, so that a reused number is not taken for them."""
        monitor = _number(self.monitor_pid_file) or 0
        values = Identity(pid, start_time(pid) or 0, monitor, start_time(monitor) or 0)
        self.identity_file.write_text(" ".join(map(str, values)))

    def creators(self, programs: tuple[str, ...]) -> list[int]:
        """List the processes of *programs* that have the monitor's lock open; others may be looking at it just now."""
        lock = str(self.monitor_lock)
        found: list[int] = []
        for entry in os.listdir("/proc"):
            if not entry.isdecimal():
                continue
            with suppress(FileNotFoundError, ProcessLookupError, PermissionError):
                if Path(f"/proc/{entry}/comm").read_text().startswith(programs) and any(
                    os.readlink(f"/proc/{entry}/fd/{fd}") == lock for fd in os.listdir(f"/proc/{entry}/fd")
                ):
                    found.append(int(entry))
        return found

    def read_identity(self) -> Identity | None:
        """Return who runs here, None if nothing was ever created (or the machine was restarted)."""
        try:
            words = self.identity_file.read_text().split()
        except (FileNotFoundError, NotADirectoryError):
            pid = _number(self.pid_file)
            if pid is None:
                return None
            monitor = _number(self.monitor_pid_file) or 0
            return Identity(pid, start_time(pid) or 0, monitor, start_time(monitor) or 0)
        if len(words) != len(Identity._fields) or not all(word.isdecimal() for word in words):
            return None
        return Identity(*map(int, words))

    def read_command(self) -> str:
        """Return the program that the container was to run, empty if the bundle does not say."""
        import json

        try:
            return str(json.loads(self.config.read_bytes())["process"]["args"][0])
        except (OSError, ValueError, LookupError, TypeError):
            return ""

    def is_alive(self) -> bool:
        """Tell whether the container's first process runs."""
        found = self.read_identity()
        return found is not None and is_running(found.pid, found.started)

    def is_monitored(self) -> bool:
        """Tell whether the monitor runs: an exit code is still to come or just being written."""
        found = self.read_identity()
        return found is not None and is_running(found.monitor, found.monitor_started)

    def ran_out_of_memory(self) -> bool:
        """Tell whether the monitor saw the kernel kill for lack of memory."""
        return (self.path / "oom").exists()

    def read_exit_code(self) -> int | None:
        """Return the exit code the monitor left, None if it has left none."""
        try:
            text = self.exit_file.read_text().strip()
        except (FileNotFoundError, NotADirectoryError):
            return None
        if not text.lstrip("-").isdecimal():
            return None
        # The monitor writes -1 when it could not learn the status.
        return int(text) if int(text) >= 0 else 255


def start_time(pid: int) -> int | None:
    """Return when *pid* started, in clock ticks since boot; None if there is no such process or it is a zombie."""
    if pid <= 0:
        return None
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    if len(fields) < 20 or fields[0] in (b"Z", b"X"):
        return None
    return int(fields[19])


def is_running(pid: int, started: int) -> bool:
    """Tell whether *pid* is still the process that began at *started*."""
    return started > 0 and start_time(pid) == started


def open_pidfd(pid: int, started: int) -> int | None:
    """Return a descriptor of the process that began at *started*, None if it is gone."""
    try:
        fd = os.pidfd_open(pid)
    except (ProcessLookupError, OverflowError, ValueError, OSError):
        return None
    if not is_running(pid, started):
        os.close(fd)
        return None
    return fd


def _number(path: Path) -> int | None:
    try:
        text = path.read_text().strip()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return int(text) if text.isdecimal() else None

"""The OCI runtime: crun, else runc, driven by its command line.

Knows how to find it, what to pass it on this machine and what its complaints mean.  Standard streams, logs and exit
codes of detached processes are ``monitor``'s.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from lamella.errors import CommandNotExecutable, CommandNotFound, InvalidArgument, NotFound, StartFailed, Unavailable
from lamella.linux import spawn
from lamella.runtime.cgroups import Cgroups, read_cgroups

#: Everything a tool of ours sees of an environment: nothing of the caller's reaches it.
TOOL_ENVIRONMENT: Final[Mapping[str, str]] = {"PATH": spawn.DEFAULT_PATH, "LC_ALL": "C"}

_TIMEOUT: Final = 60.0
_UNIFIED: Final = Path("/sys/fs/cgroup/unified")

# What the two runtimes print when the command itself is the trouble.
_NOT_FOUND: Final = re.compile(
    r"executable file (?:.* )?not found|stat \S+: no such file or directory|exec container process .*No such file"
    r"|^exec: No such file|: exec: \".*\": .*no such file or directory|^exec \S+: no such file",
    re.MULTILINE,
)
_NOT_EXECUTABLE: Final = re.compile(
    r"open executable: |exec .*permission denied|[Ee]xec format error|exec: Permission denied"
    r"|exec: \".*\": (?:permission denied|is a directory)|exec container process .*Permission denied"
)
_GONE: Final = re.compile(
    r"does not exist|/status`: No such file|cannot open directory .*No such file|No such process|process already finished"
    r"|container not running|not running"
)


class OCIRuntime:
    """One runtime program and the directory in which it keeps what it knows of its containers."""

    def __init__(self, program: str, state: Path, *, cgroups: Cgroups | None = None) -> None:
        self.program = program
        self.name = os.path.basename(program)
        self.state = state
        self.cgroups = read_cgroups() if cgroups is None else cgroups

    @classmethod
    def find(cls, state: Path, name: str | None = None) -> OCIRuntime:
        """Find the runtime *name* (a program or a path), else crun, else runc; raise Unavailable saying how to get it."""
        if name is not None and "/" in name:
            if not os.access(name, os.X_OK):
                raise Unavailable(f"runtime {name} is not an executable program")
            return cls(name, state)
        if name is not None:
            return cls(spawn.find_tool(name, package=name), state)
        try:
            return cls(spawn.find_tool("crun", package="crun"), state)
        except Unavailable as missing:
            try:
                return cls(spawn.find_tool("runc", package="runc"), state)
            except Unavailable:
                raise missing from None

    def global_arguments(self) -> tuple[str, ...]:
        """Return what precedes every verb."""
        if self.name != "crun":
            return ("--root", str(self.state))
        manager = "cgroupfs" if self.cgroups.version else "disabled"
        return ("--root", str(self.state), f"--cgroup-manager={manager}")

    @property
    def hidden(self) -> Path | None:
        """The mount that must not be there for the runtime to create a container, if there is one."""
        return _UNIFIED if self.name == "crun" and self.cgroups.hide_unified else None

    def creating_program(self) -> tuple[str, ...]:
        """Return the program to create with and its first arguments, the global ones included.

        crun refuses a hybrid machine with a controller left to version 2, though it never uses that hierarchy there:
        it is run in a mount namespace of its own from which that mount has been taken.
        """
        if self.hidden is not None:
            return self._prepared(f"umount {self.hidden}")
        return self._program()

    def _program(self) -> tuple[str, ...]:
        """Return the program for everything but creating.

        crun always looks at /sys/fs/cgroup, and gives up where no kernel has mounted anything.
        """
        if self.name == "crun" and self.cgroups.bare:
            return self._prepared("mount -t tmpfs none /sys/fs/cgroup")
        return (self.program, *self.global_arguments())

    def _prepared(self, preparation: str) -> tuple[str, ...]:
        """Return the program, run in a mount namespace of its own after *preparation* of it."""
        unshare = spawn.find_tool("unshare", package="util-linux")
        script = f'{preparation} && exec "$0" "$@"'
        prefix = (unshare, "--mount", "--propagation", "slave", "/bin/sh", "-c", script, self.program)
        return prefix + self.global_arguments()

    def arguments(self, verb: str, *rest: str) -> list[str]:
        """Return the command line of *verb* on something that exists already."""
        return [*self._program(), verb, *rest]

    def run_arguments(
        self, bundle: Path, name: str, *, pid_file: Path | None = None, log: Path | None = None
    ) -> list[str]:
        """Return the command line that runs the bundle in the foreground, with the caller's streams.

        It is to be started with nothing mounted at ``hidden``.
        """
        extra = () if pid_file is None else ("--pid-file", str(pid_file))
        logging = () if log is None else ("--log", str(log))
        return [*self._program(), *logging, "run", "--bundle", str(bundle), *extra, name]

    def exec_arguments(
        self,
        name: str,
        process: Path,
        *,
        terminal: bool = False,
        detach: bool = False,
        console_socket: str | None = None,
        log: Path | None = None,
    ) -> list[str]:
        """Return the command line that runs the process document *process* in container *name*."""
        line = [*self._program()]
        if log is not None:
            line += ["--log", str(log)]
        line += ["exec", "--process", str(process)]
        if terminal:
            line.append("--tty")
        if detach:
            line.append("--detach")
        if console_socket is not None:
            line += ["--console-socket", console_socket]
        return [*line, name]

    def start(self, name: str) -> None:
        """Let the created container's command begin; raise StartFailed or one of its kinds.

        The runtime waits for the container to answer.  If we are killed meanwhile and somebody removes the container,
        no answer comes any more: it is to end with us.
        """
        setpriv = spawn.find_tool("setpriv", package="util-linux")
        line = (setpriv, "--pdeathsig", "KILL", *self.arguments("start", name))
        done = spawn.run(line, env=TOOL_ENVIRONMENT, timeout=_TIMEOUT)
        if done.code != 0:
            raise start_failure(name, message_of(done.stderr))

    def kill(self, name: str, signal: int, *, everything: bool = False) -> None:
        """Send *signal* to the container's first process (or to all); raise NotFound when there is none left."""
        done = self._run("kill", *(("--all",) if everything else ()), name, str(signal))
        if done.code != 0:
            raise self._failure(name, "kill", done)

    def pause(self, name: str) -> None:
        """Freeze all the container's processes."""
        done = self._run("pause", name)
        if done.code != 0:
            raise self._failure(name, "pause", done)

    def resume(self, name: str) -> None:
        """Thaw what ``pause`` froze."""
        done = self._run("resume", name)
        if done.code != 0:
            raise self._failure(name, "resume", done)

    def delete(self, name: str, *, force: bool = False) -> None:
        """Forget the container and remove its control groups; one that does not exist is fine."""
        if not (self.state / name).exists():
            return
        done = self._run("delete", *(("--force",) if force else ()), name)
        if done.code != 0 and not _GONE.search(message_of(done.stderr)) and (self.state / name).exists():
            raise self._failure(name, "delete", done)  # gone all the same: another process was at it too
        if force and (self.state / name).exists():
            self._forget(name)

    def _forget(self, name: str) -> None:
        """Remove what a runtime that was killed while it created has left; it knows nothing of that itself."""
        from lamella.fs.tree import remove_tree

        remove_tree(self.state / name)
        for group in (Path("/sys/fs/cgroup/lamella"), *Path("/sys/fs/cgroup").glob("*/lamella")):
            with suppress(OSError):
                (group / name).rmdir()

    def status(self, name: str) -> str | None:
        """Return created, running, paused or stopped as the runtime sees it, None if it knows no such container."""
        if not (self.state / name).exists():
            return None
        done = self._run("state", name)
        if done.code != 0:
            return None
        import json

        try:
            return str(json.loads(done.stdout)["status"])
        except (ValueError, KeyError, TypeError) as problem:
            raise Unavailable(f"{self.program} state {name[:12]} printed no state document") from problem

    def _run(self, verb: str, *rest: str) -> spawn.Completed:
        return spawn.run(self.arguments(verb, *rest), env=TOOL_ENVIRONMENT, timeout=_TIMEOUT)

    def _failure(self, name: str, verb: str, done: spawn.Completed) -> NotFound | Unavailable:
        text = message_of(done.stderr)
        if _GONE.search(text):
            return NotFound(f"container {name[:12]} is not running")
        return Unavailable(f"{self.name} {verb} {name[:12]} failed: {text or f'exit code {done.code}'}")


def message_of(stderr: bytes) -> str:
    """Reduce a runtime's standard error to its last complaint, in one line."""
    text = stderr.decode("utf-8", "replace").strip()
    found = re.findall(r'level=(?:error|fatal) msg="((?:[^"\\]|\\.)*)"', text)
    if found:
        text = re.sub(r"\\(.)", r"\1", found[-1])
    return " ".join(text.split())


def start_failure(name: str, text: str, command: str = "") -> StartFailed:
    """Name what a runtime's complaint about creating, starting or executing means.

    What is wrong with a *command* that is known is said in the same words whatever the runtime.
    """
    line = f"container {name[:12]} could not be started: "
    kind, reason = StartFailed, ""
    if _NOT_EXECUTABLE.search(text):
        kind, reason = CommandNotExecutable, "exec format error" if "format" in text else "permission denied"
    elif _NOT_FOUND.search(text):
        kind = CommandNotFound
        reason = "no such file or directory" if "/" in command else "executable file not found in $PATH"
    if command and reason:
        return kind(f'{line}exec: "{command}": {reason}')
    return kind(line + (text or "the runtime gave no reason"))


class Warned(NamedTuple):
    """A release of a runtime with a known hole."""

    name: str
    first: tuple[int, int, int]
    fixed: tuple[int, int, int]
    why: str


KNOWN_BAD: Final = (
    Warned("runc", (0, 0, 0), (1, 1, 12), "CVE-2024-21626: leaked descriptors"),
    Warned("runc", (1, 2, 0), (1, 2, 8), "CVE-2025-31133: masked paths can be replaced"),
    Warned("runc", (1, 3, 0), (1, 3, 3), "CVE-2025-31133: masked paths can be replaced"),
    Warned("crun", (1, 19, 0), (1, 27, 0), "CVE-2026-30892: exec runs as the wrong user"),
)


def parse_version(output: str) -> tuple[int, int, int]:
    """Read the version out of ``crun --version`` or ``runc --version``; raise InvalidArgument."""
    found = re.search(r"version (\d+)\.(\d+)(?:\.(\d+))?", output)
    if found is None:
        raise InvalidArgument(f"no version in {output.strip().splitlines()[:1]}")
    return int(found[1]), int(found[2]), int(found[3] or 0)


def find_warning(name: str, version: tuple[int, int, int]) -> str | None:
    """Return why this release of a runtime should be replaced, if there is a reason.

    The version says nothing of fixes that a distribution has put into an older release.
    """
    for bad in KNOWN_BAD:
        if bad.name == name and bad.first <= version < bad.fixed:
            fixed = ".".join(map(str, bad.fixed))
            shown = ".".join(map(str, version))
            return f"{name} {shown} may lack the fix of {bad.why}; {fixed} has it, as may your distribution's package"
    return None


def read_warning(runtime: OCIRuntime) -> str | None:
    """Ask the installed runtime for its version and look it up."""
    done = spawn.run([runtime.program, "--version"], env=TOOL_ENVIRONMENT, timeout=_TIMEOUT)
    return find_warning(runtime.name, parse_version(done.stdout.decode("utf-8", "replace")))

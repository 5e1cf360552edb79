"""Running one container in the foreground, without a monitor: what a build step needs.

The runtime is our child, its streams are the caller's descriptors, and nothing outlives the call.  A caller that is
killed leaves its container running for nobody: the next call ends it.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Final

from lamella.linux import spawn
from lamella.linux.locks import try_lock, unlock
from lamella.model.gojson import encode
from lamella.model.ids import is_container_id
from lamella.runtime.oci_cli import TOOL_ENVIRONMENT, OCIRuntime, message_of, start_failure
from lamella.runtime.rundir import RunDirectory

_LOG_LIMIT: Final = 1 << 16
#: Locked in the run directory by whoever waits for the container.
_OWNER: Final = "owner"


def run_foreground(
    runtime: OCIRuntime,
    run: RunDirectory,
    spec: dict[str, object],
    *,
    stdin: int | None = None,
    stdout: int | None = None,
    stderr: int | None = None,
) -> int:
    """Run the container *spec* to its end and return its exit code.

    *stdin* None is an empty input; *stdout* and *stderr* None are the caller's own.  Raises StartFailed or one of its
    kinds if the command never ran.  An exception in the caller's thread kills the container; in every case the
    runtime's state and the run directory are gone on return.
    """
    sweep_foreground(runtime, run.state)
    run.create()
    # Locked before it bears the name that others look for.
    owner = try_lock(run.path / f".{_OWNER}")
    os.rename(run.path / f".{_OWNER}", run.path / _OWNER)
    log = run.path / "runtime.log"
    log.touch(0o600)
    finished = False
    try:
        run.config.write_bytes(encode(spec))
        line = runtime.run_arguments(run.path, run.name, pid_file=run.pid_file, log=log)
        streams = spawn.Streams(
            env=TOOL_ENVIRONMENT, stdin=spawn.NULL if stdin is None else stdin, stdout=stdout, stderr=stderr
        )
        hidden = runtime.hidden
        program = spawn.start(line, **streams) if hidden is None else spawn.start_without(hidden, line, **streams)
        try:
            code = program.wait()
            finished = True
        finally:
            if not finished:
                runtime.delete(run.name, force=True)
                program.kill()
                program.wait()
        with log.open("rb") as file:
            complaint = message_of(file.read(_LOG_LIMIT))
        if code != 0 and complaint:
            raise start_failure(run.name, complaint)
        return code if code >= 0 else 128 - code
    finally:
        runtime.delete(run.name, force=True)
        run.remove()
        if owner is not None:
            unlock(owner)


def sweep_foreground(runtime: OCIRuntime, state: Path) -> None:
    """End the foreground containers below *state* whose callers were killed."""
    try:
        names = [name for name in os.listdir(state) if is_container_id(name)]
    except FileNotFoundError:
        return
    for name in names:
        owner = state / name / _OWNER
        if not owner.exists():
            continue
        with suppress(FileNotFoundError):
            fd = try_lock(owner)
            if fd is not None:
                try:
                    runtime.delete(name, force=True)
                    RunDirectory(state, name).remove()
                finally:
                    unlock(fd)

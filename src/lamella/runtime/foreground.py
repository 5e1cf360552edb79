"""Running one container in the foreground, without a monitor: what a build step needs.

The runtime is our child, its streams are the caller's descriptors, and nothing outlives the call.
"""

from __future__ import annotations

from typing import Final

from lamella.linux import spawn
from lamella.model.gojson import encode
from lamella.runtime.oci_cli import TOOL_ENVIRONMENT, OCIRuntime, message_of, start_failure
from lamella.runtime.rundir import RunDirectory

_LOG_LIMIT: Final = 1 << 16


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
    run.create()
    log = run.path / "runtime.log"
    log.touch(0o600)
    finished = False
    try:
        run.config.write_bytes(encode(spec))
        line = runtime.run_arguments(run.path, run.name, pid_file=run.pid_file, log=log)
        program = spawn.start(
            line,
            env=TOOL_ENVIRONMENT,
            stdin=spawn.NULL if stdin is None else stdin,
            stdout=stdout,
            stderr=stderr,
        )
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

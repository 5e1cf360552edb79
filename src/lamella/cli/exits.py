"""The one map from what went wrong to the process's exit code."""

from __future__ import annotations

from lamella import errors
from lamella.cli.flags import UsageError

INTERRUPTED = 130
TERMINATED = 143
BROKEN_PIPE = 141


def exit_code(error: BaseException, failure: int = 1) -> int:
    """Return the exit code for *error*, *failure* being the command's own code for trouble of lamella's.

    A command that passes a container's code on (``run``, ``exec``) keeps 125, 126 and 127 for what happened before
    there was such a code, as Docker does; a failed build step's code is the build's.
    """
    match error:
        case UsageError():
            return error.code
        case KeyboardInterrupt() | errors.Cancelled():
            return INTERRUPTED
        case errors.BuildFailed():
            return error.exit_code or 1
        case errors.CommandNotFound():
            return 127
        case errors.CommandNotExecutable():
            return 126
        case _:
            return failure

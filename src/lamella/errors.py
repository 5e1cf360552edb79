"""Everything lamella raises on purpose.

::

    LamellaError
    ├── InvalidArgument        what was asked makes no sense; asking again will not help
    ├── NotFound               no such image, container, layer, file
    ├── Conflict               the store's state forbids it
    │   ├── AlreadyExists
    │   └── InUse              a container, a child or a running daemon needs it
    ├── PermissionDenied       not root, or a path the caller may not touch
    │   └── Unauthorized       a registry wants other credentials, or grants these too little
    ├── Unavailable            a tool, a lock or a device is missing now; retrying or installing may help
    ├── Unsupported            valid, but not something lamella or this machine does
    ├── DataLoss               stored or received bytes are not what they should be
    │   └── DigestMismatch
    ├── Cancelled              interrupted by the caller
    ├── BuildFailed            a build step ended with a non-zero exit code
    └── StartFailed            the container's process could not be started
        ├── CommandNotExecutable
        └── CommandNotFound

Messages name the object and the next step.  Front ends map classes to exit codes and HTTP statuses; nothing below
them does.  ``OSError`` passes through untouched where it has no better name.
"""

from __future__ import annotations


class LamellaError(Exception):
    """Root of all errors raised on purpose; ``str()`` is one line for the user."""


class InvalidArgument(LamellaError):
    """The request is malformed and would fail in any store."""


class NotFound(LamellaError):
    """What was named does not exist."""


class Conflict(LamellaError):
    """The present state of the store forbids the request."""


class AlreadyExists(Conflict):
    """The name to be given is taken."""


class InUse(Conflict):
    """Something needs what was to be changed or removed."""


class PermissionDenied(LamellaError):
    """The caller lacks the right to do it."""


class Unauthorized(PermissionDenied):
    """A registry refused the credentials, or their lack."""


class Unavailable(LamellaError):
    """A tool, a lock or a device is missing now."""


class Unsupported(LamellaError):
    """Well-formed, but beyond what lamella or this machine does."""


class DataLoss(LamellaError):
    """Bytes are missing, damaged or other than promised."""


class DigestMismatch(DataLoss):
    """Bytes do not hash to the digest they go by."""

    def __init__(self, what: str, expected: str, actual: str) -> None:
        super().__init__(f"{what}: digest is {actual}, expected {expected}")
        self.expected = expected
        self.actual = actual


class Cancelled(LamellaError):
    """The caller interrupted the operation."""


class BuildFailed(LamellaError):
    """A build step's command ended with a non-zero exit code."""

    def __init__(self, message: str, *, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class StartFailed(LamellaError):
    """The container's process could not be started."""


class CommandNotExecutable(StartFailed):
    """The command exists in the container but cannot be executed."""


class CommandNotFound(StartFailed):
    """The command does not exist in the container."""

"""Where containers run: one store, one state directory, one runtime.  Passed to every verb of this package."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from lamella.linux.locks import locked
from lamella.model.ids import ContainerID
from lamella.store.imagestore import ImageStore

if TYPE_CHECKING:
    from lamella.runtime.oci_cli import OCIRuntime
    from lamella.runtime.rundir import RunDirectory


def state_directory(data_root: Path, base: Path = Path("/run/lamella")) -> Path:
    """Return the state directory that belongs to a data-root: one for each, whatever name it is reached by."""
    resolved = os.path.realpath(data_root)
    return base / hashlib.sha256(os.fsencode(resolved)).hexdigest()[:16]


class Site:
    """A store and what runs its containers.

    *exit_command* makes the command line by which a monitor has a container cleaned up when nobody attends it.
    """

    def __init__(
        self,
        store: ImageStore,
        state: Path,
        *,
        runtime: str | None = None,
        exit_command: Callable[[ContainerID], Sequence[str]] | None = None,
    ) -> None:
        self.store = store
        self.state = state
        self._runtime_name = runtime
        self._runtime: OCIRuntime | None = None
        self._exit_command = exit_command

    @property
    def runtime(self) -> OCIRuntime:
        """The OCI runtime, looked for at first use; raises Unavailable if there is none."""
        if self._runtime is None:
            from lamella.runtime.oci_cli import OCIRuntime

            self._runtime = OCIRuntime.find(self.state / "oci", self._runtime_name)
        return self._runtime

    def exit_command(self, container: ContainerID) -> Sequence[str]:
        """Return the command line that cleans *container* up; empty if nobody wants one."""
        return () if self._exit_command is None else self._exit_command(container)

    def run_directory(self, container: ContainerID) -> RunDirectory:
        """Return a container's run directory, which may not exist."""
        from lamella.runtime.rundir import RunDirectory

        return RunDirectory(self.state, container)

    def directory(self, container: ContainerID) -> Path:
        """Return a container's directory in the data-root."""
        return self.store.containers.path(container)

    @contextmanager
    def locked(self, container: ContainerID) -> Generator[None]:
        """Hold the container's lock: taken before the store's, never while waiting for a container's end."""
        locks = self.state / "locks"
        locks.mkdir(mode=0o700, parents=True, exist_ok=True)
        with locked(locks / container):
            yield

    def drop_lock(self, container: ContainerID) -> None:
        """Remove the lock's file with the container it belonged to; the lock is held."""
        (self.state / "locks" / container).unlink(missing_ok=True)

"""What the store asks of a storage driver.

A driver keeps directories named by cache IDs and knows how one stands on another.  It knows nothing of chain IDs,
images or records: the store names the layers, keeps the records, and syncs the file system before it publishes one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Protocol

from lamella.model.digest import DiffID
from lamella.model.ids import CacheID

if TYPE_CHECKING:
    from lamella.changeset.apply import Applied
    from lamella.changeset.changes import Change
    from lamella.changeset.diff import Captured

Advance = Callable[[int], None]

TRIAL = "lamella-overlay-trial-"
"""How the directories are called in which it is tried out whether overlay works."""


class Driver(Protocol):
    """One storage driver on one data-root.

    Every cache ID must name a layer of this driver unless said otherwise; a missing one is NotFound, a text that
    cannot be one InvalidArgument.  Nothing is durable until the caller syncs the file system.
    """

    name: str
    apart: bool
    """Whether layers of one stack may be created first and filled later, in any order: each holds only its own files."""

    def check_supported(self, root: Path) -> None:
        """Raise Unsupported, saying why and what to do, if the driver cannot work on *root*'s file system."""

    @property
    def native_diff(self) -> bool:
        """Tell whether a layer's own directory shows its changes (else two trees are compared)."""
        ...

    def create(self, layer: CacheID, parent: CacheID | None) -> None:
        """Make the empty read-only layer *layer*, to be filled by :meth:`apply`."""

    def create_read_write(self, layer: CacheID, parent: CacheID | None) -> None:
        """Make the layer *layer*, to be written through its mount."""

    def exists(self, layer: CacheID) -> bool:
        """Tell whether there is anything under this name, complete or not."""
        ...

    def remove(self, layer: CacheID) -> None:
        """Remove *layer*, complete or not; a missing one is fine.

        Raises InUse while anybody holds a mount of it.  A mount nobody holds is undone first.
        """

    def mount(self, layer: CacheID, holder: str) -> Path:
        """Mount *layer* (once for all holders) and record *holder* until it is given to :meth:`unmount`.

        The record outlives the process; a container's ID is the usual *holder*.  Mounting again is harmless.
        """
        ...

    def unmount(self, layer: CacheID, holder: str) -> None:
        """Release *holder* and undo the mount if it was the last; releasing again is harmless."""

    def release_holder(self, layer: CacheID, holder: str) -> None:
        """Do what :meth:`unmount` does, also for a *layer* that no longer exists."""

    def holders(self, layer: CacheID) -> list[str]:
        """Name the recorded holders of *layer*, sorted; ``(a running process)`` stands for those of blocks."""
        ...

    def sweep_mounts(self) -> list[CacheID]:
        """Undo every mount made here that nobody holds any more, and name the layers."""
        ...

    def mounted(self, layer: CacheID, *, volatile: bool = False) -> AbstractContextManager[Path]:
        """Hold *layer* mounted for a block, read-write unless it is an image layer; a killed process lets go.

        With *volatile* the driver may leave it to the caller to sync what was written before anything counts on it.
        """
        ...

    def mounted_read_only(self, layer: CacheID) -> AbstractContextManager[Path]:
        """Hold a view of *layer* through which nothing can be written, whatever kind of layer it is."""
        ...

    def files(self, layer: CacheID) -> AbstractContextManager[Path]:
        """Hold the directory in which the names of *layer*'s tar-split resolve."""
        ...

    def apply(
        self,
        layer: CacheID,
        parent: CacheID | None,
        stream: BinaryIO,
        *,
        tar_split: BinaryIO | None = None,
        expected: DiffID | None = None,
        advance: Advance | None = None,
    ) -> Applied:
        """Fill *layer*, just created on *parent*, from a layer tar; on failure the caller removes it."""
        ...

    def capture(
        self,
        layer: CacheID,
        new_layer: CacheID,
        parent: CacheID | None,
        *,
        tar_split: BinaryIO,
        advance: Advance | None = None,
    ) -> Captured:
        """Turn what was written into *layer* into the new read-only layer *new_layer* on *parent*.

        The files move: *layer* must be unmounted (InUse) and is good for nothing but :meth:`remove` afterwards.  On
        failure the caller removes *new_layer*.
        """
        ...

    def diff(self, layer: CacheID, parent: CacheID | None, sink: BinaryIO) -> None:
        """Write the layer tar of what *layer* changes on *parent*; the same changes give the same bytes."""

    def changes(self, layer: CacheID, parent: CacheID | None) -> list[Change]:
        """List what *layer* changes on *parent* as ``docker diff`` does, sorted by path."""
        ...

    def size(self, layer: CacheID, parent: CacheID | None) -> int:
        """Return the bytes of files that *layer* adds to *parent*."""
        ...

    def metadata(self, layer: CacheID) -> dict[str, str] | None:
        """Return ``GraphDriver.Data`` of inspect; None if the driver has nothing to say."""
        ...

    def iter_ids(self) -> Iterator[CacheID]:
        """Name everything this driver keeps, complete or not, in no order."""
        ...

    def prepare(self) -> None:
        """Make the driver's own directories; every method that writes a layer does so too."""

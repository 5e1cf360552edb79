"""The data-root: its paths, its locks, and the scopes in which it may be read and written.

::

    DATA-ROOT/                         Docker's; 0710
      image/<driver>/imagedb/          configs and their metadata           (imagedb)
      image/<driver>/layerdb/          layer and mount records              (layerdb, rwlayers)
      image/<driver>/distribution/     which digest is which diff ID        (distribution)
      image/<driver>/repositories.json references                           (tags)
      containers/                      containers                           (containerdb)
      <driver>/                        layer directories                    (drivers)
      lamella/                         lamella's own; dockerd ignores it, and all of it may be deleted at rest
        lock                           the store lock
        unclean                        a change of records began and did not end well
        deferred                       layers to be looked at again when an operation ends
        tx/<id>.json                   intent records, locked by their owners (transactions)
        locks/<chain>                  one layer being made: the second process waits
        mounts/                        who holds which mount                (drivers)
        wip/                           temporary files without a name, and drafts
        cache-mounts/                  what RUN --mount=type=cache keeps    (cachemounts)

Lock order: chain locks (parent before child), then the store lock; nobody waits for a chain lock with the store lock
held, or with layers of its process that are only waiting to be published.  The store lock is for short steps on
records, never held while a layer is unpacked or removed.  dockerd is kept off the data-root for as long as a write
scope or a transaction lasts.
"""

from __future__ import annotations

import contextlib
import errno
import os
from _thread import RLock  # threading costs a millisecond that reading an image need not pay
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from lamella.drivers import choose_driver, open_driver, require_own
from lamella.drivers.base import Driver
from lamella.errors import LamellaError, NotFound, PermissionDenied, Unavailable
from lamella.linux.locks import locked
from lamella.model.digest import ChainID
from lamella.store import dockerd
from lamella.store.layerdb import Layer
from lamella.store.transactions import Intent, Transaction


class Recovery(Protocol):
    """What undoes and finishes the work of the dead."""

    def recover(self, *, thorough: bool) -> None:
        """See to all that the dead left, for a process's first change; ``thorough`` if one died holding the lock."""

    def recover_dead(self) -> None:
        """Take back, or finish, the transactions of those that died since."""

    def release_deferred(self) -> None:
        """Remove what only the transaction that just ended still needed."""

    def undo(self, intent: Intent) -> None:
        """Take one transaction back, or forward if it was decided."""


class DataRoot:
    """One opened data-root."""

    def __init__(self, path: Path, driver: Driver, *, writable: bool) -> None:
        self.path = path
        self.driver = driver
        self.writable = writable
        self.problems: list[str] = []
        self.recovery: Recovery | None = None
        self.lamella_dir = path / "lamella"
        self.image_dir = path / "image" / driver.name
        self.layerdb_dir = self.image_dir / "layerdb"
        self.imagedb_dir = self.image_dir / "imagedb"
        self.distribution_dir = self.image_dir / "distribution"
        self.repositories_path = self.image_dir / "repositories.json"
        self.containers_dir = path / "containers"
        self.tx_dir = self.lamella_dir / "tx"
        self.wip_dir = self.lamella_dir / "wip"
        self.locks_dir = self.lamella_dir / "locks"
        self.transactions: list[Transaction] = []
        self._marker = self.lamella_dir / "unclean"
        self._guard = RLock()
        self._writing = 0
        self._reading = 0
        self._ready = False
        self._afterwards: list[Callable[[], None]] = []

    @classmethod
    def open(cls, path: Path, *, driver: str | None = None, create: bool = True) -> DataRoot:
        """Open the data-root at ``path``; ``create`` makes it if it does not exist.

        A data-root on a read-only file system opens for reading.  Raises NotFound, or Unsupported if no driver works
        or it is another engine's.
        """
        try:
            resolved = Path(os.path.realpath(path, strict=True))
        except FileNotFoundError:
            if not create:
                raise NotFound(f"{path}: no data-root here") from None
            _make_root(path)
            resolved = Path(os.path.realpath(path, strict=True))
        if not resolved.is_dir():
            raise NotFound(f"{path}: not a directory")
        writable = not os.statvfs(resolved).f_flag & os.ST_RDONLY
        require_own(resolved)
        name = driver or choose_driver(resolved)
        return cls(resolved, open_driver(name, resolved, resolved / "lamella"), writable=writable)

    # ------------------------------------------------------------------------------------------------ scopes

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """Hold off writers of other processes for a consistent look at several files; writes nothing."""
        with self._guard:
            if self._writing or self._reading:
                yield
                return
            with contextlib.ExitStack() as stack:
                lock = self.lamella_dir / "lock"
                if self.writable and lock.exists():
                    stack.enter_context(locked(lock, shared=True))
                self._reading += 1
                try:
                    yield
                finally:
                    self._reading -= 1

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Hold off the other threads of this process, not other processes; scopes of one thread nest."""
        with self._guard:
            yield

    @contextlib.contextmanager
    def writing(self, *, timeout: float | None = None) -> Iterator[None]:
        """Hold the store for a short change of its records; scopes of one thread nest.

        What dead processes began is undone or finished before anything else is changed.  Raises InUse while a dockerd
        runs here, PermissionDenied on a read-only file system.
        """
        with self._guard:
            if self._writing:
                self._writing += 1
                try:
                    yield
                finally:
                    self._writing -= 1
                return
            if self._reading:
                raise RuntimeError("a write scope inside a read scope of the same data-root would wait for itself")
            self._require_writable()
            with locked(self.lamella_dir / "lock", timeout=timeout), dockerd.kept_out(self.path):
                self._writing += 1
                try:
                    marked = os.path.lexists(self._marker)
                    if not self._ready:
                        self._make_layout()
                        if self.recovery is not None:
                            self.recovery.recover(thorough=marked)
                        self._ready, marked = True, False
                    elif self.recovery is not None:
                        self.recovery.recover_dead()
                    with contextlib.suppress(OSError):  # a hint for recovery; a full disk must not stop a removal
                        flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
                        os.close(os.open(self._marker, flags, 0o600))
                    yield
                    if not marked:  # what another one left is for the next process to look for
                        self._marker.unlink(missing_ok=True)
                finally:
                    self._writing -= 1
        self._run_afterwards()

    @contextlib.contextmanager
    def transaction(self, kind: str, *, ids: int = 4) -> Iterator[Transaction]:
        """Run one operation that is undone as a whole if it fails or dies.

        ``ids`` says how many layers the operation is expected to make.  Leaving the scope publishes what is pending.
        """
        with contextlib.ExitStack() as stack:
            with self.writing():
                stack.enter_context(dockerd.kept_out(self.path))
                tx = Transaction(self.tx_dir, kind, ids=ids)
                self.transactions.append(tx)
            try:
                yield tx
                tx.flush()
            except BaseException as error:
                self._abandon(tx, error)
                raise
            self.transactions.remove(tx)
            tx.close(remove=True)
        if self.recovery is not None and kind != "release":
            self.recovery.release_deferred()

    def _abandon(self, tx: Transaction, error: BaseException) -> None:
        undone = False
        try:
            if self.recovery is not None:
                with self.writing():
                    self.recovery.undo(tx.intent)
                undone = True
        except (LamellaError, OSError) as failure:
            error.add_note(f"undoing it failed too ({failure}); the next command will try again")
        finally:
            self.transactions.remove(tx)
            tx.close(remove=undone)

    def find_pending(self, chain: ChainID) -> Layer | None:
        """Return a layer that a transaction of this process has finished but not published."""
        for tx in tuple(self.transactions):
            for pending in tuple(tx.pending):
                if pending.layer.chain_id == chain:
                    return pending.layer
        return None

    def flush(self) -> None:
        """Publish what all transactions of this process have pending."""
        for tx in tuple(self.transactions):
            tx.flush()

    def afterwards(self, work: Callable[[], None]) -> None:
        """Do slow work once the store lock is given back; at once if it is not held."""
        with self._guard:
            self._afterwards.append(work)
            if self._writing:
                return
        self._run_afterwards()

    def report(self, problem: str) -> None:
        """Remember something that is wrong in the data-root, once."""
        if problem not in self.problems:
            self.problems.append(problem)

    def sync(self) -> None:
        """Put layers and records on disk, also where they are on file systems of their own."""
        from lamella.fs.atomic import sync_filesystem

        places = (self.path, self.path / self.driver.name, self.layerdb_dir, self.containers_dir)
        for place in {place.stat().st_dev: place for place in places if place.is_dir()}.values():
            sync_filesystem(place)

    # ------------------------------------------------------------------------------------------------ internals

    def _run_afterwards(self) -> None:
        with self._guard:
            if self._writing:
                return
            work, self._afterwards = self._afterwards, []
        with contextlib.ExitStack() as stack:  # one that fails does not keep the others from being done
            for item in reversed(work):
                stack.callback(item)

    def _require_writable(self) -> None:
        if not self.writable:
            raise PermissionDenied(f"{self.path} is on a read-only file system; remount it to change anything")
        if self.lamella_dir.is_symlink():
            raise _linked(self.lamella_dir)
        if self.lamella_dir.is_dir():
            return
        try:
            self.lamella_dir.mkdir(mode=0o700, exist_ok=True)
        except PermissionError as error:
            raise PermissionDenied(f"{self.path}: only root may change this store") from error
        except OSError as error:
            if error.errno == errno.EROFS:
                raise PermissionDenied(f"{self.path} is on a read-only file system") from error
            raise

    def _make_layout(self) -> None:
        """Make what is missing of the directories that every writer counts on, with Docker's modes."""
        for directory, mode in (
            (self.tx_dir, 0o700),
            (self.wip_dir, 0o700),
            (self.locks_dir, 0o700),
            (self.path / "image", 0o700),
            (self.image_dir, 0o700),
            (self.imagedb_dir, 0o700),
            (self.imagedb_dir / "content", 0o700),
            (self.imagedb_dir / "content" / "sha256", 0o700),
            (self.imagedb_dir / "metadata", 0o700),
            (self.imagedb_dir / "metadata" / "sha256", 0o700),
            (self.layerdb_dir, 0o700),
            (self.layerdb_dir / "sha256", 0o755),
            (self.layerdb_dir / "tmp", 0o755),
            (self.layerdb_dir / "mounts", 0o755),
            (self.distribution_dir, 0o700),
            (self.containers_dir, 0o710),
        ):
            if not os.path.lexists(directory):
                _mkdir(directory, mode)
            elif os.path.islink(directory):
                raise _linked(directory)
        for directory in (self.path / self.driver.name, self.lamella_dir / "mounts"):
            if os.path.islink(directory):
                raise _linked(directory)


def _linked(directory: Path) -> Unavailable:
    return Unavailable(f"{directory}: a symbolic link stands where the store needs a directory")


def _make_root(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        _mkdir(path, 0o710)


def _mkdir(path: Path, mode: int) -> None:
    """Make a directory with exactly this mode, whatever the umask."""
    os.mkdir(path, mode)
    os.chmod(path, mode)

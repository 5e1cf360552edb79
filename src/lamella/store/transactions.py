"""Intent records: what an operation is about to make, written down before it is made.

A transaction is one file ``lamella/tx/<id>.json`` of one JSON object a line.  Its owner holds an exclusive ``flock`` on
it, so "is the owner alive" needs no process ids: a record that can be locked belongs to the dead.  The first line names
the kind and a pool of random ids; every layer directory and write-set is named with an id of the pool, so that nothing
can exist that no record names, at the price of one fsync for each pool.  Later lines name chains to be published,
chains and images leased, containers and images made, and, last, the commit.

The record is removed when everything stands under its final name.  Undoing or finishing one is ``recovery``'s work.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from _thread import RLock
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from lamella.errors import DataLoss
from lamella.model.digest import ChainID, ImageID
from lamella.model.gojson import encode
from lamella.model.ids import CacheID, ContainerID, new_cache_id
from lamella.store.smallfiles import find_small, list_names, read_small

if TYPE_CHECKING:
    from lamella.store.layerdb import Layer

_RECORD_LIMIT = 16 << 20
_POOL = 4


class PendingLayer(NamedTuple):
    """A layer that is complete but not yet published: its record still lies in a write-set."""

    layer: Layer
    write_set: Path
    lock: contextlib.ExitStack | None


class Intent:
    """What one record says, as lists in the order of writing."""

    def __init__(self, kind: str, id: str = "") -> None:  # noqa: A002  (it is the record's id)
        self.kind = kind
        self.id = id
        self.pid = 0
        self.ids: list[CacheID] = []
        self.chains: list[ChainID] = []
        self.leases: list[ChainID] = []
        self.containers: list[ContainerID] = []
        self.images: list[ImageID] = []
        self.deletions: list[ImageID] = []
        self.discards: list[ContainerID] = []
        self.tags: dict[str, ImageID] | None = None

    def take(self, line: Mapping[str, object]) -> None:
        """Add what one line says; what it does not know it ignores."""
        if isinstance(kind := line.get("kind"), str):
            self.kind = kind
        if isinstance(pid := line.get("pid"), int):
            self.pid = pid
        if isinstance(ids := line.get("ids"), list):
            self.ids += [CacheID(item) for item in ids if isinstance(item, str)]
        if isinstance(chain := line.get("chain"), str):
            self.chains.append(ChainID(chain))  # type: ignore[arg-type]
        if isinstance(lease := line.get("lease"), str):
            self.leases.append(ChainID(lease))  # type: ignore[arg-type]
        if isinstance(container := line.get("container"), str):
            self.containers.append(ContainerID(container))
        if isinstance(image := line.get("image"), str):
            self.images.append(ImageID(image))  # type: ignore[arg-type]
        if isinstance(deletion := line.get("delete"), str):
            self.deletions.append(ImageID(deletion))  # type: ignore[arg-type]
        if isinstance(discard := line.get("discard"), str):
            self.discards.append(ContainerID(discard))
        if isinstance(tags := line.get("commit"), dict):
            self.tags = {str(key): ImageID(value) for key, value in tags.items() if isinstance(value, str)}  # type: ignore[arg-type]


def parse_intent(raw: bytes, id: str = "") -> Intent:  # noqa: A002  (it is the record's id)
    """Parse a record; a torn last line, which a power cut can leave, is dropped."""
    import json

    intent = Intent("unknown", id)
    for line in raw.split(b"\n"):
        try:
            document = json.loads(line)
        except ValueError:
            continue
        if isinstance(document, dict):
            intent.take(document)
    return intent


class Transaction:
    """One operation in progress; made by ``DataRoot.transaction`` and valid inside its scope.

    Several threads may work for one operation: names, notes and the line of pending layers are theirs in common.
    """

    def __init__(self, directory: Path, kind: str, *, ids: int = _POOL) -> None:
        """Write the record; the caller holds the store lock, so that nobody takes it for a dead one.

        It becomes durable with the first id that is used.
        """
        self.id = os.urandom(16).hex()
        self.path = directory / f"{self.id}.json"
        self.intent = Intent(kind, self.id)
        self.pending: list[PendingLayer] = []
        self.publish: Callable[[Transaction], None] | None = None
        self._guard = RLock()
        self._written = 0
        self._synced = 0
        self._promised = False
        self._unused: list[CacheID] = []
        self._fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX)
            self._refill(ids, {"kind": kind, "pid": os.getpid()})
        except BaseException:
            os.close(self._fd)
            self.path.unlink(missing_ok=True)
            raise

    def new_cache_id(self) -> CacheID:
        """Return a fresh id that the record on disk names; so does it name the containers noted before."""
        with self._guard:
            if not self._unused:
                self._refill(max(2 * len(self.intent.ids), _POOL), {})
            if self._promised:
                self.sync()
            return self._unused.pop()

    def note(self, key: str, value: object) -> None:
        """Append one line; it survives a kill at once and a power cut after the next ``sync``."""
        line = {key: value}
        with self._guard:
            self._write(line)
            self.intent.take(line)
            self._promised = self._promised or key == "container"

    def sync(self) -> None:
        """Make all lines durable."""
        with self._guard:
            if self._synced < self._written:
                os.fdatasync(self._fd)
                self._synced = self._written
            self._promised = False

    @property
    def written(self) -> int:
        """How many lines there are."""
        return self._written

    def synced(self, lines: int) -> None:
        """Take notice that a sync of the whole file system, begun when there were so many lines, has ended."""
        with self._guard:
            self._synced = max(self._synced, lines)

    def flush(self) -> None:
        """Publish the layers that wait, with one sync for all of them."""
        if self.pending and self.publish is not None:
            self.publish(self)

    def commit(self, tags: Mapping[str, ImageID]) -> None:
        """Decide: from here on recovery goes forward and sets ``tags``; before, it goes back.

        The caller then sets the tags.  Durable on return.
        """
        self.flush()
        self.note("commit", dict(tags))
        self.sync()

    def close(self, *, remove: bool) -> None:
        """Give up the record's lock, and remove the record unless recovery shall still find it."""
        for item in reversed(self.pending):
            if item.lock is not None:
                item.lock.close()
        self.pending = []
        if remove:
            self.path.unlink(missing_ok=True)
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _refill(self, count: int, line: dict[str, object]) -> None:
        fresh = [new_cache_id() for _ in range(count)]
        self._write({**line, "ids": fresh})
        self._promised = bool(fresh)
        self.intent.ids += fresh
        self._unused = fresh[::-1]

    def _write(self, line: dict[str, object]) -> None:
        raw = encode(line, newline=True)
        if os.write(self._fd, raw) != len(raw):
            raise DataLoss(f"{self.path}: short write; free some space and try again")
        self._written += 1


def iter_dead(directory: Path) -> Iterator[tuple[Path, Intent]]:
    """Yield each record whose owner is gone, holding its lock meanwhile; the caller removes the file."""
    for path in _record_paths(directory):
        try:
            fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        try:
            # No file any more: its owner ended well after we had opened it.
            if _take(fd) and (raw := find_small(path, _RECORD_LIMIT)) is not None:
                yield path, parse_intent(raw, path.stem)
        finally:
            os.close(fd)


def _take(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def iter_intents(directory: Path) -> Iterator[Intent]:
    """Yield what each record says, dead ones included: what they lease is spared until recovery has seen to them."""
    for path in _record_paths(directory):
        with contextlib.suppress(FileNotFoundError):
            yield parse_intent(read_small(path, _RECORD_LIMIT), path.stem)


def _record_paths(directory: Path) -> list[Path]:
    return [directory / name for name in list_names(directory) if name.endswith(".json")]

"""BuildKit's own layers in a Docker data root: ``buildkit/snapshots.db`` says which directories are its.

One bucket a snapshot.  An *active* one is a directory of the driver with the snapshot's own name; a *committed* one says
in ``committed`` which directory holds it; one that has become an image's layer says in ``chainid`` which.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from lamella.errors import DataLoss, NotFound
from lamella.model.digest import PREFIX, ChainID, DiffID, Digest, hex_of, is_hex64
from lamella.model.ids import is_cache_id
from lamella.readers.base import StoredLayer
from lamella.store.smallfiles import is_directory

if TYPE_CHECKING:
    from lamella.readers.bolt import Bucket


class _Snapshot(NamedTuple):
    name: str
    parent: str
    directory_id: str
    chain_id: ChainID | None
    size: int | None


class BuildSnapshots:
    """The snapshots of one data root's BuildKit, read when they are asked for."""

    def __init__(self, directory: Path, problems: list[str]) -> None:
        self._directory = directory
        self._problems = problems
        self._read: dict[str, _Snapshot] | None = None

    def layers(self, place: Callable[[str], Path], taken: Collection[str]) -> Iterator[StoredLayer]:
        """Yield a layer for each snapshot whose directory is there and not in *taken*, the directories of others."""
        snapshots = self._snapshots()
        seen = set(taken)
        # Committed ones first: their directory is still known by the name it had while it was active.
        for snapshot in sorted(snapshots.values(), key=lambda item: item.name == item.directory_id):
            if snapshot.directory_id in seen or not is_directory(place(snapshot.directory_id)):
                continue
            seen.add(snapshot.directory_id)
            # What it stands on is kept under the name it had while it was active.
            active = snapshots.get(snapshot.directory_id, snapshot)
            parent = snapshot.parent or active.parent
            below = snapshots.get(parent)
            if below is not None:
                parent = below.chain_id or below.name
            yield StoredLayer(
                id=snapshot.name,
                role="build",
                parent=parent or None,
                directory=place(snapshot.directory_id),
                directory_id=snapshot.directory_id,
                chain_id=snapshot.chain_id,
                size=snapshot.size,
            )

    def _snapshots(self) -> dict[str, _Snapshot]:
        if self._read is None:
            self._read = {}
            if is_directory(self._directory):
                from lamella.readers.bolt import Bolt

                try:
                    file = Bolt.open(self._directory / "snapshots.db")
                    self._read = {name: _snapshot(name, bucket) for name, bucket in file.root.buckets()}
                except NotFound:
                    pass
                except DataLoss as error:
                    self._problems.append(str(error))
            self._read = {name: item for name, item in self._read.items() if is_cache_id(item.directory_id)}
        return self._read


def _snapshot(name: str, bucket: Bucket) -> _Snapshot:
    chain = bucket.text("chainid")
    known = chain.startswith(PREFIX) and is_hex64(hex_of(chain))
    size = bucket.text("size")
    return _Snapshot(
        name,
        bucket.text("parent"),
        bucket.text("committed") or name,
        ChainID(DiffID(Digest(chain))) if known else None,
        int(size) if size.isascii() and size.isdigit() and len(size) < 20 else None,
    )

"""Mount records: ``layerdb/mounts/<owner>/{mount-id,init-id,parent}``, one for each container's writable layer.

The ids are checked against their pattern before anything is made of them.  Making and mounting the layers is
``rwlayers``; a record's ``parent`` keeps an image's layers alive.

Commit point: the rename of a write-set to ``mounts/<owner>``; dockerd writes the three files one by one.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from lamella.errors import DataLoss, InvalidArgument, NotFound
from lamella.fs.atomic import fsync_dir
from lamella.model.digest import ChainID, DiffID, parse_digest
from lamella.model.ids import CacheID, ContainerID
from lamella.store.layerdb import write_plain
from lamella.store.smallfiles import find_small, list_names, read_small, shown

_MOUNT_ID = re.compile(r"[0-9a-f]{64}(?:-init)?", re.ASCII)
_OWNER = re.compile(r"[0-9a-f]{64}", re.ASCII)


class RWLayer(NamedTuple):
    """A writable layer: who owns it, its own directory, its init layer's, and the image layer below."""

    owner: ContainerID
    mount_id: CacheID
    init_id: CacheID | None
    parent: ChainID | None


class MountDB:
    """The directory ``layerdb/mounts`` of one data-root."""

    def __init__(self, layerdb: Path) -> None:
        self.directory = layerdb / "mounts"
        self._staging = layerdb / "tmp"

    def path(self, owner: ContainerID) -> Path:
        """Return where the record of ``owner`` is, or would be."""
        if _OWNER.fullmatch(owner) is None:
            raise InvalidArgument(f"{owner!r} is not the full ID of a container")
        return self.directory / owner

    def read(self, owner: ContainerID) -> RWLayer:
        """Read one record.  Raises NotFound, or DataLoss naming what is wrong with it."""
        path = self.path(owner)
        try:
            mount_id = _id(read_small(path / "mount-id"), owner, "mount-id")
        except FileNotFoundError as error:
            if not os.path.lexists(path):
                raise NotFound(f"container {owner[:12]} has no writable layer") from None
            raise DataLoss(f"container {owner[:12]}: mount-id is missing from {path}") from error
        raw_init = find_small(path / "init-id")
        raw_parent = find_small(path / "parent")
        parent: ChainID | None = None
        if raw_parent is not None:
            try:
                parent = ChainID(DiffID(parse_digest(raw_parent.decode("ascii", "replace").strip())))
            except InvalidArgument as error:
                raise DataLoss(f"container {owner[:12]}: parent of its layer is {shown(raw_parent)}") from error
        return RWLayer(owner, mount_id, None if raw_init is None else _id(raw_init, owner, "init-id"), parent)

    def find(self, owner: ContainerID) -> RWLayer | None:
        """Read one record, or return None if there is none."""
        try:
            return self.read(owner)
        except NotFound:
            return None

    def iter_records(self, problems: list[str] | None = None) -> Iterator[RWLayer]:
        """Yield every sound record and name the others in ``problems``."""
        for name in list_names(self.directory):
            if _OWNER.fullmatch(name) is None:
                continue
            try:
                yield self.read(ContainerID(name))
            except NotFound:
                continue
            except DataLoss as error:
                if problems is not None:
                    problems.append(str(error))

    def stage(self, layer: RWLayer) -> Path:
        """Write a record aside; the caller syncs the file system before it is published."""
        self.path(layer.owner)
        # The name is derived from the layer's own random id, which the intent record names already.
        staging = self._staging / write_set_name(layer.mount_id, 1)
        os.mkdir(staging, 0o755)
        os.chmod(staging, 0o755)
        write_plain(staging / "mount-id", layer.mount_id.encode())
        if layer.init_id is not None:
            write_plain(staging / "init-id", layer.init_id.encode())
        if layer.parent is not None:
            write_plain(staging / "parent", layer.parent.encode())
        return staging

    def publish(self, staged: Path, owner: ContainerID, *, sync: bool = True) -> None:
        """Put a staged record in its place by one rename; ``sync`` makes that durable."""
        os.rename(staged, self.path(owner))
        if sync:
            fsync_dir(self.directory)

    def remove(self, owner: ContainerID) -> None:
        """Remove a record, by a rename first; a missing one is fine."""
        from lamella.fs.tree import remove_tree

        path = self.path(owner)
        with suppress(DataLoss, NotFound):
            aside = self._staging / write_set_name(self.read(owner).mount_id, 1)
            os.rename(path, aside)
            path = aside
        remove_tree(path)


def write_set_name(cache_id: str, part: int = 0) -> str:
    """Return the write-set's name that goes with a layer directory, in Docker's shape."""
    return f"write-set-{int(cache_id[16 * part : 16 * part + 16], 16)}"


def _id(raw: bytes, owner: ContainerID, what: str) -> CacheID:
    text = raw.decode("ascii", "replace").strip()
    if _MOUNT_ID.fullmatch(text) is None:
        raise DataLoss(f"container {owner[:12]}: {what} is {shown(raw)}, not the name of a layer directory")
    return CacheID(text)

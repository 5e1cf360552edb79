"""Volumes from another store into ours: copied whole, under their names, unless there is one of that name."""

from __future__ import annotations

import os
from typing import Literal

from lamella.container.volumes import Volumes, check_volume_name
from lamella.errors import InvalidArgument, NotFound, Unsupported
from lamella.readers.base import StoreReader
from lamella.store.drafts import draft
from lamella.store.imagestore import ImageStore

Outcome = Literal["adopted", "present"]


class VolumeMover:
    """Brings volumes in, each once, whoever needs it."""

    def __init__(self, store: ImageStore, reader: StoreReader) -> None:
        self._store = store
        self._records = {volume.name: volume for volume in reader.volumes()}
        self._done: set[str] = set()

    def exists(self, name: str) -> bool:
        """Tell whether there is a volume of this name here.  Raises InvalidArgument for what can be no name."""
        return os.path.lexists(self._store.root.path / "volumes" / check_volume_name(name))

    def check(self, name: str) -> None:
        """Raise Unsupported for a volume whose content its engine mounts there from elsewhere."""
        record = self._records.get(name)
        if record is not None and record.mounts:
            raise Unsupported(f"it is what is mounted there by its options, {record.mounts}, which is not adopted")

    def need(self, name: str, notes: list[str]) -> None:
        """Bring in a volume that a container mounts, and say so if it is not to be had or another is kept."""
        if name in self._done:
            return
        try:
            if self.bring(name) == "present":
                notes.append(f"volume {name}: there is one of this name here, which is kept")
        except NotFound:
            notes.append(f"volume {name} is not in the store: the container gets an empty one")
        except Unsupported as error:
            notes.append(f"volume {name}: {error}; the container gets an empty one")
        except InvalidArgument:
            notes.append(f"volume {name!r:.80} has no name that a volume can have here: left out")

    def bring(self, name: str) -> Outcome:
        """Copy one volume with all it holds; one that is here already stays as it is.  Raises NotFound, Unsupported."""
        from lamella.fs.atomic import fsync_dir
        from lamella.fs.tree import copy_tree

        present = self.exists(name)
        record = self._records.get(name)
        if record is None:
            raise NotFound(f"no such volume: {name}")
        if present:
            return "present"
        self.check(name)
        root = self._store.root
        target = root.path / "volumes" / name
        with draft(root, mode=0o701) as made:
            copy_tree(record.directory, made / "_data")
            root.sync()
            with root.writing():
                Volumes(root.path).directory.mkdir(mode=0o701, exist_ok=True)
                if not os.path.lexists(target):
                    made.rename(target)
                    fsync_dir(target.parent)
        self._done.add(name)
        return "adopted"

"""The steps that change files: RUN, COPY, ADD and WORKDIR, each on a writable layer that then becomes a layer.

Nothing is copied to make the layer: the writable layer's own directory is taken over.  RUN has an init layer below
its own, as a container has, so that what the runtime mounts on never reaches the image.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from lamella.build.context import SourceTree
from lamella.build.copyfiles import Manner, Owner, Source, copy_source, open_destination
from lamella.build.runner import Runner
from lamella.build.snapshot import Snapshot
from lamella.container.users import resolve_group, resolve_user
from lamella.errors import InvalidArgument, NotFound
from lamella.fs.rooted import Root
from lamella.model.digest import DiffID
from lamella.model.ids import ContainerID, new_container_id
from lamella.model.imageconfig import ContainerSettings
from lamella.store.imagestore import ImageStore
from lamella.store.mountdb import RWLayer
from lamella.store.transactions import Transaction


class FileStep:
    """What file-changing steps need of the store, and the time to clamp to in a reproducible build."""

    def __init__(self, store: ImageStore, tx: Transaction, *, timestamp: int | None = None) -> None:
        self._store = store
        self._tx = tx
        self._timestamp = timestamp

    @contextmanager
    def source_tree(self, image: Snapshot) -> Generator[SourceTree]:
        """Open the root of an image or finished stage to copy from."""
        if image.chain is None:
            raise NotFound("COPY failed: the image to copy from has no files")
        layer = self._store.layers.get(image.chain)
        with self._store.root.driver.mounted_read_only(layer.cache_id) as merged, Root(merged) as root:
            yield SourceTree(root, is_context=False)

    def copy(
        self, image: Snapshot, sources: Sequence[Source], destination: str, manner: Manner, chown: str, *, unpack: bool
    ) -> DiffID:
        """Copy sources into `image`; give the layer's diff ID."""
        target = os.fsencode(destination)
        with self._changing(image) as (rw, commit):
            with self._store.rwlayers.mounted(rw) as merged, Root(merged) as root:
                if chown:
                    manner = manner._replace(owner=_find_owner(root, chown))
                for source in sources:
                    if not (unpack and _unpack(source, root, target)):
                        copy_source(source, root, target, manner)
            return commit()

    def make_directory(self, image: Snapshot, path: str) -> DiffID:
        """Make WORKDIR's directory if it is missing."""
        with self._changing(image) as (rw, commit):
            with self._store.rwlayers.mounted(rw) as merged, Root(merged) as root:
                try:
                    root.make_directories(os.fsencode(path), 0o755, 0, 0)
                except NotADirectoryError as error:
                    raise InvalidArgument(f"Cannot mkdir: {path} is not a directory") from error
            return commit()

    def run(self, image: Snapshot, runner: Runner, settings: ContainerSettings, owner: ContainerID) -> DiffID:
        """Run a command in `image`; raises CommandFailed for a non-zero exit code."""
        with self._changing(image, owner=owner, init=True) as (rw, commit):
            with self._store.rwlayers.mounted(rw) as merged:
                runner.run(owner, merged, settings)
            return commit()

    @contextmanager
    def _changing(
        self, image: Snapshot, *, owner: ContainerID | None = None, init: bool = False
    ) -> Generator[tuple[RWLayer, _Commit]]:
        from lamella.store.initlayer import fill_init_layer

        rwlayers = self._store.rwlayers
        rw = rwlayers.create(
            owner or new_container_id(),
            image.chain,
            tx=self._tx,
            init=fill_init_layer if init else None,
            recorded=False,
            sync=False,
        )
        try:
            yield rw, _Commit(self._store, self._tx, rw, image, self._timestamp)
        finally:
            rwlayers.remove(rw)


class _Commit(NamedTuple):
    """Turns the writable layer into a layer; called once its mount is gone."""

    store: ImageStore
    tx: Transaction
    rw: RWLayer
    image: Snapshot
    timestamp: int | None

    def __call__(self) -> DiffID:
        if self.timestamp is not None:
            data = self.store.rwlayers.metadata(self.rw) or {}
            if "UpperDir" in data:
                clamp_times(Path(data["UpperDir"]), self.timestamp)
        return self.store.layers.capture(self.rw, self.image.chain, self.tx).diff_id


def _find_owner(root: Root, text: str) -> Owner:
    """Look up ``--chown``: a group not named is the one called like the user."""
    user, _, group = text.partition(":")
    if ":" in group or not user:
        raise InvalidArgument(f"invalid chown string format: {text}")
    try:
        return Owner(resolve_user(root, user).uid, resolve_group(root, group or user))
    except (NotFound, InvalidArgument) as error:
        raise type(error)(f"unable to convert uid/gid chown string to host mapping: {error}") from error


def _unpack(source: Source, image: Root, destination: bytes) -> bool:
    """Unpack a source that is an archive; False if it is none."""
    from lamella.build.unpack import is_archive, unpack

    if source.tree is None or source.is_directory:
        return False
    fd = source.tree.open_file(source.path)
    with os.fdopen(fd, "rb") as file:
        if not is_archive(file):
            return False
        with open_destination(image, destination, None) as directory:
            unpack(file, directory)
        return True


def clamp_times(directory: Path, timestamp: int) -> None:
    """Set what was changed after `timestamp` back to it, so that a build gives the same bytes on another day."""
    from lamella.fs.walk import walk

    limit = timestamp * 10**9
    with Root(directory) as root:
        for entry in walk(root.fd):
            if entry.stat.st_mtime_ns > limit:
                times = (entry.stat.st_atime_ns, limit)
                os.utime(entry.name, ns=times, dir_fd=entry.dir_fd, follow_symlinks=False)

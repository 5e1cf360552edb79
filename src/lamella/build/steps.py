"""The steps that change files: RUN, COPY, ADD and WORKDIR, each on a writable layer that then becomes a layer.

Nothing is copied to make the layer: the writable layer's own directory is taken over.  RUN has an init layer below
its own, as a container has, so that what the runtime mounts on never reaches the image.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from lamella.build.context import SourceTree
from lamella.build.snapshot import Snapshot
from lamella.errors import InvalidArgument, NotFound
from lamella.fs.rooted import Root
from lamella.model.digest import DiffID
from lamella.model.ids import CacheID, ContainerID, new_container_id
from lamella.store.dataroot import DataRoot
from lamella.store.imagestore import ImageStore
from lamella.store.mountdb import RWLayer
from lamella.store.transactions import Transaction

if TYPE_CHECKING:
    from lamella.build.copyfiles import Manner, Owner
    from lamella.build.sources import Source


class FileStep:
    """What file-changing steps need of the store, and the time to clamp to in a reproducible build."""

    def __init__(
        self,
        store: ImageStore,
        transaction: Callable[[], Transaction],
        *,
        timestamp: int | None = None,
        need: Callable[[Snapshot], None] = lambda _: None,
    ) -> None:
        self._store = store
        self.need = need
        """Brings in the layers of an image that was found in somebody's cache; to be called before they are used."""
        self._transaction = transaction
        self._timestamp = timestamp
        self._copies = ExitStack()
        self._copied: dict[bytes, CacheID] = {}
        self._copying = Lock()

    @property
    def _tx(self) -> Transaction:
        """The build's transaction, begun by the first step that changes files."""
        return self._transaction()

    @property
    def root(self) -> DataRoot:
        """The data-root that is built in."""
        return self._store.root

    def close(self) -> None:
        """Remove what was made for mounts; the transaction is still open."""
        self._copied.clear()
        self._copies.close()

    @contextmanager
    def source_tree(self, image: Snapshot) -> Generator[SourceTree]:
        """Open the root of an image or finished stage to copy from."""
        if image.chain is None:
            raise NotFound("COPY failed: the image to copy from has no files")
        self.need(image)
        layer = self._store.layers.get(image.chain)
        with self._store.root.driver.mounted_read_only(layer.cache_id) as merged, Root(merged) as root:
            yield SourceTree(root, is_context=False)

    @contextmanager
    def read_only(self, image: Snapshot) -> Generator[Path]:
        """Hold an image or finished stage mounted; one without files is an empty directory."""
        if image.chain is None:
            with self.scratch() as cache_id, self.view(cache_id, writable=False) as empty:
                yield empty
            return
        self.need(image)
        layer = self._store.layers.get(image.chain)
        with self._store.root.driver.mounted_read_only(layer.cache_id) as merged:
            yield merged

    def below(self, image: Snapshot) -> CacheID | None:
        """Give the directory that a writable view of an image stands on."""
        self.need(image)
        return None if image.chain is None else self._store.layers.get(image.chain).cache_id

    @contextmanager
    def scratch(self, below: CacheID | None = None) -> Generator[CacheID]:
        """Make a writable directory, empty or on another one, that is removed at the end and never becomes a layer."""
        driver = self._store.root.driver
        cache_id = self._tx.new_cache_id()
        driver.create_read_write(cache_id, below)
        try:
            yield cache_id
        finally:
            driver.remove(cache_id)

    @contextmanager
    def view(self, below: CacheID | None, *, writable: bool) -> Generator[Path]:
        """Hold a directory mounted; what is written to a writable view is thrown away."""
        driver = self._store.root.driver
        if not writable and below is not None:
            with driver.mounted(below) as merged:
                yield merged
            return
        with self.scratch(below) as cache_id, driver.mounted(cache_id, volatile=True) as merged:
            yield merged

    def context_copy(self, path: bytes, fill: Callable[[Path], None]) -> CacheID:
        """Give the copy of the context's `path`, made by `fill` when the build first asks for it."""
        with self._copying:
            if path not in self._copied:
                with ExitStack() as stack:
                    cache_id = stack.enter_context(self.scratch())
                    with self._store.root.driver.mounted(cache_id, volatile=True) as merged:
                        fill(merged)
                    self._copied[path] = cache_id
                    self._copies.push(stack.pop_all())
            return self._copied[path]

    def copy(
        self,
        image: Snapshot,
        sources: Sequence[Source],
        destination: str,
        manner: Manner,
        chown: str,
        *,
        unpack: bool,
        link: bool = False,
    ) -> DiffID:
        """Copy sources into `image`; give the layer's diff ID.

        With `link` nothing of the image is looked at: the layer is what copying into an empty one gives.
        """
        from lamella.build.copyfiles import copy_source

        target = os.fsencode(destination)
        with self._changing(image, linked=link) as (rw, commit):
            with self._store.rwlayers.mounted(rw, volatile=True) as merged, Root(merged) as root:
                if chown:
                    manner = manner._replace(owner=_read_owner(chown) if link else _find_owner(root, chown))
                for source in sources:
                    wanted = unpack if source.unpack is None else source.unpack
                    if not (wanted and _unpack(source, root, target)):
                        copy_source(source, root, target, manner)
                if link:
                    _set_times(root, target, manner.now_ns)
            return commit()

    def make_directory(self, image: Snapshot, path: str) -> DiffID:
        """Make WORKDIR's directory if it is missing."""
        with self._changing(image) as (rw, commit):
            with self._store.rwlayers.mounted(rw, volatile=True) as merged, Root(merged) as root:
                try:
                    root.make_directories(os.fsencode(path), 0o755, 0, 0)
                except NotADirectoryError as error:
                    raise InvalidArgument(f"Cannot mkdir: {path} is not a directory") from error
            return commit()

    def run(
        self, image: Snapshot, owner: ContainerID, work: Callable[[Path], None], fill: Callable[[Path], None]
    ) -> DiffID:
        """Give what `work` changes in the root that it is called with; `fill` makes the init layer below it."""
        with self._changing(image, owner=owner, init=fill) as (rw, commit):
            with self._store.rwlayers.mounted(rw, volatile=True) as merged:
                work(merged)
            return commit()

    @contextmanager
    def _changing(
        self,
        image: Snapshot,
        *,
        owner: ContainerID | None = None,
        init: Callable[[Path], None] | None = None,
        linked: bool = False,
    ) -> Generator[tuple[RWLayer, Callable[[], DiffID]]]:
        self.need(image)
        rwlayers = self._store.rwlayers
        rw = rwlayers.create(
            owner or new_container_id(),
            None if linked else image.chain,
            tx=self._tx,
            init=init,
            recorded=False,
            sync=False,
        )
        try:
            yield rw, lambda: self._commit(rw, image)
        finally:
            rwlayers.remove(rw)

    def _commit(self, rw: RWLayer, image: Snapshot) -> DiffID:
        """Turn the writable layer into a layer; its mount is gone by now."""
        if self._timestamp is not None:
            data = self._store.rwlayers.metadata(rw) or {}
            if "UpperDir" in data:
                clamp_times(Path(data["UpperDir"]), self._timestamp)
        layers, chain = self._store.layers, image.chain
        if rw.parent != chain and self._store.root.driver.name != "overlay2":
            # What such a driver keeps is a whole tree, and this one is not that of `chain`.
            return layers.copy(rw, chain, self._tx).diff_id
        return layers.capture(rw, chain, self._tx).diff_id


def _find_owner(root: Root, text: str) -> Owner:
    """Look up ``--chown``: a group not named is the one called like the user."""
    from lamella.build.copyfiles import Owner
    from lamella.container.users import resolve_group, resolve_user

    user, _, group = text.partition(":")
    if ":" in group or not user:
        raise InvalidArgument(f"invalid chown string format: {text}")
    try:
        return Owner(resolve_user(root, user).uid, resolve_group(root, group or user))
    except (NotFound, InvalidArgument) as error:
        raise type(error)(f"unable to convert uid/gid chown string to host mapping: {error}") from error


def _read_owner(text: str) -> Owner:
    """Read a ``--chown`` in numbers: with ``--link`` there are no names to look up."""
    import re

    from lamella.build.copyfiles import Owner

    found = re.fullmatch(r"([0-9]{1,10})(?::([0-9]{1,10}))?", text)
    if found is None:
        raise InvalidArgument(
            f"--link with --chown={text}: the users of the image below are not looked at; give numbers, or leave out --link"
        )
    uid, gid = int(found[1]), int(found[2] or found[1])
    if max(uid, gid) >= 2**31:
        raise InvalidArgument(f"--chown={text}: no user or group has such a number")
    return Owner(uid, gid)


def _set_times(root: Root, destination: bytes, time_ns: int) -> None:
    """Give the directories on the way to `destination` a time that is not the clock's."""
    names = [name for name in destination.split(b"/") if name]
    for end in range(len(names), 0, -1):
        try:
            fd = root.open(b"/".join(names[:end]), os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except (FileNotFoundError, NotADirectoryError):
            continue  # the file itself, or nothing at all was copied
        try:
            os.utime(fd, ns=(time_ns, time_ns))
        finally:
            os.close(fd)


def _unpack(source: Source, image: Root, destination: bytes) -> bool:
    """Unpack a source that is an archive; False if it is none."""
    from lamella.build.copyfiles import open_destination
    from lamella.build.unpack import is_archive, unpack

    if source.tree is None or source.is_directory:
        return False
    if source.stat is None or not stat.S_ISREG(source.stat.st_mode):
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

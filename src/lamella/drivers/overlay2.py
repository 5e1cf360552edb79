"""Docker's overlay2 driver: each layer holds its own changes, the kernel stacks them.

The directories are those of :mod:`lamella.drivers.layerdir`, so a dockerd reads and extends them.  A layer is mounted
on ``merged`` for writing (read-only once committed), as Docker does, and for looking only on a view of its own below
``lamella/mounts``, through which an image can not be changed.  The layer records are the store's.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from lamella.drivers.base import TRIAL
from lamella.drivers.holders import Holders
from lamella.drivers.layerdir import LayerDirectory
from lamella.drivers.mountpoint import make_mount_point, remove_mount_point, unmount
from lamella.errors import DataLoss, NotFound, PermissionDenied
from lamella.linux.mountinfo import is_mounted
from lamella.model.digest import DiffID
from lamella.model.ids import CacheID, is_cache_id

if TYPE_CHECKING:
    from lamella.changeset.apply import Applied
    from lamella.changeset.changes import Change
    from lamella.changeset.diff import Captured
    from lamella.drivers.base import Advance
    from lamella.linux.mount import Mount


class Overlay2:
    """The overlay2 driver on one data-root."""

    name = "overlay2"
    apart = True

    def __init__(self, root: Path, state: Path) -> None:
        self.home = root / "overlay2"
        self._root = root
        self._views = state / "mounts"
        self._scratch = state / "wip"
        self._holders = Holders(self._views)
        self._native_diff: bool | None = None

    def check_supported(self, root: Path) -> None:
        """Raise Unsupported, with the reason, unless an overlay works below *root*."""
        from lamella.drivers.probe import check_overlay

        check_overlay(root)

    @property
    def native_diff(self) -> bool:
        """Tell whether a layer's ``diff`` shows its changes by plain walking."""
        if self._native_diff is None:
            from lamella.drivers.probe import has_native_diff

            self._native_diff = has_native_diff(self._root)
        return self._native_diff

    def prepare(self) -> None:
        """Make ``overlay2`` and ``overlay2/l``."""
        for path, mode in ((self.home, 0o710), (self.home / "l", 0o700)):
            try:
                os.mkdir(path, mode)
            except FileExistsError:
                if os.path.islink(path):
                    raise DataLoss(f"{path} is a symbolic link where the store keeps its layers; remove it") from None
            else:
                os.chmod(path, mode)

    # ------------------------------------------------------------------------------------------- making and removing

    def create(self, layer: CacheID, parent: CacheID | None) -> None:
        """Make an empty image layer."""
        self._create(layer, parent, committed=True)

    def create_read_write(self, layer: CacheID, parent: CacheID | None) -> None:
        """Make a layer to be written through its mount."""
        self._create(layer, parent, committed=False)

    def _create(self, layer: CacheID, parent: CacheID | None, *, committed: bool) -> None:
        self.prepare()
        self._directory(layer).create(None if parent is None else self._directory(parent), committed=committed)

    def exists(self, layer: CacheID) -> bool:
        """Tell whether there is a directory of this name, complete or not."""
        return self._directory(layer).exists()

    def remove(self, layer: CacheID) -> None:
        """Remove *layer*, complete or not; InUse while it is mounted for somebody."""
        directory = self._directory(layer)
        with self._holders.unused(layer, lambda: self._unmount_all(directory), purpose="removed"):
            directory.remove()

    def iter_ids(self) -> Iterator[CacheID]:
        """Name every layer directory, complete or not."""
        with suppress(FileNotFoundError), os.scandir(self.home) as entries:
            for entry in entries:
                if is_cache_id(entry.name) and entry.is_dir(follow_symlinks=False):
                    yield CacheID(entry.name)

    # ------------------------------------------------------------------------------------------------------ mounting

    def mount(self, layer: CacheID, holder: str) -> Path:
        """Mount *layer* for *holder*, which outlives this process."""
        directory = self._directory(layer)
        directory.require()
        return self._holders.add(layer, holder, lambda: self._mount_merged(directory))

    def unmount(self, layer: CacheID, holder: str) -> None:
        """Release *holder*; the last one's leaving undoes the mount."""
        directory = self._directory(layer)
        self._holders.release(layer, holder, lambda: self._unmount_merged(directory))

    def release_holder(self, layer: CacheID, holder: str) -> None:
        """Release *holder*, whether or not the layer is still there."""
        self.unmount(layer, holder)

    def holders(self, layer: CacheID) -> list[str]:
        """Name those for whom *layer* is mounted."""
        return self._holders.names(self._directory(layer).layer)

    def sweep_mounts(self) -> list[CacheID]:
        """Undo the mounts whose users are gone."""
        if any(name.startswith(TRIAL) for name in os.listdir(self._root)):
            from lamella.drivers.probe import sweep_trials

            sweep_trials(self._root)
        return self._holders.sweep(lambda layer: self._unmount_all(self._directory(layer)))

    @contextmanager
    def mounted(self, layer: CacheID, *, volatile: bool = False) -> Generator[Path]:
        """Hold *layer* mounted for a block.

        Unmounting an overlay syncs the whole file system below it; a volatile one does not.
        """
        directory = self._directory(layer)
        directory.require()
        with self._holders.hold(
            layer,
            "merged",
            lambda: self._mount_merged(directory, volatile=volatile),
            lambda: self._unmount_merged(directory),
        ) as path:
            yield path

    @contextmanager
    def mounted_read_only(self, layer: CacheID) -> Generator[Path]:
        """Hold a view of *layer* that cannot be written through."""
        directory = self._directory(layer)
        directory.require()
        with self._holders.hold(
            layer, "view", lambda: self._mount_view(directory), lambda: self._unmount_view(directory)
        ) as path:
            yield path

    @contextmanager
    def files(self, layer: CacheID) -> Generator[Path]:
        """Yield the layer's own directory: what was extracted there resolves there."""
        directory = self._directory(layer)
        directory.require()
        yield directory.diff

    def _mount_merged(self, directory: LayerDirectory, *, volatile: bool = False) -> Path:
        """Mount on ``merged`` unless it is; a bottom layer is its own mount."""
        lowers = directory.lowers()
        if not lowers:
            return directory.diff
        if not is_mounted(directory.merged):
            make_mount_point(directory.merged)
            try:
                self._perform(
                    directory, lowers, directory.merged, read_only=directory.is_committed(), volatile=volatile
                )
            except BaseException:
                remove_mount_point(directory.merged)
                raise
        return directory.merged

    def _mount_view(self, directory: LayerDirectory) -> Path:
        """Mount the read-only view unless it is there, of the live mount if the layer has one."""
        from lamella.linux.mount import bind

        view = self._views / directory.layer / "view"
        if is_mounted(view):
            return view
        make_mount_point(view)
        try:
            lowers = directory.lowers()
            if is_mounted(directory.merged):
                bind(directory.merged, view, readonly=True)
            elif lowers:
                self._perform(directory, lowers, view, read_only=True)
            else:
                bind(directory.diff, view, readonly=True)
        except BaseException:
            remove_mount_point(view)
            raise
        return view

    def _perform(
        self, directory: LayerDirectory, lowers: list[str], target: Path, *, read_only: bool, volatile: bool = False
    ) -> None:
        from lamella.linux.mount import perform

        # The kernel would follow a link that stands for one of these to anywhere.
        for entry in lowers:
            directory.resolve(entry).require()
        directory.require(work=not read_only)
        try:
            overlay = self._overlay(directory, lowers, read_only=read_only, volatile=volatile)
            perform(overlay, target, base=self.home)
        except OSError as problem:
            if problem.errno == errno.EPERM:
                raise PermissionDenied(f"mounting layer {directory.layer[:12]} needs root (CAP_SYS_ADMIN)") from problem
            raise

    def _overlay(self, directory: LayerDirectory, lowers: list[str], *, read_only: bool, volatile: bool) -> Mount:
        """Spell the mount as Docker does; every name in it has been checked."""
        from lamella.drivers.probe import index_option
        from lamella.linux.mount import Mount

        below = [f"{self.home}/{entry}" for entry in lowers]
        if read_only:
            return Mount("overlay", "overlay", (*index_option(), "lowerdir=" + ":".join([str(directory.diff), *below])))
        return Mount(
            "overlay",
            "overlay",
            (
                *index_option(),
                "lowerdir=" + ":".join(below),
                f"upperdir={directory.diff}",
                f"workdir={directory.work}",
                *(("volatile",) if volatile else ()),
            ),
        )

    def _unmount_merged(self, directory: LayerDirectory) -> bool:
        was_mounted = unmount(directory.merged)
        directory.forget_volatile()
        return was_mounted

    def _unmount_view(self, directory: LayerDirectory) -> bool:
        return unmount(self._views / directory.layer / "view")

    def _unmount_all(self, directory: LayerDirectory) -> bool:
        """Undo both mounts; tell whether there was one."""
        view = self._unmount_view(directory)
        return self._unmount_merged(directory) or view

    # ------------------------------------------------------------------------------------------- layers in and out

    def apply(
        self,
        layer: CacheID,
        parent: CacheID | None,  # noqa: ARG002 - what is below a layer does not change its own files
        stream: BinaryIO,
        *,
        tar_split: BinaryIO | None = None,
        expected: DiffID | None = None,
        advance: Advance | None = None,
    ) -> Applied:
        """Extract a layer tar into ``diff`` without mounting anything."""
        from lamella.changeset.apply import Style, apply_layer

        directory = self._directory(layer)
        directory.require()
        return apply_layer(
            stream, directory.diff, tar_split=tar_split, style=Style.OVERLAY, expected=expected, advance=advance
        )

    def capture(
        self,
        layer: CacheID,
        new_layer: CacheID,
        parent: CacheID | None,
        *,
        tar_split: BinaryIO,
        advance: Advance | None = None,
    ) -> Captured:
        """Move the ``diff`` of *layer* into the new layer *new_layer*, once it is hashed and recorded as it stands."""
        from lamella.changeset.diff import capture_layer

        directory = self._directory(layer)
        directory.require()
        with self._holders.unused(layer, lambda: self._unmount_all(directory), purpose="captured"):
            captured = capture_layer(directory.diff, tar_split, advance=advance)
            new = self._directory(new_layer)
            self._create(new_layer, parent, committed=True)
            os.rename(directory.diff, new.diff)
            # The root of a layer has no entry in its tar, so what the container made of it is not kept.
            os.chown(new.diff, 0, 0)
            os.chmod(new.diff, 0o755)
        return captured

    def diff(self, layer: CacheID, parent: CacheID | None, sink: BinaryIO) -> None:
        """Write the layer's tar from ``diff`` alone where that tells everything."""
        directory = self._directory(layer)
        directory.require()
        if self.native_diff and directory.stands_on(parent):
            from lamella.changeset.diff import write_layer

            write_layer(directory.diff, sink)
        else:
            from lamella.drivers import naive

            naive.diff(self, layer, parent, sink, self._scratch)

    def changes(self, layer: CacheID, parent: CacheID | None) -> list[Change]:
        """List the layer's changes, from ``diff`` and the names below it where that tells everything."""
        from lamella.drivers import naive

        directory = self._directory(layer)
        directory.require()
        if not (self.native_diff and directory.stands_on(parent)):
            return naive.changes(self, layer, parent, self._scratch)
        from lamella.drivers.upperchanges import changes_in_upper

        with naive.tree_below(parent, self.mounted_read_only, self._scratch) as lower:
            return changes_in_upper(directory.diff, lower)

    def size(self, layer: CacheID, parent: CacheID | None) -> int:  # noqa: ARG002 - files of a layer are all in it
        """Sum the files in ``diff``."""
        from lamella.fs.usage import layer_size

        directory = self._directory(layer)
        directory.require()
        return layer_size(directory.diff)

    def metadata(self, layer: CacheID) -> dict[str, str] | None:
        """Return the four directories of the layer, ``LowerDir`` only if there is one below."""
        directory = self._directory(layer)
        if not directory.exists():
            raise NotFound(f"{directory.path}: the layer's directory does not exist; load the image again")
        data = {}
        if lowers := directory.lowers():
            data["LowerDir"] = ":".join(str(directory.resolve(entry).diff) for entry in lowers)
        data["MergedDir"] = str(directory.merged)
        data["UpperDir"] = str(directory.diff)
        data["WorkDir"] = str(directory.work)
        return data

    def _directory(self, layer: CacheID) -> LayerDirectory:
        return LayerDirectory(self.home, layer)

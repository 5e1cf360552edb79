"""Docker's vfs driver: each layer is a plain directory with the whole tree.

Works on every file system and needs no mounts, at the price of a full copy for each layer.  The layout is Docker's,
``DATA-ROOT/vfs/dir/ID``.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from lamella.drivers import naive
from lamella.drivers.holders import Holders
from lamella.drivers.mountpoint import make_mount_point, remove_mount_point, unmount
from lamella.errors import DataLoss, InvalidArgument, NotFound
from lamella.linux.mountinfo import is_mounted
from lamella.model.digest import DiffID
from lamella.model.ids import CacheID, init_id, is_cache_id

if TYPE_CHECKING:
    from lamella.changeset.apply import Applied
    from lamella.changeset.changes import Change
    from lamella.changeset.diff import Captured
    from lamella.drivers.base import Advance


class Vfs:
    """The vfs driver on one data-root."""

    name = "vfs"
    apart = False
    native_diff = False

    def __init__(self, root: Path, state: Path) -> None:
        self.home = root / "vfs" / "dir"
        self._views = state / "mounts"
        self._scratch = state / "wip"
        self._holders = Holders(self._views)

    def check_supported(self, root: Path) -> None:
        """Accept every file system."""

    def prepare(self) -> None:
        """Make ``vfs`` and ``vfs/dir``."""
        self._require_own_home()
        for path in (self.home.parent, self.home):
            with suppress(FileExistsError):
                os.mkdir(path, 0o710)
                os.chmod(path, 0o710)

    def _require_own_home(self) -> None:
        """Raise DataLoss where a link would have layers made, shown or removed outside the data-root."""
        for path in (self.home.parent, self.home):
            if path.is_symlink():
                raise DataLoss(f"{path} is a symbolic link where the store keeps its layers; remove it")

    # ------------------------------------------------------------------------------------------- making and removing

    def create(self, layer: CacheID, parent: CacheID | None) -> None:
        """Make *layer* as a copy of *parent*."""
        from lamella.fs.tree import copy_tree

        self.prepare()
        path = self._path(layer)
        if parent is not None:
            copy_tree(self._existing(parent), path)
        else:
            os.mkdir(path, 0o755)
            os.chmod(path, 0o755)

    def create_read_write(self, layer: CacheID, parent: CacheID | None) -> None:
        """Make *layer* as a copy of *parent*; there is no other kind."""
        self.create(layer, parent)

    def exists(self, layer: CacheID) -> bool:
        """Tell whether there is a directory of this name, complete or not."""
        try:
            return stat.S_ISDIR(os.lstat(self._path(layer)).st_mode)
        except FileNotFoundError:
            return False

    def remove(self, layer: CacheID) -> None:
        """Remove *layer*; InUse while somebody holds it."""
        from lamella.fs.tree import remove_tree

        path = self._path(layer)
        self._require_own_home()
        with self._holders.unused(layer, lambda: self._unmount_view(layer), purpose="removed"):
            remove_tree(path)

    def iter_ids(self) -> Iterator[CacheID]:
        """Name every layer directory, complete or not."""
        with suppress(FileNotFoundError), os.scandir(self.home) as entries:
            for entry in entries:
                if is_cache_id(entry.name) and entry.is_dir(follow_symlinks=False):
                    yield CacheID(entry.name)

    # ------------------------------------------------------------------------------------------------------ mounting

    def mount(self, layer: CacheID, holder: str) -> Path:
        """Record *holder* and return the directory."""
        path = self._existing(layer)
        return self._holders.add(layer, holder, lambda: path)

    def unmount(self, layer: CacheID, holder: str) -> None:
        """Release *holder*."""
        self._path(layer)
        self._holders.release(layer, holder, lambda: None)

    def release_holder(self, layer: CacheID, holder: str) -> None:
        """Release *holder*, whether or not the layer is still there."""
        self.unmount(layer, holder)

    def holders(self, layer: CacheID) -> list[str]:
        """Name those who use *layer*."""
        self._path(layer)
        return self._holders.names(layer)

    def sweep_mounts(self) -> list[CacheID]:
        """Undo the views whose users are gone."""
        return self._holders.sweep(self._unmount_view)

    @contextmanager
    def mounted(self, layer: CacheID, *, volatile: bool = False) -> Generator[Path]:  # noqa: ARG002 - nothing is synced
        """Hold *layer* for a block."""
        path = self._existing(layer)
        with self._holders.hold(layer, "merged", lambda: path, lambda: None):
            yield path

    @contextmanager
    def mounted_read_only(self, layer: CacheID) -> Generator[Path]:
        """Hold a read-only bind mount of *layer*; where mounting is not allowed, the directory itself."""
        path = self._existing(layer)
        with self._holders.hold(
            layer, "view", lambda: self._mount_view(layer, path), lambda: self._unmount_view(layer)
        ) as view:
            yield view

    @contextmanager
    def files(self, layer: CacheID) -> Generator[Path]:
        """Yield the directory."""
        yield self._existing(layer)

    def _mount_view(self, layer: CacheID, path: Path) -> Path:
        from lamella.linux.mount import bind

        view = self._views / layer / "view"
        if is_mounted(view):
            return view
        make_mount_point(view)
        try:
            bind(path, view, readonly=True)
        except PermissionError:
            remove_mount_point(view)
            return path
        return view

    def _unmount_view(self, layer: CacheID) -> bool:
        return unmount(self._views / layer / "view")

    # ------------------------------------------------------------------------------------------- layers in and out

    def apply(
        self,
        layer: CacheID,
        parent: CacheID | None,  # noqa: ARG002 - its copy is there already
        stream: BinaryIO,
        *,
        tar_split: BinaryIO | None = None,
        expected: DiffID | None = None,
        advance: Advance | None = None,
    ) -> Applied:
        """Extract a layer tar over the copy of the parent; whiteouts remove."""
        from lamella.changeset.apply import Style, apply_layer

        return apply_layer(
            stream,
            self._existing(layer),
            tar_split=tar_split,
            style=Style.REMOVE,
            expected=expected,
            advance=advance,
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
        """Write the difference to a temporary tar and apply it: the tar-split must describe bytes that existed."""
        import tempfile

        from lamella.changeset.diff import Captured

        self._existing(layer)
        with self._holders.unused(layer, lambda: self._unmount_view(layer), purpose="captured"):
            self._scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self._scratch) as tar:
                # What an init layer holds is no change of the layer on it.
                init = init_id(layer)
                self._write_difference(layer, init if self.exists(init) else parent, tar)
                tar.seek(0)
                self.create(new_layer, parent)
                applied = self.apply(new_layer, parent, tar, tar_split=tar_split, advance=advance)
        return Captured(applied.diff_id, applied.tar_size, applied.size, applied.entries)

    def _write_difference(self, layer: CacheID, parent: CacheID | None, sink: BinaryIO) -> None:
        """Compare the directories themselves: *layer* is locked by the caller and cannot be held again."""
        from lamella.changeset.diff import write_difference

        with naive.tree_below(parent, self.files, self._scratch) as lower:
            write_difference(lower, self._existing(layer), sink)

    def diff(self, layer: CacheID, parent: CacheID | None, sink: BinaryIO) -> None:
        """Write the layer tar of what differs from *parent*."""
        naive.diff(self, layer, parent, sink, self._scratch)

    def changes(self, layer: CacheID, parent: CacheID | None) -> list[Change]:
        """List what differs from *parent*, sorted by path."""
        return naive.changes(self, layer, parent, self._scratch)

    def size(self, layer: CacheID, parent: CacheID | None) -> int:
        """Sum the files that are new or changed since *parent*."""
        return naive.size(self, layer, parent, self._scratch)

    def metadata(self, layer: CacheID) -> dict[str, str] | None:
        """Return nothing, as Docker does."""
        self._existing(layer)
        return None

    def _path(self, layer: CacheID) -> Path:
        if not is_cache_id(layer):
            raise InvalidArgument(f"{layer!r} cannot be the name of a layer directory")
        return self.home / layer

    def _existing(self, layer: CacheID) -> Path:
        path = self._path(layer)
        self._require_own_home()
        if not self.exists(layer):
            raise NotFound(f"{path}: the layer's directory does not exist; load the image again")
        return path

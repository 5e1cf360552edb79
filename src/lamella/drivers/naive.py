"""Changes and diffs by comparing two whole trees, for layers whose own directory does not tell.

Works for every driver, at the price of reading both trees.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from lamella.model.ids import CacheID

if TYPE_CHECKING:
    from lamella.changeset.changes import Change
    from lamella.drivers.base import Driver


@contextmanager
def tree_below(
    parent: CacheID | None, hold: Callable[[CacheID], AbstractContextManager[Path]], scratch: Path
) -> Generator[Path]:
    """Hold the tree that *hold* gives for *parent*, or for no parent an empty directory made in *scratch*."""
    if parent is not None:
        with hold(parent) as tree:
            yield tree
        return
    import tempfile

    from lamella.fs.tree import remove_tree

    scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
    empty = Path(tempfile.mkdtemp(prefix="empty-", dir=scratch))
    try:
        yield empty
    finally:
        remove_tree(empty)


@contextmanager
def both_trees(driver: Driver, layer: CacheID, parent: CacheID | None, scratch: Path) -> Generator[tuple[Path, Path]]:
    """Hold views of *parent*, or of nothing, and of *layer*."""
    with tree_below(parent, driver.mounted_read_only, scratch) as lower, driver.mounted_read_only(layer) as upper:
        yield lower, upper


def diff(driver: Driver, layer: CacheID, parent: CacheID | None, sink: BinaryIO, scratch: Path) -> None:
    """Write the layer tar of what differs between *parent* and *layer*."""
    from lamella.changeset.diff import write_difference

    with both_trees(driver, layer, parent, scratch) as (lower, upper):
        write_difference(lower, upper, sink)


def changes(driver: Driver, layer: CacheID, parent: CacheID | None, scratch: Path) -> list[Change]:
    """List what differs between *parent* and *layer*, sorted by path."""
    from lamella.changeset.changes import iter_changes

    with both_trees(driver, layer, parent, scratch) as (lower, upper):
        return list(iter_changes(lower, upper))


def size(driver: Driver, layer: CacheID, parent: CacheID | None, scratch: Path) -> int:
    """Sum the lengths of what is new or changed in *layer* since *parent*, directories apart, each inode once."""
    from lamella.changeset.changes import ChangeKind, iter_changes
    from lamella.fs.rooted import Root

    total = 0
    seen: set[int] = set()
    with both_trees(driver, layer, parent, scratch) as (lower, upper), Root(upper) as root:
        for change in iter_changes(lower, upper):
            if change.kind is not ChangeKind.DELETED:
                status = root.lstat(change.path)
                if not stat.S_ISDIR(status.st_mode) and status.st_ino not in seen:
                    seen.add(status.st_ino)
                    total += status.st_size
    return total

"""Directories in ``lamella/wip`` in which something is made that one rename makes count.

Whoever makes one holds a lock on it, taken under the store lock; the next process that writes removes those that nobody
holds.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from lamella.store.smallfiles import list_names

if TYPE_CHECKING:
    from lamella.store.dataroot import DataRoot

_NAME: Final = re.compile(r"draft-[0-9a-f]{16}", re.ASCII)


@contextmanager
def draft(root: DataRoot, *, mode: int = 0o700) -> Iterator[Path]:
    """Make a draft for a block; what has not been renamed by its end is removed."""
    from lamella.fs.tree import remove_tree

    path = root.wip_dir / f"draft-{os.urandom(8).hex()}"
    with root.writing():
        path.mkdir()
        path.chmod(mode)
        fd = _hold(path)
    try:
        yield path
    finally:
        remove_tree(path)
        os.close(fd)


def remove_dead_drafts(directory: Path) -> None:
    """Remove the drafts whose makers are dead; the store lock need not be held."""
    from lamella.fs.tree import remove_tree

    for name in filter(_NAME.fullmatch, list_names(directory)):
        with suppress(BlockingIOError, FileNotFoundError):
            fd = _hold(directory / name)
            try:
                remove_tree(directory / name)
            finally:
                os.close(fd)


def _hold(path: Path) -> int:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        os.close(fd)
        raise
    return fd

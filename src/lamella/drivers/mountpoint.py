"""Directories that exist only to be mounted on."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from pathlib import Path

from lamella.errors import DataLoss
from lamella.linux.mountinfo import is_mounted


def make_mount_point(path: Path) -> None:
    """Make the directory *path*, 0700, unless a crash left it.

    Raises DataLoss for anything else of that name: mount(2) would follow a link and cover what it leads to.
    """
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        if not stat.S_ISDIR(os.lstat(path).st_mode):
            raise DataLoss(f"{path}: a symbolic link or file stands where a mount is due; remove it") from None


def remove_mount_point(path: Path) -> None:
    """Remove the empty directory *path* and never more than that: a mount may have covered something."""
    with suppress(OSError):
        os.rmdir(path)


def unmount(path: Path) -> bool:
    """Undo the mount at *path* if there is one, and remove its directory; tell whether there was one.

    A mount that is busy is hidden at once and freed when its last user is gone, as dockerd does.
    """
    was_mounted = is_mounted(path)
    if was_mounted:
        from lamella.linux import mount

        try:
            mount.unmount(path)
        except OSError as problem:
            if problem.errno != errno.EBUSY:
                raise
            mount.unmount(path, lazy=True)
    remove_mount_point(path)
    return was_mounted

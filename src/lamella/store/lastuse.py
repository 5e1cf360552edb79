"""When an image was last used: one empty file each, whose time says it.

::

    DATA-ROOT/lamella/last-use/<image>      its modification time is that of the last use

A container that is made or started of an image uses it, and a build that stands on it or copies from it.  Nothing is
synced and no lock is taken: of two that use an image at once either may win, and a use may be forgotten with the power.
dockerd stamps nothing, so what is known otherwise counts too: when the image came into the store and when it was
last tagged.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from lamella.model.digest import ImageID, hex_of, is_hex64
from lamella.store.smallfiles import list_names

NAME = "last-use"


class LastUse:
    """The stamps of one data-root; *lamella_dir* need not exist."""

    def __init__(self, lamella_dir: Path) -> None:
        self.directory = lamella_dir / NAME

    def stamp(self, image: str) -> None:
        """Say that *image* is used now.  A store that cannot be written to goes without."""
        if not is_hex64(hex_of(image)):
            return
        with suppress(OSError):
            try:
                home = self._open()
            except FileNotFoundError:
                os.mkdir(self.directory, 0o700)
                home = self._open()
            try:
                flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
                fd = os.open(hex_of(image), flags, 0o600, dir_fd=home)
                try:
                    os.utime(fd)
                finally:
                    os.close(fd)
            finally:
                os.close(home)

    def forget(self, image: ImageID) -> None:
        """Remove the stamp of an image that is gone."""
        with suppress(OSError):
            home = self._open()
            try:
                os.unlink(hex_of(image), dir_fd=home)
            finally:
                os.close(home)

    def read(self) -> Mapping[str, int]:
        """Return the time of the last use by image ID, in nanoseconds since the epoch."""
        found: dict[str, int] = {}
        for name in list_names(self.directory) if not self.directory.is_symlink() else ():
            if is_hex64(name):
                with suppress(OSError):
                    found[f"sha256:{name}"] = os.lstat(self.directory / name).st_mtime_ns
        return found

    def read_one(self, image: str) -> int:
        """Return the time of one image's last use, 0 if it has no stamp."""
        try:
            return os.lstat(self.directory / hex_of(image)).st_mtime_ns
        except OSError:
            return 0

    def _open(self) -> int:
        return os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)

"""The directories of ``RUN --mount=type=cache``: what a build leaves for the next one, apart from any image.

::

    DATA-ROOT/lamella/cache-mounts/<key>/    0700; the key is the sha256 of what tells one cache from another
      lock                                   held while a command uses the directory: shared, or alone
      about.json                             how the Dockerfile calls it; its time is that of the last use
      data/                                  what is mounted
      new-…/                                 a first content that is not complete; the dead left it
    DATA-ROOT/lamella/cache-mounts/gone-…/   being removed

The kernel drops a lock with its owner, so a killed build leaves its caches free and whole: they are only ever written
by the commands themselves.  Nothing is synced; a cache may be lost with the power.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from time import sleep
from typing import NamedTuple

from lamella.errors import InvalidArgument, Unavailable
from lamella.linux.locks import take_lock, try_lock, unlock

_GONE = "gone-"
_NEW = "new-"
_ABOUT_LIMIT = 1 << 16
_MAX_PRIVATE = 1000
_PAUSE = 0.002


class CacheMount(NamedTuple):
    """One cache directory as it was found."""

    key: str
    id: str
    """What the Dockerfile calls it."""
    size: int
    """Bytes of its files, each inode once."""
    used_at: float
    """When a command last began or ended to use it, seconds since the epoch."""
    in_use: bool


class CacheMounts:
    """The cache directories of one data-root; `directory` need not exist."""

    def __init__(self, lamella_dir: Path) -> None:
        self.directory = lamella_dir / "cache-mounts"

    @contextmanager
    def hold(
        self,
        key: str,
        name: str,
        sharing: str,
        *,
        fill: Callable[[Path], None],
        before_waiting: Callable[[], None],
    ) -> Generator[Path]:
        """Hold the cache `key` for a command and yield its directory, made by `fill` at first use.

        `sharing` is ``shared`` (any number at once), ``locked`` (wait until it is free) or ``private`` (another
        directory for each that runs at the same time).  `before_waiting` is called once if another one must be waited
        for.  `name` is what the Dockerfile calls it.
        """
        if sharing not in ("shared", "locked", "private"):
            raise InvalidArgument(f"unknown cache sharing {sharing!r}: use shared, private or locked")
        self._make()
        if sharing == "private":
            place, lock = self._take_private(key, name, fill)
        else:
            place = self.directory / key
            lock = self._take(place, name, fill, before_waiting, shared=sharing == "shared")
        try:
            os.utime(place / "about.json")
            yield place / "data"
            os.utime(place / "about.json")
        finally:
            unlock(lock)

    def iter_mounts(self) -> Iterator[CacheMount]:
        """Yield the caches there are, measured."""
        from lamella.fs.usage import layer_size
        from lamella.linux.locks import is_locked

        for place in self._places():
            try:
                size = layer_size(place / "data")
                used = (place / "about.json").stat().st_mtime
            except FileNotFoundError:
                size, used = 0, 0.0
            yield CacheMount(place.name, _read_name(place), size, used, is_locked(place / "lock"))

    def remove(self, key: str, *, used_before: float | None = None) -> int | None:
        """Remove a cache that nobody uses and give the bytes it held; None if it is in use, gone or used since.

        A kill leaves it whole or gone.
        """
        from lamella.fs.usage import layer_size

        place = self.directory / key
        try:
            lock = try_lock(place / "lock")
        except FileNotFoundError:
            return None
        if lock is None:
            return None
        try:
            about = place / "about.json"
            if used_before is not None and about.exists() and about.stat().st_mtime >= used_before:
                return None
            gone = self.directory / f"{_GONE}{key}-{os.urandom(4).hex()}"
            os.rename(place, gone)
        finally:
            unlock(lock)
        with suppress(FileNotFoundError):
            size = layer_size(gone / "data")
            self.sweep()
            return size
        self.sweep()
        return 0

    def sweep(self) -> None:
        """Finish the removals that were begun."""
        from lamella.fs.tree import remove_tree

        with suppress(FileNotFoundError):
            for name in os.listdir(self.directory):
                if name.startswith(_GONE):
                    remove_tree(self.directory / name)

    # ------------------------------------------------------------------------------------------------ internals

    def _make(self) -> None:
        if self.directory.is_symlink():
            raise Unavailable(f"{self.directory}: a symbolic link stands where the caches of builds belong")
        with suppress(FileExistsError):
            os.mkdir(self.directory, 0o700)

    def _places(self) -> list[Path]:
        try:
            names = sorted(os.listdir(self.directory))
        except (FileNotFoundError, NotADirectoryError):
            return []
        return [self.directory / name for name in names if not name.startswith(_GONE)]

    def _take(
        self, place: Path, name: str, fill: Callable[[Path], None], before_waiting: Callable[[], None], *, shared: bool
    ) -> int:
        """Lock a cache that has its first content; who makes that is alone with it."""
        while True:
            lock = _lock(place, before_waiting, shared=shared)
            if _is_whole(place):
                return lock
            if shared:
                unlock(lock)
                alone = _try_lock(place, shared=False)
                if alone is None:
                    # Somebody looks at it too, or fills it, or uses it already: that may take as long as a command.
                    sleep(_PAUSE)
                    continue
                lock = alone
            try:
                if not _is_whole(place):
                    _fill(place, name, fill)
            except BaseException:
                unlock(lock)
                raise
            if not shared:
                return lock
            unlock(lock)

    def _take_private(self, key: str, name: str, fill: Callable[[Path], None]) -> tuple[Path, int]:
        """Lock the first of the cache's family that is free."""
        for number in range(_MAX_PRIVATE):
            place = self.directory / (sha256(f"{key} {number}".encode()).hexdigest() if number else key)
            lock = _try_lock(place, shared=False)
            if lock is None:
                continue
            try:
                if not _is_whole(place):
                    _fill(place, name, fill)
            except BaseException:
                unlock(lock)
                raise
            return place, lock
        raise Unavailable(f"more than {_MAX_PRIVATE} commands use the cache mount {name} at once")


def _lock(place: Path, before_waiting: Callable[[], None], *, shared: bool) -> int:
    lock = _try_lock(place, shared=shared)
    if lock is not None:
        return lock
    before_waiting()
    while True:
        with suppress(FileExistsError):
            os.mkdir(place, 0o700)
        with suppress(FileNotFoundError):  # removed just now
            return take_lock(place / "lock", shared=shared)


def _try_lock(place: Path, *, shared: bool) -> int | None:
    while True:
        with suppress(FileExistsError):
            os.mkdir(place, 0o700)
        with suppress(FileNotFoundError):
            return try_lock(place / "lock", shared=shared)


def _is_whole(place: Path) -> bool:
    return (place / "data").is_dir() and (place / "about.json").exists()


def _fill(place: Path, name: str, fill: Callable[[Path], None]) -> None:
    """Make the first content aside and give it its name."""
    import json

    from lamella.fs.atomic import write_file
    from lamella.fs.tree import remove_tree

    for left in os.listdir(place):
        if left != "lock":
            remove_tree(place / left)
    draft = place / f"{_NEW}{os.urandom(4).hex()}"
    os.mkdir(draft, 0o700)
    try:
        os.chmod(draft, 0o755)
        fill(draft)
        write_file(place / "about.json", json.dumps({"id": name}).encode(), sync=False)
        os.rename(draft, place / "data")
    except BaseException:
        remove_tree(draft)
        raise


def _read_name(place: Path) -> str:
    import json

    try:
        with (place / "about.json").open("rb") as file:
            return str(json.loads(file.read(_ABOUT_LIMIT))["id"])
    except (OSError, ValueError, LookupError, TypeError):
        return ""

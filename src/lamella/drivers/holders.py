"""Counting the users of a mount across processes.

One directory a layer below ``lamella/mounts/``::

    <cache id>/lock           taken exclusively for every step below
    <cache id>/holders/NAME   an empty file for each holder that outlives its process
    <cache id>/live-WHAT      under a shared flock while a block of some process uses the mount WHAT

A flock ends with its process, so a killed user leaves no count; a holder file stays until it is released.  What is
mounted, and how, is the driver's business: it gives the two actions.  The directory disappears with the last user.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from lamella.errors import InUse, InvalidArgument, Unavailable
from lamella.linux.locks import is_locked, locked, unlock
from lamella.model.ids import CacheID, is_cache_id

LIVE_HOLDER = "(a running process)"


class Holders:
    """The users of every mount of one driver."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def layers(self) -> list[CacheID]:
        """Name the layers that have, or had when their user was killed, a mount."""
        try:
            names = os.listdir(self._directory)
        except FileNotFoundError:
            return []
        return [CacheID(name) for name in sorted(names) if is_cache_id(name) and not _link_in(self._directory / name)]

    def names(self, layer: CacheID) -> list[str]:
        """Name the holders of *layer*, sorted, blocks of running processes last and once."""
        if not (self._directory / layer).is_dir():
            return []
        with self._guarded(layer) as directory:
            found = list(self._users(directory))
            if not found:
                self._forget(directory)
        return found

    def _users(self, directory: Path) -> Iterator[str]:
        with suppress(FileNotFoundError):
            yield from sorted(os.listdir(directory / "holders"))
        with suppress(FileNotFoundError):
            live = [name for name in os.listdir(directory) if name.startswith("live-")]
            if any(is_locked(directory / name) for name in live):
                yield LIVE_HOLDER

    def add(self, layer: CacheID, holder: str, mount: Callable[[], Path]) -> Path:
        """Record *holder* and return what *mount* (which must not mind a mount that is there) returns."""
        _check_name(holder)
        with self._guarded(layer) as directory:
            name = directory / "holders" / holder
            name.parent.mkdir(mode=0o700, exist_ok=True)
            known = name.exists()
            # Recorded before it is mounted: a kill in between leaves a holder without a mount, which is harmless.
            name.touch(mode=0o600)
            try:
                return mount()
            except BaseException:
                if not known:
                    name.unlink(missing_ok=True)
                    self._forget_if_unused(directory)
                raise

    def release(self, layer: CacheID, holder: str, unmount: Callable[[], object]) -> None:
        """Forget *holder* and call *unmount* if nobody is left; an unknown holder or layer is fine."""
        _check_name(holder)
        if not (self._directory / layer).is_dir():
            return
        with self._guarded(layer) as directory:
            (directory / "holders" / holder).unlink(missing_ok=True)
            self._unmount_if_unused(directory, unmount)

    @contextmanager
    def hold(
        self, layer: CacheID, what: str, mount: Callable[[], Path], unmount: Callable[[], object]
    ) -> Generator[Path]:
        """Hold the mount *what* of *layer* for a block; the count dies with this process.

        Mounts of different *what* are undone independently; recorded holders count for ``merged`` only.
        """
        live = f"live-{what}"
        with self._guarded(layer) as directory:
            fd = os.open(directory / live, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_SH)
                path = mount()
            except BaseException:
                unlock(fd)
                self._forget_if_unused(directory)
                raise
        try:
            yield path
        finally:
            with self._guarded(layer) as directory:
                unlock(fd)
                held = is_locked(directory / live) or (what == "merged" and _any_recorded(directory))
                if not held:
                    unmount()
                    (directory / live).unlink(missing_ok=True)
                self._forget_if_unused(directory)

    @contextmanager
    def unused(self, layer: CacheID, unmount: Callable[[], object], *, purpose: str) -> Generator[None]:
        """Keep everybody off *layer* for a block in which it is not mounted; InUse if somebody holds it."""
        with self._guarded(layer) as directory:
            users = list(self._users(directory))
            if users:
                shown = ", ".join(user[:12] if len(user) == 64 else user for user in users)
                raise InUse(f"layer {layer[:12]} cannot be {purpose}: it is mounted for {shown}; stop that first")
            unmount()
            try:
                yield
            finally:
                self._forget(directory)

    def sweep(self, unmount: Callable[[CacheID], bool]) -> list[CacheID]:
        """Call *unmount* for each layer with a mount directory and no users; name those it says True for."""
        swept = []
        for layer in self.layers():
            with self._guarded(layer) as directory:
                if not any(self._users(directory)):
                    if unmount(layer):
                        swept.append(layer)
                    self._forget(directory)
        return swept

    @contextmanager
    def _guarded(self, layer: CacheID) -> Generator[Path]:
        """Hold the lock of *layer*'s directory, which its last user may remove while we wait for it."""
        directory = self._directory / layer
        with ExitStack() as stack:
            while True:
                # Not Path.mkdir(exist_ok=True): it fails if the directory goes between its two looks.
                self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
                with suppress(FileExistsError):
                    os.mkdir(directory, 0o700)
                if link := _link_in(directory):
                    raise Unavailable(f"{link}: a symbolic link stands where mounts are counted; remove it")
                with suppress(FileNotFoundError):
                    stack.enter_context(locked(directory / "lock"))
                    break
            yield directory

    def _unmount_if_unused(self, directory: Path, unmount: Callable[[], object]) -> None:
        if not _any_recorded(directory) and not is_locked(directory / "live-merged"):
            unmount()
        self._forget_if_unused(directory)

    def _forget_if_unused(self, directory: Path) -> None:
        if not any(self._users(directory)):
            self._forget(directory)

    @staticmethod
    def _forget(directory: Path) -> None:
        """Remove a layer's mount directory; must be the last thing done under its lock, which it gives up."""
        for name in os.listdir(directory):
            if name.startswith("live-"):
                os.unlink(directory / name)
        for name in ("holders", "view"):
            with suppress(FileNotFoundError, NotADirectoryError):
                os.rmdir(directory / name)
        # From here on somebody else may make the lock anew and own the directory.
        os.unlink(directory / "lock")
        try:
            os.rmdir(directory)
        except OSError as problem:
            if problem.errno not in (errno.ENOTEMPTY, errno.ENOENT):
                raise


def _link_in(directory: Path) -> Path | None:
    """Return which of a layer's directories is a link, to places where nothing may be made or removed."""
    return next((path for path in (directory, directory / "holders") if path.is_symlink()), None)


def _any_recorded(directory: Path) -> bool:
    try:
        return bool(os.listdir(directory / "holders"))
    except FileNotFoundError:
        return False


def _check_name(holder: str) -> None:
    """Refuse what could not be the name of a file."""
    if not holder or holder.startswith(".") or "/" in holder or "\0" in holder or len(holder) > 200:
        raise InvalidArgument(f"{holder!r} cannot be the holder of a mount: give a container's ID")

"""A path as a process has it, found: in which of its mounts it lies, and where that is seen from here."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Final, NamedTuple

from lamella.linux.mountinfo import MountEntry, read_mountinfo
from lamella.linux.openat2 import open_in_root

_GONE: Final = " (deleted)"
_LOOK: Final = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


class Spot(NamedTuple):
    """Where a path lies."""

    entry: MountEntry | None
    """The mount; None for what lies in none, such as a pipe."""
    path: str
    """As the process has it, links on the way followed."""
    inode: tuple[int, int] | None = None
    """Its device and number; None if there is nothing."""
    deleted: bool = False
    """Whether only a process that has it open keeps it."""

    @property
    def inside(self) -> str:
        """The path below the mount, ``.`` for the mount itself."""
        return self.path if self.entry is None else os.path.relpath(self.path, self.entry.target)


def spot_in(entries: Sequence[MountEntry], root: str, path: str) -> Spot:
    """Find *path* below the root that the link *root* leads to, ``/proc/PID/root``; it may be gone."""
    try:
        home = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fd = open_in_root(home, os.fsencode(path).lstrip(b"/"), _LOOK)
        finally:
            os.close(home)
    except OSError:
        plain = os.path.normpath(f"/{path}")
        return Spot(_over(entries, plain), plain)
    try:
        return _spot(entries, fd)
    finally:
        os.close(fd)


def spot_of(entries: Sequence[MountEntry], link: str) -> Spot:
    """Find what a link of the kernel's leads to, such as ``/proc/PID/fd/3``.  Raises OSError if there is none."""
    fd = os.open(link, os.O_PATH | os.O_CLOEXEC)
    try:
        return _spot(entries, fd)
    finally:
        os.close(fd)


def places_of(spot: Spot) -> Iterator[str]:
    """Yield the paths under which this process sees the same thing, if what it lies on is mounted here too."""
    if spot.entry is None:
        return
    inside = "" if spot.inside == "." else f"/{spot.inside}"
    full = f"{spot.entry.root.rstrip('/')}{inside}"
    for entry in read_mountinfo():
        above = entry.root.rstrip("/")
        if entry.device != spot.entry.device or not f"{full}/".startswith(f"{above}/"):
            continue
        place = entry.target.rstrip("/") + full[len(above) :] or "/"
        try:
            status = os.lstat(place)
        except OSError:
            if spot.inode is None or spot.deleted:
                yield place
            continue
        if spot.inode in (None, (status.st_dev, status.st_ino)):
            yield place


def _spot(entries: Sequence[MountEntry], fd: int) -> Spot:
    status = os.fstat(fd)
    path = os.readlink(f"/proc/self/fd/{fd}")
    number = -1
    with open(f"/proc/self/fdinfo/{fd}", "rb") as lines, suppress(ValueError):
        number = next((int(line.split()[1]) for line in lines if line.startswith(b"mnt_id:")), -1)
    deleted = not status.st_nlink and path.endswith(_GONE)
    entry = next((entry for entry in entries if entry.id == number), None)
    return Spot(entry, path.removesuffix(_GONE) if deleted else path, (status.st_dev, status.st_ino), deleted)


def _over(entries: Sequence[MountEntry], path: str) -> MountEntry | None:
    best: MountEntry | None = None
    for entry in entries:
        below = path == entry.target or path.startswith(entry.target.rstrip("/") + "/")
        if below and (best is None or len(entry.target) >= len(best.target)):
            best = entry
    return best

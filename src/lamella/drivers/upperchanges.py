"""What a layer changed, read off its upper directory.

Gives what comparing the two mounted trees would give, at a cost that grows with the change and not with the image.
Only names in the upper directory can differ; each is compared with what the layers below show there.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from lamella.fs.walk import DirectoryStack, WalkEntry, directory_stack, walk

if TYPE_CHECKING:
    from lamella.changeset.changes import Change

_OPAQUE = ("trusted.overlay.opaque", "user.overlay.opaque")
_CAPABILITY = "security.capability"
_ADDED, _CHANGED, _DELETED = "A", "C", "D"


def changes_in_upper(upper: Path, lower: Path) -> list[Change]:
    """List what *upper*, an upper directory, changes on the tree *lower*, sorted by path.

    Renamed directories and files whose data is elsewhere (redirect, metacopy) must not be in *upper*.
    """
    from lamella.changeset.changes import Change, ChangeKind

    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    upper_fd = os.open(upper, flags)
    try:
        lower_fd = os.open(lower, flags)
        try:
            with directory_stack(lower_fd) as below:
                kinds = _compare(upper_fd, below)
        finally:
            os.close(lower_fd)
    finally:
        os.close(upper_fd)
    for path in list(kinds):
        parent = path.rpartition(b"/")[0]
        while parent and parent not in kinds:
            kinds[parent] = _CHANGED
            parent = parent.rpartition(b"/")[0]
    return [Change(ChangeKind(kinds[path]), path) for path in sorted(kinds)]


def _compare(upper_fd: int, below: DirectoryStack) -> dict[bytes, str]:
    """Give the kind of every path that differs by itself; *below* is led along as far as the lower tree goes."""
    kinds: dict[bytes, str] = {}
    # Whether each directory led into is opaque, or inside one that is: the mark is not repeated further down.
    opaque = [False]
    for entry in walk(upper_fd):
        depth = entry.path.count(b"/")
        while below.depth > depth:
            below.leave()
            opaque.pop()
        whiteout = stat.S_ISCHR(entry.stat.st_mode) and entry.stat.st_rdev == 0
        old = None
        if below.depth == depth:
            with suppress(FileNotFoundError):
                old = os.stat(entry.name, dir_fd=below.fd, follow_symlinks=False)
        if old is None:
            if not whiteout:
                kinds[entry.path] = _ADDED
        elif whiteout:
            kinds[entry.path] = _DELETED
        else:
            if _differs(entry, below.fd, old):
                kinds[entry.path] = _CHANGED
            if stat.S_ISDIR(entry.stat.st_mode) and stat.S_ISDIR(old.st_mode):
                below.enter(entry.name)
                opaque.append(opaque[-1] or _is_opaque(entry))
                if opaque[-1]:
                    for name in _hidden(entry, below.fd):
                        kinds[entry.path + b"/" + name] = _DELETED
    return kinds


def _differs(entry: WalkEntry, old_fd: int, old: os.stat_result) -> bool:
    """Tell whether Docker takes the two for different; directories' times and sizes do not count."""
    new = entry.stat
    if (new.st_mode, new.st_uid, new.st_gid, new.st_rdev) != (old.st_mode, old.st_uid, old.st_gid, old.st_rdev):
        return True
    if not stat.S_ISDIR(old.st_mode) and (new.st_size != old.st_size or not _same_time(new, old)):
        return True
    if not stat.S_ISREG(new.st_mode):
        return False
    return _attribute(entry.dir_fd, entry.name, _CAPABILITY) != _attribute(old_fd, entry.name, _CAPABILITY)


def _same_time(new: os.stat_result, old: os.stat_result) -> bool:
    """Take times of one second for equal if either has no fraction: a layer tar may have cut it off."""
    seconds, fraction = divmod(new.st_mtime_ns, 1_000_000_000)
    old_seconds, old_fraction = divmod(old.st_mtime_ns, 1_000_000_000)
    return seconds == old_seconds and (fraction == old_fraction or not fraction or not old_fraction)


def _is_opaque(entry: WalkEntry) -> bool:
    return any(_attribute(entry.dir_fd, entry.name, key) == b"y" for key in _OPAQUE)


def _hidden(entry: WalkEntry, old_fd: int) -> set[bytes]:
    """Name what an opaque directory no longer shows of the one below."""
    fd = os.open(entry.name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=entry.dir_fd)
    try:
        return set(map(os.fsencode, os.listdir(old_fd))) - set(map(os.fsencode, os.listdir(fd)))
    finally:
        os.close(fd)


def _attribute(dir_fd: int, name: bytes, key: str) -> bytes | None:
    try:
        return os.getxattr(b"/proc/self/fd/%d/%s" % (dir_fd, name), key, follow_symlinks=False)
    except OSError:
        return None

"""What changed between two trees, found by looking at both: ``docker diff``, and layers of drivers without overlays.

Only status is compared, never content, with Docker's notion of what counts as different.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Collection, Iterator
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from lamella.fs.walk import DirectoryStack, directory_stack

_CAPABILITY = b"security.capability"


class ChangeKind(StrEnum):
    """How a path differs; the value is the letter Docker prints."""

    CHANGED = "C"
    ADDED = "A"
    DELETED = "D"


class Change(NamedTuple):
    """One path that differs, relative to the root of the tree."""

    kind: ChangeKind
    path: bytes


def iter_changes(lower: Path, upper: Path, *, touched: Collection[bytes] = frozenset()) -> Iterator[Change]:
    """Yield what *upper* changes of *lower*, sorted by path.

    Of a deleted directory only its name is told, of a new one all content.  A directory that only holds changes is
    told as changed, except the root.  What has the same inode in both trees is taken as unchanged.  A path of *touched*
    that is in both counts as changed whatever its status: new content may have the old length and time.
    """
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    lower_fd = os.open(lower, flags)
    try:
        upper_fd = os.open(upper, flags)
        try:
            with directory_stack(lower_fd) as below, directory_stack(upper_fd) as above:
                found = _compare(below, above, touched)
        finally:
            os.close(upper_fd)
    finally:
        os.close(lower_fd)
    for path in sorted(found):
        yield Change(found[path], path)


class _Level(NamedTuple):
    """One directory being compared: names still to look at, and whether there is a lower one."""

    prefix: bytes
    names: list[bytes]
    has_lower: bool


def _compare(below: DirectoryStack, above: DirectoryStack, touched: Collection[bytes]) -> dict[bytes, ChangeKind]:
    found: dict[bytes, ChangeKind] = {}
    levels = [_Level(b"", _names(below, above), has_lower=True)]
    while levels:
        level = levels[-1]
        if not level.names:
            levels.pop()
            if levels:
                above.leave()
                if level.has_lower:
                    below.leave()
            continue
        name = level.names.pop()
        path = level.prefix + name
        new = _status(above, name)
        old = _status(below, name) if level.has_lower else None
        if new is None:
            if old is not None:
                _note(found, path, ChangeKind.DELETED)
            continue
        if old is None:
            _note(found, path, ChangeKind.ADDED)
        elif os.path.samestat(old, new):
            continue
        elif path in touched or differs(name, below.fd, old, above.fd, new):
            _note(found, path, ChangeKind.CHANGED)
        if stat.S_ISDIR(new.st_mode):
            above.enter(name, new)
            both = old is not None and stat.S_ISDIR(old.st_mode)
            if both:
                below.enter(name, old)
            levels.append(_Level(path + b"/", _names(below if both else None, above), both))
    return found


def _names(below: DirectoryStack | None, above: DirectoryStack) -> list[bytes]:
    names = set(map(os.fsencode, os.listdir(above.fd)))
    if below is not None:
        names.update(map(os.fsencode, os.listdir(below.fd)))
    return sorted(names, reverse=True)


def _status(directory: DirectoryStack, name: bytes) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=directory.fd, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _note(found: dict[bytes, ChangeKind], path: bytes, kind: ChangeKind) -> None:
    found[path] = kind
    while (path := path.rpartition(b"/")[0]) and path not in found:
        found[path] = ChangeKind.CHANGED


def differs(name: bytes, old_fd: int, old: os.stat_result, new_fd: int, new: os.stat_result) -> bool:
    """Tell whether Docker takes *name* in two directories for different; directories' times and sizes do not count."""
    if (old.st_mode, old.st_uid, old.st_gid, old.st_rdev) != (new.st_mode, new.st_uid, new.st_gid, new.st_rdev):
        return True
    if stat.S_ISDIR(old.st_mode):
        return False
    if old.st_size != new.st_size or not _same_time(old.st_mtime_ns, new.st_mtime_ns):
        return True
    return stat.S_ISREG(old.st_mode) and read_attribute(old_fd, name, _CAPABILITY) != read_attribute(
        new_fd, name, _CAPABILITY
    )


def _same_time(old: int, new: int) -> bool:
    """Compare times as Docker does: one without a fraction has lost it on the way through a tar."""
    second = 10**9
    return old == new or (old // second == new // second and (old % second == 0 or new % second == 0))


def read_attribute(dir_fd: int, name: bytes, key: bytes) -> bytes | None:
    """Read an extended attribute of *name* itself, None if it has none."""
    try:
        # The descriptor's own entry stands for the directory, so that only the last name is looked up.
        return os.getxattr(b"/proc/self/fd/%d/%b" % (dir_fd, name), key, follow_symlinks=False)
    except OSError as problem:
        if problem.errno not in {errno.ENODATA, errno.EOPNOTSUPP, errno.ENOENT}:
            raise
        return None

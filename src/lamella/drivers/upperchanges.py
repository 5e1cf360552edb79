"""What a layer changed, read off its upper directory.

Gives what comparing the two mounted trees would give, at a cost that grows with the change and not with the image.
Only names in the upper directory can differ; each is compared with what the layers below show there.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

from lamella.changeset.changes import Change, ChangeKind, differs, read_attribute
from lamella.fs.walk import DirectoryStack, WalkEntry, directory_stack, walk

_OPAQUE = (b"trusted.overlay.opaque", b"user.overlay.opaque")


def changes_in_upper(upper: Path, lower: Path) -> list[Change]:
    """List what *upper*, an upper directory, changes on the tree *lower*, sorted by path.

    Renamed directories and files whose data is elsewhere (redirect, metacopy) must not be in *upper*.
    """
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
            kinds[parent] = ChangeKind.CHANGED
            parent = parent.rpartition(b"/")[0]
    return [Change(kinds[path], path) for path in sorted(kinds)]


def _compare(upper_fd: int, below: DirectoryStack) -> dict[bytes, ChangeKind]:
    """Give the kind of every path that differs by itself; *below* is led along as far as the lower tree goes."""
    kinds: dict[bytes, ChangeKind] = {}
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
                kinds[entry.path] = ChangeKind.ADDED
        elif whiteout:
            kinds[entry.path] = ChangeKind.DELETED
        else:
            if differs(entry.name, below.fd, old, entry.dir_fd, entry.stat):
                kinds[entry.path] = ChangeKind.CHANGED
            if stat.S_ISDIR(entry.stat.st_mode) and stat.S_ISDIR(old.st_mode):
                below.enter(entry.name)
                opaque.append(opaque[-1] or _is_opaque(entry))
                if opaque[-1]:
                    for name in _hidden(entry, below.fd):
                        kinds[entry.path + b"/" + name] = ChangeKind.DELETED
    return kinds


def _is_opaque(entry: WalkEntry) -> bool:
    return any(read_attribute(entry.dir_fd, entry.name, key) == b"y" for key in _OPAQUE)


def _hidden(entry: WalkEntry, old_fd: int) -> set[bytes]:
    """Name what an opaque directory no longer shows of the one below."""
    fd = os.open(entry.name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=entry.dir_fd)
    try:
        return set(map(os.fsencode, os.listdir(old_fd))) - set(map(os.fsencode, os.listdir(fd)))
    finally:
        os.close(fd)

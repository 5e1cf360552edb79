"""Bytes of a tree, hard links once."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from lamella.fs.walk import DirectoryStack, directory_stack


def layer_size(path: Path) -> int:
    """Sum the lengths of everything in *path* but directories, each inode once: a layer's size as Docker counts it.

    Symbolic links count the length of their target, devices nothing; holes of sparse files count in full.
    """
    total = 0
    seen: set[tuple[int, int]] = set()
    for status in _statuses(path):
        if stat.S_ISDIR(status.st_mode):
            continue
        if status.st_nlink > 1:
            identity = (status.st_dev, status.st_ino)
            if identity in seen:
                continue
            seen.add(identity)
        total += status.st_size
    return total


def _statuses(path: Path) -> Iterator[os.stat_result]:
    """Yield the status of everything below *path* in no order.

    What vanishes meanwhile is passed over: a running container's layer is measured too.
    """
    top = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        with directory_stack(top) as stack:
            pending: list[list[tuple[bytes, os.stat_result]]] = []
            while True:
                directories = []
                with os.scandir(stack.fd) as entries:
                    for entry in entries:
                        try:
                            status = entry.stat(follow_symlinks=False)
                        except FileNotFoundError:
                            continue
                        if stat.S_ISDIR(status.st_mode):
                            directories.append((os.fsencode(entry.name), status))
                        yield status
                pending.append(directories)
                while not (pending[-1] and _enter_one(stack, pending[-1])):
                    if pending[-1]:
                        continue
                    pending.pop()
                    if not pending:
                        return
                    stack.leave()
    finally:
        os.close(top)


def _enter_one(stack: DirectoryStack, directories: list[tuple[bytes, os.stat_result]]) -> bool:
    """Go into the next of *directories*; False if it is gone."""
    name, status = directories.pop()
    try:
        stack.enter(name, status)
    except FileNotFoundError:
        return False
    return True

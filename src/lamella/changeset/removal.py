"""Taking away what a layer replaces or deletes, without losing what the same layer made.

tar-split finds the content of members again by their names.  So what holds such content is never removed: the layer
is refused instead.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path

from lamella.changeset.entry import show
from lamella.changeset.placement import Directory
from lamella.errors import InvalidArgument
from lamella.fs.rooted import Root
from lamella.fs.tree import remove_tree
from lamella.fs.walk import walk

_OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Remains:
    """Removes names below *root*, mindful of what the present layer *made* and of *parents* it needed."""

    def __init__(self, root: Root, made: Mapping[bytes, bool], parents: Iterable[bytes]) -> None:
        self._root = root
        self._made = made
        self._parents = parents

    def clear(self, dir_fd: int, real: bytes, name: bytes, *, through_links: bool) -> None:
        """Remove *name*, whose path is *real*, to make way for a new member; InvalidArgument if it is needed."""
        status = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
        if stat.S_ISDIR(status.st_mode):
            self._refuse_needed(real)
            remove_at(dir_fd, name)
            return
        if stat.S_ISLNK(status.st_mode):
            _refuse_link(real, through_links=through_links)
        os.unlink(name, dir_fd=dir_fd)

    def hide(self, directory: Directory, name: bytes, *, through_links: bool) -> None:
        """Delete *name* as far as it comes from below: what this layer made stays."""
        real = directory.join(name)
        status = os.stat(name, dir_fd=directory.fd, follow_symlinks=False)
        if stat.S_ISDIR(status.st_mode):
            if self._spared(real):
                fd = os.open(name, _OPEN_DIRECTORY, dir_fd=directory.fd)
                try:
                    self._empty(fd, real)
                finally:
                    os.close(fd)
            else:
                remove_at(directory.fd, name)
        elif real not in self._made:
            if stat.S_ISLNK(status.st_mode):
                _refuse_link(real, through_links=through_links)
            os.unlink(name, dir_fd=directory.fd)

    def empty(self, directory: Directory) -> None:
        """Delete what *directory* holds from below."""
        self._empty(directory.fd, directory.real)

    def _empty(self, fd: int, real: bytes) -> None:
        prefix = real + b"/" if real else b""
        spared = self._spared_names()
        doomed = [
            (entry.path, entry.stat)
            for entry in walk(fd, prune=lambda entry: prefix + entry.path not in spared, cross_mounts=False)
            if prefix + entry.path not in spared
        ]
        with Root(fd) as top:
            for path, status in doomed:
                parent, name = top.open_parent(path)
                try:
                    if stat.S_ISDIR(status.st_mode):
                        remove_at(parent, name)
                    else:
                        os.unlink(name, dir_fd=parent)
                finally:
                    os.close(parent)

    def _spared_names(self) -> set[bytes]:
        """Return what this layer made and every directory on the way to it."""
        spared: set[bytes] = set()
        for path in (*self._made, *self._parents):
            while path and path not in spared:
                spared.add(path)
                path = path.rpartition(b"/")[0]  # noqa: PLW2901 — climbs to the root
        return spared

    def _spared(self, real: bytes) -> bool:
        prefix = real + b"/"
        return (
            real in self._made
            or real in self._parents
            or any(path.startswith(prefix) for path in self._made)
            or any(path.startswith(prefix) for path in self._parents)
        )

    def _refuse_needed(self, real: bytes) -> None:
        prefix = real + b"/"
        for path, recalled in self._made.items():
            if recalled and path.startswith(prefix):
                raise InvalidArgument(f"layer replaces {show(real)}, and the content of {show(path)} would be lost")


def remove_at(dir_fd: int, name: bytes) -> None:
    """Remove the tree *name* in an open directory."""
    remove_tree(Path(f"/proc/self/fd/{dir_fd}") / os.fsdecode(name))


def _refuse_link(real: bytes, *, through_links: bool) -> None:
    if through_links:
        raise InvalidArgument(f"layer replaces the link {show(real)} after content was stored through a link")

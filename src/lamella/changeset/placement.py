"""The directories of a layer being written: resolved inside the root, kept open for a while.

`Directories` turns the path of a member into an open parent and a last name, `place` makes the inode there.  What is
made, and in which order that matters, is for apply to say.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from typing import Final, NamedTuple

from lamella.changeset.entry import Entry
from lamella.changeset.inodes import Buffer, Maker, make
from lamella.fs.rooted import Root
from lamella.linux.openat2 import open_in_root

_KEPT_OPEN: Final = 64


class Directory:
    """An open directory of the layer.

    *path* is how members name it, *real* where it is; they differ behind symbolic links.  Where the kernel cannot say
    it is not *certain*.  *inherited* is the group its set-group-ID bit gives to what is made in it.
    """

    __slots__ = ("certain", "fd", "inherited", "path", "real")

    def __init__(self, path: bytes, real: bytes | None, fd: int) -> None:
        self.path = path
        self.certain = real is not None
        self.real = path if real is None else real
        self.fd = fd
        self.inherited: int | None = None

    def look(self) -> os.stat_result:
        """Return the status, and note what it gives to new inodes."""
        status = os.fstat(self.fd)
        self.inherited = status.st_gid if status.st_mode & stat.S_ISGID else None
        return status

    def join(self, name: bytes) -> bytes:
        """Return the real path of *name* in it."""
        return self.real + b"/" + name if self.real else name


class Directories:
    """Finds parents inside *root*; makes those that are missing, as 0755 root:root.

    *settle* is called with the path of one that is not there: what leads to it may still be in the making.
    """

    def __init__(self, root: Root, settle: Callable[[bytes], None]) -> None:
        self.root = root
        self._settle = settle
        self.made: set[bytes] = set()
        """Real paths of directories made only because something lies in them."""
        self._prefix = os.readlink(b"/proc/self/fd/%d" % root.fd)
        self._top = Directory(b"", b"", root.fd)
        self._top.look()
        self._open: dict[bytes, Directory] = {}

    @property
    def top(self) -> Directory:
        """Return the root itself."""
        return self._top

    def parent(self, path: bytes, *, make: bool = True) -> tuple[Directory, bytes]:
        """Return the open directory that *path* lies in and its last name.

        Without *make*, or where a file stands in the way, the ``OSError`` of the kernel comes through.
        """
        directory, _, name = path.rpartition(b"/")
        return self.get(directory, make=make), name

    def get(self, path: bytes, *, make: bool = True) -> Directory:
        """Return the directory *path*, following links inside the root."""
        if not path:
            return self._top
        found = self._open.pop(path, None)
        if found is None:
            fd = self._find(path, make=make)
            found = Directory(path, self._real(fd), fd)
            found.look()
            self._trim()
        self._open[path] = found
        return found

    def adopt(self, parent: Directory, path: bytes, name: bytes, fd: int) -> Directory:
        """Keep a directory that was just opened as *name* in *parent*."""
        old = self._open.pop(path, None)
        if old is not None:
            os.close(old.fd)
        directory = Directory(path, parent.join(name) if parent.certain else None, fd)
        self._trim()
        self._open[path] = directory
        return directory

    def forget(self) -> None:
        """Let go of everything open: some directory or link on the way to it is no longer what it was."""
        for directory in self._open.values():
            os.close(directory.fd)
        self._open.clear()

    def close(self) -> None:
        """Close everything; the root stays its owner's."""
        self.forget()

    def _find(self, path: bytes, *, make: bool) -> int:
        try:
            return self._open_path(path)
        except FileNotFoundError:
            self._settle(path)
        try:
            return self._open_path(path)
        except FileNotFoundError:
            if not make:
                raise
        self._make(path)
        return self._open_path(path)

    def _open_path(self, path: bytes) -> int:
        return open_in_root(self.root.fd, path, os.O_RDONLY | os.O_DIRECTORY, cross_mounts=False)

    def _make(self, path: bytes) -> None:
        real = self.root.make_directories(path)
        while real and real not in self.made:
            # Those that existed are noted too: they are parents of something in the layer either way.
            self.made.add(real)
            real = real.rpartition(b"/")[0]

    def _real(self, fd: int) -> bytes | None:
        try:
            full = os.readlink(b"/proc/self/fd/%d" % fd)
        except OSError:
            return None  # longer than the kernel can say
        prefix = self._prefix.rstrip(b"/") + b"/"
        return full[len(prefix) :] if full.startswith(prefix) else None

    def _trim(self) -> None:
        if len(self._open) >= _KEPT_OPEN:
            os.close(self._open.pop(next(iter(self._open))).fd)


class Task(NamedTuple):
    """One inode to be made."""

    name: bytes
    entry: Entry
    data: Buffer


def place(maker: Maker, directory: Directory, task: Task) -> None:
    """Make the inode of *task* now; FileExistsError if its name is taken."""
    try:
        make(maker, directory.fd, task.name, task.entry, task.data, directory.inherited)
    except FileExistsError:
        raise
    except OSError as problem:
        problem.filename = task.entry.name
        raise

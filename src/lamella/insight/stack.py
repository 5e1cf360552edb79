"""The merged view of a stack of directories, without mounting it: what is visible at a path, and what hides what.

The directories are layers in overlayfs' form, base first; of drivers that give each layer a whole tree the topmost is
the view, and a layer says what it changes of the one below.  Names come from images and are hostile: each is looked up
relative to an open directory of one layer and never followed; links are spliced in the view, inside its root.

Directories that the kernel would look up elsewhere (``redirect``) or that only it can read (``xattr.whiteouts``) are
refused with Unsupported, as looking at them would give wrong answers; files that hold metadata alone (``metacopy``)
are told.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Literal, NamedTuple, Self

from lamella.changeset.whiteout import FOREIGN_XATTRS, OVERLAY_PREFIXES, is_whiteout
from lamella.errors import InvalidArgument, NotFound, Unsupported
from lamella.fs.rooted import Root

MAX_LINKS: Final = 40
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_OPAQUE: Final = frozenset(prefix + b"opaque" for prefix in OVERLAY_PREFIXES)
_METACOPY: Final = frozenset(prefix + b"metacopy" for prefix in OVERLAY_PREFIXES)
_KINDS: Final = {
    stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "link", stat.S_IFCHR: "device",
    stat.S_IFBLK: "device", stat.S_IFIFO: "fifo", stat.S_IFSOCK: "socket",
}  # fmt: skip

Act = Literal["writes", "deletes", "empties", "replaces"]
"""A layer has the path; has a whiteout of it or of a directory above it; has such a directory opaque; or has something
else in the place of such a directory."""


class Mark(NamedTuple):
    """What one layer says about a path."""

    layer: int
    """The layer's place in the stack, 0 at the base."""
    act: Act
    at: bytes
    """The path that says it: the path itself, or a directory above it."""
    status: os.stat_result | None = None
    opaque: bool = False
    metacopy: bool = False
    """The file's content lies in a layer below."""
    hidden_by: int | None = None
    """The layer that hides what this one writes; None if it shows, a directory that is merged included."""


class Visible(NamedTuple):
    """What the view shows at a path, links before its last name followed."""

    path: bytes
    """Relative to the root, without links on the way."""
    layer: int
    """The topmost layer that has it."""
    status: os.stat_result


def kind_of(mode: int) -> str:
    """Name the type of an inode: ``file``, ``directory``, ``link``, ``device``, ``fifo``, ``socket``."""
    return _KINDS.get(stat.S_IFMT(mode), "file")


def clean(path: bytes) -> list[bytes]:
    """Split a path into names, ``.`` and repeated slashes left out; a null byte is InvalidArgument."""
    if b"\0" in path:
        raise InvalidArgument(f"path {os.fsdecode(path)!r} has a null byte in it")
    return [part for part in path.split(b"/") if part not in {b"", b"."}]


def read_marks(fd: int, shown: bytes) -> bool:
    """Tell whether an open directory is opaque.  Raises Unsupported if only the kernel can say what is in it."""
    try:
        names = [os.fsencode(name) for name in os.listxattr(fd)]
    except OSError as problem:
        if problem.errno == errno.EOPNOTSUPP:
            return False
        raise
    if not names:
        return False
    for name in names:
        if name in FOREIGN_XATTRS:
            raise Unsupported(
                f"/{os.fsdecode(shown)} carries {os.fsdecode(name)}: what is in it, only the kernel can tell; "
                "mount the layer and look there"
            )
    for name in _OPAQUE.intersection(names):
        value = os.getxattr(fd, name)
        if value == b"y":
            return True
        if value == b"x":
            raise Unsupported(f"/{os.fsdecode(shown)} has whiteouts as attributes, which only the kernel can read")
    return False


class Stack:
    """Directories on top of each other, opened when they are needed; owns the descriptors."""

    def __init__(self, directories: Sequence[Path], *, whole: bool = False) -> None:
        """Take the layers' directories, base first; *whole* says that each holds a whole tree, as with vfs."""
        self.directories = tuple(directories)
        self.whole = whole
        self._fds: dict[int, int] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close what was opened."""
        while self._fds:
            os.close(self._fds.popitem()[1])

    # ------------------------------------------------------------------------------------------------ the view

    def find(self, path: bytes, *, follow: bool = False) -> Visible | None:
        """Return what is visible at *path*, None if nothing is.

        Links on the way are followed inside the view, one at the end only with *follow*.  More than 40 are OSError.
        """
        pending = clean(path)[::-1]
        done: list[bytes] = []
        links = 0
        with _Place(self, ()) as place:
            while pending:
                name = pending.pop()
                if name == b"..":
                    del done[-1:]
                    place.reset(done)
                    continue
                found = place.lookup(name)
                if found is None:
                    return None
                layer, status = found
                if stat.S_ISLNK(status.st_mode) and (pending or follow):
                    links += 1
                    if links > MAX_LINKS:
                        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
                    target = self._readlink(layer, [*done, name])
                    if target.startswith(b"/"):
                        done.clear()
                    place.reset(done)
                    pending += clean(target)[::-1]
                    continue
                if not pending:
                    return Visible(b"/".join([*done, name]), layer, status)
                if not place.enter(name):
                    return None
                done.append(name)
            return Visible(b"/".join(done), *place.here())

    def origin(self, found: Visible) -> int:
        """Return the layer that made what is visible; where each holds a whole tree, the topmost shows all there is."""
        if not self.whole:
            return found.layer
        return next((mark.layer for mark in reversed(self.marks(found.path)) if mark.act == "writes"), found.layer)

    def resolve(self, path: bytes) -> bytes:
        """Return *path* with the links above its last name followed in the view, also where nothing is visible now."""
        parts = clean(path)
        if not parts:
            return b""
        if parts[-1] == b"..":
            found = self.find(path)
            return b"" if found is None else found.path
        for depth in range(len(parts) - 1, 0, -1):
            found = self.find(b"/".join(parts[:depth]), follow=True)
            if found is not None:
                # What is below the last directory that is there was deleted with its parents: nothing to follow there.
                return b"/".join([*clean(found.path), *(part for part in parts[depth:] if part != b"..")])
        return b"/".join(part for part in parts if part != b"..")

    def names(self, path: bytes) -> Iterator[bytes]:
        """Yield the names in the directory that *path* leads to, in byte order; none if there is no such directory."""
        found = self.find(path, follow=True)
        if found is None or not stat.S_ISDIR(found.status.st_mode):
            return
        with _Place(self, clean(found.path)) as place:
            names = place.names()
        yield from sorted(names)

    def read(self, path: bytes, limit: int) -> bytes | None:
        """Return the content of the regular file that *path* leads to, None if there is none.

        More than *limit* bytes, or a file whose content lies in a lower layer, is InvalidArgument.
        """
        found = self.find(path, follow=True)
        if found is None or not stat.S_ISREG(found.status.st_mode):
            return None
        with Root(self._root(found.layer)) as root:
            return root.read_file(found.path, limit)

    def status(self, layer: int, path: bytes) -> os.stat_result | None:
        """Return the status of what one layer itself has at *path*, following nothing; None if it has nothing there."""
        parts = clean(path)
        try:
            fd = self._open(layer, parts[:-1])
        except OSError:
            return None
        try:
            return _lstat(fd, parts[-1]) if parts else os.fstat(fd)
        finally:
            os.close(fd)

    def readlink(self, layer: int, path: bytes) -> bytes:
        """Return the text of the link that one layer has at *path*."""
        return self._readlink(layer, clean(path))

    def open_parent(self, layer: int, path: bytes) -> tuple[int, bytes]:
        """Open the directory of *path* in one layer, following nothing; the caller closes it and uses the last name."""
        parts = clean(path)
        if not parts:
            raise InvalidArgument("the root has no name")
        return self._open(layer, parts[:-1]), parts[-1]

    # ------------------------------------------------------------------------------------------------ all versions

    def marks(self, path: bytes) -> list[Mark]:
        """Return all that the layers say about *path* itself, base first; links on the way are not followed.

        A whiteout or an opaque directory above the path is told only if it hides something.
        """
        parts = clean(path)
        if b".." in parts:
            raise InvalidArgument(f"{os.fsdecode(path)!r}: resolve '..' first")
        found: list[Mark] = []
        showing: list[int] = []
        for mark in self._snapshots(parts) if self.whole else self._said(parts):
            merges = mark.act == "writes" and mark.status is not None and stat.S_ISDIR(mark.status.st_mode)
            if merges and not mark.opaque and showing and _is_directory(found[showing[-1]]):
                showing.append(len(found))
            else:
                if mark.act != "writes" and not showing and (mark.act != "deletes" or mark.at != b"/".join(parts)):
                    continue
                for index in showing:
                    found[index] = found[index]._replace(hidden_by=mark.layer)
                showing = [len(found)] if mark.act == "writes" else []
            found.append(mark)
        return found

    def _said(self, parts: list[bytes]) -> Iterator[Mark]:
        for layer in range(len(self.directories)):
            with suppress(FileNotFoundError):
                yield from self._said_by(layer, parts)

    def _said_by(self, layer: int, parts: list[bytes]) -> Iterator[Mark]:
        fd = os.dup(self._root(layer))
        try:
            if not parts:
                yield Mark(layer, "writes", b"", os.fstat(fd), read_marks(fd, b""))
                return
            for depth, name in enumerate(parts):
                at = b"/".join(parts[: depth + 1])
                status = _lstat(fd, name)
                if status is None:
                    return
                if is_whiteout(status.st_mode, status.st_rdev):
                    yield Mark(layer, "deletes", at)
                    return
                last = depth == len(parts) - 1
                if not stat.S_ISDIR(status.st_mode):
                    if last:
                        yield Mark(layer, "writes", at, status, metacopy=_is_metacopy(fd, name, status))
                    else:
                        yield Mark(layer, "replaces", at)
                    return
                deeper = os.open(name, _DIRECTORY, dir_fd=fd)
                os.close(fd)
                fd = deeper
                opaque = read_marks(fd, at)
                if last:
                    yield Mark(layer, "writes", at, status, opaque)
                elif opaque:
                    yield Mark(layer, "empties", at)
        finally:
            os.close(fd)

    def _snapshots(self, parts: list[bytes]) -> Iterator[Mark]:
        """Do the same where each layer holds a whole tree: it says what differs from the tree below."""
        path = b"/".join(parts)
        before: os.stat_result | None = None
        for layer in range(len(self.directories)):
            now = self.status(layer, path)
            if now is not None and (before is None or _differ(before, now)):
                yield Mark(layer, "writes", path, now)
            elif now is None and before is not None:
                yield Mark(layer, "deletes", self._first_missing(layer, parts))
            before = now

    def _first_missing(self, layer: int, parts: list[bytes]) -> bytes:
        for depth in range(len(parts)):
            if self.status(layer, b"/".join(parts[: depth + 1])) is None:
                return b"/".join(parts[: depth + 1])
        return b"/".join(parts)

    # ------------------------------------------------------------------------------------------------ internals

    def _root(self, layer: int) -> int:
        fd = self._fds.get(layer)
        if fd is None:
            try:
                fd = os.open(self.directories[layer], _DIRECTORY)
            except (FileNotFoundError, NotADirectoryError):
                raise NotFound(f"{self.directories[layer]}: the layer's directory is not there") from None
            self._fds[layer] = fd
        return fd

    def _open(self, layer: int, parts: Sequence[bytes]) -> int:
        """Open a directory of one layer by its names, following nothing."""
        fd = os.dup(self._root(layer))
        try:
            for name in parts:
                deeper = os.open(name, _DIRECTORY, dir_fd=fd)
                os.close(fd)
                fd = deeper
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _readlink(self, layer: int, parts: list[bytes]) -> bytes:
        fd = self._open(layer, parts[:-1])
        try:
            return os.readlink(parts[-1], dir_fd=fd)
        finally:
            os.close(fd)


class _Place:
    """A directory of the view: the open directories of the layers that make it up, topmost first."""

    def __init__(self, stack: Stack, parts: Sequence[bytes]) -> None:
        self._stack = stack
        self._open: list[tuple[int, int]] = []
        self._path: list[bytes] = []
        self.reset(parts)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def _close(self) -> None:
        while self._open:
            os.close(self._open.pop()[1])

    def reset(self, parts: Sequence[bytes]) -> None:
        """Go to the directory with these names from the root, none of them a link."""
        self._close()
        self._path = []
        top = len(self._stack.directories) - 1
        for layer in (top,) if self._stack.whole and top >= 0 else range(top, -1, -1):
            self._open.append((layer, os.dup(self._stack._root(layer))))  # noqa: SLF001 - two halves of one thing
        for name in parts:
            if not self.enter(name):
                raise NotFound(f"/{os.fsdecode(b'/'.join(parts))} changed while it was read")

    def here(self) -> tuple[int, os.stat_result]:
        """Return the topmost layer of this directory, and the directory's status there."""
        if not self._open:
            raise NotFound("there is no layer")
        layer, fd = self._open[0]
        return layer, os.fstat(fd)

    def lookup(self, name: bytes) -> tuple[int, os.stat_result] | None:
        """Return what is visible under *name*."""
        for layer, fd in self._open:
            status = _lstat(fd, name)
            if status is not None:
                return None if is_whiteout(status.st_mode, status.st_rdev) else (layer, status)
        return None

    def enter(self, name: bytes) -> bool:
        """Go into the directory *name*; False if nothing like it is visible."""
        deeper: list[tuple[int, int]] = []
        self._path.append(name)
        try:
            for layer, fd in self._open:
                status = _lstat(fd, name)
                if status is None:
                    continue
                if not stat.S_ISDIR(status.st_mode):
                    break
                deeper.append((layer, os.open(name, _DIRECTORY, dir_fd=fd)))
                if read_marks(deeper[-1][1], b"/".join(self._path)):
                    break
        except BaseException:
            for _, fd in deeper:
                os.close(fd)
            raise
        self._close()
        self._open = deeper
        return bool(deeper)

    def names(self) -> set[bytes]:
        """Return the names that are visible here."""
        shown: set[bytes] = set()
        gone: set[bytes] = set()
        for _, fd in self._open:
            with os.scandir(fd) as entries:
                for entry in entries:
                    name = os.fsencode(entry.name)
                    if name in shown or name in gone:
                        continue
                    if entry.is_dir(follow_symlinks=False) or entry.is_file(follow_symlinks=False):
                        shown.add(name)
                        continue
                    status = _lstat(fd, name)
                    if status is not None:
                        (gone if is_whiteout(status.st_mode, status.st_rdev) else shown).add(name)
        return shown


def _lstat(fd: int, name: bytes) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=fd, follow_symlinks=False)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as problem:
        if problem.errno == errno.ENAMETOOLONG:
            return None
        raise


def _is_directory(mark: Mark) -> bool:
    return mark.status is not None and stat.S_ISDIR(mark.status.st_mode)


def _is_metacopy(fd: int, name: bytes, status: os.stat_result) -> bool:
    if not stat.S_ISREG(status.st_mode) or status.st_blocks or not status.st_size:
        return False
    try:
        names = os.listxattr(b"/proc/self/fd/%d/%b" % (fd, name), follow_symlinks=False)
    except OSError:
        return False
    return not _METACOPY.isdisjoint(os.fsencode(each) for each in names)


def _differ(old: os.stat_result, new: os.stat_result) -> bool:
    if (old.st_mode, old.st_uid, old.st_gid, old.st_rdev) != (new.st_mode, new.st_uid, new.st_gid, new.st_rdev):
        return True
    return not stat.S_ISDIR(old.st_mode) and (old.st_size != new.st_size or old.st_mtime_ns != new.st_mtime_ns)

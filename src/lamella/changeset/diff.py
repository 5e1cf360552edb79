"""Layer tars from directories: of an overlay's upper directory, of the difference of two trees, of one whole tree.

One walker and one header writer serve all of them, so a directory that is captured in place hashes to what it would
hash to if it were written out.  The same inodes always give the same bytes.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

from lamella.changeset.changes import Change, ChangeKind, iter_changes
from lamella.changeset.entry import Entry, Kind, show
from lamella.changeset.tario import Buffer, TarWriter
from lamella.changeset.tarsplit import TarSplit
from lamella.changeset.whiteout import (
    FOREIGN_XATTRS,
    OPAQUE_NAME,
    OPAQUE_XATTR,
    OVERLAY_PREFIXES,
    PREFIX,
    is_whiteout,
    whiteout_name,
)
from lamella.changeset.xattrs import portable, travels
from lamella.errors import Unavailable, Unsupported
from lamella.fs.rooted import Root
from lamella.fs.walk import walk
from lamella.model.digest import PREFIX as SHA256
from lamella.model.digest import DiffID, Digest

__all__ = [
    "Captured",
    "Change",
    "ChangeKind",
    "capture_layer",
    "iter_changes",
    "write_difference",
    "write_layer",
    "write_tree",
]

_PIECE: Final = 1 << 20
_SECOND: Final = 10**9
_LATEST: Final = (1 << 63) - 1
_OPEN_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_OPEN_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_WHITEOUT_MODE: Final = 0o600


class Captured(NamedTuple):
    """What became known about a directory when it was made a layer."""

    diff_id: DiffID
    tar_size: int
    size: int
    entries: int


def write_layer(upper: Path, sink: BinaryIO) -> None:
    """Write the layer tar of an overlay's upper directory; whiteouts and opaque directories become members.

    Sockets are left out.  A directory that cannot be understood alone (redirect_dir, metacopy, whiteouts as
    attributes) raises Unsupported, a file that changes while it is read Unavailable or DataLoss.
    """
    writer = TarWriter(sink.write)
    with Root(upper) as root:
        _OverlayTar(writer).run(root.fd)
    writer.finish()


def capture_layer(
    upper: Path, tar_split: BinaryIO, *, normalise: bool = True, advance: Callable[[int], None] | None = None
) -> Captured:
    """Hash and record the tar that `write_layer` would write, without writing it: *upper* itself is the layer.

    *normalise* makes the directory what unpacking the tar would give: times in whole seconds, no sockets, no
    attributes of overlayfs but the opaque mark.  Nothing is synced.
    """
    digest = hashlib.sha256()

    def emit(piece: Buffer) -> None:
        digest.update(piece)
        if advance is not None:
            advance(len(piece))

    recorder = TarSplit(tar_split)
    writer = TarWriter(emit, recorder)
    with Root(upper) as root:
        packer = _NormalisingTar(writer) if normalise else _OverlayTar(writer)
        packer.run(root.fd)
        writer.finish()
        packer.settle(root)
    recorder.finish()
    return Captured(DiffID(Digest(SHA256 + digest.hexdigest())), writer.written, packer.size, writer.entries)


def write_difference(lower: Path, upper: Path, sink: BinaryIO, *, touched: Collection[bytes] = frozenset()) -> None:
    """Write the layer tar that turns the tree *lower* into the tree *upper*; see `iter_changes` for *touched*."""
    writer = TarWriter(sink.write)
    packer = _TreeTar(writer)
    with Root(upper) as root:
        for change in iter_changes(lower, upper, touched=touched):
            if change.kind is ChangeKind.DELETED:
                writer.add(Entry(whiteout_name(change.path), Kind.REGULAR, mode=_WHITEOUT_MODE))
                continue
            parent, name = root.open_parent(change.path)
            try:
                _refuse_whiteout_name(change.path, name)
                packer.add(parent, name, change.path, os.stat(name, dir_fd=parent, follow_symlinks=False))
            finally:
                os.close(parent)
    writer.finish()


def write_tree(root: Path, sink: BinaryIO, *, owner: tuple[int, int] | None = None) -> None:
    """Write a tar of everything below *root* as it is, or as if all of it were *owner*'s."""
    writer = TarWriter(sink.write) if owner is None else _OwnedTar(sink.write, owner)
    with Root(root, follow=True) as top:
        packer = _TreeTar(writer)
        for path, dir_fd, name, status in walk(top.fd):
            packer.add(dir_fd, name, path, status)
    writer.finish()


class _OwnedTar(TarWriter):
    """Gives all members one owner."""

    def __init__(self, emit: Callable[[Buffer], object], owner: tuple[int, int]) -> None:
        super().__init__(emit)
        self._owner = owner

    def add(self, entry: Entry, data: Iterator[Buffer] | None = None) -> None:  # type: ignore[explicit-override]
        """Write one member."""
        entry.uid, entry.gid = self._owner
        super().add(entry, data)


class _TreeTar:
    """Turns inodes into members: the first name of an inode is the file, later ones are hard links."""

    def __init__(self, writer: TarWriter) -> None:
        self._writer = writer
        self._first_names: dict[tuple[int, int], bytes] = {}
        self.size = 0
        """Sum of the lengths of all that is not a directory, each inode once."""

    def add(self, dir_fd: int, name: bytes, path: bytes, status: os.stat_result) -> None:
        """Write the member for *name* in *dir_fd*, which lies at *path*."""
        if stat.S_ISDIR(status.st_mode):
            self._directory(dir_fd, name, path)
            return
        if stat.S_ISSOCK(status.st_mode):
            return
        if status.st_nlink > 1:
            identity = (status.st_dev, status.st_ino)
            first = self._first_names.setdefault(identity, path)
            if first is not path:
                self._writer.add(_entry(path, Kind.HARD_LINK, status, link=first))
                return
        if stat.S_ISREG(status.st_mode):
            self._regular(dir_fd, name, path, status)
            return
        self.size += status.st_size
        if stat.S_ISLNK(status.st_mode):
            target = os.readlink(name, dir_fd=dir_fd)
            self._writer.add(_entry(path, Kind.SYMLINK, status, link=target))
        else:
            self._writer.add(_entry(path, _NODES[stat.S_IFMT(status.st_mode)], status))
        self.touch_node(dir_fd, name, status)

    def _directory(self, dir_fd: int, name: bytes, path: bytes) -> None:
        fd = os.open(name, _OPEN_DIRECTORY, dir_fd=dir_fd)
        try:
            status = os.fstat(fd)
            xattrs = _read_xattrs(fd)
            self.check(path, xattrs)
            self._writer.add(_entry(path + b"/", Kind.DIRECTORY, status, xattrs=_travelling(xattrs)))
            self.opaque(path + b"/", status, xattrs)
            self.touch(fd, path, status, xattrs)
        finally:
            os.close(fd)

    def _regular(self, dir_fd: int, name: bytes, path: bytes, seen: os.stat_result) -> None:
        fd = os.open(name, _OPEN_FILE, dir_fd=dir_fd)
        try:
            status = os.fstat(fd)
            if not os.path.samestat(seen, status):
                raise Unavailable(f"{show(path)} was replaced while it was read: pause what writes to it")
            xattrs = _read_xattrs(fd)
            self.check(path, xattrs)
            entry = _entry(path, Kind.REGULAR, status, size=status.st_size, xattrs=_travelling(xattrs))
            self._writer.add(entry, _pieces(fd, status.st_size))
            self.size += status.st_size
            self.touch(fd, path, status, xattrs)
        finally:
            os.close(fd)

    def check(self, path: bytes, xattrs: dict[bytes, bytes]) -> None:
        """Refuse what cannot be understood; a plain tree holds nothing of the kind."""

    def opaque(self, prefix: bytes, status: os.stat_result, xattrs: dict[bytes, bytes]) -> None:
        """Write the member that says that a directory hides those below it."""

    def touch(self, fd: int, path: bytes, status: os.stat_result, xattrs: dict[bytes, bytes]) -> None:
        """Change a file or directory after it was written."""

    def touch_node(self, dir_fd: int, name: bytes, status: os.stat_result) -> None:
        """Change a link or device after it was written."""


class _OverlayTar(_TreeTar):
    """Reads an overlay's upper directory."""

    def run(self, root_fd: int) -> None:
        """Write members for all below *root_fd*."""
        xattrs = _read_xattrs(root_fd)
        self.check(b"", xattrs)
        self.opaque(b"", os.fstat(root_fd), xattrs)
        for path, dir_fd, name, status in walk(root_fd):
            _refuse_whiteout_name(path, name)
            if is_whiteout(status.st_mode, status.st_rdev):
                entry = _entry(whiteout_name(path), Kind.REGULAR, status)
                entry.mode = _WHITEOUT_MODE
                self._writer.add(entry)
            elif stat.S_ISSOCK(status.st_mode):
                self.socket(dir_fd, name, path)
            else:
                self.add(dir_fd, name, path, status)

    def socket(self, dir_fd: int, name: bytes, path: bytes) -> None:
        """Pass over a socket."""

    def settle(self, root: Root) -> None:
        """Do what must wait until all is written."""

    def check(self, path: bytes, xattrs: dict[bytes, bytes]) -> None:  # type: ignore[explicit-override]
        """Refuse attributes that give the directory a meaning beyond its own content."""
        for name, value in xattrs.items():
            if name in FOREIGN_XATTRS or (name == OPAQUE_XATTR and value != b"y"):
                raise Unsupported(
                    f"{show(path)} carries the overlay attribute {show(name)}: "
                    "its layer was written with redirect_dir, metacopy or attribute whiteouts on"
                )

    def opaque(  # type: ignore[explicit-override]
        self, prefix: bytes, status: os.stat_result, xattrs: dict[bytes, bytes]
    ) -> None:
        """Write the opaque marker of a directory that has the attribute."""
        if OPAQUE_XATTR in xattrs:
            marker = _entry(prefix + OPAQUE_NAME, Kind.REGULAR, status)
            marker.mode &= 0o777
            marker.mtime_ns = 0
            self._writer.add(marker)


class _NormalisingTar(_OverlayTar):
    """Also makes the directory what unpacking its tar would give."""

    def __init__(self, writer: TarWriter) -> None:
        super().__init__(writer)
        self._directories: dict[bytes, os.stat_result] = {}

    def socket(self, dir_fd: int, name: bytes, path: bytes) -> None:  # type: ignore[explicit-override]
        """Remove a socket: it means nothing without its process."""
        parent = path.rpartition(b"/")[0]
        if parent and parent not in self._directories:
            # Its time is about to change, and is in the tar already.
            self._directories[parent] = os.fstat(dir_fd)
        os.unlink(name, dir_fd=dir_fd)

    def touch(  # type: ignore[explicit-override]
        self, fd: int, path: bytes, status: os.stat_result, xattrs: dict[bytes, bytes]
    ) -> None:
        """Remove overlayfs's attributes and fractions of seconds; directories' times wait for `settle`."""
        for name in xattrs:
            if name.startswith(OVERLAY_PREFIXES) and name != OPAQUE_XATTR:
                os.removexattr(fd, name)
        if status.st_mtime_ns == _whole(status.st_mtime_ns):
            return
        if stat.S_ISDIR(status.st_mode):
            self._directories[path] = status
        else:
            os.utime(fd, ns=_whole_times(status))

    def touch_node(self, dir_fd: int, name: bytes, status: os.stat_result) -> None:  # type: ignore[explicit-override]
        """Remove fractions of seconds."""
        if status.st_mtime_ns != _whole(status.st_mtime_ns):
            os.utime(name, ns=_whole_times(status), dir_fd=dir_fd, follow_symlinks=False)

    def settle(self, root: Root) -> None:  # type: ignore[explicit-override]
        """Set the times of directories, and rid the root of overlayfs's attributes."""
        for path, status in self._directories.items():
            fd = root.open(path, _OPEN_DIRECTORY)
            try:
                os.utime(fd, ns=_whole_times(status))
            finally:
                os.close(fd)
        for name in _read_xattrs(root.fd):
            if name.startswith(OVERLAY_PREFIXES) and name != OPAQUE_XATTR:
                os.removexattr(root.fd, name)


_NODES: Final = {stat.S_IFCHR: Kind.CHARACTER, stat.S_IFBLK: Kind.BLOCK, stat.S_IFIFO: Kind.FIFO}


def _entry(
    name: bytes,
    kind: Kind,
    status: os.stat_result,
    *,
    size: int = 0,
    link: bytes = b"",
    xattrs: dict[bytes, bytes] | None = None,
) -> Entry:
    device = stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode)
    return Entry(
        name,
        kind,
        path=name,
        size=size,
        mode=stat.S_IMODE(status.st_mode),
        uid=status.st_uid,
        gid=status.st_gid,
        mtime_ns=_whole(status.st_mtime_ns),
        link=link,
        major=os.major(status.st_rdev) if device else 0,
        minor=os.minor(status.st_rdev) if device else 0,
        xattrs=xattrs,
    )


def _whole(nanoseconds: int) -> int:
    """Cut a time to whole seconds; what no layer can carry becomes 1970."""
    return nanoseconds - nanoseconds % _SECOND if 0 <= nanoseconds <= _LATEST else 0


def _whole_times(status: os.stat_result) -> tuple[int, int]:
    return status.st_atime_ns, _whole(status.st_mtime_ns)


def _read_xattrs(fd: int) -> dict[bytes, bytes]:
    """Read the attributes that matter here; one that vanishes meanwhile was not there."""
    found: dict[bytes, bytes] = {}
    try:
        names = os.listxattr(fd)
    except OSError as problem:
        if problem.errno != errno.EOPNOTSUPP:
            raise
        return found
    for text in names:
        name = os.fsencode(text)
        if travels(name) or name.startswith(OVERLAY_PREFIXES):
            try:
                found[name] = os.getxattr(fd, name)
            except OSError as problem:
                if problem.errno != errno.ENODATA:
                    raise
    return found


def _travelling(xattrs: dict[bytes, bytes]) -> dict[bytes, bytes] | None:
    # A PAX key ends at the first "=", so no record can carry an attribute with one in its name.
    return {name: portable(name, value) for name, value in xattrs.items() if travels(name) and b"=" not in name} or None


def _pieces(fd: int, size: int) -> Iterator[bytes]:
    left = size
    while left and (piece := os.read(fd, min(left, _PIECE))):
        left -= len(piece)
        yield piece


def _refuse_whiteout_name(path: bytes, name: bytes) -> None:
    if name.startswith(PREFIX):
        raise Unsupported(f"{show(path)} cannot be stored: in a layer its name means a deletion; rename or remove it")

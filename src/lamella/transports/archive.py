"""Files of an image archive, read where they lie: a tar that is indexed and never unpacked, or a directory.

Members are found by name, links are followed to other members only and at most eight times, and nothing but regular
files is read.  What the files mean is for the formats; that the archive lies on a seekable, uncompressed file is seen
to by ``open_members``, which spools what does not.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol, cast

from lamella.changeset.compression import Compression, iter_decompressed, sniff_compression
from lamella.changeset.entry import Entry, Kind, show
from lamella.changeset.limits import within_space
from lamella.changeset.tario import ByteSource, TarReader
from lamella.errors import InvalidArgument, NotFound
from lamella.fs.rooted import Root

_MOST_MEMBERS = 200_000
_MOST_LINKS = 8
_LONGEST_NAME = 4096
_ZEROS = memoryview(bytes(1 << 20))


class Members(Protocol):
    """The files of an archive, by their relative names."""

    def exists(self, name: str) -> bool:
        """Tell whether there is a file of this name, or a link to one."""
        ...

    def open(self, name: str) -> BinaryIO:
        """Open a regular file.  Raises NotFound, or InvalidArgument if it is something else."""
        ...

    def size(self, name: str) -> int:
        """Return the bytes of a regular file."""
        ...


def read_member(members: Members, name: str, limit: int) -> bytes:
    """Read a file of at most ``limit`` bytes."""
    if members.size(name) > limit:
        raise InvalidArgument(f"{name} in the archive is larger than {limit} bytes")
    with members.open(name) as stream:
        raw = stream.read(limit + 1)
    if len(raw) > limit:
        raise InvalidArgument(f"{name} in the archive is larger than {limit} bytes")
    return raw


class _Member(NamedTuple):
    kind: Kind
    offset: int
    size: int
    link: bytes
    plain: bool


class TarMembers:
    """The members of a tar on a seekable file; the descriptor stays the caller's."""

    def __init__(self, fd: int) -> None:
        """Read all headers, and only them.  Raises InvalidArgument or DataLoss for a damaged archive."""
        self._fd = fd
        self._members: dict[bytes, _Member] = {}
        source = _HeaderSource(fd)
        reader = TarReader(source)
        count = 0
        while (entry := reader.next_entry()) is not None:
            reader.take_raw()
            count += 1
            if count > _MOST_MEMBERS:
                raise InvalidArgument(f"the archive has more than {_MOST_MEMBERS} members")
            if entry.kind is not Kind.GLOBAL and entry.path:
                self._members[entry.path] = _member(entry, source.consumed)

    def exists(self, name: str) -> bool:
        """Tell whether there is a regular file of this name, or a link to one."""
        try:
            self._regular(name)
        except (NotFound, InvalidArgument):
            return False
        return True

    def open(self, name: str) -> BinaryIO:
        """Open a regular member, through links to other members if need be."""
        member = self._regular(name)
        return cast("BinaryIO", _Slice(self._fd, member.offset, member.size))

    def size(self, name: str) -> int:
        """Return the bytes of a regular member."""
        return self._regular(name).size

    def _regular(self, name: str) -> _Member:
        steps = 0
        pending = _components(name.encode("utf-8", "surrogateescape"))
        done: list[bytes] = []
        member: _Member | None = None
        while pending:
            part = pending.pop()
            if part in {b"", b"."}:
                continue
            if part == b"..":
                # As if the archive were the whole file system: its root is its own parent.
                del done[-1:]
                continue
            done.append(part)
            member = self._members.get(b"/".join(done))
            if member is None or member.kind not in {Kind.SYMLINK, Kind.HARD_LINK}:
                continue
            steps += 1
            if steps > _MOST_LINKS:
                raise InvalidArgument(f"{show(os.fsencode(name))} in the archive leads through too many links")
            done = [] if member.kind is Kind.HARD_LINK or member.link.startswith(b"/") else done[:-1]
            pending += _components(member.link)
        member = self._members.get(b"/".join(done))
        if member is None:
            raise NotFound(f"{show(os.fsencode(name))} is not in the archive")
        if member.kind is not Kind.REGULAR or not member.plain:
            raise InvalidArgument(f"{show(os.fsencode(name))} in the archive is not a regular file")
        return member


def _components(path: bytes) -> list[bytes]:
    """Split a path, last component first; looking one up costs the square of its length."""
    if len(path) > _LONGEST_NAME:
        raise InvalidArgument(f"{show(path)} is longer than a path can be")
    return path.split(b"/")[::-1]


class DirectoryMembers:
    """The files of a directory, from which no name and no link leads out."""

    def __init__(self, directory: Path) -> None:
        self._root = Root(directory, follow=True)

    def close(self) -> None:
        """Give the directory back."""
        self._root.close()

    def exists(self, name: str) -> bool:
        """Tell whether there is a regular file of this name."""
        try:
            return stat.S_ISREG(self._root.lstat(os.fsencode(name)).st_mode)
        except OSError:
            return False

    def open(self, name: str) -> BinaryIO:
        """Open a regular file."""
        try:
            fd = self._root.open(os.fsencode(name), os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
        except OSError as error:
            if error.errno in {errno.ENOENT, errno.ENOTDIR}:
                raise NotFound(f"{name!r} is not in the layout") from error
            if error.errno in {errno.ELOOP, errno.ENXIO}:
                raise InvalidArgument(f"{name!r} in the layout is not a regular file") from error
            raise
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise InvalidArgument(f"{name!r} in the layout is not a regular file")
        return open(fd, "rb", buffering=1 << 18)

    def size(self, name: str) -> int:
        """Return the bytes of a regular file."""
        with self.open(name) as stream:
            return os.fstat(stream.fileno()).st_size


@contextlib.contextmanager
def open_members(archive: Path | BinaryIO, *, spool: Path) -> Iterator[TarMembers | DirectoryMembers]:
    """Open an archive for reading by name: a directory, a file, or a stream.

    What is compressed, or cannot be sought in, is first written to a nameless file in the directory ``spool``, which
    disappears with this process.
    """
    if isinstance(archive, Path) and archive.is_dir():
        members = DirectoryMembers(archive)
        try:
            yield members
        finally:
            members.close()
        return
    with contextlib.ExitStack() as stack:
        stream: BinaryIO
        if isinstance(archive, Path):
            fd = os.open(archive, os.O_RDONLY | os.O_CLOEXEC)
            stream = stack.enter_context(open(fd, "rb", buffering=0))
        else:
            stream = archive
        fd_or_none = _plain_fd(stream)
        if fd_or_none is None:
            fd_or_none = _spooled(stream, spool)
            stack.callback(os.close, fd_or_none)
        yield TarMembers(fd_or_none)


def _plain_fd(stream: BinaryIO) -> int | None:
    """Return the descriptor of a regular, uncompressed file that is read from its start, else None."""
    try:
        fd = stream.fileno()
        if not stat.S_ISREG(os.fstat(fd).st_mode) or stream.tell() != 0:
            return None
    except (OSError, ValueError, AttributeError):
        return None
    return fd if sniff_compression(os.pread(fd, 16, 0)) is Compression.NONE else None


def _spooled(stream: BinaryIO, directory: Path) -> int:
    fd = open_nameless(directory)
    try:
        with open(fd, "wb", buffering=0, closefd=False) as sink:
            for piece in within_space(iter_decompressed(stream), fd):
                view = memoryview(piece)
                while view:
                    view = view[sink.write(view) :]
    except BaseException:
        os.close(fd)
        raise
    return fd


def open_nameless(directory: Path) -> int:
    """Open a new file without a name for reading and writing: nothing of it is left after a kill."""
    try:
        return os.open(directory, os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno not in {errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL}:
            raise
    path = directory / f"spool-{os.getpid()}-{os.urandom(4).hex()}"
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    path.unlink()
    return fd


def _member(entry: Entry, offset: int) -> _Member:
    return _Member(entry.kind, offset, entry.size, entry.link, entry.sparse is None)


class _HeaderSource(ByteSource):
    """Gives a tar reader the real headers, and zeros for the data it passes over."""

    __slots__ = ("_fd", "_size")

    def __init__(self, fd: int) -> None:
        super().__init__(lambda: b"")
        self._fd = fd
        self._size = os.fstat(fd).st_size

    def take(self, count: int) -> bytes:  # type: ignore[explicit-override]
        data = os.pread(self._fd, count, self.consumed)
        self.consumed += len(data)
        return data

    def view(self, count: int) -> bytes:  # type: ignore[explicit-override]
        return self.take(count)

    def piece(self, limit: int) -> memoryview:  # type: ignore[explicit-override]
        count = max(0, min(limit, len(_ZEROS), self._size - self.consumed))
        self.consumed += count
        return _ZEROS[:count]


class _Slice(io.RawIOBase):
    """A part of a file, read by position, so that several can be read at once."""

    def __init__(self, fd: int, offset: int, size: int) -> None:
        self._fd = fd
        self._offset = offset
        self._end = offset + size

    def readable(self) -> bool:  # type: ignore[explicit-override]
        return True

    def read(self, size: int = -1, /) -> bytes:  # type: ignore[explicit-override]
        left = max(0, self._end - self._offset)
        data = os.pread(self._fd, left if size < 0 else min(size, left), self._offset)
        self._offset += len(data)
        return data

    def readinto(self, buffer: Any, /) -> int:  # type: ignore[explicit-override]
        count = min(len(buffer), self._end - self._offset)
        if count <= 0:
            return 0
        done = os.preadv(self._fd, [memoryview(buffer)[:count]], self._offset)
        self._offset += done
        return done

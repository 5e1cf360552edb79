"""Applying a layer: one pass over its stream that hashes it, records its tar-split and makes its files.

The stream comes from inflow, members from tario, inodes are made by placement and inodes; here is what members mean:
whiteouts and opaque directories, names given twice, links, directory times, and which members tar-split can name.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

from lamella.changeset.crew import Crew
from lamella.changeset.entry import Entry, Kind, show
from lamella.changeset.inflow import Inflow
from lamella.changeset.inodes import Buffer, Maker, drop_default_acl, set_xattrs, times
from lamella.changeset.limits import DEFAULT_LIMITS, SPACE_EVERY, Limits, require_space
from lamella.changeset.placement import Directories, Directory, Task, place
from lamella.changeset.removal import Remains
from lamella.changeset.tario import ByteSource, TarReader
from lamella.changeset.tarsplit import NoRecord, TarSplit
from lamella.changeset.whiteout import OPAQUE_XATTR, Whiteout, may_be_whiteout, parse_whiteout
from lamella.errors import DigestMismatch, InvalidArgument, Unsupported
from lamella.fs.rooted import Root
from lamella.fs.usage import layer_size
from lamella.model.digest import DiffID, Digest

_SMALL: Final = 128 << 10
# What the kernel says when the archive asks for the impossible, not when the machine fails.
_ASKED_TOO_MUCH: Final = frozenset(
    (
        errno.ENAMETOOLONG,
        errno.ELOOP,
        errno.ENOTDIR,
        errno.EISDIR,
        errno.EMLINK,
        errno.EINVAL,
        errno.EILSEQ,
        errno.EFBIG,
    )
)


class Style(Enum):
    """What a deletion becomes on disk."""

    OVERLAY = "overlay"
    """The target is new and empty: whiteouts are kept, as overlayfs wants them."""

    REMOVE = "remove"
    """The target holds all of the parent: whiteouts are carried out."""


class Applied(NamedTuple):
    """What became known about a layer while it was applied."""

    diff_id: DiffID
    digest: Digest
    length: int
    tar_size: int
    size: int
    entries: int


def apply_layer(
    stream: BinaryIO,
    target: Path,
    *,
    tar_split: BinaryIO | None = None,
    style: Style = Style.OVERLAY,
    expected: DiffID | None = None,
    limits: Limits = DEFAULT_LIMITS,
    advance: Callable[[int], None] | None = None,
) -> Applied:
    """Unpack the layer *stream*, packed or not, into the directory *target*, and write its tar-split.

    Nothing outside *target* can be touched, whatever the layer says.  Malformed or refused members raise
    InvalidArgument, a stream that is cut off DataLoss, a tar other than *expected* DigestMismatch, a hard link to a
    lower layer's file Unsupported; *target* is then left half made for the caller to remove.  Nothing is synced.
    """
    with Root(target) as root, Inflow(stream, limits, advance) as inflow:
        recorder = NoRecord() if tar_split is None else TarSplit(tar_split)
        applier = _Applier(root, inflow, recorder, style, limits)
        try:
            applier.run()
        finally:
            applier.close()
        recorder.finish()
        if expected is not None and inflow.diff_id != expected:
            raise DigestMismatch("layer", expected, inflow.diff_id)
        size = applier.size if applier.size is not None else layer_size(target)
        return Applied(inflow.diff_id, inflow.digest, inflow.length, inflow.plain_length, size, applier.entries)


class _DirectoryEnd(NamedTuple):
    """What a directory gets when nothing more goes into it."""

    path: bytes
    entry: Entry


class _Applier:
    """One run of `apply_layer`."""

    def __init__(self, root: Root, inflow: Inflow, recorder: TarSplit | NoRecord, style: Style, limits: Limits) -> None:
        from fastcrc.crc64 import go_iso

        self._crc = go_iso
        self._root = root
        self._source = ByteSource(inflow.pull)
        self._reader = TarReader(self._source, limits)
        self._recorder = recorder
        self._style = style
        self._limits = limits
        self._maker = Maker()
        self._directories = Directories(root, self._settle)
        self._crew = Crew(self._maker, self._make_again, lambda: inflow.ahead)
        # Real path of every member made, and whether its content has to be found again under its name.
        self._made: dict[bytes, bool] = {}
        self._recorded: set[bytes] = set()
        self._whiteouts: list[tuple[bytes, Entry]] = []
        self._ends: dict[int, _DirectoryEnd] = {}
        self._remains = Remains(root, self._made, self._directories.made)
        self._through_links = False
        self._links = False
        self._repeated = False
        self._alone = False
        self._next_look = 0
        self._asked = 0
        self.entries = 0
        # None once something counted was taken away again: then the whole is counted at the end.
        self.size: int | None = 0

    def run(self) -> None:
        if self._style is Style.OVERLAY:
            drop_default_acl(self._root.fd)
        while (entry := self._reader.next_entry()) is not None:
            self.entries += 1
            if self.entries > self._limits.entries:
                raise InvalidArgument(f"layer has more than the {self._limits.entries} members allowed")
            if self._source.consumed >= self._next_look:
                self._look_for_space()
            try:
                self._member(entry)
            except OSError as problem:
                _refuse_if_asked_for(problem, entry)
                raise
        for rest in self._reader.trailer():
            self._recorder.segment(rest)
        try:
            self._crew.drain()
            self._make_whiteouts()
            self._end_directories()
        except OSError as problem:
            _refuse_if_asked_for(problem, None)
            raise

    def close(self) -> None:
        self._crew.close()
        self._directories.close()

    # ---- members --------------------------------------------------------------------------------------------------

    def _member(self, entry: Entry) -> None:
        path = entry.path
        if entry.kind is Kind.GLOBAL:
            # Docker's reader refuses a second global header by its name, so none is recorded by name.
            self._recorder.segment(self._reader.take_raw())
        elif may_be_whiteout(path):
            self._hidden(entry)
        elif entry.kind is Kind.DIRECTORY:
            self._directory(entry)
        elif not path:
            raise InvalidArgument(f"member {show(entry.name)} would take the place of the layer's root")
        elif entry.kind is Kind.HARD_LINK:
            self._hard_link(entry)
        elif entry.kind is Kind.REGULAR:
            self._regular(entry)
        else:
            if entry.kind is Kind.CHARACTER and not entry.major and not entry.minor:
                raise InvalidArgument(f"member {show(entry.name)} is a device 0:0, which is how overlayfs says deleted")
            if entry.kind is Kind.SYMLINK and (not entry.link or b"\0" in entry.link):
                raise InvalidArgument(f"symbolic link {show(entry.name)} has no valid target")
            directory, name = self._place_for(entry, recalled=False)
            self._record(entry, by_name=not self._repeated)
            if entry.kind is Kind.SYMLINK:
                self._links = True
                self._grow(len(entry.link))
            self._make(directory, Task(name, entry, b""))

    def _place_for(self, entry: Entry, *, recalled: bool) -> tuple[Directory, bytes]:
        """Open the parent of *entry* and account for its name.

        `_repeated` then says that tar-split may not name it, `_alone` that its name may be taken, so that what comes
        before must have been made.
        """
        directory, name = self._directories.parent(entry.path)
        real = directory.join(name)
        through_link = directory.real != directory.path
        before = self._made.get(real)
        if before:
            raise _twice(entry.name)
        self._repeated = before is not None or (through_link and entry.path in self._recorded)
        self._alone = before is not None or not directory.certain or real in self._directories.made
        self._made[real] = recalled and not self._repeated
        if through_link:
            self._recorded.add(entry.path)
            self._through_links = self._through_links or recalled
        return directory, name

    def _regular(self, entry: Entry) -> None:
        directory, name = self._place_for(entry, recalled=entry.size > 0 and entry.sparse is None)
        self._grow(entry.real_size)
        by_name = not self._repeated and entry.sparse is None
        if entry.size <= _SMALL and entry.sparse is None:
            data = self._reader.read()
            self._record(entry, by_name=by_name, data=data)
            self._make(directory, Task(name, entry, data))
            return
        if self._alone:
            directory = self._settled(directory)
        pieces = self._recorded_pieces(entry, by_name=by_name)
        try:
            self._maker.streamed(directory.fd, name, entry, pieces, directory.inherited)
        except FileExistsError:
            directory = self._clear(directory, name)
            self._maker.streamed(directory.fd, name, entry, pieces, directory.inherited)

    def _recorded_pieces(self, entry: Entry, *, by_name: bool) -> Iterator[Buffer]:
        """Yield a large member's data, recording them on the way."""
        self._recorder.segment(self._reader.take_raw())
        crc = 0
        for piece in self._reader.pieces():
            if self._source.consumed >= self._next_look:
                self._look_for_space()
            if by_name:
                crc = self._crc(piece, crc)
            else:
                self._recorder.segment(piece)
            yield piece
        if by_name:
            self._recorder.file(entry.name, entry.size, crc)

    def _record(self, entry: Entry, *, by_name: bool, data: Buffer = b"") -> None:
        """Record a member whose data are at hand: by its name, or else word for word."""
        raw = self._reader.take_raw()
        self._recorder.segment(raw)
        if by_name:
            self._recorder.file(entry.name, len(data), self._crc(data) if data else 0)
        elif data:
            self._recorder.segment(data)

    def _make(self, directory: Directory, task: Task) -> None:
        """Make a small inode, or have it made."""
        if self._style is Style.OVERLAY and not self._alone and self._crew.takes(task):
            self._crew.add(directory, task)
            return
        directory = self._settled(directory)
        try:
            place(self._maker, directory, task)
        except FileExistsError:
            place(self._maker, self._clear(directory, task.name), task)

    def _make_again(self, path: bytes, task: Task) -> None:
        """Make an inode that the crew could not."""
        directory = self._directories.get(path)
        try:
            place(self._maker, directory, task)
        except FileExistsError:
            place(self._maker, self._clear(directory, task.name), task)

    def _settled(self, directory: Directory) -> Directory:
        """Return *directory* when all before is made; on the way it may have been closed and opened again."""
        if self._crew.idle:
            return directory
        self._crew.drain()
        return self._directories.get(directory.path)

    def _settle(self, path: bytes) -> None:
        """Have made what may lead to *path*: links, and names that its directories would take."""
        if self._crew.idle:
            return
        while not self._links and path and path not in self._made:
            path = path.rpartition(b"/")[0]
        if path:
            self._crew.drain()

    def _clear(self, directory: Directory, name: bytes) -> Directory:
        """Remove what has the name of a new member; return its directory, opened anew."""
        directory = self._settled(directory)
        self._remains.clear(directory.fd, directory.join(name), name, through_links=self._through_links)
        if self._style is Style.OVERLAY:
            self.size = None
        self._directories.forget()
        return self._directories.get(directory.path)

    def _directory(self, entry: Entry) -> None:
        path = entry.path
        repeated = False
        if path:
            parent, name = self._directories.parent(path)
            real = parent.join(name)
            before = self._made.get(real)
            if before:
                raise _twice(entry.name)
            repeated = before is not None or path in self._recorded
            self._made[real] = False
            if parent.real != parent.path:
                self._recorded.add(path)
            if before is not None or not parent.certain:
                parent = self._settled(parent)
            directory = self._open_new_directory(parent, name, entry)
        else:
            repeated = path in self._recorded
            self._recorded.add(path)
            directory = self._settled(self._directories.top)
        self._record(entry, by_name=not repeated)
        status = directory.look()
        if (status.st_uid, status.st_gid) != (entry.uid, entry.gid):
            os.fchown(directory.fd, entry.uid, entry.gid)
        if stat.S_IMODE(status.st_mode) != entry.mode:
            os.fchmod(directory.fd, entry.mode)
        directory.inherited = entry.gid if entry.mode & stat.S_ISGID else None
        self._ends[status.st_ino] = _DirectoryEnd(path, entry)

    def _open_new_directory(self, parent: Directory, name: bytes, entry: Entry) -> Directory:
        """Make the directory unless it is there, and open it; whatever else has the name gives way."""
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        mode = entry.mode & 0o777
        try:
            os.mkdir(name, mode, dir_fd=parent.fd)
        except FileExistsError:
            # Its group and mode may change, which matters to what is made in it.
            parent = self._settled(parent)
            if not stat.S_ISDIR(os.stat(name, dir_fd=parent.fd, follow_symlinks=False).st_mode):
                parent = self._clear(parent, name)
                os.mkdir(name, mode, dir_fd=parent.fd)
        return self._directories.adopt(parent, entry.path, name, os.open(name, flags, dir_fd=parent.fd))

    def _hard_link(self, entry: Entry) -> None:
        try:
            source_path = Entry(entry.link, Kind.REGULAR).path
        except InvalidArgument as problem:
            raise InvalidArgument(f"hard link {show(entry.name)}: target {problem}") from problem
        directory, name = self._place_for(entry, recalled=False)
        self._record(entry, by_name=not self._repeated)
        try:
            source, source_name = self._directories.parent(source_path, make=False)
            if self._alone or self._crew.busy(source.real):
                source = self._settled(source)
            status = os.stat(source_name, dir_fd=source.fd, follow_symlinks=False)
        except FileNotFoundError as problem:
            raise self._missing_target(entry) from problem
        if stat.S_ISDIR(status.st_mode):
            raise InvalidArgument(f"hard link {show(entry.name)} points to the directory {show(entry.link)}")
        # Fetching the source may have closed the parent, if many others were open.
        directory = self._directories.get(directory.path)
        if source.join(source_name) == directory.join(name):
            raise InvalidArgument(f"hard link {show(entry.name)} points to itself")
        try:
            _link(source, source_name, directory, name)
        except FileExistsError:
            directory = self._clear(directory, name)
            # What was cleared away may have been a directory that the target lay in.
            try:
                _link(self._directories.get(source.path, make=False), source_name, directory, name)
            except (FileNotFoundError, NotADirectoryError) as problem:
                raise InvalidArgument(f"hard link {show(entry.name)} takes the place of its own target") from problem

    def _missing_target(self, entry: Entry) -> Exception:
        what = f"hard link {show(entry.name)} points to {show(entry.link)}, which"
        if self._style is Style.REMOVE:
            return InvalidArgument(f"{what} does not exist")
        return Unsupported(f"{what} is not in this layer: links across layers need the vfs driver")

    # ---- whiteouts ------------------------------------------------------------------------------------------------

    def _hidden(self, entry: Entry) -> None:
        whiteout = parse_whiteout(entry.path)
        repeated = entry.path in self._recorded
        self._recorded.add(entry.path)
        self._recorder.segment(self._reader.take_raw())
        for piece in self._reader.pieces():
            self._recorder.segment(piece)
        if not entry.size and not repeated:
            self._recorder.file(entry.name, 0, 0)
        if whiteout is None:
            return
        if self._style is Style.REMOVE:
            self._remove(whiteout)
        elif whiteout.opaque:
            os.setxattr(self._directories.get(whiteout.hidden).fd, OPAQUE_XATTR, b"y")
        else:
            # Later members may still make the name: what the whiteout becomes is known at the end.
            self._directories.parent(whiteout.hidden)
            self._whiteouts.append((whiteout.hidden, entry))

    def _remove(self, whiteout: Whiteout) -> None:
        try:
            if whiteout.opaque:
                self._remains.empty(self._directories.get(whiteout.hidden))
            else:
                directory, name = self._directories.parent(whiteout.hidden, make=False)
                self._remains.hide(directory, name, through_links=self._through_links)
        except FileNotFoundError:
            pass
        self._directories.forget()

    def _make_whiteouts(self) -> None:
        for path, entry in self._whiteouts:
            try:
                directory, name = self._directories.parent(path)
            except NotADirectoryError:
                continue  # the layer itself put something else there
            try:
                os.mknod(name, stat.S_IFCHR, os.makedev(0, 0), dir_fd=directory.fd)
            except FileExistsError:
                self._cover(directory, name)
                continue
            if self._maker.owner_differs(entry, directory.inherited):
                os.chown(name, entry.uid, entry.gid, dir_fd=directory.fd, follow_symlinks=False)

    def _cover(self, directory: Directory, name: bytes) -> None:
        """Make a directory opaque that the layer both deletes and makes; other things hide what is below anyway."""
        if stat.S_ISDIR(os.stat(name, dir_fd=directory.fd, follow_symlinks=False).st_mode):
            fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory.fd)
            try:
                os.setxattr(fd, OPAQUE_XATTR, b"y")
            finally:
                os.close(fd)

    # ---- the end, and accounts ------------------------------------------------------------------------------------

    def _end_directories(self) -> None:
        """Set attributes and times of directories, deepest last made first, now that nothing changes them."""
        for inode, (path, entry) in reversed(self._ends.items()):
            try:
                directory = self._directories.get(path, make=False)
            except (FileNotFoundError, NotADirectoryError):
                continue
            if os.fstat(directory.fd).st_ino != inode:
                continue
            if entry.xattrs:
                set_xattrs(directory.fd, entry)
            os.utime(directory.fd, ns=times(entry))

    def _grow(self, size: int) -> None:
        if self.size is not None:
            self.size += size
        self._asked += size
        if self._asked > self._limits.layer_bytes:
            raise InvalidArgument(f"layer's files are larger than the {self._limits.layer_bytes} bytes allowed")

    def _look_for_space(self) -> None:
        self._next_look = self._source.consumed + SPACE_EVERY
        require_space(self._root.fd, self._limits)


def _link(source: Directory, source_name: bytes, directory: Directory, name: bytes) -> None:
    os.link(source_name, name, src_dir_fd=source.fd, dst_dir_fd=directory.fd, follow_symlinks=False)


def _twice(name: bytes) -> InvalidArgument:
    return InvalidArgument(f"layer holds {show(name)} twice, and the first has content that would be lost")


def _refuse_if_asked_for(problem: OSError, entry: Entry | None) -> None:
    """Raise InvalidArgument for an error that the archive asked for; others are the machine's."""
    if problem.errno in _ASKED_TOO_MUCH:
        name = problem.filename if isinstance(problem.filename, bytes) else entry.name if entry is not None else b""
        raise InvalidArgument(f"member {show(name)} cannot be made: {problem.strerror}") from problem

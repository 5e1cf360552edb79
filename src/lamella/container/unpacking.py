"""Writing a tar stream into a directory of a root, for ``cp`` into it.

Every name is resolved inside the root at the moment it is used, so links in the tree, old or just unpacked, lead
nowhere else.  What exists is replaced, except that a directory is never replaced by something else nor the reverse.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Iterator
from typing import Final

from lamella.changeset.entry import Entry, Kind, show
from lamella.changeset.inodes import Maker, set_xattrs, times
from lamella.changeset.tario import Buffer, TarReader
from lamella.errors import Conflict, InvalidArgument
from lamella.fs.rooted import Root

_SET_ID: Final = stat.S_ISUID | stat.S_ISGID
_DEVICES: Final = (Kind.CHARACTER, Kind.BLOCK)


class Policy:
    """Whom the copied files belong to, and what of them is too much.

    Without *keep_owner* they become the *owner*'s, without set-id bits and extended attributes: those were given to
    somebody else.  *devices* says whether device nodes may be made.
    """

    def __init__(self, *, owner: tuple[int, int], keep_owner: bool, devices: bool) -> None:
        self.owner = owner
        self.keep_owner = keep_owner
        self.devices = devices

    def apply(self, entry: Entry) -> None:
        """Change *entry* accordingly; raise InvalidArgument for a device that may not be made."""
        if entry.kind in _DEVICES and not self.devices:
            raise InvalidArgument(f"{show(entry.name)} is a device node: use --archive to copy it")
        if not self.keep_owner:
            if (entry.uid, entry.gid) != self.owner:
                entry.mode &= ~_SET_ID
            entry.uid, entry.gid = self.owner
            entry.xattrs = None


def extract_archive(reader: TarReader, root: Root, base: bytes, policy: Policy, *, keep_top: bool = False) -> None:
    """Unpack all of *reader* below the directory *base* of *root*.

    *keep_top* leaves an existing *base* its owner, mode and times when the archive has a member for it.  On failure
    what was unpacked stays; the error says which member it was.
    """
    _Unpacker(root, base, policy, keep_top=keep_top).run(reader)


class _Unpacker:
    def __init__(self, root: Root, base: bytes, policy: Policy, *, keep_top: bool) -> None:
        self._root = root
        self._base = base.strip(b"/")
        self._policy = policy
        self._keep_top = keep_top
        self._maker = Maker()
        # Times of directories are set when nothing more goes into them.
        self._directories: dict[bytes, Entry] = {}

    def run(self, reader: TarReader) -> None:
        while (entry := reader.next_entry()) is not None:
            if entry.kind is Kind.GLOBAL:
                continue
            self._policy.apply(entry)
            try:
                self._member(entry, reader)
            except OSError as problem:
                problem.add_note(f"while {show(entry.name)} was copied")
                raise
        for path, entry in reversed(self._directories.items()):
            self._set_times(path, entry)

    def _place(self, path: bytes) -> bytes:
        return b"/".join(filter(None, (self._base, path)))

    def _member(self, entry: Entry, reader: TarReader) -> None:
        place = self._place(entry.path)
        if entry.kind is Kind.DIRECTORY:
            self._directory(place, entry)
            return
        if not entry.path:
            raise InvalidArgument(f"member {show(entry.name)} would replace the directory that is copied into")
        parent, name = self._open_parent(place)
        try:
            if entry.kind is Kind.HARD_LINK:
                self._hard_link(parent, name, entry)
            elif entry.kind is Kind.REGULAR:
                self._regular(parent, name, entry, reader.pieces())
            else:
                self._clear(parent, name, entry)
                self._maker.other(parent, name, entry, None)
        finally:
            os.close(parent)

    def _open_parent(self, place: bytes) -> tuple[int, bytes]:
        try:
            return self._root.open_parent(place)
        except FileNotFoundError:
            # An archive need not name the directories on the way; those below the base are made.
            above = place.rpartition(b"/")[0]
            if not above.startswith(self._base) or above == self._base:
                raise
            self._root.make_directories(above, 0o755, *self._policy.owner)
            return self._root.open_parent(place)

    def _directory(self, place: bytes, entry: Entry) -> None:
        if not place:
            return
        parent, name = self._open_parent(place)
        try:
            made = False
            try:
                os.mkdir(name, 0o700, dir_fd=parent)
                made = True
            except FileExistsError:
                status = os.stat(name, dir_fd=parent, follow_symlinks=False)
                if not stat.S_ISDIR(status.st_mode):
                    raise Conflict(
                        f"cannot overwrite non-directory {show(place)} with directory {show(entry.name)}"
                    ) from None
            if not made and not entry.path and self._keep_top:
                return
            fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
            try:
                os.fchown(fd, entry.uid, entry.gid)
                os.fchmod(fd, entry.mode)
                if entry.xattrs:
                    set_xattrs(fd, entry)
            finally:
                os.close(fd)
        finally:
            os.close(parent)
        self._directories[place] = entry

    def _regular(self, parent: int, name: bytes, entry: Entry, pieces: Iterator[Buffer]) -> None:
        try:
            self._clear(parent, name, entry)
        except OSError as problem:
            if problem.errno != errno.EBUSY:
                raise
            # Something is mounted on the file, as on /etc/hosts: it is written where it is.
            self._overwrite(parent, name, pieces)
            return
        self._maker.streamed(parent, name, entry, pieces, None)

    @staticmethod
    def _overwrite(parent: int, name: bytes, pieces: Iterable[Buffer]) -> None:
        fd = os.open(name, os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=parent)
        with open(fd, "wb", buffering=0) as file:
            for piece in pieces:
                view = memoryview(piece)
                while view:
                    view = view[file.write(view) or 0 :]

    def _hard_link(self, parent: int, name: bytes, entry: Entry) -> None:
        from lamella.changeset.entry import entry_path

        source_parent, source = self._root.open_parent(self._place(entry_path(entry.link)))
        try:
            self._clear(parent, name, entry)
            os.link(source, name, src_dir_fd=source_parent, dst_dir_fd=parent, follow_symlinks=False)
        finally:
            os.close(source_parent)

    @staticmethod
    def _clear(parent: int, name: bytes, entry: Entry) -> None:
        """Remove what is in the way, unless it is a directory."""
        try:
            os.unlink(name, dir_fd=parent)
        except FileNotFoundError:
            return
        except OSError as problem:
            if problem.errno in (errno.EISDIR, errno.EPERM) and stat.S_ISDIR(
                os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode
            ):
                raise Conflict(
                    f"cannot overwrite directory {show(name)} with non-directory {show(entry.name)}"
                ) from None
            raise

    def _set_times(self, path: bytes, entry: Entry) -> None:
        try:
            fd = self._root.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:
            # Somebody in the container took it away again.
            return
        try:
            os.utime(fd, ns=times(entry))
        finally:
            os.close(fd)

"""Holding a layer's directory against its tar-split: quickly by one walk, or byte by byte."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from lamella.changeset.whiteout import OPAQUE_XATTR, is_whiteout
from lamella.errors import DataLoss, LamellaError
from lamella.fs.walk import DirectoryStack, directory_stack
from lamella.insight.expectation import DIRECTORY, LINK, WHITEOUT, Expectation, Wanted, is_own_name, read_expectation
from lamella.insight.packed import PackedLayer
from lamella.linux.openat2 import open_in_root
from lamella.model.digest import DiffID

#: How many files of one layer are told of by name.
SHOWN = 10
_TYPES = {
    stat.S_IFREG: "a file",
    stat.S_IFDIR: "a directory",
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    WHITEOUT: "a deletion",
    LINK: "a hard link",
}


class Task(NamedTuple):
    """One layer to be looked at."""

    name: str
    """What the store calls it."""
    files: Path
    tar_split: Path
    size: int | None
    """As recorded; None if that is not to be checked."""
    diff_id: DiffID | None
    deep: bool
    whole_tree: bool = False
    """Whether the directory also holds what lies below the layer (vfs)."""
    packed: bool = False
    """Whether what stands for the tar-split is the packed tar itself."""

    def place_of(self, code: str, name: str) -> Path:
        """Return the place that a trouble is about."""
        if code in {"layer-tarsplit-damaged", "layer-blob-damaged"}:
            return self.tar_split
        return self.files / name if name else self.files


Trouble = tuple[str, str, str]
"""A code, a path below the files or empty, and a sentence."""


def check_contents(task: Task, shown: int = SHOWN) -> list[Trouble]:
    """Return what is wrong with one layer's files and its tar-split, of each kind the first *shown*."""
    try:
        found = list(_check(task))
    except FileNotFoundError as error:
        return [("layer-unreadable", "", f"{error.filename} vanished while it was read")]
    except OSError as error:
        return [("layer-unreadable", "", f"{os.strerror(error.errno or 0)} ({error.filename})")]
    told: list[Trouble] = []
    counts: dict[str, int] = {}
    for trouble in found:
        counts[trouble[0]] = counts.get(trouble[0], 0) + 1
        if counts[trouble[0]] <= shown:
            told.append(trouble)
    for code, count in counts.items():
        if count > shown:
            told.append((code, "", f"{count - shown} more files of the layer are like that"))
    return told


def _check(task: Task) -> Iterator[Trouble]:
    packed: PackedLayer | None = None
    try:
        if task.packed:
            packed = PackedLayer(task.tar_split, task.diff_id, deep=task.deep)
        wanted = packed.expectation if packed is not None else read_expectation(task.tar_split)
    except (DataLoss, FileNotFoundError, NotADirectoryError) as error:
        yield "layer-blob-damaged" if task.packed else "layer-tarsplit-damaged", "", str(error)
        return
    walk = _Walk(wanted, whole_tree=task.whole_tree)
    yield from walk.run(task.files)
    if not walk.damaged and task.size is not None and task.size not in {walk.size, wanted.tar_size}:
        yield "layer-size-wrong", "", f"its record says {task.size} bytes, its files have {walk.size}"
    if packed is not None and not walk.damaged:
        for name in packed.damaged_files(task.files):
            yield "layer-content-damaged", name, "has other bytes than the packed layer"
    elif task.deep and task.diff_id is not None and not walk.damaged:
        yield from _check_bytes(task)


def _check_bytes(task: Task) -> Iterator[Trouble]:
    from lamella.changeset.tarsplit import reassemble

    try:
        reassemble(task.tar_split, task.files, _drop, expected=task.diff_id)
    except LamellaError as error:
        yield "layer-content-damaged", "", str(error).partition(": load or pull")[0]


def _drop(_piece: bytes | memoryview) -> None:
    """Take bytes that only had to be hashed."""


class _Walk:
    """One walk over a layer's files."""

    def __init__(self, wanted: Expectation, *, whole_tree: bool) -> None:
        self._wanted = wanted
        self._left = dict(wanted.names)
        self._whole_tree = whole_tree
        self._inodes: dict[str, tuple[int, int]] = {}
        self._found_links: list[tuple[str, str]] = []
        self._extra: list[tuple[str, os.stat_result]] = []
        self._behind_links: set[str] = set()
        self._at = ""
        self.size = 0
        self.damaged = False

    def run(self, files: Path) -> Iterator[Trouble]:
        """Yield what is wrong."""
        try:
            yield from self._run(files)
        except OSError as error:
            if isinstance(error.filename, str) and "/" in error.filename:
                raise
            self.damaged = True
            last = os.fsdecode(error.filename) if isinstance(error.filename, (str, bytes)) else ""
            name = f"{self._at}{last}".rstrip("/")
            yield "layer-unreadable", name, f"cannot be read: {os.strerror(error.errno or 0)}"

    def _run(self, files: Path) -> Iterator[Trouble]:
        if not self._wanted.understood:
            for _ in self._visit(files):
                pass
            self.damaged = True  # nothing more can be told
            return
        for trouble in self._visit(files):
            self.damaged = True
            yield trouble
        for trouble in self._settle(files):
            self.damaged = self.damaged or trouble[0] != "layer-file-extra"
            yield trouble

    def _visit(self, files: Path) -> Iterator[Trouble]:
        left = self._left
        take = left.pop
        seen: set[int] = set()
        total = 0
        top = os.open(files, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            with directory_stack(top) as stack:
                prefix = ""
                pending: list[list[tuple[str, os.stat_result]]] = []
                prefixes: list[str] = []
                while True:
                    directories: list[tuple[str, os.stat_result]] = []
                    with os.scandir(stack.fd) as entries:
                        for entry in entries:
                            name = prefix + entry.name
                            status = entry.stat(follow_symlinks=False)
                            mode = status.st_mode
                            kind = mode & 0o170000
                            wanted = take(name, None)
                            if kind == 0o040000:
                                directories.append((entry.name, status))
                            elif status.st_nlink == 1:
                                total += status.st_size
                            else:
                                self._inodes[name] = (status.st_dev, status.st_ino)
                                if status.st_ino not in seen:
                                    seen.add(status.st_ino)
                                    total += status.st_size
                            if wanted is None:
                                self._extra.append((name, status))
                            elif (
                                wanted[0] != kind
                                or wanted[1] != (mode & 0o7777, status.st_uid, status.st_gid)
                                or (wanted[2] != status.st_size and kind != 0o040000)
                                or wanted[3]
                                or wanted[4]
                                or wanted[5]
                            ):
                                yield from self._differs(name, wanted, status, stack.fd, entry.name)
                    pending.append(directories)
                    prefixes.append(prefix)
                    while not pending[-1]:
                        pending.pop()
                        prefixes.pop()
                        if not pending:
                            self.size = total
                            return
                        stack.leave()
                    self._at = prefixes[-1]
                    self._at = prefix = self._enter(stack, pending[-1], self._at)
        finally:
            os.close(top)

    @staticmethod
    def _enter(stack: DirectoryStack, directories: list[tuple[str, os.stat_result]], prefix: str) -> str:
        name, status = directories.pop()
        stack.enter(os.fsencode(name), status)
        return f"{prefix}{name}/"

    def _differs(self, name: str, wanted: Wanted, status: os.stat_result, dir_fd: int, last: str) -> Iterator[Trouble]:
        """Say how an inode is not what was wanted, if it really is not."""
        wanted = Wanted(*wanted)
        kind = stat.S_IFMT(status.st_mode)
        if wanted.kind == WHITEOUT:
            if not is_whiteout(status.st_mode, status.st_rdev):
                yield "layer-file-changed", name, f"is {_TYPES[kind]}, not {_TYPES[WHITEOUT]}"
            return
        if wanted.kind == LINK:
            self._found_links.append((name, wanted.target))
            if kind == stat.S_IFDIR:
                yield "layer-file-changed", name, "is a directory, not a hard link"
            return
        if wanted.kind != kind:
            yield "layer-file-changed", name, f"is {_TYPES[kind]}, not {_TYPES[wanted.kind]}"
            return
        if kind == stat.S_IFREG and wanted.size not in {-1, status.st_size}:
            yield "layer-file-changed", name, f"has {status.st_size} bytes, not {wanted.size}"
            return
        if kind == stat.S_IFLNK:
            if wanted.size != status.st_size or os.readlink(last, dir_fd=dir_fd) != wanted.target:
                yield "layer-file-changed", name, "leads elsewhere than it did"
            elif (status.st_uid, status.st_gid) != wanted.owner[1:] and -1 not in wanted.owner:
                yield "layer-file-changed", name, _owner_text(status, wanted)
            return
        mode, uid, gid = wanted.owner
        # dockerd gives a file the owner and mode of each further name of it, too.
        others = self._wanted.link_owners.get(name, ())
        if (status.st_uid, status.st_gid) not in {(uid, gid), *(other[1:] for other in others)} and -1 not in {
            uid,
            gid,
        }:
            yield "layer-file-changed", name, _owner_text(status, wanted)
        elif stat.S_IMODE(status.st_mode) not in {mode, *(other[0] for other in others)}:
            yield "layer-file-changed", name, f"has mode {stat.S_IMODE(status.st_mode):04o}, not {mode:04o}"
        elif wanted.device != (status.st_rdev if kind in {stat.S_IFCHR, stat.S_IFBLK} else 0):
            yield "layer-file-changed", name, "is another device than it was"
        elif wanted.capability and _lacks_capability(dir_fd, last):
            yield "layer-file-changed", name, "has lost its capabilities"

    def _settle(self, files: Path) -> Iterator[Trouble]:
        """Look at what the walk could not decide: links, members behind links, opaque marks, what is left over."""
        root = os.open(files, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        explained: set[tuple[int, int]] = set()
        try:
            for name, target in self._found_links:
                known = target in self._wanted.names and target not in self._left
                one, other = self._inodes.get(name), self._inodes.get(target)
                if known and not self._irregular and (one is None or one != other):
                    yield "layer-file-changed", name, f"is no longer another name of {target}"
            for name, wanted in self._left.items():
                yield from self._missing(root, name, Wanted(*wanted), explained)
            for name in self._wanted.opaque:
                yield from self._opaque(root, name)
        finally:
            os.close(root)
        if not self._whole_tree:
            yield from self._extras(explained)

    @property
    def _irregular(self) -> bool:
        return self._wanted.irregular

    def _missing(self, root: int, name: str, wanted: Wanted, explained: set[tuple[int, int]]) -> Iterator[Trouble]:
        try:
            parent, _, last = name.rpartition("/")
            fd = open_in_root(root, os.fsencode(parent), os.O_PATH | os.O_DIRECTORY)
            try:
                status = os.stat(last, dir_fd=fd, follow_symlinks=False)
                # The member lies behind a link of its own layer: the directories on the way are the layer's too.
                explained |= {(status.st_dev, status.st_ino), _identity(fd)}
                self._pass_through(root, fd)
                if wanted.kind != WHITEOUT:
                    yield from self._differs(name, wanted, status, fd, last)
            finally:
                os.close(fd)
        except OSError as error:
            if error.errno not in {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG}:
                raise
            if self._replaced(name) or (wanted.kind == WHITEOUT and self._whole_tree):
                return
            yield "layer-file-missing", name, f"is missing; it was {_TYPES[wanted.kind]}"

    def _pass_through(self, root: int, fd: int) -> None:
        """Note by which directories an open one is reached, which may not be those in its member's name."""
        top, full = os.readlink(f"/proc/self/fd/{root}"), os.readlink(f"/proc/self/fd/{fd}")
        if full.startswith(f"{top}/"):
            name = full[len(top) + 1 :]
            self._behind_links |= {name, *_parents(name)}

    def _replaced(self, name: str) -> bool:
        """Tell whether the layer itself put something that is no directory where a name's parent would be."""
        parent = name.rpartition("/")[0]
        while parent:
            above = self._wanted.names.get(parent)
            if above is not None and above[0] not in {DIRECTORY, stat.S_IFLNK}:
                return True
            parent = parent.rpartition("/")[0]
        return False

    def _opaque(self, root: int, name: str) -> Iterator[Trouble]:
        if self._whole_tree or self._irregular:
            return
        try:
            fd = open_in_root(root, os.fsencode(name), os.O_RDONLY | os.O_DIRECTORY)
        except OSError:
            yield "layer-file-missing", name, "is missing; it was a directory that hides those below it"
            return
        self._pass_through(root, fd)
        try:
            if os.getxattr(fd, OPAQUE_XATTR) != b"y":
                yield "layer-file-changed", name, "does not hide the directories below it any more"
        except OSError as error:
            if error.errno == errno.ENODATA and not self._user_opaque(fd):
                yield "layer-file-changed", name, "does not hide the directories below it any more"
        finally:
            os.close(fd)

    @staticmethod
    def _user_opaque(fd: int) -> bool:
        try:
            return os.getxattr(fd, "user.overlay.opaque") == b"y"
        except OSError:
            return False

    def _extras(self, explained: set[tuple[int, int]]) -> Iterator[Trouble]:
        if not self._extra:
            return
        needed = {parent for name in (*self._wanted.names, *self._wanted.opaque) for parent in _parents(name)}
        needed |= self._wanted.opaque | self._behind_links
        for name, status in self._extra:
            if stat.S_ISDIR(status.st_mode) and (name in needed or (status.st_dev, status.st_ino) in explained):
                continue
            if (status.st_dev, status.st_ino) in explained or stat.S_ISSOCK(status.st_mode) or is_own_name(name):
                continue
            yield (
                "layer-file-extra",
                name,
                f"is {_TYPES[stat.S_IFMT(status.st_mode)]} that the layer's tar does not have",
            )


def _parents(name: str) -> Iterator[str]:
    parent = name.rpartition("/")[0]
    while parent:
        yield parent
        parent = parent.rpartition("/")[0]


def _identity(fd: int) -> tuple[int, int]:
    status = os.fstat(fd)
    return status.st_dev, status.st_ino


def _owner_text(status: os.stat_result, wanted: Wanted) -> str:
    return f"belongs to {status.st_uid}:{status.st_gid}, not to {wanted.owner[1]}:{wanted.owner[2]}"


def _lacks_capability(dir_fd: int, name: str) -> bool:
    fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=dir_fd)
    try:
        os.getxattr(fd, "security.capability")
    except OSError as error:
        return error.errno == errno.ENODATA
    finally:
        os.close(fd)
    return False

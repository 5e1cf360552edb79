"""What COPY and ADD may take from: the build context, or the root of an image or stage.

The directory is opened once.  A path is resolved name by name below it, links included, as if it were ``/``: what is
outside is not found, and nothing outside is ever read.  What `.dockerignore` leaves out does not exist.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from lamella.build.dockerfile.lexer import MAX_DOCKERFILE
from lamella.build.ignore import MAX_IGNORE_FILE, NOTHING_IGNORED, IgnoreRules, parse_ignore
from lamella.build.patterns import Pattern
from lamella.errors import InvalidArgument, NotFound
from lamella.fs.rooted import Root
from lamella.fs.walk import WalkEntry, walk

_MAX_LINKS = 40


class SourceEntry(NamedTuple):
    """One name below a source directory; `dir_fd` is open until the next entry is asked for."""

    path: bytes
    """Relative to the tree."""
    below: bytes
    """Relative to the directory that was walked."""
    dir_fd: int
    name: bytes
    stat: os.stat_result
    implied: bool
    """An ignored directory that is there only because of an exception below it."""


class SourceTree:
    """A confined tree; the context owns files as root, an image as they are."""

    def __init__(self, root: Root, ignore: IgnoreRules = NOTHING_IGNORED, *, is_context: bool = True) -> None:
        self.root = root
        self.is_context = is_context
        self._ignore = ignore
        self._links: dict[tuple[int, int], bytes] | None = None

    @property
    def ignore(self) -> IgnoreRules:
        """What the tree does not show."""
        return self._ignore

    def resolve(self, path: bytes) -> tuple[bytes, os.stat_result]:
        """Follow `path` with all its links; give the clean path and what is there.

        Raises FileNotFoundError for what does not exist, lies outside, or is ignored.
        """
        pending = _names(path)[::-1]
        done: list[bytes] = []
        status = os.fstat(self.root.fd)
        links = 0
        while pending:
            name = pending.pop()
            if name == b"..":
                del done[-1:]
                status = self.root.lstat(b"/".join(done) or b".")
                continue
            here = b"/".join([*done, name])
            try:
                status = self.root.lstat(here)
            except NotADirectoryError as error:
                raise _missing(path) from error
            if not stat.S_ISLNK(status.st_mode):
                done.append(name)
                continue
            links += 1
            if links > _MAX_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
            if self._is_ignored(here):
                raise _missing(path)
            target = self.root.readlink(here)
            if target.startswith(b"/"):
                done.clear()
            pending += _names(target)[::-1]
        clean = b"/".join(done)
        if clean and self._is_ignored(clean) and not self._has_exceptions(clean, status):
            raise _missing(path)
        return clean, status

    def expand_glob(self, pattern: str) -> list[bytes]:
        """Give the paths that `pattern` matches, in byte order.

        Links are followed up to the first name with a wildcard, and not from there on.
        """
        components = [part for part in pattern.split("/") if part]
        fixed = 0
        while fixed < len(components) and not has_wildcards(components[fixed]):
            fixed += 1
        try:
            start, status = self.resolve(b"/".join(os.fsencode(unescaped(part)) for part in components[:fixed]))
        except OSError:
            return []
        if not stat.S_ISDIR(status.st_mode):
            return []
        found = [start]
        del components[:fixed]
        for depth, component in enumerate(components):
            matcher = Pattern(component, deep=False)
            below: list[bytes] = []
            for directory in found:
                below += self._matching(directory, matcher, directories=depth + 1 < len(components))
            found = below
        return found

    def walk(self, directory: bytes, skip: Callable[[WalkEntry], bool] | None = None) -> Iterator[SourceEntry]:
        """Yield what lies below `directory`, a clean path, in byte order; sockets and the ignored are left out.

        A directory that `skip` says yes to is yielded and not entered; it sees paths relative to `directory`.
        """
        prefix = directory + b"/" if directory else b""
        fd = self.root.open(directory or b".", os.O_RDONLY | os.O_DIRECTORY)
        try:
            if not self._ignore:
                for entry in walk(fd, prune=skip):
                    if not stat.S_ISSOCK(entry.stat.st_mode):
                        yield SourceEntry(prefix + entry.path, entry.path, entry.dir_fd, entry.name, entry.stat, False)
                return
            yield from self._walk_allowed(fd, prefix, skip)
        finally:
            os.close(fd)

    def _walk_allowed(self, fd: int, prefix: bytes, skip: Callable[[WalkEntry], bool] | None) -> Iterator[SourceEntry]:
        def prune(entry: WalkEntry) -> bool:
            if skip is not None and skip(entry):
                return True
            path = os.fsdecode(prefix + entry.path)
            return self._ignore.ignores(path) and not self._ignore.may_except_below(path)

        implied: list[WalkEntry] = []
        for entry in walk(fd, prune=prune):
            while implied and not entry.path.startswith(implied[-1].path + b"/"):
                implied.pop()
            if stat.S_ISSOCK(entry.stat.st_mode):
                continue
            if self._is_ignored(prefix + entry.path):
                if stat.S_ISDIR(entry.stat.st_mode):
                    implied.append(entry)
                continue
            for above in implied:
                yield SourceEntry(prefix + above.path, above.path, -1, above.name, above.stat, True)
            implied.clear()
            yield SourceEntry(prefix + entry.path, entry.path, entry.dir_fd, entry.name, entry.stat, False)

    def open_file(self, path: bytes) -> int:
        """Open the regular file at a clean path."""
        return self.root.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)

    def first_link(self, entry_path: bytes, status: os.stat_result) -> bytes | None:
        """Give the path under which a hard-linked file of the context is met first, or None if it is this one."""
        if status.st_nlink < 2 or not self.is_context:
            return None
        if self._links is None:
            found: dict[tuple[int, int], bytes] = {}
            for entry in self.walk(b""):
                if entry.stat.st_nlink > 1 and not stat.S_ISDIR(entry.stat.st_mode):
                    found.setdefault((entry.stat.st_dev, entry.stat.st_ino), entry.path)
            self._links = found  # whole, as other stages look too
        first = self._links.get((status.st_dev, status.st_ino))
        return None if first == entry_path else first

    def _matching(self, directory: bytes, matcher: Pattern, *, directories: bool) -> list[bytes]:
        fd = self.root.open(directory or b".", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            found: list[bytes] = []
            for name in sorted(map(os.fsencode, os.listdir(fd))):
                if not matcher.matches(os.fsdecode(name)):
                    continue
                path = directory + b"/" + name if directory else name
                status = os.stat(name, dir_fd=fd, follow_symlinks=False)
                if directories and not stat.S_ISDIR(status.st_mode):
                    continue
                if not self._is_ignored(path) or self._has_exceptions(path, status):
                    found.append(path)
            return found
        finally:
            os.close(fd)

    def _is_ignored(self, path: bytes) -> bool:
        return bool(self._ignore) and self._ignore.ignores(os.fsdecode(path))

    def _has_exceptions(self, path: bytes, status: os.stat_result) -> bool:
        """Tell whether an ignored directory holds anything that is not ignored."""
        if not stat.S_ISDIR(status.st_mode) or not self._ignore.may_except_below(os.fsdecode(path)):
            return False
        return next(self.walk(path), None) is not None


def has_wildcards(path: str) -> bool:
    """Tell whether a source names several files by a pattern."""
    at = 0
    while at < len(path):
        if path[at] == "\\":
            at += 1
        elif path[at] in "*?[":
            return True
        at += 1
    return False


def unescaped(path: str) -> str:
    """Give the name that a pattern without wildcards stands for."""
    return re.sub(r"\\(.)", r"\1", path, flags=re.DOTALL)


@contextmanager
def open_context(
    directory: Path, *, dockerfile: str = "Dockerfile", ignore: bytes | None = None
) -> Generator[SourceTree]:
    """Open a directory as build context.

    Its ignore file is `ignore`, else ``<dockerfile>.dockerignore``, else ``.dockerignore``.
    """
    try:
        root = Root(directory, follow=True)
    except FileNotFoundError as error:
        raise NotFound(f"unable to prepare context: path {str(directory)!r} not found") from error
    except NotADirectoryError as error:
        raise InvalidArgument(f"unable to prepare context: {str(directory)!r} is not a directory") from error
    with root:
        for name in (f"{dockerfile}.dockerignore", ".dockerignore"):
            if ignore is None:
                ignore = read_control_file(root, os.fsencode(name), MAX_IGNORE_FILE)
        yield SourceTree(root, parse_ignore(ignore or b""))


def read_dockerfile(tree: SourceTree, name: str = "Dockerfile") -> bytes:
    """Read the Dockerfile `name` of a context; ``Dockerfile`` may also be spelt in lower case."""
    raw = read_control_file(tree.root, os.fsencode(name), MAX_DOCKERFILE)
    if raw is None and name == "Dockerfile":
        raw = read_control_file(tree.root, b"dockerfile", MAX_DOCKERFILE)
    if raw is None:
        raise NotFound(f"Cannot locate specified Dockerfile: {name}")
    return raw


def read_control_file(root: Root, path: bytes, limit: int) -> bytes | None:
    """Read a small file that steers the build; absence is None.

    Links are followed inside the context; what is no regular file in the end, or leads outside, is InvalidArgument.
    """
    try:
        fd = root.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except (FileNotFoundError, NotADirectoryError) as error:
        try:
            root.lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        raise InvalidArgument(f"{os.fsdecode(path)} is a link to nothing in the build context") from error
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):
            raise InvalidArgument(f"{os.fsdecode(path)} is not a regular file") from error
        raise
    return read_regular(fd, os.fsdecode(path), limit)


def read_regular(fd: int, name: str, limit: int) -> bytes:
    """Read and close `fd`, which must be a regular file of at most `limit` bytes."""
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise InvalidArgument(f"{name} is not a regular file")
        pieces: list[bytes] = []
        left = limit + 1
        while left and (piece := os.read(fd, min(left, 1 << 20))):
            pieces.append(piece)
            left -= len(piece)
        if not left:
            raise InvalidArgument(f"{name} is larger than {limit} bytes")
        return b"".join(pieces)
    finally:
        os.close(fd)


def _names(path: bytes) -> list[bytes]:
    return [name for name in path.split(b"/") if name not in (b"", b".")]


def _missing(path: bytes) -> FileNotFoundError:
    return FileNotFoundError(errno.ENOENT, "file does not exist", os.fsdecode(path))

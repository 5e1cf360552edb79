"""COPY and ADD: what a source names, found and summed before anything is copied.

The rules are the classic builder's where it has any, and BuildKit's for ``--parents``, ``--exclude`` and patterns that
match nothing.
"""

from __future__ import annotations

import os
import posixpath
import stat
from collections.abc import Callable, Sequence
from typing import NamedTuple

from lamella.build.context import SourceTree, has_wildcards, unescaped
from lamella.build.ignore import NOTHING_IGNORED, IgnoreRules
from lamella.build.selection import Selection, Wanted
from lamella.build.sums import joined_sum, source_sum, text_sum
from lamella.errors import InvalidArgument, NotFound

_URLS = ("http://", "https://", "git://", "git@", "ssh://")
UNNAMED = "__unnamed__"
"""What a file is called that neither its URL nor its server named, as long as the destination does not either."""
_TAKEN_WHOLE = Selection()


class Source(NamedTuple):
    """One file or directory to copy, found and summed; or a text, which lies in no tree."""

    name: bytes
    """What a file is called at the destination."""
    digest: str
    tree: SourceTree | None
    path: bytes
    stat: os.stat_result | None
    text: bytes = b""
    selection: Selection = _TAKEN_WHOLE
    unpack: bool | None = None
    """Whether an archive is unpacked, where the source itself decides that."""

    @property
    def is_directory(self) -> bool:
        """Tell whether the content of a directory is meant."""
        return self.stat is not None and stat.S_ISDIR(self.stat.st_mode)


class Finder(NamedTuple):
    """Finds the sources of one COPY or ADD in `tree`."""

    tree: SourceTree
    instruction: str
    excluded: IgnoreRules = NOTHING_IGNORED
    parents: bool = False
    fetch: Callable[[str], Source] | None = None
    """Brings in what a URL names; only ADD has it."""

    def find(self, patterns: Sequence[str]) -> list[Source]:
        """Find what `patterns` name, with checksums; raises NotFound with Docker's words.

        A pattern with wildcards may match nothing, a plain name may not.
        """
        found: list[Source] = []
        for pattern in patterns:
            if is_remote(pattern):
                found.append(self._fetch(pattern))
                continue
            path = pattern.removeprefix("/").removeprefix("./")
            if posixpath.normpath(path or ".").split("/")[0] == "..":
                raise InvalidArgument(
                    f"{self.instruction} failed: forbidden path outside the build context: {pattern} ()"
                )
            if self.parents:
                found += self._with_parents(pattern)
            elif has_wildcards(path):
                for match in self.tree.expand_glob(posixpath.normpath(path)):
                    found += self._one(match)
            else:
                found += self._one(os.fsencode(path))
        return found

    def _fetch(self, url: str) -> Source:
        if self.fetch is None:
            raise InvalidArgument(f"{self.instruction} failed: source can't be a URL for COPY")
        source = self.fetch(url)
        if not (self.excluded and source.is_directory and source.tree is not None and source.stat is not None):
            return source
        return self._directory(source.tree, source.path, source.stat, source.name, Selection(None, self.excluded))

    def _one(self, path: bytes) -> list[Source]:
        """Give the source at `path`, nothing if it is a file that is excluded."""
        clean, status = self._resolve(path)
        if stat.S_ISSOCK(status.st_mode):
            raise InvalidArgument(f"{self.instruction} failed: {os.fsdecode(path)} is a socket")
        name = posixpath.basename(posixpath.normpath(path))
        name = posixpath.basename(clean) if name in (b"", b".", b"..") else name
        selection = Selection(None, self.excluded)
        if stat.S_ISDIR(status.st_mode):
            return [self._directory(self.tree, clean, status, name, selection)]
        if selection.leaves_out(os.fsdecode(name), os.fsdecode(clean)):
            return []
        return [Source(name, source_sum(self.tree, clean, status, name), self.tree, clean, status)]

    def _with_parents(self, pattern: str) -> list[Source]:
        """Give the directories that paths are kept from, each with what the pattern selects below."""
        above, pivot, kept = pattern.partition("/./")
        if not pivot:
            above, kept = "", pattern
        kept = posixpath.normpath("/" + kept).lstrip("/")
        above = posixpath.normpath("/" + above).lstrip("/")
        starts = self.tree.expand_glob(above) if has_wildcards(above) else [os.fsencode(above)]
        selection = Selection(Wanted(kept) if kept else None, self.excluded)
        if not has_wildcards(above) and not has_wildcards(kept):
            self._resolve(os.fsencode(posixpath.join(above, unescaped(kept))))  # a plain name must be there
        found: list[Source] = []
        for start in starts:
            clean, status = self._resolve(start)
            if stat.S_ISDIR(status.st_mode):
                found.append(self._directory(self.tree, clean, status, b"", selection))
        return found

    def _directory(
        self, tree: SourceTree, path: bytes, status: os.stat_result, name: bytes, selection: Selection
    ) -> Source:
        digest = source_sum(tree, path, status, name, selection)
        return Source(name, digest, tree, path, status, selection=selection)

    def _resolve(self, path: bytes) -> tuple[bytes, os.stat_result]:
        try:
            return self.tree.resolve(path)
        except FileNotFoundError as error:
            where = "file not found in build context or excluded by .dockerignore: " if self.tree.is_context else ""
            shown = os.fsdecode(path)
            raise NotFound(f"{self.instruction} failed: {where}stat {shown}: file does not exist") from error
        except OSError as error:
            raise InvalidArgument(f"{self.instruction} failed: {os.fsdecode(path)}: {error.strerror}") from error


def is_remote(source: str) -> bool:
    """Tell whether a source lies in the network."""
    return source.startswith(_URLS)


def text_source(name: str, content: str) -> Source:
    """Make a source of a here-document."""
    raw = content.encode(errors="surrogateescape")
    path = os.fsencode(name)
    return Source(path, text_sum(path, 0o644, raw), None, path, None, raw)


def total_sum(sources: Sequence[Source]) -> str:
    """Give the checksum that stands in the step's history."""
    digests = [source.digest for source in sources]
    return digests[0] if len(digests) == 1 else joined_sum("multi", digests)

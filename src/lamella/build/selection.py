"""What of a source directory is copied: all of it, or what ``--parents`` asks for, without what ``--exclude`` names."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from typing import NamedTuple

from lamella.build.context import SourceEntry, SourceTree
from lamella.build.ignore import NOTHING_IGNORED, IgnoreRules
from lamella.build.patterns import Pattern
from lamella.fs.walk import WalkEntry


class Selection(NamedTuple):
    """Patterns for paths below a source directory."""

    wanted: Wanted | None = None
    """None takes everything."""
    excluded: IgnoreRules = NOTHING_IGNORED

    def __bool__(self) -> bool:
        return self.wanted is not None or bool(self.excluded)

    def leaves_out(self, *names: str) -> bool:
        """Tell whether a source that bears these names is excluded as a whole."""
        return bool(self.excluded) and any(name and self.excluded.ignores(name) for name in names)


class Wanted:
    """The pattern of ``--parents``: what it matches, with all below that and the directories above."""

    def __init__(self, pattern: str) -> None:
        self._whole = Pattern(pattern, deep=True)
        parts = pattern.split("/")
        plain = next((at for at, part in enumerate(parts) if "**" in part), len(parts))
        self._parts = [Pattern(part, deep=False) for part in parts[:plain]]
        self._is_deep = plain < len(parts)

    def matches(self, path: str) -> bool:
        """Tell whether the pattern matches `path` itself."""
        return self._whole.matches(path)

    def may_match_below(self, directory: str) -> bool:
        """Tell whether something below `directory`, which is not matched, may be."""
        names = directory.split("/")
        if not self._is_deep and len(names) >= len(self._parts):
            return False
        return all(part.matches(name) for part, name in zip(self._parts, names, strict=False))


def walk_selected(tree: SourceTree, directory: bytes, selection: Selection) -> Iterator[SourceEntry]:
    """Yield what is selected below `directory`; the directories above a match come before it."""
    if not selection:
        yield from tree.walk(directory)
        return
    wanted, excluded = selection
    taken: list[bytes] = []  # the matched directory that we are in, if any

    def is_taken(path: bytes) -> bool:
        return wanted is None or bool(taken and (path + b"/").startswith(taken[0]))

    def skip(entry: WalkEntry) -> bool:
        text = os.fsdecode(entry.path)
        if excluded and excluded.ignores(text) and not excluded.may_except_below(text):
            return True
        return wanted is not None and not is_taken(entry.path) and not wanted.may_match_below(text)

    above: list[SourceEntry] = []
    for entry in tree.walk(directory, skip):
        while above and not entry.below.startswith(above[-1].below + b"/"):
            above.pop()
        if taken and not is_taken(entry.below):
            taken.clear()
        is_directory = stat.S_ISDIR(entry.stat.st_mode)
        text = os.fsdecode(entry.below)
        matched = is_taken(entry.below)
        if not matched and wanted is not None and wanted.matches(text):
            matched = True
            if is_directory:
                taken.append(entry.below + b"/")
        if not matched or (excluded and excluded.ignores(text)):
            if is_directory:
                above.append(entry._replace(dir_fd=-1))
            continue
        yield from above
        above.clear()
        yield entry

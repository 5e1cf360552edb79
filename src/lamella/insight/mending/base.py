"""What every mending has: the look it is based on, the quarantine, and how a small file is put right.

A mending is planned first, which changes nothing and says in words what would be done, then carried out.  Each change is
one rename or one new name, made after what it leads to is on disk.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from lamella.fs.atomic import fsync_dir, write_file
from lamella.insight.contents import Trouble
from lamella.insight.findings import Finding
from lamella.insight.orphans import Orphan, find_orphans
from lamella.insight.quarantine import Entry, Quarantine
from lamella.insight.sources import Sources
from lamella.insight.survey import Survey


class Hopeless(Exception):
    """It cannot be mended; the message says why."""


class Plan(NamedTuple):
    """What is to be done about a finding."""

    text: str
    act: Callable[[], None]
    slow: bool = False
    """It takes long: it is begun without the store lock, which it takes for its last step alone."""


class Bench:
    """What mendings work with."""

    def __init__(
        self, survey: Survey, quarantine: Quarantine, sources: Sources, run: str, troubles: dict[str, list[Trouble]]
    ) -> None:
        self.survey = survey
        self.quarantine = quarantine
        self.sources = sources
        self.run = run
        self.troubles = troubles
        """What was found in the files of each layer."""

    @cached_property
    def orphans(self) -> dict[tuple[str, str], Orphan]:
        """What belonged to nothing at this look, by its finding's code and path."""
        return {(orphan.code, str(orphan.paths[-1])): orphan for orphan in find_orphans(self.survey)}

    def aside(self, finding: Finding, paths: Iterable[Path], proof: Sequence[str] = ()) -> Entry:
        """Move *paths* to quarantine because of *finding*."""
        return self.quarantine.put(finding.code, finding.text, list(paths), run=self.run, proof=proof)

    def aside_if_there(self, finding: Finding, path: Path) -> None:
        """Move *path* to quarantine, unless there is nothing."""
        if os.path.lexists(path):
            self.aside(finding, [path])

    def replace(self, finding: Finding, path: Path, content: bytes, mode: int) -> None:
        """Put a small file right; what it was goes to quarantine with the content it had, if it had any."""
        if (os.path.lexists(path) and not path.is_file()) or path.is_symlink():
            self.aside(finding, [path])
        write_file(path, content, mode=mode)

    def supersede(self, finding: Finding, path: Path, content: bytes, mode: int) -> None:
        """Put new content in place of a file by one rename; the old file goes to quarantine by another name of it."""
        if path.is_file() and not path.is_symlink():
            entry = self.quarantine.begin(finding.code, finding.text, [path], run=self.run)
            os.link(path, entry.path / "0")
            fsync_dir(entry.path)
        else:
            self.aside_if_there(finding, path)
        write_file(path, content, mode=mode)

    @staticmethod
    def make_directory(path: Path, mode: int) -> None:
        """Make a directory with exactly this mode, durably."""
        os.mkdir(path, mode)
        os.chmod(path, mode)
        fsync_dir(path.parent)

    def plan_aside(self, finding: Finding, paths: Sequence[Path], proof: Sequence[str] = ()) -> Plan:
        """Plan to move something to quarantine."""
        if len(paths) > 1:
            shown = f"{self.survey.relative(paths[-1])} and {len(paths) - 1} more"
        else:
            shown = self.survey.relative(paths[0])
        return Plan(f"move {shown} to quarantine", lambda: void(self.aside(finding, paths, proof)))


def void(_value: object) -> None:
    """Take a value that nobody wants."""

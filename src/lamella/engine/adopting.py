"""What another engine's store holds, brought into this one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lamella.insight.adopt import Adopted, adopt
from lamella.model.progress import Reporter
from lamella.readers.detect import open_reader

if TYPE_CHECKING:
    from lamella.engine.opened import Opened

__all__ = ["Adopted", "adopt_from"]


def adopt_from(
    opened: Opened, source: Path, names: Sequence[str], *, dry_run: bool, hard_link: bool, report: Reporter
) -> Iterator[Adopted]:
    """Adopt from the store at *source*, whatever its kind; see ``insight.adopt``."""
    reader = open_reader(source)
    yield from adopt(opened.parts, reader, names, dry_run=dry_run, hard_link=hard_link, report=report)
    for problem in reader.problems:
        opened.parts.root.report(f"{source}: {problem}")

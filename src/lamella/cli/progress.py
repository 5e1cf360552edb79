"""Progress of long work: bars on a terminal, nothing but the results off it."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from lamella.model.progress import Advanced, Finished, Reporter, Started, silent

if TYPE_CHECKING:
    from lamella.model.progress import Event


@contextlib.contextmanager
def reporting(*, quiet: bool) -> Iterator[Reporter]:
    """Yield a reporter for the block; the bars are gone when it ends."""
    if quiet or not sys.stderr.isatty():
        yield silent
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TransferSpeedColumn

    from lamella.cli.output import escape

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=30),
        DownloadColumn(),
        TransferSpeedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bars:
        tasks: dict[str, TaskID] = {}

        def show(event: Event, /) -> None:
            match event:
                case Started(id=identity, what=what, total=total):
                    tasks[identity] = bars.add_task(escape(what)[:48], total=total)
                case Advanced(id=identity, amount=amount):
                    if identity in tasks:
                        bars.advance(tasks[identity], amount)
                case Finished(id=identity):
                    if identity in tasks:
                        bars.remove_task(tasks.pop(identity))

        yield show

"""Progress of long work: a bar for each part of it on a terminal, plain lines off it, where the command wants them."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from lamella.model.progress import Advanced, Finished, Reporter, Started, silent

if TYPE_CHECKING:
    from lamella.cli.output import Output
    from lamella.model.progress import Event


@contextlib.contextmanager
def reporting(*, quiet: bool, lines: Output | None = None) -> Iterator[Reporter]:
    """Yield a reporter for the block, which any thread may call.

    On a terminal it draws bars, which are gone when the block ends.  Off it *lines* gets a line for the beginning and
    the end of each part; without *lines* nothing is said.
    """
    if quiet:
        yield silent
    elif sys.stderr.isatty():
        with _bars(words=lines is not None) as report:
            yield report
    elif lines is not None:
        yield _plain(lines)
    else:
        yield silent


def _plain(lines: Output) -> Reporter:
    from _thread import allocate_lock

    guard = allocate_lock()

    def show(event: Event, /) -> None:
        if isinstance(event, Advanced):
            return
        text = event.what if isinstance(event, Started) else event.note
        if text:
            with guard:
                lines.line(f"{event.id}: {text}")
                lines.flush()

    return show


@contextlib.contextmanager
def _bars(*, words: bool) -> Iterator[Reporter]:
    """Draw a bar a part, with rate and time left; with *words* its end leaves a line above the bars."""
    from _thread import allocate_lock

    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TaskID,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    from lamella.cli.output import escape

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=30),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(compact=True),
    )
    guard = allocate_lock()
    with Progress(*columns, console=console, transient=True, refresh_per_second=5) as bars:
        tasks: dict[str, TaskID] = {}

        def show(event: Event, /) -> None:
            with guard:
                match event:
                    case Started(id=identity, what=what, total=total):
                        label = escape(f"{identity}: {what}" if words else what)[:48]
                        if identity in tasks:  # its next stage
                            bars.reset(tasks[identity], description=label, total=total)
                        else:
                            tasks[identity] = bars.add_task(label, total=total)
                    case Advanced(id=identity, amount=amount):
                        if identity in tasks:
                            bars.advance(tasks[identity], amount)
                    case Finished(id=identity, note=note):
                        if identity in tasks:
                            bars.remove_task(tasks.pop(identity))
                        if words and note:
                            console.print(escape(f"{identity}: {note}"), markup=False, highlight=False)

        yield show

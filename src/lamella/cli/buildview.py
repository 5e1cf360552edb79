"""How a build is shown: Docker's lines as they come, or a live view of the steps that are under way.

The lines are the classic builder's, each with its stage before it where stages are built side by side; what a command
prints goes out as it came, in whole lines then.  The live view is for a terminal: a line for each step that runs, with
the time it has taken and the last lines of its output, while what is finished stands above as one line a step.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import time
from collections import deque
from collections.abc import Iterator
from threading import Condition, Thread
from typing import TYPE_CHECKING, NamedTuple

from lamella.cli.output import escape
from lamella.model.progress import Advanced, Finished, Started

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from lamella.cli.output import Output as Sink
    from lamella.engine.builds import BuildEvent, StepStarted
    from lamella.model.progress import Event, Reporter

    Report = Callable[[BuildEvent], None]

_TAIL = 6
"""How many of a running step's lines are shown at most."""
_REFRESH = 0.1
# Control sequences (ECMA-48) and operating system commands that a program meant for a terminal of its own.
_SEQUENCE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\^_])")


class View(NamedTuple):
    """Whom a build tells, and whom the pulls of its base images do."""

    report: Report
    pulls: Reporter


@contextlib.contextmanager
def showing(style: str, output: Sink, environment: Mapping[str, str]) -> Iterator[View]:
    """Show a build on *output* for the block: ``plain``, else live; off a terminal it is ``plain`` in any case."""
    if style != "plain" and output.terminal and environment.get("TERM", "dumb") != "dumb":
        live = _Live(output, colour="NO_COLOR" not in environment)
        with live.drawn():
            yield View(live.show, live.progress)
    else:
        from lamella.cli.progress import reporting

        with reporting(quiet=False, lines=output) as pulls:
            yield View(_Lines(output).show, pulls)


class _Lines:
    """Shows a build as Docker's classic builder does, line by line, the commands' own output in between."""

    def __init__(self, output: Sink) -> None:
        self._output = output
        self._open: dict[tuple[str, str], bytes] = {}
        """By stage and stream: the beginning of a line whose end has not come yet."""

    def show(self, event: BuildEvent) -> None:
        """Print one event at once: a build is watched."""
        from lamella.engine.builds import Output, stage_of

        mark = stage_of(event)
        prefix = f"{mark} " if mark is not None and not mark.alone else ""
        if isinstance(event, Output):
            if prefix:
                self._take(prefix, event.stream, event.data)
            else:
                # What a command prints is its own and goes out as it came, like that of `run`.
                self._write(event.stream, event.data)
            return
        for key in [key for key in self._open if key[0] == prefix]:
            self._write(key[1], prefix.encode() + self._open.pop(key) + b"\n")
        self._output.line(prefix + str(event))
        self._output.flush()

    def _take(self, prefix: str, stream: str, data: bytes) -> None:
        *lines, rest = (self._open.pop((prefix, stream), b"") + data).split(b"\n")
        if len(rest) > 1 << 16:  # a line without end is not kept
            lines, rest = [*lines, rest], b""
        if rest:
            self._open[prefix, stream] = rest
        if lines:
            self._write(stream, b"".join(prefix.encode() + line + b"\n" for line in lines))

    def _write(self, stream: str, data: bytes) -> None:
        sink = sys.stderr.buffer if stream == "stderr" else self._output.stream
        sink.write(data)
        sink.flush()


class _Step:
    """A step that is under way."""

    def __init__(self, title: str, moment: float) -> None:
        self.title = title
        self.began = moment
        self.cached = False
        self.tail: deque[str] = deque(maxlen=_TAIL)
        self.rest = b""

    def take(self, data: bytes) -> None:
        """Keep the last lines of what the command prints; a carriage return begins a line anew."""
        *lines, self.rest = (self.rest + data)[-(1 << 16) :].split(b"\n")
        self.tail.extend(_plain(line) for line in lines[-_TAIL:])

    def lines(self) -> list[str]:
        """Give the last lines, the one that is not complete yet among them."""
        return [*self.tail, *([_plain(self.rest)] if self.rest else [])][-_TAIL:]


class _Live:
    """The view on a terminal, drawn anew several times a second by a thread of its own."""

    def __init__(self, output: Sink, *, colour: bool) -> None:
        self._output = output
        self._colour = colour
        self._changed = Condition()
        self._running: dict[int, _Step] = {}
        self._pulls: dict[str, tuple[str, int, int | None]] = {}
        self._above: list[str] = []
        self._drawn = 0
        self._ended = False

    @contextlib.contextmanager
    def drawn(self) -> Iterator[None]:
        """Draw until the block ends; steps that are under way then were given up."""
        thread = Thread(target=self._keep_drawing, name="lamella-view", daemon=True)
        thread.start()
        try:
            yield
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify()
            thread.join()
            for step in self._running.values():
                self._above.append(self._painted("31", self._headline(step, "ENDED ")))
                self._above += [f" => => # {line}" for line in step.lines()]
            self._running.clear()
            self._pulls.clear()
            self._draw()

    def show(self, event: BuildEvent) -> None:
        """Take notice of one event."""
        from lamella.engine import builds

        with self._changed:
            mark = builds.stage_of(event)
            key = mark.number if mark is not None else 0
            match event:
                case builds.StepStarted():
                    self._running[key] = _Step(_title(event), time.monotonic())
                case builds.CacheUsed():
                    if step := self._running.get(key):
                        step.cached = True
                case builds.Output(data=data):
                    if step := self._running.get(key):
                        step.take(data)
                case builds.StepFinished():
                    if step := self._running.pop(key, None):
                        word = "CACHED " if step.cached else ""
                        self._above.append(self._painted("34", self._headline(step, word)))
                case builds.RunStarted() | builds.RunRemoved():
                    pass
                case _:
                    self._above.append(escape(str(event), keep="\t"))

    def progress(self, event: Event, /) -> None:
        """Take notice of a pull's progress."""
        with self._changed:
            match event:
                case Started(id=identity, what=what, total=total):
                    self._pulls[identity] = (what, 0, total)
                case Advanced(id=identity, amount=amount):
                    if identity in self._pulls:
                        what, done, total = self._pulls[identity]
                        self._pulls[identity] = (what, done + amount, total)
                case Finished(id=identity, note=note):
                    self._pulls.pop(identity, None)
                    if note:
                        self._above.append(escape(f" => => {identity}: {note}"))

    # ------------------------------------------------------------------------------------------------ drawing

    def _keep_drawing(self) -> None:
        with self._changed:
            while not self._ended:
                self._draw()
                self._changed.wait(_REFRESH)

    def _draw(self) -> None:
        """Write what is finished for good, and below it, in place of what was drawn last, what is under way."""
        columns, rows = self._screen_size()
        below = [_fitted(line, columns - 1) for line in self._under_way(rows - 1)]
        up = f"\x1b[{self._drawn}A" if self._drawn else ""
        if not (self._above or below or up):
            return
        text = [f"\r{up}\x1b[J" if self._drawn else ""]
        text += [f"{line}\n" for line in self._above]
        text += [f"{line}\n" for line in below]
        self._above, self._drawn = [], len(below)
        with contextlib.suppress(BlockingIOError):
            self._output.raw("".join(text))
            self._output.flush()

    def _under_way(self, rows: int) -> list[str]:
        steps = list(self._running.values())
        pulls = [
            f" => => {escape(f'{identity}: {what}')}{_amount(done, total)}"
            for identity, (what, done, total) in self._pulls.items()
        ]
        room = max(0, rows - len(steps) - len(pulls))
        share = min(_TAIL, room // len(steps)) if steps else 0
        found: list[str] = []
        for step in steps:
            found.append(self._headline(step, ""))
            found += [f" => => # {line}" for line in step.lines()[-share:]] if share else []
        return [*found, *pulls][: max(0, rows)]

    def _headline(self, step: _Step, word: str) -> str:
        """Give the one line of a step, what it took at its end."""
        spent = f" {time.monotonic() - step.began:.1f}s"
        room = self._screen_size()[0] - 1 - len(spent)
        return _fitted(f" => {word}{step.title}", room).ljust(room) + spent

    def _screen_size(self) -> tuple[int, int]:
        """Return the columns and rows, which may change at any time."""
        try:
            size = os.get_terminal_size(self._output.stream.fileno())
        except OSError:
            return 80, 24
        return max(20, size.columns or 80), max(3, size.lines or 24)

    def _painted(self, code: str, text: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self._colour else text


def _fitted(line: str, columns: int) -> str:
    """Cut a line so that it takes no more than so many columns; wide characters take two."""
    if line.isascii():
        return line[:columns]
    from unicodedata import east_asian_width

    for at, character in enumerate(line):
        columns -= 2 if east_asian_width(character) in "WF" else 1
        if columns < 0:
            return line[:at]
    return line


def _title(step: StepStarted) -> str:
    mark = step.stage
    stage = "" if mark is None or mark.total == 1 else f"{mark.name or f'stage-{mark.number}'} "
    return escape(f"[{stage}{step.number}/{step.total}] {step.source}")


def _plain(line: bytes) -> str:
    text = line.rstrip(b"\r").rpartition(b"\r")[2].decode("utf-8", "replace")
    return escape(_SEQUENCE.sub("", text).expandtabs())


def _amount(done: int, total: int | None) -> str:
    from lamella.model.units import human_size

    if not total:
        return ""
    return f" {human_size(done)} / {human_size(total)}"

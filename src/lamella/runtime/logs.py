"""What a container printed: the monitor's file while it runs, Docker's json-file afterwards.

The monitor writes ``lamella.log``, lines of ``TIME STREAM P|F TEXT``; ``settle_log`` appends them to ``CTR-json.log``
in Docker's form once the container has ended.  That step may be killed anywhere and be done again: the monitor's file
is first renamed to ``lamella.log.<size of the json log before>``, and a second attempt cuts the json log back to that.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from lamella.errors import DataLoss
from lamella.model.gojson import encode, format_time, parse_time
from lamella.runtime.monitor import LOG_NAME

# dockerd cuts longer lines into pieces of this many bytes.
_PIECE = 16384
_BLOCK = 1 << 16
_POLL = 0.05


class Record(NamedTuple):
    """One log entry: a line with its newline, or a part of a long or unfinished one."""

    time: int
    stream: str
    text: bytes


def json_log_path(directory: Path, name: str) -> Path:
    """Return the json-file log of container *name* in its directory."""
    return directory / f"{name}-json.log"


def settle_log(directory: Path, name: str) -> None:
    """Move what the monitor logged into the json-file log; nothing there is fine, and so is doing it twice."""
    target = json_log_path(directory, name)
    for leftover in _settling(directory):
        before = int(leftover.name.rpartition(".")[2])
        _append(leftover, target, before)
    source = directory / LOG_NAME
    try:
        if source.stat().st_size == 0:
            source.unlink()
            target.touch(0o640)
            return
    except FileNotFoundError:
        return
    size = target.stat().st_size if target.exists() else 0
    moved = directory / f"{LOG_NAME}.{size}"
    source.rename(moved)
    _append(moved, target, size)


def _settling(directory: Path) -> list[Path]:
    """List monitor logs whose move was begun."""
    found = [path for path in directory.glob(f"{LOG_NAME}.*") if path.name.rpartition(".")[2].isdecimal()]
    return sorted(found, key=lambda path: int(path.name.rpartition(".")[2]))


def _append(source: Path, target: Path, before: int) -> None:
    fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o640)
    with open(fd, "wb", buffering=_BLOCK) as sink, source.open("rb") as lines:
        os.ftruncate(sink.fileno(), before)
        sink.seek(before)
        sink.writelines(map(json_line, _iter_monitor_log(lines, lambda: True)))
    source.unlink()


def json_line(record: Record) -> bytes:
    """Write one record as dockerd's json-file driver does."""
    document: dict[str, object] = {}
    if record.text:
        # Bytes that are no UTF-8 become U+FFFD, one each, as in Go.
        document["log"] = record.text.decode("utf-8", "surrogateescape")
    document["stream"] = record.stream
    document["time"] = format_time(record.time)
    return encode(document, newline=True)


def read_logs(
    directory: Path,
    name: str,
    *,
    follow: bool = False,
    tail: int | None = None,
    since: int | None = None,
    until: int | None = None,
    is_running: Callable[[], bool] = lambda: False,
) -> Iterator[Record]:
    """Yield a container's log, oldest first.

    *tail* keeps the last so many lines of what there is now; *since* and *until* are nanoseconds since the epoch.
    With *follow* it goes on while *is_running* says so, and then to the end of what was written.
    """
    records = _iter_all(directory, name, follow=follow, tail=tail, is_running=is_running)
    for record in records:
        if until is not None and record.time > until:
            return
        if since is None or record.time >= since:
            yield record


def _iter_all(
    directory: Path, name: str, *, follow: bool, tail: int | None, is_running: Callable[[], bool]
) -> Iterator[Record]:
    with _opened(directory, name) as files:
        kept: list[Record] | None = None
        if tail is not None:
            from collections import deque

            last: deque[Record] = deque(maxlen=tail)
            for file, form in files:
                last.extend(form(file, lambda: True))
            kept = list(last)
            yield from kept
        else:
            for file, form in files[:-1] if follow and files else files:
                yield from form(file, lambda: True)
        if not follow:
            return
        ended = _until_ended(is_running)
        if files and files[-1][1] is _iter_monitor_log:
            # The open file is read to its end even if it is moved into the json log meanwhile.
            yield from _iter_monitor_log(files[-1][0], ended)
            return
        if files and kept is None:
            yield from files[-1][1](files[-1][0], lambda: True)
        source = directory / LOG_NAME
        while not source.exists():
            if ended():
                return
            time.sleep(_POLL)
        with source.open("rb") as file:
            yield from _iter_monitor_log(file, ended)


def _until_ended(is_running: Callable[[], bool]) -> Callable[[], bool]:
    """Return a question that answers True only the second time after the end: what came in between is read first."""
    state = {"seen": False}

    def ended() -> bool:
        if state["seen"]:
            return True
        state["seen"] = not is_running()
        return False

    return ended


class _opened:  # noqa: N801 - a context manager, used as a function
    """The files of one log, oldest first, each with its reader; opened together so that a move hides nothing."""

    def __init__(self, directory: Path, name: str) -> None:
        self._directory, self._name = directory, name
        self._files: list[tuple[BinaryIO, Callable[[BinaryIO, Callable[[], bool]], Iterator[Record]]]] = []

    def __enter__(self) -> list[tuple[BinaryIO, Callable[[BinaryIO, Callable[[], bool]], Iterator[Record]]]]:
        target = json_log_path(self._directory, self._name)
        rotated = sorted(
            (path for path in self._directory.glob(f"{target.name}.*") if path.suffix[1:].isdecimal()),
            key=lambda path: -int(path.suffix[1:]),
        )
        moving = _settling(self._directory)
        limit = min((int(path.suffix[1:]) for path in moving), default=None)
        for path in (*rotated, target):
            try:
                file = path.open("rb")
            except FileNotFoundError:
                continue
            part = limit if path == target else None
            self._files.append((file, lambda file, _, part=part: _iter_json_log(file, part)))  # type: ignore[misc]
        for path in (*moving, self._directory / LOG_NAME):
            try:
                self._files.append((path.open("rb"), _iter_monitor_log))
            except FileNotFoundError:
                continue
        return self._files

    def __exit__(self, *_: object) -> None:
        for file, _form in self._files:
            file.close()


def _iter_json_log(file: BinaryIO, limit: int | None) -> Iterator[Record]:
    """Read Docker's form, up to *limit* bytes; a last line without newline is one still being written."""
    import json

    at = 0
    for line in file:
        at += len(line)
        if (limit is not None and at > limit) or not line.endswith(b"\n"):
            return
        try:
            document = json.loads(line)
            text = str(document.get("log", "")).encode("utf-8", "surrogateescape")
            yield Record(parse_time(str(document["time"])), str(document["stream"]), text)
        except (ValueError, KeyError, AttributeError) as problem:
            raise DataLoss(f"{file.name}: line at byte {at - len(line)} is no log entry") from problem


def _iter_monitor_log(file: BinaryIO, ended: Callable[[], bool]) -> Iterator[Record]:
    """Read the monitor's form in dockerd's pieces; at the end of the file go on until *ended*."""
    yield from _whole_lines(_iter_parts(file, ended))


def _iter_parts(file: BinaryIO, ended: Callable[[], bool]) -> Iterator[Record]:
    rest = b""
    while True:
        block = file.read(_BLOCK)
        if not block:
            if ended():
                return
            time.sleep(_POLL)
            continue
        lines = (rest + block).split(b"\n")
        rest = lines.pop()
        for line in lines:
            moment, _, after = line.partition(b" ")
            stream, _, after = after.partition(b" ")
            kind, _, text = after.partition(b" ")
            if stream in (b"stdout", b"stderr") and kind in (b"F", b"P"):
                newline = b"\n" if kind == b"F" else b""
                yield Record(parse_time(moment.decode("ascii", "replace")), stream.decode(), text + newline)


def _whole_lines(parts: Iterator[Record]) -> Iterator[Record]:
    """Join the parts of a line, and cut lines of more than 16 KiB as dockerd does; a piece has its line's time."""
    held: dict[str, Record] = {}
    for part in parts:
        begun = held.pop(part.stream, None)
        record = part if begun is None else Record(begun.time, part.stream, begun.text + part.text)
        text = record.text
        while len(text) > _PIECE or (len(text) == _PIECE and not text.endswith(b"\n")):
            yield record._replace(text=text[:_PIECE])
            text = text[_PIECE:]
        if text.endswith(b"\n"):
            yield record._replace(text=text)
        else:
            held[part.stream] = record._replace(text=text)
    yield from (record for record in held.values() if record.text)

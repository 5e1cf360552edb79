"""What reaches the user's terminal: tables, templates, JSON, and the one function that makes foreign text harmless.

Names, labels, history lines and error texts come from images, and an image may come from anyone.  On a terminal every
character that is not printable is shown as an escape; into a pipe goes what is there.  What a container itself writes
is not ours to edit and does not pass here.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import BinaryIO, NamedTuple

from lamella.errors import InvalidArgument

Row = Mapping[str, object]


def escape(text: str, *, keep: str = "") -> str:
    """Show control, bidirectional, invisible and undecodable characters of *text* as escapes, but for those in *keep*."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    short = {"\n": "\\n", "\t": "\\t", "\r": "\\r"}.get(character)
    if short:
        return short
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that was not UTF-8, by surrogateescape
        return f"\\x{code - 0xDC00:02x}"
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def escape_json(text: str) -> str:
    """Spell the unprintable characters of JSON *text* as JSON's own escapes: it stays the same document."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else _json_escaped(c) for c in text)


def _json_escaped(character: str) -> str:
    code = ord(character)
    if code < 0x10000:
        return f"\\u{code:04x}"
    code -= 0x10000
    return f"\\u{0xD800 + (code >> 10):04x}\\u{0xDC00 + (code & 0x3FF):04x}"


class Output:
    """Standard output: buffered text that knows whether a terminal reads it."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream = stream
        self.terminal = stream.isatty()

    def line(self, text: str = "") -> None:
        """Print a line of our own words around foreign text; newlines and tabs are taken as meant."""
        self.raw((escape(text, keep="\n\t") if self.terminal else text) + "\n")

    def raw(self, text: str) -> None:
        """Print text that is already safe, such as help and colours of our own."""
        self.stream.write(text.encode("utf-8", "surrogateescape"))

    def cell(self, text: str) -> str:
        """Return foreign text fit for one cell of a table or tree."""
        return escape(text) if self.terminal else text

    def json(self, text: str) -> None:
        """Print a JSON document."""
        self.raw((escape_json(text) if self.terminal else text) + "\n")

    def flush(self) -> None:
        """Hand everything to the kernel."""
        self.stream.flush()


def columns_of(rows: Sequence[Sequence[str]]) -> list[str]:
    """Align *rows* as Docker does: columns at least ten wide, three spaces apart, nothing after the last."""
    if not rows:
        return []
    widths = [max(10, max(len(row[i]) for row in rows) + 3) for i in range(len(rows[0]) - 1)]
    return ["".join([*(f"{c:<{w}}" for c, w in zip(row, widths, strict=False)), row[-1]]) for row in rows]


class Listing(NamedTuple):
    """A kind of table: its fields with their headings, and which of them are shown unasked."""

    headings: Mapping[str, object]
    columns: Sequence[str]


def print_listing(output: Output, listing: Listing, rows: Iterable[Row], form: str, *, quiet: str = "") -> None:
    """Print *rows* by ``--format`` value *form*; *quiet* names the one field to print instead."""
    if quiet and form in {"", "table"}:
        for row in rows:
            output.line(str(row[quiet]))
    elif form in {"", "table"}:
        cells = [[str(listing.headings[column]) for column in listing.columns]]
        cells += [[output.cell(str(row[column])) for column in listing.columns] for row in rows]
        for line in columns_of(cells):
            output.raw(line + "\n")
    else:
        _print_template(output, listing, rows, form)


def _print_template(output: Output, listing: Listing, rows: Iterable[Row], form: str) -> None:
    from lamella.model.gotemplate import render

    form = form.replace("\\t", "\t").replace("\\n", "\n")
    if form == "json":
        form = "{{json .}}"
    if "json" in form:  # what a field computes from an argument is no part of the document
        rows = [{name: value for name, value in row.items() if not callable(value)} for row in rows]
    if not form.startswith("table "):
        for row in rows:
            output.line(render(form, row))
        return
    form = form.removeprefix("table ").strip(" ")
    lines = [render(form, listing.headings)]
    if output.terminal:
        rows = [{name: output.cell(v) if isinstance(v, str) else v for name, v in row.items()} for row in rows]
    lines += [render(form, row) for row in rows]
    cells = [line.split("\t") for line in lines]
    if len({len(row) for row in cells}) != 1:
        raise InvalidArgument(f"--format: the columns of {form!r} differ from row to row")
    for line in columns_of(cells):
        output.line(line)


def print_documents(output: Output, documents: Sequence[object], form: str) -> None:
    """Print inspected objects: an indented JSON array, or *form* once for each."""
    if form:
        for document in documents:
            print_document(output, document, form)
        return
    from msgspec import json

    # Neither sorted nor reshaped: what the view built is what is shown.
    output.json(json.format(json.encode(documents), indent=4).decode("utf-8", "surrogateescape"))


def print_document(output: Output, document: object, form: str) -> None:
    """Print one object by the template *form*, or as one line of JSON for ``json``."""
    from lamella.model.gotemplate import render

    output.line(render("{{json .}}" if form == "json" else form, document))


def shorten(text: str, width: int) -> str:
    """Cut *text* to *width* characters, the last of them an ellipsis if something is missing."""
    return text if len(text) <= width else text[: width - 1] + "…"


def confirm(question: str, read: Callable[[str], str]) -> bool:
    """Ask before a deletion; anything but yes is no."""
    try:
        answer = read(question)
    except EOFError:
        return False
    return answer.strip().lower() in {"y", "yes"}


def is_terminal(fd: int) -> bool:
    """Tell whether *fd* is a terminal; a closed descriptor is none."""
    try:
        return os.isatty(fd)
    except OSError:
        return False

"""Answers as JSON: the fields of the library's objects, in their order."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lamella.cli.output import Output


def print_answer(output: Output, answer: object) -> None:
    """Print a library object as indented JSON.

    Bytes of a file name that are no UTF-8 come as U+DC80 to U+DCFF, escaped, as Python has them.
    """
    import json

    import msgspec

    output.json(json.dumps(msgspec.to_builtins(answer), indent=2))

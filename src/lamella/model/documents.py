"""JSON from outside (archives, data roots), decoded within bounds.

What comes out is plain dicts and lists whose shape nobody has checked yet; the modules that know the document do that.
"""

from __future__ import annotations

import re
from typing import NoReturn

from lamella.errors import InvalidArgument

DEPTH_LIMIT = 64
NUMBER_LIMIT = 20
CONFIG_LIMIT = 8 << 20
MANIFEST_LIMIT = 4 << 20

_STRINGS = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_FLATTEN = bytes(ord("[") if byte in b"{[" else ord("]") if byte in b"}]" else byte for byte in range(256))
_NO_BRACKET = bytes(byte for byte in range(256) if byte not in b"{}[]")
_SURROGATE_ESCAPE = re.compile(rb"\\u[dD][89a-fA-F]")


def decode_document(raw: bytes, *, limit: int, what: str) -> object:
    """Decode JSON of at most *limit* bytes; *what* names the document in refusals.

    Refused are: too long, nested deeper than 64, bad UTF-8, a key given twice in one object (readers would differ on
    which counts), NaN and infinity, numbers of more than 20 digits, half surrogates, anything after the value.
    """
    if len(raw) > limit:
        raise InvalidArgument(f"{what}: {len(raw)} bytes is more than the {limit} allowed")
    if _too_deep(raw):
        raise InvalidArgument(f"{what}: nested deeper than {DEPTH_LIMIT} levels")
    import json

    def refuse_constant(name: str) -> NoReturn:
        raise InvalidArgument(f"{what}: {name} is not a JSON number")

    def bounded_int(digits: str) -> int:
        if len(digits.lstrip("-")) > NUMBER_LIMIT:
            raise InvalidArgument(f"{what}: a number has more than {NUMBER_LIMIT} digits")
        return int(digits)

    def bounded_float(digits: str) -> float:
        number = float(digits) if len(digits) <= 2 * NUMBER_LIMIT else float("inf")
        if number in {float("inf"), float("-inf")}:
            raise InvalidArgument(f"{what}: a number is out of range")
        return number

    def unique_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
        table = dict(pairs)
        if len(table) != len(pairs):
            seen: set[str] = set()
            for key, _ in pairs:
                if key in seen:
                    raise InvalidArgument(f"{what}: key {key[:64]!r} is given twice")
                seen.add(key)
        return table

    try:
        document: object = json.loads(
            raw.decode(),
            object_pairs_hook=unique_keys,
            parse_constant=refuse_constant,
            parse_int=bounded_int,
            parse_float=bounded_float,
        )
    except UnicodeDecodeError as error:
        raise InvalidArgument(f"{what}: not UTF-8 at byte {error.start}") from error
    except (ValueError, RecursionError) as error:
        reason = str(error).partition("\n")[0]
        raise InvalidArgument(f"{what}: not valid JSON: {reason}") from error
    if _SURROGATE_ESCAPE.search(raw):
        _refuse_half_surrogates(document, what)
    return document


def decode_object(raw: bytes, *, limit: int, what: str) -> dict[str, object]:
    """Decode a document that must be a JSON object."""
    document = decode_document(raw, limit=limit, what=what)
    if not isinstance(document, dict):
        raise InvalidArgument(f"{what}: expected a JSON object, got {kind_of(document)}")
    return document


def kind_of(value: object) -> str:
    """Name the JSON type of *value* for a message."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, (int, float)):
        return "number"
    if isinstance(value, str):
        return "string"
    return "array" if isinstance(value, (list, tuple)) else "object"


def _too_deep(raw: bytes) -> bool:
    """Tell whether brackets nest beyond the limit, before a recursive parser sees them.

    With strings and everything but brackets taken out, deleting every ``[]`` strips one level a pass, at the speed
    of ``bytes.replace``.  Unbalanced brackets are left for the parser to refuse, unless it would recurse on them.
    """
    if raw.count(b"[") + raw.count(b"{") <= DEPTH_LIMIT:
        return False
    brackets = _STRINGS.sub(b"", raw).translate(_FLATTEN, _NO_BRACKET)
    for _ in range(DEPTH_LIMIT):
        brackets = brackets.replace(b"[]", b"")
    return b"[]" in brackets or b"[" * (DEPTH_LIMIT + 1) in brackets


def _refuse_half_surrogates(value: object, what: str) -> None:
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise InvalidArgument(f"{what}: a string holds half a surrogate pair") from error
    elif isinstance(value, dict):
        for key, item in value.items():
            _refuse_half_surrogates(key, what)
            _refuse_half_surrogates(item, what)
    elif isinstance(value, list):
        for item in value:
            _refuse_half_surrogates(item, what)

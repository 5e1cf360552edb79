"""The functions of ``--format`` templates: Go's predefined ones and those of Docker's command line.

``and`` and ``or``, which do not evaluate all their arguments, are ``gotemplate``'s own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NoReturn

from lamella.errors import InvalidArgument
from lamella.model.goprint import show, sprint, sprintf, type_name

_PAD_LIMIT = 10_000


class CallError(Exception):
    """A function was given what it cannot use."""


def truth(value: object) -> bool:
    """Tell whether a condition holds: not zero, not empty, not nil."""
    if value is None or isinstance(value, (bool, int, float, str, Mapping, list, tuple)):
        return bool(value)
    return True


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise CallError(f"wrong type for value; expected string; got {type_name(value)}")
    return value


def _count(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise CallError(f"wrong type for value; expected int; got {type_name(value)}")
    return value


def _json(value: object) -> str:
    from lamella.model.gojson import encode

    if isinstance(value, Mapping):  # methods have no JSON form
        value = {key: item for key, item in value.items() if not callable(item)}
    try:
        return encode(value, escape_html=False).decode()
    except (TypeError, InvalidArgument) as error:
        raise CallError(f"json: {error}") from error


def _join(values: object, separator: object) -> str:
    if values is None:
        return ""
    if not isinstance(values, (list, tuple)):
        raise CallError(f"wrong type for value; expected []string; got {type_name(values)}")
    return _text(separator).join(_text(value) for value in values)


def _split(text: object, separator: object) -> list[str]:
    return _text(text).split(_text(separator)) if separator else list(_text(text))


def _title(text: object) -> str:
    out: list[str] = []
    before = " "
    for char in _text(text):
        starts = not (before.isalnum() or before == "_") if before < "\x80" else before.isspace()
        out.append(char.title() if starts else char)
        before = char
    return "".join(out)


def _pad(text: object, before: object, after: object) -> str:
    left, right = _count(before), _count(after)
    if not (0 <= left <= _PAD_LIMIT and 0 <= right <= _PAD_LIMIT):
        raise CallError(f"padding must be between 0 and {_PAD_LIMIT}")
    return " " * left + _text(text) + " " * right if text else _text(text)


def _truncate(text: object, length: object) -> str:
    if _count(length) < 0:
        raise CallError("length must not be negative")
    return _text(text).encode(errors="replace")[: _count(length)].decode(errors="replace")


def _len(value: object) -> int:
    if value is None:
        return 0
    if isinstance(value, str):
        return len(value.encode(errors="replace"))
    if isinstance(value, (Mapping, list, tuple)):
        return len(value)
    raise CallError(f"len of type {type_name(value)}")


def _index(value: object, *keys: object) -> object:
    for key in keys:
        if value is None and isinstance(key, str):
            value = ""  # a nil map of strings holds nothing but the empty one
        elif isinstance(value, Mapping):
            # What is missing from a map of strings (labels) is the empty string.
            texts = all(isinstance(item, str) for item in value.values())
            value = value.get(_text(key), "" if texts else None)
        elif isinstance(value, (list, tuple, str)):
            items = value.encode(errors="replace") if isinstance(value, str) else value
            position = _count(key)
            if not 0 <= position < len(items):
                raise CallError(f"index out of range: {position}")
            value = items[position]
        else:
            raise CallError("index of untyped nil" if value is None else f"can't index item of type {type_name(value)}")
    return value


def _slice(value: object, *bounds: object) -> object:
    if not isinstance(value, (str, list, tuple)):
        raise CallError(f"can't slice item of type {type_name(value)}")
    if isinstance(value, str) and len(bounds) > 2:
        raise CallError("cannot 3-index slice a string")
    items = value.encode(errors="replace") if isinstance(value, str) else value
    edges = [_count(bound) for bound in bounds]
    start = edges[0] if edges else 0
    end = edges[1] if len(edges) > 1 else len(items)
    for edge in edges:
        if not 0 <= edge <= len(items):
            raise CallError(f"index out of range: {edge}")
    if start > end:
        raise CallError(f"invalid slice index: {start} > {end}")
    part = items[start:end]
    return part.decode(errors="replace") if isinstance(part, bytes) else list(part)


def _comparable(first: object, second: object) -> None:
    for value in (first, second):
        if value is not None and not isinstance(value, (bool, int, float, str)):
            raise CallError(f"non-comparable type {show(value)}: {type_name(value)}")
    if first is None or second is None:
        return
    kinds = [bool if isinstance(value, bool) else str if isinstance(value, str) else int for value in (first, second)]
    if kinds[0] is not kinds[1]:
        raise CallError("incompatible types for comparison")


def _eq(first: object, *others: object) -> bool:
    equal = False
    for other in others:
        _comparable(first, other)
        equal = equal or first == other
    return equal


def _ne(first: object, second: object) -> bool:
    return not _eq(first, second)


def _lt(first: object, second: object) -> bool:
    _comparable(first, second)
    if isinstance(first, str) and isinstance(second, str):
        return first < second
    if isinstance(first, (int, float)) and isinstance(second, (int, float)) and not isinstance(first, bool):
        return first < second
    raise CallError("invalid type for comparison")


def _le(first: object, second: object) -> bool:
    return _lt(first, second) or _eq(first, second)


def _not(value: object) -> bool:
    return not truth(value)


def _html(*values: object) -> str:
    text = sprint(values)
    for plain, escaped in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ('"', "&#34;"), ("'", "&#39;")):
        text = text.replace(plain, escaped)
    return text


def _urlquery(*values: object) -> str:
    from urllib.parse import quote_plus

    return quote_plus(sprint(values), safe="", errors="replace")


def _printf(template: object, *values: object) -> str:
    return sprintf(_text(template), values)


def _print(*values: object) -> str:
    return sprint(values)


def _println(*values: object) -> str:
    return " ".join(show(value) for value in values) + "\n"


def _never(*_values: object) -> NoReturn:
    raise CallError("it takes part in evaluation")


FUNCTIONS: dict[str, tuple[Callable[..., object], int, int | None]] = {
    "and": (_never, 1, None),
    "eq": (_eq, 2, None),
    "ge": (lambda first, second: not _lt(first, second), 2, 2),
    "gt": (lambda first, second: not _le(first, second), 2, 2),
    "html": (_html, 1, None),
    "index": (_index, 1, None),
    "join": (_join, 2, 2),
    "json": (_json, 1, 1),
    "le": (_le, 2, 2),
    "len": (_len, 1, 1),
    "lower": (lambda text: _text(text).lower(), 1, 1),
    "lt": (_lt, 2, 2),
    "ne": (_ne, 2, 2),
    "not": (_not, 1, 1),
    "or": (_never, 1, None),
    "pad": (_pad, 3, 3),
    "print": (_print, 0, None),
    "printf": (_printf, 1, None),
    "println": (_println, 0, None),
    "slice": (_slice, 1, 4),
    "split": (_split, 2, 2),
    "title": (_title, 1, 1),
    "truncate": (_truncate, 2, 2),
    "upper": (lambda text: _text(text).upper(), 1, 1),
    "urlquery": (_urlquery, 1, None),
}
"""Name to function, least and most number of arguments."""

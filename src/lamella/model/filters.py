"""``--filter key=value`` arguments; what a key means is the business of the list it filters."""

from __future__ import annotations

from collections.abc import Iterable

from lamella.errors import InvalidArgument


def parse_filters(texts: Iterable[str], allowed: Iterable[str]) -> dict[str, list[str]]:
    """Collect the values of every key in the order given, each once; keys not *allowed* are refused."""
    known = sorted(allowed)
    found: dict[str, list[str]] = {}
    for text in texts:
        if not text:
            continue
        name, equals, value = text.partition("=")
        if not equals:
            raise InvalidArgument(f"bad format of filter {text!r:.100} (expected name=value)")
        key = name.strip().lower()
        if key not in known:
            raise InvalidArgument(f"invalid filter {key!r:.100}; use one of: {', '.join(known)}")
        values = found.setdefault(key, [])
        if value.strip() not in values:
            values.append(value.strip())
    return found


def match_pairs(wanted: Iterable[str], present: dict[str, str]) -> bool:
    """Tell whether *present* (labels, say) has every ``key`` or ``key=value`` of *wanted*."""
    for text in wanted:
        key, equals, value = text.partition("=")
        if key not in present or (equals and present[key] != value):
            return False
    return True


def parse_bool(key: str, values: list[str]) -> bool | None:
    """Read a filter that takes true or false; None if it was not given."""
    if not values:
        return None
    truths = {value.lower() for value in values}
    if truths <= {"1", "t", "true"}:
        return True
    if truths <= {"0", "f", "false"}:
        return False
    raise InvalidArgument(f"invalid filter '{key}={values[0]}': expected true or false")

"""The grammar of ``--output``, ``--cache-to`` and ``--cache-from``: ``key=value`` fields in one line of CSV."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

from lamella.errors import InvalidArgument


class Fields(NamedTuple):
    """What one flag says: its type, and the other fields by name."""

    type: str
    attributes: Mapping[str, str]
    text: str
    """The flag's value as it was given, for messages."""

    def only(self, *known: str) -> None:
        """Refuse a field that the type does not have."""
        for key in self.attributes:
            if key not in known:
                raise InvalidArgument(f"{self.text}: unknown field {key!r:.60} for type {self.type}")

    def boolean(self, key: str, *, default: bool = False) -> bool:
        """Read a field that is true or false."""
        value = self.attributes.get(key, str(default)).lower()
        if value not in {"true", "false", "1", "0"}:
            raise InvalidArgument(f"{self.text}: {key} must be true or false")
        return value in {"true", "1"}

    def choice(self, key: str, allowed: Collection[str], *, default: str = "") -> str:
        """Read a field that has one of a few values."""
        value = self.attributes.get(key, default)
        if value not in allowed and value != default:
            raise InvalidArgument(f"{self.text}: {key} must be one of {', '.join(sorted(allowed))}")
        return value

    def needed(self, key: str) -> str:
        """Read a field that must be there."""
        value = self.attributes.get(key, "")
        if not value:
            raise InvalidArgument(f"{self.text}: {key} is required for type {self.type}")
        return value


def split_fields(text: str, what: str) -> list[str]:
    """Split one line of CSV; *what* names the flag in the error."""
    import csv

    try:
        rows = list(csv.reader([text], strict=True))
    except csv.Error as error:
        raise InvalidArgument(f"{what} {text!r:.100}: {error}") from error
    if len(rows) != 1:
        raise InvalidArgument(f"{what} {text!r:.100}: one line is needed")
    return rows[0]


def parse_fields(text: str, what: str) -> Fields:
    """Parse ``type=…,key=value``.  Raises InvalidArgument for a field without a value, or without a type."""
    found: dict[str, str] = {}
    for field in split_fields(text, what):
        key, equals, value = field.partition("=")
        key = key.strip().lower()
        if not equals or not key:
            raise InvalidArgument(f"{what} {text!r:.100}: invalid value {field!r:.60}, key=value is needed")
        if key in found:
            raise InvalidArgument(f"{what} {text!r:.100}: {key} is given twice")
        found[key] = value
    kind = found.pop("type", "")
    if not kind:
        raise InvalidArgument(f"{what} {text!r:.100}: type is required")
    return Fields(kind.lower(), found, text)

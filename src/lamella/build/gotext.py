"""Text as Go spells it: quoted strings, lists and durations, which stand in image histories and so in cache keys."""

from __future__ import annotations

import re
from collections.abc import Iterable

from lamella.errors import InvalidArgument

_ESCAPES = {
    "\a": r"\a",
    "\b": r"\b",
    "\f": r"\f",
    "\n": r"\n",
    "\r": r"\r",
    "\t": r"\t",
    "\v": r"\v",
    "\\": r"\\",
    '"': r"\"",
}
_UNITS = {"ns": 1, "us": 1000, "µs": 1000, "μs": 1000, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}
_DURATION_PART = re.compile(r"(\d+)?(\.\d*)?(ns|us|µs|μs|ms|s|m|h)")
_LARGEST = 2**63 - 1


def _escaped(character: str, quote: str) -> str:
    """Spell one character inside quotes of the given kind."""
    if character == quote:
        return "\\" + quote
    if character in _ESCAPES and character not in "\"'":
        return _ESCAPES[character]
    if character.isprintable():
        return character
    code = ord(character)
    if code < 0x20 or code == 0x7F:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def quoted(text: str) -> str:
    """Spell a string as ``%q`` does."""
    return '"' + "".join(_escaped(character, '"') for character in text) + '"'


def quoted_list(items: Iterable[str]) -> str:
    """Spell a slice of strings as ``%q`` does: ``["a" "b"]``."""
    return "[" + " ".join(map(quoted, items)) + "]"


def plain_list(items: Iterable[str]) -> str:
    """Spell a slice of strings as ``%v`` does: ``[a b]``."""
    return "[" + " ".join(items) + "]"


def quoted_number(number: int) -> str:
    """Spell an integer as ``%q`` does: the character of that code, in single quotes."""
    valid = 0 <= number < 0x110000 and not 0xD800 <= number < 0xE000
    return "'" + _escaped(chr(number if valid else 0xFFFD), "'") + "'"


def format_duration(nanoseconds: int) -> str:
    """Spell a duration as Go's ``Duration.String``: ``1m30s``, ``1.5s``, ``100ms``, ``0s``."""
    if nanoseconds == 0:
        return "0s"
    for unit, size in (("ns", 1), ("µs", 10**3), ("ms", 10**6)):
        if nanoseconds < size * 1000:
            return _decimal(nanoseconds, size) + unit
    minutes, rest = divmod(nanoseconds, 60 * 10**9)
    hours, minutes = divmod(minutes, 60)
    text = _decimal(rest, 10**9) + "s"
    if hours:
        return f"{hours}h{minutes}m{text}"
    return f"{minutes}m{text}" if minutes else text


def _decimal(amount: int, unit: int) -> str:
    """Spell ``amount / unit`` exactly, without trailing zeros."""
    whole, rest = divmod(amount, unit)
    if not rest:
        return str(whole)
    return f"{whole}.{rest:0{len(str(unit)) - 1}d}".rstrip("0")


def parse_duration(text: str) -> int:
    """Read a duration as Go's ``time.ParseDuration``, in nanoseconds; negative ones are kept."""
    rest = text
    sign = 1
    if rest[:1] in ("+", "-"):
        sign = -1 if rest[0] == "-" else 1
        rest = rest[1:]
    if rest == "0":
        return 0
    if not rest or len(text) > 100:
        raise InvalidArgument(f"time: invalid duration {quoted(text[:100])}")
    total = 0
    position = 0
    while position < len(rest):
        part = _DURATION_PART.match(rest, position)
        if part is None or (part[1] is None and len(part[2] or "") < 2):
            what = "missing unit in duration" if rest[position:].replace(".", "").isdecimal() else "invalid duration"
            raise InvalidArgument(f"time: {what} {quoted(text)}")
        unit = _UNITS[part[3]]
        total += int(part[1] or 0) * unit
        if part[2] and len(part[2]) > 1:
            digits = part[2][1:]
            total += int(digits) * unit // 10 ** len(digits)
        position = part.end()
    if total > _LARGEST:
        raise InvalidArgument(f"time: invalid duration {quoted(text)}")
    return sign * total

"""JSON and times as Go's encoding/json and time.RFC3339Nano spell them.

Docker hashes what Go wrote, so a config made here must come out as Go would have written it.  Key order is the
caller's: a dict is written in insertion order, as Go writes a struct; what is a map in Go must come sorted.
Reading JSON is the business of ``documents``.
"""

from __future__ import annotations

import re
import time
from functools import lru_cache
from typing import TYPE_CHECKING

from lamella.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

ZERO_TIME = "0001-01-01T00:00:00Z"
"""Go's zero time, which Docker writes for "never"."""
_SECOND = 1_000_000_000
_DAY = 86_400
_TIME = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})T([0-9]{2}):([0-9]{2}):([0-9]{2})(?:[.,]([0-9]+))?(?:Z|([+-])([0-9]{2}):([0-9]{2}))",
    re.ASCII,
)
_HTML = (("&", "\\u0026"), ("<", "\\u003c"), (">", "\\u003e"))
_SEPARATORS = (("\u2028", "\\u2028"), ("\u2029", "\\u2029"))


def encode(document: object, *, newline: bool = False, escape_html: bool = True) -> bytes:
    """Write *document* (dict, list, tuple, str, int, float, bool, None) compactly.

    Half surrogates, which stand for bytes that are no UTF-8, become escaped U+FFFD as in Go.  Other types are a
    programming error and raise TypeError.
    """
    from json.encoder import encode_basestring

    parts: list[str] = []
    _write(document, parts.append, encode_basestring)
    text = "".join(parts)
    # These can only stand inside strings, so the whole text is done at once.
    for plain, escaped in (_HTML + _SEPARATORS) if escape_html else _SEPARATORS:
        if plain in text:
            text = text.replace(plain, escaped)
    if newline:
        text += "\n"
    try:
        return text.encode()
    except UnicodeEncodeError:
        return re.sub("[\ud800-\udfff]", r"\\ufffd", text).encode()


def _write(value: object, put: Callable[[str], None], quote: Callable[[str], str]) -> None:
    if isinstance(value, str):
        put(quote(value))
    elif value is None:
        put("null")
    elif value is True:
        put("true")
    elif value is False:
        put("false")
    elif isinstance(value, int):
        put(int.__repr__(value))
    elif isinstance(value, dict):
        before = "{"
        for key, item in value.items():
            if not isinstance(key, str):
                raise TypeError(f"key {key!r} of a JSON object is not a string")
            put(before + quote(key) + ":")
            _write(item, put, quote)
            before = ","
        put("}" if value else "{}")
    elif isinstance(value, (list, tuple)):
        before = "["
        for item in value:
            put(before)
            _write(item, put, quote)
            before = ","
        put("]" if value else "[]")
    elif isinstance(value, float):
        put(format_float(value))
    else:
        raise TypeError(f"{type(value).__name__} has no JSON form")


def format_float(value: float) -> str:
    """Write a float as encoding/json does: the shortest digits, an exponent only from 1e21 and below 1e-6."""
    if not float("-inf") < value < float("inf"):
        raise InvalidArgument("NaN and infinity have no JSON form")
    if value == 0:
        return "-0" if str(value)[0] == "-" else "0"
    if 1e-6 <= abs(value) < 1e21:
        text = repr(value)
        if "e" in text:
            from decimal import Decimal

            text = format(Decimal(text), "f")
        return text.removesuffix(".0")
    mantissa, _, exponent = repr(value).partition("e")
    mantissa = mantissa.removesuffix(".0")
    # Go writes 1e-7 and 1e+21; Python pads the exponent to two digits.
    return f"{mantissa}e{exponent[0]}{exponent[1:].lstrip('0')}"


def now_ns() -> int:
    """Return the present time in nanoseconds since the epoch."""
    return time.time_ns()


def now() -> datetime:
    """Return the present time, in UTC, to the microsecond."""
    from datetime import UTC, datetime

    return datetime.now(UTC)


def format_time(moment: datetime | int) -> str:
    """Write a time (a datetime with zone, or nanoseconds since the epoch) in UTC as RFC 3339 with no idle zeros."""
    nanoseconds = moment if isinstance(moment, int) else _nanoseconds_of(moment)
    seconds, fraction = divmod(nanoseconds, _SECOND)
    days, second_of_day = divmod(seconds, _DAY)
    year, month, day = _civil(days)
    if not 0 <= year <= 9999:
        raise InvalidArgument(f"time {nanoseconds} is outside the years 0 to 9999")
    minutes, second = divmod(second_of_day, 60)
    hour, minute = divmod(minutes, 60)
    tail = f".{fraction:09d}".rstrip("0") if fraction else ""
    return f"{year:04d}-{month:02d}-{day:02d}T{hour:02d}:{minute:02d}:{second:02d}{tail}Z"


def _nanoseconds_of(moment: datetime) -> int:
    offset = moment.utcoffset()
    if offset is None:
        raise InvalidArgument(f"time {moment} has no time zone")
    utc = moment.replace(tzinfo=None) - offset
    seconds = _days(utc.year, utc.month, utc.day) * _DAY + utc.hour * 3600 + utc.minute * 60 + utc.second
    return seconds * _SECOND + utc.microsecond * 1000


@lru_cache(1024)  # each image repeats the times of the one it was made from
def parse_time(text: str) -> int:
    """Read an RFC 3339 time into nanoseconds since the epoch; digits beyond the ninth are dropped, as in Go."""
    match = _TIME.fullmatch(text)
    if match is None:
        raise InvalidArgument(f"invalid time {text[:64]!r}: expected the form 2006-01-02T15:04:05Z")
    year, month, day, hour, minute, second = (int(match[group]) for group in range(1, 7))
    if not (1 <= month <= 12 and 1 <= day <= _month_length(year, month) and hour < 24 and minute < 60 and second < 60):
        raise InvalidArgument(f"invalid time {text[:64]!r}: out of range")
    offset = 0
    if match[8]:
        zone_hours, zone_minutes = int(match[9]), int(match[10])
        if zone_hours > 24 or zone_minutes >= 60:
            raise InvalidArgument(f"invalid time {text[:64]!r}: time zone out of range")
        offset = (zone_hours * 60 + zone_minutes) * (-60 if match[8] == "-" else 60)
    seconds = _days(year, month, day) * _DAY + hour * 3600 + minute * 60 + second - offset
    return seconds * _SECOND + int((match[7] or "")[:9].ljust(9, "0"))


def _month_length(year: int, month: int) -> int:
    if month == 2:
        return 29 if year % 4 == 0 and (year % 100 != 0 or year % 400 == 0) else 28
    return 30 if month in {4, 6, 9, 11} else 31


def _days(year: int, month: int, day: int) -> int:
    """Count the days from 1970-01-01, in the proleptic Gregorian calendar."""
    # The year is made to begin in March, so that the leap day is its last; an era is 400 years.
    year -= month <= 2
    era, year_of_era = divmod(year, 400)
    day_of_year = (153 * (month + (-3 if month > 2 else 9)) + 2) // 5 + day - 1
    return era * 146_097 + year_of_era * 365 + year_of_era // 4 - year_of_era // 100 + day_of_year - 719_468


def _civil(days: int) -> tuple[int, int, int]:
    """Turn a count of days from 1970-01-01 into year, month and day."""
    era, day_of_era = divmod(days + 719_468, 146_097)
    year_of_era = (day_of_era - day_of_era // 1460 + day_of_era // 36_524 - day_of_era // 146_096) // 365
    day_of_year = day_of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    shifted = (5 * day_of_year + 2) // 153
    month = shifted + (3 if shifted < 10 else -9)
    return year_of_era + era * 400 + (month <= 2), month, day_of_year - (153 * shifted + 2) // 5 + 1

"""Sizes and durations as Docker reads and prints them (docker/go-units, Go's time.Duration)."""

from __future__ import annotations

import re

from lamella.errors import InvalidArgument

_DECIMAL = ("B", "kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB")
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+) ?(?:([kmgtp])(?:i?b)?|b)?", re.ASCII | re.IGNORECASE)
_DISK_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?(?:([kmgtp])(i?)b?|b)?", re.ASCII | re.IGNORECASE)
_BINARY = {"": 0, "k": 10, "m": 20, "g": 30, "t": 40, "p": 50}
_DURATION = re.compile(r"(?:([0-9]+)(?:\.([0-9]*))?|\.([0-9]+))(ns|us|µs|μs|ms|s|m|h)", re.ASCII)
_NANOSECONDS = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,
    "μs": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}
_INT64 = 2**63 - 1
_LONGEST = 64


def human_size(size: float, *, precision: int = 4) -> str:
    """Spell a number of bytes in decimal units with *precision* digits: ``7.8MB``.

    Docker's tables of images, history and containers use 3.
    """
    value, unit = float(size), 0
    while value >= 1000 and unit < len(_DECIMAL) - 1:
        value /= 1000
        unit += 1
    return f"{value:.{precision}g}{_DECIMAL[unit]}"


def human_duration(seconds: float) -> str:
    """Spell a duration roughly: ``2 minutes``, ``About an hour``, ``3 weeks``."""
    whole = int(seconds)
    if whole < 1:
        return "Less than a second"
    if whole == 1:
        return "1 second"
    if whole < 60:
        return f"{whole} seconds"
    minutes = whole // 60
    if minutes == 1:
        return "About a minute"
    if minutes < 60:
        return f"{minutes} minutes"
    hours = int(seconds / 3600 + 0.5)
    if hours == 1:
        return "About an hour"
    if hours < 48:
        return f"{hours} hours"
    if hours < 24 * 7 * 2:
        return f"{hours // 24} days"
    if hours < 24 * 30 * 2:
        return f"{hours // 24 // 7} weeks"
    if hours < 24 * 365 * 2:
        return f"{hours // 24 // 30} months"
    return f"{int(seconds / 3600) // 24 // 365} years"


def parse_size(text: str) -> int:
    """Parse an amount of memory: ``64m``, ``1.5g``, ``512kb``, ``1GiB``; units are powers of 1024."""
    match = _SIZE.fullmatch(text.strip())
    if match is None or len(text) > 32:
        raise InvalidArgument(f"invalid size: '{text[:64]}'")
    whole, _, fraction = match[1].partition(".")
    shift = _BINARY[(match[2] or "").lower()]
    size = (int(whole or "0") << shift) + (int(fraction or "0") << shift) // int(10 ** len(fraction))
    if size > _INT64:
        raise InvalidArgument(f"invalid size: '{text[:64]}' is out of range")
    return size


def parse_disk_size(text: str) -> int:
    """Parse an amount of disk: ``50GB``, ``1.5g``, ``20GiB``; units are powers of 1000, with an ``i`` of 1024."""
    match = _DISK_SIZE.fullmatch(text.strip()) if len(text) <= 32 else None
    if match is None:
        raise InvalidArgument(f"{text[:40]!r} is no size; write 50GB or 20GiB")
    size = int(float(match[1]) * (1024 if match[3] else 1000) ** (_BINARY[(match[2] or "").lower()] // 10))
    if size > _INT64:
        raise InvalidArgument(f"{text[:40]!r} is out of range")
    return size


def parse_duration(text: str) -> int:
    """Parse Go's spelling of a duration (``1m30s``, ``1.5h``, ``0``) into nanoseconds, with Go's errors."""
    rest = text
    negative = rest.startswith("-")
    if rest[:1] in {"-", "+"}:
        rest = rest[1:]
    if rest == "0":
        return 0
    total = position = 0
    while position < len(rest) and len(text) <= _LONGEST:
        match = _DURATION.match(rest, position)
        if match is None:
            break
        unit = _NANOSECONDS[match[4]]
        fraction = match[2] or match[3] or ""
        total += int(match[1] or "0") * unit + int(fraction or "0") * unit // int(10 ** len(fraction))
        position = match.end()
    if not rest or position < len(rest) or total > _INT64:
        from lamella.model.goprint import quote

        lacks_unit = re.fullmatch(r"[0-9]+\.?[0-9]*|\.[0-9]+", rest[position:], re.ASCII) is not None
        what = "missing unit in" if lacks_unit else "invalid"
        raise InvalidArgument(f"time: {what} duration {quote(text[:_LONGEST])}")
    return -total if negative else total


def format_duration(nanoseconds: int) -> str:
    """Spell a duration as Go does: ``1m30s``, ``500ms``, ``0s``."""
    if nanoseconds < 0:
        return "-" + format_duration(-nanoseconds)
    if nanoseconds < 1_000_000_000:
        if nanoseconds == 0:
            return "0s"
        for unit, scale in (("ms", 1_000_000), ("µs", 1_000), ("ns", 1)):
            if nanoseconds >= scale:
                return _decimal(nanoseconds, scale) + unit
    minutes, rest = divmod(nanoseconds, 60_000_000_000)
    hours, minutes = divmod(minutes, 60)
    seconds = _decimal(rest, 1_000_000_000) + "s"
    if hours:
        return f"{hours}h{minutes}m{seconds}"
    return f"{minutes}m{seconds}" if minutes else seconds


def _decimal(amount: int, scale: int) -> str:
    whole, fraction = divmod(amount, scale)
    if not fraction:
        return str(whole)
    return f"{whole}.{fraction:0{len(str(scale)) - 1}d}".rstrip("0")

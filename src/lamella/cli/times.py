"""Times as lists show them."""

from __future__ import annotations

import time


def ago(created: int) -> str:
    """Say how long ago *created*, nanoseconds since the epoch, was; Docker's zero time reads ``N/A``."""
    if created <= 0:
        return "N/A"
    from lamella.model.units import human_duration

    return human_duration(max(0, time.time_ns() - created) / 1e9) + " ago"


def local_time(moment: int) -> str:
    """Spell a moment, nanoseconds since the epoch, as Go prints a local time without its fraction."""
    seconds = moment // 1_000_000_000
    return time.strftime("%Y-%m-%d %H:%M:%S %z %Z", time.localtime(seconds))


def rfc3339(moment: int) -> str:
    """Spell a moment in RFC 3339 with the local offset, as ``history --human=false`` does."""
    text = time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(moment // 1_000_000_000))
    return text[:-5] + "Z" if text.endswith("+0000") else f"{text[:-2]}:{text[-2:]}"

"""Signals by name or number, as users and images write them."""

from __future__ import annotations

import signal

from lamella.errors import InvalidArgument


def parse_signal(text: str) -> int:
    """Return the number of ``SIGTERM``, ``TERM``, ``15`` or ``RTMIN+3``; raise InvalidArgument."""
    name = text.strip().upper().removeprefix("SIG")
    if name.isascii() and name.isdecimal():
        number = int(name) if len(name) < 4 else 0
    elif name.startswith(("RTMIN", "RTMAX")):
        base = signal.SIGRTMIN if name.startswith("RTMIN") else signal.SIGRTMAX
        offset = name[5:] or "+0"
        sign, digits = offset[:1], offset[1:]
        if sign not in ("+", "-") or not digits.isdecimal() or len(digits) > 2:
            raise InvalidArgument(f"invalid signal: {text}")
        number = base + (int(digits) if sign == "+" else -int(digits))
    else:
        number = int(getattr(signal, f"SIG{name}", 0)) if name.isalnum() else 0
    if number not in signal.valid_signals():
        raise InvalidArgument(f"invalid signal: {text}")
    return number

"""How often something is tried again, and how long between: the one policy for requests, downloads and uploads."""

from __future__ import annotations

import random
import threading
import time

from lamella.errors import Unavailable
from lamella.transports.registry.http import Fault
from lamella.transports.registry.settings import RegistrySettings

RETRIES = 5
LONGEST_WAIT = 60.0
_LONGEST_BACKOFF = 30.0


class Attempts:
    """Counts the tries of one task and waits between them.

    So many retries without progress, or ``retry_time`` seconds in all, are the end of it.
    """

    def __init__(self, settings: RegistrySettings, closed: threading.Event, *, retries: int = RETRIES) -> None:
        self._settings = settings
        self._retries = retries
        self._closed = closed
        self._failed = 0
        self._since = time.monotonic()

    def progress(self) -> None:
        """Start counting anew: what failed before has been made up for."""
        self._failed = 0
        self._since = time.monotonic()

    def failed(self, fault: Fault) -> None:
        """Wait before the next try, or raise Unavailable if there is to be none."""
        self._failed += 1
        if not fault.retryable:
            raise Unavailable(str(fault)) from fault
        grown = min(_LONGEST_BACKOFF, self._settings.backoff * 2.0 ** (self._failed - 1))
        wait = random.uniform(0.5, 1.0) * grown  # noqa: S311 - jitter, not a secret
        if fault.retry_after is not None:
            if fault.retry_after > LONGEST_WAIT:
                raise Unavailable(
                    f"{fault}; it asks to wait {fault.retry_after:.0f} s, which is longer than lamella does; try later"
                ) from fault
            wait = max(wait, fault.retry_after)
        left = self._since + self._settings.retry_time - time.monotonic()
        if self._failed > self._retries or wait > left:
            raise Unavailable(f"{fault}; gave up after {self._failed} tries, try again later") from fault
        self._closed.wait(wait)


def retry_after(text: str) -> float | None:
    """Read a ``Retry-After`` header: seconds or a date; what is neither says nothing."""
    text = text.strip()
    if text.isascii() and text.isdigit():
        return float(text[:12])
    if text:
        from email.utils import parsedate_to_datetime

        try:
            return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
        except (ValueError, OverflowError):
            return None
    return None

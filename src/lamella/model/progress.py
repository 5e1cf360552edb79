"""What long work reports while it goes on.

Work emits events to a ``Reporter`` given as an argument; how often they are shown, and how, is the renderer's
business.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol, TypeAlias


class Started(NamedTuple):
    """A piece of work began; *total* is its amount (bytes, as a rule) if known."""

    id: str
    what: str
    total: int | None = None


class Advanced(NamedTuple):
    """*amount* more of the work *id* is done."""

    id: str
    amount: int


class Finished(NamedTuple):
    """The work *id* is over; *note* is the last word on it."""

    id: str
    note: str = ""


Event: TypeAlias = Started | Advanced | Finished


class Reporter(Protocol):
    """Receives events; called from the working thread, so it must be quick and must not raise."""

    def __call__(self, event: Event, /) -> None:
        """Take notice of *event*."""


def silent(event: Event, /) -> None:
    """Report nothing."""

"""Lists as Go spells them, which stand in image histories and so in cache keys."""

from __future__ import annotations

from collections.abc import Iterable

from lamella.model.goprint import quote


def quoted_list(items: Iterable[str]) -> str:
    """Spell a slice of strings as ``%q`` does: ``["a" "b"]``."""
    return "[" + " ".join(map(quote, items)) + "]"


def plain_list(items: Iterable[str]) -> str:
    """Spell a slice of strings as ``%v`` does: ``[a b]``."""
    return "[" + " ".join(items) + "]"

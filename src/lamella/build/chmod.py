"""``--chmod`` of COPY and ADD: an octal mode, or changes such as ``u+x,g=rX`` as chmod(1) of the BSDs takes them.

No umask takes part.  ``X`` counts after ``+`` only, as in BuildKit.
"""

from __future__ import annotations

import re
import stat
from typing import NamedTuple

from lamella.errors import InvalidArgument

_OCTAL = re.compile(r"[0-7]{1,32}")
_CLAUSE = re.compile(r"(?P<who>[augo]*)(?P<actions>(?:[-+=][rwxXstugo]*)+)")
_ACTION = re.compile(r"(?P<operator>[-+=])(?P<letters>[rwxXstugo]*)")
_WHO = {"u": stat.S_ISUID | stat.S_IRWXU, "g": stat.S_ISGID | stat.S_IRWXG, "o": stat.S_IRWXO, "a": 0o6777}
_PERMISSIONS = {"r": 0o444, "w": 0o222, "x": 0o111, "s": 0o6000, "t": stat.S_ISVTX}
_SHIFTS = {"u": 6, "g": 3, "o": 0}


class _Change(NamedTuple):
    """One action: which bits, of whom, or whose permissions are copied."""

    operator: str
    who: str
    letters: str


class Chmod(NamedTuple):
    """What ``--chmod`` asks for: a mode for all, or changes of the mode that each file has."""

    mode: int | None
    changes: tuple[_Change, ...] = ()

    @property
    def for_new_directories(self) -> int:
        """Give the mode of directories that are made on the way to the destination."""
        return 0o755 if self.mode is None else self.mode

    def apply(self, mode: int, *, directory: bool) -> int:
        """Give the mode that a file of `mode` gets."""
        if self.mode is not None:
            return self.mode
        new = mode
        for change in self.changes:
            new = _apply(change, new, mode, directory=directory)
        return new


def parse_chmod(text: str) -> Chmod:
    """Read ``--chmod``.  Raises InvalidArgument."""
    if _OCTAL.fullmatch(text) and int(text, 8) <= 0o7777:
        return Chmod(int(text, 8))
    if text[:1].isdigit():
        raise InvalidArgument(
            f"invalid chmod parameter: '{text[:100]}'. it should be octal string and between 0 and 07777"
        )
    changes: list[_Change] = []
    for clause in text.split(","):
        found = _CLAUSE.fullmatch(clause)
        if found is None:
            raise InvalidArgument(
                f"invalid chmod parameter: '{text[:100]}': give an octal mode or u+x,g=r and the like"
            )
        actions = _ACTION.finditer(found["actions"])
        changes += [_Change(action["operator"], found["who"], action["letters"]) for action in actions]
    return Chmod(None, tuple(changes))


def _apply(change: _Change, mode: int, original: int, *, directory: bool) -> int:
    who = 0o6777
    if change.who:
        who = 0
        for letter in change.who:
            who |= _WHO[letter]
    reaches_special = not change.who or bool(who & ~stat.S_IRWXO)
    bits = 0
    for letter in change.letters:
        if letter in _SHIFTS:
            bits |= (mode >> _SHIFTS[letter] & 7) * 0o111 & who
        elif letter == "X":
            if change.operator == "+" and (directory or original & 0o111):
                bits |= 0o111 & who
        elif letter == "t":
            bits |= stat.S_ISVTX if reaches_special else 0
        elif letter != "s" or reaches_special:
            bits |= _PERMISSIONS[letter] & who
    if change.operator == "-":
        return mode & ~bits
    if change.operator == "=":
        mode &= ~(who | (stat.S_ISVTX if "t" in change.letters else 0))
    return mode | bits

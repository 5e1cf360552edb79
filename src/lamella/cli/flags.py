"""Flags by pflag's rules, as every user of ``docker`` has them in the fingers.

A command is a table of ``Flag`` values; ``parse_flags`` turns arguments into ``Values``.  ``--rm=false``, bundles such
as ``-it``, ``-eA=B``, ``-e=A=B``, ``--`` and flags after arguments (or, for a command that hands its arguments on, none
after the first) all mean what they mean to pflag, and so do the error texts.  The standard argument parser is left
out: it takes no ``--rm=false``, and costs a third of the start-up budget.  Rendering help is left to ``cli.usage``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from lamella.errors import InvalidArgument

_TRUE = frozenset({"1", "t", "T", "TRUE", "true", "True"})
_FALSE = frozenset({"0", "f", "F", "FALSE", "false", "False"})


class UsageError(InvalidArgument):
    """The arguments do not fit the command; *code* is Docker's exit code for it."""

    def __init__(self, message: str, *, code: int = 125) -> None:
        super().__init__(message)
        self.code = code


class HelpWanted(Exception):
    """``--help`` stood among the flags."""


class Flag(NamedTuple):
    """One flag: its names, what it takes, and the line ``--help`` shows."""

    name: str
    help: str
    short: str = ""
    kind: str = "bool"
    """The word after the name in help; ``bool`` takes no value, ``int`` must be a number."""
    default: str = ""
    many: bool = False
    """Each occurrence adds a value."""
    hidden: bool = False

    @property
    def label(self) -> str:
        """Spell the flag as pflag's errors do."""
        return f"-{self.short}, --{self.name}" if self.short else f"--{self.name}"


class Values:
    """What the flags of one command line were set to."""

    def __init__(self, flags: Sequence[Flag]) -> None:
        self._flags = {flag.name: flag for flag in flags}
        self._given: dict[str, list[str]] = {}

    def put(self, flag: Flag, value: str) -> None:
        """Record one occurrence of *flag*, refusing a value of the wrong kind."""
        if flag.kind == "bool" and value not in _TRUE and value not in _FALSE:
            raise UsageError(_bad(flag, value, "strconv.ParseBool"))
        if flag.kind == "int":
            try:
                int(value, 10)
            except ValueError:
                raise UsageError(_bad(flag, value, "strconv.ParseInt")) from None
        seen = self._given.setdefault(flag.name, [])
        if not flag.many:
            seen.clear()
        seen.append(value)

    def given(self, name: str) -> bool:
        """Tell whether the flag stood on the command line."""
        assert name in self._flags, name  # noqa: S101 - a misspelt flag name is our own fault
        return name in self._given

    def has(self, name: str) -> bool:
        """Tell whether the command has a flag of this name at all."""
        return name in self._flags

    def on(self, name: str) -> bool:
        """Return a switch's state."""
        return self.text(name) in _TRUE

    def text(self, name: str) -> str:
        """Return a flag's last value, or its default."""
        flag = self._flags[name]
        return self._given.get(name, [flag.default])[-1]

    def number(self, name: str) -> int | None:
        """Return a number, or None for a flag that was not given and has no default."""
        text = self.text(name)
        return int(text) if text else None

    def many(self, name: str) -> list[str]:
        """Return all values of a flag that adds up, in order."""
        assert self._flags[name].many, name  # noqa: S101 - as above
        return list(self._given.get(name, []))


def _bad(flag: Flag, value: str, parser: str) -> str:
    return f'invalid argument "{value}" for "{flag.label}" flag: {parser}: parsing "{value}": invalid syntax'


def parse_flags(flags: Sequence[Flag], argv: Sequence[str], *, interspersed: bool = True) -> tuple[Values, list[str]]:
    """Split *argv* into flag values and arguments.

    Without *interspersed* the first argument ends the flags: what follows belongs to the command in the container.
    """
    by_name = {flag.name: flag for flag in flags}
    by_short = {flag.short: flag for flag in flags if flag.short}
    values = Values(flags)
    rest = list(argv)
    arguments: list[str] = []
    while rest:
        word = rest.pop(0)
        if word == "--":
            return values, arguments + rest
        if word.startswith("--"):
            _long(word, rest, by_name, values)
        elif word.startswith("-") and word != "-":
            _bundle(word[1:], rest, by_short, values)
        else:
            arguments.append(word)
            if not interspersed:
                return values, arguments + rest
    return values, arguments


def _long(word: str, rest: list[str], by_name: dict[str, Flag], values: Values) -> None:
    name, equals, value = word[2:].partition("=")
    if not name or name.startswith("-"):
        raise UsageError(f"bad flag syntax: {word}")
    flag = by_name.get(name)
    if flag is None:
        if name == "help":
            raise HelpWanted
        raise UsageError(f"unknown flag: --{name}")
    if equals:
        values.put(flag, value)
    elif flag.kind == "bool":
        values.put(flag, "true")
    elif rest:
        values.put(flag, rest.pop(0))
    else:
        raise UsageError(f"flag needs an argument: --{name}")


def _bundle(letters: str, rest: list[str], by_short: dict[str, Flag], values: Values) -> None:
    while letters:
        letter, tail = letters[0], letters[1:]
        flag = by_short.get(letter)
        if flag is None:
            if letter == "h":
                raise HelpWanted
            raise UsageError(f"unknown shorthand flag: '{letter}' in -{letters}")
        if tail.startswith("="):
            values.put(flag, tail[1:])
            return
        if flag.kind == "bool":
            values.put(flag, "true")
            letters = tail
            continue
        if tail:
            values.put(flag, tail)
        elif rest:
            values.put(flag, rest.pop(0))
        else:
            raise UsageError(f"flag needs an argument: '{letter}' in -{letters}")
        return

"""Path patterns, as in COPY's sources and in `.dockerignore`.

``*`` and ``?`` match within a name, ``[a-z]`` one character of a class, a backslash makes the next character mean
itself, and ``**`` matches across names where the caller wants that.

Matching runs an automaton whose states are the bits of one integer: its time is the pattern's length times the path's,
whatever the pattern.  Names are text with undecodable bytes kept by ``surrogateescape``.
"""

from __future__ import annotations

from collections.abc import Callable

from lamella.errors import InvalidArgument

_Test = Callable[[str], bool]


class Pattern:
    """One compiled pattern; raises InvalidArgument if its syntax is wrong."""

    def __init__(self, text: str, *, deep: bool) -> None:
        """Compile `text`; `deep` gives ``**`` its meaning, else it is ``*`` twice."""
        self.text = text
        self._head = ""
        self._tail = ""
        self._exact: str | None = None
        self._tests: list[_Test | None] = []  # what each state reads to reach the next one; None reads nothing
        self._stays: dict[int, _Test] = {}
        self._skips: list[tuple[int, int]] = []
        self._steps: dict[str, tuple[int, int]] = {}
        self._compile(text, deep=deep)

    def matches(self, path: str) -> bool:
        """Tell whether the whole of `path` is matched."""
        if self._exact is not None:
            return path == self._exact
        if not (path.startswith(self._head) and path.endswith(self._tail)):
            return False
        states = self._closed(1)
        for character in path:
            stay, move = self._steps.get(character) or self._step(character)
            states = self._closed((states & stay) | (states & move) << 1)
            if not states:
                return False
        return bool(states >> len(self._tests) & 1)

    def _closed(self, states: int) -> int:
        """Add the states that are reached without reading anything."""
        for source, target in self._skips:
            if states >> source & 1:
                states |= 1 << target
        return states

    def _step(self, character: str) -> tuple[int, int]:
        """Give the states that `character` stays in and moves on from."""
        stay = move = 0
        for state, test in enumerate(self._tests):
            if test is not None and test(character):
                move |= 1 << state
        for state, test in self._stays.items():
            if test(character):
                stay |= 1 << state
        if len(self._steps) < 4096:
            self._steps[character] = (stay, move)
        return stay, move

    def _compile(self, text: str, *, deep: bool) -> None:
        literal: list[str] = []
        plain = True
        at = 0
        while at < len(text):
            character = text[at]
            at += 1
            if character == "*" and deep and text[at : at + 1] == "*":
                at = self._deep_star(text, at + 1)
            elif character == "*":
                self._star(_within_name)
            elif character == "?":
                self._tests.append(_within_name)
            elif character == "[":
                test, at = _class(text, at)
                self._tests.append(test)
            else:
                if character == "\\":
                    character = text[at : at + 1]
                    at += 1
                    if not character:
                        raise InvalidArgument(f"syntax error in pattern {text!r}: a backslash ends it")
                self._tests.append(_equals(character))
                literal.append(character)
                continue
            if plain:
                self._head = "".join(literal)
            plain = False
            literal.clear()
        if plain:
            self._exact = "".join(literal)
        self._tail = "".join(literal)

    def _star(self, test: _Test) -> None:
        state = len(self._tests)
        self._stays[state] = test
        self._skips.append((state, state + 1))
        self._tests.append(None)

    def _deep_star(self, text: str, at: int) -> int:
        """Compile ``**`` as Docker does, with the slash after it if there is one; give where to go on."""
        first = at == 2
        if text[at : at + 1] == "/":
            at += 1
            slash = True
        else:
            slash = False
        if at == len(text):
            self._star(_anything)
        elif first and not slash and not any(special in text[at:] for special in "*?[\\"):
            self._star(_anything)  # "**text" is any path with that ending, whole names or not
        else:
            # Nothing, or any text that ends in a slash.
            entry = len(self._tests)
            self._tests += [None, _equals("/")]
            self._skips += [(entry, entry + 1), (entry, entry + 2)]
            self._stays[entry + 1] = _anything
        return at


def _anything(_character: str) -> bool:
    return True


def _within_name(character: str) -> bool:
    return character != "/"


def _equals(wanted: str) -> _Test:
    return lambda character: character == wanted


def _class(text: str, at: int) -> tuple[_Test, int]:
    """Compile ``[…]`` from after its bracket; give the test and where to go on."""
    wrong = InvalidArgument(f"syntax error in pattern {text!r}: '[' without its ']'")
    negated = text[at : at + 1] == "^"
    at += negated
    ranges: list[tuple[str, str]] = []
    while True:
        if ranges and text[at : at + 1] == "]":
            break
        low, at = _class_character(text, at, wrong)
        high = low
        if text[at : at + 1] == "-":
            high, at = _class_character(text, at + 1, wrong)
        ranges.append((low, high))
    return (
        lambda character: character != "/" and any(low <= character <= high for low, high in ranges) != negated,
        at + 1,
    )


def _class_character(text: str, at: int, wrong: InvalidArgument) -> tuple[str, int]:
    character = text[at : at + 1]
    if character in ("", "-", "]"):
        raise wrong
    if character == "\\":
        at += 1
        character = text[at : at + 1]
        if not character:
            raise wrong
    return character, at + 1

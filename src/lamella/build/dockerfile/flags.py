"""The ``--name=value`` flags of an instruction, checked against those it knows."""

from __future__ import annotations

from collections.abc import Sequence

from lamella.errors import InvalidArgument


class Flags:
    """The flags given; asking for one that was not gives its empty value."""

    def __init__(
        self, given: Sequence[str], *, texts: Sequence[str], booleans: Sequence[str], lists: Sequence[str]
    ) -> None:
        self._values: dict[str, list[str]] = {}
        for flag in given:
            name, equals, value = flag.partition("=")
            bare = name[2:]
            if bare not in (*texts, *booleans, *lists):
                hint = suggestion(bare, [*texts, *booleans, *lists], exact_case=True)
                raise InvalidArgument(f"unknown flag: {name[:100]}{hint}")
            if bare in self._values and bare not in lists:
                raise InvalidArgument(f"duplicate flag specified: {name}")
            if bare in booleans:
                if equals and not value:
                    raise InvalidArgument(f"missing a value on flag: {name}")
                value = value.lower() or "true"
                if value not in ("true", "false"):
                    raise InvalidArgument(f"expecting boolean value for flag {name}, not: {value}")
            elif not equals:
                raise InvalidArgument(f"missing a value on flag: {name}")
            self._values.setdefault(bare, []).append(value)

    def given(self, name: str) -> bool:
        """Tell whether the flag was written at all."""
        return name in self._values

    def text(self, name: str) -> str:
        """Give the value of a text flag."""
        return self._values.get(name, [""])[0]

    def true(self, name: str) -> bool:
        """Give the value of a boolean flag."""
        return self.text(name) == "true"

    def list(self, name: str) -> tuple[str, ...]:
        """Give the values of a flag that may be repeated."""
        return tuple(self._values.get(name, ()))


def suggestion(word: str, options: Sequence[str], *, exact_case: bool = False) -> str:
    """Give `` (did you mean X?)`` for the nearest option if it is near enough, else nothing."""
    wanted = word if exact_case else word.lower()
    best = ""
    nearest = 3
    if len(wanted) > 40:
        return ""
    for option in sorted(options):
        distance = _distance(wanted, option if exact_case else option.lower())
        if distance < nearest:
            best, nearest = option, distance
    if best and not exact_case and word.islower():
        best = best.lower()
    return f" (did you mean {best}?)" if best else ""


def _distance(first: str, second: str) -> int:
    """Count the insertions, deletions and replacements that lead from one word to the other."""
    row = list(range(len(second) + 1))
    for i, left in enumerate(first, 1):
        previous, row[0] = row[0], i
        for j, right in enumerate(second, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (left != right))
    return row[-1]

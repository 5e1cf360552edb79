"""What may be removed, in a few words: the policy of a garbage collection, as a file and as flags give it.

The file is TOML; ``docs/gc.md`` is its reference.  Whatever is wrong with it is said with the file's name and line.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Final, NamedTuple

from lamella.errors import InvalidArgument
from lamella.model.digest import PREFIX
from lamella.model.units import parse_disk_size

NAME: Final = "gc.toml"
"""The policy's file in ``lamella/`` of a data root."""
DEFAULT_AGE: Final = 3600 * 10**9
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_DURATION: Final = re.compile(r"(?:[0-9]+[smhdw])+", re.ASCII)
_PART: Final = re.compile(r"([0-9]+)([smhdw])", re.ASCII)
_ID: Final = re.compile(r"[0-9a-f]{12,64}", re.ASCII)


class Policy(NamedTuple):
    """What selects images for removal and what protects them; durations in nanoseconds, sizes in bytes."""

    unused_for: int | None = None
    """Images that were not used for so long go."""
    keep: int | None = None
    """So many of each repository, the newest, stay; without `unused_for` and `budget` all others go."""
    budget: int | None = None
    """The least recently used images go until the store takes no more than this on the disk."""
    minimum_age: int = DEFAULT_AGE
    """What was used, or came into the store, less than this ago stays."""
    dangling: bool = True
    """Images without a name that no other was made from go."""
    pins: tuple[str, ...] = ()
    """Names, patterns of names and IDs of images that stay."""
    keep_labels: tuple[str, ...] = ()
    drop_labels: tuple[str, ...] = ()

    @property
    def selects(self) -> bool:
        """Whether the policy says of any image but dangling ones that it may go."""
        return self.unused_for is not None or self.keep is not None or self.budget is not None or bool(self.drop_labels)


def parse_age(text: str) -> int:
    """Parse a duration such as ``90m``, ``36h``, ``30d``, ``2w`` or ``1d12h`` into nanoseconds."""
    if text == "0":
        return 0
    if len(text) > 32 or _DURATION.fullmatch(text) is None:
        raise InvalidArgument(f"{text[:40]!r} is no duration; write 90m, 36h, 30d or 2w")
    return sum(int(number) * _UNITS[unit] for number, unit in _PART.findall(text)) * 10**9


class PolicyError(InvalidArgument):
    """A policy file says what makes no sense."""


_Reader = Callable[[object], object]


def _duration(value: object) -> object:
    if not isinstance(value, str):
        raise InvalidArgument('a duration is due, such as "30d"')
    return parse_age(value)


def _size(value: object) -> object:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    if not isinstance(value, str):
        raise InvalidArgument('a size is due, such as "50GB"')
    return parse_disk_size(value)


def _number(value: object) -> object:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise InvalidArgument("a number is due, 0 or more")
    return value


def _switch(value: object) -> object:
    if not isinstance(value, bool):
        raise InvalidArgument("true or false is due")
    return value


def _texts(value: object) -> object:
    if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
        raise InvalidArgument('a list of texts is due, such as ["debian:12", "ci/*"]')
    return tuple(value)


KEYS: Final[Mapping[str, _Reader]] = {
    "unused-for": _duration,
    "keep": _number,
    "budget": _size,
    "minimum-age": _duration,
    "dangling": _switch,
    "pins": _texts,
    "keep-labels": _texts,
    "drop-labels": _texts,
}


def parse_policy(raw: bytes, source: str) -> Policy:
    """Parse the policy file *source*.  Raises PolicyError with the line."""
    import tomllib

    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise PolicyError(f"{source}, line {line}: not UTF-8") from error
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        match = re.search(r"\(at line ([0-9]+), column [0-9]+\)", str(error))
        line = int(match[1]) if match else text.count("\n") + 1
        what = re.sub(r" \(at .*\)$", "", str(error))
        raise PolicyError(f"{source}, line {line}: {what}") from error
    values: dict[str, object] = {}
    for key, value in table.items():
        where = f"{source}, line {_line_of(key, text)}"
        if key not in KEYS:
            raise PolicyError(f"{where}: unknown key {key[:40]!r}; there are {', '.join(KEYS)}")
        try:
            values[key.replace("-", "_")] = KEYS[key](value)
        except InvalidArgument as error:
            raise PolicyError(f"{where}: {key}: {error}") from error
    return Policy(**values)  # type: ignore[arg-type]


def _line_of(key: str, text: str) -> int:
    pattern = re.compile(rf"\s*\[*\s*[\"']?{re.escape(key)}[\"']?\s*[=.\]]")
    lines = text.splitlines()
    return next((number for number, line in enumerate(lines, 1) if pattern.match(line)), 1)


def is_pinned(pin: str, image: str, names: Sequence[str]) -> bool:
    """Tell whether *pin* is about an image of this ID and these names.

    It is a name, with or without tag, a pattern of such (``*``, ``?``, ``[…]``), or at least twelve digits of an ID.
    """
    digits = pin.removeprefix(PREFIX)
    if (pin.startswith(PREFIX) or _ID.fullmatch(pin)) and image.removeprefix(PREFIX).startswith(digits):
        return True
    for name in names:
        repository = name.partition("@")[0].rpartition(":")[0] if "@" not in name else name.partition("@")[0]
        if fnmatchcase(name, pin) or fnmatchcase(repository, pin):
            return True
    return False


def has_label(wanted: str, labels: Mapping[str, str]) -> bool:
    """Tell whether *labels* have ``key`` or ``key=value``."""
    key, equals, value = wanted.partition("=")
    return key in labels and (not equals or labels[key] == value)

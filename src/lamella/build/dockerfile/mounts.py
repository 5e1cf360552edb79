"""``RUN --mount``: its value of ``key=value`` fields, with Docker's names, aliases, order and complaints."""

from __future__ import annotations

import re
from collections.abc import Callable

from lamella.build.dockerfile.flags import suggestion
from lamella.build.dockerfile.instructions import Mount
from lamella.errors import InvalidArgument
from lamella.model.goprint import quote
from lamella.model.units import parse_size

KINDS = ("bind", "cache", "secret", "ssh", "tmpfs")
SHARING = ("locked", "private", "shared")
_KEYS = (
    "destination", "dst", "env", "from", "gid", "id", "mode", "readonly", "readwrite", "required", "ro", "rw", "sharing",
    "size", "source", "src", "target", "type", "uid",
)  # fmt: skip
_TEXTS = frozenset({"from", "source", "src", "target", "dst", "destination", "id", "env"})
_BARE = frozenset({"readonly", "ro", "readwrite", "rw", "required"})
_TRUTH = {
    **dict.fromkeys(("1", "t", "T", "TRUE", "true", "True"), True),
    **dict.fromkeys(("0", "f", "F", "FALSE", "false", "False"), False),
}
_FIELD = re.compile(r'(?:"((?:[^"]|"")*)"|([^",]*))(?=,|\Z)')
_OWNED = ("secret", "ssh", "cache")


def parse_mount(text: str) -> Mount:
    """Read the value of one ``--mount``, its variables not yet replaced.

    What is given as a variable stays text where the field is one, and is unset otherwise until `expand_mount`.  Raises
    InvalidArgument for what no value of the variables can make right.
    """
    return _read(text, None)


def expand_mount(mount: Mount, expanded: Callable[[str], str]) -> Mount:
    """Give the mount with its variables replaced by `expanded`, all of its fields read and checked."""
    return _read(mount.text, expanded)


def _fields(text: str) -> list[str]:
    """Split at commas, as a line of CSV: a field in double quotes may hold some, and two quotes stand for one."""
    if '"' not in text:
        return text.split(",")
    fields: list[str] = []
    at = 0
    while True:
        match = _FIELD.match(text, at)
        if match is None:
            raise InvalidArgument(f"failed to parse csv mounts: a quote out of place in {quote(text[:200])}")
        fields.append(match[2] if match[1] is None else match[1].replace('""', '"'))
        if match.end() == len(text):
            return fields
        at = match.end() + 1


def _read(text: str, expanded: Callable[[str], str] | None) -> Mount:
    """Read all fields; without `expanded` what is a variable is passed over, unless the field is a text."""
    mount = Mount(text=text)
    knows_kind = True
    for field in _fields(text):
        name, equals, value = field.partition("=")
        key = name.lower()
        if key not in _KEYS:
            raise _unknown_key(key, field)
        if not equals:
            if key not in _BARE:
                raise InvalidArgument(f"invalid field '{field[:100]}' must be a key=value pair")
            value = "true"
        elif expanded is not None:
            value = expanded(value)
        elif "$" in value and key == "from" and "$" in value[:-1]:
            raise InvalidArgument("'from' doesn't support variable expansion, define alias stage instead")
        elif "$" in value and key not in _TEXTS:
            knows_kind = knows_kind and key != "type"
            continue
        if knows_kind or key not in ("required", "size"):
            mount = _set(mount, key, value, field)
    if expanded is not None or "$" not in text:
        _check(mount)
    return mount


def _set(mount: Mount, key: str, value: str, field: str) -> Mount:
    """Set what one field says; as with Docker, a field that only some kinds have comes after ``type``."""
    match key:
        case "from":
            return mount._replace(stage=value)
        case "source" | "src":
            return mount._replace(source=value)
        case "target" | "dst" | "destination":
            return mount._replace(target=value)
        case "id":
            return mount._replace(id=value)
        case "env":
            return mount._replace(env=value)
        case "type":
            if value.lower() not in KINDS:
                raise InvalidArgument(
                    f"unsupported mount type {quote(value[:100])}{suggestion(value, KINDS, exact_case=True)}"
                )
            return mount._replace(kind=value.lower())
        case "readonly" | "ro":
            return mount._replace(writable=not _truth(key, value))
        case "readwrite" | "rw":
            return mount._replace(writable=_truth(key, value))
        case "required":
            if mount.kind not in ("secret", "ssh"):
                raise InvalidArgument(f"unexpected key '{key}' for mount type '{mount.kind}'")
            return mount._replace(required=_truth(key, value))
        case "size":
            if mount.kind != "tmpfs":
                raise InvalidArgument(f"unexpected key '{key}' for mount type '{mount.kind}'")
            try:
                return mount._replace(size=parse_size(value))
            except InvalidArgument as error:
                raise InvalidArgument(f"invalid value for {key}: {value[:100]}") from error
        case "sharing":
            if value.lower() not in SHARING:
                raise InvalidArgument(
                    f"unsupported sharing value {quote(value[:100])}{suggestion(value, SHARING, exact_case=True)}"
                )
            return mount._replace(sharing=value.lower())
        case "mode":
            return mount._replace(mode=_number(key, value, 8))
        case "uid":
            return mount._replace(uid=_number(key, value, 10))
        case "gid":
            return mount._replace(gid=_number(key, value, 10))
        case _:
            raise _unknown_key(key, field)


def _unknown_key(key: str, field: str) -> InvalidArgument:
    hint = suggestion(key, _KEYS, exact_case=True)
    return InvalidArgument(f"unexpected key '{key[:100]}' in '{field[:100]}'{hint}")


def _truth(key: str, value: str) -> bool:
    if value not in _TRUTH:
        raise InvalidArgument(f"invalid value for {key}: {value[:100]}")
    return _TRUTH[value]


def _number(key: str, value: str, base: int) -> int:
    if re.fullmatch(r"[0-7]{1,40}" if base == 8 else r"[0-9]{1,40}", value, re.ASCII) is None or int(value, base) >> 32:
        raise InvalidArgument(f"invalid value {value[:100]} for {key}")
    return int(value, base)


def _check(mount: Mount) -> None:
    """Refuse fields that do not go together."""
    if mount.kind not in _OWNED:
        for name, value in (("mode", mount.mode), ("uid", mount.uid), ("gid", mount.gid)):
            if value is not None:
                raise InvalidArgument(f"{name} not allowed for {quote(mount.kind)} type mounts")
    if mount.kind == "secret":
        if mount.stage:
            raise InvalidArgument("secret mount should not have a from")
        if mount.sharing:
            raise InvalidArgument("secret mount should not define sharing")
        if not (mount.source or mount.target or mount.id):
            raise InvalidArgument("invalid secret mount. one of source, target required")
        if mount.source and mount.id:
            raise InvalidArgument("both source and id can't be set")
    if mount.sharing and mount.kind != "cache":
        raise InvalidArgument(f"invalid cache sharing set for {mount.kind} mount")

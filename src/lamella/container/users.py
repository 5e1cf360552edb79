"""Users and groups of an image, looked up in its own ``/etc/passwd`` and ``/etc/group``.

The files are hostile: opened inside the root, regular, bounded.  A number is always a number, never a name.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from lamella.errors import InvalidArgument, NotFound
from lamella.fs.rooted import Root

FILE_LIMIT: Final = 10 << 20
_LINE_LIMIT: Final = 1 << 20
_ID_LIMIT: Final = 2**31 - 1


class User(NamedTuple):
    """Whom a process runs as."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str


class _Passwd(NamedTuple):
    name: bytes
    uid: int
    gid: int
    home: bytes


class _Group(NamedTuple):
    name: bytes
    gid: int
    members: tuple[bytes, ...]


def resolve_user(root: Root, text: str, group_add: Sequence[str] = ()) -> User:
    """Look up ``user[:group]`` as Docker does; raise NotFound for a name that the image does not know.

    Empty is root.  A number needs no entry.  With a group named, that is the only one; without, the user's
    supplementary groups are added, and *group_add* always.
    """
    user, colon, group = text.partition(":")
    number = parse_id(user or "0", "user")
    entry = _find_passwd(root, user.encode("utf-8", "surrogateescape"), number)
    if entry is None and number is None:
        raise NotFound(f"unable to find user {user}: no matching entries in passwd file")
    uid = entry.uid if entry is not None else number or 0
    gid = entry.gid if entry is not None else 0
    home = entry.home.decode("utf-8", "surrogateescape") if entry is not None and entry.home else "/"
    groups: list[int] = []
    if colon and group:
        gid = resolve_group(root, group)
    elif entry is not None:
        groups = [item.gid for item in _groups(root) if entry.name in item.members]
    groups += [resolve_group(root, item) for item in group_add]
    return User(uid, gid, tuple(dict.fromkeys(groups)), home)


def resolve_group(root: Root, text: str) -> int:
    """Look up one group by name or number; raise NotFound for a name that the image does not know."""
    number = parse_id(text, "group")
    if number is not None:
        return number
    name = text.encode("utf-8", "surrogateescape")
    for group in _groups(root):
        if group.name == name:
            return group.gid
    raise NotFound(f"unable to find group {text}: no matching entries in group file")


def parse_id(text: str, what: str) -> int | None:
    """Return the number *text* is, None if it is a name; raise InvalidArgument for a number out of range."""
    if not (text.isascii() and text.removeprefix("-").removeprefix("+").isdecimal()):
        return None
    if not text.isdecimal() or len(text) > 10 or int(text) > _ID_LIMIT:
        raise InvalidArgument(f"{what} {text:.32} is out of range: uids and gids must be in range 0-{_ID_LIMIT}")
    return int(text)


def _find_passwd(root: Root, name: bytes, number: int | None) -> _Passwd | None:
    for fields in _entries(root, b"etc/passwd", 6):
        uid, gid = _id_field(fields[2]), _id_field(fields[3])
        if uid is None or gid is None:
            continue
        if (uid == number) if number is not None else (fields[0] == name):
            return _Passwd(fields[0], uid, gid, fields[5])
    return None


def _groups(root: Root) -> Iterator[_Group]:
    for fields in _entries(root, b"etc/group", 3):
        gid = _id_field(fields[2])
        if gid is not None:
            members = tuple(filter(None, fields[3].split(b","))) if len(fields) > 3 else ()
            yield _Group(fields[0], gid, members)


def _entries(root: Root, path: bytes, least: int) -> Iterator[list[bytes]]:
    """Yield the fields of each entry; a file that is not there has none."""
    try:
        content = root.read_file(path, FILE_LIMIT)
    except (FileNotFoundError, NotADirectoryError):
        return
    for line in content.split(b"\n"):
        if len(line) > _LINE_LIMIT:
            raise InvalidArgument(f"/{path.decode()} of the image has a line of {len(line)} bytes")
        stripped = line.strip()
        fields = stripped.split(b":")
        if stripped and not stripped.startswith(b"#") and len(fields) >= least:
            yield fields


def _id_field(field: bytes) -> int | None:
    if not field.isdigit() or len(field) > 10:
        return None
    number = int(field)
    return number if number <= _ID_LIMIT else None

"""Whiteouts: how a layer tar and an overlay directory say "deleted" and "opaque".

In a tar a deletion of ``d/n`` is an empty file ``d/.wh.n`` and an opaque directory ``d`` holds
``d/.wh..wh..opq``; in an overlay upper directory they are a character device 0:0 and an extended attribute.
This module knows the names; apply and diff do the conversion.
"""

from __future__ import annotations

import stat
from typing import Final, NamedTuple

from lamella.changeset.entry import show
from lamella.errors import InvalidArgument

PREFIX: Final = b".wh."
META_PREFIX: Final = b".wh..wh."
OPAQUE_NAME: Final = b".wh..wh..opq"
OPAQUE_XATTR: Final = b"trusted.overlay.opaque"
OVERLAY_PREFIXES: Final = (b"trusted.overlay.", b"user.overlay.")
# What says that a directory cannot be understood by walking it.
FOREIGN_XATTRS: Final = frozenset(
    prefix + name for prefix in OVERLAY_PREFIXES for name in (b"redirect", b"metacopy", b"whiteout", b"xattr.whiteouts")
)


class Whiteout(NamedTuple):
    """What a ``.wh.`` member means: *hidden* is the deleted path, or the directory that is opaque."""

    hidden: bytes
    opaque: bool


def may_be_whiteout(path: bytes) -> bool:
    """Tell quickly whether *path* has any component that begins with ``.wh.``."""
    return path.startswith(PREFIX) or b"/" + PREFIX in path


def parse_whiteout(path: bytes) -> Whiteout | None:
    """Read the meaning of a cleaned path for which `may_be_whiteout` holds; None means AUFS's own records.

    Names that would hide ``.``, ``..`` or nothing, and whiteouts used as directories, raise InvalidArgument.
    """
    parent, _, last = path.rpartition(b"/")
    components = path.split(b"/")
    if any(part.startswith(META_PREFIX) for part in components[:-1]):
        return None
    if any(part.startswith(PREFIX) for part in components[:-1]):
        raise InvalidArgument(f"member {show(path)} uses a whiteout as a directory")
    if last == OPAQUE_NAME:
        return Whiteout(parent, opaque=True)
    if last.startswith(META_PREFIX):
        return None
    name = last[len(PREFIX) :]
    if name in {b"", b".", b".."}:
        raise InvalidArgument(f"whiteout {show(path)} names nothing that could be hidden")
    return Whiteout(parent + b"/" + name if parent else name, opaque=False)


def whiteout_name(path: bytes) -> bytes:
    """Spell the member that hides *path*."""
    parent, slash, name = path.rpartition(b"/")
    return parent + slash + PREFIX + name


def is_whiteout(mode: int, rdev: int) -> bool:
    """Tell whether an inode of an overlay directory is a whiteout."""
    return rdev == 0 and stat.S_ISCHR(mode)

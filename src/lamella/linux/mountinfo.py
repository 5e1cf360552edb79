"""The kernel's mount table, parsed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple


class MountEntry(NamedTuple):
    """One line of ``/proc/PID/mountinfo``."""

    id: int
    parent: int
    root: str
    target: str
    fstype: str
    source: str
    options: str
    super_options: str
    device: str = ""
    """``MAJOR:MINOR``."""


def read_mountinfo(pid: str | int = "self") -> list[MountEntry]:
    """List the mounts *pid* sees, in the kernel's order (later ones cover earlier ones)."""
    with open(f"/proc/{pid}/mountinfo", "rb") as table:
        return parse_mountinfo(table.read())


def parse_mountinfo(text: bytes) -> list[MountEntry]:
    """Parse the table's text (proc_pid_mountinfo(5))."""
    entries = []
    for line in text.splitlines():
        # "id parent maj:min root target options [optional fields…] - fstype source super-options"
        before, _, after = line.partition(b" - ")
        fields = before.split(b" ")
        tail = after.split(b" ", 2)
        fstype, source, super_options = (*tail, b"", b"", b"")[:3]
        entries.append(
            MountEntry(
                int(fields[0]),
                int(fields[1]),
                _unescape(fields[3]),
                _unescape(fields[4]),
                _unescape(fstype),
                _unescape(source),
                _unescape(fields[5]),
                _unescape(super_options),
                os.fsdecode(fields[2]),
            )
        )
    return entries


def _unescape(field: bytes) -> str:
    r"""Undo the kernel's ``\040`` spelling of blanks and backslashes."""
    if b"\\" not in field:
        return os.fsdecode(field)
    head, *rest = field.split(b"\\")
    parts = [head]
    for piece in rest:
        if len(piece) >= 3 and piece[:3].isdigit():
            parts.append(bytes([int(piece[:3], 8) & 0xFF]) + piece[3:])
        else:
            parts.append(b"\\" + piece)
    return os.fsdecode(b"".join(parts))


def is_mounted(path: Path) -> bool:
    """Tell whether *path* itself is a mount point in this mount namespace."""
    raw = os.fsencode(path)
    parent, name = os.path.split(os.path.abspath(raw))
    try:
        own = os.lstat(raw)
    except FileNotFoundError:
        return False
    if not name or own.st_dev != os.lstat(parent).st_dev:
        return True
    # A bind mount within one file system shows only in the table, where every target is spelled without links.
    target = os.fsdecode(os.path.join(os.path.realpath(parent), name))
    return any(entry.target == target for entry in read_mountinfo())

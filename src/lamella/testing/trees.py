"""Directory trees as values: described whole so that two can be compared, and built from a description.

For tests only: a tree is read into memory with all its content.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import NamedTuple

from lamella.fs.walk import walk


class Node(NamedTuple):
    """What an image says of one path; ``linked`` is the first path, in byte order, of the same inode."""

    mode: int
    uid: int
    gid: int
    mtime: int
    rdev: int
    content: bytes
    xattrs: tuple[tuple[str, bytes], ...]
    linked: bytes


def flatten(top: Path) -> dict[bytes, Node]:
    """Describe everything below *top*: times in whole seconds, those of directories left out, no overlay attributes.

    Directories' times are no part of it because reading a merged tree may give those of any layer.
    """
    found: dict[bytes, Node] = {}
    first: dict[tuple[int, int], bytes] = {}
    fd = os.open(top, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for entry in walk(fd):
            status = entry.stat
            place = b"/proc/self/fd/%d/%s" % (entry.dir_fd, entry.name)
            directory = stat.S_ISDIR(status.st_mode)
            content = b""
            if stat.S_ISREG(status.st_mode):
                with open(place, "rb") as file:
                    content = file.read()
            elif stat.S_ISLNK(status.st_mode):
                content = os.readlink(place)
            xattrs = tuple(
                (key, os.getxattr(place, key, follow_symlinks=False))
                for key in sorted(os.listxattr(place, follow_symlinks=False))
                if not key.startswith("trusted.overlay.")
            )
            linked = entry.path
            if not directory and status.st_nlink > 1:
                linked = first.setdefault((status.st_dev, status.st_ino), entry.path)
            found[entry.path] = Node(
                status.st_mode,
                status.st_uid,
                status.st_gid,
                0 if directory else int(status.st_mtime),
                status.st_rdev,
                content,
                xattrs,
                linked,
            )
    finally:
        os.close(fd)
    return found

"""Flattened trees as plain values, so that two of them can be compared whole."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path
from typing import NamedTuple


class Node(NamedTuple):
    """All that an image says of one path."""

    kind: str
    mode: int
    owner: tuple[int, int]
    mtime: int
    content: str
    xattrs: tuple[tuple[str, bytes], ...]


def flatten(root: Path) -> dict[str, Node]:
    """Read the tree below *root*: path to type, mode, owner, mtime in seconds, content, xattrs (not overlayfs's own)."""
    nodes: dict[str, Node] = {}
    links: dict[tuple[int, int], str] = {}
    for directory, names, files in os.walk(root):
        for name in sorted(names + files):
            path = Path(directory, name)
            at = path.lstat()
            kind = stat.filemode(at.st_mode)[0]
            content = ""
            if stat.S_ISLNK(at.st_mode):
                content = os.readlink(path)
            elif stat.S_ISREG(at.st_mode):
                content = hashlib.sha256(path.read_bytes()).hexdigest()
                if at.st_nlink > 1:
                    first = links.setdefault((at.st_dev, at.st_ino), str(path.relative_to(root)))
                    content += f" linked with {first}"
            elif stat.S_ISCHR(at.st_mode) or stat.S_ISBLK(at.st_mode):
                content = f"{os.major(at.st_rdev)}:{os.minor(at.st_rdev)}"
            names_of = [] if stat.S_ISLNK(at.st_mode) else os.listxattr(path, follow_symlinks=False)
            xattrs = tuple(
                (key, os.getxattr(path, key, follow_symlinks=False))
                for key in sorted(names_of)
                if not key.startswith("trusted.overlay.")
            )
            mtime = int(at.st_mtime)
            nodes[str(path.relative_to(root))] = Node(
                kind, stat.S_IMODE(at.st_mode), (at.st_uid, at.st_gid), mtime, content, xattrs
            )
    return nodes


def fingerprint(root: Path) -> str:
    """Hash the tree below *root*, every byte and every attribute that :func:`flatten` sees."""
    return hashlib.sha256(repr(sorted(flatten(root).items())).encode("utf-8", "surrogateescape")).hexdigest()

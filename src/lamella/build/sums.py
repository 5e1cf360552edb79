"""Checksums of what COPY and ADD copy, as Docker's classic builder computes them, so that both share a cache.

A file's is the sha256 of the fields of its tar header, names directly followed by values, and its data; no time is
among them, so that touching a file changes nothing.  A directory's is that of the sorted sums of all below it.

Where Docker's rule is blind, this one differs and the cache is not shared: a symbolic link below a directory counts
with its own text, not as the file it leads to, a source that is a link to a file of another name counts its name, and
the second name of a file counts its data.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from hashlib import sha256

from lamella.build.context import SourceTree
from lamella.build.selection import Selection, walk_selected
from lamella.changeset.xattrs import travels

_EVERYTHING = Selection()
_CAPABILITY = "security.capability"
_PIECE = 1 << 20
_KINDS = {
    stat.S_IFREG: b"0",
    stat.S_IFLNK: b"2",
    stat.S_IFCHR: b"3",
    stat.S_IFBLK: b"4",
    stat.S_IFDIR: b"5",
    stat.S_IFIFO: b"6",
}


def source_sum(
    tree: SourceTree, path: bytes, status: os.stat_result, name: bytes, selection: Selection = _EVERYTHING
) -> str:
    """Give ``file:<hex>`` or ``dir:<hex>`` of the source at a clean path that was asked for as `name`."""
    if not stat.S_ISDIR(status.st_mode):
        parent, _, last = path.rpartition(b"/")
        fd = tree.root.open(parent or b".", os.O_PATH | os.O_DIRECTORY)
        try:
            digest = entry_sum(tree, path, fd, last, status)
        finally:
            os.close(fd)
        if last != name:
            digest = sha256(digest.encode() + b"\0" + name).hexdigest()
        return f"file:{digest}"
    sums = [
        os.fsdecode(entry.path) if entry.implied else entry_sum(tree, entry.path, entry.dir_fd, entry.name, entry.stat)
        for entry in walk_selected(tree, path, selection)
    ]
    if selection.wanted is not None:
        # The same files kept from another directory on make another image.
        return joined_sum("dir", [os.fsdecode(path), *sorted(sums)])
    if path:
        sums.append(entry_sum(tree, path, -1, b"", status))
    return joined_sum("dir", sorted(sums))


def text_sum(name: bytes, mode: int, content: bytes) -> str:
    """Give ``file:<hex>`` of a file that stands in the Dockerfile itself."""
    digest = sha256(_header(name, mode, 0, 0, len(content), b"0", b"", 0))
    digest.update(content)
    return f"file:{digest.hexdigest()}"


def joined_sum(kind: str, sums: Iterable[str]) -> str:
    """Give the sum of sums, under a prefix."""
    joined = ",".join(sums).encode(errors="surrogateescape")
    return f"{kind}:{sha256(joined).hexdigest()}"


def entry_sum(tree: SourceTree, path: bytes, dir_fd: int, name: bytes, status: os.stat_result) -> str:
    """Give the sum of one file, link or directory."""
    kind = stat.S_IFMT(status.st_mode)
    link = b""
    flag = _KINDS[kind]
    size = status.st_size if kind == stat.S_IFREG else 0
    device = status.st_rdev if kind in (stat.S_IFCHR, stat.S_IFBLK) else 0
    uid, gid = (0, 0) if tree.is_context else (status.st_uid, status.st_gid)
    if kind == stat.S_IFDIR:
        path += b"/"
    elif kind == stat.S_IFLNK:
        link = os.readlink(name, dir_fd=dir_fd)
    elif first := tree.first_link(path, status):
        # Docker's client sends the second name of a file as a hard link, without data.
        flag, link, size = b"1", first, 0
    digest = sha256(_header(path, stat.S_IMODE(status.st_mode), uid, gid, size, flag, link, device))
    if kind == stat.S_IFREG:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=dir_fd)
        try:
            for key, value in read_attributes(tree, fd):
                digest.update(key.encode() + value)
            left = status.st_size
            while left and (piece := os.read(fd, min(left, _PIECE))):
                digest.update(piece)
                left -= len(piece)
        finally:
            os.close(fd)
    elif not tree.is_context and dir_fd >= 0:
        for key, value in read_attributes(tree, named(dir_fd, name)):
            digest.update(key.encode() + value)
    return digest.hexdigest()


def read_attributes(tree: SourceTree, file: int | bytes) -> list[tuple[str, bytes]]:
    """Read the extended attributes that are copied: from a context capabilities only, as Docker's client sends it.

    `file` is a descriptor, or a path whose last name is not followed.
    """
    try:
        if tree.is_context:
            return [(_CAPABILITY, os.getxattr(file, _CAPABILITY))]
        keys = os.listxattr(file) if isinstance(file, int) else os.listxattr(file, follow_symlinks=False)
        if not keys:
            return []
        follow = isinstance(file, int)
        return [
            (key, os.getxattr(file, key, follow_symlinks=follow)) for key in sorted(keys) if travels(os.fsencode(key))
        ]
    except OSError:
        return []  # none, or a file system without attributes


def named(dir_fd: int, name: bytes) -> bytes:
    """Give a path for what only takes paths; the last name is the caller's not to follow."""
    return b"/proc/self/fd/%d/%s" % (dir_fd, name)


def _header(path: bytes, mode: int, uid: int, gid: int, size: int, flag: bytes, link: bytes, device: int) -> bytes:
    return (
        b"name%bmode%duid%dgid%dsize%dtypeflag%blinkname%bunamegnamedevmajor%ddevminor%d"
        % (path, mode, uid, gid, size, flag, link, os.major(device), os.minor(device))
    )  # fmt: skip

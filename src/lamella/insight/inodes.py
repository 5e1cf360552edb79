"""An inode by its number, as ``find``, ``stat`` and the audit log spell it, looked for by every name it may have."""

from __future__ import annotations

import os
import re
from typing import Final

from lamella.linux.mountinfo import read_mountinfo

_INODE: Final = re.compile(r"([0-9]+):([0-9]+)", re.ASCII)
_DEVICE_INODE: Final = re.compile(r"([0-9a-fA-F]+):([0-9a-fA-F]+):([0-9]+)", re.ASCII)
_AUDIT_DEVICE: Final = re.compile(r"\bdev=([0-9a-fA-F]+):([0-9a-fA-F]+)", re.ASCII)
_AUDIT_INODE: Final = re.compile(r"\b(?:inode|ino)=([0-9]+)", re.ASCII)


def device_of(text: str) -> tuple[int, int] | None:
    """Parse ``DEVICE:INODE``, ``MAJOR:MINOR:INODE`` or an audit record."""
    if match := _INODE.fullmatch(text):
        return int(match[1]), int(match[2])
    if match := _DEVICE_INODE.fullmatch(text):
        # The audit log spells both numbers in two or more hexadecimal digits, mount tables in decimal ones.
        base = 16 if len(match[1]) > 1 and len(match[2]) > 1 else 10
        if any(entry.device == f"{match[1]}:{match[2]}" for entry in read_mountinfo()):
            base = 10
        try:
            return os.makedev(int(match[1], base), int(match[2], base)), int(match[3])
        except ValueError:
            return None
    device, inode = _AUDIT_DEVICE.search(text), _AUDIT_INODE.search(text)
    if device is not None and inode is not None:
        return os.makedev(int(device[1], 16), int(device[2], 16)), int(inode[1])
    return None


def device_at(path: str) -> int | None:
    """Return the device that *path* lies on, None if there is nothing."""
    try:
        return os.stat(path).st_dev
    except OSError:
        return None


def find_inode(top: str, inode: int) -> str | None:
    """Return a path below *top*, or itself, with this inode number, on the same file system and through no link."""
    try:
        status = os.lstat(top)
    except OSError:
        return None
    if status.st_ino == inode:
        return top
    mounted = {entry.target for entry in read_mountinfo()} - {top}
    waiting = [top]
    while waiting:
        directory = waiting.pop()
        try:
            # A mount point lists the number that it covers; what is mounted there has numbers of its own.
            if directory in mounted:
                continue
            with os.scandir(directory) as entries:
                for entry in entries:
                    if entry.inode() == inode:
                        return entry.path
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
        except OSError:
            continue
    return None

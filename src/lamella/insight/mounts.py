"""A container's mounts as the kernel has them."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from lamella.readers.base import ContainerRecord


class MountStory(msgspec.Struct, frozen=True):
    """A mount as the kernel has it."""

    seen_by: str
    """``self``, or the process ID in whose mount namespace it is."""
    id: int
    target: str
    fstype: str
    options: str
    super_options: str


def find_mounts(container: ContainerRecord, writable: Path | None) -> tuple[MountStory, ...]:
    """Return where a container's file system is mounted: as this process sees it, then as its own process does."""
    from lamella.linux.mountinfo import read_mountinfo

    found: list[MountStory] = []
    for seen_by in ("self", *([str(container.pid)] if container.pid else [])):
        try:
            entries = read_mountinfo(seen_by)
        except (OSError, ValueError):  # the process has ended, or is not ours to ask
            continue
        for entry in entries:
            upper = option(entry.super_options, "upperdir")
            ours = container.merged is not None and entry.target == os.fspath(container.merged)
            if upper and writable is not None and os.path.isabs(upper):
                ours = ours or upper == os.fspath(writable)
            if ours or (seen_by != "self" and entry.target == "/" and entry.fstype == "overlay"):
                found.append(
                    MountStory(seen_by, entry.id, entry.target, entry.fstype, entry.options, entry.super_options)
                )
    return tuple(found)


def option(options: str, key: str) -> str:
    """Return one of a mount's options, empty if it is not there."""
    for item in options.split(","):
        name, _, value = item.partition("=")
        if name == key:
            return value
    return ""

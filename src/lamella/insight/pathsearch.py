"""One path looked up in every image and container: which versions of it there are, and who has which."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

from lamella.errors import LamellaError
from lamella.insight.history import build_steps
from lamella.insight.stack import clean, kind_of
from lamella.insight.subject import open_stack
from lamella.readers.base import StoredLayer, StoreReader


class Holder(NamedTuple):
    """An image or container."""

    kind: str
    id: str
    name: str


class Version(NamedTuple):
    """What some of them show at the path: the same file of the same layer."""

    path: bytes
    """Where links on the way led."""
    layer: StoredLayer
    kind: str
    status: os.stat_result
    target: bytes
    """Of a link."""
    holders: Sequence[Holder]


class Found(NamedTuple):
    """All versions, the one that most have first."""

    path: bytes
    versions: Sequence[Version]
    absent: Sequence[Holder]
    unreadable: Sequence[tuple[Holder, str]]
    """Those that cannot be looked into, and why."""


def find_everywhere(reader: StoreReader, path: bytes) -> Found:
    """Look *path* up in all images and containers, without following a link at its end.

    Raises InvalidArgument for a path with a null byte.
    """
    clean(path)
    stacks: dict[tuple[str, ...], list[Holder]] = {}
    incomplete: list[tuple[Holder, str]] = []
    steps = build_steps(reader.images())
    for image in reader.images():
        if image.id in steps:
            continue
        holder = Holder("image", image.id, image.names[0] if image.names else "")
        if len(image.layers) < len(image.diff_ids):
            incomplete.append((holder, "a layer is missing"))
        else:
            stacks.setdefault(image.layers, []).append(holder)
    for container in reader.containers():
        stacks.setdefault(container.layers, []).append(Holder("container", container.id, container.name))
    versions: dict[tuple[str, bytes], Version] = {}
    absent: list[Holder] = []
    for layers, holders in stacks.items():
        try:
            found = _look(reader, layers, path)
        except (LamellaError, OSError) as error:
            incomplete += [(holder, str(error)) for holder in holders]
            continue
        if found is None:
            absent += holders
            continue
        key = (found.layer.id, found.path)
        known = versions.get(key)
        versions[key] = found._replace(holders=[*(known.holders if known is not None else ()), *holders])
    ordered = sorted(versions.values(), key=lambda version: (-len(version.holders), version.layer.id))
    return Found(path, ordered, absent, incomplete)


def _look(reader: StoreReader, layers: Sequence[str], path: bytes) -> Version | None:
    stored = [layer for name in layers if (layer := reader.find_layer(name)) is not None]
    if not stored:
        return None
    with open_stack(stored) as stack:
        found = stack.find(path)
        if found is None:
            return None
        target = b""
        if stat.S_ISLNK(found.status.st_mode):
            with suppress(OSError):
                target = stack.readlink(found.layer, found.path)
        layer = stored[stack.origin(found)]
    return Version(found.path, layer, kind_of(found.status.st_mode), found.status, target, ())

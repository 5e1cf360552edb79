"""Mounts below the data-root: each is somebody's."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from lamella.insight.findings import Finding
from lamella.insight.survey import Survey
from lamella.linux.locks import is_locked
from lamella.model.ids import CacheID, is_cache_id
from lamella.store.smallfiles import list_names


def check_mounts(survey: Survey) -> Iterator[Finding]:
    """Check that each layer that is mounted is mounted for a container, a running command or a running dockerd."""
    if survey.around.dockerd is not None:
        return
    for entry in survey.around.own_mounts:
        target = Path(entry.target)
        name = _layer_of(survey, target)
        if name is None or is_held(survey, name) or survey.around.used_elsewhere(target):
            continue
        text = f"layer directory {name[:12]} is mounted, but nobody uses it"
        yield Finding("mount-stale", str(target), text, (str(target),))


def check_mount_points(survey: Survey) -> Iterator[Finding]:
    """Check that no mount point is left over."""
    if survey.around.dockerd is not None or survey.driver != "overlay2":
        return
    mounted = {entry.target for entry in survey.around.own_mounts}
    for directory in survey.directories.values():
        path = directory.path / "merged"
        if "merged" not in directory.names or "merged" in directory.wrong or str(path) in mounted:
            continue
        if is_held(survey, directory.name) or survey.around.in_mounts(directory.name):
            continue
        if not os.path.lexists(path):
            continue
        text = f"layer directory {directory.name[:12]} has a mount point, but is not mounted"
        yield Finding("mount-point-left", str(path), text, (str(path),))


def is_held(survey: Survey, name: CacheID) -> bool:
    """Tell whether somebody is on record as using a layer's mount, or a running command holds it."""
    place = survey.own / "mounts" / name
    names = list_names(place)
    if any(is_locked(place / item) for item in names if item.startswith("live-") or item == "lock"):
        return True
    return any(holder in survey.containers or len(holder) != 64 for holder in list_names(place / "holders"))


def _layer_of(survey: Survey, target: Path) -> CacheID | None:
    parts = target.relative_to(survey.root).parts
    if len(parts) == 3 and parts[0] == "overlay2" and parts[2] == "merged" and is_cache_id(parts[1]):
        return CacheID(parts[1])
    if len(parts) == 4 and parts[:2] == ("lamella", "mounts") and parts[3] == "view" and is_cache_id(parts[2]):
        return CacheID(parts[2])
    return None


CHECKS = (check_mounts, check_mount_points)

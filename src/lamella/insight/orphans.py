"""What lies in a data-root without belonging to anything, each with the reasons why it is safe to say so.

Checking reports it, healing and reclaiming move it to quarantine.  What an operation in progress, a running dockerd,
BuildKit or any process's mounts may need is spared, and while some layer or container misses its directory, no
directory is called an orphan: it may be the one.
"""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from lamella.insight.survey import RawContainer, RawLayer, Survey
from lamella.model.digest import ChainID, hex_of
from lamella.model.ids import CacheID
from lamella.store.mountdb import write_set_name
from lamella.store.smallfiles import is_directory, list_names


class Orphan(NamedTuple):
    """One thing that belongs to nothing: the finding's code, what it is, why, and the paths that go together."""

    code: str
    text: str
    proof: tuple[str, ...]
    paths: tuple[Path, ...]
    """In the order in which they are to be moved away, what others point to last."""


def find_orphans(survey: Survey) -> Iterator[Orphan]:
    """Yield all that nothing needs."""
    yield from orphaned_directories(survey)
    yield from left_short_names(survey)
    yield from left_write_sets(survey)
    yield from unfinished_removals(survey)
    yield from left_drafts(survey)
    yield from left_containers(survey)
    yield from orphaned_mount_records(survey)
    yield from unused_layers(survey)


def is_sure(survey: Survey) -> bool:
    """Tell whether every layer and container has its directory, so that one without a name is surely nobody's."""
    for layer in survey.layers.values():
        if layer.cache_id is None or layer.cache_id not in survey.directories or layer.cache_id in survey.claimed_twice:
            return False
    for mount in survey.mounts.values():
        wanted = [name for name in (mount.mount_id, mount.init_id) if name is not None]
        if mount.faults or not wanted or any(name not in survey.directories for name in wanted):
            return False
    for chains in survey.image_chains.values():
        if any(chain not in survey.layers for chain in chains):
            return False
    return all(
        name in survey.mounts or survey.containers[name].config is None or _foreign(survey, survey.containers[name])
        for name in survey.containers
    )


def live_directories(survey: Survey) -> set[CacheID]:
    """Return every directory that something needs, itself or for another that stands on it."""
    around = survey.around
    links: dict[CacheID, list[str]] = {}
    for link, name in survey.short_names.items():
        links.setdefault(name, []).append(link)
    live = {
        directory.name
        for directory in survey.directories.values()
        if directory.name in survey.named
        or around.is_pooled(directory.name)
        or around.in_buildkit(directory.name)
        or around.may_be_new(directory.path)
        or around.in_mounts(
            directory.name, *links.get(directory.name, ()), *([directory.link] if directory.link else ())
        )
    }
    waiting = list(live)
    while waiting:
        for entry in survey.directories[waiting.pop()].lower or ():
            below = survey.resolve(entry)
            if below is not None and below not in live and below in survey.directories:
                live.add(below)
                waiting.append(below)
    return live


def orphaned_directories(survey: Survey) -> Iterator[Orphan]:
    """Yield layer directories that no record, no ``lower``, no builder and no mount names."""
    if not is_sure(survey):
        return
    live = live_directories(survey)
    counts = (len(survey.layers), len(survey.mounts), len(survey.directories))
    for directory in survey.directories.values():
        if directory.name in live or not os.path.lexists(directory.path):
            continue
        links = [link for link, target in survey.short_names.items() if target == directory.name]
        proof = (
            f"none of {counts[0]} layer records names it as its cache ID",
            f"none of {counts[1]} containers has it as its writable or init layer",
            f"it is in the lower of none of {counts[2]} directories that are in use",
            "BuildKit's records do not mention it",
            "no process's mount namespace mentions it",
        )
        yield Orphan(
            "directory-orphan",
            f"the layer directory {directory.name[:12]} belongs to no layer, container or build",
            proof,
            (*(survey.home / "l" / link for link in links), directory.path),
        )


def left_short_names(survey: Survey) -> Iterator[Orphan]:
    """Yield links in ``l/`` that lead to no layer, or to one that goes by another name, and that no ``lower`` holds."""
    for link, target in survey.short_names.items():
        path = survey.home / "l" / link
        directory = survey.directories.get(target)
        if link in survey.lower_names or survey.around.may_be_new(path) or survey.around.is_pooled(target):
            continue
        if directory is None:
            if target in survey.named:
                continue  # it tells by which name a lost directory went
            where = f"leads to the directory {target[:12]}, which does not exist"
        elif directory.link is not None and directory.link != link and survey.short_names.get(directory.link) == target:
            where = f"leads to the directory {target[:12]}, which goes by {directory.link}"
        else:
            continue
        if not path.is_symlink() or survey.around.in_mounts(link):
            continue
        proof = ("it is in no directory's lower", "no process's mount namespace mentions it")
        yield Orphan("short-name-left", f"the short name {link} {where}", proof, (path,))


def left_write_sets(survey: Survey) -> Iterator[Orphan]:
    """Yield layer records that were being written when their writer died."""
    staging = survey.layerdb / "tmp"
    for name in list_names(staging):
        path = staging / name
        if not name.startswith("write-set-") or survey.around.may_be_new(path) or name in _expected_write_sets(survey):
            continue
        proof = ("no operation is in progress that could finish it", "a record counts only once it is renamed")
        yield Orphan("write-set-left", f"{name} is the record of a layer that was never finished", proof, (path,))


def _expected_write_sets(survey: Survey) -> set[str]:
    names = set()
    for cache_id in survey.around.pooled:
        if len(cache_id) == 64:
            names |= {write_set_name(cache_id, part) for part in (0, 1)}
    return names


def unfinished_removals(survey: Survey) -> Iterator[Orphan]:
    """Yield records that were renamed to be removed, with the directory that only they name."""
    needed = {layer.cache_id for layer in survey.layers.values()}
    needed |= {name for mount in survey.mounts.values() for name in (mount.mount_id, mount.init_id)}
    for record in survey.removing:
        if survey.around.may_be_new(record) or _is_held(record):
            continue
        paths = [record]
        cache_id = next((name for name in survey.named if _names(record, name)), None)
        if cache_id is not None and cache_id not in needed and cache_id in survey.directories:
            if survey.around.in_mounts(cache_id) or survey.around.is_pooled(cache_id):
                continue
            links = [link for link, target in survey.short_names.items() if target == cache_id]
            paths = [*(survey.home / "l" / link for link in links), survey.directories[cache_id].path, record]
        proof = ("its name says that its removal was begun", "no process is at it")
        yield Orphan(
            "removal-unfinished", f"the removal of layer {record.name[:12]} was not finished", proof, tuple(paths)
        )


def _names(record: Path, cache_id: CacheID) -> bool:
    from lamella.store.layerdb import find_cache_id

    return find_cache_id(record) == cache_id


def _is_held(record: Path) -> bool:
    try:
        fd = os.open(record, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return True
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(fd)
    return False


def left_drafts(survey: Survey) -> Iterator[Orphan]:
    """Yield files that were being written aside when their writer died."""
    distribution = survey.image_dir / "distribution"
    metadata = survey.imagedb / "metadata" / "sha256"
    places = [
        survey.image_dir,
        survey.imagedb / "content" / "sha256",
        *(metadata / name for name in list_names(metadata)),
        *(survey.root / "containers" / name for name in survey.containers),
        *(distribution / name / "sha256" for name in list_names(distribution)),
        *(layer.path for layer in survey.layers.values() if any(name.startswith(".tmp-") for name in layer.names)),
        *(item.path for item in survey.directories.values() if any(name.startswith(".tmp-") for name in item.names)),
    ]
    for place in places:
        if place.is_symlink():
            continue
        for name in list_names(place):
            path = place / name
            if not name.startswith(".tmp-") or survey.around.may_be_new(path) or not _is_file(path):
                continue
            proof = ("files are written under such a name and count only once they are renamed",)
            yield Orphan("draft-left", f"{name} was never finished", proof, (path,))


def left_containers(survey: Survey) -> Iterator[Orphan]:
    """Yield directories of containers that were never finished: nothing of a container is in them."""
    live = {owner for intent in survey.around.live for owner in (*intent.containers, *intent.discards)}
    for container in survey.containers.values():
        if not was_never_finished(container) or container.id in live or survey.around.may_be_new(container.path):
            continue
        if not is_directory(container.path):
            continue
        proof = ("it has no record, no host settings and no log: the container was never created in full",)
        text = f"the directory of container {container.id[:12]} holds no container"
        paths = [container.path]
        mount = survey.mounts.get(container.id)
        if mount is not None:
            names = [name for name in (mount.mount_id, mount.init_id) if name is not None]
            if survey.around.in_mounts(*names) or not is_sure(survey):
                continue
            paths = [*_layer_paths(survey, names), mount.path, container.path]
        yield Orphan("container-leftover", text, proof, tuple(paths))


def was_never_finished(container: RawContainer) -> bool:
    """Tell whether a container's directory lacks all that is written last, or ever, of a container that existed."""
    known = {"config.v2.json", "hostconfig.json", f"{container.id}-json.log", "hostname", "hosts", "resolv.conf"}
    return not container.names & known


def orphaned_mount_records(survey: Survey) -> Iterator[Orphan]:
    """Yield writable layers whose container does not exist, with their directories."""
    if not (survey.root / "containers").is_dir():
        return  # that of no container is known: they may be on a disk that is not mounted
    live = {owner for intent in survey.around.live for owner in (*intent.containers, *intent.discards)}
    for mount in survey.mounts.values():
        if mount.owner in survey.containers or mount.owner in live or survey.around.may_be_new(mount.path):
            continue
        names = [name for name in (mount.mount_id, mount.init_id) if name is not None]
        if survey.around.in_mounts(*names) or any(survey.around.is_pooled(name) for name in names):
            continue
        others = {item for other in survey.mounts.values() if other.owner != mount.owner
                  for item in (other.mount_id, other.init_id)}  # fmt: skip
        images = {layer.cache_id for layer in survey.layers.values()}
        names = [name for name in names if name not in others and name not in images]
        proof = (
            f"there is no containers/{mount.owner[:12]}…",
            "no operation is in progress that makes or removes it",
            "no process's mount namespace mentions its directories",
        )
        text = f"there is a writable layer of container {mount.owner[:12]}, but no such container"
        yield Orphan("mount-record-orphan", text, proof, (*_layer_paths(survey, names), mount.path))


def _layer_paths(survey: Survey, names: list[CacheID]) -> list[Path]:
    paths: list[Path] = []
    for name in names:
        if name in survey.directories:
            paths += [survey.home / "l" / link for link, target in survey.short_names.items() if target == name]
            paths.append(survey.directories[name].path)
    return paths


def unused_layers(survey: Survey) -> Iterator[Orphan]:
    """Yield layers that no image, container, layer, build or operation needs; top first, so that all of a stack go."""
    if not _is_told(survey):
        return
    needed: set[ChainID] = {chain for chains in survey.image_chains.values() for chain in chains}
    needed |= {mount.parent for mount in survey.mounts.values() if mount.parent is not None}
    needed |= {chain for chain in survey.layers.keys() - needed if _is_kept(survey, survey.layers[chain])}
    waiting = list(needed)
    while waiting:
        parent = survey.identities.get(waiting.pop(), (None, None))[0]
        if parent is not None and parent not in needed:
            needed.add(parent)
            waiting.append(parent)
    for chain, layer in survey.layers.items():
        if chain in needed:
            continue
        names = [layer.cache_id] if layer.cache_id is not None and layer.cache_id not in survey.claimed_twice else []
        proof = (
            f"none of {len(survey.images)} images has it",
            f"none of {len(survey.mounts)} containers stands on it",
            "no layer that is needed stands on it, no operation holds it, BuildKit's records do not mention it",
        )
        yield Orphan(
            "layer-unused", f"layer {chain} is needed by nothing", proof, (layer.path, *_layer_paths(survey, names))
        )


def _is_told(survey: Survey) -> bool:
    """Tell whether everything that may need a layer can be read."""
    return (
        all(image.config is not None for image in survey.images.values())
        and all(not mount.faults for mount in survey.mounts.values())
        and all(chain in survey.identities for chain in survey.layers)
        and all(
            item.config is None or name in survey.mounts or _foreign(survey, item)
            for name, item in survey.containers.items()
        )
    )


def _is_kept(survey: Survey, layer: RawLayer) -> bool:
    """Tell whether somebody outside the records may need a layer."""
    around, chain = survey.around, layer.chain
    if around.is_leased(chain) or around.may_be_new(layer.path) or around.in_buildkit(hex_of(chain)):
        return True
    cache_id = layer.cache_id
    return cache_id is not None and (around.in_mounts(cache_id) or around.in_buildkit(cache_id))


def _foreign(survey: Survey, container: RawContainer) -> bool:
    return container.config is not None and container.text("Driver") not in {survey.driver, ""}


def _is_file(path: Path) -> bool:
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except OSError:
        return False

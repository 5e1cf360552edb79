"""Checking stores of every kind: Docker's by all rules, the others by those that hold for any store, report only."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from lamella.drivers import other_engine
from lamella.errors import LamellaError, Unsupported
from lamella.insight.contents import Task, check_contents
from lamella.insight.findings import Finding
from lamella.insight.fsck import Report, check_store, in_order, require_root
from lamella.linux.workers import forked_map
from lamella.store.smallfiles import list_names

if TYPE_CHECKING:
    from lamella.readers.base import StoreReader

_DOCKERS = ("image", "overlay2", "vfs", "lamella", "containers")


def check_any(root: Path, *, deep: bool = False, driver: str = "", processes: int | None = None) -> Report:
    """Check the store at *root*, of whatever kind; see ``fsck.check_store``."""
    root = require_root(root)
    reader = find_foreign(root)
    if reader is not None:
        return check_reader(reader, deep=deep, processes=processes)
    return check_store(root, deep=deep, driver=driver, processes=processes)


def require_docker(root: Path) -> None:
    """Raise Unsupported for a store of another engine's layout, NotFound for none."""
    if find_foreign(require_root(root)) is not None:
        raise Unsupported(f"{root} is another engine's store: it can be checked, but only Docker's layout is changed")


def find_foreign(root: Path) -> StoreReader | None:
    """Return the reader of a store that is not in Docker's layout; None for Docker's, however damaged it is.

    Raises NotFound where there is no store at all.
    """
    from lamella.readers.detect import open_reader

    if other_engine(root):  # also where Docker's directories lie beside its own
        return open_reader(root)
    if any(list_names(root / name) for name in ("image/overlay2", "image/vfs", "overlay2", "vfs/dir")):
        return None
    try:
        reader = open_reader(root)
    except LamellaError:
        if not os.listdir(root) or any(os.path.lexists(root / name) for name in _DOCKERS):
            return None
        raise
    return None if reader.kind == "docker" else reader


def check_reader(reader: StoreReader, *, deep: bool = False, processes: int | None = None) -> Report:
    """Check a store through its reader: records parse, parents and directories exist, files fit their tar-split or blob."""
    images, layers, containers = reader.images(), reader.layers(), reader.containers()
    found = [Finding("store-damaged", str(reader.root), problem) for problem in reader.problems]
    for layer in layers.values():
        if layer.parent is not None and layer.parent not in layers:
            text = f"layer {layer.id} stands on {layer.parent}, which is not in the store"
            found.append(Finding("parent-missing", str(layer.directory), text, (layer.id,)))
        if not layer.directory.is_dir():
            text = f"layer {layer.id}: the directory of its files is missing"
            found.append(Finding("layer-directory-missing", str(layer.directory), text, (layer.id,)))
    for image in images:
        if len(image.layers) < len(image.diff_ids):
            text = f"image {image.id} has {len(image.diff_ids)} layers, of which {len(image.layers)} are here"
            found.append(Finding("store-layers-missing", str(reader.root), text, (image.id,)))
    for container in containers:
        # containerd's may do without, or have a snapshotter of their own.
        if not container.layers and reader.kind == "containers-storage":
            text = f"container {container.id[:12]}: its own layer is not in the store"
            found.append(Finding("store-layers-missing", str(reader.root), text, (container.id,)))
    tasks = list(_tasks(reader, deep=deep))
    for task, troubles in forked_map(check_contents, tasks, processes):
        for code, name, text in troubles:
            place = task.place_of(code, name)
            sentence = f"layer {task.name}: {name} {text}" if name else f"layer {task.name}: {text}"
            found.append(Finding(code, str(place), sentence, (task.name, name)))
    return Report(reader.root, reader.kind, reader.driver, len(tasks), deep, in_order(found))


def _tasks(reader: StoreReader, *, deep: bool) -> Iterator[Task]:
    for layer in reader.layers().values():
        if layer.role != "image" or not layer.directory.is_dir():
            continue
        try:
            tar_split = reader.tar_split(layer)
        except LamellaError:
            continue
        if tar_split is not None and tar_split.exists():
            yield Task(layer.id, layer.directory, tar_split, None, layer.diff_id, deep, layer.whole)
        elif (blob := reader.blob(layer)) is not None:
            yield Task(layer.id, layer.directory, blob, None, layer.diff_id, deep, layer.whole, packed=True)

"""A store of any engine as records, for front ends that show it whole: nothing is changed, no lock is taken."""

from __future__ import annotations

from pathlib import Path

from lamella.insight.history import Step, build_steps, plan_steps
from lamella.insight.layerfiles import Folder, Item, LayerFiles, list_items, read_layer_files
from lamella.insight.pathsearch import Found, Holder, find_everywhere
from lamella.insight.stamp import store_stamp
from lamella.readers.base import ContainerRecord, ImageRecord, StoredLayer, StoreReader

__all__ = [
    "ContainerRecord",
    "Folder",
    "Found",
    "Holder",
    "ImageRecord",
    "Item",
    "LayerFiles",
    "Step",
    "StoreReader",
    "StoredLayer",
    "build_steps",
    "find_everywhere",
    "list_items",
    "open_store",
    "plan_steps",
    "read_layer_files",
    "stamp_of",
]


def open_store(root: Path) -> StoreReader:
    """Open the store at *root*, whichever engine's it is; see ``readers.detect.open_reader``."""
    from lamella.readers.detect import open_reader

    return open_reader(root)


def stamp_of(reader: StoreReader) -> str:
    """Return a value that is another one once the store has changed since *reader* read it."""
    live = sorted(container.pid for container in reader.containers() if container.pid)
    return store_stamp(reader.root, reader.kind, reader.driver, live)

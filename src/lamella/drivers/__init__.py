"""Storage drivers: where the files of layers live and how they become one tree.

The table maps a driver's name to the module and class that implement :class:`lamella.drivers.base.Driver`; nothing is
imported until a driver is opened.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from lamella.errors import Conflict, InvalidArgument, Unsupported

if TYPE_CHECKING:
    from lamella.drivers.base import Driver

DRIVERS = {
    "overlay2": "lamella.drivers.overlay2:Overlay2",
    "vfs": "lamella.drivers.vfs:Vfs",
}
# Docker's other drivers: a data-root that one of them filled is not to be taken for an empty one.
_FOREIGN = ("btrfs", "zfs", "fuse-overlayfs", "overlay", "aufs", "devicemapper", "windowsfilter")

# What marks the store of an engine with another layout, where a driver's name may well be a directory too.
_OTHERS = {
    "Podman, Buildah or CRI-O": ("overlay-layers", "vfs-layers"),
    "containerd": ("io.containerd.metadata.v1.bolt",),
}


def open_driver(name: str, root: Path, state: Path) -> Driver:
    """Open the driver *name* on the data-root *root*; *state* is lamella's own directory there.

    Writes nothing, so a data-root on a read-only file system opens too.
    """
    try:
        module_name, _, class_name = DRIVERS[name].partition(":")
    except KeyError:
        raise InvalidArgument(f"unknown storage driver {name!r}: use one of {', '.join(DRIVERS)}") from None
    from importlib import import_module

    driver: Driver = getattr(import_module(module_name), class_name)(root, state)
    return driver


def other_engine(root: Path) -> str:
    """Name the engine that keeps a store with a layout of its own in *root*, empty for none."""
    return next((name for name, marks in _OTHERS.items() if any((root / mark).is_dir() for mark in marks)), "")


def require_own(root: Path) -> None:
    """Raise Unsupported if another engine, with a layout of its own, keeps its store in *root*."""
    if engine := other_engine(root):
        raise Unsupported(
            f"{root} is a store of {engine}, which lamella does not change: 'lamella adopt {root}' brings over what is "
            "in it; for a store of lamella's own use another --root"
        )


def choose_driver(root: Path) -> str:
    """Name the driver of the data-root *root*: the one it was filled by, else overlay2 if it works there.

    Raises :class:`Unsupported` saying why overlay2 does not, and :class:`Conflict` if several drivers filled *root*.
    """
    prior = [name for name in DRIVERS if _was_used(root, name)]
    if len(prior) == 1:
        return prior[0]
    if prior:
        raise Conflict(f"{root} holds the layers of several drivers ({', '.join(prior)}): choose with --storage-driver")
    for name in _FOREIGN:
        if _was_used(root, name):
            raise Unsupported(
                f"{root} was filled by Docker's {name} driver, which lamella does not have: use another --root"
            )
    from lamella.drivers.probe import check_overlay

    check_overlay(root)
    return "overlay2"


def _was_used(root: Path, name: str) -> bool:
    """Tell whether the driver *name* has ever kept images or layers in *root*."""
    return any(_has_entries(root / directory) for directory in (f"image/{name}", name))


def _has_entries(directory: Path) -> bool:
    try:
        with os.scandir(directory) as entries:
            return any(entry.name != "l" for entry in entries)
    except (FileNotFoundError, NotADirectoryError):
        return False

"""What kind of store lies at a path, and its reader."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from lamella.errors import NotFound, Unsupported
from lamella.store.smallfiles import is_directory, list_names

if TYPE_CHECKING:
    from lamella.readers.base import StoreReader

_REMAPPED = re.compile(r"[0-9]+\.[0-9]+", re.ASCII)
_FOREIGN = ("btrfs", "zfs", "fuse-overlayfs", "overlay", "aufs", "devicemapper", "windowsfilter")


def open_reader(path: Path) -> StoreReader:
    """Open the store whose root is *path*, of whatever engine; nothing is written and no lock is taken.

    A root is what its engine calls so: ``/var/lib/docker``, ``/var/lib/containers/storage``, ``/var/lib/containerd``.
    Docker with containerd's image store is opened at Docker's root.  Raises NotFound, saying what was looked for, or
    Unsupported for a driver that lamella does not know; DataLoss if a link stands for a directory of the store's.
    """
    if not os.path.isdir(path):
        raise NotFound(f"{path}: {'not a directory' if os.path.lexists(path) else 'no such directory'}")
    # Each kind's module is loaded only where that kind is.
    if any(is_directory(path / name) for name in ("overlay-layers", "vfs-layers")):
        from lamella.readers.containers_storage import ContainersStorageReader

        return ContainersStorageReader(path)
    if _is_containerd(path):
        from lamella.readers.containerd import ContainerdReader

        return ContainerdReader(path)
    from lamella.readers import docker

    own = path / "containerd" / "daemon"
    if not docker.has_images(path) and is_directory(path / "containerd") and _is_containerd(own):
        from lamella.readers.containerd import ContainerdReader

        reader = ContainerdReader(own, docker=path)
        if reader.images() or not docker.is_docker_root(path):
            return reader
    if docker.is_docker_root(path):
        return docker.DockerReader(path)
    for name in _FOREIGN:
        if is_directory(path / "image" / name):
            raise Unsupported(f"{path} was filled by Docker's {name} driver, which lamella does not have")
    remapped = [name for name in list_names(path) if _REMAPPED.fullmatch(name) and docker.is_docker_root(path / name)]
    if remapped:
        raise NotFound(f"{path}: Docker with remapped users keeps its store below: give {path / remapped[0]}")
    raise NotFound(
        f"{path}: no store here: neither Docker's (image/overlay2) nor Podman's (overlay-layers) nor containerd's"
    )


def _is_containerd(root: Path) -> bool:
    catalogue = root / "io.containerd.metadata.v1.bolt"
    return is_directory(catalogue) and (catalogue / "meta.db").is_file()

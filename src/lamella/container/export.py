"""A container's merged file system as one flat tar."""

from __future__ import annotations

from typing import BinaryIO

from lamella.container.site import Site
from lamella.model.ids import ContainerID


def export_container(site: Site, container: ContainerID, sink: BinaryIO) -> None:
    """Write the container's file system, as its layers show it, to *sink*; volumes and binds are not part of it."""
    from lamella.changeset.diff import write_tree

    layer = site.store.rwlayers.get(container)
    with site.store.rwlayers.mounted(layer) as merged:
        write_tree(merged, sink)

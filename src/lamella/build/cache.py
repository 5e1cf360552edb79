"""The layer cache of Docker's classic builder: the children that an image has already.

A step on image P that would be committed with container settings C has been done before if a child of P was.  Both
this builder and dockerd's classic one find each other's.
"""

from __future__ import annotations

from collections.abc import Iterable

from lamella.build.snapshot import Snapshot
from lamella.errors import DataLoss, NotFound
from lamella.model.digest import ImageID, hex_of
from lamella.model.gojson import parse_time
from lamella.model.imageconfig import ContainerSettings
from lamella.store.imagedb import StoredImage
from lamella.store.imagestore import ImageStore
from lamella.store.smallfiles import find_small

# The host's name, the parent's ID and the like differ from build to build and do not matter.
_COMPARED = tuple(
    field
    for field in ContainerSettings.__struct_fields__
    if field not in {"hostname", "domainname", "image", "mac_address"}
)


class StepCache:
    """Finds a step's image; looks through the store once."""

    def __init__(self, store: ImageStore) -> None:
        self._store = store
        self._children: dict[str, list[ImageID]] | None = None

    def find(self, parent: Snapshot, container: ContainerSettings) -> Snapshot | None:
        """Give the newest child of `parent` that was committed with these settings."""
        if container.open_stdin:
            return None
        best: StoredImage | None = None
        for image in self._candidates(parent.id):
            config = image.config
            if not (image.built_locally and config.container_config is not None):
                continue
            if Snapshot(image.id, config).platform != parent.platform:
                continue
            if not _equal(config.container_config, container):
                continue
            if best is None or parse_time(config.created) > parse_time(best.config.created):
                best = image
        if best is None or not self._store.is_usable(best):
            return None
        return Snapshot(best.id, best.config)

    def _candidates(self, parent: ImageID | None) -> Iterable[StoredImage]:
        images = self._store.images
        if self._children is None:
            self._children = self._read_children()
        known = self._children
        if parent is None:
            with_parent = {child for children in known.values() for child in children}
            candidates = [image_id for image_id in images.iter_ids() if image_id not in with_parent]
        else:
            candidates = known.get(parent, [])
        for image_id in candidates:
            try:
                yield images.get(image_id)
            except (NotFound, DataLoss):
                continue

    def _read_children(self) -> dict[str, list[ImageID]]:
        """Read which images name which parent, without reading the images."""
        found: dict[str, list[ImageID]] = {}
        for image_id in self._store.images.iter_ids():
            raw = find_small(self._store.images.metadata / hex_of(image_id) / "parent")
            if raw is not None:
                found.setdefault(raw.decode("ascii", "replace"), []).append(image_id)
        return found


def _equal(first: ContainerSettings, second: ContainerSettings) -> bool:
    return all(_plain(getattr(first, field)) == _plain(getattr(second, field)) for field in _COMPARED)


def _plain(value: object) -> object:
    """Take absent and empty for the same, as Docker's comparison does."""
    return value or None

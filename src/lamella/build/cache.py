"""The layer cache of Docker's classic builder: the children that an image has already.

A step on image P that would be committed with container settings C has been done before if a child of P was.  Both
this builder and dockerd's classic one find each other's.
"""

from __future__ import annotations

from collections.abc import Iterable
from threading import Lock
from typing import Protocol

import msgspec

from lamella.build.snapshot import Snapshot
from lamella.errors import DataLoss, LamellaError, NotFound
from lamella.model.digest import ChainID, ImageID, chain_ids, hex_of
from lamella.model.gojson import parse_time
from lamella.model.imageconfig import ContainerSettings, ImageConfig
from lamella.store.imagestore import ImageStore
from lamella.store.smallfiles import find_small

# The host's name, the parent's ID and the like differ from build to build and do not matter.
_COMPARED = tuple(
    field
    for field in ContainerSettings.__struct_fields__
    if field not in {"hostname", "domainname", "image", "mac_address"}
)


class BrokenCache(LamellaError):
    """A step was taken from somebody's cache whose layers then could not be had: the build must do without."""


class StepSource(Protocol):
    """Knows images of steps; may be asked by several threads."""

    def find(self, parent: Snapshot, container: ContainerSettings, settings: ContainerSettings) -> Snapshot | None:
        """Give the image of the step on `parent` that would be committed with `container`, None if it is not known.

        `settings` are those that the image then has for its own containers.
        """
        ...

    def need(self, image: Snapshot) -> None:
        """See that an image is in the store with all its layers.  Raises BrokenCache."""
        ...


class StepCache:
    """Finds a step's image; looks through the store once.  Several threads may ask.

    With `created` only what bears that very time is found: a reproducible build must not differ by what was there.
    """

    def __init__(self, store: ImageStore, *, created: str = "") -> None:
        self._store = store
        self._created = created
        self._children: dict[str, list[ImageID]] | None = None
        self._reading = Lock()
        self._sound: set[ChainID] = set()

    def need(self, image: Snapshot) -> None:
        """Do nothing: what the store's own cache gives is in the store."""

    def find(
        self,
        parent: Snapshot,
        container: ContainerSettings,
        settings: ContainerSettings | None = None,  # noqa: ARG002 - compared are those of the container
    ) -> Snapshot | None:
        """Give the newest child of `parent` that was committed with these settings."""
        if container.open_stdin:
            return None
        best: Snapshot | None = None
        for image_id, config in self._candidates(parent.id, container):
            image = Snapshot(image_id, config)
            if config.container_config is None or image.platform != parent.platform:
                continue
            if self._created and config.created != self._created:
                continue
            if not same_settings(config.container_config, container):
                continue
            if not self._store.images.is_built_locally(image_id):
                continue
            if best is None or parse_time(config.created) > parse_time(best.config.created):
                best = image
        return best if best is not None and self._is_usable(best) else None

    def _candidates(
        self, parent: ImageID | None, container: ContainerSettings
    ) -> Iterable[tuple[ImageID, ImageConfig]]:
        """Yield the children of `parent` that may be the step that is looked for."""
        images = self._store.images
        with self._reading:
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
                if _may_be(images.read_raw(image_id), container):
                    yield image_id, images.read_config(image_id)[1]
            except (NotFound, DataLoss):
                continue

    def _is_usable(self, image: Snapshot) -> bool:
        """Tell whether an image's layers are here; of a step's image, all but the last were looked at before."""
        unknown = [chain for chain in chain_ids(image.config.diff_ids) if chain not in self._sound]
        try:
            for chain in unknown:
                self._store.layers.get(chain)
        except (NotFound, DataLoss):
            stored = None if image.id is None else self._store.images.find(image.id)
            return stored is not None and self._store.is_usable(stored)  # says what is wrong
        self._sound.update(unknown)
        return True

    def _read_children(self) -> dict[str, list[ImageID]]:
        """Read which images name which parent, without reading the images."""
        found: dict[str, list[ImageID]] = {}
        for image_id in self._store.images.iter_ids():
            raw = find_small(self._store.images.metadata / hex_of(image_id) / "parent")
            if raw is not None:
                found.setdefault(raw.decode("ascii", "replace"), []).append(image_id)
        return found


class _Settings(msgspec.Struct, rename="pascal"):
    cmd: tuple[str, ...] | None = None


class _Step(msgspec.Struct):
    container_config: _Settings | None = None


def _may_be(raw: bytes, container: ContainerSettings) -> bool:
    """Tell whether a config is worth reading in full: an image may have many children, and few with this command."""
    try:
        recorded = msgspec.json.decode(raw, type=_Step).container_config
    except (msgspec.DecodeError, UnicodeDecodeError):
        return True
    return recorded is not None and (recorded.cmd or ()) == (container.cmd or ())


def same_settings(first: ContainerSettings, second: ContainerSettings) -> bool:
    """Tell whether two steps that were, or would be, committed with these settings are the same step."""
    return all(_plain(getattr(first, field)) == _plain(getattr(second, field)) for field in _COMPARED)


def _plain(value: object) -> object:
    """Take absent and empty for the same, as Docker's comparison does."""
    return value or None

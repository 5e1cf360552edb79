"""The store as the rules of removal see it; the caller holds it open for writing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lamella.engine.removal import User
from lamella.model.digest import ChainID, ImageID
from lamella.model.reference import Reference

if TYPE_CHECKING:
    from lamella.engine.opened import Opened


class StoreShelf:
    """A ``removal.Shelf`` over a real store; containers are looked at once, since none can come meanwhile."""

    def __init__(self, opened: Opened) -> None:
        from lamella.container.status import live_state

        self._parts = opened.parts
        self._users = [
            User(record.id, record.image, live_state(opened.site, record) in {"running", "paused", "restarting"})
            for record in opened.parts.containers.iter_records()
        ]

    def references(self, image: ImageID) -> Sequence[Reference]:
        """Return the names of *image*."""
        return self._parts.tags.references(image)

    def untag(self, reference: Reference) -> None:
        """Take one name away; durable on return."""
        self._parts.tags.remove(reference)

    def children(self, image: ImageID) -> Sequence[ImageID]:
        """Return the images that were made from *image*."""
        return [child for child in self._parts.images.iter_children(image) if self._parts.images.find(child)]

    def parent(self, image: ImageID) -> ImageID | None:
        """Return the image that *image* was made from, if this store has it."""
        stored = self._parts.images.find(image)
        if stored is None or stored.parent is None or self._parts.images.find(stored.parent) is None:
            return None
        return stored.parent

    def users(self) -> Sequence[User]:
        """Return all containers."""
        return self._users

    def delete(self, image: ImageID) -> Sequence[ChainID]:
        """Delete the image and the layers nothing else needs."""
        return self._parts.delete_image(image)

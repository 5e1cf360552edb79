"""The images of finished steps on their way into the store."""

from __future__ import annotations

import time

from lamella.model.digest import ImageID
from lamella.model.gojson import format_time, now
from lamella.store.imagestore import ImageStore

_PUBLISH_AFTER = 1.0


class Journal:
    """Gathers the images of finished steps; they are published together, which costs one sync."""

    def __init__(self, store: ImageStore, timestamp: int | None) -> None:
        self._store = store
        self._timestamp = timestamp
        self._waiting: list[tuple[bytes, ImageID | None]] = []
        self._published_at = time.monotonic()

    def created(self) -> str:
        """Give the time that an image made now bears."""
        return format_time(now() if self._timestamp is None else self._timestamp * 10**9)

    def add(self, raw: bytes, parent: ImageID | None) -> None:
        """Take the image of a step that is done."""
        self._waiting.append((raw, parent))

    def publish_gathered(self) -> None:
        """Publish if a second's worth has gathered."""
        if time.monotonic() - self._published_at > _PUBLISH_AFTER:
            self.publish()

    def publish(self) -> None:
        """Put the images into the store, with their layers; durable on return."""
        for raw, parent in self._waiting:
            self._store.images.put(raw, parent=parent, built_locally=True)
        self._waiting.clear()
        self._published_at = time.monotonic()

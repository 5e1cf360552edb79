"""What a build writes into the store: its transaction, and the images of finished steps on their way."""

from __future__ import annotations

import time
from contextlib import ExitStack
from threading import Lock
from types import TracebackType
from typing import Self

from lamella.model.digest import ImageID
from lamella.model.gojson import format_time, now
from lamella.store.imagestore import ImageStore
from lamella.store.transactions import Transaction

_PUBLISH_AFTER = 1.0


class Journal:
    """Gathers the images of finished steps; they are published together, which costs one sync.

    Enter it as a context, which holds the transaction if one was begun; all stages use it, each in its thread.
    """

    def __init__(self, store: ImageStore, timestamp: int | None) -> None:
        self._store = store
        self._timestamp = timestamp
        self._waiting: list[tuple[bytes, ImageID | None, bool]] = []
        self._published_at = time.monotonic()
        self._publishing = Lock()
        self._beginning = Lock()
        self._stack = ExitStack()
        self._tx: Transaction | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, traceback)

    @property
    def begun(self) -> Transaction | None:
        """The transaction, None if nothing has asked for one: all that was done came from the cache."""
        return self._tx

    def transaction(self) -> Transaction:
        """Give the build's transaction, begun with the first step that changes files."""
        with self._beginning:
            if self._tx is None:
                self._tx = self._stack.enter_context(self._store.root.transaction("build"))
            return self._tx

    @property
    def is_timed(self) -> bool:
        """Whether the time of all that is made was given."""
        return self._timestamp is not None

    def created(self) -> str:
        """Give the time that an image made now bears."""
        return format_time(now() if self._timestamp is None else self._timestamp * 10**9)

    def add(self, raw: bytes, parent: ImageID | None, *, as_cache: bool = True) -> None:
        """Take the image of a step that is done, as cache for later builds unless it is no step's."""
        self._waiting.append((raw, parent, as_cache))

    def publish_gathered(self) -> None:
        """Publish if a second's worth has gathered and no other stage is at it."""
        if time.monotonic() - self._published_at > _PUBLISH_AFTER and self._publishing.acquire(blocking=False):
            try:
                self._publish()
            finally:
                self._publishing.release()

    def publish(self) -> None:
        """Put the images into the store, with their layers; durable on return."""
        with self._publishing:
            self._publish()

    def _publish(self) -> None:
        batch = tuple(self._waiting)  # what others add meanwhile waits for the next time
        for raw, parent, as_cache in batch:
            self._store.images.put(raw, parent=parent, built_locally=as_cache)
        del self._waiting[: len(batch)]
        self._published_at = time.monotonic()

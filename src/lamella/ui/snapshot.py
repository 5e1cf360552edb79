"""A store as it was at one moment, and what the page asks of it over and over."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path

from lamella.engine.reading import (
    ContainerRecord,
    ImageRecord,
    Step,
    StoredLayer,
    StoreReader,
    build_steps,
    open_store,
    plan_steps,
    stamp_of,
)
from lamella.errors import DataLoss, NotFound
from lamella.model.digest import chain_ids
from lamella.ui.stacks import Block, Layout, Stack, lay_out

_TRIES = 3
_KEPT_LAYOUTS = 8
_REST = 2


class Snapshot:
    """What one reader found; once made, it may be asked by several threads."""

    def __init__(self, root: Path) -> None:
        self._lock = threading.Lock()
        self.reader, self.stamp = _read(root)
        self.images: Mapping[str, ImageRecord] = {image.id: image for image in self.reader.images()}
        self.layers: Mapping[str, StoredLayer] = self.reader.layers()
        self.containers: Mapping[str, ContainerRecord] = {each.id: each for each in self.reader.containers()}
        self._layouts: dict[tuple[str, bool], Layout] = {}

    @property
    def current(self) -> bool:
        """Whether the store is still as it was read."""
        return stamp_of(self.reader) == self.stamp

    def image(self, identity: str) -> ImageRecord:
        """Return an image.  Raises NotFound."""
        found = self.images.get(identity)
        if found is None:
            raise NotFound(f"No such image: {identity}")
        return found

    def container(self, identity: str) -> ContainerRecord:
        """Return a container.  Raises NotFound."""
        found = self.containers.get(identity)
        if found is None:
            raise NotFound(f"No such container: {identity}")
        return found

    @cached_property
    def steps(self) -> Mapping[str, tuple[Step, str]]:
        """The step that made each image layer, by its id, and the image that tells; one that has a name is asked first."""
        found: dict[str, tuple[Step, str]] = {}
        for image in sorted(self.images.values(), key=lambda image: (not image.names, image.names, image.id)):
            places = dict(enumerate(self.chain(image), 1))
            try:
                steps = plan_steps(image.config)
            except DataLoss:  # who asks for the image is told
                continue
            for step in steps:
                block = None if step.layer is None else places.get(step.layer)
                if block is not None:
                    found.setdefault(block.id, (step, image.id))
        return found

    @cached_property
    def holders(self) -> Mapping[str, tuple[str, ...]]:
        """The images that have each layer, those with a name first; steps of builds only where no other image has it."""
        found: dict[str, list[str]] = {}
        steps: dict[str, list[str]] = {}
        for image in sorted(self.images.values(), key=lambda image: (not image.names, image.names, image.id)):
            target = steps if image.id in self.hidden_steps else found
            for block in self.chain(image):
                target.setdefault(block.id, []).append(image.id)
        return {layer: tuple(images) for layer, images in (steps | found).items()}

    @cached_property
    def hidden_steps(self) -> frozenset[str]:
        """Images without a name that others were made from: the steps of builds, unless a container needs one."""
        return build_steps(self.images.values()) - {container.image for container in self.containers.values()}

    def chain(self, image: ImageRecord) -> list[Block]:
        """Return an image's layers from the base up, those that the store has lost included."""
        if len(image.layers) == len(image.diff_ids):
            return [self._block(layer) for layer in image.layers]
        by_chain = {layer.chain_id: layer.id for layer in self.layers.values() if layer.role == "image"}
        chains = chain_ids(image.diff_ids)
        return [self._block(by_chain[chain]) if chain in by_chain else Block("missing", chain) for chain in chains]

    def depth(self, identity: str) -> int | None:
        """Say which layer from the base up it is, the base being 1, None if the store has lost it or one below."""
        path: set[str] = set()
        below: str | None = identity
        while below is not None:
            layer = self.layers.get(below)
            if layer is None or below in path:
                return None
            path.add(below)
            below = layer.parent
        return len(path)

    def layout(self, wanted: str = "", *, steps: bool = False) -> Layout:
        """Lay out the images and containers whose names or IDs hold *wanted*, with *steps* those of builds as well."""
        with self._lock:
            key = (wanted, steps)
            found = self._layouts.get(key)
            if found is None:
                while len(self._layouts) >= _KEPT_LAYOUTS:
                    del self._layouts[next(iter(self._layouts))]
                found = self._layouts[key] = lay_out(self._stacks(wanted.lower(), steps=steps))
            return found

    def _stacks(self, wanted: str, *, steps: bool) -> Iterator[Stack]:
        standing: dict[str, list[ContainerRecord]] = {}
        drawn: set[str] = set()
        for container in self.containers.values():
            standing.setdefault(container.image if container.image in self.images else "", []).append(container)
        for image in self.images.values():
            if not steps and image.id in self.hidden_steps:
                continue
            below = [*self.chain(image), Block("image", image.id)]
            drawn.update(block.id for block in below)
            matches = _holds(wanted, (*image.names, *image.digests, image.id))
            containers = standing.get(image.id, [])
            shown = [each for each in containers if matches or _holds(wanted, (each.name, each.id, each.image_name))]
            label = image.names[0] if image.names else f"\uffff{image.id}"
            if matches and not shown:
                yield Stack(label, below)
            for each in shown:
                yield Stack(label, [*below, *self._own(each), Block("container", each.id)])
        for each in standing.get("", []):
            below = [self._block(layer) for layer in each.layers if self._role(layer) == "image"]
            drawn.update(block.id for block in below)
            if _holds(wanted, (each.name, each.id, each.image_name)):
                yield Stack(f"\uffff{each.name}", [*below, *self._own(each), Block("container", each.id)])
        if not wanted:
            yield from self._loose(drawn, steps=steps)

    def _own(self, container: ContainerRecord) -> list[Block]:
        return [self._block(layer) for layer in container.layers if self._role(layer) != "image"]

    def _loose(self, drawn: set[str], *, steps: bool) -> Iterator[Stack]:
        """Yield what no image and no container stands on, build caches' layers only with *steps*."""
        known = (
            drawn
            if steps
            else drawn | {block.id for image in self.hidden_steps for block in self.chain(self.images[image])}
        )
        roles = {"image", "build"} if steps else {"image"}
        loose = {layer.id: layer for layer in self.layers.values() if layer.role in roles and layer.id not in known}
        covered = {layer.parent for layer in loose.values()}
        for layer in loose.values():
            if layer.id in covered:
                continue
            path: list[str] = []
            below: str | None = layer.id
            while below is not None and below in self.layers and below not in path:
                path.append(below)
                below = self.layers[below].parent
            yield Stack(f"\uffff{layer.id}", [*map(self._block, reversed(path)), Block("loose", layer.id)])

    def _role(self, layer: str) -> str:
        found = self.layers.get(layer)
        return "image" if found is None else found.role

    def _block(self, identity: str) -> Block:
        layer = self.layers.get(identity)
        if layer is None:
            return Block("missing", identity)
        if layer.role == "init":
            return Block("init", identity, layer.size)
        return Block("writable" if layer.role == "writable" else "layer", identity, layer.size)


def _holds(wanted: str, names: tuple[str, ...]) -> bool:
    return not wanted or any(wanted in name.lower() for name in names)


def _read(root: Path) -> tuple[StoreReader, str]:
    """Read the store, once more if it changed meanwhile."""
    reader = open_store(root)
    for _ in range(_TRIES):
        before = stamp_of(reader)
        reader = open_store(root)
        reader.images()
        reader.containers()
        reader.layers()
        if stamp_of(reader) == before:
            return reader, before
    return reader, stamp_of(reader)


class Watch:
    """The newest snapshot of a store, read again when the store has changed."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._lock = threading.Lock()
        self._pause = 0.0
        self._snapshot = self._read()

    def now(self) -> Snapshot:
        """Return the store as it is now, or in a store that never rests as it was a moment ago.

        Raises NotFound if it is gone.
        """
        with self._lock:
            if time.monotonic() >= self._pause and not self._snapshot.current:
                self._snapshot = self._read()
            return self._snapshot

    def _read(self) -> Snapshot:
        begun = time.monotonic()
        found = Snapshot(self.root)
        now = time.monotonic()
        self._pause = now + _REST * (now - begun)
        return found

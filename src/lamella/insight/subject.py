"""What a question is about: one image or container of a store, with its layers and the steps that made them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec

from lamella.errors import NotFound
from lamella.insight.history import Step, plan_steps, step_of_layer
from lamella.insight.stack import Stack
from lamella.model.digest import ChainID, DiffID, chain_ids
from lamella.readers.base import ContainerRecord, ImageRecord, StoredLayer, StoreReader


class Place(NamedTuple):
    """One layer of a stack, there or not."""

    number: int
    """1 for the base."""
    layer: StoredLayer | None
    """None if the store has lost it."""
    diff_id: DiffID | None
    chain_id: ChainID | None


class Subject(NamedTuple):
    """One image or container."""

    kind: str
    """``image`` or ``container``."""
    image: ImageRecord | None
    """The container's image, None if it was removed."""
    container: ContainerRecord | None
    places: tuple[Place, ...]
    """Base first; a container's init and writable layers last."""
    steps: tuple[Step, ...]

    @property
    def id(self) -> str:
        """The image's or container's ID."""
        if self.container is not None:
            return self.container.id
        return self.image.id if self.image is not None else ""

    @property
    def name(self) -> str:
        """What people call it."""
        if self.container is not None:
            return self.container.name or self.container.id[:12]
        return image_name(self.image)

    def require_layers(self) -> list[StoredLayer]:
        """Return all layers.  Raises NotFound if one is missing."""
        layers: list[StoredLayer] = []
        for place in self.places:
            if place.layer is None:
                raise NotFound(
                    f"layer {place.number} of {self.name} ({place.chain_id}) is not in the store; "
                    "pull or load the image again"
                )
            layers.append(place.layer)
        return layers


class LayerName(msgspec.Struct, frozen=True):
    """A layer and the step that made it."""

    number: int
    """1 for the base."""
    role: str
    diff_id: str | None
    cache_id: str
    directory: str
    step: int | None
    instruction: str
    """In the Dockerfile's words; what the layer is for, if no step made it."""


def find_subject(reader: StoreReader, name: str) -> Subject:
    """Return what *name* names, a container first.  Raises NotFound or InvalidArgument."""
    try:
        container = reader.find_container(name)
    except NotFound:
        try:
            return image_subject(reader, reader.find_image(name))
        except NotFound:
            raise NotFound(f"No such image or container: {name} (in {reader.root})") from None
    return container_subject(reader, container)


def image_subject(reader: StoreReader, image: ImageRecord) -> Subject:
    """Return an image with its layers."""
    return Subject("image", image, None, _image_places(reader, image), plan_steps(image.config))


def container_subject(reader: StoreReader, container: ContainerRecord) -> Subject:
    """Return a container with its image's layers and its own."""
    layers = [layer for layer in map(reader.find_layer, container.layers) if layer is not None]
    try:
        image = reader.find_image(container.image) if container.image else None
    except NotFound:
        image = None
    chains = chain_ids(image.diff_ids) if image is not None else []
    below = [layer for layer in layers if layer.role == "image"]
    places: tuple[Place, ...]
    if image is not None and [layer.chain_id for layer in below] != chains[: len(below)]:
        image = None  # a container outlives what its image's name stood for
    if image is not None and len(below) <= len(chains):
        places = _image_places(reader, image)
    else:
        places = tuple(Place(n, layer, layer.diff_id, layer.chain_id) for n, layer in enumerate(below, 1))
    own = [layer for layer in layers if layer.role != "image"]
    places += tuple(Place(len(places) + n, layer, None, None) for n, layer in enumerate(own, 1))
    return Subject("container", image, container, places, plan_steps(image.config) if image is not None else ())


def name_layer(subject: Subject, layers: Sequence[StoredLayer], index: int) -> LayerName:
    """Describe one layer of a subject by its place, 0 at the base."""
    layer = layers[index]
    step = step_of_layer(subject.steps, index + 1) if layer.role == "image" else None
    own = {"init": "(init layer: the container's own /etc/hosts and its like)", "writable": "(writable layer)"}
    return LayerName(
        number=index + 1,
        role=layer.role,
        diff_id=layer.diff_id,
        cache_id=layer.directory_id,
        directory=os.fspath(layer.directory),
        step=None if step is None else step.number,
        instruction=own.get(layer.role, "(the image does not tell)") if step is None else step.instruction,
    )


def open_stack(layers: Sequence[StoredLayer]) -> Stack:
    """Return the merged view of layers, base first."""
    return Stack([layer.directory for layer in layers], whole=hold_whole_trees(layers))


def hold_whole_trees(layers: Iterable[StoredLayer | None]) -> bool:
    """Tell whether the directory of each layer of a stack holds the files of those below as well."""
    return any(layer is not None and layer.whole for layer in layers)


def image_name(image: ImageRecord | None) -> str:
    """Return an image's first name, else the beginning of its ID."""
    if image is None:
        return "a removed image"
    return image.names[0] if image.names else image.id.removeprefix("sha256:")[:12]


def _image_places(reader: StoreReader, image: ImageRecord) -> tuple[Place, ...]:
    present = {layer.chain_id: layer for layer in map(reader.find_layer, image.layers) if layer is not None}
    chains = chain_ids(image.diff_ids)
    return tuple(
        Place(number, present.get(chain), diff, chain)
        for number, (diff, chain) in enumerate(zip(image.diff_ids, chains, strict=True), 1)
    )

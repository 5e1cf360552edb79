"""What ``why`` answers: to whom something belongs, with everything that leads there."""

from __future__ import annotations

import msgspec


class LayerFacts(msgspec.Struct, frozen=True):
    """The layer that something lies in."""

    id: str
    role: str
    """``image``, ``init``, ``writable``, ``build``."""
    diff_id: str | None
    chain_id: str | None
    cache_id: str
    directory: str
    size: int | None


class StepFacts(msgspec.Struct, frozen=True):
    """The step that made the layer, as one of its images tells it."""

    image: str
    number: int
    layer: int
    instruction: str


class Named(msgspec.Struct, frozen=True):
    """An image or container that has it."""

    id: str
    names: tuple[str, ...]
    status: str = ""
    """Of a container."""


class Answer(msgspec.Struct, frozen=True):
    """To whom something belongs."""

    asked: str
    state: str
    """``held``; ``orphan``: nobody needs it; ``busy``: an operation in progress may be making it; ``own``: the engine's
    or lamella's own; ``unknown``: it is in no store, or there but of no engine's making."""
    holder: str
    """``layer``, ``container``, ``image``, ``volume``, ``build-cache``, ``store``, ``lamella``, or empty for nobody."""
    reason: str
    """One sentence."""
    store: str = ""
    root: str = ""
    path: str = ""
    """Where it lies on this machine."""
    inside: str = ""
    """The path as an image, container or volume has it, if it is inside one."""
    exists: bool = True
    layer: LayerFacts | None = None
    step: StepFacts | None = None
    images: tuple[Named, ...] = ()
    """Images that have the layer, or the image itself; named ones first."""
    containers: tuple[Named, ...] = ()
    volumes: tuple[str, ...] = ()
    seen_in: Named | None = None
    """The container through which it was asked for."""
    process: int | None = None
    problems: tuple[str, ...] = ()

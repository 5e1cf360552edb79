"""``explain``: one image or container as the stack it is, with everything that the store knows of each layer."""

from __future__ import annotations

import os
from collections.abc import Sequence

import msgspec

from lamella.insight.counts import LIMIT, count_layers
from lamella.insight.history import Step, build_steps
from lamella.insight.mounts import MountStory, find_mounts
from lamella.insight.subject import Place, Subject, find_subject
from lamella.readers.base import ImageRecord, StoreReader


class LayerCounts(msgspec.Struct, frozen=True):
    """What a layer does to those below it."""

    added: int
    changed: int
    deleted: int
    directories: int


class LayerStory(msgspec.Struct, frozen=True):
    """One layer of the stack."""

    number: int
    """1 for the base."""
    role: str
    """``image``, ``init``, ``writable``."""
    step: int | None
    """The number of the step that made it."""
    diff_id: str | None
    chain_id: str | None
    cache_id: str | None
    """The name of its directory: cache ID, layer ID, snapshot number.  None if the layer is not in the store."""
    directory: str | None
    present: bool
    """Whether the directory is there."""
    size: int | None
    """Bytes as the engine counts them; a writable layer's are counted now."""
    files: LayerCounts | None
    """None if they were not counted."""
    shared_by: int
    """How many other images have this layer."""


class Relative(msgspec.Struct, frozen=True):
    """Another image with the same layers at its base."""

    id: str
    names: tuple[str, ...]
    layers: int
    """How many layers, from the base up, are the same."""


class ContainerStory(msgspec.Struct, frozen=True):
    """What there is to know of a container beside its layers."""

    id: str
    name: str
    status: str
    pid: int
    image: str
    image_name: str
    merged: str | None
    mounts: tuple[MountStory, ...]
    volumes: tuple[str, ...]


class Explanation(msgspec.Struct, frozen=True):
    """The whole answer; ``msgspec.to_builtins`` of it is what ``--json`` prints."""

    kind: str
    """``image`` or ``container``."""
    id: str
    name: str
    names: tuple[str, ...]
    digests: tuple[str, ...]
    created: str
    platform: str
    size: int
    """Of all layers together."""
    store: str
    root: str
    driver: str
    steps: tuple[Step, ...]
    layers: tuple[LayerStory, ...]
    """Base first."""
    relatives: tuple[Relative, ...]
    container: ContainerStory | None
    counted: bool
    """False if some layers have more files than were to be counted in one go."""
    problems: tuple[str, ...]


def explain(reader: StoreReader, name: str, *, limit: int | None = LIMIT) -> Explanation:
    """Explain the image or container *name*; *limit* bounds the names that are counted, None does not.

    Raises NotFound, or InvalidArgument for an ambiguous ID.
    """
    subject = find_subject(reader, name)
    relatives = find_relatives(subject, reader.images())
    counted = count_layers(reader, [place.layer for place in subject.places], limit=limit)
    steps = {step.layer: step.number for step in subject.steps if step.layer is not None}
    layers = tuple(
        _story(place, steps.get(place.number), counts, sum(item.layers >= place.number for item in relatives))
        for place, counts in zip(subject.places, counted.counts, strict=True)
    )
    image = subject.image
    return Explanation(
        kind=subject.kind,
        id=subject.id,
        name=subject.name,
        names=image.names if image is not None else (),
        digests=image.digests if image is not None else (),
        created=(subject.container.created if subject.container else image.config.created if image else ""),
        platform=_platform(subject),
        size=sum(layer.size or 0 for layer in layers),
        store=reader.kind,
        root=os.fspath(reader.root),
        driver=reader.driver,
        steps=subject.steps,
        layers=layers,
        relatives=relatives,
        container=_container(subject) if subject.container is not None else None,
        counted=counted.complete,
        problems=(*reader.problems, *counted.problems),
    )


def find_relatives(subject: Subject, images: Sequence[ImageRecord]) -> tuple[Relative, ...]:
    """Return the other images that stand on the same base, those that share most first, named ones before others.

    Steps of builds are left out: every image that was built here would share its layers with its own.
    """
    diff_ids = [place.diff_id for place in subject.places if place.diff_id is not None]
    own = subject.image.id if subject.image is not None else ""
    found: list[Relative] = []
    if not diff_ids:
        return ()
    steps = build_steps(images)
    for image in images:
        if not image.diff_ids or image.diff_ids[0] != diff_ids[0] or image.id == own or image.id in steps:
            continue
        same = 0
        for mine, theirs in zip(diff_ids, image.diff_ids, strict=False):
            if mine != theirs:
                break
            same += 1
        found.append(Relative(image.id, image.names, same))
    return tuple(sorted(found, key=lambda item: (-item.layers, not item.names, item.names, item.id)))


def _story(place: Place, step: int | None, counts: tuple[int, ...] | None, shared_by: int) -> LayerStory:
    layer = place.layer
    size = None if layer is None else layer.size
    present = layer is not None and layer.directory.is_dir()
    if layer is not None and size is None and present:
        from lamella.fs.usage import layer_size

        size = layer_size(layer.directory)
    return LayerStory(
        number=place.number,
        role="image" if layer is None else layer.role,
        step=step,
        diff_id=place.diff_id,
        chain_id=place.chain_id,
        cache_id=None if layer is None else layer.directory_id,
        directory=None if layer is None else os.fspath(layer.directory),
        present=present,
        size=size,
        files=None if counts is None else LayerCounts(*counts),
        shared_by=shared_by if place.diff_id is not None else 0,
    )


def _platform(subject: Subject) -> str:
    if subject.image is None:
        return ""
    config = subject.image.config
    return "/".join(part for part in (config.os or "linux", config.architecture, config.variant) if part)


def _container(subject: Subject) -> ContainerStory:
    container = subject.container
    assert container is not None  # noqa: S101 - the caller's condition
    own = subject.places[-1].layer if subject.places else None
    return ContainerStory(
        id=container.id,
        name=container.name,
        status=container.status,
        pid=container.pid,
        image=container.image,
        image_name=container.image_name,
        merged=None if container.merged is None else os.fspath(container.merged),
        mounts=find_mounts(container, None if own is None else own.directory),
        volumes=container.volumes,
    )

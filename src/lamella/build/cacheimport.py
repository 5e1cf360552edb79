"""``--cache-from``: steps that others have done, taken for done here too.

The store's own cache is asked first.  What it lacks is looked for in the places that the build was given: an exported
cache, whose steps are compared by their container settings as those of the store are, or any image, whose history is
compared line by line as Docker's classic builder does.  Reading is lazy: an index when the store's own cache first
misses, the few configs that can follow the present step, and layers only when a later step, or the result, needs them.
Everything is held against its digest.  A place that cannot be read is a warning.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import msgspec

from lamella.build.cache import BrokenCache, StepCache, same_settings
from lamella.build.cacheplaces import FORMAT, PARENT, VERSION, CachePlace
from lamella.build.events import Report, Warned
from lamella.build.snapshot import Snapshot, make_child
from lamella.build.squash import is_squashed
from lamella.errors import DigestMismatch, InvalidArgument, LamellaError, NotFound, Unsupported
from lamella.model.digest import EMPTY_LAYER, ImageID, chain_ids, digest_of
from lamella.model.documents import CONFIG_LIMIT
from lamella.model.imageconfig import ContainerSettings, decode_image_config
from lamella.model.platform import Platform
from lamella.model.reference import DEFAULT_TAG, Reference, parse_tagged
from lamella.store.imagestore import ImageStore
from lamella.transports.manifests import (
    INDEX_TYPES,
    Descriptor,
    Manifest,
    check_layer,
    parse_descriptors,
    parse_document,
    parse_manifest,
)
from lamella.transports.plans import MOST_LAYERS, ImagePlan, LayerSource
from lamella.transports.resolving import Repository, Served, fetch_small, find_manifest

Connect = Callable[[Reference, str], AbstractContextManager[Any]]
_SPOOL = Path("/var/tmp")
_MOST_CHILDREN = 100


class Step(NamedTuple):
    """A step that was found: its image, the bytes of the config, and where its layers are if not in the store."""

    image: Snapshot
    raw: bytes
    parent: ImageID | None
    repository: Repository | None = None
    manifest: Manifest | None = None


class CacheSource(Protocol):
    """One place that knows steps."""

    def find(self, parent: Snapshot, container: ContainerSettings, settings: ContainerSettings) -> Step | None:
        """Give the step on `parent` that would be committed with the settings `container`.

        `settings` are what its image then asks of its own containers.
        """
        ...


class RecordedSteps:
    """An exported cache."""

    def __init__(self, repository: Repository, index: Served) -> None:
        self._repository = repository
        self._children: dict[str, list[Descriptor]] = {}
        self._known: dict[str, tuple[bytes, Manifest]] = {}
        document = parse_document(index.raw, "cache", index.media_type)
        for item in parse_descriptors(document, "manifests", "cache"):
            if PARENT in item.annotations:
                self._children.setdefault(item.annotations[PARENT], []).append(item)

    def find(self, parent: Snapshot, container: ContainerSettings, settings: ContainerSettings) -> Step | None:  # noqa: ARG002
        """Compare the configs of the steps that follow `parent`."""
        for item in self._children.get(parent.id or "", [])[:_MOST_CHILDREN]:
            raw, manifest = self._read(item)
            image = Snapshot(ImageID(digest_of(raw)), decode_image_config(raw))
            config = image.config
            if config.container_config is None or not same_settings(config.container_config, container):
                continue
            if image.platform != parent.platform or not _follows(image, parent):
                continue
            if len(manifest.layers) != len(config.diff_ids):
                raise InvalidArgument(f"manifest {item.digest} has other layers than its config")
            return Step(image, raw, parent.id, self._repository, manifest)
        return None

    def _read(self, item: Descriptor) -> tuple[bytes, Manifest]:
        if item.digest not in self._known:
            what = f"manifest {item.digest}"
            served = self._repository.get_manifest(item.digest)
            if (actual := digest_of(served.raw)) != item.digest:
                raise DigestMismatch("manifest", item.digest, actual)
            manifest = parse_manifest(served.raw, what, item.media_type)
            for layer in manifest.layers:
                check_layer(layer, what)
            raw = fetch_small(self._repository, manifest.config, CONFIG_LIMIT, "config")
            self._known[item.digest] = raw, manifest
        return self._known[item.digest]


class ImageSteps:
    """The steps that an image's history tells of, as the classic builder takes them from ``--cache-from``."""

    def __init__(
        self, image: Snapshot, raw: bytes, repository: Repository | None = None, manifest: Manifest | None = None
    ) -> None:
        if is_squashed(image.config):
            raise Unsupported("the image was squashed: its history does not tell which step made what")
        self._image = image
        self._raw = raw
        self._repository = repository
        self._manifest = manifest

    def find(self, parent: Snapshot, container: ContainerSettings, settings: ContainerSettings) -> Step | None:
        """Compare the line of history that follows those of `parent`."""
        target = self._image.config
        count = len(parent.config.history)
        layers = len(parent.config.diff_ids)
        if count >= len(target.history) or self._image.platform != parent.platform:
            return None
        if target.history[:count] != parent.config.history or target.diff_ids[:layers] != parent.config.diff_ids:
            return None
        entry = target.history[count]
        if entry.created_by != " ".join(container.cmd or ()) or not _told_by_command(container, settings):
            return None
        if count + 1 == len(target.history):
            return Step(self._image, self._raw, parent.id, self._repository, self._manifest)
        if not entry.empty_layer and layers >= len(target.diff_ids):
            return None
        diff_id = EMPTY_LAYER if entry.empty_layer else target.diff_ids[layers]
        raw, image = make_child(
            parent,
            settings=settings,
            container=container,
            diff_id=diff_id,
            author=entry.author,
            created=entry.created,
        )
        manifest = self._manifest
        if manifest is not None:
            manifest = manifest._replace(layers=manifest.layers[: len(image.config.diff_ids)])
        return Step(image, raw, parent.id, self._repository, manifest)


def _follows(image: Snapshot, parent: Snapshot) -> bool:
    """Tell whether an image is another one with one step more."""
    old, new = parent.config, image.config
    count = len(old.diff_ids)
    return (
        new.history[:-1] == old.history
        and new.diff_ids[:count] == old.diff_ids
        and len(new.diff_ids) - count == (0 if new.history[-1].empty_layer else 1)
    )


def _told_by_command(container: ContainerSettings, settings: ContainerSettings) -> bool:
    """Tell whether the command is all that sets a step apart, since history has nothing else."""
    plain = msgspec.structs.replace(settings, cmd=container.cmd, entrypoint=container.entrypoint)
    return same_settings(container, plain)


class Cache:
    """All that a build may take for done: the store's own steps, then those of other places; safe for threads."""

    def __init__(
        self,
        store: ImageStore,
        places: Sequence[CachePlace],
        *,
        connect: Connect | None,
        platform: Platform,
        created: str = "",
        report: Report,
        scope: ExitStack,
    ) -> None:
        """Look into *places* when the store's own cache has nothing; *scope* closes what is opened for that.

        With *created* only steps that bear that very time are taken.
        """
        self._store = store
        self._created = created
        self._own = StepCache(store, created=created)
        self._places: list[CachePlace] = list(places)
        self._connect = connect
        self._platform = platform
        self._report = report
        self._scope = scope
        self._guard = threading.RLock()
        self._sources: dict[CachePlace, CacheSource] = {}
        self._trail: dict[ImageID, tuple[Snapshot, ContainerSettings, ContainerSettings]] = {}
        self._steps: dict[ImageID, Step] = {}

    def find(self, parent: Snapshot, container: ContainerSettings, settings: ContainerSettings) -> Snapshot | None:
        """Give the image of the step on `parent` that would be committed with `container`, None if nobody knows it."""
        with self._guard:
            found = self._own.find(parent, container)
            if found is not None and found.id is not None:
                self._trail[found.id] = parent, container, settings
                return found
            if container.open_stdin:
                return None
            for place in tuple(self._places):
                try:
                    step = self._look(place, parent, container, settings)
                except (LamellaError, OSError) as error:
                    self._give_up(place, error)
                    continue
                if step is not None:
                    return step.image
            return None

    def need(self, image: Snapshot) -> None:
        """See that an image that was found is in the store with its layers.  Raises BrokenCache."""
        if image.id is None or image.id not in self._steps:
            return
        with self._guard:
            step = self._steps[image.id]
            try:
                self._bring_in(step)
            except (LamellaError, OSError) as error:
                raise BrokenCache(f"the layers of cached step {image.id} cannot be had: {error}") from error

    # ------------------------------------------------------------------------------------------------ looking

    def _look(
        self, place: CachePlace, parent: Snapshot, container: ContainerSettings, settings: ContainerSettings
    ) -> Step | None:
        source = self._sources.get(place)
        if source is None:
            source = self._sources[place] = self._open(place)
        step = source.find(self._twin(source, parent), container, settings)
        if step is None or step.image.id is None or (self._created and step.image.config.created != self._created):
            return None
        self._steps[step.image.id] = step
        return step

    def _twin(self, source: CacheSource, image: Snapshot) -> Snapshot:
        """Give what a place has for an image that came from the store's own cache.

        The same steps done at another time are another image; those that follow it stand on that one there.
        """
        trail: list[tuple[Snapshot, ContainerSettings, ContainerSettings]] = []
        current = image
        while current.id is not None and current.id in self._trail:
            trail.append(self._trail[current.id])
            current = trail[-1][0]
        for _, container, settings in reversed(trail):
            step = source.find(current, container, settings)
            if step is None or step.image.id is None:
                return image
            self._steps.setdefault(step.image.id, step)
            current = step.image
        return current

    def _give_up(self, place: CachePlace, error: Exception) -> None:
        self._places.remove(place)
        self._report(Warned(f"cache {place} is not used: {error}"))

    def _open(self, place: CachePlace) -> CacheSource:
        if place.type == "local":
            return self._open_directory(place)
        if place.type == "image":
            try:
                stored = self._store.images.get(self._store.resolve(place.place))
            except NotFound:
                pass
            else:
                if not self._store.is_usable(stored):
                    raise NotFound(f"image {place.place} lacks a layer")
                return ImageSteps(Snapshot(stored.id, stored.config), stored.raw)
        if self._connect is None:
            raise NotFound("there is no way to reach registries")
        reference = parse_tagged(place.place)
        client = self._scope.enter_context(self._connect(reference, "pull"))
        served = client.get_manifest(str(reference.digest or reference.tag or DEFAULT_TAG))
        if reference.digest is not None and digest_of(served.raw) != reference.digest:
            raise DigestMismatch("cache", reference.digest, digest_of(served.raw))
        return self._read(client, reference, served)

    def _open_directory(self, place: CachePlace) -> CacheSource:
        from lamella.transports.archive import open_members
        from lamella.transports.copysources import open_layout

        directory = Path(place.place)
        if not directory.is_dir():
            raise NotFound(f"{directory} is not a directory")
        members = self._scope.enter_context(open_members(directory, spool=_SPOOL))
        layout = open_layout(members, place.name)
        return self._read(layout, Reference("local", "cache"), layout.get_manifest(""))

    def _read(self, repository: Repository, reference: Reference, served: Served) -> CacheSource:
        if served.media_type in INDEX_TYPES:
            notes = parse_document(served.raw, "cache", served.media_type).get("annotations")
            if isinstance(notes, dict) and FORMAT in notes:
                if notes[FORMAT] != VERSION:
                    raise Unsupported(f"it is in format {notes[FORMAT]!r:.20}; this lamella reads {VERSION}")
                return RecordedSteps(repository, served)
        _, manifest = find_manifest(repository, reference, served, self._platform)
        raw = fetch_small(repository, manifest.config, CONFIG_LIMIT, "config")
        config = decode_image_config(raw)
        if len(manifest.layers) != len(config.diff_ids):
            raise InvalidArgument("its manifest has other layers than its config")
        return ImageSteps(Snapshot(ImageID(digest_of(raw)), config), raw, repository, manifest)

    # ------------------------------------------------------------------------------------------------ bringing in

    def _bring_in(self, step: Step) -> None:
        """Fetch what is missing of a step's layers, and put its image and those it stands on into the store."""
        line = [step]
        while (parent := line[-1].parent) is not None and parent in self._steps:
            line.append(self._steps[parent])
        store = self._store
        store.root.flush()  # another process may hold a layer we wait for: we must not hold any meanwhile
        with store.root.transaction("pull", ids=len(step.image.config.diff_ids)) as tx:
            if step.repository is not None and step.manifest is not None and step.manifest.layers:
                from lamella.transports.pulling import fetch_layers

                fetch_layers(store, step.repository, Reference("local", "cache"), _plan(step), step.manifest, tx)
            for chain in chain_ids(step.image.config.diff_ids):
                if store.layers.lease(chain, tx) is None:
                    raise NotFound(f"layer {chain} is gone")
            for before in line:
                assert before.image.id is not None  # noqa: S101 - a step has an image
                store.images.announce(before.image.id, tx)
            tx.flush()
            for before in reversed(line):
                store.images.put(before.raw, parent=before.parent, built_locally=True, tx=tx)
            store.commit(tx, {})
        for before in line:
            assert before.image.id is not None  # noqa: S101 - a step has an image
            self._steps.pop(before.image.id)


def _plan(step: Step) -> ImagePlan:
    assert step.image.id is not None and step.manifest is not None  # noqa: S101, PT018 - the caller looked
    layers = step.manifest.layers
    if len(layers) > MOST_LAYERS:
        raise InvalidArgument(f"max depth exceeded ({len(layers)} layers, {MOST_LAYERS} allowed)")
    return ImagePlan(
        step.image.id,
        step.raw,
        step.image.config,
        tuple(LayerSource(_never, item.digest, item.size) for item in layers),
        (),
    )


def _never() -> Any:
    raise AssertionError("layers are read by their descriptors")

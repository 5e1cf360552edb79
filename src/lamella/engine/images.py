"""Images as the library shows them: inspect, walk the layers, mount, tag, remove."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from lamella.engine.layers import Layer, steps_of_layers
from lamella.engine.views.image import HistoryStep, ImageFacts, image_document, plan_history
from lamella.errors import DataLoss, NotFound, Unsupported
from lamella.model.ids import new_container_id, short_id
from lamella.model.reference import Reference, parse_new_name

if TYPE_CHECKING:
    from lamella.engine.opened import Opened
    from lamella.engine.removal import Removed
    from lamella.model.digest import ChainID, DiffID, ImageID
    from lamella.model.imageconfig import ImageConfig
    from lamella.store.imagedb import ImageHead, StoredImage
    from lamella.store.layerdb import Layer as StoredLayer


class Image:
    """One image of an open :class:`~lamella.Store`.

    It is a picture of the moment it was looked up: tags given or taken later show in a new look-up only.  What needs a
    layer raises NotFound or DataLoss if the image was removed or damaged meanwhile; what needs more of the config of an
    image from a list than its age and its layers raises DataLoss if that is malformed.
    """

    def __init__(
        self,
        opened: Opened,
        head: ImageHead,
        references: Sequence[Reference],
        *,
        stored: StoredImage | None = None,
        sizes: Mapping[ChainID, int] | None = None,
    ) -> None:
        self._opened = opened
        self._head = head
        self._complete = stored
        self._sizes = sizes
        self.references = list(references)
        """Its names: tags and digests, sorted."""

    def __repr__(self) -> str:  # type: ignore[explicit-override]  # override() came with Python 3.12
        return f"<Image {self.short_id} {' '.join(self.tags) or '(untagged)'}>"

    def __eq__(self, other: object) -> bool:  # type: ignore[explicit-override]  # override() came with Python 3.12
        return isinstance(other, Image) and other.id == self.id and other._opened is self._opened

    def __hash__(self) -> int:  # type: ignore[explicit-override]  # override() came with Python 3.12
        return hash(self.id)

    # ------------------------------------------------------------------------------------------------ facts

    @property
    def id(self) -> ImageID:
        """The image ID: the digest of its config."""
        return self._head.id

    @property
    def short_id(self) -> str:
        """The twelve digits that lists show."""
        return short_id(self.id)

    @property
    def tags(self) -> list[str]:
        """Its tags as people write them, such as ``ubuntu:latest``."""
        return [reference.familiar() for reference in self.references if not reference.digest]

    @property
    def config(self) -> ImageConfig:
        """The view of its config."""
        return self._stored.config

    @property
    def raw_config(self) -> bytes:
        """The exact bytes whose digest is the ID."""
        return self._head.raw

    @property
    def diff_ids(self) -> tuple[DiffID, ...]:
        """The diff IDs of its layers, base first."""
        return self._head.diff_ids

    @property
    def created(self) -> int:
        """When it was made, in nanoseconds since the epoch; 0 or less if the config does not say."""
        return self._head.created

    @property
    def labels(self) -> dict[str, str]:
        """Its labels."""
        return self.config.config.labels

    @property
    def parent(self) -> ImageID | None:
        """The image it was built on, as far as this store was told."""
        return self._stored.parent

    @property
    def size(self) -> int:
        """The bytes of all its layers' files; shared layers count in full."""
        if self._sizes is not None:
            return sum(map(self._sizes.__getitem__, self._head.chains))
        return sum(layer.size for layer in self._stack())

    def inspect(self) -> dict[str, object]:
        """Return the document that ``docker image inspect`` shows."""
        stack = self._stack()
        driver = self._opened.parts.root.driver
        facts = ImageFacts(
            references=self.references,
            size=sum(layer.size for layer in stack),
            driver=driver.name,
            directories=driver.metadata(stack[-1].cache_id) if stack else None,
        )
        return image_document(self._stored, facts)

    def history(self) -> list[HistoryStep]:
        """Return the steps it was made by, newest first, settings that made no layer included."""
        return plan_history(self.config.history, [layer.size for layer in self._stack()], self._lineage())

    def layers(self) -> list[Layer]:
        """Return its layers, base first, each with the step that made it and the directory it lies in."""
        stack = self._stack()
        history = plan_history(self.config.history, [layer.size for layer in stack], self._lineage())
        return [
            Layer("image", layer.diff_id, layer.chain_id, layer.cache_id, layer.size, self._directory(layer), step)
            for layer, step in zip(stack, steps_of_layers(history, len(stack)), strict=True)
        ]

    # ------------------------------------------------------------------------------------------------ files

    @contextlib.contextmanager
    def mount(self) -> Iterator[Path]:
        """Mount the image's file system read-only for the block and yield its root directory.

        Nothing can be written through it, and nothing is written for it.  Raises Unsupported for an image without
        layers.
        """
        stack = self._stack()
        if not stack:
            raise Unsupported(f"image {self.short_id} has no layers, so there is nothing to mount")
        with self._opened.parts.root.driver.mounted_read_only(stack[-1].cache_id) as root:
            yield root

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        """Mount a writable copy of the image's file system for the block, and throw it away at its end.

        The copy costs nothing until something is written.  Should the process be killed, the next command that
        changes the store clears it away.
        """
        parts = self._opened.parts
        with contextlib.ExitStack() as scope:
            # Its own failure undoes a transaction; leaving it well would publish, so the copy is removed first.
            tx = scope.enter_context(parts.root.transaction("scratch", ids=1))
            copy = parts.rwlayers.create(new_container_id(), self._stored.top, tx=tx, recorded=False)
            scope.callback(parts.rwlayers.remove, copy)
            yield scope.enter_context(parts.rwlayers.mounted(copy, volatile=True))

    def save(self, sink: BinaryIO) -> None:
        """Write the image with its tags as an archive that docker, podman, skopeo and containerd read."""
        from lamella.transports.saving import save

        save(self._opened.parts, [(self.id, [known for known in self.references if not known.digest])], sink)

    # ------------------------------------------------------------------------------------------------ changes

    def tag(self, reference: str) -> None:
        """Give the image the name *reference*, away from the image that had it; durable on return."""
        parts = self._opened.parts
        with parts.root.writing():
            parts.name_images({parse_new_name(reference).familiar(): self.id})
            parts.images.touch(self.id)

    def remove(self, *, force: bool = False, prune: bool = True) -> list[Removed]:
        """Remove the image with all its tags, if no container and no other image needs it, and return what went.

        *force* removes it also if it has tags in several repositories or a stopped container; *prune* removes parents
        left without a name.  Raises Conflict.  To take away one name only, use :meth:`Store.remove_image`.
        """
        return remove_image(self._opened, self.id, force=force, prune=prune)

    # ------------------------------------------------------------------------------------------------ internals

    @property
    def _stored(self) -> StoredImage:
        if self._complete is None:
            self._complete = self._opened.parts.images.complete(self._head)
        return self._complete

    def _stack(self) -> list[StoredLayer]:
        return self._opened.parts.layers.stack(self._stored.top)

    def _directory(self, layer: StoredLayer) -> Path:
        return self._opened.layer_directory(layer.cache_id)

    def _lineage(self) -> list[tuple[str, tuple[str, ...]]]:
        """Follow the parents that this store knows; a loop in damaged metadata ends at its first return."""
        images = self._opened.parts.images
        found: list[tuple[str, tuple[str, ...]]] = [(self.id, tuple(self.tags))]
        seen = {self.id}
        parent = self.parent
        while parent is not None and parent not in seen and len(found) < len(self.config.history):
            stored = images.find(parent)
            if stored is None:
                break
            tags = [reference.familiar() for reference in self._opened.parts.tags.references(parent)]
            found.append((parent, tuple(tags)))
            seen.add(parent)
            parent = stored.parent
        return found


def get_image(opened: Opened, name: str) -> Image:
    """Return the image that *name* names: a reference, or the beginning of an ID.  Raises NotFound."""
    stored = opened.parts.images.get(opened.parts.resolve(name))
    return Image(opened, stored.head, opened.parts.tags.references(stored.id), stored=stored)


def find_image(opened: Opened, name: str) -> Image | None:
    """Return the image that *name* names, or None if there is none."""
    try:
        return get_image(opened, name)
    except NotFound:
        return None


def list_images(opened: Opened, *, steps: bool, filters: Sequence[str] = ()) -> list[Image]:
    """Return the images, newest first; without *steps* those that are only steps of others are left out."""
    parts = opened.parts
    sizes = parts.layers.sizes()
    names = parts.tags.by_image()
    images = [Image(opened, head, names.get(head.id, []), sizes=sizes) for head in parts.iter_heads(sizes)]
    if not steps:
        parents_of = parts.images.parents()
        parents = {parents_of.get(image.id) for image in images}
        images = [image for image in images if image.references or image.id not in parents]
    if filters:
        images = _filtered(opened, images, filters)
    return sorted(images, key=lambda image: image.created, reverse=True)


def _filtered(opened: Opened, images: Iterable[Image], filters: Sequence[str]) -> list[Image]:
    from lamella.engine.selection import image_test, matches_reference, reference_patterns

    passes = image_test(filters, lambda name: get_image(opened, name), time.time_ns())
    chosen = list(_passing(opened, images, passes))
    patterns = reference_patterns(filters)
    if not patterns:
        return chosen
    for image in chosen:
        image.references = [
            reference
            for reference in image.references
            if any(matches_reference(p, reference.familiar_name(), reference.familiar()) for p in patterns)
        ]
    return [image for image in chosen if image.references]


def _passing(opened: Opened, images: Iterable[Image], passes: Callable[[Image], bool]) -> Iterator[Image]:
    for image in images:
        try:
            if passes(image):
                yield image
        except DataLoss as error:  # its config is read only now
            opened.parts.root.report(str(error))


def remove_image(opened: Opened, name: str, *, force: bool, prune: bool) -> list[Removed]:
    """Do what ``docker rmi`` does with *name*; see ``Store.remove_image``."""
    from lamella.engine import removal
    from lamella.engine.shelf import StoreShelf

    with opened.parts.root.writing():
        image = opened.parts.resolve(name)
        return removal.remove_image(StoreShelf(opened), image, name, force=force, prune=prune)


def prune_images(opened: Opened, *, everything: bool, filters: Sequence[str]) -> tuple[list[Removed], int]:
    """Remove what pruning removes; return it and the bytes it freed."""
    from lamella.engine import removal
    from lamella.engine.selection import image_test
    from lamella.engine.shelf import StoreShelf
    from lamella.model.filters import parse_bool, parse_filters

    wanted = parse_filters(filters, ("dangling", "label", "until"))
    if parse_bool("dangling", wanted.get("dangling", [])) is False:
        everything = True
    rest = [word for word in filters if not word.startswith("dangling")]
    with opened.parts.root.writing():
        sizes = opened.parts.layers.sizes()
        passes = image_test(rest, lambda name: get_image(opened, name), time.time_ns())
        images = list_images(opened, steps=True)
        chosen = {image.id for image in _passing(opened, images, passes)}
        removed = removal.prune_images(
            StoreShelf(opened),
            [image.id for image in images],
            everything=everything,
            keep=lambda image: image not in chosen,
        )
    from lamella.transports.blobs import prune_blobs
    from lamella.transports.kept import prune_kept

    prune_kept(opened.parts)
    gone = {step.deleted for step in removed}
    freed = sum(size for chain, size in sizes.items() if chain in gone)
    return removed, freed + prune_blobs(opened.parts.root)

"""Adopting: images, containers and volumes of another store brought into ours without a registry.

The other store is only read (``readers``), so its engine may be running or dead.  Each image and each container is one
transaction: one with a damaged layer is refused with the layer's name, and the others come in.  IDs stay what they
were, since the config's bytes do; layers count by their recomputed diff IDs.  A tag that names another image here is
left where it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

from lamella.errors import DataLoss, InvalidArgument, LamellaError, NotFound, Unsupported
from lamella.insight.adoptlayers import BrokenLayer, Moved, WantedLayer, adopt_stack, container_layers, image_layers
from lamella.insight.adoptvolumes import VolumeMover
from lamella.model.digest import ChainID, DiffID, Digest, ImageID, chain_id
from lamella.model.ids import short_id
from lamella.model.progress import Advanced, Finished, Reporter, Started, silent
from lamella.model.reference import parse_reference
from lamella.readers.base import ContainerRecord, ImageRecord, StoreReader
from lamella.store.imagestore import ImageStore
from lamella.store.transactions import Transaction

Kind = Literal["image", "container", "volume"]
State = Literal["adopted", "present", "refused", "planned"]
_REFUSED_ANYWAY = (LamellaError, OSError)


class Adopted(NamedTuple):
    """What became of one image, container or volume."""

    kind: Kind
    name: str
    id: str
    state: State
    notes: tuple[str, ...] = ()
    """Why it was refused, or what was done otherwise than one might expect."""
    layers: int = 0
    """Layers that were, or are to be, made."""
    known: int = 0
    """Layers that were here already."""
    size: int = 0
    """Bytes of the files of the layers made; for a plan, as far as the other store records them."""
    shared: int = 0
    """Bytes of them that the two stores hold in common, since the file system can."""


def adopt(
    store: ImageStore,
    reader: StoreReader,
    names: Sequence[str] = (),
    *,
    dry_run: bool = False,
    hard_link: bool = False,
    report: Reporter = silent,
) -> Iterator[Adopted]:
    """Bring what *names* name, or everything there is, and yield what became of each.

    With *dry_run* nothing is written and contents are not checked.  With *hard_link* equal files become one inode in
    both stores, where blocks cannot be shared: whoever writes to one then writes to the other.  Raises NotFound for a
    name that is not there, InvalidArgument for our own store, InUse while a dockerd runs on ours, before anything is done.
    """
    if reader.root == store.root.path or reader.root in store.root.path.parents:
        raise InvalidArgument(f"{reader.root} is this store itself: give another one, or another --root")
    images, containers = _chosen(reader, names)
    if not dry_run:
        with store.root.writing():  # a store that cannot be written is said once, before anything is read
            pass
    run = _Run(store, reader, hard_link=hard_link, report=report)
    for image in images:
        yield run.plan_image(image) if dry_run else run.adopt_image(image)
    for volume in reader.volumes() if not names else ():
        yield run.volume(volume.name, dry_run=dry_run)
    for container in containers:
        yield run.plan_container(container) if dry_run else run.adopt_container(container)


def _chosen(reader: StoreReader, names: Sequence[str]) -> tuple[list[ImageRecord], list[ContainerRecord]]:
    """Find what is named; a container brings its image along."""
    if not names:
        return _parents_first(reader.images()), list(reader.containers())
    images: dict[str, ImageRecord] = {}
    containers: dict[str, ContainerRecord] = {}
    for name in names:
        try:
            container = reader.find_container(name)
        except (NotFound, InvalidArgument):
            try:
                image = reader.find_image(name)
            except NotFound:
                raise NotFound(f"No such image or container in {reader.root}: {name}") from None
            images[image.id] = image
            continue
        containers[container.id] = container
        image_of = _image_of(reader, container)
        if image_of is not None:
            images[image_of.id] = image_of
    return list(images.values()), list(containers.values())


def _image_of(reader: StoreReader, container: ContainerRecord) -> ImageRecord | None:
    try:
        return reader.find_image(container.image) if container.image else None
    except LamellaError:
        return None


def _parents_first(images: Sequence[ImageRecord]) -> list[ImageRecord]:
    """Order images so that the one that a local build started from comes first."""
    by_id = {image.id: image for image in images}
    found: dict[str, ImageRecord] = {}
    for image in images:
        line: list[ImageRecord] = []
        current: ImageRecord | None = image
        while current is not None and current.id not in found and current not in line:
            line.append(current)
            current = by_id.get(current.parent)
        found.update((one.id, one) for one in reversed(line))
    return list(found.values())


class _Run:
    """One call of ``adopt``: what it found damaged is not tried again for the next image."""

    def __init__(self, store: ImageStore, reader: StoreReader, *, hard_link: bool, report: Reporter) -> None:
        self._store = store
        self._reader = reader
        self._hard_link = hard_link
        self._report = report
        self._broken: dict[ChainID, str] = {}
        self._planned: set[ChainID] = set()
        self._volumes = VolumeMover(store, reader)

    # ------------------------------------------------------------------------------------------------ images

    def plan_image(self, image: ImageRecord) -> Adopted:
        """Say what adopting an image would do."""
        id_, name = ImageID(Digest(image.id)), _name_of(image)
        try:
            layers = self._layers_of(image)
        except _REFUSED_ANYWAY as error:
            return Adopted("image", name, id_, "refused", (str(error),))
        if self._is_here(image):
            return Adopted("image", name, id_, "present", known=len(layers))
        missing = [layer for layer in layers if not layer.origins]
        made, known, size = self._count(layers)
        if missing:
            note = f"layer {short_id(missing[0].diff_id)} is not in the store"
            return Adopted("image", name, id_, "refused", (note,), layers=made, known=known)
        return Adopted("image", name, id_, "planned", self._tags(image)[1], layers=made, known=known, size=size)

    def adopt_image(self, image: ImageRecord) -> Adopted:
        """Bring an image in, whole or not at all."""
        id_, name = ImageID(Digest(image.id)), _name_of(image)
        try:
            layers = self._layers_of(image)
            present = self._is_here(image)
            tags, notes = self._tags(image)
            if present and not tags:
                return Adopted("image", name, id_, "present", notes, known=len(layers))
            parent = ImageID(Digest(image.parent)) if image.parent else None
            with self._store.root.transaction("adopt", ids=max(len(layers), 1)) as tx:
                moved = self._bring(layers, tx)
                self._store.images.announce(id_, tx)
                tx.flush()
                known_parent = parent if parent is not None and self._store.images.exists(parent) else None
                self._store.images.put(image.raw_config, parent=known_parent, tx=tx)
                self._store.commit(tx, tags)
        except _REFUSED_ANYWAY as error:
            if isinstance(error, OSError) and not _of_the_source(error):
                raise
            return Adopted("image", name, id_, "refused", (str(error),))
        state: State = "present" if present and not moved.made else "adopted"
        return Adopted("image", name, id_, state, notes, moved.made, moved.known, moved.size, moved.shared)

    def _layers_of(self, image: ImageRecord) -> list[WantedLayer]:
        if image.config.os not in {"", "linux"}:
            raise Unsupported(f"it is for {image.config.os}; this store holds Linux images")
        return image_layers(self._reader, image)

    def _is_here(self, image: ImageRecord) -> bool:
        found = self._store.images.find(ImageID(Digest(image.id)))
        return found is not None and self._store.is_usable(found)

    def _tags(self, image: ImageRecord) -> tuple[dict[str, ImageID], tuple[str, ...]]:
        """Return the references to set, and what is to be said about those that stay where they are."""
        here = self._store.tags.read()
        tags: dict[str, ImageID] = {}
        notes: list[str] = []
        for name in (*image.names, *image.digests):
            try:
                key = parse_reference(name).familiar()
            except InvalidArgument:
                notes.append(f"{name!r:.100} is no name that an image can have here: left out")
                continue
            other = here.get(key)
            if other is not None and other != image.id and self._store.images.exists(other):
                notes.append(f"{key} stays with image {short_id(other)} here")
            elif other != image.id:
                tags[key] = ImageID(Digest(image.id))
        return tags, tuple(notes)

    # ------------------------------------------------------------------------------------------------ containers

    def plan_container(self, container: ContainerRecord) -> Adopted:
        """Say what adopting a container would do."""
        from lamella.insight.adoptcontainers import known_container, refuse_container

        try:
            if known_container(self._store, container):
                return Adopted("container", container.name, container.id, "present")
            refuse_container(self._store, container)
            image = _image_of(self._reader, container)
            layers = container_layers(self._reader, container) if image is None else self._layers_of(image)
            made, known, size = self._count(layers)
        except _REFUSED_ANYWAY as error:
            return Adopted("container", container.name, container.id, "refused", (str(error),))
        return Adopted("container", container.name, container.id, "planned", (), made, known, size)

    def adopt_container(self, container: ContainerRecord) -> Adopted:
        """Bring a container in, on the layers of its image."""
        from lamella.insight.adoptcontainers import adopt_container, known_container, refuse_container

        store = self._store
        try:
            if known_container(store, container):
                return Adopted("container", container.name, container.id, "present")
            refuse_container(store, container)
            image = _image_of(self._reader, container)
            layers = container_layers(self._reader, container) if image is None else self._layers_of(image)
            with store.root.transaction("adopt", ids=len(layers) + 1) as tx:
                moved = self._bring(layers, tx)
                tx.flush()
                notes = adopt_container(
                    store,
                    self._reader,
                    container,
                    top=moved.top,
                    image=container.image if image is None else image.id,
                    config=None if image is None else image.config,
                    volumes=self._volumes,
                    tx=tx,
                )
        except _REFUSED_ANYWAY as error:
            if isinstance(error, OSError) and not _of_the_source(error):
                raise
            return Adopted("container", container.name, container.id, "refused", (str(error),))
        return Adopted(
            "container", container.name, container.id, "adopted", tuple(notes), moved.made, moved.known, moved.size
        )

    def volume(self, name: str, *, dry_run: bool) -> Adopted:
        """Bring a volume in, or say what that would do."""
        try:
            if dry_run:
                if self._volumes.exists(name):
                    return Adopted("volume", name, "", "present")
                self._volumes.check(name)
                return Adopted("volume", name, "", "planned")
            return Adopted("volume", name, "", self._volumes.bring(name))
        except LamellaError as error:
            return Adopted("volume", name, "", "refused", (str(error),))

    # ------------------------------------------------------------------------------------------------ layers

    def _bring(self, layers: Sequence[WantedLayer], tx: Transaction) -> Moved:
        top: ChainID | None = None
        for layer in layers:
            top = chain_id(top, layer.diff_id)
            if top in self._broken:
                raise DataLoss(self._broken[top])
        started: set[DiffID] = set()

        def advance(diff_id: DiffID, amount: int) -> None:
            if diff_id not in started:
                started.add(diff_id)
                self._report(Started(short_id(diff_id), "Adopting layer", None))
            self._report(Advanced(short_id(diff_id), amount))

        try:
            return adopt_stack(self._store, layers, tx=tx, hard_link=self._hard_link, advance=advance)
        except BrokenLayer as error:
            self._broken[error.chain] = str(error)
            raise
        finally:
            for diff_id in started:
                self._report(Finished(short_id(diff_id), "Adopted"))

    def _count(self, layers: Sequence[WantedLayer]) -> tuple[int, int, int]:
        """Return how many layers are to be made, how many are here, and the recorded size of the former."""
        top: ChainID | None = None
        made = known = size = 0
        for layer in layers:
            top = chain_id(top, layer.diff_id)
            if top in self._planned or self._store.layers.find(top) is not None:
                known += 1
            else:
                self._planned.add(top)
                made += 1
                size += layer.size or 0
        return made, known, size


def _name_of(image: ImageRecord) -> str:
    return next(iter((*image.names, *image.digests)), "<none>")


def _of_the_source(error: OSError) -> bool:
    """Tell whether an error may be the other store's fault alone; a full disk, say, is not."""
    import errno

    return error.errno in {errno.ENOENT, errno.ENOTDIR, errno.EIO, errno.ELOOP, errno.ESTALE}

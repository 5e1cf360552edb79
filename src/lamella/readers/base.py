"""What every kind of image store has, and the interface of those who read one.

A reader takes no lock and changes nothing, so it also works on a store in use, on one whose engine is dead, and on a
read-only copy: what disappears between two reads is passed over, what is damaged goes to `problems`.  Directories hold
files in overlayfs' form: a character device 0:0 deletes, ``trusted.overlay.opaque`` hides all below.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

from lamella.errors import DataLoss, InvalidArgument
from lamella.model.digest import ChainID, DiffID
from lamella.model.imageconfig import ImageConfig, decode_image_config

Role = Literal["image", "writable", "init", "build"]


class StoredLayer(NamedTuple):
    """One layer and the directory that holds its files."""

    id: str
    """What this kind of store calls it: the chain ID, the layer ID of containers/storage, a snapshot's key."""
    role: Role
    """``image``, a container's ``writable`` or ``init`` layer, or ``build``: a build cache's own."""
    parent: str | None
    """The id of the layer below."""
    directory: Path
    """The files: a directory of the store's own, no link, when it was looked at; it may be gone by now."""
    directory_id: str
    """The name of what belongs to the layer under the driver's directory: cache ID, layer ID, snapshot number."""
    chain_id: ChainID | None = None
    diff_id: DiffID | None = None
    size: int | None = None
    """Bytes of its files as the engine recorded them."""
    created: str = ""
    whole: bool = False
    """Whether the directory holds the files of the layers below as well, as with ``vfs`` and ``native``."""


class ImageRecord:
    """One image.  Of its config only the diff IDs are known at first; the rest is read when it is asked for."""

    __slots__ = ("_config", "diff_ids", "digests", "id", "layers", "names", "parent", "raw_config")

    def __init__(
        self,
        id: str,  # noqa: A002  (the vocabulary's word)
        *,
        names: tuple[str, ...],
        digests: tuple[str, ...],
        raw_config: bytes,
        diff_ids: tuple[DiffID, ...],
        layers: tuple[str, ...],
        parent: str = "",
        config: ImageConfig | None = None,
    ) -> None:
        self.id = id
        """The config's digest."""
        self.names = names
        """Familiar references with a tag."""
        self.digests = digests
        """References with the digest they were pulled under."""
        self.raw_config = raw_config
        self.diff_ids = diff_ids
        """Base first, as its config has them, whether they are there or not."""
        self.layers = layers
        """The ids of its layers that are there, base first; fewer than the diff IDs if some are missing.

        With some missing, ``chain_ids(diff_ids)`` tells which: every StoredLayer of an image has its chain ID.
        """
        self.parent = parent
        """The image that a local build made it from."""
        self._config = config

    def __repr__(self) -> str:  # type: ignore[explicit-override]  # override() came with Python 3.12
        return f"<ImageRecord {self.id} {self.names}>"

    def __eq__(self, other: object) -> bool:  # type: ignore[explicit-override]
        return isinstance(other, ImageRecord) and self._facts() == other._facts()

    def __hash__(self) -> int:  # type: ignore[explicit-override]
        return hash(self.id)

    def _facts(self) -> tuple[object, ...]:
        return self.id, self.names, self.digests, self.raw_config, self.layers, self.parent

    @property
    def config(self) -> ImageConfig:
        """The view of its config.  Raises DataLoss for one that Docker would not take."""
        if self._config is None:
            try:
                self._config = decode_image_config(self.raw_config)
            except InvalidArgument as error:
                raise DataLoss(f"image {self.id}: {error}") from error
        return self._config


class ContainerFacts(NamedTuple):
    """What an engine other than Docker knows of a container beside its OCI spec."""

    labels: Mapping[str, str] = {}
    stop_signal: str = ""
    """Its name, or its number in digits."""
    extra_hosts: tuple[str, ...] = ()
    """``NAME:ADDRESS`` each."""
    shm_size: int | None = None
    """Bytes."""
    exit_code: int = 0
    started: str = ""
    """When it was started last; empty if that is not known."""
    finished: str = ""


class ContainerRecord(NamedTuple):
    """One container."""

    id: str
    name: str
    image: str
    """Its image's id, as far as it is known."""
    image_name: str
    created: str
    status: str
    """Docker's words: ``running``, ``exited``, ``created`` …"""
    pid: int
    """The process on this host, 0 if none runs: a record of a dead engine counts only if the process lives."""
    layers: tuple[str, ...]
    """The ids of all its layers, base first: the image's, the init layer if there is one, the writable one."""
    merged: Path | None
    """Where it is mounted when it runs."""
    log: Path | None = None
    directory: Path | None = None
    """What the engine keeps about it."""
    volumes: tuple[str, ...] = ()
    """Names of the volumes that are mounted in it."""
    facts: ContainerFacts | None = None
    """What no OCI spec says; None if Docker's own documents say all."""


class VolumeRecord(NamedTuple):
    """One named volume."""

    name: str
    directory: Path
    created: str = ""
    mounts: str = ""
    """What its options have the engine mount there, a device or directory; empty for a plain one."""


class StoreReader(Protocol):
    """One store, open for reading; what it returns is read once and kept."""

    kind: str
    """``docker``, ``containers-storage``, ``containerd``."""
    root: Path
    driver: str
    problems: list[str]
    """What was found damaged, a line each."""

    def images(self) -> Sequence[ImageRecord]:
        """Return all images, intermediate ones included."""
        ...

    def layers(self) -> Mapping[str, StoredLayer]:
        """Return all layers by id, those of containers and build caches included."""
        ...

    def containers(self) -> Sequence[ContainerRecord]:
        """Return all containers."""
        ...

    def volumes(self) -> Sequence[VolumeRecord]:
        """Return all named volumes."""
        ...

    def layer_directories(self) -> Mapping[str, Path]:
        """Return every directory that looks like a layer's, by its name, whether anything names it or not.

        The path is what belongs to the layer as a whole (``overlay2/<cache ID>``), of which ``StoredLayer.directory``
        is the part with the files (``overlay2/<cache ID>/diff``); with vfs both are the same.
        """
        ...

    def find_image(self, name: str) -> ImageRecord:
        """Return one image by reference or by the beginning of its ID, without reading the others.

        Raises NotFound, or InvalidArgument if the ID is ambiguous or the reference malformed.
        """
        ...

    def find_container(self, name: str) -> ContainerRecord:
        """Return one container by name, ID or the beginning of its ID.  Raises NotFound or InvalidArgument."""
        ...

    def find_layer(self, id: str) -> StoredLayer | None:  # noqa: A002  (the vocabulary's word)
        """Return one layer by its id, without reading the others; a damaged one goes to ``problems``."""
        ...

    def find_layer_by_directory(self, directory_id: str) -> StoredLayer | None:
        """Return the layer whose files lie in the directory of this name, of whatever role, or None: nobody's."""
        ...

    def tar_split(self, layer: StoredLayer) -> Path | None:
        """Return the layer's tar-split, if the store has one."""
        ...

    def blob(self, layer: StoredLayer) -> Path | None:
        """Return the layer's blob, packed or not, if the store keeps it."""
        ...

    def image_blobs(self, image: ImageRecord) -> Sequence[Path | None]:
        """Return the blob of each of an image's diff IDs, base first, unpacked or not; empty if the store keeps none.

        A blob's name is the hex of its digest, which nobody has checked.
        """
        ...

    def container_spec(self, container: ContainerRecord) -> Mapping[str, object] | None:
        """Return the OCI runtime spec that the engine keeps for a container, if it keeps one."""
        ...

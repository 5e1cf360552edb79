"""A Docker data root, read: dockerd's or lamella's own, with the overlay2 or the vfs driver.

No lock is taken, since dockerd knows none and replaces every record by a rename.  What is needed from several files is
read in the order in which it was made last: configs before the layers they name, mount records before the layers below.
Directories that the store fixes (``image``, ``overlay2``, ``containers``, ``volumes`` …) are never taken through a link.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from lamella.drivers import DRIVERS, open_driver
from lamella.errors import DataLoss, InvalidArgument, LamellaError, NotFound
from lamella.model.digest import PREFIX, ChainID, DiffID, ImageID, hex_of, is_hex64, parse_digest
from lamella.model.ids import ContainerID, is_cache_id, is_container_id
from lamella.model.imageconfig import ImageConfig
from lamella.model.reference import Reference
from lamella.readers.base import ContainerRecord, ImageRecord, Role, StoredLayer, VolumeRecord
from lamella.readers.buildkit import BuildSnapshots
from lamella.readers.common import leads_away, local_volumes
from lamella.readers.dockercontainers import describe_container
from lamella.store.containerdb import ContainerDB
from lamella.store.containerdb import ContainerRecord as Documents
from lamella.store.dataroot import DataRoot
from lamella.store.imagedb import ImageDB, ImageHead
from lamella.store.layerdb import Layer, LayerDB
from lamella.store.mountdb import MountDB, RWLayer
from lamella.store.smallfiles import find_small, is_directory, list_names
from lamella.store.tags import Tags


class DockerReader:
    """One Docker data root, open for reading; see ``readers.base.StoreReader``."""

    kind = "docker"

    def __init__(self, root: Path, driver: str | None = None) -> None:
        """Open the data root *root*; without *driver* the one with images, else the one with any records, is taken.

        Raises NotFound if no driver that lamella knows has kept anything there, DataLoss if a link stands for one of
        its directories.
        """
        self.root = Path(os.path.realpath(root))
        self.driver = driver or _used_driver(self.root)
        self._data_root = DataRoot(
            self.root, open_driver(self.driver, self.root, self.root / "lamella"), writable=False
        )
        for directory in (
            self.root / "image",
            self._data_root.image_dir,
            self._data_root.imagedb_dir,
            self._data_root.layerdb_dir,
            self.root / self.driver,
        ):
            if directory.is_symlink():
                raise DataLoss(f"{directory}: a symbolic link stands where the store keeps its own directory")
        self.problems = self._data_root.problems
        self._layerdb = LayerDB(self._data_root.layerdb_dir)
        self._mountdb = MountDB(self._data_root.layerdb_dir)
        self._imagedb = ImageDB(self._data_root, self._layerdb)
        self._containerdb = ContainerDB(self._data_root)
        self._tags = Tags(self._data_root)
        self._home = self.root / "vfs" / "dir" if self.driver == "vfs" else self.root / self.driver
        self._known: dict[str, StoredLayer] = {}
        self._images: tuple[ImageRecord, ...] | None = None
        self._layers: dict[str, StoredLayer] | None = None
        self._containers: tuple[ContainerRecord, ...] | None = None
        self._volumes: tuple[VolumeRecord, ...] | None = None
        self._builds: BuildSnapshots | None = None

    # ------------------------------------------------------------------------------------------------ whole store

    def images(self) -> Sequence[ImageRecord]:
        """Return all images, intermediate ones included; a config that does not hash to its name is a problem."""
        if self._images is None:
            heads = list(self._imagedb.iter_heads())
            names = self._tags.by_image()
            parents = self._imagedb.parents()
            present = set(list_names(self._layerdb.records))
            self._images = tuple(
                self._image_record(
                    head,
                    names.get(head.id, ()),
                    [chain for chain in head.chains if hex_of(chain) in present],
                    parents.get(head.id),
                )
                for head in heads
            )
        return self._images

    def layers(self) -> Mapping[str, StoredLayer]:
        """Return image layers by chain ID, containers' and BuildKit's own by the name of their directory or snapshot."""
        if self._layers is None:
            found: dict[str, StoredLayer] = {}
            mounts = list(self._mountdb.iter_records(self.problems))
            snapshots = self._build_snapshots()
            for chain in self._layerdb.iter_chains():
                layer = self._read_layer(chain)
                if layer is not None:
                    found[layer.id] = layer
            for mount in mounts:
                found.update((layer.id, layer) for layer in self._mount_layers(mount))
            taken = {layer.directory_id for layer in found.values()}
            for layer in snapshots.layers(self.layer_directory, taken):
                found.setdefault(layer.id, layer)
            self._known.update(found)
            self._layers = found
        return self._layers

    def containers(self) -> Sequence[ContainerRecord]:
        """Return all containers of this driver."""
        if self._containers is None:
            records = [
                record
                for container in self._container_ids()
                if (record := self._find_container(container)) is not None and record.driver == self.driver
            ]
            self._containers = tuple(self._container_record(record) for record in records)
        return self._containers

    def volumes(self) -> Sequence[VolumeRecord]:
        """Return all volumes of the local driver."""
        if self._volumes is None:
            home = self.root / "volumes"
            self._volumes = local_volumes(home) if self._own(home) else ()
        return self._volumes

    def layer_directories(self) -> Mapping[str, Path]:
        """Return every directory below the driver's that has the name of a layer."""
        if not self._own(self._home):
            return {}
        return {
            name: self._home / name
            for name in list_names(self._home)
            if is_cache_id(name) and is_directory(self._home / name)
        }

    # ------------------------------------------------------------------------------------------------ one of them

    def find_image(self, name: str) -> ImageRecord:
        """Return one image by reference or by the beginning of its ID, reading only its own files."""
        from lamella.model.reference import parse_tagged

        refusal: InvalidArgument | None = None
        try:
            found = self._tags.find(parse_tagged(name))
        except InvalidArgument as error:
            found, refusal = None, error
        if found is None:
            try:
                found = self._imagedb.resolve_prefix(name)
            except NotFound:
                if refusal is not None and not name.startswith(PREFIX) and len(name) != 64:
                    raise refusal from None
                raise NotFound(f"No such image: {name}") from None
        image = self._imagedb.get(found)
        chains = [chain for chain in image.chains if self._layerdb.exists(chain)]
        return self._image_record(image.head, self._tags.references(found), chains, image.parent, image.config)

    def find_container(self, name: str) -> ContainerRecord:
        """Return one container by its full ID, its name or the beginning of its ID."""
        if not self._own(self._containerdb.directory):
            raise NotFound(f"No such container: {name}")
        record = self._containerdb.resolve(name)
        if record.driver != self.driver or not is_directory(self._containerdb.path(record.id)):
            raise NotFound(f"No such container: {name}")
        return self._container_record(record)

    def find_layer(self, id: str) -> StoredLayer | None:  # noqa: A002  (the vocabulary's word)
        """Return one layer by its id: four small files are read for an image's, none of the others."""
        if id in self._known:
            return self._known[id]
        if self._layers is not None:
            return None
        found = None
        if id.startswith(PREFIX) and is_hex64(hex_of(id)):
            found = self._read_layer(ChainID(DiffID(parse_digest(id))))
        elif is_container_id(id.removesuffix("-init")):
            found = self._mounted(id)
        if found is None:
            found = self._built(lambda layer: layer.id == id)
        if found is not None:
            self._known[found.id] = found
        return found

    def find_layer_by_directory(self, directory_id: str) -> StoredLayer | None:
        """Return the layer that lies in ``<driver>/<directory_id>``; of the others only the cache IDs are read."""
        if self._layers is not None:
            return next((layer for layer in self._layers.values() if layer.directory_id == directory_id), None)
        if not is_cache_id(directory_id):
            return None
        found = self._mounted(directory_id) if is_container_id(directory_id.removesuffix("-init")) else None
        if found is None and not directory_id.endswith("-init"):
            wanted = directory_id.encode()
            records = os.fspath(self._layerdb.records)
            for chain in self._layerdb.iter_chains():
                try:
                    cache_id = find_small(f"{records}/{hex_of(chain)}/cache-id")
                except DataLoss:
                    continue
                if cache_id is not None and cache_id.strip() == wanted:
                    found = self._read_layer(chain)
                    break
        return found or self._built(lambda layer: layer.directory_id == directory_id)

    def layer_directory(self, directory_id: str) -> Path:
        """Return where the files of a layer in this directory are, or would be."""
        return Path(f"{self._home}/{directory_id}" if self.driver == "vfs" else f"{self._home}/{directory_id}/diff")

    def tar_split(self, layer: StoredLayer) -> Path | None:
        """Return an image layer's ``tar-split.json.gz``."""
        if layer.role != "image" or layer.chain_id is None:
            return None
        path = self._layerdb.tar_split(layer.chain_id)
        return path if path.is_file() and not path.is_symlink() else None

    def blob(self, layer: StoredLayer) -> Path | None:
        """Return nothing: this kind of store keeps no blobs."""
        del layer
        return None

    def image_blobs(self, image: ImageRecord) -> Sequence[Path | None]:
        """Return nothing: this kind of store keeps no blobs."""
        del image
        return ()

    def container_spec(self, container: ContainerRecord) -> Mapping[str, object] | None:
        """Return nothing: Docker keeps documents of its own, and a spec only while a container runs."""
        del container
        return None

    # ------------------------------------------------------------------------------------------------ internals

    def _image_record(
        self,
        head: ImageHead,
        references: Iterable[Reference],
        chains: Iterable[ChainID],
        parent: ImageID | None,
        config: ImageConfig | None = None,
    ) -> ImageRecord:
        names = [(reference.familiar(), reference.digest is not None) for reference in references]
        return ImageRecord(
            head.id,
            names=tuple(name for name, by_digest in names if not by_digest),
            digests=tuple(name for name, by_digest in names if by_digest),
            raw_config=head.raw,
            diff_ids=head.diff_ids,
            layers=tuple(chains),
            parent=parent or "",
            config=config,
        )

    def _read_layer(self, chain: ChainID) -> StoredLayer | None:
        known = self._known.get(chain)
        if known is not None:
            return known
        try:
            layer: Layer = self._layerdb.read(chain)
        except NotFound:
            return None
        except DataLoss as error:
            self._data_root.report(str(error))
            return None
        if self._leads_away(layer.cache_id):
            return None
        found = StoredLayer(
            id=chain,
            role="image",
            parent=layer.parent,
            directory=self.layer_directory(layer.cache_id),
            directory_id=layer.cache_id,
            chain_id=chain,
            diff_id=layer.diff_id,
            size=layer.size,
            whole=self.driver == "vfs",
        )
        self._known[chain] = found
        return found

    def _mount_layers(self, mount: RWLayer) -> list[StoredLayer]:
        """Return a container's own layers, the lower one first."""
        below: str | None = mount.parent
        found: list[StoredLayer] = []
        pairs: tuple[tuple[str | None, Role], ...] = ((mount.init_id, "init"), (mount.mount_id, "writable"))
        for layer_id, role in pairs:
            if layer_id is not None and not self._leads_away(layer_id):
                directory, whole = self.layer_directory(layer_id), self.driver == "vfs"
                found.append(StoredLayer(layer_id, role, below, directory, layer_id, whole=whole))
                below = layer_id
        return found

    def _mounted(self, layer_id: str) -> StoredLayer | None:
        """Return a container's own layer by its id, which is the name of its directory."""
        for mount in self._mountdb.iter_records(self.problems):
            if layer_id in (mount.mount_id, mount.init_id):
                return next((layer for layer in self._mount_layers(mount) if layer.id == layer_id), None)
        return None

    def _built(self, wanted: Callable[[StoredLayer], bool]) -> StoredLayer | None:
        """Return a layer of BuildKit's own; one that has become an image's is that."""
        candidates = [layer for layer in self._build_snapshots().layers(self.layer_directory, ()) if wanted(layer)]
        return candidates[0] if candidates else None

    def _build_snapshots(self) -> BuildSnapshots:
        if self._builds is None:
            self._builds = BuildSnapshots(self.root / "buildkit", self.problems)
        return self._builds

    def _container_ids(self) -> list[ContainerID]:
        home = self._containerdb.directory
        if not self._own(home):
            return []
        return [container for container in self._containerdb.iter_ids() if is_directory(home / container)]

    def _find_container(self, container: ContainerID) -> Documents | None:
        try:
            return self._containerdb.find(container)
        except LamellaError as error:
            self._data_root.report(str(error))
            return None

    def _container_record(self, record: Documents) -> ContainerRecord:
        layers: tuple[str, ...] = ()
        mount_id = ""
        try:
            mount = self._mountdb.read(record.id)
        except LamellaError as error:
            self._data_root.report(str(error))
        else:
            mount_id = mount.mount_id
            own = self._mount_layers(mount)
            layers = (*self._chain(mount.parent), *(layer.id for layer in own))
        return describe_container(
            record,
            self._containerdb.path(record.id),
            layers=layers,
            trace=mount_id,
            merged=self._merged(mount_id) if mount_id else None,
            image=record.image,
        )

    def _chain(self, top: ChainID | None) -> list[str]:
        """Return the layers from the base to *top*, as far down as there are records."""
        found: list[str] = []
        while top is not None and (layer := self._read_layer(top)) is not None:
            found.append(layer.id)
            top = None if layer.parent is None else ChainID(DiffID(parse_digest(layer.parent)))
        return found[::-1]

    def _merged(self, mount_id: str) -> Path:
        return self._home / mount_id if self.driver == "vfs" else self._home / mount_id / "merged"

    def _leads_away(self, directory_id: str) -> bool:
        """Tell whether a link stands for a layer's directory: then the store is not shown as having that layer."""
        if not leads_away(self._home, directory_id, "" if self.driver == "vfs" else "diff"):
            return False
        self._data_root.report(f"{self._home / directory_id}: a symbolic link stands where a layer's directory is due")
        return True

    def _own(self, directory: Path) -> bool:
        """Tell whether a directory is there and no link; a link is a problem, and nothing is read through it."""
        if directory.is_symlink():
            self._data_root.report(f"{directory}: a symbolic link stands where the store keeps its own directory")
            return False
        return is_directory(directory)


def is_docker_root(root: Path) -> bool:
    """Tell whether a driver that lamella knows has kept images or layers in *root*."""
    return bool(_candidates(root))


def has_images(root: Path) -> bool:
    """Tell whether there is a config of any image in the data root *root*."""
    return any(list_names(root / "image" / name / "imagedb" / "content" / "sha256") for name in _candidates(root))


def _candidates(root: Path) -> list[str]:
    """Name the drivers that were used here, or whose layers at least are left."""
    used = [name for name in DRIVERS if is_directory(root / "image" / name)]
    return used or [name for name in DRIVERS if is_directory(root / name)]


def _used_driver(root: Path) -> str:
    candidates = _candidates(root)
    if not candidates:
        raise NotFound(f"{root}: no Docker data root (there is no image/overlay2 and no image/vfs in it)")
    for place in ("imagedb/content/sha256", "layerdb/sha256"):
        for name in candidates:
            if list_names(root / "image" / name / place):
                return name
    return candidates[0]

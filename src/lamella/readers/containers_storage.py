"""A store of containers/storage, read: Podman's, Buildah's, CRI-O's.

Its catalogue is three JSON files, each replaced by a rename; they are read containers first, then images, then layers,
so that what the first names is still in the last unless it was removed.  Podman keeps a view of containers, with their
state, of its own (``libpod``); without one the processes on this host tell who runs.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from lamella.errors import DataLoss, InvalidArgument, NotFound
from lamella.model.digest import PREFIX, ChainID, DiffID, chain_id, digest_of, is_hex64, parse_digest
from lamella.model.documents import CONFIG_LIMIT
from lamella.model.gojson import ZERO_TIME
from lamella.model.imageconfig import ImageConfig, decode_image_config
from lamella.readers.base import ContainerRecord, ImageRecord, Role, StoredLayer, VolumeRecord
from lamella.readers.common import (
    Json,
    Running,
    familiar_names,
    first_file,
    leads_away,
    live_process,
    local_volumes,
    parse_json,
    read_json,
)
from lamella.readers.libpod import UNKNOWN, PodmanState, read_states, read_volume_mounts
from lamella.readers.whole import WholeCatalogue
from lamella.store.smallfiles import find_small, is_directory, list_names

_DRIVERS = ("overlay", "vfs")


class _Catalogue(NamedTuple):
    """The three files, as they were read one after the other."""

    containers: list[Json]
    images: list[Json]
    layers: list[Json]


class ContainersStorageReader(WholeCatalogue):
    """One store of containers/storage, open for reading; see ``readers.base.StoreReader``."""

    kind = "containers-storage"

    def __init__(self, root: Path, driver: str | None = None) -> None:
        """Open the store at *root*; without *driver* the one with images is taken.

        Raises NotFound if no driver that lamella knows has kept anything there, DataLoss if a link stands for one of
        its directories.
        """
        self.root = Path(os.path.realpath(root))
        self.driver = driver or _used_driver(self.root)
        self.problems: list[str] = []
        self._home = self.root / "vfs" / "dir" if self.driver == "vfs" else self.root / self.driver
        for directory in (
            self.root / self.driver,
            self._home,
            *(self.root / f"{self.driver}-{part}" for part in ("layers", "images", "containers")),
        ):
            if directory.is_symlink():
                raise DataLoss(f"{directory}: a symbolic link stands where the store keeps its own directory")
        self._running = Running()

    # ------------------------------------------------------------------------------------------------ the answers

    def images(self) -> Sequence[ImageRecord]:
        """Return all images; manifest lists, which have no config, are none."""
        return self._images

    def containers(self) -> Sequence[ContainerRecord]:
        """Return all containers, those that Buildah works on included."""
        return self._containers

    def layers(self) -> Mapping[str, StoredLayer]:
        """Return all layers by their ID; half-written ones are none."""
        return self._layers

    def volumes(self) -> Sequence[VolumeRecord]:
        """Return Podman's named volumes."""
        mounts = read_volume_mounts(self.root, self.problems)
        return [volume._replace(mounts=mounts.get(volume.name, "")) for volume in local_volumes(self.root / "volumes")]

    def layer_directories(self) -> Mapping[str, Path]:
        """Return every directory below the driver's that has the name of a layer."""
        names = (name for name in list_names(self._home) if is_hex64(name))
        return {name: self._home / name for name in names if is_directory(self._home / name)}

    def tar_split(self, layer: StoredLayer) -> Path | None:
        """Return the layer's tar-split, which lies beside the catalogue."""
        path = self.root / f"{self.driver}-layers" / f"{layer.id}.tar-split.gz"
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
        """Return the spec that the container was started with last, else the one that it is to be started with."""
        document = None
        if container.directory is not None:
            document = read_json(container.directory / "config.json", self.problems)
        if isinstance(document, dict):
            return document
        return self._states.get(container.id, UNKNOWN).config.child("spec").raw or None

    # ------------------------------------------------------------------------------------------------ reading

    @cached_property
    def _catalogue(self) -> _Catalogue:
        containers = self._read("containers", "containers.json", "volatile-containers.json")
        images = self._read("images", "images.json")
        return _Catalogue(containers, images, self._read("layers", "layers.json", "volatile-layers.json"))

    def _read(self, part: str, *names: str) -> list[Json]:
        found: dict[str, Json] = {}
        for name in names:
            path = self.root / f"{self.driver}-{part}" / name
            document = read_json(path, self.problems)
            if document is not None and not isinstance(document, list):
                self.problems.append(f"{path}: expected a JSON array")
            for item in document if isinstance(document, list) else []:
                record = Json(item)
                if not is_hex64(record.text("id")):
                    self.problems.append(f"{path}: {record.text('id')[:80]!r} is no ID")
                elif not record.child("flags").flag("incomplete"):
                    found.setdefault(record.text("id"), record)
        return list(found.values())

    @cached_property
    def _layers(self) -> dict[str, StoredLayer]:
        written = {record.text("layer") for record in self._catalogue.containers}
        records = {record.text("id"): record for record in self._catalogue.layers}
        needed = self._image_layers(records)
        chains = _Chains(records)
        return {layer_id: self._layer(record, chains, needed, written) for layer_id, record in records.items()}

    def _leads_away(self, layer_id: str) -> bool:
        if not leads_away(self._home, layer_id, "" if self.driver == "vfs" else "diff"):
            return False
        self.problems.append(f"{self._home / layer_id}: a symbolic link stands where a layer's directory is due")
        return True

    def _layer(self, record: Json, chains: _Chains, needed: set[str], written: set[str]) -> StoredLayer:
        layer_id = record.text("id")
        diff_id = _digest(record.text("diff-digest"))
        role: Role = "build"
        if layer_id in written:
            role = "writable"
        elif diff_id is not None or layer_id in needed:
            role = "image"
        parent = record.text("parent")
        return StoredLayer(
            id=layer_id,
            role=role,
            parent=parent if is_hex64(parent) else None,
            directory=self._home / layer_id if self.driver == "vfs" else self._home / layer_id / "diff",
            directory_id=layer_id,
            chain_id=chains.find(layer_id),
            diff_id=diff_id,
            size=record.number("diff-size"),
            created=record.text("created"),
            whole=self.driver == "vfs",
        )

    def _image_layers(self, records: Mapping[str, Json]) -> set[str]:
        needed: set[str] = set()
        for image in self._catalogue.images:
            needed.update(_stack(records, image.text("layer")))
        return needed

    @cached_property
    def _images(self) -> tuple[ImageRecord, ...]:
        records = {record.text("id"): record for record in self._catalogue.layers}
        found: list[ImageRecord] = []
        for record in self._catalogue.images:
            try:
                loaded = self._config(record)
            except NotFound:
                continue
            except (DataLoss, InvalidArgument) as error:
                self.problems.append(f"image {record.text('id')[:12]}: {error}")
                continue
            if loaded is None:
                continue
            raw, config = loaded
            names, digests = familiar_names(record.texts("names"))
            repositories = dict.fromkeys(name.rpartition(":")[0] for name in names)
            manifest = _digest(record.text("digest"))
            served = [f"{repository}@{manifest}" for repository in repositories if manifest is not None]
            found.append(
                ImageRecord(
                    digest_of(raw),
                    names=names,
                    digests=tuple(dict.fromkeys((*digests, *served))),
                    config=config,
                    raw_config=raw,
                    diff_ids=config.diff_ids,
                    layers=tuple(_stack(records, record.text("layer"))),
                )
            )
        return tuple(found)

    def _config(self, record: Json) -> tuple[bytes, ImageConfig] | None:
        """Return an image's config, checked against the digest it is kept under; None for a manifest list."""
        image_id = record.text("id")
        directory = self.root / f"{self.driver}-images" / image_id
        if not is_directory(directory):
            raise DataLoss(f"{directory} is missing")
        key = f"{PREFIX}{image_id}"
        keys = [key, *(name for name in record.texts("big-data-names") if _digest(name) is not None)]
        for key in dict.fromkeys(keys):
            raw = find_small(directory / big_data_name(key), CONFIG_LIMIT)
            if raw is None:
                continue
            if digest_of(raw) != key:
                raise DataLoss(f"its config {key} is damaged; pull or load the image again")
            return raw, decode_image_config(raw)
        if "manifest" in record.texts("big-data-names") and record.text("layer"):
            raise DataLoss("its config is missing; pull or load the image again")
        return None

    @cached_property
    def _containers(self) -> tuple[ContainerRecord, ...]:
        records = {record.text("id"): record for record in self._catalogue.layers}
        return tuple(self._container(record, records) for record in self._catalogue.containers)

    def _container(self, record: Json, layers: Mapping[str, Json]) -> ContainerRecord:
        container_id = record.text("id")
        podman = self._states.get(container_id, UNKNOWN)
        metadata = parse_json(record.text("metadata"), f"metadata of container {container_id[:12]}", self.problems)
        layer = record.text("layer")
        known = layer in layers
        directory = self.root / f"{self.driver}-containers" / container_id / "userdata"
        own = is_directory(directory.parent) and is_directory(directory)
        pid = 0
        if known:
            # One with a root of its own outside the store has only files that are bound into it to be known by.
            trace = container_id if podman.config.text("rootfs") else layer
            pid = live_process(podman.pid, trace) or self._running.find(self._directory(layer))
        status = podman.status
        if pid:
            status = "paused" if status == "paused" else "running"
        elif status in {"", "running", "paused"}:
            status = "exited"
        image = record.text("image")
        return ContainerRecord(
            id=container_id,
            name=(record.texts("names") or [metadata.text("name")])[0],
            image=f"{PREFIX}{image}" if is_hex64(image) else "",
            image_name=metadata.text("image-name") or podman.config.text("rootfsImageName"),
            created=record.text("created") or ZERO_TIME,
            status=status,
            pid=pid,
            layers=tuple(_stack(layers, layer)),
            merged=self._home / layer / "merged" if known and self.driver != "vfs" else self._home / layer,
            log=first_file(directory / "ctr.log") if own else None,
            directory=directory if own else None,
            volumes=tuple(volume.text("volumeName") for volume in podman.config.children("namedVolumes")),
            facts=podman.facts,
        )

    def _directory(self, layer: str) -> Path:
        return self._home / layer if self.driver == "vfs" else self._home / layer / "diff"

    @cached_property
    def _states(self) -> dict[str, PodmanState]:
        return read_states(self.root, self.problems)


class _Chains:
    """The chain ID of each layer whose own and whose parents' digests are all known."""

    def __init__(self, records: Mapping[str, Json]) -> None:
        self._records = records
        self._found: dict[str, ChainID | None] = {}

    def find(self, layer: str) -> ChainID | None:
        """Compute it from the base; None where a digest or a parent is missing."""
        for known in _stack(self._records, layer):
            if known in self._found:
                continue
            record = self._records[known]
            parent, diff_id = record.text("parent"), _digest(record.text("diff-digest"))
            below = self._found.get(parent) if parent else None
            self._found[known] = None if diff_id is None or (parent and below is None) else chain_id(below, diff_id)
        return self._found.get(layer)


def _stack(records: Mapping[str, Json], top: str) -> list[str]:
    """Return a layer and those below it, base first, as far down as they are known; a loop is cut."""
    found: dict[str, None] = {}
    while top in records and top not in found:
        found[top] = None
        top = records[top].text("parent")
    return list(found)[::-1]


def big_data_name(key: str) -> str:
    """Return the file name of an item of big data: its key if that is plain, else ``=`` and the key in base64."""
    import base64

    if key and all(letter in "abcdefghijklmnopqrstuvwxyz0123456789." for letter in key) and key.strip("."):
        return key
    return "=" + base64.b64encode(key.encode()).decode("ascii")


def _candidates(root: Path) -> list[str]:
    return [name for name in _DRIVERS if is_directory(root / f"{name}-layers")]


def _used_driver(root: Path) -> str:
    candidates = _candidates(root)
    if not candidates:
        raise NotFound(f"{root}: no store of containers/storage (there is no overlay-layers or vfs-layers in it)")
    for name in candidates:
        if (root / f"{name}-images" / "images.json").is_file():
            return name
    return candidates[0]


def _digest(text: str) -> DiffID | None:
    try:
        return DiffID(parse_digest(text))
    except InvalidArgument:
        return None

"""containerd's store, read: that of ctr, nerdctl and Kubernetes, and Docker's when it keeps its images there.

``meta.db`` names, by namespace, images, blobs, snapshots and containers; each snapshotter's own ``metadata.db`` says
which numbered directory is a snapshot's.  Both are read as one transaction left them (see ``bolt``), the catalogue
first.  A name leads to an index or a manifest, and on to the config, by blobs whose digests are checked.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from lamella.errors import DataLoss, LamellaError, NotFound
from lamella.model.digest import PREFIX, ChainID, DiffID, Digest, ImageID, chain_ids, hex_of, is_hex64
from lamella.readers.base import ContainerFacts, ContainerRecord, ImageRecord, Role, StoredLayer, VolumeRecord
from lamella.readers.bolt import Bolt, Bucket, decode_signed_varint, decode_time, decode_varint
from lamella.readers.common import Running, familiar_names, leads_away, local_volumes, parse_json
from lamella.readers.content import Content, Resolved
from lamella.readers.dockercontainers import describe_container, iter_documents
from lamella.readers.whole import WholeCatalogue
from lamella.store.smallfiles import is_directory, list_names

_CATALOGUE = "io.containerd.metadata.v1.bolt"
_SNAPSHOTTER = "io.containerd.snapshotter.v1."
#: Snapshotters whose snapshots are directories, and what of ``snapshots/N`` holds the files.
_PLACES = {"overlayfs": "fs", "native": ""}
_OWN_LABELS = "io.containerd."
_DANGLING = "moby-dangling"
_DOCKER_NAMESPACE = "moby"


class _Snapshot(NamedTuple):
    """One snapshot as the catalogue and its snapshotter have it."""

    id: str
    namespace: str
    snapshotter: str
    key: str
    parent_key: str
    number: int
    kind: int
    size: int
    created: str
    place: Path


class _Container(NamedTuple):
    """One container of the catalogue."""

    id: str
    """Its name; one that an earlier namespace has too gets its namespace before it."""
    name: str
    namespace: str
    image: str
    snapshotter: str
    snapshot_key: str
    created: str
    bucket: Bucket


class ContainerdReader(WholeCatalogue):
    """One containerd root, open for reading; see ``readers.base.StoreReader``."""

    kind = "containerd"

    def __init__(self, root: Path, *, docker: Path | None = None) -> None:
        """Open containerd's root; *docker* is the data root of the dockerd whose containers and volumes belong to it.

        Raises NotFound if there is no catalogue, DataLoss if it is damaged where its roots are, or a link stands for a
        directory.
        """
        self._base = Path(os.path.realpath(root))
        self._docker = None if docker is None else Path(os.path.realpath(docker))
        self.root = self._docker or self._base
        self.problems: list[str] = []
        if (self._base / _CATALOGUE).is_symlink():
            raise DataLoss(f"{self._base / _CATALOGUE}: a symbolic link stands where the store keeps its own directory")
        self._meta = Bolt.open(self._base / _CATALOGUE / "meta.db")
        self._content = Content(self._base / "io.containerd.content.v1.content" / "blobs" / "sha256", self.problems)
        self._running = Running()
        self.driver = self._busiest()
        """The snapshotter with the most snapshots."""

    # ------------------------------------------------------------------------------------------------ the answers

    def images(self) -> Sequence[ImageRecord]:
        """Return all images whose config is there, each once; of several platforms, the one nearest to this machine."""
        return tuple(record for record, _, _ in self._images.values())

    def layers(self) -> Mapping[str, StoredLayer]:
        """Return all snapshots by key; one whose key an earlier namespace has too gets its namespace before it."""
        return self._layers

    def containers(self) -> Sequence[ContainerRecord]:
        """Return all containers of all namespaces, named like snapshots; Docker's by its own documents."""
        return self._containers

    def volumes(self) -> Sequence[VolumeRecord]:
        """Return Docker's volumes; containerd has none."""
        return () if self._docker is None else local_volumes(self._docker / "volumes")

    def layer_directories(self) -> Mapping[str, Path]:
        """Return every numbered directory of every snapshotter; those of another than ``driver`` with its name."""
        found: dict[str, Path] = {}
        for snapshotter in _PLACES:
            home = self._home(snapshotter)
            for name in list_names(home) if is_directory(home.parent) and is_directory(home) else []:
                if name.isascii() and name.isdigit() and is_directory(home / name):
                    found[self._directory_id(snapshotter, int(name))] = home / name
        return found

    def tar_split(self, layer: StoredLayer) -> Path | None:
        """Return nothing: the blob is the tar."""
        del layer
        return None

    def blob(self, layer: StoredLayer) -> Path | None:
        """Return the blob of a layer that an image of the store names."""
        return self._blobs.get(layer.diff_id) if layer.diff_id is not None else None

    def image_blobs(self, image: ImageRecord) -> Sequence[Path | None]:
        """Return the blob of each diff ID, whether the image was ever unpacked or not."""
        known = self._images.get(ImageID(Digest(image.id)))
        return () if known is None else tuple(self._content.find(digest) for digest in known[1].layers)

    def container_spec(self, container: ContainerRecord) -> Mapping[str, object] | None:
        """Return the spec that the container was made with."""
        known = next((item for item in self._catalogued if item.id == container.id), None)
        return None if known is None else _spec(known.bucket.get("spec") or b"", self.problems)

    # ------------------------------------------------------------------------------------------------ reading

    @cached_property
    def _namespaces(self) -> list[tuple[str, Bucket]]:
        return list(self._meta.root.buckets("v1"))

    def _busiest(self) -> str:
        counts: dict[str, int] = {}
        for snapshot in self._snapshots.values():
            counts[snapshot.snapshotter] = counts.get(snapshot.snapshotter, 0) + 1
        return max(counts, key=lambda name: counts[name]) if counts else "overlayfs"

    @cached_property
    def _images(self) -> dict[ImageID, tuple[ImageRecord, Resolved, str]]:
        names: dict[ImageID, list[str]] = {}
        resolved: dict[ImageID, tuple[Resolved, str]] = {}
        for namespace, bucket in self._namespaces:
            for name, image in bucket.buckets("images"):
                target = image.bucket("target")
                digest = "" if target is None else target.text("digest")
                try:
                    found = self._content.resolve(digest)
                except LamellaError as error:
                    self.problems.append(f"image {name}: {error}")
                    continue
                if found is None:  # an index of what is not an image, or of which nothing was fetched
                    continue
                names.setdefault(found.id, []).extend(_references(name, digest))
                resolved.setdefault(found.id, (found, namespace))
        present: dict[tuple[str, str], dict[ChainID, str]] = {}
        for (space, snapshotter, _), layer in self._layers_by_key.items():
            if layer.role == "image" and layer.chain_id is not None:
                present.setdefault((space, snapshotter), {})[layer.chain_id] = layer.id
        images: dict[ImageID, tuple[ImageRecord, Resolved, str]] = {}
        for image_id, (found, namespace) in resolved.items():
            tags, digests = familiar_names(names[image_id])
            chains = chain_ids(found.config.diff_ids)
            layers = self._unpacked(namespace, chains, present)
            record = ImageRecord(
                image_id,
                names=tags,
                digests=digests,
                config=found.config,
                raw_config=found.raw,
                diff_ids=found.config.diff_ids,
                layers=layers,
            )
            images[image_id] = (record, found, namespace)
        return images

    def _unpacked(
        self, namespace: str, chains: Sequence[ChainID], present: Mapping[tuple[str, str], Mapping[ChainID, str]]
    ) -> tuple[str, ...]:
        """Return an image's snapshots, all of one snapshotter and namespace: where most are, best its own namespace."""
        best: tuple[str, ...] = ()
        rank = (0, False, False)
        for (space, snapshotter), known in present.items():
            found = tuple(known[chain] for chain in chains if chain in known)
            mine = (len(found), space == namespace, snapshotter == self.driver)
            if found and mine > rank:
                best, rank = found, mine
        return best

    @cached_property
    def _blobs(self) -> dict[DiffID, Path]:
        found: dict[DiffID, Path] = {}
        for record, resolved, _ in self._images.values():
            for diff_id, digest in zip(record.diff_ids, resolved.layers, strict=False):
                path = self._content.find(digest)
                if path is not None:
                    found.setdefault(diff_id, path)
        return found

    @cached_property
    def _layers(self) -> dict[str, StoredLayer]:
        # What a chain ID is made of is known from the configs alone.
        diff_ids: dict[ChainID, DiffID] = {}
        for record, _, _ in self._images.values():
            diff_ids.update(zip(chain_ids(record.diff_ids), record.diff_ids, strict=True))
        return {
            layer.id: layer._replace(diff_id=None if layer.chain_id is None else diff_ids.get(layer.chain_id))
            for layer in self._layers_by_key.values()
        }

    @cached_property
    def _layers_by_key(self) -> dict[tuple[str, str, str], StoredLayer]:
        written = {(item.namespace, item.snapshotter, item.snapshot_key) for item in self._catalogued}
        if self._docker is not None:  # containerd itself knows those that run
            known = [name for name in list_names(self._docker / "containers") if is_hex64(name)]
            written |= {(_DOCKER_NAMESPACE, snapshotter, name) for snapshotter in _PLACES for name in known}
        found: dict[tuple[str, str, str], StoredLayer] = {}
        for place, snapshot in self._snapshots.items():
            parent = self._snapshots.get((snapshot.namespace, snapshot.snapshotter, snapshot.parent_key))
            chain = None
            if snapshot.key.startswith(PREFIX) and is_hex64(hex_of(snapshot.key)):
                chain = ChainID(DiffID(Digest(snapshot.key)))
            found[place] = StoredLayer(
                id=snapshot.id,
                role=self._role(snapshot, chain, written),
                parent=None if parent is None else parent.id,
                directory=snapshot.place,
                directory_id=self._directory_id(snapshot.snapshotter, snapshot.number),
                chain_id=chain,
                size=snapshot.size if snapshot.kind == 3 else None,
                created=snapshot.created,
                whole=not _PLACES[snapshot.snapshotter],
            )
        return found

    @staticmethod
    def _role(snapshot: _Snapshot, chain: ChainID | None, written: set[tuple[str, str, str]]) -> Role:
        place = (snapshot.namespace, snapshot.snapshotter)
        if (*place, snapshot.key) in written:
            return "writable"
        if snapshot.key.endswith("-init") and (*place, snapshot.key.removesuffix("-init")) in written:
            return "init"
        if snapshot.kind == 3:
            return "image" if chain is not None else "build"
        return "build" if snapshot.namespace == _DOCKER_NAMESPACE else "writable"

    @cached_property
    def _snapshots(self) -> dict[tuple[str, str, str], _Snapshot]:
        found: dict[tuple[str, str, str], _Snapshot] = {}
        taken: set[str] = set()
        databases: dict[str, Bucket | None] = {}
        for namespace, catalogue in self._namespaces:
            for snapshotter, keys in catalogue.buckets("snapshots"):
                if snapshotter not in databases:
                    databases[snapshotter] = self._open_snapshotter(snapshotter)
                database = databases[snapshotter]
                if database is None:
                    continue
                for key, entry in keys.buckets():
                    own = database.bucket(entry.text("name"))
                    if own is None:
                        self.problems.append(f"snapshot {key[:80]}: {snapshotter} does not have it")
                        continue
                    number = decode_varint(own.get("id") or b"")
                    if leads_away(self._home(snapshotter), str(number), _PLACES[snapshotter]):
                        self.problems.append(f"snapshot {key[:80]}: a symbolic link stands for its directory")
                        continue
                    short = key if key not in taken else f"{namespace}/{key}"
                    if short in taken:
                        short = f"{namespace}/{snapshotter}/{key}"
                    taken.add(short)
                    found[namespace, snapshotter, key] = _Snapshot(
                        id=short,
                        namespace=namespace,
                        snapshotter=snapshotter,
                        key=key,
                        parent_key=entry.text("parent"),
                        number=number,
                        kind=(own.get("kind") or b"\0")[0],
                        size=decode_signed_varint(own.get("size") or b""),
                        created=decode_time(entry.get("createdat") or b""),
                        place=self._home(snapshotter) / str(number) / _PLACES[snapshotter],
                    )
        return found

    def _open_snapshotter(self, name: str) -> Bucket | None:
        if name not in _PLACES:
            self.problems.append(f"snapshotter {name[:40]!r} does not keep directories: its layers are not shown")
            return None
        home = self._home(name).parent
        if home.is_symlink():
            self.problems.append(f"{home}: a symbolic link stands where the store keeps its own directory")
            return None
        try:
            return Bolt.open(home / "metadata.db").bucket("v1", "snapshots")
        except (NotFound, DataLoss) as error:
            self.problems.append(str(error))
            return None

    def _home(self, snapshotter: str) -> Path:
        return self._base / f"{_SNAPSHOTTER}{snapshotter}" / "snapshots"

    def _directory_id(self, snapshotter: str, number: int) -> str:
        return str(number) if snapshotter == self.driver else f"{snapshotter}/{number}"

    @cached_property
    def _catalogued(self) -> list[_Container]:
        found: dict[str, _Container] = {}
        for namespace, catalogue in self._namespaces:
            for name, bucket in catalogue.buckets("containers"):
                own = name if name not in found else f"{namespace}/{name}"
                found[own] = _Container(
                    id=own,
                    name=name,
                    namespace=namespace,
                    image=bucket.text("image"),
                    snapshotter=bucket.text("snapshotter"),
                    snapshot_key=bucket.text("snapshotKey"),
                    created=decode_time(bucket.get("createdat") or b""),
                    bucket=bucket,
                )
        return list(found.values())

    @cached_property
    def _containers(self) -> tuple[ContainerRecord, ...]:
        if self._docker is not None:
            return tuple(self._docker_containers(self._docker))
        by_name: dict[str, str] = {}
        for record, _, _ in self._images.values():
            by_name.update(dict.fromkeys((*record.names, *record.digests), record.id))
        found: dict[str, ContainerRecord] = {}
        for item in self._catalogued:
            one = self._container(item, by_name)
            if one.name in found:  # Kubernetes gives one name to the containers of many pods
                one = one._replace(name=f"{one.name}-{one.id[:12]}")
            found[one.name] = one
        return tuple(found.values())

    def _container(self, item: _Container, by_name: Mapping[str, str]) -> ContainerRecord:
        layers = self._stack(item.namespace, item.snapshotter, item.snapshot_key)
        place = self._layers[layers[-1]].directory if layers else None
        pid = self._running.find(place) if place is not None else 0
        labels = item.bucket.texts("labels")
        tags, digests = familiar_names([item.image])
        familiar = next(iter((*tags, *digests)), item.image)
        plain = item.name if item.id == item.name else f"{item.namespace}-{item.name}"
        return ContainerRecord(
            id=item.id,
            name=labels.get("nerdctl/name") or labels.get("io.kubernetes.container.name") or plain,
            image=by_name.get(familiar, item.image if item.image.startswith(PREFIX) else ""),
            image_name=familiar,
            created=item.created,
            status="running" if pid else "exited",
            pid=pid,
            layers=layers,
            merged=self._running.merged(place) if place is not None else None,
            facts=ContainerFacts(
                labels={key: value for key, value in labels.items() if not key.startswith(_OWN_LABELS)},
                stop_signal=labels.get(f"{_OWN_LABELS}image.config.stop-signal", ""),
            ),
        )

    def _docker_containers(self, docker: Path) -> Iterator[ContainerRecord]:
        by_target = {resolved.target: record.id for record, resolved, _ in self._images.values()}
        for record, directory in iter_documents(docker, self.problems):
            layers = self._stack(_DOCKER_NAMESPACE, record.driver, record.id)
            place = self._layers[layers[-1]].directory if layers else None
            yield describe_container(
                record,
                directory,
                layers=layers,
                trace="" if place is None else str(place),
                merged=docker / "rootfs" / record.driver / record.id,
                image=by_target.get(record.image, record.image),
            )

    def _stack(self, namespace: str, snapshotter: str, key: str) -> tuple[str, ...]:
        """Return a snapshot and those below it, base first; a loop is cut."""
        found: dict[str, None] = {}
        while (snapshot := self._snapshots.get((namespace, snapshotter, key))) is not None and snapshot.id not in found:
            found[snapshot.id] = None
            key = snapshot.parent_key
        return tuple(found)[::-1]


def _references(name: str, digest: str) -> list[str]:
    """Return the references that an image's name stands for: itself, and its repository at the digest it leads to."""
    if name.startswith(PREFIX):  # Kubernetes' second entry for the config's digest
        return []
    if name.startswith(_DANGLING):
        return []
    repository = name.partition("@")[0]
    head, _, tail = repository.rpartition("/")
    plain = f"{head}/{tail.partition(':')[0]}" if head else tail.partition(":")[0]
    return [name, f"{plain}@{digest}"]


def _spec(raw: bytes, problems: list[str]) -> Mapping[str, object] | None:
    """Return the JSON inside protobuf's ``Any``: field 1 its type, field 2 the bytes."""
    at = 0
    while at < len(raw):
        tag, at = raw[at], at + 1
        length, shift = 0, 0
        while at < len(raw) and shift < 35:
            byte, at = raw[at], at + 1
            length |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        if tag & 7 != 2 or at + length > len(raw):
            return None
        if tag >> 3 == 2:
            return parse_json(raw[at : at + length].decode("utf-8", "replace"), "spec of a container", problems).raw
        at += length
    return None

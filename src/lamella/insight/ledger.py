"""Where the disk went: every block under a store's root, each counted once and put down to somebody.

The sum is what ``du`` finds: files with several names once, directories included, what is mounted below not entered.
Image layers and committed layers of a build cache never change, so they are measured once and remembered; everything
else is walked.  Nothing in the store is changed, and it may be in use: what vanishes meanwhile is passed over.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from lamella.insight.claims import ENGINE, Claims, Owner, make_claims, record_directory, record_owner
from lamella.insight.usage import Layer, Link, Remembered, Use, measure, measure_all
from lamella.model.digest import ChainID, chain_ids
from lamella.readers.base import ContainerRecord, ImageRecord, StoredLayer, StoreReader
from lamella.store.smallfiles import is_directory

LIVE: Final = frozenset({"running", "paused", "restarting"})
_BLOCK: Final = 512


class Sum(NamedTuple):
    """Bytes on the disk, and inodes."""

    bytes: int = 0
    inodes: int = 0


class Holding(NamedTuple):
    """Who needs what in a store, as far as the ledger and the planner of removals care."""

    images: Mapping[str, ImageRecord]
    layers: Mapping[str, StoredLayer]
    containers: Sequence[ContainerRecord]
    holders: Mapping[str, Sequence[str]]
    """The images of each layer."""
    used_layers: Mapping[str, Sequence[str]]
    """The containers that stand on each layer, or have it as their own."""
    used_images: frozenset[str]
    parents: frozenset[str]
    """Images that another one was made from."""
    steps: frozenset[str]
    """Images without a name that a build made: its cache."""
    built_on: frozenset[str]
    """Layers that a build cache's own layers stand on."""


def read_holding(reader: StoreReader) -> Holding:
    """Find out who needs what; configs are read before the layers that they name."""
    images = {image.id: image for image in reader.images()}
    containers = reader.containers()
    layers = reader.layers()
    holders: dict[str, list[str]] = {}
    for image in images.values():
        for layer in image.layers:
            holders.setdefault(layer, []).append(image.id)
    copies = {layer.chain_id for layer in layers.values() if layer.role == "image" and layer.id not in holders}
    by_chain: dict[ChainID, list[str]] = {}
    for image in images.values() if copies - {None} else ():
        for chain in chain_ids(image.diff_ids):
            by_chain.setdefault(chain, []).append(image.id)
    for stored in layers.values():
        # Another namespace's or snapshotter's copy of a layer is its image's there.
        if stored.role == "image" and stored.id not in holders and stored.chain_id is not None:
            images_there = by_chain.get(stored.chain_id)
            if images_there is not None:
                holders[stored.id] = images_there
    used_layers: dict[str, list[str]] = {}
    for container in containers:
        for layer in container.layers:
            used_layers.setdefault(layer, []).append(container.id)
    parents = frozenset(image.parent for image in images.values() if image.parent)
    used_images = frozenset(container.image for container in containers)
    built_on: set[str] = set()
    for stored in layers.values():
        below = stored.parent if stored.role == "build" else None
        while below is not None and below not in built_on and below in layers:
            built_on.add(below)
            below = layers[below].parent
    return Holding(
        images=images,
        layers=layers,
        containers=containers,
        holders=holders,
        used_layers=used_layers,
        used_images=used_images,
        parents=parents,
        steps=frozenset(
            image.id
            for image in images.values()
            if not image.names
            and not image.digests
            and (image.parent or image.id in parents)
            and image.id not in used_images
        ),
        built_on=frozenset(built_on),
    )


class SharedFile(NamedTuple):
    """A file with names in several places."""

    bytes: int
    payer: Owner
    """The owner to whom it was put down."""
    owners: frozenset[Owner]


class Accounts:
    """All that was counted: what each owner has, and what it is made of."""

    def __init__(self, reader: StoreReader, holding: Holding, device: int) -> None:
        self.reader = reader
        self.holding = holding
        self.device = device
        self.sums: dict[Owner, list[int]] = {}
        self.mounted: list[str] = []
        """What is mounted below the root, which is not counted."""
        self._links: dict[int, dict[Owner, None]] = {}
        self._link_bytes: dict[int, int] = {}

    def add(self, owner: Owner, size: int, inodes: int, links: Sequence[Link] = ()) -> None:
        """Put something down to an owner."""
        found = self.sums.get(owner)
        if found is None:
            found = self.sums[owner] = [0, 0]
        found[0] += size
        found[1] += inodes
        for link in links:
            owners = self._links.setdefault(link.inode, {})
            if not owners:  # the first who has it pays
                self._link_bytes[link.inode] = link.bytes
                found[0] += link.bytes
                found[1] += 1
            owners[owner] = None

    def shared_files(self) -> Iterator[SharedFile]:
        """Yield the files with names in places of several owners."""
        for inode, owners in self._links.items():
            if len(owners) > 1:
                yield SharedFile(self._link_bytes[inode], next(iter(owners)), frozenset(owners))

    def total(self) -> Sum:
        """Return what ``du`` finds under the root."""
        return Sum(sum(item[0] for item in self.sums.values()), sum(item[1] for item in self.sums.values()))

    def of(self, section: str, item: str, *parts: str) -> Sum:
        """Return what an item has, all of it or some parts."""
        size = inodes = 0
        for owner in self._owners().get((section, item), ()):
            if not parts or owner.part in parts:
                size += self.sums[owner][0]
                inodes += self.sums[owner][1]
        return Sum(size, inodes)

    def items(self, section: str) -> list[str]:
        """Return the items of a section that have anything."""
        return list(dict.fromkeys(owner.item for owner in self.sums if owner.section == section))

    def why(self, item: str) -> str:
        """Return the reason why something is unaccounted."""
        return next((owner.part for owner in self._owners().get(("unaccounted", item), ()) if owner.part), "")

    def _owners(self) -> Mapping[tuple[str, str], list[Owner]]:
        if len(self.sums) != self._indexed:
            index: dict[tuple[str, str], list[Owner]] = {}
            for owner in self.sums:
                index.setdefault((owner.section, owner.item), []).append(owner)
            self._index, self._indexed = index, len(self.sums)
        return self._index

    _indexed = -1
    _index: Mapping[tuple[str, str], list[Owner]] = {}


def count(reader: StoreReader, remembered: Remembered, *, recount: bool = False) -> Accounts:
    """Count everything under the root of a store; with *recount* no layer is taken from memory."""
    holding = read_holding(reader)
    root = str(reader.root)
    status = os.lstat(root)
    accounts = Accounts(reader, holding, status.st_dev)
    owners = {layer.id: _layer_owner(layer, holding) for layer in holding.layers.values()}
    records = {image.id: record_owner(image, build=image.id in holding.steps) for image in holding.images.values()}
    directories = reader.layer_directories()
    claims = make_claims(reader, owners, records, directories)
    lasting: list[Layer] = []
    for layer in holding.layers.values():
        whole = directories.get(layer.directory_id)
        if whole is not None and (layer.role == "image" or (layer.role == "build" and layer.id != layer.directory_id)):
            lasting.append(Layer(f"{layer.id} {layer.directory_id}", str(whole), str(layer.directory)))
        if reader.kind == "docker" and layer.role == "image":
            record = record_directory(reader, layer.id)
            lasting.append(Layer(f"record {layer.id}", record, record))
    measured = remembered.measure(lasting, status.st_dev, recount=recount)
    remembered.save()
    _walk(accounts, claims, measured)
    return accounts


def _layer_owner(layer: StoredLayer, holding: Holding) -> Owner:
    if layer.role in {"writable", "init"}:
        for container in holding.used_layers.get(layer.id, ()):
            return Owner("containers", container, layer.role)
        return Owner("unaccounted", layer.id, f"the {layer.role} layer of no container")
    if layer.role == "build":
        return Owner("build", layer.id)
    holders = holding.holders.get(layer.id, ())
    if layer.id in holding.used_layers or any(image not in holding.steps for image in holders):
        return Owner("layers", layer.id)
    if holders or layer.id in holding.built_on:
        return Owner("build", layer.id)
    return Owner("unaccounted", layer.id, "a layer that no image, container or build needs")


def _walk(accounts: Accounts, claims: Claims, measured: Mapping[str, Use]) -> None:
    """Count all under the root, layers that were measured as they were."""
    status = os.lstat(claims.root)
    accounts.add(ENGINE, status.st_blocks * _BLOCK, 1)
    whole: dict[str, Owner] = {}
    waiting: list[tuple[str, Owner]] = [(claims.root, ENGINE)]
    while waiting:
        directory, owner = waiting.pop()
        place = claims.places[directory]
        for name, status in _read(directory):
            path = f"{directory}/{name}"
            mine = place.find(name) or owner
            known = measured.get(path)
            if known is not None:
                accounts.add(mine, known.bytes, known.inodes, known.links)
            elif status.st_dev != accounts.device:
                accounts.mounted.append(path)
            elif not stat.S_ISDIR(status.st_mode):
                size = status.st_blocks * _BLOCK
                if status.st_nlink > 1:
                    accounts.add(mine, 0, 0, (Link(status.st_ino, size, 1, status.st_nlink),))
                else:
                    accounts.add(mine, size, 1)
            elif path in claims.places:
                accounts.add(mine, status.st_blocks * _BLOCK, 1)
                waiting.append((path, mine))
            elif mine.section in _LARGE:
                whole[path] = mine
            else:
                use = measure(path, accounts.device)
                accounts.add(mine, use.bytes, use.inodes, use.links)
    for path, use in measure_all(list(whole), accounts.device):
        accounts.add(whole[path], use.bytes, use.inodes, use.links)
        if not use.whole and whole[path].section not in _MERGED:
            accounts.mounted.append(path)


# What is mounted there are views of layers, which have been counted where they lie.
_MERGED = frozenset({"containers", "build"})
_LARGE = frozenset({"containers", "volumes", "build", "blobs", "unaccounted", "engine"})


def _read(directory: str) -> Iterator[tuple[str, os.stat_result]]:
    try:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return
    try:
        with os.scandir(fd) as entries:
            for entry in entries:
                try:
                    yield entry.name, entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
    finally:
        os.close(fd)


def own_memory(root: Path, kind: str) -> Path | None:
    """Return where a store that is lamella's too remembers the sizes of its layers; None if it is not."""
    own = root / "lamella"
    return own / "usage" if kind == "docker" and is_directory(own) and os.access(own, os.W_OK) else None

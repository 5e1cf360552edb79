"""One look at all records of a data-root, believing nothing: what is there, and what of it cannot be read.

Everything else in a check is computed from this.  Nothing is locked or changed, what vanishes between two reads is
passed over, and a record that cannot be read is kept with the reason.  Directories are listed before intent records,
and those before layer and mount records: whatever is being made meanwhile is then named by one or the other.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from lamella.errors import DataLoss, InvalidArgument, LamellaError
from lamella.insight.surroundings import Surroundings
from lamella.model.digest import (
    ChainID,
    DiffID,
    Digest,
    ImageID,
    chain_id,
    chain_ids,
    digest_of,
    is_hex64,
    parse_digest,
)
from lamella.model.documents import decode_document, decode_object
from lamella.model.ids import CacheID, is_cache_id
from lamella.model.imageconfig import ImageConfig, decode_image_config
from lamella.store.imagedb import CONFIG_LIMIT
from lamella.store.layerdb import TAR_SPLIT
from lamella.store.smallfiles import list_names, read_small

LAYER_FILES = frozenset({"diff", "size", "cache-id", "parent", TAR_SPLIT, "descriptor.json"})
_SIZE = re.compile(rb"[0-9]{1,19}", re.ASCII)
_MOUNT_ID = re.compile(r"[0-9a-f]{64}(?:-init)?", re.ASCII)
_LOWER_LIMIT = 16384
_DOCUMENT_LIMIT = 8 << 20
_REFERENCES_LIMIT = 64 << 20
_PLAIN_KINDS = {"link": stat.S_ISREG, "lower": stat.S_ISREG, "committed": stat.S_ISREG,
                "diff": stat.S_ISDIR, "work": stat.S_ISDIR, "merged": stat.S_ISDIR}  # fmt: skip


class Fault(NamedTuple):
    """Something that cannot be read: the file, and what is wrong with it."""

    file: str
    text: str


class RawLayer(NamedTuple):
    """A layer record as it lies on disk; a field that cannot be read is None."""

    chain: ChainID
    path: Path
    diff: DiffID | None
    parent: ChainID | None
    cache_id: CacheID | None
    size: int | None
    tar_split: bool
    faults: tuple[Fault, ...]
    names: frozenset[str]

    @property
    def fits(self) -> bool:
        """Whether the record's name is the chain ID of what it says."""
        return self.diff is not None and chain_id(self.parent, self.diff) == self.chain


class RawMount(NamedTuple):
    """A mount record as it lies on disk."""

    owner: str
    path: Path
    mount_id: CacheID | None
    init_id: CacheID | None
    parent: ChainID | None
    faults: tuple[Fault, ...]
    names: frozenset[str]


class RawImage(NamedTuple):
    """An image config as it lies on disk."""

    id: ImageID
    path: Path
    config: ImageConfig | None
    fault: str


class RawContainer(NamedTuple):
    """A container's two documents as they lie on disk; None if they cannot be read or are not there."""

    id: str
    path: Path
    config: dict[str, object] | None
    host_config: dict[str, object] | None
    faults: tuple[Fault, ...]
    names: frozenset[str]

    def text(self, key: str) -> str:
        """Return a field of the record, empty if it is no text."""
        value = (self.config or {}).get(key)
        return value if isinstance(value, str) else ""


class RawDirectory(NamedTuple):
    """A layer's directory, without its files."""

    name: CacheID
    path: Path
    link: str | None
    lower: tuple[str, ...] | None
    """Entries ``l/LINK``, uppermost first; None if there is no such file."""
    names: frozenset[str]
    wrong: tuple[str, ...]
    """Names that are not of the type they should be."""

    def has(self, name: str) -> bool:
        """Tell whether it has *name*, of the right type."""
        return name in self.names and name not in self.wrong


class Survey:
    """What one look at the data-root *root* found."""

    def __init__(self, root: Path, driver: str = "") -> None:
        self.root = root
        self.driver = driver or find_driver(root)
        self.image_dir = root / "image" / self.driver
        self.layerdb = self.image_dir / "layerdb"
        self.records = self.layerdb / "sha256"
        self.imagedb = self.image_dir / "imagedb"
        self.home = root / "overlay2" if self.driver == "overlay2" else root / "vfs" / "dir"
        self.own = root / "lamella"
        self.directories = self._read_directories()
        self.short_names = self._read_short_names() if self.driver == "overlay2" else {}
        self.around = Surroundings(root)
        self.layers = {chain: _read_layer(chain, self.records / chain[7:]) for chain in self._record_names()}
        self.mounts = {name: _read_mount(name, self.layerdb / "mounts" / name) for name in self._ids("mounts")}
        self.images = dict(self._read_images())
        self.containers = {name: _read_container(name, root / "containers" / name) for name in self._container_names()}
        self.references, self.references_fault = self._read_references()

    # ------------------------------------------------------------------------------------------------ questions

    @cached_property
    def identities(self) -> dict[ChainID, tuple[ChainID | None, DiffID]]:
        """What each chain ID stands for, as far as images and sound records tell: its parent and its diff ID."""
        known: dict[ChainID, tuple[ChainID | None, DiffID]] = {}
        for image in self.images.values():
            parent: ChainID | None = None
            for diff in image.config.diff_ids if image.config is not None else ():
                chain = chain_id(parent, diff)
                known[chain] = (parent, diff)
                parent = chain
        for layer in self.layers.values():
            if layer.diff is not None and layer.fits:
                known[layer.chain] = (layer.parent, layer.diff)
        return known

    @cached_property
    def named(self) -> dict[CacheID, str]:
        """Each directory that a record names, and in words by whom."""
        found: dict[CacheID, str] = {}
        for layer in self.layers.values():
            if layer.cache_id is not None:
                found[layer.cache_id] = f"layer {layer.chain}"
        for mount in self.mounts.values():
            for name in (mount.mount_id, mount.init_id):
                if name is not None:
                    found[name] = f"container {mount.owner}"
        for record in self.removing:
            if (cache_id := _cache_id_in(record)) is not None:
                found.setdefault(cache_id, "a layer being removed")
        return found

    @cached_property
    def children(self) -> dict[ChainID, list[ChainID]]:
        """The layers that stand on each layer."""
        found: dict[ChainID, list[ChainID]] = {}
        for chain in self.layers:
            parent = self.identities.get(chain, (None, None))[0]
            if parent is not None:
                found.setdefault(parent, []).append(chain)
        return found

    @cached_property
    def by_directory(self) -> dict[CacheID, ChainID]:
        """Which layer each directory belongs to; of two that claim one, neither."""
        found: dict[CacheID, ChainID] = {}
        for layer in self.layers.values():
            if layer.cache_id is not None and layer.cache_id not in self.claimed_twice:
                found[layer.cache_id] = layer.chain
        return found

    @cached_property
    def claimed_twice(self) -> dict[CacheID, list[ChainID]]:
        """The directories that more than one layer names, and the layers."""
        claims: dict[CacheID, list[ChainID]] = {}
        for layer in self.layers.values():
            if layer.cache_id is not None:
                claims.setdefault(layer.cache_id, []).append(layer.chain)
        return {name: chains for name, chains in claims.items() if len(chains) > 1}

    @cached_property
    def lower_names(self) -> set[str]:
        """Every short name that some directory's ``lower`` holds."""
        return {entry[2:] for directory in self.directories.values() for entry in directory.lower or ()}

    @property
    def removing(self) -> list[Path]:
        """The layer records whose removal was begun."""
        return [self.records / name for name in list_names(self.records) if name.endswith("-removing")]

    def directory_of(self, chain: ChainID) -> RawDirectory | None:
        """Return the directory of a layer, if its record names one that is there."""
        layer = self.layers.get(chain)
        return None if layer is None or layer.cache_id is None else self.directories.get(layer.cache_id)

    def resolve(self, entry: str) -> CacheID | None:
        """Return the directory that ``l/LINK`` leads to, by the link or, where that is broken, by the ``link`` files."""
        return self.short_names.get(entry.removeprefix("l/")) or self.by_link.get(entry.removeprefix("l/"))

    @cached_property
    def by_link(self) -> dict[str, CacheID]:
        """The directory that says of itself that it goes by a short name; of two that do, neither."""
        found: dict[str, CacheID] = {}
        twice: set[str] = set()
        for directory in self.directories.values():
            if directory.link is not None:
                if directory.link in found:
                    twice.add(directory.link)
                found[directory.link] = directory.name
        return {link: name for link, name in found.items() if link not in twice}

    def files_of(self, directory: CacheID) -> Path:
        """Return where the files of a layer directory are."""
        return self.home / directory / "diff" if self.driver == "overlay2" else self.home / directory

    def users_of(self, chain: ChainID) -> list[ImageID]:
        """Return the images that need a layer."""
        return [image for image, chains in self.image_chains.items() if chain in chains]

    @cached_property
    def image_chains(self) -> dict[ImageID, list[ChainID]]:
        """The chains of each readable image, base first."""
        return {
            image.id: chain_ids(image.config.diff_ids) for image in self.images.values() if image.config is not None
        }

    def relative(self, path: Path) -> str:
        """Spell a path of the data-root without its beginning."""
        return str(path.relative_to(self.root))

    # ------------------------------------------------------------------------------------------------ reading

    def _record_names(self) -> Iterator[ChainID]:
        for name in list_names(self.records):
            if is_hex64(name):
                yield ChainID(DiffID(Digest(f"sha256:{name}")))

    def _ids(self, place: str) -> list[str]:
        return [name for name in list_names(self.layerdb / place) if is_hex64(name)]

    def _container_names(self) -> list[str]:
        return [name for name in list_names(self.root / "containers") if is_hex64(name)]

    def _read_images(self) -> Iterator[tuple[ImageID, RawImage]]:
        content = self.imagedb / "content" / "sha256"
        for name in list_names(content):
            if not is_hex64(name):
                continue
            image_id = ImageID(Digest(f"sha256:{name}"))
            config, fault = None, ""
            try:
                raw = read_small(content / name, CONFIG_LIMIT)
                if digest_of(raw) != image_id:
                    fault = "its bytes do not hash to its name"
                else:
                    config = decode_image_config(raw)
            except FileNotFoundError:
                continue
            except (LamellaError, OSError) as error:
                fault = str(error)
            yield image_id, RawImage(image_id, content / name, config, fault)

    def _read_directories(self) -> dict[CacheID, RawDirectory]:
        found: dict[CacheID, RawDirectory] = {}
        try:
            with os.scandir(self.home) as entries:
                names = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
        except (FileNotFoundError, NotADirectoryError):
            return found
        for name in names:
            if not is_cache_id(name):
                continue
            path = self.home / name
            if self.driver != "overlay2":
                found[CacheID(name)] = RawDirectory(CacheID(name), path, None, None, frozenset(), ())
            elif (directory := _read_directory(CacheID(name), path)) is not None:
                found[directory.name] = directory
        return found

    def _read_short_names(self) -> dict[str, CacheID]:
        found: dict[str, CacheID] = {}
        place = self.home / "l"
        for name in list_names(place):
            try:
                target = os.readlink(place / name)
            except OSError:
                continue
            parts = target.split("/")
            if len(parts) == 3 and parts[0] == ".." and parts[2] == "diff" and is_cache_id(parts[1]):
                found[name] = CacheID(parts[1])
        return found

    def _read_references(self) -> tuple[dict[str, dict[str, str]], str]:
        path = self.image_dir / "repositories.json"
        try:
            raw = read_small(path, _REFERENCES_LIMIT)
        except FileNotFoundError:
            return {}, "missing"
        except (LamellaError, OSError) as error:
            return {}, str(error)
        try:
            document = decode_document(raw, limit=_REFERENCES_LIMIT, what=path.name)
        except InvalidArgument as error:
            return {}, str(error)
        table = document.get("Repositories") if isinstance(document, dict) else None
        if not isinstance(table, dict):
            return {}, f"{path.name}: there is no object Repositories in it"
        found: dict[str, dict[str, str]] = {}
        for name, entries in table.items():
            if entries is not None and not (
                isinstance(entries, dict) and all(isinstance(value, str) for value in entries.values())
            ):
                return {}, f"{path.name}: repository {name!r:.100} is not an object of strings"
            found[name] = dict(entries or {})
        return found, ""


def find_driver(root: Path) -> str:
    """Name the driver that filled a data-root, from what is left of it; overlay2 if nothing tells."""
    weights = {
        name: 2 * len(list_names(root / "image" / name / "layerdb" / "sha256"))
        + len(list_names(root / "image" / name / "imagedb" / "content" / "sha256"))
        + len(list_names(root / home))
        for name, home in (("overlay2", "overlay2"), ("vfs", "vfs/dir"))
    }
    return "vfs" if weights["vfs"] > weights["overlay2"] else "overlay2"


def _read_layer(chain: ChainID, path: Path) -> RawLayer:
    faults: list[Fault] = []
    names = frozenset(list_names(path))
    diff = _digest_in(path / "diff", faults)
    parent = _digest_in(path / "parent", faults) if "parent" in names else None
    size: int | None = None
    raw = _field(path / "size", faults)
    if raw is not None:
        if _SIZE.fullmatch(raw) is None:
            faults.append(Fault("size", f"size is {raw[:32]!r}, not a decimal number"))
        else:
            size = int(raw)
    cache_id: CacheID | None = None
    raw = _field(path / "cache-id", faults)
    if raw is not None:
        text = raw.decode("ascii", "replace").strip()
        if is_cache_id(text):
            cache_id = CacheID(text)
        else:
            faults.append(Fault("cache-id", f"cache-id is {text[:80]!r}, not the name of a layer directory"))
    tar_split = TAR_SPLIT in names
    return RawLayer(chain, path, diff, None if parent is None else ChainID(parent), cache_id, size, tar_split,
                    tuple(faults), names)  # fmt: skip


def _read_mount(owner: str, path: Path) -> RawMount:
    faults: list[Fault] = []
    names = frozenset(list_names(path))
    mount_id = _mount_id_in(path / "mount-id", faults)
    init_id = _mount_id_in(path / "init-id", faults) if "init-id" in names else None
    parent = _digest_in(path / "parent", faults) if "parent" in names else None
    return RawMount(owner, path, mount_id, init_id, None if parent is None else ChainID(parent), tuple(faults), names)


def _read_container(name: str, path: Path) -> RawContainer:
    faults: list[Fault] = []
    names = frozenset(list_names(path))
    documents: dict[str, dict[str, object] | None] = {"config.v2.json": None, "hostconfig.json": None}
    for file in documents:
        if file not in names:
            continue
        try:
            raw = read_small(path / file, _DOCUMENT_LIMIT)
            documents[file] = decode_object(raw, limit=_DOCUMENT_LIMIT, what=file)
        except FileNotFoundError:
            continue
        except (LamellaError, OSError) as error:
            faults.append(Fault(file, str(error)))
    return RawContainer(name, path, documents["config.v2.json"], documents["hostconfig.json"], tuple(faults), names)


def _read_directory(name: CacheID, path: Path) -> RawDirectory | None:
    names: set[str] = set()
    wrong: list[str] = []
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                names.add(entry.name)
                kind = _PLAIN_KINDS.get(entry.name)
                is_right = entry.is_file if kind is stat.S_ISREG else entry.is_dir
                if kind is not None and not is_right(follow_symlinks=False):
                    wrong.append(entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return None
    link = lower = None
    try:
        if "link" in names:
            link = read_small(path / "link").decode("ascii", "replace")
        if "lower" in names:
            lower = tuple(read_small(path / "lower", _LOWER_LIMIT).decode("ascii", "replace").split(":"))
    except FileNotFoundError:
        return None
    except (DataLoss, OSError):
        lower = ("",) if "lower" in names else None
    return RawDirectory(name, path, link, lower, frozenset(names), tuple(wrong))


def _field(path: Path, faults: list[Fault]) -> bytes | None:
    try:
        return read_small(path)
    except FileNotFoundError:
        faults.append(Fault(path.name, f"{path.name} is missing"))
    except (LamellaError, OSError) as error:
        faults.append(Fault(path.name, str(error)))
    return None


def _digest_in(path: Path, faults: list[Fault]) -> DiffID | None:
    raw = _field(path, faults)
    if raw is None:
        return None
    try:
        return DiffID(parse_digest(raw.decode("ascii", "replace").strip()))
    except InvalidArgument:
        faults.append(Fault(path.name, f"{path.name} is {raw[:80]!r}, not a digest"))
        return None


def _mount_id_in(path: Path, faults: list[Fault]) -> CacheID | None:
    raw = _field(path, faults)
    if raw is None:
        return None
    text = raw.decode("ascii", "replace").strip()
    if _MOUNT_ID.fullmatch(text) is None:
        faults.append(Fault(path.name, f"{path.name} is {text[:80]!r}, not the name of a layer directory"))
        return None
    return CacheID(text)


def _cache_id_in(record: Path) -> CacheID | None:
    try:
        text = read_small(record / "cache-id").decode("ascii", "replace").strip()
    except (LamellaError, OSError):
        return None
    return CacheID(text) if is_cache_id(text) else None

"""Layer records as they lie on disk: ``layerdb/sha256/<chain>/{diff,size,cache-id,parent,tar-split.json.gz}``.

A record is believed only if its name is the chain ID of its contents, so that a record cannot be its own ancestor and
cannot pass for another layer.  What a record stands for on the driver's side, and who needs it, is ``layers``' affair.

Commit point: the rename of a write-set ``layerdb/tmp/write-set-<digits>`` to ``layerdb/sha256/<chain>``.  Removal
begins with the rename to ``<chain>-<random>-removing``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from lamella.errors import DataLoss, InvalidArgument, NotFound
from lamella.model.digest import ChainID, DiffID, Digest, chain_id, hex_of, parse_digest
from lamella.model.ids import CacheID, is_cache_id
from lamella.store.smallfiles import find_small, list_names, read_small, shown

#: Docker registers no layer above the 125th.
MAX_DEPTH = 125
TAR_SPLIT = "tar-split.json.gz"
_HEX = re.compile(r"[0-9a-f]{64}", re.ASCII)
_REMOVING = re.compile(r"[0-9a-f]{64}-[0-9a-f]+-removing", re.ASCII)
_SIZE = re.compile(rb"[0-9]{1,19}", re.ASCII)


class Layer(NamedTuple):
    """One read-only layer: its record's contents."""

    chain_id: ChainID
    diff_id: DiffID
    parent: ChainID | None
    cache_id: CacheID
    size: int


class LayerDB:
    """The directory ``layerdb`` of one data-root."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.records = directory / "sha256"
        self.staging = directory / "tmp"

    def path(self, chain: ChainID) -> Path:
        """Return where the record of ``chain`` is, or would be."""
        return self.records / hex_of(chain)

    def tar_split(self, chain: ChainID) -> Path:
        """Return where the tar-split of ``chain`` is."""
        return self.path(chain) / TAR_SPLIT

    def exists(self, chain: ChainID) -> bool:
        """Tell whether there is a record of this name, sound or not."""
        return os.path.lexists(self.path(chain))

    def read(self, chain: ChainID) -> Layer:
        """Read and check one record.  Raises NotFound, or DataLoss naming what is wrong with it."""
        path = f"{self.records}/{hex_of(chain)}"  # no Path: thousands of records are read at once
        try:
            return _read(chain, path)
        except FileNotFoundError as error:
            if not os.path.lexists(path):
                raise NotFound(f"layer {chain} does not exist") from None
            raise DataLoss(f"layer {chain}: {os.path.basename(str(error.filename))} is missing from {path}") from error

    def iter_chains(self) -> Iterator[ChainID]:
        """Yield the chain ID of every record, sound or not."""
        for name in list_names(self.records):
            if _HEX.fullmatch(name):
                yield ChainID(DiffID(Digest(f"sha256:{name}")))

    def iter_removing(self) -> Iterator[Path]:
        """Yield records whose removal has begun."""
        for name in list_names(self.records):
            if _REMOVING.fullmatch(name):
                yield self.records / name

    def read_all(self, problems: list[str] | None = None) -> dict[ChainID, Layer]:
        """Read every sound record whose parents are all sound, and name the others in ``problems``."""
        found: dict[ChainID, Layer] = {}
        for chain in self.iter_chains():
            try:
                found[chain] = self.read(chain)
            except NotFound:
                continue
            except DataLoss as error:
                if problems is not None:
                    problems.append(str(error))
        sound: dict[ChainID, Layer] = {}
        for start in found:
            # A parent's name is part of the hash that is the child's name: this walk cannot come back to its start.
            path: list[Layer] = []
            chain_or_none: ChainID | None = start
            while chain_or_none is not None and chain_or_none not in sound and chain_or_none in found:
                path.append(found[chain_or_none])
                chain_or_none = found[chain_or_none].parent
            if chain_or_none is None or chain_or_none in sound:
                sound.update((layer.chain_id, layer) for layer in path)
            elif problems is not None:
                problems.append(f"layer {start}: layer {chain_or_none} below it is missing or damaged")
        return sound

    def read_sizes(self, problems: list[str]) -> dict[ChainID, int]:
        """Read the size that each record tells, and name in ``problems`` those that tell none."""
        found: dict[ChainID, int] = {}
        for name in list_names(self.records):
            if _HEX.fullmatch(name):
                chain = ChainID(DiffID(Digest(f"sha256:{name}")))
                try:
                    found[chain] = _size(chain, read_small(f"{self.records}/{name}/size"))
                except FileNotFoundError:
                    if os.path.lexists(self.path(chain)):
                        problems.append(f"layer {chain}: size is missing from {self.path(chain)}")
                except NotADirectoryError:
                    problems.append(f"layer {chain}: {self.path(chain)} is no directory")
                except DataLoss as error:
                    problems.append(str(error))
        return found

    def begin_removal(self, chain: ChainID) -> Path:
        """Take a record out of sight by renaming it, and return its new name; durable after a sync of ``records``."""
        source = self.path(chain)
        target = source.with_name(f"{source.name}-{os.urandom(16).hex()}-removing")
        os.rename(source, target)
        return target


def write_record(write_set: Path, layer: Layer) -> None:
    """Write a record's small files into its write-set; nothing is synced here."""
    for name, text in (("diff", layer.diff_id), ("size", str(layer.size)), ("cache-id", layer.cache_id)):
        write_plain(write_set / name, text.encode())
    if layer.parent is not None:
        write_plain(write_set / "parent", layer.parent.encode())


def write_plain(path: Path, content: bytes) -> None:
    """Write a new file 0644 that nobody can see yet; syncing it is the caller's duty."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        os.fchmod(fd, 0o644)
        os.write(fd, content)
    finally:
        os.close(fd)


def find_cache_id(directory: Path) -> CacheID | None:
    """Return the cache ID that a record names, None if it names none that could be a directory of the driver."""
    try:
        text = (find_small(directory / "cache-id") or b"").decode("ascii", "replace").strip()
    except DataLoss:
        return None
    return CacheID(text) if is_cache_id(text) else None


def _read(chain: ChainID, path: str) -> Layer:
    diff = _digest(read_small(f"{path}/diff"), chain, "diff")
    size = _size(chain, read_small(f"{path}/size"))
    cache_id = read_small(f"{path}/cache-id").decode("ascii", "replace").strip()
    if not is_cache_id(cache_id):
        raise DataLoss(f"layer {chain}: cache-id is {cache_id[:80]!r}, not the name of a layer directory")
    raw_parent = find_small(f"{path}/parent")
    parent = None if raw_parent is None else ChainID(_digest(raw_parent, chain, "parent"))
    if (actual := chain_id(parent, diff)) != chain:
        raise DataLoss(f"layer {chain}: diff and parent in its record belong to layer {actual}")
    return Layer(chain, diff, parent, CacheID(cache_id), size)


def _size(chain: ChainID, raw: bytes) -> int:
    if _SIZE.fullmatch(raw) is None:
        raise DataLoss(f"layer {chain}: size is {shown(raw, 32)}, not a decimal number")
    return int(raw)


def _digest(raw: bytes, chain: ChainID, what: str) -> DiffID:
    try:
        return DiffID(parse_digest(raw.decode("ascii", "replace").strip()))
    except InvalidArgument as error:
        raise DataLoss(f"layer {chain}: {what} is {shown(raw)}, not a digest") from error

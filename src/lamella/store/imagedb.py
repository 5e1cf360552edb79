"""Images: configs by their digest, and the little that Docker keeps beside them.

``imagedb/content/sha256/<image>`` holds a config's exact bytes, ``imagedb/metadata/sha256/<image>/`` the keys
``parent``, ``lastUpdated`` and ``builtLocally``.  References are ``tags``; what may be removed is the engine's decision.

Commit point: the rename of the config.  It is written after the layers it names and refused before; the metadata
follow it, and the last of them may be lost if the power goes.  Removal takes the metadata first, then the config, and
the layers last.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from lamella.errors import Conflict, DataLoss, InvalidArgument, LamellaError, NotFound
from lamella.fs.atomic import fsync_dir, write_file
from lamella.model.digest import ChainID, DiffID, Digest, ImageID, chain_ids, digest_of, hex_of, parse_digest
from lamella.model.gojson import parse_time
from lamella.model.imageconfig import ImageConfig, decode_image_config
from lamella.store.dataroot import DataRoot
from lamella.store.layerdb import LayerDB
from lamella.store.smallfiles import find_small, is_directory, list_names, read_small, shown
from lamella.store.transactions import Transaction

CONFIG_LIMIT = 8 << 20
_HEX = re.compile(r"[0-9a-f]{64}", re.ASCII)
_PREFIX = re.compile(r"[0-9a-f]{1,64}", re.ASCII)


class ImageHead:
    """What lists need of an image: the bytes that are its identity, and two things that it costs little to read in them.

    Nothing else in them has been looked at.
    """

    __slots__ = ("_chains", "created", "diff_ids", "id", "raw")

    def __init__(self, id: ImageID, raw: bytes, created: int, diff_ids: tuple[DiffID, ...]) -> None:  # noqa: A002
        self.id = id
        self.raw = raw
        self.created = created
        """Nanoseconds since the epoch; 0 or less if the config does not say."""
        self.diff_ids = diff_ids
        self._chains: list[ChainID] | None = None

    @property
    def chains(self) -> list[ChainID]:
        """The chain ID of each layer, base first."""
        if self._chains is None:
            self._chains = chain_ids(self.diff_ids)
        return self._chains


class _RootFS(msgspec.Struct):
    diff_ids: tuple[DiffID, ...] | None = None


class _Head(msgspec.Struct):
    rootfs: _RootFS
    created: str | None = None


class StoredImage(NamedTuple):
    """An image: the bytes that are its identity, a view of them, and Docker's metadata."""

    id: ImageID
    raw: bytes
    config: ImageConfig
    parent: ImageID | None
    last_updated: str | None
    built_locally: bool

    @property
    def chains(self) -> list[ChainID]:
        """The chain ID of each layer, base first."""
        return chain_ids(self.config.diff_ids)

    @property
    def head(self) -> ImageHead:
        """The image as lists have it."""
        return ImageHead(self.id, self.raw, _moment(self.config.created), self.config.diff_ids)

    @property
    def top(self) -> ChainID | None:
        """The chain ID of the top layer, None for an image without layers."""
        chains = self.chains
        return chains[-1] if chains else None


class ImageDB:
    """The directory ``imagedb`` of one data-root."""

    def __init__(self, root: DataRoot, layerdb: LayerDB) -> None:
        self._root = root
        self._layerdb = layerdb
        self.content = root.imagedb_dir / "content" / "sha256"
        self.metadata = root.imagedb_dir / "metadata" / "sha256"

    # ------------------------------------------------------------------------------------------------ reading

    def get(self, id: ImageID) -> StoredImage:  # noqa: A002  (the vocabulary's word)
        """Read one image.  Raises NotFound, or DataLoss if its bytes do not hash to its name."""
        raw, config = self.read_config(id)
        return StoredImage(id, raw, config, *self._read_metadata(id))

    def complete(self, head: ImageHead) -> StoredImage:
        """Return the image of which there is only the head.  Raises DataLoss for a config that Docker would not take."""
        return StoredImage(head.id, head.raw, _decode(head.id, head.raw), *self._read_metadata(head.id))

    def read_config(self, id: ImageID) -> tuple[bytes, ImageConfig]:  # noqa: A002  (the vocabulary's word)
        """Read an image's config alone, its bytes and the view of them; raises as `get` does."""
        raw = self.read_raw(id)
        return raw, _decode(id, raw)

    def read_raw(self, id: ImageID) -> bytes:  # noqa: A002  (the vocabulary's word)
        """Read the bytes of an image's config; raises as `get` does, but for what they say."""
        try:
            raw = read_small(f"{self.content}/{hex_of(id)}", CONFIG_LIMIT)  # no Path: thousands are read at once
        except FileNotFoundError:
            raise NotFound(f"no such image: {id}") from None
        if digest_of(raw) != id:
            raise DataLoss(f"image {id}: its config is damaged; remove it and load or pull it again")
        return raw

    def find(self, id: ImageID) -> StoredImage | None:  # noqa: A002  (the vocabulary's word)
        """Read one image, or return None if there is none."""
        try:
            return self.get(id)
        except NotFound:
            return None

    def exists(self, id: ImageID) -> bool:  # noqa: A002  (the vocabulary's word)
        """Tell whether there is a config of this name, sound or not."""
        return os.path.lexists(self.content / hex_of(id))

    def is_built_locally(self, id: ImageID) -> bool:  # noqa: A002  (the vocabulary's word)
        """Tell whether a builder, dockerd's or this one, made the image as a step."""
        return self._read_key(id, "builtLocally") == b"\x01"

    def iter_ids(self) -> Iterator[ImageID]:
        """Yield the ID of every config, sound or not."""
        for name in list_names(self.content):
            if _HEX.fullmatch(name):
                yield _image_id(name)

    def iter_images(self) -> Iterator[StoredImage]:
        """Yield every sound image; the others are reported as problems of the data-root."""
        for image_id in self.iter_ids():
            try:
                yield self.get(image_id)
            except NotFound:
                continue
            except DataLoss as error:
                self._root.report(str(error))

    def iter_heads(self) -> Iterator[ImageHead]:
        """Yield the head of every image whose bytes hash to its name; the others are reported as problems."""
        decoder = msgspec.json.Decoder(_Head)
        for image_id in self.iter_ids():
            try:
                raw = self.read_raw(image_id)
                try:
                    head = decoder.decode(raw)
                    created = _moment(head.created)
                except (msgspec.DecodeError, RecursionError, InvalidArgument):
                    # What the strict reader takes all the same, such as an ancient spelling, is listed as well.
                    yield StoredImage(image_id, raw, _decode(image_id, raw), None, None, built_locally=False).head
                    continue
            except NotFound:
                continue
            except DataLoss as error:
                self._root.report(str(error))
                continue
            yield ImageHead(image_id, raw, created, head.rootfs.diff_ids or ())

    def parents(self) -> dict[ImageID, ImageID]:
        """Return the parent of every image whose metadata name one."""
        found: dict[ImageID, ImageID] = {}
        for name in list_names(self.metadata):
            if _HEX.fullmatch(name) and is_directory(f"{self.metadata}/{name}"):
                parent = self._read_parent(_image_id(name))
                if parent is not None:
                    found[_image_id(name)] = parent
        return found

    def iter_children(self, id: ImageID) -> Iterator[ImageID]:  # noqa: A002  (the vocabulary's word)
        """Yield the images whose metadata name ``id`` as their parent."""
        for child, parent in self.parents().items():
            if parent == id:
                yield child

    def resolve_prefix(self, text: str) -> ImageID:
        """Return the one image whose ID begins with ``text``, with or without ``sha256:``.

        Raises NotFound if there is none or ``text`` cannot be an ID, InvalidArgument if several match.
        """
        digits = text.removeprefix("sha256:")
        if _PREFIX.fullmatch(digits) is None:
            raise NotFound(f"no such image: {text}")
        if len(digits) == 64:
            if os.path.lexists(self.content / digits):
                return _image_id(digits)
            raise NotFound(f"no such image: {text}")
        matches = [name for name in list_names(self.content) if name.startswith(digits) and _HEX.fullmatch(name)]
        if not matches:
            raise NotFound(f"no such image: {text}")
        if len(matches) > 1:
            raise InvalidArgument(f"{text} is ambiguous: {len(matches)} image IDs begin with it; give more digits")
        return _image_id(matches[0])

    # ------------------------------------------------------------------------------------------------ writing

    def put(
        self,
        raw: bytes,
        *,
        parent: ImageID | None = None,
        built_locally: bool = False,
        tx: Transaction | None = None,
    ) -> ImageID:
        """Store a config and return its ID; durable on return.

        Pending layers of this process are published first.  ``tx`` takes the image back if its operation fails.
        Raises InvalidArgument for a config that Docker would not take, Conflict if a layer it names is not here.
        """
        config = decode_image_config(raw)
        image_id = ImageID(digest_of(raw))
        if tx is not None:
            self.announce(image_id, tx)
        self._root.flush()
        with self._root.writing():
            for chain in chain_ids(config.diff_ids):
                if not self._layerdb.exists(chain):
                    raise Conflict(f"image {image_id}: its layer {chain} is not in the store; register it first")
            path = self.content / hex_of(image_id)
            if find_small(path, CONFIG_LIMIT) != raw:
                if tx is not None:
                    self.announce(image_id, tx)
                    tx.sync()
                write_file(path, raw, mode=0o600)
            if parent is not None:
                # Whoever finds it empty, as an unsynced file may be after a power cut, takes it for damage.
                self._write_metadata(image_id, "parent", parent.encode(), sync=True)
            if built_locally:
                self._write_metadata(image_id, "builtLocally", b"\x01")
        return image_id

    def announce(self, id: ImageID, tx: Transaction) -> None:  # noqa: A002  (the vocabulary's word)
        """Say that a transaction is about to store an image; before its layers are published, this costs no sync."""
        if id not in tx.intent.images and not self.exists(id):
            tx.note("image", id)

    def touch(self, id: ImageID, *, moment: str | None = None) -> None:  # noqa: A002  (the vocabulary's word)
        """Set ``lastUpdated``, as Docker does when it tags what was built, committed or imported."""
        from lamella.model.gojson import format_time, now

        with self._root.writing():
            self._write_metadata(id, "lastUpdated", (moment or format_time(now())).encode())

    def remove(self, id: ImageID) -> None:  # noqa: A002  (the vocabulary's word)
        """Remove a config and its metadata, and its children's memory of it; its layers are left to the caller."""
        from lamella.fs.tree import remove_tree

        with self._root.writing():
            for child in list(self.iter_children(id)):
                (self.metadata / hex_of(child) / "parent").unlink(missing_ok=True)
            remove_tree(self.metadata / hex_of(id))
            try:
                os.unlink(self.content / hex_of(id))
            except FileNotFoundError:
                raise NotFound(f"no such image: {id}") from None
            fsync_dir(self.content)

    # ------------------------------------------------------------------------------------------------ internals

    def _read_metadata(self, image_id: ImageID) -> tuple[ImageID | None, str | None, bool]:
        if not is_directory(self.metadata / hex_of(image_id)):  # the usual case: nothing was ever set
            return None, None, False
        updated = self._read_key(image_id, "lastUpdated")
        return (
            self._read_parent(image_id),
            updated.decode("ascii", "replace").strip() if updated else None,
            self.is_built_locally(image_id),
        )

    def _read_parent(self, image_id: ImageID) -> ImageID | None:
        raw = self._read_key(image_id, "parent")
        if raw is None:
            return None
        try:
            return ImageID(parse_digest(raw.decode("ascii", "replace")))
        except InvalidArgument:
            self._root.report(f"image {image_id}: its parent is {shown(raw)}, not an image ID")
            return None

    def _read_key(self, image_id: ImageID, key: str) -> bytes | None:
        try:
            return find_small(self.metadata / hex_of(image_id) / key)
        except LamellaError as error:
            self._root.report(str(error))
            return None

    def _write_metadata(self, image_id: ImageID, key: str, content: bytes, *, sync: bool = False) -> None:
        directory = self.metadata / hex_of(image_id)
        if not is_directory(directory):
            directory.unlink(missing_ok=True)  # a link would have us write where it leads
            os.mkdir(directory, 0o700)
        write_file(directory / key, content, mode=0o600, sync=sync, sync_directory=False)


def _moment(created: str | None) -> int:
    return parse_time(created) if created else 0


def _decode(image_id: ImageID, raw: bytes) -> ImageConfig:
    try:
        return decode_image_config(raw)
    except InvalidArgument as error:
        raise DataLoss(f"image {image_id}: {error}") from error


def _image_id(name: str) -> ImageID:
    return ImageID(Digest(f"sha256:{name}"))

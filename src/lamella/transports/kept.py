"""The manifests that images came with, kept beside the store: ``DATA-ROOT/lamella/manifests/<image hex>``.

With one, an image that nobody changed is pushed under the digest it was pulled by.  They are a cache: not synced, looked
at with suspicion, missed by nobody.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from lamella.errors import LamellaError
from lamella.fs.atomic import write_file
from lamella.model.digest import Digest, ImageID, hex_of, is_hex64
from lamella.model.documents import MANIFEST_LIMIT
from lamella.store.imagestore import ImageStore
from lamella.store.smallfiles import find_small, list_names
from lamella.transports.manifests import Descriptor, document_type, parse_manifest


class KeptManifest(NamedTuple):
    """The manifest that an image was last pulled or pushed with."""

    raw: bytes
    media_type: str
    layers: tuple[Descriptor, ...]


def keep_manifest(store: ImageStore, image_id: ImageID, raw: bytes) -> None:
    """Keep a manifest's bytes, so that the unchanged image can be pushed under the same digest; a cache, not synced."""
    directory = store.root.lamella_dir / "manifests"
    directory.mkdir(mode=0o700, exist_ok=True)
    write_file(directory / hex_of(image_id), raw, sync=False)


def find_kept(store: ImageStore, image_id: ImageID) -> KeptManifest | None:
    """Return the manifest kept for an image, if there is a sound one."""
    try:
        raw = find_small(store.root.lamella_dir / "manifests" / hex_of(image_id), MANIFEST_LIMIT)
        if raw is None:
            return None
        media_type = document_type(raw, "kept manifest", None)
        manifest = parse_manifest(raw, "kept manifest", media_type)
    except LamellaError:
        return None
    return KeptManifest(raw, media_type, manifest.layers) if manifest.config.digest == image_id else None


def iter_kept(store: ImageStore) -> Iterator[KeptManifest]:
    """Yield every sound manifest that is kept."""
    for name in list_names(store.root.lamella_dir / "manifests"):
        if is_hex64(name) and (kept := find_kept(store, ImageID(Digest(f"sha256:{name}")))) is not None:
            yield kept


def prune_kept(store: ImageStore) -> None:
    """Remove the manifests of images that are gone."""
    directory = store.root.lamella_dir / "manifests"
    with store.root.writing():
        for name in list_names(directory):
            if not is_hex64(name) or not store.images.exists(ImageID(Digest(f"sha256:{name}"))):
                (directory / name).unlink(missing_ok=True)

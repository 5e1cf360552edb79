"""Where a layer or a config can be had again: the registries that the store remembers.

A kept manifest or the digest an image was pulled under names each blob exactly; Docker's notes on blobs tell of more
repositories.  Whatever comes is verified against the diff ID or image ID by whoever asked for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, NamedTuple, Protocol

from lamella.errors import InvalidArgument, LamellaError, Unauthorized, Unavailable
from lamella.insight.survey import Survey
from lamella.model.digest import ChainID, DiffID, Digest, ImageID, parse_digest
from lamella.model.documents import MANIFEST_LIMIT, decode_document
from lamella.model.platform import Platform
from lamella.model.reference import Reference, parse_reference
from lamella.store.smallfiles import find_small
from lamella.transports.manifests import Manifest, document_type, parse_manifest
from lamella.transports.resolving import Repository, Served, find_manifest

if TYPE_CHECKING:
    from lamella.model.imageconfig import ImageConfig

_NOTE_LIMIT = 256 << 10


class Registry(Repository, Protocol):
    """What is asked of a registry here."""

    def has_blob(self, digest: Digest) -> int | None:
        """Return the size of a blob that the repository has, None if it has not."""
        ...


#: What is raised when a registry does not answer, or not us: it may later.
SILENT = (Unavailable, Unauthorized, OSError)
Connect = Callable[[Reference], AbstractContextManager[Registry]]


class BlobPlace(NamedTuple):
    """One place where a blob should be."""

    reference: Reference
    digest: Digest
    size: int | None


class Sources:
    """The registries that one store remembers."""

    def __init__(self, survey: Survey, connect: Connect | None) -> None:
        self._survey = survey
        self.connect = connect
        self.silent = False
        """Whether a registry from which something surely came could not be asked."""

    def of_layer(self, chain: ChainID, diff: DiffID, problems: list[str]) -> Iterator[BlobPlace]:
        """Yield where the blob of a layer may be had, the surest first; who cannot be asked goes to *problems*."""
        for image in self._survey.users_of(chain):
            position = self._survey.image_chains[image].index(chain)
            for reference, manifest in self._manifests(image, problems):
                if position < len(manifest.layers):
                    layer = manifest.layers[position]
                    yield BlobPlace(reference, layer.digest, layer.size)
        yield from self._noted(diff)

    def of_config(self, image: ImageID) -> Iterator[BlobPlace]:
        """Yield where an image's config may be had."""
        for reference in self._references(image):
            yield BlobPlace(reference, image, None)

    def _manifests(self, image: ImageID, problems: list[str]) -> Iterator[tuple[Reference, Manifest]]:
        config = self._survey.images[image].config
        references = self._references(image)
        kept = self._kept(image)
        if kept is not None:
            for reference in references:
                yield reference, kept
        if self.connect is None or config is None:
            return
        for reference in references:
            try:
                with self.connect(reference) as registry:
                    wanted = str(reference.digest or reference.tag)
                    served: Served = registry.get_manifest(wanted)
                    _, manifest = find_manifest(registry, reference, served, _platform_of(config))
            except (LamellaError, OSError) as error:
                problems.append(str(error))
                self.silent = self.silent or (isinstance(error, SILENT) and reference.digest is not None)
                continue
            if manifest.config.digest == image:
                yield reference, manifest

    def _references(self, image: ImageID) -> list[Reference]:
        found: list[Reference] = []
        for entries in self._survey.references.values():
            for key, value in entries.items():
                if value != image:
                    continue
                try:
                    found.append(parse_reference(key))
                except InvalidArgument:
                    continue
        return sorted(found, key=lambda item: (item.digest is None, item.familiar()))

    def _kept(self, image: ImageID) -> Manifest | None:
        try:
            raw = find_small(self._survey.own / "manifests" / image[7:], MANIFEST_LIMIT)
            if raw is None:
                return None
            manifest = parse_manifest(raw, "kept manifest", document_type(raw, "kept manifest", None))
        except (LamellaError, OSError):
            return None
        return manifest if manifest.config.digest == image else None

    def _noted(self, diff: DiffID) -> Iterator[BlobPlace]:
        place = self._survey.image_dir / "distribution" / "v2metadata-by-diffid" / "sha256" / diff[7:]
        try:
            raw = find_small(place, _NOTE_LIMIT)
            document = [] if raw is None else decode_document(raw, limit=_NOTE_LIMIT, what=place.name)
        except (LamellaError, OSError):
            return
        for entry in reversed(document) if isinstance(document, list) else ():
            try:
                reference = parse_reference(str(entry["SourceRepository"]))
                yield BlobPlace(reference, parse_digest(str(entry["Digest"])), None)
            except (InvalidArgument, LookupError, TypeError):
                continue


def _platform_of(config: ImageConfig) -> Platform:
    return Platform(config.os or "linux", config.architecture, config.variant)

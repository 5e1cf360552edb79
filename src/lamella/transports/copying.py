"""Copying an image between registries, layouts, archives, directories and the store, packed as it is.

Documents go over byte for byte wherever the destination can hold them, so digests stay.  Blobs that the destination has
are not sent.  The store takes images by the same way as a pull; a docker-archive takes them unpacked, since that is what
it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, cast

from lamella.changeset.compression import Compression
from lamella.errors import DigestMismatch, InvalidArgument, NotFound, Unsupported
from lamella.model.digest import Digest, ImageID, digest_of
from lamella.model.documents import CONFIG_LIMIT, MANIFEST_LIMIT
from lamella.model.ids import short_id
from lamella.model.platform import Platform, host_platform
from lamella.model.progress import Advanced, Finished, Reporter, Started, silent
from lamella.model.reference import Reference, parse_tagged
from lamella.store.pipes import reading_from
from lamella.transports.archive import open_members
from lamella.transports.copysources import (
    Document,
    RegistrySource,
    Source,
    open_directory,
    open_docker_archive,
    open_layout,
    open_stored,
)
from lamella.transports.copytargets import (
    Destination,
    DirectoryDestination,
    DockerArchiveDestination,
    LayoutArchiveDestination,
    LayoutDestination,
    RegistryDestination,
)
from lamella.transports.manifests import (
    FOREIGN_TYPES,
    INDEX_TYPES,
    NESTING,
    Descriptor,
    choose_manifest,
    document_type,
    parse_descriptor,
    parse_descriptors,
    parse_document,
    parse_manifest,
    schema1,
    translate_to_oci,
)
from lamella.transports.workers import for_each

if TYPE_CHECKING:
    from lamella.store.imagestore import ImageStore

Connect = Callable[[Reference, str], AbstractContextManager[Any]]
OpenStore = Callable[[], "ImageStore"]
_TRANSPORTS = ("docker://", "oci:", "oci-archive:", "docker-archive:", "dir:")
_SPOOL = Path("/var/tmp")
_PIECE = 1 << 20
_MOST_IMAGES = 1000


class Place(NamedTuple):
    """A source or destination as typed: *transport* is empty for an image of the store."""

    transport: str
    path: Path
    name: str

    @property
    def reference(self) -> Reference:
        """The image's name, for a registry or the store."""
        return parse_tagged(self.name)


class Copied(NamedTuple):
    """What was copied: its document's digest and type at the destination."""

    digest: Digest
    media_type: str


def parse_place(text: str) -> Place:
    """Parse ``transport:rest``; anything else names an image of the store."""
    for prefix in _TRANSPORTS:
        if not text.startswith(prefix):
            continue
        rest = text.removeprefix(prefix)
        transport = prefix.rstrip(":/")
        if not rest:
            raise InvalidArgument(f"{text}: a place is missing after {prefix}")
        if transport == "docker":
            parse_tagged(rest)
            return Place(transport, Path(), rest)
        if transport == "dir":
            return Place(transport, Path(rest), "")
        path, _, name = rest.partition(":")
        return Place(transport, Path(path), name)
    if "://" in text:
        raise InvalidArgument(f"{text}: unknown transport; there are {', '.join(_TRANSPORTS)}")
    parse_tagged(text)
    return Place("", Path(), text)


def copy(
    source: str,
    destination: str,
    *,
    connect: Connect,
    store: OpenStore | None = None,
    everything: bool = False,
    platform: Platform | None = None,
    compression: Compression | None = None,
    preserve: bool = False,
    parallel: int = 3,
    report: Reporter = silent,
) -> Copied:
    """Copy an image; *everything* an index with all its images, else the one for *platform* or this machine.

    *connect* opens a repository for ``pull`` or ``pull,push``.  *compression* packs what comes plain from an archive or
    from the store.  A layout gets Docker's documents in OCI's words, since its readers know no others, unless *preserve*
    keeps them and with them the digest.  A destination in the file system is complete and on disk on return; after a
    failure it names what it named before.
    """
    origin, target = parse_place(source), parse_place(destination)
    if not (origin.transport and target.transport) and store is None:
        raise InvalidArgument("an image of the store can only be copied with a store; name its root")
    if not target.transport and everything:
        raise Unsupported("a store holds the image for one platform of an index; choose it by the platform")
    clients: list[Any] = []

    @contextmanager
    def noted(reference: Reference, actions: str) -> Iterator[Any]:
        with connect(reference, actions) as client:
            clients.append(client)
            yield client

    def stop() -> None:
        for client in clients:
            client.close()

    with ExitStack() as scope:
        opened = _open_source(origin, target, noted, store, compression, scope)
        if not target.transport:
            return _into_store(opened, origin, target, cast("OpenStore", store)(), platform, parallel, report)
        top = _document(opened.get_manifest(""), source)
        if top.media_type in INDEX_TYPES and not (everything and target.transport != "docker-archive"):
            if everything:
                raise Unsupported("a docker-archive holds no index; choose one image by its platform")
            top = _chosen(opened, top, platform, source)
        if target.transport == "docker-archive":
            return _into_docker_archive(opened, top, target, report)
        sink = _open_destination(origin, target, noted, scope)
        try:
            translated = target.transport in {"oci", "oci-archive"} and not preserve
            top = _transfer(opened, top, sink, parallel, report, stop, translated=translated)
            sink.finish()
        except BaseException:
            if isinstance(sink, LayoutArchiveDestination):
                sink.discard()
            raise
    return Copied(top.digest, top.media_type)


def copy_stored(
    store: ImageStore, image: ImageID, sink: Destination, compression: Compression, *, report: Reporter = silent
) -> Copied:
    """Copy an image of the store to a layout, in OCI's words, its layers packed as *compression* says."""
    with ExitStack() as scope:
        source = open_stored(store, image, compression, scope)
        top = _transfer(source, source.get_manifest(""), sink, 1, report, lambda: None, translated=True)
        sink.finish()
    return Copied(top.digest, top.media_type)


def _open_source(
    origin: Place,
    target: Place,
    connect: Connect,
    store: OpenStore | None,
    compression: Compression | None,
    scope: ExitStack,
) -> Source:
    match origin.transport:
        case "docker":
            return RegistrySource(scope.enter_context(connect(origin.reference, "pull")), origin.reference)
        case "":
            images = cast("OpenStore", store)()
            wanted = Compression.NONE if target.transport in {"", "docker-archive"} else Compression.GZIP
            return open_stored(images, images.resolve(origin.name), compression or wanted, scope)
        case "dir" | "oci" if not origin.path.is_dir():
            raise NotFound(f"{origin.path} is not a directory")
    members = scope.enter_context(open_members(origin.path, spool=_SPOOL))
    match origin.transport:
        case "dir":
            return open_directory(members)
        case "docker-archive":
            if compression is None and target.transport == "docker":
                compression = Compression.GZIP
            return open_docker_archive(members, origin.name, compression, _SPOOL, scope)
        case _:
            return open_layout(members, origin.name)


def _open_destination(origin: Place, target: Place, connect: Connect, scope: ExitStack) -> Destination:
    match target.transport:
        case "docker":
            client = scope.enter_context(connect(target.reference, "pull,push"))
            return RegistryDestination(
                client, target.reference, origin.reference if origin.transport == "docker" else None
            )
        case "dir":
            return DirectoryDestination(target.path)
        case "oci-archive":
            return LayoutArchiveDestination(target.path, target.name)
        case _:
            return LayoutDestination(target.path, target.name)


def _document(served: Any, what: str) -> Document:
    raw: bytes = served.raw
    if len(raw) > MANIFEST_LIMIT:
        raise InvalidArgument(f"manifest of {what} is larger than {MANIFEST_LIMIT} bytes")
    return Document(raw, document_type(raw, f"manifest of {what}", served.media_type), digest_of(raw))


def _fetch(source: Source, descriptor: Descriptor) -> bytes:
    raw: bytes = source.get_manifest(descriptor.digest).raw
    if (actual := digest_of(raw)) != descriptor.digest:
        raise DigestMismatch("manifest", descriptor.digest, actual)
    return raw


def _chosen(source: Source, top: Document, platform: Platform | None, what: str) -> Document:
    others: list[str] = []
    wanted = platform or host_platform()
    found = choose_manifest(
        Descriptor(top.media_type, top.digest, len(top.raw)),
        lambda item: top.raw if item.digest == top.digest else _fetch(source, item),
        wanted,
        others=others,
        strict=False,
        what=what,
    )
    if found is None:
        raise NotFound(f"no matching manifest for {wanted} in {what}; it has {', '.join(sorted(set(others)))}")
    return Document(_fetch(source, found), found.media_type, found.digest)


class _Plan(NamedTuple):
    """What is to be sent: blobs, each once, then documents, the named one last."""

    blobs: dict[Digest, Descriptor]
    documents: list[Document]


def _plan(source: Source, top: Document) -> _Plan:
    plan = _Plan({}, [])
    _collect(source, top, plan, 1)
    return plan


def _collect(source: Source, document: Document, plan: _Plan, depth: int) -> None:
    what = f"manifest {document.digest}"
    content = parse_document(document.raw, what, document.media_type)
    if content.get("schemaVersion") == 1:
        raise schema1(what)
    if document.media_type in INDEX_TYPES:
        if depth > NESTING:
            raise InvalidArgument(f"{what}: indexes are nested deeper than {NESTING}")
        for item in parse_descriptors(content, "manifests", what):
            if all(item.digest != known.digest for known in plan.documents):
                inner = Document(_fetch(source, item), item.media_type, item.digest)
                _collect(source, inner, plan, depth + 1)
            if len(plan.documents) > _MOST_IMAGES:
                raise InvalidArgument(f"{what}: more than {_MOST_IMAGES} images")
    else:
        blobs = [parse_descriptor(content.get("config"), f"{what}: config")]
        blobs += parse_descriptors(content, "layers", what)
        plan.blobs.update((blob.digest, blob) for blob in blobs if blob.media_type not in FOREIGN_TYPES)
    plan.documents.append(document)


def _chunks(source: Source, blob: Descriptor, advance: Callable[[int], None]) -> Iterator[bytes]:
    """Pull a blob's bytes through a pipe: the two sides may be of different speed, and nothing is kept."""
    with reading_from(partial(_write_blob, source, blob)) as stream:
        while piece := stream.read(_PIECE):
            advance(len(piece))
            yield piece


def _write_blob(source: Source, blob: Descriptor, sink: BinaryIO) -> None:
    source.read_blob(blob.digest, size=blob.size, sink=sink.write)


def _transfer(
    source: Source,
    top: Document,
    sink: Destination,
    parallel: int,
    report: Reporter,
    stop: Callable[[], None],
    *,
    translated: bool,
) -> Document:
    """Send blobs, then documents; return the named one as it went over."""
    plan = _plan(source, top)
    for_each(
        plan.blobs.values(),
        lambda blob: _send(source, blob, sink, report),
        parallel=parallel,
        name="copy",
        stop=stop,
    )
    renamed: dict[Digest, tuple[bytes, str]] = {}
    for document in plan.documents:
        raw, media_type = document.raw, document.media_type
        if translated:
            raw, media_type = translate_to_oci(raw, media_type, f"manifest {document.digest}", renamed)
        renamed[document.digest] = raw, media_type
        sink.put_manifest(raw, media_type, top=document is plan.documents[-1])
    raw, media_type = renamed[top.digest]
    return Document(raw, media_type, digest_of(raw))


def _send(source: Source, blob: Descriptor, sink: Destination, report: Reporter) -> None:
    name = short_id(blob.digest)
    if sink.has_blob(blob):
        report(Finished(name, "Already exists"))
        return
    report(Started(name, "Copying blob", blob.size))
    sink.put_blob(blob, lambda: _chunks(source, blob, lambda amount: report(Advanced(name, amount))))
    report(Finished(name, "Copied"))


def _into_docker_archive(source: Source, top: Document, target: Place, report: Reporter) -> Copied:
    manifest = parse_manifest(top.raw, f"manifest {top.digest}", top.media_type)
    config = bytearray()
    if manifest.config.size > CONFIG_LIMIT:
        raise InvalidArgument(f"config {manifest.config.digest} is larger than {CONFIG_LIMIT} bytes")
    source.read_blob(manifest.config.digest, size=manifest.config.size, sink=config.extend)
    if (actual := digest_of(config)) != manifest.config.digest:
        raise DigestMismatch("config", manifest.config.digest, actual)
    archive = DockerArchiveDestination(target.path, target.name)
    try:
        archive.put_image(
            bytes(config),
            [(layer, partial(reading_from, partial(_write_blob, source, layer))) for layer in manifest.layers],
        )
        for layer in manifest.layers:
            report(Finished(short_id(layer.digest), "Copied"))
        archive.finish()
    except BaseException:
        archive.discard()
        raise
    return Copied(top.digest, top.media_type)


def _into_store(
    source: Source,
    origin: Place,
    target: Place,
    store: ImageStore,
    platform: Platform | None,
    parallel: int,
    report: Reporter,
) -> Copied:
    from lamella.transports.pulling import pull

    pulled = pull(
        store,
        _Named(source),
        target.reference,
        origin=origin.reference if origin.transport == "docker" else None,
        platform=platform,
        parallel=parallel,
        report=report,
    )
    return Copied(pulled.digest, "")


class _Named:
    """A source as the repository of one image: any tag is its name."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def get_manifest(self, tag_or_digest: str) -> Any:
        """Return a document by its digest, the image's own for a tag."""
        return self._source.get_manifest(tag_or_digest if tag_or_digest.startswith("sha256:") else "")

    def read_blob(self, digest: Digest, *, size: int, sink: Callable[[bytes], object], offset: int = 0) -> int:
        """Hand a blob's bytes over."""
        return self._source.read_blob(digest, size=size, sink=sink, offset=offset)

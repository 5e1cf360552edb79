"""Where a copy writes to.

A file or directory appears under its name only when the copy is complete; a layout that is there already grows, and
what it has is not touched.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Protocol

from lamella.changeset.compression import Compression, open_decompressed
from lamella.changeset.entry import Entry, Kind
from lamella.changeset.tarheader import BLOCK, format_header
from lamella.errors import AlreadyExists, DataLoss, DigestMismatch, InvalidArgument
from lamella.fs.atomic import fsync_dir, write_file
from lamella.model.digest import Digest, digest_of, hex_of
from lamella.model.documents import MANIFEST_LIMIT, decode_object
from lamella.model.gojson import encode
from lamella.model.imageconfig import decode_image_config
from lamella.model.reference import DEFAULT_TAG, Reference, parse_tagged
from lamella.transports.manifests import OCI_INDEX, Descriptor
from lamella.transports.packing import Packed, Sink
from lamella.transports.pushing import Target

Chunks = Callable[[], Iterator[bytes]]
_LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'
_VERSION = b"Directory Transport Version: 1.1\n"


class Destination(Protocol):
    """Takes blobs, in any order and from several threads, then manifests, those of an index before it."""

    def has_blob(self, blob: Descriptor) -> bool:
        """Tell whether a blob is there, or can be got without sending it."""
        ...

    def put_blob(self, blob: Descriptor, chunks: Chunks) -> None:
        """Write a blob."""
        ...

    def put_manifest(self, raw: bytes, media_type: str, *, top: bool) -> None:
        """Write a document; the *top* one gets the name."""
        ...

    def finish(self) -> None:
        """Make it visible and durable."""
        ...


class RegistryDestination:
    """A repository; blobs of *origin*, another one of the same registry, are mounted."""

    def __init__(self, client: Target, reference: Reference, origin: Reference | None) -> None:
        self._client = client
        self._reference = reference
        same = origin is not None and origin.domain == reference.domain and origin.path != reference.path
        self._origin = origin.path if origin is not None and same else None

    def has_blob(self, blob: Descriptor) -> bool:
        """Ask, then try a mount."""
        if self._client.has_blob(blob.digest) is not None:
            return True
        return self._origin is not None and self._client.mount_blob(blob.digest, self._origin)

    def put_blob(self, blob: Descriptor, chunks: Chunks) -> None:
        """Upload."""
        self._client.upload_blob(blob.digest, blob.size, chunks)

    def put_manifest(self, raw: bytes, media_type: str, *, top: bool) -> None:
        """Upload under the tag, or under the digest."""
        tag = str(self._reference.digest or self._reference.tag or DEFAULT_TAG)
        self._client.put_manifest(tag if top else digest_of(raw), raw, media_type)

    def finish(self) -> None:
        """Do nothing: a registry has no drafts."""


class _Files:
    """Blobs as files of a directory, each renamed into place when it is complete and right."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)

    def has(self, blob: Descriptor) -> bool:
        path = self.directory / hex_of(blob.digest)
        if not path.is_file() or path.stat().st_size != blob.size:
            return False
        with path.open("rb") as stream:
            return f"sha256:{hashlib.file_digest(stream, 'sha256').hexdigest()}" == blob.digest

    def put(self, blob: Descriptor, chunks: Chunks) -> None:
        path = self.directory / hex_of(blob.digest)
        draft = self.directory / f".tmp-{path.name}{os.urandom(4).hex()}"
        try:
            with draft.open("xb", buffering=0) as stream:
                written = _write_checked(blob, chunks, stream.write)
                os.fdatasync(stream.fileno())
            assert written == blob.size  # noqa: S101 - it was checked
            draft.replace(path)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise


def _write_checked(blob: Descriptor, chunks: Chunks, write: Callable[[memoryview], object]) -> int:
    checksum = hashlib.sha256()
    written = 0
    for piece in chunks():
        checksum.update(piece)
        written += len(piece)
        if written > blob.size:
            break
        view = memoryview(piece)
        while view:
            done = write(view)
            view = view[done if isinstance(done, int) else len(view) :]
    if written != blob.size:
        raise DataLoss(f"blob {blob.digest} is not the {blob.size} bytes it should be")
    if (actual := f"sha256:{checksum.hexdigest()}") != blob.digest:
        raise DigestMismatch("blob", blob.digest, actual)
    return written


def _entry(raw: bytes, media_type: str, name: str) -> dict[str, object]:
    entry: dict[str, object] = {"mediaType": media_type, "digest": digest_of(raw), "size": len(raw)}
    if name:
        entry["annotations"] = {"org.opencontainers.image.ref.name": name}
    return entry


class LayoutDestination:
    """A directory in OCI layout; what else it holds stays, but for an image of the same name."""

    def __init__(self, path: Path, name: str) -> None:
        self._path = path
        self._name = name
        self._files = _Files(path / "blobs/sha256")
        self._top: dict[str, object] | None = None

    def has_blob(self, blob: Descriptor) -> bool:
        """Look for a sound file."""
        return self._files.has(blob)

    def put_blob(self, blob: Descriptor, chunks: Chunks) -> None:
        """Write the file."""
        self._files.put(blob, chunks)

    def put_manifest(self, raw: bytes, media_type: str, *, top: bool) -> None:
        """Write the file; the index is written at the end."""
        self._files.put(Descriptor(media_type, digest_of(raw), len(raw)), lambda: iter([raw]))
        if top:
            self._top = _entry(raw, media_type, self._name)

    def finish(self) -> None:
        """Name the image in ``index.json``, by a rename."""
        fsync_dir(self._files.directory)
        index: dict[str, object] = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}
        path = self._path / "index.json"
        if path.exists():
            index = decode_object(path.read_bytes(), limit=MANIFEST_LIMIT, what=str(path))
        present = index.get("manifests")
        if not isinstance(present, list) or self._top is None:
            raise InvalidArgument(f"{path}: not the index of a layout")
        index["manifests"] = [item for item in present if not self._replaces(item)] + [self._top]
        write_file(self._path / "oci-layout", _LAYOUT, mode=0o644)
        write_file(path, encode(index), mode=0o644)

    def _replaces(self, item: object) -> bool:
        assert self._top is not None  # noqa: S101 - finish looked
        if not isinstance(item, dict):
            return False
        notes = item.get("annotations")
        name = notes.get("org.opencontainers.image.ref.name", "") if isinstance(notes, dict) else ""
        return bool(name == self._name if self._name else not name and item.get("digest") == self._top["digest"])


class DirectoryDestination:
    """A directory as skopeo writes it: one image or index, blobs named by their digits; ``manifest.json`` comes last."""

    def __init__(self, path: Path) -> None:
        if path.exists() and any(path.iterdir()) and not (path / "version").exists():
            raise AlreadyExists(f"{path} holds other files; name an empty directory")
        self._path = path
        self._files = _Files(path)
        # First, so that what a broken copy left is known for what it is by the next one.
        write_file(path / "version", _VERSION, mode=0o644)

    def has_blob(self, blob: Descriptor) -> bool:
        """Look for a sound file."""
        return self._files.has(blob)

    def put_blob(self, blob: Descriptor, chunks: Chunks) -> None:
        """Write the file."""
        self._files.put(blob, chunks)

    def put_manifest(self, raw: bytes, media_type: str, *, top: bool) -> None:  # noqa: ARG002 - it says so itself
        """Write the document beside the blobs."""
        name = "manifest.json" if top else f"{hex_of(digest_of(raw))}.manifest.json"
        write_file(self._path / name, raw, mode=0o644)

    def finish(self) -> None:
        """Do nothing: the named document came last."""


class _TarFile:
    """A tar that appears under its name when it is complete."""

    def __init__(self, path: Path) -> None:
        if path.is_dir():
            raise InvalidArgument(f"{path} is a directory; name a file")
        self._path = path
        self._draft = path.with_name(f".{path.name}.{os.getpid()}")
        fd = os.open(self._draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        self.stream: BinaryIO = open(fd, "wb", buffering=1 << 18)  # noqa: SIM115 - closed in the two ways to end

    def file(self, name: str, content: bytes) -> None:
        entry = Entry(name.encode(), Kind.REGULAR, size=len(content))
        self.stream.write(format_header(entry) + content + bytes(-len(content) % BLOCK))

    def blob(self, name: str, blob: Descriptor, chunks: Chunks) -> None:
        self.stream.write(format_header(Entry(name.encode(), Kind.REGULAR, size=blob.size)))
        _write_checked(blob, chunks, self.stream.write)
        self.stream.write(bytes(-blob.size % BLOCK))

    def directories(self, *names: bytes) -> None:
        self.stream.writelines(format_header(Entry(name, Kind.DIRECTORY, mode=0o755)) for name in names)

    def finish(self) -> None:
        self.stream.write(bytes(2 * BLOCK))
        self.stream.flush()
        os.fsync(self.stream.fileno())
        self.stream.close()
        self._draft.replace(self._path)
        fsync_dir(self._path.parent)

    def discard(self) -> None:
        with contextlib.suppress(OSError):
            self.stream.close()
        self._draft.unlink(missing_ok=True)


class LayoutArchiveDestination:
    """An OCI layout as one tar."""

    def __init__(self, path: Path, name: str) -> None:
        self._tar = _TarFile(path)
        self._name = name
        self._guard = threading.Lock()
        self._written: set[Digest] = set()
        self._top: dict[str, object] | None = None
        self._tar.directories(b"blobs/", b"blobs/sha256/")

    def has_blob(self, blob: Descriptor) -> bool:
        """Tell whether this copy wrote it."""
        with self._guard:
            return blob.digest in self._written

    def put_blob(self, blob: Descriptor, chunks: Chunks) -> None:
        """Write the member, one at a time."""
        with self._guard:
            if blob.digest not in self._written:
                self._tar.blob(f"blobs/sha256/{hex_of(blob.digest)}", blob, chunks)
                self._written.add(blob.digest)

    def put_manifest(self, raw: bytes, media_type: str, *, top: bool) -> None:
        """Write the member."""
        self.put_blob(Descriptor(media_type, digest_of(raw), len(raw)), lambda: iter([raw]))
        if top:
            self._top = _entry(raw, media_type, self._name)

    def finish(self) -> None:
        """Write the index and let the file appear."""
        self._tar.file("index.json", encode({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [self._top]}))
        self._tar.file("oci-layout", _LAYOUT)
        self._tar.finish()

    def discard(self) -> None:
        """Take the draft away."""
        self._tar.discard()


class DockerArchiveDestination:
    """An archive as ``docker save`` wrote it for years: plain layers, and ``manifest.json``."""

    def __init__(self, path: Path, name: str) -> None:
        self._name = parse_tagged(name).familiar() if name else ""
        self._place = path.parent
        self._tar = _TarFile(path)

    def put_image(self, config: bytes, layers: list[tuple[Descriptor, Callable[[], contextlib.AbstractContextManager[BinaryIO]]]]) -> None:  # fmt: skip
        """Write one image, its layers unpacked and checked against the config."""
        names: list[str] = []
        diff_ids = decode_image_config(config).diff_ids
        if len(diff_ids) != len(layers):
            raise InvalidArgument(
                f"invalid manifest, layers length mismatch: expected {len(diff_ids)}, got {len(layers)}"
            )
        for (_, open_layer), diff_id in zip(layers, diff_ids, strict=True):
            name = f"{hex_of(diff_id)}.tar"
            if name not in names:
                plain = Packed(self._place, Compression.NONE, _plain(open_layer))
                try:
                    if plain.digest != diff_id:
                        raise DigestMismatch("layer", diff_id, plain.digest)
                    self._tar.blob(name, Descriptor("", plain.digest, plain.size), plain.chunks)
                finally:
                    plain.close()
            names.append(name)
        self._tar.file(f"{hex_of(digest_of(config))}.json", config)
        listed = [
            {
                "Config": f"{hex_of(digest_of(config))}.json",
                "RepoTags": [self._name] if self._name else None,
                "Layers": names,
            }
        ]
        self._tar.file("manifest.json", encode(listed, newline=True))

    def finish(self) -> None:
        """Let the file appear."""
        self._tar.finish()

    def discard(self) -> None:
        """Take the draft away."""
        self._tar.discard()


def _plain(open_layer: Callable[[], contextlib.AbstractContextManager[BinaryIO]]) -> Callable[[Sink], None]:
    def write(sink: Sink) -> None:
        with open_layer() as packed, open_decompressed(packed) as stream:
            while piece := stream.read(1 << 20):
                sink(piece)

    return write

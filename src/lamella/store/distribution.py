"""What is known about blobs in registries: ``distribution/{diffid-by-digest,v2metadata-by-diffid}``.

All of it is a cache: missing entries are fine, and a wrong ``diffid-by-digest`` could only make a pull fail, because
layers are verified whatever is written here.  Entries are written without a sync.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from lamella.errors import DataLoss, InvalidArgument
from lamella.fs.atomic import write_file
from lamella.model.digest import DiffID, Digest, hex_of, parse_digest
from lamella.model.documents import decode_document
from lamella.model.gojson import encode
from lamella.store.dataroot import DataRoot
from lamella.store.smallfiles import find_small, is_directory

_MOST = 50
_LIMIT = 256 << 10


class BlobSource(NamedTuple):
    """A registry repository in which a layer's blob was seen."""

    digest: Digest
    repository: str
    hmac: str = ""


class Distribution:
    """The directory ``distribution`` of one data-root."""

    def __init__(self, root: DataRoot) -> None:
        self._root = root
        self._by_digest = root.distribution_dir / "diffid-by-digest" / "sha256"
        self._by_diff_id = root.distribution_dir / "v2metadata-by-diffid" / "sha256"

    def find_diff_id(self, digest: Digest) -> DiffID | None:
        """Return the diff ID that a blob had when it was last unpacked."""
        try:
            raw = find_small(self._by_digest / hex_of(digest))
            return None if raw is None else DiffID(parse_digest(raw.decode("ascii", "replace").strip()))
        except (DataLoss, InvalidArgument):
            return None

    def sources(self, diff_id: DiffID) -> list[BlobSource]:
        """Return where a layer's blob was seen, oldest first."""
        try:
            raw = find_small(self._by_diff_id / hex_of(diff_id), _LIMIT)
            document = [] if raw is None else decode_document(raw, limit=_LIMIT, what="v2metadata-by-diffid")
            found = []
            for entry in document if isinstance(document, list) else []:
                if isinstance(entry, dict) and isinstance(repository := entry.get("SourceRepository"), str):
                    hmac = entry.get("HMAC")
                    found.append(
                        BlobSource(
                            parse_digest(str(entry.get("Digest"))), repository, hmac if isinstance(hmac, str) else ""
                        )
                    )
        except (DataLoss, InvalidArgument):
            return []
        return found

    def put(self, diff_id: DiffID, digest: Digest, source: BlobSource | None = None) -> None:
        """Remember which diff ID a blob has and, with ``source``, where it was found."""
        with self._root.writing():
            self._write(self._by_digest, hex_of(digest), diff_id.encode())
            if source is not None:
                known = [entry for entry in self.sources(diff_id) if entry != source]
                listed = [
                    {"Digest": entry.digest, "SourceRepository": entry.repository, "HMAC": entry.hmac}
                    for entry in [*known, source][-_MOST:]
                ]
                self._write(self._by_diff_id, hex_of(diff_id), encode(listed))

    @staticmethod
    def _write(directory: Path, name: str, content: bytes) -> None:
        for path in (directory.parent.parent, directory.parent, directory):
            if not is_directory(path):
                os.mkdir(path, 0o700 if path.name == "distribution" else 0o755)
        write_file(directory / name, content, mode=0o644, sync=False)

"""What a layer's directory should hold, read from the packed tar that it was unpacked from.

For stores that keep the tars themselves and nothing like a tar-split, as containerd's does.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from lamella.changeset.compression import iter_decompressed
from lamella.changeset.entry import Kind
from lamella.changeset.tario import ByteSource, TarReader
from lamella.errors import DataLoss, InvalidArgument
from lamella.fs.rooted import Root
from lamella.insight.expectation import REGULAR, Expectation
from lamella.model.digest import PREFIX, DiffID


class PackedLayer:
    """One packed tar, read to its end: what it makes, and the digest of each file's bytes."""

    def __init__(self, blob: Path, diff_id: DiffID | None, *, deep: bool) -> None:
        """Read *blob*; only *deep* takes the digests of files.

        Raises DataLoss if it does not unpack to *diff_id*, FileNotFoundError.
        """
        self.expectation = Expectation()
        self._digests: dict[str, bytes] = {}
        whole = hashlib.sha256()
        fd = os.open(blob, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(fd, "rb", buffering=0) as packed:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise DataLoss(f"{blob} is no file")
            try:
                pieces = iter_decompressed(packed)

                def pull() -> bytes:
                    piece = next(pieces, b"")
                    whole.update(piece)
                    return piece

                self._read(TarReader(ByteSource(pull)), deep=deep)
                while pull():
                    pass
            except InvalidArgument as problem:
                raise DataLoss(f"{blob} is damaged: {problem}") from problem
        if diff_id is not None and f"{PREFIX}{whole.hexdigest()}" != diff_id:
            raise DataLoss(f"{blob} unpacks to {PREFIX}{whole.hexdigest()}, not to what the image names")

    def _read(self, reader: TarReader, *, deep: bool) -> None:
        try:
            while (entry := reader.next_entry()) is not None:
                self.expectation.add(entry)
                if deep and entry.kind is Kind.REGULAR and entry.sparse is None:
                    content = hashlib.sha256()
                    for piece in reader.pieces():
                        content.update(piece)
                    self._digests[os.fsdecode(entry.path)] = content.digest()
        except InvalidArgument:
            self.expectation.understood = False  # what other engines take and lamella does not

    def damaged_files(self, files: Path) -> Iterator[str]:
        """Yield the names of files below *files* that have other bytes than the tar."""
        with Root(files) as root:
            for name, digest in self._digests.items():
                wanted = self.expectation.names.get(name)
                if wanted is not None and wanted[0] == REGULAR and _hash(root, name) != digest:
                    yield name


def _hash(root: Root, name: str) -> bytes:
    fd = root.open(os.fsencode(name), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(fd, "rb", buffering=0) as file:
        return hashlib.file_digest(file, "sha256").digest()

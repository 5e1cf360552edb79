"""Tar archives into directories, as ADD unpacks them and a context on standard input arrives.

Unlike a layer, such an archive has no whiteouts: a member called ``.wh.x`` is a file of that name.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from typing import BinaryIO

from lamella.build.writer import Metadata, Piece, TreeWriter
from lamella.changeset.compression import iter_decompressed
from lamella.changeset.entry import Entry, Kind, entry_path
from lamella.changeset.limits import within_space
from lamella.changeset.tarheader import BLOCK, Header
from lamella.changeset.tario import TarReader, open_tar
from lamella.changeset.xattrs import portable, travels
from lamella.errors import DataLoss, InvalidArgument, Unsupported
from lamella.fs.rooted import Root


def is_archive(file: BinaryIO) -> bool:
    """Tell whether a file begins as a tar archive does, compressed or not; the file is left at its start."""
    start = b""
    try:
        chunks = iter_decompressed(file)
        while len(start) < BLOCK and (chunk := next(chunks, b"")):
            start += chunk
        Header(start[:BLOCK].ljust(BLOCK, b"\0"))
    except (InvalidArgument, DataLoss, Unsupported):
        return False
    else:
        return True
    finally:
        file.seek(0)


def unpack(file: BinaryIO, directory: Root) -> None:
    """Unpack an archive below `directory`; raises InvalidArgument or DataLoss for a bad one."""
    chunks = within_space(iter_decompressed(file), directory.fd)
    reader = open_tar(lambda: next(chunks, b""))
    writer = TreeWriter(directory)
    try:
        while (entry := reader.next_entry()) is not None:
            _unpack_entry(entry, reader, writer)
        writer.finish()
    finally:
        writer.close()


def _unpack_entry(entry: Entry, reader: TarReader, writer: TreeWriter) -> None:
    path = entry_path(entry.name)
    if entry.kind is Kind.GLOBAL or not path:
        return
    attributes = [
        (os.fsdecode(key), portable(key, value)) for key, value in (entry.xattrs or {}).items() if travels(key)
    ]
    metadata = Metadata(entry.mode, entry.uid, entry.gid, max(entry.mtime_ns, 0), attributes)
    if entry.kind is Kind.DIRECTORY:
        writer.directory(path, metadata)
    elif entry.kind is Kind.REGULAR:
        writer.file(path, metadata, _data(entry, reader), entry.real_size)
    elif entry.kind is Kind.SYMLINK:
        writer.symlink(path, entry.link, metadata)
    elif entry.kind is Kind.HARD_LINK:
        writer.hard_link(path, entry_path(entry.link))
    elif entry.kind is Kind.FIFO:
        writer.node(path, stat.S_IFIFO, 0, metadata)
    else:
        kind = stat.S_IFCHR if entry.kind is Kind.CHARACTER else stat.S_IFBLK
        writer.node(path, kind, os.makedev(entry.major, entry.minor), metadata)


def _data(entry: Entry, reader: TarReader) -> Iterator[Piece]:
    """Give a member's data and holes."""
    if entry.sparse is None:
        yield from reader.pieces()
        return
    pieces = reader.pieces()
    piece: memoryview = memoryview(b"")
    position = 0
    for offset, length in entry.sparse:
        yield offset - position
        left = length
        while left:
            if not piece:
                piece = next(pieces)
            taken, piece = piece[:left], piece[left:]
            left -= len(taken)
            yield taken
        position = offset + length
    yield entry.real_size - position

"""One member of a tar archive as a value, and the rule that turns its name into a path.

The reader makes entries, the writer and the applier take them; nothing here touches a disk.
"""

from __future__ import annotations

from enum import IntEnum

from lamella.errors import InvalidArgument


class Kind(IntEnum):
    """What a member becomes."""

    REGULAR = 0
    HARD_LINK = 1
    SYMLINK = 2
    CHARACTER = 3
    BLOCK = 4
    DIRECTORY = 5
    FIFO = 6
    GLOBAL = 7
    """A PAX global header: recorded, otherwise without effect."""


class Entry:
    """A tar member without its data.

    *name* is the exact name from the archive, *path* the same cleaned and relative (``b""`` is the root).
    *size* is how many bytes of data follow in the archive; for a sparse member *sparse* lists the regions
    (offset, length) they fill and *real_size* is the size of the file.
    """

    __slots__ = (
        "atime_ns",
        "gid",
        "kind",
        "link",
        "major",
        "minor",
        "mode",
        "mtime_ns",
        "name",
        "path",
        "real_size",
        "size",
        "sparse",
        "uid",
        "xattrs",
    )

    def __init__(
        self,
        name: bytes,
        kind: Kind,
        *,
        path: bytes | None = None,
        size: int = 0,
        mode: int = 0o644,
        uid: int = 0,
        gid: int = 0,
        mtime_ns: int = 0,
        atime_ns: int | None = None,
        link: bytes = b"",
        major: int = 0,
        minor: int = 0,
        xattrs: dict[bytes, bytes] | None = None,
        sparse: list[tuple[int, int]] | None = None,
        real_size: int | None = None,
    ) -> None:
        self.name = name
        self.path = entry_path(name) if path is None else path
        self.kind = kind
        self.size = size
        self.mode = mode
        self.uid = uid
        self.gid = gid
        self.mtime_ns = mtime_ns
        self.atime_ns = atime_ns
        self.link = link
        self.major = major
        self.minor = minor
        self.xattrs = xattrs
        self.sparse = sparse
        self.real_size = size if real_size is None else real_size

    def __repr__(self) -> str:  # type: ignore[explicit-override]  # override() came with Python 3.12
        return f"Entry({self.name!r}, {self.kind.name}, size={self.size}, mode={self.mode:#o})"


def entry_path(name: bytes) -> bytes:
    """Clean a member's name into a path relative to the layer's root; ``b""`` is the root itself.

    Leading ``/`` and ``.`` are dropped and ``a/../b`` is ``b``, as Docker reads them.  A name that holds NUL or
    leaves the root is refused with InvalidArgument.
    """
    if name.startswith(b"./"):
        name = name[2:]
    if b"/." not in name and b"//" not in name and b"\0" not in name and not name.startswith((b"/", b".")):
        return name.removesuffix(b"/")
    if b"\0" in name:
        raise InvalidArgument(f"member name {show(name)} holds a NUL byte")
    parts: list[bytes] = []
    for part in name.split(b"/"):
        if part in {b"", b"."}:
            continue
        if part == b"..":
            if not parts:
                raise InvalidArgument(f"member name {show(name)} leaves the root of the layer")
            parts.pop()
        else:
            parts.append(part)
    return b"/".join(parts)


def show(name: bytes) -> str:
    """Spell a name from an archive for an error message: quoted, on one line, not too long."""
    text = repr(name[:200].decode("utf-8", "backslashreplace"))
    return text if len(name) <= 200 else text + "…"

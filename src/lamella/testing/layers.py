"""Layers for the contract of the drivers: a base tree, changes of every kind to it, and tars by an independent hand."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Callable
from pathlib import Path

from lamella.drivers.base import Driver
from lamella.model.ids import CacheID, new_cache_id

MOMENT = 1_700_000_000


def write(path: Path, text: str = "", mode: int = 0o644) -> None:
    """Make a file, and the directories above it, with a time that no clock decides."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    os.utime(path, (MOMENT, MOMENT))


def layer_tar(driver: Driver, layer: CacheID, parent: CacheID | None) -> bytes:
    """Return the layer tar of *layer*."""
    sink = io.BytesIO()
    driver.diff(layer, parent, sink)
    return sink.getvalue()


def make_layer(driver: Driver, parent: CacheID | None, change: Callable[[Path], None]) -> CacheID:
    """Make an image layer of what *change* does to a mounted tree."""
    scratch, layer = new_cache_id(), new_cache_id()
    driver.create_read_write(scratch, parent)
    with driver.mounted(scratch) as root:
        change(root)
    driver.create(layer, parent)
    driver.apply(layer, parent, io.BytesIO(layer_tar(driver, scratch, parent)), tar_split=io.BytesIO())
    driver.remove(scratch)
    return layer


def base(root: Path) -> None:
    """Fill the lowest layer of most tests."""
    write(root / "etc" / "hosts", "hosts")
    write(root / "etc" / "passwd", "root")
    write(root / "usr" / "bin" / "tool", "#!/bin/sh\n", 0o4755)
    write(root / "usr" / "share" / "a" / "b" / "deep", "deep")
    os.symlink("/etc/hosts", root / "link")
    os.utime(root / "link", (MOMENT, MOMENT), follow_symlinks=False)


def change_everything(root: Path) -> None:
    """Change a tree made by :func:`base` in every way that a layer can record, with times in whole seconds."""
    write(root / "etc" / "hosts", "changed")
    (root / "etc" / "passwd").unlink()
    (root / "usr" / "share" / "a" / "b" / "deep").unlink()
    (root / "usr" / "share" / "a" / "b").rmdir()
    (root / "usr" / "share" / "a" / "b").mkdir()
    write(root / "usr" / "share" / "a" / "b" / "fresh", "fresh")
    (root / "link").unlink()
    write(root / "link" / "now-a-directory")
    (root / "usr" / "bin" / "tool").unlink()
    (root / "usr" / "bin").rmdir()
    write(root / "new" / "f", "x" * 100_000)
    os.link(root / "new" / "f", root / "new" / "hard")
    os.symlink("../../../../etc/passwd", root / "new" / "out")
    os.mkfifo(root / "new" / "fifo", 0o640)
    os.mknod(root / "new" / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.chown(root / "new" / "f", 1234, 3_000_000_000)
    os.chmod(root / "new" / "f", 0o6711)
    os.setxattr(root / "new" / "f", "user.note", b"\x00\xff")
    os.mkdir(os.fsencode(root / "new") + b"/\xff name", 0o1777)
    write(root / "new" / ("n" * 250) / ("m" * 250), "long")
    for name in ("out", "fifo", "null"):
        os.utime(root / "new" / name, (MOMENT, MOMENT), follow_symlinks=False)


def tar_of(members: list[tuple[str, bytes | None]]) -> bytes:
    """Make a tar of files, and directories where the content is None, with tarfile as an independent hand."""
    import tarfile  # noqa: TID251 - a contract is not judged by the code it is about

    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.mtime = MOMENT
            if content is None:
                member.type, member.mode = tarfile.DIRTYPE, 0o755
            else:
                member.size = len(content)
            archive.addfile(member, io.BytesIO(content or b""))
    return sink.getvalue()


def members_of(tar: bytes) -> list[tuple[object, ...]]:
    """Describe the members of *tar* but for their times: a whiteout's is that of its making."""
    import tarfile  # noqa: TID251 - a contract is not judged by the code it is about

    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        return [(member.name, member.type, member.mode, member.size, member.linkname) for member in archive]

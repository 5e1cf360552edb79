"""Mounts as values, and the few calls that perform and undo them.

Knows nothing of layers: a driver decides what is mounted where and who counts the users.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from lamella.linux import libc

# mount(2) copies one page of data, its last byte being the terminator.
DATA_LIMIT = 4095
# Bytes that mean something in overlay's option string; a base directory holding one is never spelled out there.
_SPECIAL = frozenset(b",:\\")


class Mount(NamedTuple):
    """What mount(2) will be told; a driver returns these, it does not perform them."""

    fstype: str
    source: str
    options: tuple[str, ...] = ()
    flags: int = 0

    def option_data(self) -> bytes:
        """Join the options as mount(2) takes them."""
        return os.fsencode(",".join(self.options))


def perform(mount: Mount, target: Path, *, base: Path | None = None) -> None:
    """Carry out *mount* at *target*.

    With *base*, option text that would not fit a page, or that would have to spell a comma or colon of *base*, is
    given relative to *base* instead, by a thread whose working directory that is.  Still too long: ``OSError`` E2BIG.
    """
    data = mount.option_data()
    raw_target = os.fsencode(target)
    if base is not None and (len(data) > DATA_LIMIT or not _SPECIAL.isdisjoint(os.fsencode(base))):
        data = data.replace(os.fsencode(base) + b"/", b"")
        _check_length(data, target)
        _mount_from(base, mount, raw_target, data)
    else:
        _check_length(data, target)
        libc.mount(mount.source, raw_target, mount.fstype, mount.flags, data)


def _check_length(data: bytes, target: Path) -> None:
    if len(data) > DATA_LIMIT:
        import errno

        raise OSError(
            errno.E2BIG, f"mount options are {len(data)} bytes long, the kernel takes {DATA_LIMIT}", str(target)
        )


def _mount_from(base: Path, mount: Mount, target: bytes, data: bytes) -> None:
    """Mount with *base* as the working directory of one short-lived thread; the process keeps its own."""
    import threading

    target = os.path.abspath(target)
    failure: list[BaseException] = []

    def work() -> None:
        try:
            libc.unshare(libc.CLONE_FS)
            os.chdir(base)
            libc.mount(mount.source, target, mount.fstype, mount.flags, data)
        except BaseException as problem:  # noqa: BLE001 - carried to the calling thread and raised there
            failure.append(problem)

    thread = threading.Thread(target=work, name="lamella-mount")
    thread.start()
    thread.join()
    if failure:
        raise failure[0]


def bind(source: Path, target: Path, *, readonly: bool = False) -> None:
    """Show *source* at *target* as well; *readonly* leaves no moment in which it could be written there."""
    raw_target = os.fsencode(target)
    libc.mount(os.fsencode(source), raw_target, "none", libc.MS_BIND)
    if readonly:
        try:
            libc.mount("none", raw_target, "none", libc.MS_BIND | libc.MS_REMOUNT | libc.MS_RDONLY)
        except BaseException:
            unmount(target, lazy=True)
            raise


def unmount(target: Path, *, lazy: bool = False) -> None:
    """Detach what is mounted at *target*; *lazy* hides it now and frees it when its last user is gone."""
    libc.umount2(os.fsencode(target), libc.UMOUNT_NOFOLLOW | (libc.MNT_DETACH if lazy else 0))


@contextmanager
def mounted(mount: Mount, target: Path, *, base: Path | None = None) -> Generator[Path]:
    """Hold *mount* at *target* for the length of the block."""
    perform(mount, target, base=base)
    try:
        yield target
    finally:
        unmount(target)

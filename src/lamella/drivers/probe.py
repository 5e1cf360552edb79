"""What the kernel and a file system can do for overlay, found out by doing it.

Everything happens in a directory made for it below the data-root and removed again; what a kill
leaves of it is for :func:`sweep_trials`.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Generator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from lamella.drivers.base import TRIAL
from lamella.errors import Unsupported
from lamella.fs.tree import remove_tree
from lamella.linux.mount import Mount, mounted, unmount

_ADVICE = "use --storage-driver vfs, or put the data-root on ext4, xfs or btrfs"
_PARAMETERS = Path("/sys/module/overlay/parameters")


def check_overlay(root: Path) -> None:
    """Raise :class:`Unsupported` with one line if overlay cannot be used below *root*.

    Mounts a small overlay for writing, removes a name through it, and looks for the whiteout.
    """
    where = f"overlay2 cannot be used on {root} ({filesystem_type(root)})"
    try:
        with _workshop(root) as shop:
            (shop / "lower" / "name").touch()
            if not _lists_types(shop / "lower"):
                raise Unsupported(f"{where}: the file system does not list file types (d_type); {_ADVICE}")
            # Opaque directories are marked by an attribute that some file systems refuse though overlay mounts there.
            os.setxattr(shop / "upper", "trusted.overlay.opaque", b"y")
            os.removexattr(shop / "upper", "trusted.overlay.opaque")
            with mounted(_overlay(shop), shop / "merged", base=shop):
                (shop / "merged" / "name").unlink()
            if not stat.S_ISCHR((shop / "upper" / "name").lstat().st_mode):
                raise Unsupported(f"{where}: removed names leave no whiteout; {_ADVICE}")
    except OSError as problem:
        raise Unsupported(f"{where}: {_reason(problem)}; {_ADVICE}") from problem


def _reason(problem: OSError) -> str:
    """Say what a failure of the trial means."""
    if problem.errno == errno.EPERM and not _may_mount():
        return "mounting needs root (CAP_SYS_ADMIN)"
    if problem.errno == errno.ENODEV:
        return "the kernel has no overlay file system (try: modprobe overlay)"
    if problem.errno == errno.EROFS:
        return "it is read-only"
    if problem.errno in (errno.EINVAL, errno.EOPNOTSUPP):
        return "the file system cannot hold the upper directory of an overlay"
    return problem.strerror or str(problem)


def _may_mount() -> bool:
    """Tell whether this process has CAP_SYS_ADMIN."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> 21 & 1)
    return False


def filesystem_type(path: Path) -> str:
    """Name the type of the file system *path* lies on."""
    from lamella.linux.mountinfo import read_mountinfo

    place = os.path.realpath(path)
    while not os.path.lexists(place):
        place = os.path.dirname(place)
    best, fstype = "", "unknown file system"
    for entry in read_mountinfo():
        inside = entry.target in ("/", place) or place.startswith(entry.target + "/")
        # Later entries cover earlier ones at the same place.
        if inside and len(entry.target) >= len(best):
            best, fstype = entry.target, entry.fstype
    return fstype


def has_native_diff(root: Path) -> bool:
    """Tell whether upper directories made here can be read by plain walking.

    They can unless the kernel records renames of directories or copies metadata alone by default.
    """
    try:
        settings = [(_PARAMETERS / name).read_text().strip() for name in ("redirect_dir", "metacopy")]
    except OSError:
        return _directories_stay(root)
    return settings == ["N", "N"]


def _directories_stay(root: Path) -> bool:
    """Try to rename a directory of the lower layer, which must be refused with EXDEV."""
    try:
        with _workshop(root) as shop:
            (shop / "lower" / "old").mkdir()
            with mounted(_overlay(shop), shop / "merged", base=shop):
                try:
                    (shop / "merged" / "old").rename(shop / "merged" / "new")
                except OSError as problem:
                    return problem.errno == errno.EXDEV
    except OSError:
        pass
    return False


def index_option() -> tuple[str, ...]:
    """Turn off the inode index where the kernel has one: an upper must outlive its mount's lower set."""
    return ("index=off",) if (_PARAMETERS / "index").exists() else ()


def _overlay(shop: Path) -> Mount:
    # Else unmounting would sync the whole file system.
    options = (f"lowerdir={shop}/lower", f"upperdir={shop}/upper", f"workdir={shop}/work", "volatile")
    return Mount("overlay", "overlay", (*index_option(), *options))


def sweep_trials(root: Path) -> None:
    """Remove what a killed process left of a trial, its mount included.  Costs one listing of *root*."""
    for name in os.listdir(root):
        if not name.startswith(TRIAL):
            continue
        shop = root / name
        with suppress(OSError), _held(shop):
            with suppress(OSError):
                unmount(shop / "merged")
            remove_tree(shop)


@contextmanager
def _workshop(root: Path) -> Generator[Path]:
    """Hold a directory below *root* with the four directories of an overlay, locked as long as its maker lives."""
    import tempfile

    with ExitStack() as scope:
        while True:
            shop = Path(tempfile.mkdtemp(prefix=TRIAL, dir=root))
            # Whoever sweeps may have been quicker than the lock.
            with suppress(FileNotFoundError, BlockingIOError):
                scope.enter_context(_held(shop))
                break
        try:
            for name in ("lower", "upper", "work", "merged"):
                (shop / name).mkdir()
            yield shop
        finally:
            with suppress(OSError):
                remove_tree(shop)


@contextmanager
def _held(shop: Path) -> Generator[None]:
    """Hold the lock of a trial's directory; BlockingIOError if another has it, FileNotFoundError if it is gone."""
    fd = os.open(shop, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.stat(shop, follow_symlinks=False)
        yield
    finally:
        os.close(fd)


def _lists_types(directory: Path) -> bool:
    """Tell whether readdir gives the type of the one file in *directory*.

    A DirEntry asks the file system again where the type is missing, so the file is removed in between: an entry whose
    type was listed still knows it.
    """
    with os.scandir(directory) as entries:
        entry = next(entries)
    os.unlink(entry.path)
    known = entry.is_file(follow_symlinks=False)
    Path(entry.path).touch()
    return known

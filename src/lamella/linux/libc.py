"""System calls Python 3.11 does not wrap, called through ctypes.

Every function raises ``OSError(errno, strerror, filename)`` as :mod:`os` does and releases the interpreter lock while
the kernel works.  Paths are bytes or str in the file system's encoding; a NUL byte in one is a ``ValueError``.  What
the calls are used for is the business of the other modules here.
"""

from __future__ import annotations

import ctypes
import os

MS_RDONLY = 0x1
MS_REMOUNT = 0x20
MS_BIND = 0x1000
MS_REC = 0x4000
MS_SLAVE = 0x80000

MNT_DETACH = 0x2
UMOUNT_NOFOLLOW = 0x8

CLONE_FS = 0x200
CLONE_NEWNS = 0x20000

RENAME_EXCHANGE = 0x2
AT_FDCWD = -100

RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_IN_ROOT = 0x10


# Numbers shared by every architecture since the tables were unified (Linux 5.0).
_SYS_OPENAT2 = 437

_libc = ctypes.CDLL(None, use_errno=True)
_int, _long, _ulong, _text = ctypes.c_int, ctypes.c_long, ctypes.c_ulong, ctypes.c_char_p


class OpenHow(ctypes.Structure):
    """``struct open_how`` of openat2(2)."""

    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


# A function object of its own for openat2: argtypes are set per object, and syscall(2) has no single signature.
_syscall_openat2 = ctypes.CDLL(None, use_errno=True).syscall
_syscall_openat2.restype = _long
_syscall_openat2.argtypes = (_long, _int, _text, ctypes.POINTER(OpenHow), ctypes.c_size_t)

for _function, _arguments in (
    (_libc.mount, (_text, _text, _text, _ulong, _text)),
    (_libc.umount2, (_text, _int)),
    (_libc.unshare, (_int,)),
    (_libc.syncfs, (_int,)),
    (_libc.renameat2, (_int, _text, _int, _text, ctypes.c_uint)),
):
    _function.restype = _int
    _function.argtypes = _arguments


def _bytes(path: str | bytes | os.PathLike[str] | os.PathLike[bytes]) -> bytes:
    """Encode *path*; C would stop at a NUL and name another file, so there must be none."""
    raw = os.fsencode(path)
    if b"\0" in raw:
        raise ValueError("embedded null byte in path")
    return raw


def _failure(filename: str | bytes | None = None) -> OSError:
    """Make the exception for the error the last call left behind."""
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number), filename)


def mount(source: str | bytes, target: str | bytes, fstype: str | bytes, flags: int = 0, data: bytes = b"") -> None:
    """Attach *source* at *target* (mount(2))."""
    raw_target = _bytes(target)
    if _libc.mount(_bytes(source), raw_target, _bytes(fstype), flags, data or None) != 0:
        raise _failure(os.fsdecode(raw_target))


def umount2(target: str | bytes, flags: int = 0) -> None:
    """Detach the topmost mount at *target* (umount2(2))."""
    raw_target = _bytes(target)
    if _libc.umount2(raw_target, flags) != 0:
        raise _failure(os.fsdecode(raw_target))


def unshare(flags: int) -> None:
    """Give the calling thread namespaces (or file system attributes) of its own (unshare(2))."""
    if _libc.unshare(flags) != 0:
        raise _failure()


def openat2(dir_fd: int, path: bytes, how: OpenHow) -> int:
    """Open *path* below *dir_fd* as *how* says and return the descriptor (openat2(2), Linux 5.6)."""
    if b"\0" in path:
        raise ValueError("embedded null byte in path")
    fd = _syscall_openat2(_SYS_OPENAT2, dir_fd, path, how, 24)
    if fd < 0:
        raise _failure(path)
    return int(fd)


def exchange(one: str | bytes, other: str | bytes) -> None:
    """Let two paths of one file system change places in one step (renameat2(2), RENAME_EXCHANGE)."""
    raw = _bytes(other)
    if _libc.renameat2(AT_FDCWD, _bytes(one), AT_FDCWD, raw, RENAME_EXCHANGE) != 0:
        raise _failure(os.fsdecode(raw))


def syncfs(fd: int) -> None:
    """Write out everything of the file system *fd* lies on and wait for it (syncfs(2))."""
    if _libc.syncfs(fd) != 0:
        raise _failure()

"""Which package a file belongs to, as the image's own package databases say: dpkg, apk, rpm, Python's dist-info.

The databases are read through the merged view, so it is the image as it would run that is asked, and nothing in it is
run.  They are hostile like all else: sizes are bounded, what cannot be parsed is no package.  Of rpm the SQLite
database is read (Fedora 33, RHEL 9, openSUSE and later); the older Berkeley and ndb ones are not, and that is said.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

import msgspec

from lamella.errors import InvalidArgument, LamellaError
from lamella.insight.stack import Stack

_LIST_LIMIT: Final = 64 << 20
_RPM_LIMIT: Final = 512 << 20
_DPKG: Final = b"var/lib/dpkg"
_APK: Final = (b"lib/apk/db/installed", b"usr/lib/apk/db/installed")
_RPM: Final = (b"var/lib/rpm", b"usr/lib/sysimage/rpm", b"usr/share/rpm")
_MERGED: Final = (b"bin", b"sbin", b"lib", b"lib32", b"lib64", b"libx32")
_DIST_INFO: Final = b".dist-info"
_PYTHON_PLACES: Final = re.compile(rb"(?:.*/)?(?:site|dist)-packages")


class Package(msgspec.Struct, frozen=True):
    """One installed package."""

    manager: str
    """``dpkg``, ``apk``, ``rpm``, ``python``."""
    name: str
    version: str


class Packages:
    """The package databases of one merged view, each read when it is first needed."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self.problems: list[str] = []
        self._apk: dict[bytes, Package] | None = None
        self._lists: dict[bytes, bytes] | None = None
        self._status: bytes | None = None
        self._diversions: list[tuple[bytes, bytes, bytes]] | None = None
        self._rpm_done = False
        self._rpm: object = None

    def find(self, path: bytes, *aliases: bytes) -> Package | None:
        """Return the package that owns *path* (relative to the root, without links), None if none says so.

        *aliases* are other spellings of the same path, such as the one that was asked for.
        """
        names = [path, *(alias for alias in aliases if alias != path)]
        for name in tuple(names):
            # Where /bin is a link to /usr/bin, databases may know a file by either name.
            first, _, rest = name.partition(b"/")
            if first == b"usr" and rest.partition(b"/")[0] in _MERGED:
                names.append(rest)
            elif first in _MERGED:
                names.append(b"usr/" + name)
        for search in (self._find_dpkg, self._find_apk, self._find_rpm):
            for name in names:
                with suppress(OSError, LamellaError):
                    package = search(name)
                    if package is not None:
                        return package
        with suppress(OSError, LamellaError):
            return self._find_python(path)
        return None

    # ------------------------------------------------------------------------------------------------ dpkg

    def _find_dpkg(self, path: bytes) -> Package | None:
        if self._lists is None:
            self._lists = dict(self._read_lists())
        away, here = self._diverted(b"/" + path)
        for name, listing in self._lists.items():
            if b"\n" + (away or b"/" + path) + b"\n" in listing:
                owner = name.partition(b":")[0]
                # Of the name that was made free only the one who had it done has the file, of the other all the others.
                if here is not None and (owner == here) == bool(away):
                    continue
                return Package("dpkg", os.fsdecode(name), self._dpkg_version(owner))
        return None

    def _diverted(self, path: bytes) -> tuple[bytes, bytes | None]:
        """Return the name under which packages list a file that was diverted to *path*, and who had it diverted.

        Of a file that was diverted away from *path* only the latter.
        """
        if self._diversions is None:
            raw = self._stack.read(_DPKG + b"/diversions", _LIST_LIMIT) or b""
            lines = raw.splitlines()
            self._diversions = list(zip(lines[::3], lines[1::3], lines[2::3], strict=False))
        for origin, target, package in self._diversions:
            if path == target:
                return origin, package
            if path == origin:
                return b"", package
        return b"", None

    def _read_lists(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield each package's list of files, every path between newlines with a slash before it."""
        for name in self._stack.names(_DPKG + b"/info"):
            if name.endswith(b".list"):
                with suppress(OSError, InvalidArgument):
                    raw = self._stack.read(_DPKG + b"/info/" + name, _LIST_LIMIT)
                    if raw is not None:
                        yield name.removesuffix(b".list"), b"\n" + raw + b"\n"
        # Images without dpkg itself keep one file a package: its stanza, and its files with their sums.
        for name in self._stack.names(_DPKG + b"/status.d"):
            if name.endswith(b".md5sums"):
                with suppress(OSError, InvalidArgument):
                    raw = self._stack.read(_DPKG + b"/status.d/" + name, _LIST_LIMIT) or b""
                    paths = [line.partition(b"  ")[2] for line in raw.splitlines()]
                    yield name.removesuffix(b".md5sums"), b"".join(b"\n/" + path for path in paths) + b"\n"

    def _dpkg_version(self, package: bytes) -> str:
        if self._status is None:
            self._status = b"\n\n" + (self._stack.read(_DPKG + b"/status", _LIST_LIMIT) or b"")
        start = self._status.find(b"\nPackage: " + package + b"\n")
        text = self._status[start : self._status.find(b"\n\n", start + 1)] if start >= 0 else b""
        if not text:
            text = self._stack.read(_DPKG + b"/status.d/" + package, _LIST_LIMIT) or b""
        return next((_text(line[9:]) for line in text.splitlines() if line.startswith(b"Version: ")), "")

    # ------------------------------------------------------------------------------------------------ apk

    def _find_apk(self, path: bytes) -> Package | None:
        if self._apk is None:
            self._apk = {}
            for place in _APK:
                with suppress(InvalidArgument):
                    self._apk.update(_parse_apk(self._stack.read(place, _LIST_LIMIT) or b""))
        return self._apk.get(path)

    # ------------------------------------------------------------------------------------------------ rpm

    def _find_rpm(self, path: bytes) -> Package | None:
        if not self._rpm_done:
            self._rpm_done = True
            self._rpm = self._open_rpm()
        if self._rpm is None:
            return None
        from lamella.insight.rpmdb import RpmDatabase

        assert isinstance(self._rpm, RpmDatabase)  # noqa: S101 - made two lines above; the module is loaded late
        found = self._rpm.find(path)
        return None if found is None else Package("rpm", *found)

    def _open_rpm(self) -> object:
        for place in _RPM:
            with suppress(InvalidArgument):
                raw = self._stack.read(place + b"/rpmdb.sqlite", _RPM_LIMIT)
                if raw is not None:
                    from lamella.insight.rpmdb import RpmDatabase

                    return RpmDatabase(raw)
            for name in (b"Packages", b"Packages.db"):
                if self._stack.find(place + b"/" + name, follow=True) is not None:
                    self.problems.append(
                        f"/{os.fsdecode(place + b'/' + name)} is an rpm database of a kind that is not read here: "
                        "files have no rpm package"
                    )
        return None

    # ------------------------------------------------------------------------------------------------ Python

    def _find_python(self, path: bytes) -> Package | None:
        for site in self._sites(path):
            wanted = os.path.relpath(b"/" + path, b"/" + site)
            for name in self._stack.names(site):
                if not name.endswith(_DIST_INFO):
                    continue
                with suppress(OSError, InvalidArgument):
                    raw = self._stack.read(site + b"/" + name + b"/RECORD", _LIST_LIMIT) or b""
                    record = b"\n" + raw
                    # A name with a comma or a quotation mark in it is quoted, as in any CSV.
                    if b"\n" + wanted + b"," in record or b'\n"' + wanted.replace(b'"', b'""') + b'",' in record:
                        package, _, version = name.removesuffix(_DIST_INFO).partition(b"-")
                        return Package("python", _text(package), _text(version))
        return None

    def _sites(self, path: bytes) -> Iterator[bytes]:
        """Yield the directories of packages that may have installed *path*."""
        match = _PYTHON_PLACES.match(path)
        if match is not None and path.startswith(match[0] + b"/"):
            yield match[0]
            return
        parts = path.split(b"/")
        if len(parts) < 2 or parts[-2] not in {b"bin", b"sbin"}:
            return
        prefix = b"/".join(parts[:-2])
        library = prefix + b"/lib" if prefix else b"lib"
        for name in self._stack.names(library):
            if name.startswith(b"python"):
                for kind in (b"site-packages", b"dist-packages"):
                    yield library + b"/" + name + b"/" + kind


def _parse_apk(raw: bytes) -> Iterator[tuple[bytes, Package]]:
    name = version = directory = b""
    for line in raw.splitlines():
        if not line:
            name = version = directory = b""
        key, _, value = line.partition(b":")
        if key == b"P":
            name = value
        elif key == b"V":
            version = value
        elif key == b"F":
            directory = value
            yield directory, Package("apk", _text(name), _text(version))
        elif key == b"R":
            yield (directory + b"/" + value if directory else value), Package("apk", _text(name), _text(version))


def _text(raw: bytes) -> str:
    return raw.strip().decode("utf-8", "replace")

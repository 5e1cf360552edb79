"""``why``: from anything a machine's keeper can hold to whom it belongs.

A question is a process ID, ``DEVICE:INODE`` as ``find -printf %D:%i`` and ``stat -c %d:%i`` print it (or ``MAJOR:MINOR:
INODE``, or the ``dev=`` and ``inode=`` of an audit record), a line of a mount table, or a path: below a store's root,
seen through a container's mount, or below ``/proc/PID/root``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec

from lamella.errors import DataLoss, LamellaError, NotFound, Unsupported
from lamella.insight.answer import Answer
from lamella.insight.mounts import option
from lamella.insight.whose import seen_in, whose
from lamella.linux.mountinfo import MountEntry, parse_mountinfo, read_mountinfo
from lamella.readers.base import ContainerRecord, StoreReader
from lamella.readers.detect import open_reader
from lamella.store.smallfiles import is_directory

USUAL_ROOTS: Final = (
    "/var/lib/lamella", "/var/lib/docker", "/var/lib/containers/storage", "/var/lib/containerd",
)  # fmt: skip
_INODE: Final = re.compile(r"([0-9]+):([0-9]+)", re.ASCII)
_DEVICE_INODE: Final = re.compile(r"([0-9a-fA-F]+):([0-9a-fA-F]+):([0-9]+)", re.ASCII)
_AUDIT_DEVICE: Final = re.compile(r"\bdev=([0-9a-fA-F]+):([0-9a-fA-F]+)", re.ASCII)
_AUDIT_INODE: Final = re.compile(r"\b(?:inode|ino)=([0-9]+)", re.ASCII)
_PROCESS_ROOT: Final = re.compile(r"/proc/([0-9]+)/root(?:/(.*))?", re.ASCII | re.DOTALL)
_ID: Final = re.compile(rb"[0-9a-f]{64}", re.ASCII)
_MARKS: Final = (
    "image", "overlay2", "vfs", "overlay-layers", "vfs-layers", "io.containerd.metadata.v1.bolt", "containerd",
)  # fmt: skip


def why(what: str, reader: StoreReader) -> Answer:
    """Answer from one store.  Raises NotFound if there is no such process or no such inode."""
    return why_anywhere(what, reader, ())


def why_anywhere(what: str, reader: StoreReader | None, roots: Sequence[Path]) -> Answer:
    """Answer from *reader*, else from the store that the path lies in, *roots* and the usual ones after it."""
    return _Search(what, reader, roots).answer()


class _Search:
    """One question, and where it may be asked."""

    def __init__(self, asked: str, reader: StoreReader | None, roots: Sequence[Path]) -> None:
        self._asked = asked
        self._only = reader
        self._roots = roots

    def answer(self) -> Answer:
        text = self._asked.strip()
        if device := _device_of(text):
            return self._inode(*device)
        if text.isascii() and text.isdigit():
            return self._process(int(text), None)
        if not os.path.lexists(text) and (" " in text or "\t" in text):
            return self._mount(text)
        if match := _PROCESS_ROOT.fullmatch(text):
            return self._process(int(match[1]), match[2] or "")
        return self._path(os.path.abspath(self._asked))

    # ------------------------------------------------------------------------------------------------ paths

    def _path(self, path: str) -> Answer:
        for candidate in dict.fromkeys((path, os.path.realpath(path))):
            found = self._below_root(candidate)
            if found is not None:
                return found
        entry = _mount_over(path)
        if entry is not None and entry.fstype == "overlay":
            found = self._overlay(entry, os.path.relpath(path, entry.target))
            if found is not None:
                return found
        if not os.path.lexists(path):
            raise NotFound(f"{path}: no such file or directory, and it is not in a store")
        return self._unknown("it is in no store: none of the directories above it is an engine's root")

    def _below_root(self, path: str) -> Answer | None:
        """Answer for a path in a store; of stores inside one another the outermost counts."""
        if self._only is not None:
            root = os.fspath(self._only.root)
            real = os.path.realpath(path) if not path.startswith(f"{root}/") and path != root else path
            inside = real == root or real.startswith(f"{root}/")
            return whose(self._only, self._asked, real[len(root) :].split("/")) if inside else None
        parts = path.split("/")
        for depth in range(2, len(parts) + 1):
            place = "/".join(parts[:depth])
            if not any(os.path.isdir(f"{place}/{name}") for name in _MARKS):
                continue
            try:
                reader = open_reader(Path(os.path.realpath(place)))
            except (NotFound, Unsupported, DataLoss):
                continue
            return whose(reader, self._asked, parts[depth:])
        return None

    # ------------------------------------------------------------------------------------------------ mounts

    def _mount(self, line: str) -> Answer:
        upper = re.search(r"\bupperdir=([^,\s)]+)", line)
        lower = re.search(r"\blowerdir=([^,:\s)]+)", line)
        for match in (upper, lower):
            if match is not None:
                found = self._layer_path(_unescape(match[1]))
                if found is not None:
                    return found
        target = _target_of(line)
        if target is None:
            raise NotFound(f"{line[:200]!r} is neither a path nor a line of a mount table")
        return self._path(target)

    def _overlay(self, entry: MountEntry, inside: str) -> Answer | None:
        """Answer for a path in an overlay mount: the container's whose writable layer it has, else its layers'."""
        upper = option(entry.super_options, "upperdir")
        names = [] if inside == "." else inside.split("/")
        if upper:
            for reader, directory_id in self._named_by(upper):
                layer = reader.find_layer_by_directory(directory_id)
                owner = None if layer is None else _owner(reader, layer.id)
                if owner is not None:
                    return seen_in(reader, self._asked, owner, names)
            return self._layer_path(upper)
        lower = option(entry.super_options, "lowerdir").partition(":")[0]
        return self._layer_path(lower) if lower else None

    def _layer_path(self, place: str) -> Answer | None:
        """Answer for a directory that mount options name, absolute or as the driver's directory has it."""
        if os.path.isabs(place):
            return self._below_root(place)
        for reader, directory_id in self._named_by(place):
            if reader.find_layer_by_directory(directory_id) is not None or place.startswith("l/"):
                home = ["vfs", "dir"] if reader.driver == "vfs" else [reader.driver]
                return whose(reader, self._asked, [*home, *place.split("/")])
        return None

    def _named_by(self, place: str) -> Iterator[tuple[StoreReader, str]]:
        """Yield the stores that may have the layer directory *place*, and its name."""
        parts = [part for part in place.split("/") if part]
        directory_id = parts[-2] if len(parts) > 1 and parts[-1] in {"diff", "fs"} else (parts[-1] if parts else "")
        for reader in self._readers():
            if not os.path.isabs(place) or place.startswith(f"{reader.root}/"):
                yield reader, directory_id
        if self._only is None and os.path.isabs(place):
            for depth in range(2, len(parts)):
                above = "/" + "/".join(parts[:depth])
                if any(os.path.isdir(f"{above}/{name}") for name in _MARKS):
                    try:
                        yield open_reader(Path(above)), directory_id
                    except LamellaError:
                        continue

    def _readers(self) -> Iterator[StoreReader]:
        if self._only is not None:
            yield self._only
            return
        # Where containers run from tells of stores that are in none of the usual places.
        seen: set[Path] = set()
        for root in [*map(os.fspath, self._roots), *USUAL_ROOTS, *_mounted_roots()]:
            if not is_directory(os.path.realpath(root)):
                continue
            try:
                reader = open_reader(Path(root))
            except LamellaError:
                continue
            if reader.root not in seen:
                seen.add(reader.root)
                yield reader

    # ------------------------------------------------------------------------------------------------ processes

    def _process(self, pid: int, inside: str | None) -> Answer:
        """Answer for a process, or for a path as it sees it."""
        try:
            entries = read_mountinfo(pid)
            names = Path(f"/proc/{pid}/cgroup").read_bytes() + Path(f"/proc/{pid}/cmdline").read_bytes()
        except (OSError, ValueError):
            raise NotFound(f"there is no process {pid}, or its mounts cannot be read") from None
        root = next((entry for entry in reversed(entries) if entry.target == "/"), None)
        found: Answer | None = None
        if root is not None and root.fstype == "overlay":
            path = _executable(pid) if inside is None else inside
            found = self._overlay(root, path.lstrip("/") or ".")
        if found is None:
            found = self._mentioned(root, names, inside)
        if found is None:
            return msgspec.structs.replace(
                self._unknown(f"process {pid} does not run in a container of any store that was found"), process=pid
            )
        if found.seen_in is not None and inside is None:
            what = "" if not found.inside else f"; its program {found.inside} {found.reason.partition(': it ')[2]}"
            found = msgspec.structs.replace(
                found, reason=f"process {pid} runs in container {found.seen_in.names[0]}{what}"
            )
        return msgspec.structs.replace(found, process=pid)

    def _mentioned(self, root: MountEntry | None, names: bytes, inside: str | None) -> Answer | None:
        """Find the container whose ID a process has in its control group or its arguments, as monitors have."""
        wanted = {found.decode() for found in _ID.findall(names)}
        for reader in self._readers():
            for container in reader.containers():
                own = next((layer for layer in reversed(container.layers)), "")
                mounted = root is not None and own and own in root.root
                if container.id in wanted or mounted:
                    found = seen_in(reader, self._asked, container, (inside or "").split("/"))
                    if not mounted and inside is None:
                        # The runtime's monitor, which runs beside the container.
                        return msgspec.structs.replace(
                            found, reason=f"it serves container {container.name}", seen_in=None, holder="container"
                        )
                    return found
        return None

    # ------------------------------------------------------------------------------------------------ inodes

    def _inode(self, device: int, inode: int) -> Answer:
        """Look an inode up by its number: every name below the stores of that device is looked at until it is found."""
        looked = False
        for entry in read_mountinfo():
            if entry.fstype == "overlay" and _device(entry.target) == device:
                looked = True
                for option_name in ("upperdir", "lowerdir"):
                    for place in option(entry.super_options, option_name).split(":"):
                        found = _find_inode(place, inode) if os.path.isabs(place) else None
                        answer = None if found is None else self._below_root(os.path.realpath(found))
                        if answer is not None:
                            return answer
        for reader in self._readers():
            if _device(os.fspath(reader.root)) == device:
                looked = True
                path = _find_inode(os.fspath(reader.root), inode)
                if path is not None:
                    return whose(reader, self._asked, path[len(os.fspath(reader.root)) :].split("/"))
        if not looked:
            return self._unknown(f"no store that was found lies on device {os.major(device)}:{os.minor(device)}")
        return self._unknown(f"no file of a store on this device has inode number {inode}")

    def _unknown(self, reason: str) -> Answer:
        return Answer(asked=self._asked, state="unknown", holder="", reason=reason)


def _mounted_roots() -> Iterator[str]:
    for entry in read_mountinfo():
        upper = option(entry.super_options, "upperdir") if entry.fstype == "overlay" else ""
        parts = upper.split("/")
        for depth in range(2, len(parts)):
            place = "/".join(parts[:depth])
            if upper.startswith("/") and any(os.path.isdir(f"{place}/{name}") for name in _MARKS):
                yield place


def _device_of(text: str) -> tuple[int, int] | None:
    """Parse ``DEVICE:INODE``, ``MAJOR:MINOR:INODE`` or an audit record."""
    if match := _INODE.fullmatch(text):
        return int(match[1]), int(match[2])
    if match := _DEVICE_INODE.fullmatch(text):
        # The audit log spells both numbers in two or more hexadecimal digits.
        base = 16 if len(match[1]) > 1 and len(match[2]) > 1 else 10
        try:
            return os.makedev(int(match[1], base), int(match[2], base)), int(match[3])
        except ValueError:
            return None
    device, inode = _AUDIT_DEVICE.search(text), _AUDIT_INODE.search(text)
    if device is not None and inode is not None:
        return os.makedev(int(device[1], 16), int(device[2], 16)), int(inode[1])
    return None


def _device(path: str) -> int | None:
    try:
        return os.stat(path).st_dev
    except OSError:
        return None


def _find_inode(top: str, inode: int) -> str | None:
    """Return a path below *top*, or itself, with this inode number, on the same file system and through no link."""
    try:
        status = os.lstat(top)
    except OSError:
        return None
    if status.st_ino == inode:
        return top
    waiting = [top]
    while waiting:
        directory = waiting.pop()
        try:
            # A mount point lists the number that it covers; what is mounted there has numbers of its own.
            if directory.endswith(("/merged", "/shm")) and os.lstat(directory).st_dev != status.st_dev:
                continue
            with os.scandir(directory) as entries:
                for entry in entries:
                    if entry.inode() == inode:
                        return entry.path
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
        except OSError:
            continue
    return None


def _mount_over(path: str) -> MountEntry | None:
    """Return the mount that *path* is seen through."""
    best: MountEntry | None = None
    for entry in read_mountinfo():
        below = path == entry.target or path.startswith(entry.target.rstrip("/") + "/")
        if below and (best is None or len(entry.target) >= len(best.target)):
            best = entry
    return best


def _target_of(line: str) -> str | None:
    """Return the mount point of a line of mountinfo, of ``/proc/mounts`` or of mount(8)."""
    if " - " in line and line.split(" ", 1)[0].isdigit():
        try:
            return parse_mountinfo(os.fsencode(line))[0].target
        except (ValueError, IndexError):
            return None
    if match := re.fullmatch(r".* on (/.*) type \S+ \(.*\)", line):
        return match[1]
    fields = line.split()
    return _unescape(fields[1]) if len(fields) >= 4 and fields[1].startswith("/") else None


def _unescape(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def _owner(reader: StoreReader, layer_id: str) -> ContainerRecord | None:
    return next((item for item in reader.containers() if layer_id in item.layers[-2:]), None)


def _executable(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/exe").removesuffix(" (deleted)")
    except OSError:
        return ""

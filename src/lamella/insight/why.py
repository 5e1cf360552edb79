"""``why``: from anything a machine's keeper can hold to whom it belongs.

A question is a process ID, ``DEVICE:INODE`` as ``find -printf %D:%i`` and ``stat -c %d:%i`` print it (or ``MAJOR:MINOR:
INODE``, or the ``dev=`` and ``inode=`` of an audit record), a line of a mount table, or a path: below a store's root,
seen through a container's mount, a bind of it or below it, or as a process has it: below ``/proc/PID/root``, or its
``cwd``, ``exe`` or one of ``fd``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from lamella.errors import DataLoss, LamellaError, NotFound, Unsupported
from lamella.insight.answer import Answer, Named
from lamella.insight.inodes import device_at, device_of, find_inode
from lamella.insight.mounts import option
from lamella.insight.spots import Spot, places_of, spot_in, spot_of
from lamella.insight.stack import Stack
from lamella.insight.whose import seen_in, whose
from lamella.linux.mountinfo import MountEntry, parse_mountinfo, read_mountinfo
from lamella.readers.base import ContainerRecord, StoreReader
from lamella.readers.detect import open_reader
from lamella.store.smallfiles import is_directory

USUAL_ROOTS: Final = (
    "/var/lib/lamella", "/var/lib/docker", "/var/lib/containers/storage", "/var/lib/containerd",
)  # fmt: skip
_PROCESS: Final = re.compile(r"/proc/([0-9]+)/(root|cwd|exe|fd/[0-9]+)(?:/(.*))?", re.ASCII | re.DOTALL)
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
        if device := device_of(text):
            return self._inode(*device)
        if text.isascii() and text.isdigit():
            return self._process(int(text))
        if not os.path.lexists(text) and (" " in text or "\t" in text):
            return self._mount(text)
        if match := _PROCESS.fullmatch(text):
            return self._seen_by(int(match[1]), match[2], match[3] or "")
        return self._path(os.path.abspath(self._asked))

    # ------------------------------------------------------------------------------------------------ paths

    def _path(self, path: str) -> Answer:
        for candidate in dict.fromkeys((path, os.path.realpath(path))):
            found = self._below_root(candidate)
            if found is not None:
                return found
        spot = spot_in(read_mountinfo(), "/", path)
        found = self._mounted(spot)
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

    def _mounted(self, spot: Spot) -> Answer | None:
        """Answer for what lies in an overlay, or is seen elsewhere in a store too."""
        if spot.entry is not None and spot.entry.fstype == "overlay":
            return self._overlay(spot.entry, spot.inside)
        for place in places_of(spot):
            found = self._below_root(place)
            if found is not None:
                return found
        return None

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
        lowers = [place for place in option(entry.super_options, "lowerdir").split(":") if place]
        places = [*reversed(lowers), *([upper] if upper else [])]
        found = self._joined(places, inside) if names and all(map(os.path.isabs, places)) else None
        if found is not None:
            return found
        return self._layer_path(upper or lowers[0]) if places else None

    def _joined(self, places: Sequence[str], inside: str) -> Answer | None:
        """Answer for a path in an overlay that is no container's root, where the directory that shows it lies."""
        try:
            with Stack([Path(os.path.realpath(place)) for place in places]) as stack:
                found = stack.find(os.fsencode(inside))
        except (LamellaError, OSError):
            return None
        if found is None:
            return None
        place = os.path.join(os.path.realpath(places[found.layer]), os.fsdecode(found.path))
        return self._below_root(place) or self._unknown(f"it is {place}, which is in no store")

    def _layer_path(self, place: str) -> Answer | None:
        """Answer for a directory that mount options name, absolute or as the driver's directory has it."""
        if os.path.isabs(place):
            return self._below_root(place)
        for reader, directory_id in self._named_by(place):
            short = place.startswith("l/") and os.path.islink(reader.root / reader.driver / place)
            if short or reader.find_layer_by_directory(directory_id) is not None:
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

    def _process(self, pid: int) -> Answer:
        """Answer for a process: the container that it runs in or serves, and where its program is from."""
        entries, names = self._look_at(pid)
        home = self._home(entries)
        if home is None:
            found = self._serves(names)
            if found is None:
                found = self._unknown(f"process {pid} does not run in a container of any store that was found")
            return msgspec.structs.replace(found, process=pid)
        reader, container = home
        name = container.name or container.id[:12]
        reason = f"process {pid} runs in container {name}"
        found = seen_in(reader, self._asked, container, [])
        with suppress(OSError):
            spot = spot_of(entries, f"/proc/{pid}/exe")
            program = self._at(spot, entries, home)
            if program.state != "unknown":
                said = program.reason.partition(": it ")[2] or program.reason.removeprefix("it ")
                reason, found = f"{reason}; its program {spot.path} {said}", program
            else:
                reason = f"{reason}; its program {spot.path} is from no layer: {program.reason}"
        return msgspec.structs.replace(found, reason=reason, process=pid)

    def _seen_by(self, pid: int, kind: str, rest: str) -> Answer:
        """Answer for a path as a process has it: below its root, or where one of its links leads."""
        entries, _ = self._look_at(pid)
        if kind == "root":
            spot = spot_in(entries, f"/proc/{pid}/root", rest)
        else:
            try:
                spot = spot_of(entries, f"/proc/{pid}/{kind}")
            except OSError:
                raise NotFound(f"process {pid} has no {kind}") from None
            if rest and spot.entry is not None:
                spot = spot_in(entries, f"/proc/{pid}/root", f"{spot.path}/{rest}")
        return msgspec.structs.replace(self._at(spot, entries, self._home(entries)), process=pid)

    def _at(
        self, spot: Spot, entries: Sequence[MountEntry], home: tuple[StoreReader, ContainerRecord] | None
    ) -> Answer:
        """Answer for where a path of a process lies; *home* is the container that the process runs in."""
        entry = spot.entry
        if entry is None:
            return self._unknown(f"it is {spot.path}, which is in no file system that is mounted there")
        if home is not None and entry is _root_of(entries):
            reader, container = home
            names = [] if spot.deleted else spot.inside.split("/")
            found: Answer | None = seen_in(reader, self._asked, container, names)
        else:
            found = self._mounted(spot)
        if found is None:
            where = next(iter(places_of(spot)), "")
            text = f"it lies in {entry.fstype} mounted at {entry.target}" + (f", here {where}" if where else "")
            found = self._unknown(f"{text}, and in no store")
        if home is not None and found.seen_in is None:
            owner = Named(home[1].id, (home[1].name or home[1].id[:12],), home[1].status)
            reason = f"seen in container {owner.names[0]}: {found.reason}"
            found = msgspec.structs.replace(found, reason=reason, seen_in=owner)
        if spot.deleted:
            reason = f"{spot.path} was deleted, and is kept by whoever has it open; {found.reason.partition(': ')[2] or found.reason}"
            found = msgspec.structs.replace(found, reason=reason, exists=False)
        return found

    def _look_at(self, pid: int) -> tuple[list[MountEntry], bytes]:
        """Return the mounts of a process, and what names the container that it may run in or serve."""
        try:
            entries = read_mountinfo(pid)
            return entries, Path(f"/proc/{pid}/cgroup").read_bytes() + Path(f"/proc/{pid}/cmdline").read_bytes()
        except (OSError, ValueError):
            raise NotFound(f"there is no process {pid}, or its mounts cannot be read") from None

    def _home(self, entries: Sequence[MountEntry]) -> tuple[StoreReader, ContainerRecord] | None:
        """Return the container that has a process's root as its writable layer, and its store."""
        root = _root_of(entries)
        if root is None or (root.fstype != "overlay" and root.root == "/"):
            return None
        if root.fstype == "overlay":
            places = [option(root.super_options, "upperdir")]
        else:
            places = list(places_of(Spot(root, root.target)))
        for place in filter(None, places):
            for reader, directory_id in self._named_by(place):
                layer = reader.find_layer_by_directory(directory_id)
                if layer is None or (os.path.isabs(place) and os.fspath(layer.directory) != place):
                    continue
                owner = _owner(reader, layer.id)
                if owner is not None:
                    return reader, owner
        return None

    def _serves(self, names: bytes) -> Answer | None:
        """Find the container whose ID a process has in its control group or its arguments, as monitors have."""
        wanted = {found.decode() for found in _ID.findall(names)}
        for reader in self._readers() if wanted else ():
            for container in reader.containers():
                if container.id in wanted:
                    found = seen_in(reader, self._asked, container, [])
                    # The runtime's monitor, which runs beside the container.
                    return msgspec.structs.replace(
                        found, reason=f"it serves container {container.name}", seen_in=None, holder="container"
                    )
        return None

    # ------------------------------------------------------------------------------------------------ inodes

    def _inode(self, device: int, inode: int) -> Answer:
        """Look an inode up by its number: every name below the stores of that device is looked at until it is found."""
        looked = False
        for entry in read_mountinfo():
            if entry.fstype == "overlay" and device_at(entry.target) == device:
                looked = True
                for option_name in ("upperdir", "lowerdir"):
                    for place in option(entry.super_options, option_name).split(":"):
                        found = find_inode(place, inode) if os.path.isabs(place) else None
                        answer = None if found is None else self._below_root(os.path.realpath(found))
                        if answer is not None:
                            return answer
        for reader in self._readers():
            if device_at(os.fspath(reader.root)) == device:
                looked = True
                path = find_inode(os.fspath(reader.root), inode)
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


def _root_of(entries: Sequence[MountEntry]) -> MountEntry | None:
    return next((entry for entry in reversed(entries) if entry.target == "/"), None)

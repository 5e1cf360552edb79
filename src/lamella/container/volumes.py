"""Volumes and binds: what is mounted into a container, and the volumes' directories below ``volumes/``.

A volume is ``DATA-ROOT/volumes/<name>/_data``, as in Docker's local driver.  A new one is filled with what the image
has at its place.  Mounting is the runtime's work.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple, cast

from lamella.errors import InvalidArgument
from lamella.fs.rooted import Root
from lamella.runtime.spec import MountPoint

_NAME: Final = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,254}", re.ASCII)
_PROPAGATION: Final = frozenset({"private", "rprivate", "shared", "rshared", "slave", "rslave"})
_MODES: Final = frozenset({"ro", "rw", "z", "Z", "nocopy", "consistent", "cached", "delegated"})


class Planned(NamedTuple):
    """One mount of a container before anything was made; a volume without *source* is anonymous."""

    kind: str
    source: str
    destination: str
    writable: bool = True
    propagation: str = ""
    copy: bool = True
    options: tuple[str, ...] = ()


def plan_mounts(
    *,
    binds: Sequence[str],
    image_volumes: Sequence[str],
    mounts: Sequence[Mapping[str, object]],
    tmpfs: Mapping[str, str],
) -> list[Planned]:
    """Read every kind of mount request; a later kind loses to an earlier one for the same place.

    Raises InvalidArgument for what Docker refuses too: relative or doubled destinations, unknown options.
    """
    planned: dict[str, Planned] = {}
    for text in binds:
        _add(planned, _parse_bind(text))
    for mount in mounts:
        _add(planned, _parse_mount(mount))
    for destination, options in tmpfs.items():
        _add(planned, Planned("tmpfs", "", _destination(destination), options=tuple(filter(None, options.split(",")))))
    for volume in image_volumes:
        place = _destination(volume)
        if place not in planned:
            planned[place] = Planned("volume", "", place)
    return list(planned.values())


def _add(planned: dict[str, Planned], one: Planned) -> None:
    if one.destination in planned:
        raise InvalidArgument(f"Duplicate mount point: {one.destination}")
    planned[one.destination] = one


def _destination(text: str) -> str:
    if not text.startswith("/") or "\0" in text:
        raise InvalidArgument(f"invalid mount path: '{text}' mount path must be absolute")
    parts: list[str] = []
    for part in text.split("/"):
        if part == "..":
            del parts[-1:]
        elif part not in ("", "."):
            parts.append(part)
    if not parts:
        raise InvalidArgument("invalid specification: destination can't be '/'")
    return "/" + "/".join(parts)


def _parse_bind(text: str) -> Planned:
    fields = text.split(":")
    if len(fields) == 1:
        return Planned("volume", "", _destination(fields[0]))
    if len(fields) > 3 or not all(fields):
        raise InvalidArgument(f"invalid volume specification: '{text}'")
    source, destination = fields[0], _destination(fields[1])
    options = fields[2].split(",") if len(fields) == 3 else []
    for option in options:
        if option not in _MODES and option not in _PROPAGATION:
            raise InvalidArgument(f"invalid mode: {fields[2]}")
    propagation = next((option for option in options if option in _PROPAGATION), "")
    writable = "ro" not in options
    if source.startswith("/"):
        return Planned("bind", os.path.normpath(source), destination, writable, propagation or "rprivate")
    return Planned("volume", check_volume_name(source), destination, writable, "", "nocopy" not in options)


def _parse_mount(mount: Mapping[str, object]) -> Planned:
    kind, source = str(mount.get("Type") or "volume"), str(mount.get("Source") or "")
    destination = _destination(str(mount.get("Target") or ""))
    writable = mount.get("ReadOnly") is not True
    if kind == "tmpfs":
        options = mount.get("TmpfsOptions")
        chosen: list[str] = [] if writable else ["ro"]
        if isinstance(options, dict):
            chosen += [f"size={options['SizeBytes']}"] if options.get("SizeBytes") else []
            chosen += [f"mode={int(options['Mode']):o}"] if options.get("Mode") else []
        return Planned("tmpfs", "", destination, options=tuple(chosen))
    if kind == "bind":
        if not source.startswith("/"):
            raise InvalidArgument(
                f"invalid mount config for type \"bind\": invalid mount path: '{source}' mount path must be absolute"
            )
        if not os.path.lexists(source):
            raise InvalidArgument(f'invalid mount config for type "bind": bind source path does not exist: {source}')
        options = mount.get("BindOptions")
        propagation = str(options.get("Propagation") or "") if isinstance(options, dict) else ""
        if propagation and propagation not in _PROPAGATION:
            raise InvalidArgument(f"invalid propagation mode: {propagation}")
        return Planned("bind", os.path.normpath(source), destination, writable, propagation or "rprivate")
    if kind == "volume":
        options = mount.get("VolumeOptions")
        copy = not (isinstance(options, dict) and options.get("NoCopy") is True)
        return Planned("volume", check_volume_name(source) if source else "", destination, writable, "", copy)
    raise InvalidArgument(f'mount type unknown: "{kind}"')


def check_volume_name(name: str) -> str:
    """Check that *name* may be one component below ``volumes/``."""
    if _NAME.fullmatch(name) is None or name in ("metadata.db", "backingFsBlockDev"):
        raise InvalidArgument(
            f'create {name}: "{name}" includes invalid characters for a local volume name, only "[a-zA-Z0-9][a-zA-Z0-9_.-]" are allowed.'
            " If you intended to pass a host directory, use absolute path"
        )
    return name


class Volumes:
    """The directory ``volumes`` of one data-root."""

    def __init__(self, data_root: Path) -> None:
        self.directory = data_root / "volumes"

    def content(self, name: str) -> Path:
        """Return the directory that is mounted for volume *name*."""
        return self.directory / check_volume_name(name) / "_data"

    def ensure(self, name: str) -> Path:
        """Make volume *name* if there is none, and return its directory."""
        self.directory.mkdir(mode=0o701, exist_ok=True)
        content = self.content(name)
        content.parent.mkdir(mode=0o701, exist_ok=True)
        try:
            content.mkdir(mode=0o755)
        except FileExistsError:
            if content.is_symlink() or not content.is_dir():
                raise InvalidArgument(f"volume {name}: {content} is not a directory") from None
        else:
            content.chmod(0o755)
        return content

    def remove(self, name: str) -> None:
        """Remove volume *name* with all that is in it; missing is fine."""
        from lamella.fs.tree import remove_tree

        remove_tree(self.directory / check_volume_name(name))


def make_mount_points(planned: Sequence[Planned], volumes: Volumes) -> dict[str, object]:
    """Make the volumes and return the record's ``MountPoints``; tmpfs mounts are the host config's alone."""
    table: dict[str, object] = {}
    for one in planned:
        if one.kind == "tmpfs":
            continue
        name, source = "", one.source
        if one.kind == "volume":
            name = one.source or os.urandom(32).hex()
            source = str(volumes.ensure(name))
        table[one.destination] = {
            "Source": source if one.kind == "bind" else "",
            "Destination": one.destination,
            "RW": one.writable,
            "Name": name,
            "Driver": "local" if name else "",
            "Type": one.kind,
            "Propagation": one.propagation,
            "Spec": {"Type": one.kind, "Source": one.source, "Target": one.destination},
            "SkipMountpointCreation": False,
        }
    return table


def fill_volumes(planned: Sequence[Planned], table: Mapping[str, object], volumes: Volumes, root: Root) -> None:
    """Copy what the image has at each new volume's place into it, with owner and mode of the place itself."""
    for one in planned:
        row = table.get(one.destination)
        if one.kind != "volume" or not one.copy or not isinstance(row, dict):
            continue
        content = volumes.content(str(row["Name"]))
        with os.scandir(content) as entries:
            if next(entries, None) is not None:
                continue
        try:
            source = root.open(one.destination.encode("utf-8", "surrogateescape"), os.O_RDONLY | os.O_DIRECTORY)
        except OSError as problem:
            if problem.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                continue
            raise
        try:
            _replace_with_copy(source, content)
        finally:
            os.close(source)


def copy_directory(source: int, place: Path) -> None:
    """Copy an open directory, which was resolved inside a container's root, to *place*, which must not be there."""
    from lamella.fs.tree import copy_tree

    # "." below the descriptor follows nothing more.  A Path would drop that dot, and the magic link itself is no
    # directory.
    copy_tree(cast("Path", f"/proc/self/fd/{source}/."), place)


def _replace_with_copy(source: int, content: Path) -> None:
    from lamella.fs.tree import remove_tree

    draft = content.parent / f".copy-{os.urandom(8).hex()}"
    try:
        copy_directory(source, draft)
        content.rmdir()
        draft.rename(content)
    except BaseException:
        remove_tree(draft)
        content.mkdir(mode=0o755, exist_ok=True)
        raise


def runtime_mounts(
    table: Mapping[str, object], tmpfs: Mapping[str, str], mounts: Sequence[Mapping[str, object]], volumes: Volumes
) -> list[MountPoint]:
    """Turn a record's mounts into what the runtime is told; a bind source that is missing is made, as Docker does."""
    result: list[MountPoint] = []
    for destination, row in table.items():
        if not isinstance(row, dict):
            raise InvalidArgument(f"the record's mount point {destination} is not an object")
        if row.get("Type") == "tmpfs":  # dockerd lists it here too; what it is like stands in the host config
            continue
        if row.get("Type") == "bind" or not row.get("Name"):
            source = str(row.get("Source") or "")
            if not os.path.lexists(source):
                os.makedirs(source, mode=0o755, exist_ok=True)
        else:
            source = str(volumes.ensure(str(row["Name"])))
        propagation = str(row.get("Propagation") or "rprivate")
        result.append(
            MountPoint(source, destination, ("rw" if row.get("RW", True) is not False else "ro", propagation))
        )
    result += [
        MountPoint("tmpfs", _destination(place), tuple(filter(None, options.split(","))), "tmpfs")
        for place, options in tmpfs.items()
    ]
    for mount in mounts:
        if str(mount.get("Type") or "") == "tmpfs":
            planned = _parse_mount(mount)
            result.append(MountPoint("tmpfs", planned.destination, planned.options, "tmpfs"))
    return result


def anonymous_volumes(table: Mapping[str, object]) -> list[str]:
    """Name the volumes of a record that belong to this container alone."""
    names: list[str] = []
    for row in table.values():
        if isinstance(row, dict) and row.get("Type") == "volume" and row.get("Name"):
            spec = row.get("Spec")
            if isinstance(spec, dict) and not spec.get("Source"):
                names.append(str(row["Name"]))
    return names

"""Who else is at work on a data-root, and what only the rest of the machine knows about it.

A running dockerd, operations of lamella's in progress, BuildKit's own records, the mounts that any process sees.
What one of these may need is never taken for left over.
"""

from __future__ import annotations

import os
from contextlib import suppress
from functools import cached_property
from pathlib import Path

from lamella.errors import LamellaError
from lamella.linux.locks import is_locked
from lamella.linux.mountinfo import MountEntry, read_mountinfo
from lamella.model.ids import CacheID, init_id
from lamella.store.dockerd import find_dockerd
from lamella.store.smallfiles import list_names, read_small
from lamella.store.transactions import Intent, parse_intent

_RECORD_LIMIT = 16 << 20


class Surroundings:
    """What goes on around the data-root *root*."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.dockerd = find_dockerd(root)
        """The pid of the dockerd that runs on it, 0 if that cannot be told, None if there is none."""
        self.live: list[Intent] = []
        self.dead: list[Path] = []
        self.damaged: list[Path] = []
        """Intent records that cannot be read."""
        self.pooled: set[str] = set()
        """Names of directories that operations, in progress or to be undone, have set aside for themselves."""
        self._read_intents()

    @property
    def busy(self) -> bool:
        """Whether somebody may be changing the data-root just now."""
        return self.dockerd is not None or bool(self.live)

    def may_be_new(self, path: Path) -> bool:
        """Tell whether a running dockerd may have made *path* and not yet have recorded it."""
        if self.dockerd is None:
            return False
        since = self._dockerd_since
        if since is None:
            return True
        try:
            return os.lstat(path).st_ctime >= since - 1
        except OSError:
            return True

    def is_pooled(self, name: str) -> bool:
        """Tell whether an operation in progress, or one to be undone, set this directory's name aside for itself."""
        return name in self.pooled

    def is_leased(self, chain: str) -> bool:
        """Tell whether an operation, in progress or to be undone, needs or makes this layer."""
        return chain in self._leased

    def in_buildkit(self, name: str) -> bool:
        """Tell whether BuildKit's records mention a directory or a layer; one that was freed may still be mentioned."""
        needle = name.removeprefix("sha256:").removesuffix("-init").encode()
        return any(needle in database for database in self._buildkit)

    def in_mounts(self, *names: str) -> bool:
        """Tell whether some process's mount table mentions one of these directories or short names."""
        needles = [name.removesuffix("-init").encode() for name in names]
        return any(needle in table for table in self.namespaces for needle in needles)

    @cached_property
    def own_mounts(self) -> list[MountEntry]:
        """The mounts below the data-root that we see ourselves."""
        below = f"{self.root}/"
        return [entry for entry in read_mountinfo() if entry.target.startswith(below)]

    @cached_property
    def namespaces(self) -> list[bytes]:
        """The mount tables of all mount namespaces, one each, our own first."""
        seen: dict[str, bytes] = {}
        for pid in ["self", *(name for name in os.listdir("/proc") if name.isdigit())]:
            with suppress(OSError):
                namespace = os.readlink(f"/proc/{pid}/ns/mnt")
                if namespace not in seen:
                    with open(f"/proc/{pid}/mountinfo", "rb") as table:
                        seen[namespace] = table.read()
        return list(seen.values())

    def used_elsewhere(self, target: Path) -> bool:
        """Tell whether another mount namespace has the file system that is mounted at *target*, or a process is in it."""
        try:
            device = os.stat(target).st_dev
        except OSError:
            return True
        name = f"{os.major(device)}:{os.minor(device)}".encode()
        for table in self.namespaces[1:]:
            if any(line.split(b" ", 3)[2] == name for line in table.splitlines()):
                return True
        ours = [line for line in self.namespaces[0].splitlines() if line.split(b" ", 3)[2] == name]
        if len(ours) > 1:
            return True
        for pid in filter(str.isdigit, os.listdir("/proc")):
            for place in ("root", "cwd"):
                with suppress(OSError):
                    if os.stat(f"/proc/{pid}/{place}").st_dev == device:
                        return True
        return False

    # ------------------------------------------------------------------------------------------------ internals

    def _read_intents(self) -> None:
        directory = self.root / "lamella" / "tx"
        leased: set[str] = set()
        for name in list_names(directory):
            path = directory / name
            if not name.endswith(".json"):
                continue
            try:
                held = is_locked(path)
                raw = read_small(path, _RECORD_LIMIT)
            except FileNotFoundError:
                continue
            except (LamellaError, OSError):
                self.damaged.append(path)
                continue
            intent = parse_intent(raw, path.stem)
            if held:
                self.live.append(intent)
            elif intent.kind == "unknown":
                self.damaged.append(path)
            else:
                self.dead.append(path)
            for cache_id in intent.ids:
                self.pooled |= {cache_id, init_id(CacheID(cache_id))}
            leased.update(intent.leases, intent.chains)
        self._leased = leased

    @cached_property
    def _dockerd_since(self) -> float | None:
        """When the running dockerd began, seconds since the epoch."""
        try:
            with open(f"/proc/{self.dockerd}/stat", "rb") as file:
                ticks = int(file.read().rpartition(b")")[2].split()[19])
            with open("/proc/stat", "rb") as file:
                boot = next(int(line.split()[1]) for line in file if line.startswith(b"btime "))
        except (OSError, ValueError, IndexError, StopIteration):
            return None
        return boot + ticks / os.sysconf("SC_CLK_TCK")

    @cached_property
    def _buildkit(self) -> list[bytes]:
        """BuildKit's databases as they lie there; a page that was freed may still hold a name, which spares too much."""
        found: list[bytes] = []
        for name in list_names(self.root / "buildkit"):
            if name.endswith(".db"):
                with suppress(OSError), open(self.root / "buildkit" / name, "rb") as file:
                    found.append(file.read())
        return found

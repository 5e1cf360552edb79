"""What several readers do alike: checked access to records that nobody vouches for, and who runs."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from lamella.errors import DataLoss, InvalidArgument
from lamella.model.gojson import ZERO_TIME
from lamella.model.reference import parse_reference
from lamella.readers.base import VolumeRecord
from lamella.store.smallfiles import find_small, is_directory, list_names

_JSON_LIMIT = 64 << 20


class Json:
    """A JSON object with keys that are what is asked for, or as good as absent."""

    def __init__(self, document: object) -> None:
        self._table: Mapping[str, object] = document if isinstance(document, dict) else {}

    def text(self, key: str) -> str:
        """Return a string, empty if there is none."""
        value = self._table.get(key)
        return value if isinstance(value, str) else ""

    def number(self, key: str) -> int | None:
        """Return an integer that is not negative."""
        value = self._table.get(key)
        return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None

    def texts(self, key: str) -> list[str]:
        """Return the strings of an array."""
        value = self._table.get(key)
        return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []

    def child(self, key: str) -> Json:
        """Return an object, empty if there is none."""
        return Json(self._table.get(key))

    def children(self, key: str) -> list[Json]:
        """Return the objects of an array."""
        value = self._table.get(key)
        return [Json(item) for item in value if isinstance(item, dict)] if isinstance(value, list) else []

    def words(self) -> dict[str, str]:
        """Return all that is a string, by its key."""
        return {key: value for key, value in self._table.items() if isinstance(value, str)}

    def flag(self, key: str) -> bool:
        """Tell whether a key is true."""
        return self._table.get(key) is True

    @property
    def raw(self) -> Mapping[str, object]:
        """The object itself."""
        return self._table


def read_json(path: Path, problems: list[str]) -> object:
    """Read a JSON file; a missing one is None, a damaged one too and is named in *problems*."""
    from lamella.model.documents import decode_document

    try:
        raw = find_small(path, _JSON_LIMIT)
        return None if not raw else decode_document(raw, limit=_JSON_LIMIT, what=str(path))
    except (DataLoss, InvalidArgument) as error:
        problems.append(str(error))
        return None


def parse_json(text: str, what: str, problems: list[str]) -> Json:
    """Decode JSON that lies inside another record."""
    from lamella.model.documents import decode_document

    if not text:
        return Json(None)
    try:
        return Json(decode_document(text.encode("utf-8", "replace"), limit=_JSON_LIMIT, what=what))
    except InvalidArgument as error:
        problems.append(str(error))
        return Json(None)


def first_file(*paths: Path) -> Path | None:
    """Return the first path that is a regular file and no link."""
    return next((path for path in paths if path.is_file() and not path.is_symlink()), None)


def leads_away(home: Path, name: str, part: str = "") -> bool:
    """Tell whether a link stands for a layer's directory below *home*, or for the *part* of it with the files."""
    return os.path.islink(f"{home}/{name}") or (part != "" and os.path.islink(f"{home}/{name}/{part}"))


def familiar_names(references: Iterable[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Sort full references into familiar ones with a tag and familiar ones with a digest; what is none is left out."""
    tags: list[str] = []
    digests: list[str] = []
    for text in references:
        try:
            reference = parse_reference(text)
        except InvalidArgument:
            continue
        if reference.digest is not None:
            digests.append(reference.familiar())
        elif reference.tag is not None:
            tags.append(reference.familiar())
    return tuple(dict.fromkeys(tags)), tuple(dict.fromkeys(digests))


def local_volumes(home: Path) -> tuple[VolumeRecord, ...]:
    """Return the volumes ``<home>/<name>/_data`` of a local volume driver, Docker's or Podman's."""
    from lamella.model.gojson import format_time

    found: list[VolumeRecord] = []
    for name in list_names(home) if is_directory(home) else []:
        directory = home / name
        if not is_directory(directory) or not is_directory(directory / "_data"):
            continue
        try:
            changed = os.lstat(directory).st_ctime_ns
        except FileNotFoundError:
            continue
        options = Json(read_json(directory / "opts.json", []))
        mounts = options.text("MountDevice") or options.text("MountType")
        found.append(VolumeRecord(name, directory / "_data", format_time(changed // 10**9 * 10**9), mounts))
    return tuple(found)


def live_process(pid: int, trace: str) -> int:
    """Return *pid* if it is a process whose mounts mention *trace*, the name of its writable layer, else 0.

    A record of a dead engine, or of another machine, may name a process that has nothing to do with it.
    """
    if pid <= 1:
        return 0
    try:
        mounts = Path(f"/proc/{pid}/mountinfo").read_bytes()
    except OSError:  # gone, or not ours to ask
        return 0
    return pid if trace.encode() in mounts else 0


class Running:
    """Which process runs on which writable layer, as the kernel's mount tables have it.

    For stores that do not say it: each mount namespace is looked at once, its first process is taken.
    """

    def __init__(self) -> None:
        self._roots: dict[str, int] | None = None
        self._mounts: dict[str, str] | None = None

    def merged(self, directory: Path) -> Path | None:
        """Return where an overlay that is written to *directory* is mounted, as this process sees it."""
        if self._mounts is None:
            from lamella.linux.mountinfo import read_mountinfo

            self._mounts = {}
            for entry in read_mountinfo():
                for option in entry.super_options.split(",") if entry.fstype == "overlay" else ():
                    if option.startswith("upperdir="):
                        self._mounts.setdefault(option.removeprefix("upperdir="), entry.target)
        target = self._mounts.get(os.fspath(directory))
        return None if target is None else Path(target)

    def find(self, directory: Path) -> int:
        """Return the first process whose ``/`` is written to *directory*, or is it; 0 if there is none."""
        if self._roots is None:
            self._roots = dict(_roots())
        text = os.fspath(directory)
        for place, pid in self._roots.items():
            # A bind's place counts from the top of its file system, which may lie deeper or higher than our own `/`.
            deeper = len(place) > 16 and text.endswith(place if place.startswith("/") else f"/{place}")
            if place == text or deeper or (len(text) > 16 and place.endswith(text)):
                return pid
        return 0


def _roots() -> Iterable[tuple[str, int]]:
    from lamella.linux.mountinfo import read_mountinfo

    first: dict[str, int] = {os.readlink("/proc/self/ns/mnt"): 0}
    for name in sorted((name for name in os.listdir("/proc") if name.isdigit()), key=int):
        try:
            namespace = os.readlink(f"/proc/{name}/ns/mnt")
            if namespace in first or not _first_in_namespace(name):
                continue
            root = next((entry for entry in read_mountinfo(name) if entry.target == "/"), None)
        except (OSError, ValueError):  # gone meanwhile, or not ours to ask
            continue
        first[namespace] = int(name)
        if root is None:
            continue
        if root.fstype != "overlay":
            yield root.root, int(name)
            continue
        for option in root.super_options.split(","):
            if option.startswith("upperdir="):
                yield option.removeprefix("upperdir="), int(name)


def _first_in_namespace(pid: str) -> bool:
    """Tell whether a process is the first of its PID namespace, or is in the host's, where the oldest is taken."""
    for line in Path(f"/proc/{pid}/status").read_text(errors="replace").splitlines():
        if line.startswith("NSpid:"):
            numbers = line.split()[1:]
            return len(numbers) == 1 or numbers[-1] == "1"
    return True


def recorded_status(state: Mapping[str, object], *, alive: bool) -> str:
    """Spell Docker's flags of a container as its one word; what is said to run but does not has exited."""
    if state.get("Running") is True:
        if not alive:
            return "exited"
        if state.get("Paused") is True:
            return "paused"
        return "restarting" if state.get("Restarting") is True else "running"
    if state.get("Dead") is True:
        return "dead"
    if state.get("RemovalInProgress") is True:
        return "removing"
    return "created" if state.get("StartedAt", ZERO_TIME) in (ZERO_TIME, "") else "exited"

"""What Podman knows of its containers beyond their layers: ``libpod/bolt_state.db``, or ``db.sql`` since Podman 4.8.

Both hold the same two JSON documents a container, its configuration and its state.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from lamella.errors import DataLoss, NotFound
from lamella.readers.base import ContainerFacts
from lamella.readers.bolt import Bolt
from lamella.readers.common import Json, parse_json
from lamella.store.smallfiles import is_directory

_STATES: Final = {
    1: "created",
    2: "created",
    3: "running",
    4: "exited",
    5: "paused",
    6: "exited",
    7: "removing",
    8: "running",
}
_QUERY: Final = "SELECT c.ID, c.JSON, s.JSON FROM ContainerConfig c JOIN ContainerState s ON c.ID = s.ID LIMIT 100000"
_VOLUMES: Final = "SELECT Name, JSON FROM VolumeConfig LIMIT 100000"


class PodmanState(NamedTuple):
    """One container as Podman has it."""

    config: Json
    state: Json

    @property
    def status(self) -> str:
        """Docker's word for its state; empty if there is none, or nothing is known."""
        return _STATES.get(self.state.number("state") or 0, "")

    @property
    def facts(self) -> ContainerFacts:
        """What its spec does not say."""
        config, state = self.config, self.state
        signal = config.number("stopSignal")
        return ContainerFacts(
            labels=config.child("labels").words(),
            stop_signal=str(signal) if signal else "",
            extra_hosts=tuple(config.texts("hostsAdd")),
            shm_size=config.number("shmSize") or None,
            exit_code=state.number("exitCode") or 0,
            started=state.text("startedTime"),
            finished=state.text("finishedTime"),
        )

    @property
    def pid(self) -> int:
        """The process that was started last, 0 if none was."""
        return self.state.number("pid") or 0


UNKNOWN: Final = PodmanState(Json(None), Json(None))


def read_states(root: Path, problems: list[str]) -> dict[str, PodmanState]:
    """Return what Podman says of each container of the store at *root*; nothing if no Podman keeps it."""
    found: dict[str, PodmanState] = {}
    try:
        for container_id, config, state in _documents(root):
            name = f"state of container {container_id[:12]}"
            found[container_id] = PodmanState(parse_json(config, name, problems), parse_json(state, name, problems))
    except DataLoss as error:
        problems.append(str(error))
    return found


def read_volume_mounts(root: Path, problems: list[str]) -> dict[str, str]:
    """Return what the options of each of Podman's volumes mount there, a device or directory; plain ones are left out."""
    found: dict[str, str] = {}
    try:
        for name, text in _volume_documents(root):
            options = parse_json(text, f"volume {name[:80]}", problems).child("volumeOptions")
            mounts = options.text("device") or options.text("type")
            if mounts:
                found[name] = mounts
    except DataLoss as error:
        problems.append(str(error))
    return found


def _volume_documents(root: Path) -> Iterator[tuple[str, str]]:
    if os.path.lexists(root / "db.sql"):
        for name, text in _query(root / "db.sql", _VOLUMES):
            yield name, text
    elif is_directory(root / "libpod"):
        try:
            file = Bolt.open(root / "libpod" / "bolt_state.db")
        except NotFound:
            return
        for name, bucket in file.root.buckets("vol"):
            yield name, bucket.text("config")


def _documents(root: Path) -> Iterator[tuple[str, str, str]]:
    if os.path.lexists(root / "db.sql"):
        for container_id, config, state in _query(root / "db.sql", _QUERY):
            yield container_id, config, state
    elif is_directory(root / "libpod"):
        try:
            file = Bolt.open(root / "libpod" / "bolt_state.db")
        except NotFound:
            return
        for container_id, bucket in file.root.buckets("ctr"):
            yield container_id, bucket.text("config"), bucket.text("state")


def _query(path: Path, query: str) -> Iterator[tuple[str, ...]]:
    """Read the database as it lies there, without its locks: Podman writes it in place of nothing it needs."""
    import sqlite3
    from urllib.parse import quote

    if not stat.S_ISREG(os.lstat(path).st_mode):
        raise DataLoss(f"{path}: not a regular file")
    try:
        # "immutable" keeps SQLite from making or looking for any file beside it.
        connection = sqlite3.connect(f"file:{quote(os.fspath(path))}?mode=ro&immutable=1", uri=True)
        try:
            connection.execute("PRAGMA trusted_schema = OFF")
            rows = connection.execute(query).fetchall()
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise DataLoss(f"{path} cannot be read: {error}") from error
    for row in rows:
        if all(isinstance(item, str) for item in row):
            yield row

"""Docker's container documents as records, whichever store keeps the layers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from lamella.drivers import open_driver
from lamella.errors import LamellaError
from lamella.readers.base import ContainerRecord
from lamella.readers.common import first_file, live_process, recorded_status
from lamella.store.containerdb import ContainerDB
from lamella.store.containerdb import ContainerRecord as Documents
from lamella.store.dataroot import DataRoot
from lamella.store.smallfiles import is_directory


def iter_documents(root: Path, problems: list[str]) -> Iterator[tuple[Documents, Path]]:
    """Yield the documents of every container below *root*, of whatever driver, and its directory."""
    data_root = DataRoot(root, open_driver("overlay2", root, root / "lamella"), writable=False)
    database = ContainerDB(data_root)
    if not is_directory(database.directory):
        return
    for container in database.iter_ids():
        directory = database.path(container)
        if not is_directory(directory):
            continue
        try:
            record = database.find(container)
        except LamellaError as error:
            problems.append(str(error))
            continue
        if record is not None:
            yield record, directory


def describe_container(
    record: Documents,
    directory: Path,
    *,
    layers: tuple[str, ...],
    trace: str,
    merged: Path | None,
    image: str,
) -> ContainerRecord:
    """Say what a container's documents say; *trace* is what the mounts of its process must mention."""
    pid = live_process(record.pid, trace) if record.running and trace else 0
    return ContainerRecord(
        id=record.id,
        name=record.name,
        image=image,
        image_name=record.image_name,
        created=record.created,
        status=recorded_status(record.state, alive=pid > 0),
        pid=pid,
        layers=layers,
        merged=merged,
        log=first_file(directory / f"{record.id}-json.log", directory / "local-logs" / "container.log"),
        directory=directory,
        volumes=_volumes_of(record),
    )


def _volumes_of(record: Documents) -> tuple[str, ...]:
    table = record.config.get("MountPoints")
    mounts = table.values() if isinstance(table, dict) else ()
    return tuple(
        str(mount["Name"])
        for mount in mounts
        if isinstance(mount, dict) and mount.get("Name") and mount.get("Type", "volume") in ("volume", "")
    )

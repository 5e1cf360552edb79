"""Containers: ``containers/<id>/{config.v2.json,hostconfig.json}``, in the shape that dockerd lists and starts.

A record keeps the whole documents, fields that lamella does not know included, and shows the others as properties.
What states mean and which changes are allowed is for the packages above; the log file is only named here.

Commit point: the rename of ``config.v2.json``, written after ``hostconfig.json``.  Names are unique: they are compared
under the store lock whenever a record with a new name is written.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import cast

from lamella.errors import AlreadyExists, DataLoss, InvalidArgument, NotFound
from lamella.fs.atomic import fsync_dir, write_file
from lamella.model.digest import ImageID
from lamella.model.documents import decode_object
from lamella.model.gojson import ZERO_TIME, encode
from lamella.model.ids import ContainerID, short_id
from lamella.store.dataroot import DataRoot
from lamella.store.smallfiles import find_small, is_directory, list_names, read_small

_LIMIT = 8 << 20
_ID = re.compile(r"[0-9a-f]{64}", re.ASCII)
_PREFIX = re.compile(r"[0-9a-f]{1,64}", re.ASCII)
_LEFTOVER = re.compile(r"\.tmp-.*[0-9]+", re.ASCII)
CONFIG, HOST_CONFIG = "config.v2.json", "hostconfig.json"

Document = dict[str, object]


class ContainerRecord:
    """One container's two documents; changing a property changes the document, ``ContainerDB.write`` stores both."""

    def __init__(self, config: Document, host_config: Document) -> None:
        self.config = config
        self.host_config = host_config

    @property
    def id(self) -> ContainerID:
        """The container ID."""
        return ContainerID(str(self.config["ID"]))

    @property
    def name(self) -> str:
        """The name, without its slash."""
        return str(self.config.get("Name") or "").removeprefix("/")

    @name.setter
    def name(self, name: str) -> None:
        self.config["Name"] = f"/{name}"

    @property
    def image(self) -> ImageID:
        """The ID of the image it was made from."""
        return cast("ImageID", str(self.config.get("Image") or ""))

    @property
    def image_name(self) -> str:
        """What the user called the image."""
        return str(self.settings.get("Image") or "")

    @property
    def created(self) -> str:
        """When it was created."""
        return str(self.config.get("Created") or ZERO_TIME)

    @property
    def driver(self) -> str:
        """The storage driver its layer belongs to."""
        return str(self.config.get("Driver") or "")

    @property
    def path(self) -> str:
        """The program that runs."""
        return str(self.config.get("Path") or "")

    @property
    def args(self) -> list[str]:
        """The program's arguments."""
        args = self.config.get("Args")
        return [str(item) for item in args] if isinstance(args, list) else []

    @property
    def settings(self) -> Document:
        """Docker's ``Config`` object."""
        return self._object("Config")

    @property
    def state(self) -> Document:
        """Docker's ``State`` object, to be changed in place."""
        return self._object("State")

    @property
    def network_settings(self) -> Document:
        """Docker's ``NetworkSettings`` object, to be changed in place."""
        return self._object("NetworkSettings")

    @property
    def running(self) -> bool:
        """Whether the record says that it runs; only the runtime knows."""
        return self.state.get("Running") is True

    @property
    def paused(self) -> bool:
        """Whether the record says that it is paused."""
        return self.state.get("Paused") is True

    @property
    def pid(self) -> int:
        """The first process, 0 if there is none."""
        pid = self.state.get("Pid")
        return pid if isinstance(pid, int) else 0

    @property
    def exit_code(self) -> int:
        """How it ended last."""
        code = self.state.get("ExitCode")
        return code if isinstance(code, int) else 0

    @property
    def started_at(self) -> str:
        """When it was started last; Go's zero time if never."""
        return str(self.state.get("StartedAt") or ZERO_TIME)

    @property
    def finished_at(self) -> str:
        """When it ended last; Go's zero time if never."""
        return str(self.state.get("FinishedAt") or ZERO_TIME)

    def _object(self, key: str) -> Document:
        value = self.config.get(key)
        if not isinstance(value, dict):
            value = self.config[key] = {}
        return value


def new_record(
    id: ContainerID,  # noqa: A002  (the vocabulary's word)
    *,
    name: str,
    created: str,
    path: str,
    args: list[str],
    settings: Document,
    image: ImageID | str,
    host_config: Document,
    driver: str,
    architecture: str = "amd64",
    network: str = "none",
) -> ContainerRecord:
    """Make the record of a container that was never started, with every field that dockerd 20.10 and 28 need."""
    config: Document = {
        "StreamConfig": {},
        "State": {
            "Running": False,
            "Paused": False,
            "Restarting": False,
            "OOMKilled": False,
            "RemovalInProgress": False,
            "Dead": False,
            "Pid": 0,
            "ExitCode": 0,
            "Error": "",
            "StartedAt": ZERO_TIME,
            "FinishedAt": ZERO_TIME,
            "Health": None,
        },
        "ID": id,
        "Created": created,
        "Managed": False,
        "Path": path,
        "Args": args,
        "Config": settings,
        "Image": image,
        "NetworkSettings": {
            "Bridge": "",
            "SandboxID": "",
            "HairpinMode": False,
            "LinkLocalIPv6Address": "",
            "LinkLocalIPv6PrefixLen": 0,
            # An empty object here would make dockerd panic at start of the container.
            "Networks": {network: {"NetworkID": "", "EndpointID": ""}},
            "Service": None,
            "Ports": None,
            "SandboxKey": "",
            "SecondaryIPAddresses": None,
            "SecondaryIPv6Addresses": None,
            "IsAnonymousEndpoint": False,
            "HasSwarmEndpoint": False,
        },
        "LogPath": "",
        "Name": f"/{name}",
        "Driver": driver,
        "OS": "linux",
        "ImagePlatform": {"architecture": architecture, "os": "linux"},
        "MountLabel": "",
        "ProcessLabel": "",
        "RestartCount": 0,
        "HasBeenStartedBefore": False,
        "HasBeenManuallyStopped": False,
        "MountPoints": {},
        "SecretReferences": None,
        "ConfigReferences": None,
        "AppArmorProfile": "",
        "HostnamePath": "",
        "HostsPath": "",
        "ShmPath": "",
        "ResolvConfPath": "",
        "SeccompProfile": "",
        "NoNewPrivileges": False,
        "LocalLogCacheMeta": {"HaveNotifyEnabled": False},
    }
    return ContainerRecord(config, host_config)


class ContainerDB:
    """The directory ``containers`` of one data-root."""

    def __init__(self, root: DataRoot) -> None:
        self._root = root
        self.directory = root.containers_dir

    def path(self, id: ContainerID) -> Path:  # noqa: A002  (the vocabulary's word)
        """Return a container's directory."""
        if _ID.fullmatch(id) is None:
            raise InvalidArgument(f"{id!r} is not the full ID of a container")
        return self.directory / id

    def log_path(self, id: ContainerID) -> Path:  # noqa: A002  (the vocabulary's word)
        """Return where a container's json-file log is."""
        return self.path(id) / f"{id}-json.log"

    # ------------------------------------------------------------------------------------------------ reading

    def get(self, id: ContainerID) -> ContainerRecord:  # noqa: A002  (the vocabulary's word)
        """Read one container.  Raises NotFound, or DataLoss naming what is wrong with its documents."""
        path = self.path(id)
        try:
            raw = read_small(path / CONFIG, _LIMIT)
        except (FileNotFoundError, NotADirectoryError):
            raise NotFound(f"No such container: {id}") from None
        try:
            config = decode_object(raw, limit=_LIMIT, what=str(path / CONFIG))
            raw_host = find_small(path / HOST_CONFIG, _LIMIT)
            host = {} if raw_host is None else decode_object(raw_host, limit=_LIMIT, what=str(path / HOST_CONFIG))
        except InvalidArgument as error:
            raise DataLoss(f"container {id[:12]}: {error}") from error
        if config.setdefault("ID", id) != id:
            raise DataLoss(f"container {id[:12]}: its record says it is {str(config['ID'])[:80]!r}")
        return ContainerRecord(config, host)

    def find(self, id: ContainerID) -> ContainerRecord | None:  # noqa: A002  (the vocabulary's word)
        """Read one container, or return None if there is none."""
        try:
            return self.get(id)
        except NotFound:
            return None

    def iter_ids(self) -> Iterator[ContainerID]:
        """Yield the ID of every container directory, with or without a record."""
        for name in list_names(self.directory):
            if _ID.fullmatch(name):
                yield ContainerID(name)

    def iter_records(self) -> Iterator[ContainerRecord]:
        """Yield every sound container of this data-root's driver; damaged ones are reported."""
        for container_id in self.iter_ids():
            try:
                record = self.get(container_id)
            except NotFound:
                continue
            except DataLoss as error:
                self._root.report(str(error))
                continue
            if record.driver == self._root.driver.name:
                yield record

    def resolve(self, text: str) -> ContainerRecord:
        """Return the container of a full ID, a name, or the beginning of an ID, tried in this order.

        Raises NotFound, or InvalidArgument if several IDs begin so.
        """
        if _ID.fullmatch(text):
            found = self.find(ContainerID(text))
            if found is not None:
                return found
        wanted = text.removeprefix("/")
        named = self.find_name(wanted)
        if named is not None:
            return self.get(named)
        if _PREFIX.fullmatch(text):
            matches = [container_id for container_id in self.iter_ids() if container_id.startswith(text)]
            if len(matches) > 1:
                raise InvalidArgument(f"{text} is ambiguous: {len(matches)} container IDs begin with it")
            if matches:
                return self.get(matches[0])
        raise NotFound(f"No such container: {text}")

    def find_name(self, name: str) -> ContainerID | None:
        """Return the ID of the container that bears ``name``."""
        # Most records need no parsing to see that they bear another name.
        needle = encode(f"/{name}")
        for container_id in self.iter_ids():
            try:
                raw = find_small(self.path(container_id) / CONFIG, _LIMIT)
                if raw is not None and needle in raw and self.get(container_id).name == name:
                    return container_id
            except (NotFound, DataLoss):
                continue
        return None

    def names(self) -> set[str]:
        """Return every name that is taken."""
        return {record.name for record in self.iter_records()}

    # ------------------------------------------------------------------------------------------------ writing

    def write(self, record: ContainerRecord, *, host_config: bool = True, sync: bool = True) -> None:
        """Store a container, new or changed; durable on return unless ``sync`` is off.

        Without ``host_config`` that document is left as it is.  Raises AlreadyExists if another bears its name.
        """
        path = self.path(record.id)
        with self._root.writing():
            known = is_directory(path)
            if not known and path.is_symlink():
                raise DataLoss(f"{path}: a symbolic link stands where a container's directory is due; remove it")
            previous = find_small(path / CONFIG, _LIMIT) if known else None
            if self._name_in(previous) != record.name:
                other = self.find_name(record.name)
                if other is not None and other != record.id:
                    raise AlreadyExists(
                        f'Conflict. The container name "/{record.name}" is already in use by container "{other}". '
                        "You have to remove (or rename) that container to be able to reuse that name."
                    )
            if not known:
                self._make_directory(path)
            for name in list_names(path):
                if _LEFTOVER.fullmatch(name):
                    (path / name).unlink(missing_ok=True)
            if host_config or previous is None:
                host = encode(record.host_config, newline=True)
                write_file(path / HOST_CONFIG, host, mode=0o600, sync=sync, sync_directory=False)
            write_file(path / CONFIG, encode(record.config, newline=True), mode=0o600, sync=sync)

    def remove(self, id: ContainerID) -> None:  # noqa: A002  (the vocabulary's word)
        """Remove a container's directory, its record first; its writable layer must be gone already."""
        from lamella.fs.tree import remove_tree

        path = self.path(id)
        with self._root.writing():
            if not os.path.lexists(path):
                raise NotFound(f"No such container: {short_id(id)}")
            if is_directory(path):
                (path / CONFIG).unlink(missing_ok=True)
            remove_tree(path)
            fsync_dir(self.directory)

    @staticmethod
    def _name_in(raw: bytes | None) -> str | None:
        """Return the name in a container's document; None if there is none to be read."""
        try:
            return None if raw is None else ContainerRecord(decode_object(raw, limit=_LIMIT, what=CONFIG), {}).name
        except InvalidArgument:
            return None

    def _make_directory(self, path: Path) -> None:
        for directory, mode in ((path, 0o710), (path / "checkpoints", 0o700), (path / "mounts", 0o710)):
            os.mkdir(directory, mode)
            os.chmod(directory, mode)
        fsync_dir(self.directory)

"""Containers from another store into ours: the writable layer, the record, the log, the volumes.

Docker's documents are taken as they are, with the paths of the new place.  From the others' OCI specs comes what has a
word in Docker's documents: command, environment, user, directory, terminal, binds, volumes, and what it is confined
to (``adoptlimits``).  A container arrives stopped.
"""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path
from typing import Final

from lamella.changeset.whiteout import FOREIGN_XATTRS, OPAQUE_XATTR, OVERLAY_PREFIXES, PREFIX
from lamella.container.create import fill_container_init
from lamella.container.volumes import Volumes, make_mount_points, plan_mounts
from lamella.errors import AlreadyExists, Conflict, DataLoss, InvalidArgument, Unsupported
from lamella.fs.rooted import Root
from lamella.fs.walk import walk
from lamella.insight.adoptlayers import write_files
from lamella.insight.adoptlimits import plan_confinement
from lamella.insight.adoptvolumes import VolumeMover
from lamella.model.containerconfig import host_config_document
from lamella.model.digest import ChainID, ImageID, digest_of, hex_of
from lamella.model.documents import decode_object
from lamella.model.gojson import ZERO_TIME
from lamella.model.ids import ContainerID, generate_name, is_container_id, parse_container_name
from lamella.model.imageconfig import ContainerSettings, ImageConfig, settings_document
from lamella.readers.base import ContainerFacts, ContainerRecord, StoredLayer, StoreReader
from lamella.readers.common import Json
from lamella.store.containerdb import CONFIG, HOST_CONFIG, new_record
from lamella.store.containerdb import ContainerRecord as Documents
from lamella.store.imagestore import ImageStore
from lamella.store.mountdb import RWLayer
from lamella.store.pipes import reading_from
from lamella.store.smallfiles import find_small
from lamella.store.transactions import Transaction

_LIMIT: Final = 8 << 20
#: What an engine sets by itself; another one sets it otherwise.
_ENGINE_VARIABLES: Final = ("HOME=/root", "TERM=xterm", "container=podman", "container=oci", "container=docker")
_PROPAGATION: Final = frozenset(
    {"private", "rprivate", "shared", "rshared", "slave", "rslave", "unbindable", "runbindable"}
)
_ENGINE_PLACES: Final = (
    "/dev", "/proc", "/sys", "/run/secrets", "/run/.containerenv", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf",
)  # fmt: skip


def refuse_container(store: ImageStore, container: ContainerRecord) -> None:
    """Raise what keeps a container from being adopted at all, as far as a look at the records tells.

    Raises Conflict for one that runs, AlreadyExists for a name that is taken here.
    """
    if container.pid:
        raise Conflict(f"it runs as process {container.pid}: stop it first")
    if not container.layers:
        raise DataLoss("its writable layer is missing")
    other = store.containers.find_name(container.name)
    if other is not None and other != owner_of(container):
        raise AlreadyExists(f"container {other[:12]} here bears its name: rename one of them")


def known_container(store: ImageStore, container: ContainerRecord) -> bool:
    """Tell whether a container is in our store already."""
    return store.containers.find(owner_of(container)) is not None


def adopt_container(
    store: ImageStore,
    reader: StoreReader,
    container: ContainerRecord,
    *,
    top: ChainID | None,
    image: str,
    config: ImageConfig | None,
    volumes: VolumeMover,
    tx: Transaction,
) -> list[str]:
    """Make a container of ours of one of the other store's, on the layer *top*, which is published.

    Returns what is to be said about it.  Raises Unsupported for a writable layer that cannot be understood alone.
    """
    notes: list[str] = []
    owner = owner_of(container)
    layer = reader.find_layer(container.layers[-1])
    if layer is None or layer.role == "image":
        raise DataLoss("its writable layer is missing")
    _refuse_own_root(reader, container, layer)
    below = reader.find_layer(container.layers[-2]) if len(container.layers) > 1 else None
    rw = store.rwlayers.create(owner, top, tx=tx, init=fill_container_init, sync=False)
    _fill(store, rw, layer, below)
    documents = _docker_documents(container)
    if documents is not None:
        for volume in dict.fromkeys(container.volumes):
            volumes.need(volume, notes)
        record = _moved_record(store, documents, container, owner, image)
    else:
        record = _mapped_record(store, reader, container, owner, image, config, volumes, notes)
    _take_log(store, container, owner, docker=documents is not None)
    store.root.sync()
    store.containers.write(record)
    return notes


def _refuse_own_root(reader: StoreReader, container: ContainerRecord, layer: StoredLayer) -> None:
    """Raise Unsupported for a container of Podman's whose files are a directory outside its store."""
    spec = Json(reader.container_spec(container)) if reader.kind == "containers-storage" else Json(None)
    root = spec.child("root").text("path")
    if os.path.isabs(root) and layer.directory_id not in root.split("/"):
        raise Unsupported(f"its files are those of {root}, outside the store: import that directory as an image")


def owner_of(container: ContainerRecord) -> ContainerID:
    """Return the ID that a container has here: its own, or for one that is no ID of Docker's always the same."""
    if is_container_id(container.id):
        return ContainerID(container.id)
    return ContainerID(hex_of(digest_of(f"{container.id} {container.created}".encode("utf-8", "surrogateescape"))))


# ------------------------------------------------------------------------------------------------ the files


def _fill(store: ImageStore, rw: RWLayer, layer: StoredLayer, below: StoredLayer | None) -> None:
    """Put a writable layer's files into ours."""
    from lamella.fs.tree import copy_tree

    if not layer.directory.is_dir():
        raise DataLoss(f"{layer.directory}, its writable layer, is missing")
    if not layer.whole and store.root.driver.name == "overlay2":
        target = store.root.path / "overlay2" / rw.mount_id / "diff"
        os.rmdir(target)
        copy_tree(layer.directory, target)
        _settle(target)
        return
    if below is None and layer.whole:
        raise DataLoss("the layer below its writable layer is missing")
    lower = rw.init_id if rw.init_id is not None else None
    with reading_from(lambda sink: write_files(layer, below, sink)) as stream:
        store.root.driver.apply(rw.mount_id, lower, stream)


def _settle(upper: Path) -> None:
    """Check that an overlay's upper directory can be understood alone, and rid it of what ties it to its old place."""
    with Root(upper) as root:
        for path in (b"", *(entry.path for entry in walk(root.fd, cross_mounts=False))):
            if path.rpartition(b"/")[2].startswith(PREFIX):
                raise Unsupported(
                    f"its writable layer keeps deletions as files ({os.fsdecode(path)}), not as overlay does"
                )
            # "." below the descriptor: the magic link itself has no attributes of the directory's.
            place = os.path.join(f"/proc/self/fd/{root.fd}".encode(), path or b".")
            for text in os.listxattr(place, follow_symlinks=False):
                name = os.fsencode(text)
                if name in FOREIGN_XATTRS:
                    raise Unsupported(
                        f"its writable layer has {text} on {os.fsdecode(path)!r}: it was written with redirect_dir or "
                        "metacopy on, and means nothing without its old lower layers; commit it there first"
                    )
                if name.startswith(OVERLAY_PREFIXES) and name != OPAQUE_XATTR:
                    os.removexattr(place, text, follow_symlinks=False)


def _take_log(store: ImageStore, container: ContainerRecord, owner: ContainerID, *, docker: bool) -> None:
    """Copy a container's log; Podman's is in the form of the monitor that wrote it, as ours is."""
    from lamella.runtime.logs import settle_log
    from lamella.runtime.monitor import LOG_NAME

    directory = store.containers.path(owner)
    for place, mode in ((directory, 0o710), (directory / "checkpoints", 0o700), (directory / "mounts", 0o710)):
        place.mkdir(mode=mode)
        place.chmod(mode)
    if container.log is None:
        return
    target = store.containers.log_path(owner)
    if not docker:
        _copy_file(container.log, directory / LOG_NAME)
        settle_log(directory, owner)
    elif container.log.name == f"{container.id}-json.log":
        for path in sorted(container.log.parent.glob(f"{container.log.name}*")):
            if path.is_file() and not path.is_symlink():
                _copy_file(path, directory / path.name.replace(container.id, owner, 1))
        if target.exists():
            target.chmod(0o640)


def _copy_file(source: Path, target: Path) -> None:
    fd = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(fd, "rb") as reading:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise DataLoss(f"{source} is not a regular file")
        out = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
        with open(out, "wb") as writing:
            shutil.copyfileobj(reading, writing, 1 << 20)


# ------------------------------------------------------------------------------------------------ the record


def _docker_documents(container: ContainerRecord) -> Documents | None:
    """Return the documents that Docker keeps of a container, None if it is another engine's."""
    if container.directory is None:
        return None
    raw = find_small(container.directory / CONFIG, _LIMIT)
    if raw is None:
        return None
    raw_host = find_small(container.directory / HOST_CONFIG, _LIMIT)
    config = decode_object(raw, limit=_LIMIT, what=CONFIG)
    host = {} if raw_host is None else decode_object(raw_host, limit=_LIMIT, what=HOST_CONFIG)
    return Documents(config, host)


def _moved_record(
    store: ImageStore, record: Documents, container: ContainerRecord, owner: ContainerID, image: str
) -> Documents:
    """Give Docker's documents the paths and the driver of their new place, and no running process."""
    directory = store.containers.path(owner)
    record.name = _name(store, container)
    record.config.update(
        ID=owner,
        Image=image,
        Driver=store.root.driver.name,
        LogPath=str(store.containers.log_path(owner)) if record.config.get("LogPath") else "",
        HostnamePath=str(directory / "hostname"),
        HostsPath=str(directory / "hosts"),
        ResolvConfPath=str(directory / "resolv.conf"),
        ShmPath="",
    )
    record.config.pop("ImageManifest", None)
    if record.running:
        record.state.update(ExitCode=255, FinishedAt=record.started_at)
    record.state.update(Running=False, Paused=False, Restarting=False, Pid=0, Dead=False, RemovalInProgress=False)
    table = record.config.get("MountPoints")
    for mount in table.values() if isinstance(table, dict) else ():
        if isinstance(mount, dict) and mount.get("Name") and mount.get("Source"):
            mount["Source"] = str(store.root.path / "volumes" / str(mount["Name"]) / "_data")
    return record


def _mapped_record(
    store: ImageStore,
    reader: StoreReader,
    container: ContainerRecord,
    owner: ContainerID,
    image: str,
    config: ImageConfig | None,
    volumes: VolumeMover,
    notes: list[str],
) -> Documents:
    """Write Docker's documents for another engine's container, from its OCI spec and its image."""
    spec = Json(reader.container_spec(container))
    process = spec.child("process")
    arguments = process.texts("args")
    hostname = spec.text("hostname") or owner[:12]
    facts = container.facts or ContainerFacts()
    own = ContainerSettings() if config is None else config.config
    settings = ContainerSettings(
        hostname=hostname,
        user=_user(process.child("user")),
        tty=process.flag("terminal"),
        open_stdin=process.flag("terminal"),
        env=tuple(entry for entry in process.texts("env") if entry not in (*_ENGINE_VARIABLES, f"HOSTNAME={hostname}")),
        cmd=tuple(arguments),
        image=container.image_name or image,
        working_dir=process.text("cwd"),
        labels={**own.labels, **facts.labels},
        stop_signal=_signal(facts.stop_signal) or own.stop_signal,
    )
    if not arguments and config is not None:
        image_settings = config.config
        arguments = [*(image_settings.entrypoint or ()), *(image_settings.cmd or ())]
    if not arguments:
        notes.append("its command is not known: it can be copied from and committed, not started")
    namespaces = {entry.text("type") for entry in spec.child("linux").children("namespaces")}
    binds = _binds(reader, spec)
    network = "none" if "network" in namespaces or not namespaces else "host"
    tmpfs = _tmpfs(spec)
    host = plan_confinement(spec, facts, binds=tuple(binds), tmpfs=tmpfs, network=network, notes=notes)
    planned = plan_mounts(binds=binds, image_volumes=(), mounts=(), tmpfs=tmpfs)
    record = new_record(
        owner,
        name=_name(store, container),
        created=container.created or ZERO_TIME,
        path=arguments[0] if arguments else "",
        args=arguments[1:],
        settings=settings_document(settings),
        image=ImageID(image) if image else "",  # type: ignore[arg-type]
        host_config=host_config_document(host),
        driver=store.root.driver.name,
        architecture=(config.architecture if config is not None else "") or "amd64",
        network=host.network_mode,
    )
    if container.status != "created":
        started = facts.started or record.created
        record.state.update(StartedAt=started, FinishedAt=max(facts.finished, started), ExitCode=facts.exit_code & 0xFF)
        record.config["HasBeenStartedBefore"] = True
    for one in planned:
        if one.kind == "volume":
            volumes.need(one.source, notes)
    record.config["MountPoints"] = make_mount_points(planned, Volumes(store.root.path))
    directory = store.containers.path(owner)
    record.config.update(
        LogPath=str(store.containers.log_path(owner)),
        HostnamePath=str(directory / "hostname"),
        HostsPath=str(directory / "hosts"),
        ResolvConfPath=str(directory / "resolv.conf"),
    )
    return record


def _user(user: Json) -> str:
    uid, gid = user.number("uid") or 0, user.number("gid") or 0
    return f"{uid}:{gid}" if uid or gid else ""


def _name(store: ImageStore, container: ContainerRecord) -> str:
    try:
        return parse_container_name(container.name)
    except InvalidArgument:
        return generate_name(store.containers.names())


def _signal(text: str) -> str:
    """Return a signal's name for its name or number, empty for what is neither."""
    import signal

    try:
        return signal.Signals(int(text)).name if text.isascii() and text.isdigit() else signal.Signals[text].name
    except (KeyError, ValueError):
        return ""


def _tmpfs(spec: Json) -> dict[str, str]:
    """Return the file systems in memory that a spec mounts, with their options, but those that are made anyway."""
    found: dict[str, str] = {}
    for mount in spec.children("mounts"):
        place = mount.text("destination")
        if mount.text("type") != "tmpfs" or not place.startswith("/") or place == "/":
            continue
        if not any(place == own or place.startswith(f"{own}/") for own in _ENGINE_PLACES):
            found[place] = ",".join(option for option in mount.texts("options") if option not in _PROPAGATION)
    return found


def _binds(reader: StoreReader, spec: Json) -> list[str]:
    """Return the binds and volumes of a spec as ``--volume`` spells them, without those that an engine adds itself."""
    homes = {os.fspath(volume.directory): volume.name for volume in reader.volumes()}
    found: dict[str, str] = {}
    for mount in spec.children("mounts"):
        source, place = mount.text("source"), mount.text("destination")
        options = mount.texts("options")
        if mount.text("type") != "bind" and not {"bind", "rbind"} & set(options):
            continue
        if any(place == own or place.startswith(f"{own}/") for own in _ENGINE_PLACES):
            continue
        name = homes.get(source)
        if ":" in source + place or not source.startswith("/") or not place.startswith("/") or place == "/":
            continue
        if name is None and source.startswith((f"{reader.root}/", "/run/")):
            continue
        found[place] = f"{name or source}:{place}" + (":ro" if "ro" in options else "")
    return list(found.values())

"""Making a container: its layers, its volumes, its record.

Order: init layer and writable layer, mount record, volumes, one sync, then the record, whose rename is the commit
point.  A transaction takes all but the volumes back if any of it fails or the process dies.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

import msgspec

from lamella.container.sandbox import check_supported, read_seccomp_profile
from lamella.container.volumes import Planned, Volumes, fill_volumes, make_mount_points, plan_mounts
from lamella.errors import Conflict, InvalidArgument, PermissionDenied
from lamella.fs.rooted import Root
from lamella.model.containerconfig import HostConfig, command_of, host_config_document, merge_run_settings
from lamella.model.gojson import format_time, now_ns
from lamella.model.ids import ContainerID, generate_name, new_container_id, parse_container_name
from lamella.model.imageconfig import ContainerSettings, settings_document
from lamella.runtime.capabilities import available_capabilities, plan_capabilities
from lamella.runtime.spec import clean_directory
from lamella.store.containerdb import ContainerRecord, new_record
from lamella.store.imagedb import StoredImage
from lamella.store.imagestore import ImageStore
from lamella.store.initlayer import fill_init_layer
from lamella.store.mountdb import RWLayer

_SYSTEM_DIRECTORIES = (b"dev", b"proc", b"sys")


def create_container(
    store: ImageStore,
    image: StoredImage,
    settings: ContainerSettings,
    host_config: HostConfig | None = None,
    name: str = "",
) -> ContainerRecord:
    """Make a container of *image* and return its record; it is not started.

    *settings* are what the user asked for and are merged with the image's.  Durable on return, unless the container
    is to remove itself.  Raises InvalidArgument for what could never start, AlreadyExists for a name that is taken.
    """
    host = HostConfig() if host_config is None else host_config
    merged = merge_run_settings(image.config.config, settings)
    container = new_container_id()
    if not merged.hostname and host.network_mode != "host":
        merged = msgspec.structs.replace(merged, hostname=container[:12])
    elif not merged.hostname:
        merged = msgspec.structs.replace(merged, hostname=os.uname().nodename)
    planned = _check(image, merged, host)
    name = parse_container_name(name) if name else generate_name(store.containers.names())
    durable = not host.auto_remove
    volumes = Volumes(store.root.path)
    with store.root.transaction("create", ids=1) as tx:
        layer = store.rwlayers.create(container, image.top, tx=tx, init=fill_container_init, sync=False)
        table = make_mount_points(planned, volumes)
        _prepare(store, layer, merged, planned, table, volumes)
        record = _new_record(store, image, container, name, merged, host, table)
        if durable:
            store.root.sync()
        store.containers.write(record, sync=durable)
    store.last_use.stamp(image.id)
    return record


def _check(image: StoredImage, settings: ContainerSettings, host: HostConfig) -> list[Planned]:
    """Refuse now what could only fail at start, and return the planned mounts."""
    from lamella.container.signals import parse_signal
    from lamella.runtime.spec import parse_security_options

    if image.config.os not in ("", "linux"):
        raise InvalidArgument(f"image {image.id[7:19]} is for {image.config.os}: only Linux images can run here")
    check_supported(host)
    plan_capabilities(
        add=host.cap_add, drop=host.cap_drop, privileged=host.privileged, available=available_capabilities()
    )
    parse_security_options(host.security_opt)
    read_seccomp_profile(host.security_opt)
    if settings.working_dir:
        clean_directory(settings.working_dir)
    if settings.stop_signal:
        parse_signal(settings.stop_signal)
    if host.auto_remove and host.restart_policy.name not in ("", "no"):
        raise Conflict("conflicting options: cannot specify both --restart and --rm")
    return plan_mounts(binds=host.binds, image_volumes=settings.volumes, mounts=host.mounts, tmpfs=host.tmpfs)


def fill_container_init(merged: Path) -> None:
    """Fill a container's init layer through its mount *merged*; InvalidArgument for an image that is not to be run."""
    for name in _SYSTEM_DIRECTORIES:
        try:
            status = os.stat(os.path.join(os.fsencode(merged), name), follow_symlinks=False)
        except FileNotFoundError:
            continue
        if not stat.S_ISDIR(status.st_mode):
            raise InvalidArgument(f"the image's /{name.decode()} is not a directory: such an image is not run")
    fill_init_layer(merged)


def _prepare(
    store: ImageStore,
    layer: RWLayer,
    settings: ContainerSettings,
    planned: list[Planned],
    table: dict[str, object],
    volumes: Volumes,
) -> None:
    """Do what needs the container's file system: volumes are filled, the working directory is made."""
    fill = any(one.kind == "volume" and one.copy for one in planned)
    if not (fill or settings.working_dir):
        return
    with store.rwlayers.mounted(layer) as merged, Root(merged) as root:
        if settings.working_dir:
            path = clean_directory(settings.working_dir)
            try:
                root.make_directories(path.encode("utf-8", "surrogateescape"))
            except NotADirectoryError:
                raise InvalidArgument(f"cannot mkdir {path}: not a directory") from None
            except PermissionError as problem:
                raise PermissionDenied(f"cannot mkdir {path} in the container") from problem
        if fill:
            fill_volumes(planned, table, volumes, root)


def _new_record(
    store: ImageStore,
    image: StoredImage,
    container: ContainerID,
    name: str,
    settings: ContainerSettings,
    host: HostConfig,
    table: dict[str, object],
) -> ContainerRecord:
    program, *arguments = command_of(settings)
    record = new_record(
        container,
        name=name,
        created=format_time(now_ns()),
        path=program,
        args=arguments,
        settings=settings_document(settings),
        image=image.id,
        host_config=host_config_document(host),
        driver=store.root.driver.name,
        architecture=image.config.architecture or "amd64",
        network=host.network_mode or "none",
    )
    directory = store.containers.path(container)
    record.config.update(
        MountPoints=table,
        LogPath=str(store.containers.log_path(container)) if host.log_config.type == "json-file" else "",
        HostnamePath=str(directory / "hostname"),
        HostsPath=str(directory / "hosts"),
        ResolvConfPath=str(directory / "resolv.conf"),
        NoNewPrivileges=any(option.startswith("no-new-privileges") for option in host.security_opt),
    )
    return record

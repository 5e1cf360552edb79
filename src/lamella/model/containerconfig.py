"""What a container was created with: its host side (``HostConfig``) and how a request and an image's settings combine.

``config.v2.json`` and ``hostconfig.json`` themselves are the store's; here are the views of their parts and the
documents that go into them, complete enough for dockerd 20.10 to 28 to start the container.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

import msgspec

from lamella.errors import InvalidArgument
from lamella.model.documents import kind_of
from lamella.model.imageconfig import ContainerSettings, Healthcheck, convert, without_nulls

DEFAULT_SHM_SIZE = 64 << 20

_Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
_Documents = tuple[dict[str, Any], ...]  # parts nobody here looks into

_SPELLINGS = {
    "container_id_file": "ContainerIDFile",
    "uts_mode": "UTSMode",
    "blkio_device_read_iops": "BlkioDeviceReadIOps",
    "blkio_device_write_iops": "BlkioDeviceWriteIOps",
    "io_maximum_iops": "IOMaximumIOps",
    "io_maximum_bandwidth": "IOMaximumBandwidth",
}


def _spelling(field: str) -> str:
    return _SPELLINGS.get(field) or "".join(word.capitalize() for word in field.split("_"))


class LogConfig(msgspec.Struct, frozen=True, rename="pascal"):
    """Where the container's output goes."""

    type: str = "json-file"
    config: dict[str, str] = {}


class RestartPolicy(msgspec.Struct, frozen=True, rename="pascal"):
    """Whether to start the container again when it ends: ``no``, ``always``, ``unless-stopped``, ``on-failure``."""

    name: str = "no"
    maximum_retry_count: _Int64 = 0


class Device(msgspec.Struct, frozen=True, rename="pascal"):
    """A device of the host given to the container."""

    path_on_host: str = ""
    path_in_container: str = ""
    cgroup_permissions: str = "rwm"


class Ulimit(msgspec.Struct, frozen=True, rename="pascal"):
    """A resource limit of the container's first process."""

    name: str = ""
    hard: _Int64 = 0
    soft: _Int64 = 0


class HostConfig(msgspec.Struct, frozen=True, kw_only=True, rename=_spelling):
    """Docker's ``HostConfig``, fields in Docker's order; the defaults are those of a plain ``create``."""

    binds: tuple[str, ...] = ()
    container_id_file: str = ""
    log_config: LogConfig = LogConfig()
    network_mode: str = "none"
    port_bindings: dict[str, list[dict[str, str]] | None] = {}
    restart_policy: RestartPolicy = RestartPolicy()
    auto_remove: bool = False
    volume_driver: str = ""
    volumes_from: tuple[str, ...] = ()
    console_size: tuple[int, int] = (0, 0)
    annotations: dict[str, str] = {}
    cap_add: tuple[str, ...] = ()
    cap_drop: tuple[str, ...] = ()
    cgroupns_mode: str = "private"
    dns: tuple[str, ...] = ()
    dns_options: tuple[str, ...] = ()
    dns_search: tuple[str, ...] = ()
    extra_hosts: tuple[str, ...] = ()
    group_add: tuple[str, ...] = ()
    ipc_mode: str = "private"
    cgroup: str = ""
    links: tuple[str, ...] = ()
    oom_score_adj: _Int64 = 0
    pid_mode: str = ""
    privileged: bool = False
    publish_all_ports: bool = False
    readonly_rootfs: bool = False
    security_opt: tuple[str, ...] = ()
    storage_opt: dict[str, str] = {}
    tmpfs: dict[str, str] = {}
    uts_mode: str = ""
    userns_mode: str = ""
    shm_size: _Int64 = DEFAULT_SHM_SIZE
    sysctls: dict[str, str] = {}
    runtime: str = "runc"
    isolation: str = ""
    cpu_shares: _Int64 = 0
    memory: _Int64 = 0
    nano_cpus: _Int64 = 0
    cgroup_parent: str = ""
    blkio_weight: _Int64 = 0
    blkio_weight_device: _Documents = ()
    blkio_device_read_bps: _Documents = ()
    blkio_device_write_bps: _Documents = ()
    blkio_device_read_iops: _Documents = ()
    blkio_device_write_iops: _Documents = ()
    cpu_period: _Int64 = 0
    cpu_quota: _Int64 = 0
    cpu_realtime_period: _Int64 = 0
    cpu_realtime_runtime: _Int64 = 0
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    devices: tuple[Device, ...] = ()
    device_cgroup_rules: tuple[str, ...] = ()
    device_requests: _Documents = ()
    memory_reservation: _Int64 = 0
    memory_swap: _Int64 = 0
    memory_swappiness: _Int64 | None = None
    oom_kill_disable: bool | None = None
    pids_limit: _Int64 | None = None
    ulimits: tuple[Ulimit, ...] = ()
    cpu_count: _Int64 = 0
    cpu_percent: _Int64 = 0
    io_maximum_iops: _Int64 = 0
    io_maximum_bandwidth: _Int64 = 0
    mounts: _Documents = ()
    masked_paths: tuple[str, ...] | None = None
    readonly_paths: tuple[str, ...] | None = None
    init: bool | None = None


_OMITTED_WHEN_EMPTY = frozenset({"Annotations", "Mounts", "StorageOpt", "Tmpfs", "Sysctls", "Init"})
_NULL_WHEN_EMPTY = frozenset({
    "Binds", "VolumesFrom", "CapAdd", "CapDrop", "ExtraHosts", "GroupAdd", "Links", "SecurityOpt", "DeviceCgroupRules",
    "DeviceRequests",
})  # fmt: skip


def host_config_document(config: HostConfig) -> dict[str, object]:
    """Return Docker's ``HostConfig`` object in Docker's key order, as ``hostconfig.json`` holds it."""
    document: dict[str, object] = {}
    for key, value in msgspec.to_builtins(config).items():
        empty = not value and value is not False
        if empty and key in _OMITTED_WHEN_EMPTY:
            continue
        document[key] = (
            None if empty and key in _NULL_WHEN_EMPTY else list(value) if isinstance(value, tuple) else value
        )
    return document


def parse_host_config(document: object, *, what: str = "host config") -> HostConfig:
    """Check Docker's ``HostConfig`` object; null counts as absent, unknown keys are left out of the view."""
    if not isinstance(document, dict):
        raise InvalidArgument(f"{what}: expected an object, got {kind_of(document)}")
    fields = without_nulls(document)
    for key in ("LogConfig", "RestartPolicy"):
        part = fields.get(key)
        if isinstance(part, dict):
            fields[key] = without_nulls(part)
    return convert(fields, HostConfig, what)


def merge_run_settings(image: ContainerSettings, user: ContainerSettings) -> ContainerSettings:
    """Combine what the *user* asked for with what the *image* provides, by Docker's rules.

    ``user.cmd`` or ``user.entrypoint`` None means not given.  An entrypoint of the user's clears the image's command;
    ``("",)`` clears the image's entrypoint.  Env, labels, ports and volumes are united, the user's winning by key;
    the user's env comes first and the image's keeps its order behind it.  InvalidArgument if no command is left.
    """
    entrypoint, cmd = user.entrypoint, user.cmd
    if not entrypoint:
        cmd = cmd or image.cmd
        if entrypoint is None:
            entrypoint = image.entrypoint
    if entrypoint == ("",):
        entrypoint = None
    if not entrypoint and not cmd:
        raise InvalidArgument("no command specified")
    given = {_key(entry) for entry in user.env}
    merged = msgspec.structs.replace(
        user,
        user=user.user or image.user,
        exposed_ports=_united(user.exposed_ports, image.exposed_ports),
        env=(*user.env, *(entry for entry in image.env if _key(entry) not in given)),
        cmd=cmd,
        healthcheck=_merge_healthcheck(image.healthcheck, user.healthcheck),
        volumes=_united(user.volumes, image.volumes),
        working_dir=user.working_dir or image.working_dir,
        entrypoint=entrypoint,
        labels={**image.labels, **user.labels},
        stop_signal=user.stop_signal or image.stop_signal,
    )
    _refuse_nul(merged)
    return merged


def command_of(settings: ContainerSettings) -> tuple[str, ...]:
    """Return the argument vector: the entrypoint with the command behind it."""
    return (settings.entrypoint or ()) + (settings.cmd or ())


def environment_of(entries: Iterable[str]) -> dict[str, str]:
    """Turn ``KEY=value`` entries into the environment of a process; the last of a key counts, one without ``=`` unsets."""
    environment: dict[str, str] = {}
    for entry in entries:
        key, equals, value = entry.partition("=")
        if equals:
            environment[key] = value
        else:
            environment.pop(key, None)
    return environment


def _key(entry: str) -> str:
    return entry.partition("=")[0]


def _united(first: Iterable[str], second: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted({*first, *second}))


def _merge_healthcheck(image: Healthcheck | None, user: Healthcheck | None) -> Healthcheck | None:
    if image is None or user is None:
        return user or image
    return Healthcheck(
        test=user.test or image.test,
        interval=user.interval or image.interval,
        timeout=user.timeout or image.timeout,
        start_period=user.start_period or image.start_period,
        start_interval=user.start_interval or image.start_interval,
        retries=user.retries or image.retries,
    )


def _refuse_nul(settings: ContainerSettings) -> None:
    """No argument, variable or path can hold a NUL; the kernel would cut it there."""
    for field, texts in (
        ("Env", settings.env),
        ("Cmd", settings.cmd or ()),
        ("Entrypoint", settings.entrypoint or ()),
        ("Volumes", settings.volumes),
        ("WorkingDir", (settings.working_dir,)),
        ("User", (settings.user,)),
        ("Hostname", (settings.hostname,)),
    ):
        if any("\0" in text for text in texts):
            raise InvalidArgument(f"config: {field}: holds a NUL character")

"""What may be asked of a new container, in plain values, and how that becomes Docker's two documents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from lamella.errors import InvalidArgument
from lamella.model.containerconfig import DEFAULT_SHM_SIZE, Device, HostConfig, LogConfig, Ulimit
from lamella.model.imageconfig import ContainerSettings

MINIMUM_MEMORY = 6 << 20


class ContainerOptions(NamedTuple):
    """Options of ``Store.create_container``; each has the meaning of the flag of that name in ``docker run``."""

    name: str = ""
    """Empty: one is made up."""
    entrypoint: Sequence[str] | None = None
    """None leaves the image's; one empty string clears it."""
    env: Sequence[str] = ()
    user: str = ""
    workdir: str = ""
    hostname: str = ""
    domainname: str = ""
    labels: Mapping[str, str] = {}
    tty: bool = False
    stdin: bool = False
    """Keep standard input open."""
    attach: bool = True
    """Whether somebody will be attached at the start: stored only."""
    network: str = "none"
    binds: Sequence[str] = ()
    """``source:destination[:options]``, the source a path or a volume's name."""
    volumes: Sequence[str] = ()
    """Destinations of anonymous volumes."""
    mounts: Sequence[Mapping[str, object]] = ()
    """Docker's ``Mounts`` objects."""
    tmpfs: Mapping[str, str] = {}
    remove: bool = False
    """Remove the container when it ends."""
    read_only: bool = False
    privileged: bool = False
    cap_add: Sequence[str] = ()
    cap_drop: Sequence[str] = ()
    security: Sequence[str] = ()
    group_add: Sequence[str] = ()
    add_hosts: Sequence[str] = ()
    dns: Sequence[str] = ()
    sysctls: Mapping[str, str] = {}
    devices: Sequence[str] = ()
    ulimits: Sequence[str] = ()
    shm_size: int = DEFAULT_SHM_SIZE
    memory: int = 0
    cpus: float = 0
    pids_limit: int = 0
    stop_signal: str = ""
    stop_timeout: int | None = None
    log_driver: str = "json-file"
    log_options: Mapping[str, str] = {}
    cid_file: str = ""
    pid_mode: str = ""
    ipc_mode: str = "private"


NETWORKS = ("none", "host")
LOG_DRIVERS = ("json-file", "none")


def plan_settings(options: ContainerOptions, image: str, command: Sequence[str]) -> ContainerSettings:
    """Return what *options* say about the container's inside; the image's own settings are merged later."""
    return ContainerSettings(
        hostname=options.hostname,
        domainname=options.domainname,
        user=options.user,
        attach_stdin=options.attach and options.stdin,
        attach_stdout=options.attach,
        attach_stderr=options.attach,
        tty=options.tty,
        open_stdin=options.stdin,
        stdin_once=options.attach and options.stdin,
        env=tuple(options.env),
        cmd=tuple(command) or None,
        image=image,
        volumes=tuple(options.volumes),
        working_dir=options.workdir,
        entrypoint=None if options.entrypoint is None else tuple(options.entrypoint),
        labels=dict(options.labels),
        stop_signal=options.stop_signal,
        stop_timeout=options.stop_timeout,
    )


def plan_host_config(options: ContainerOptions) -> HostConfig:
    """Return what *options* say about the container's surroundings; raises InvalidArgument for what is not there."""
    if options.network not in NETWORKS:
        raise InvalidArgument(
            f"network {options.network!r} is not available; lamella has {' and '.join(NETWORKS)} (loopback only, or the host's)"
        )
    if options.log_driver not in LOG_DRIVERS:
        raise InvalidArgument(f"log driver {options.log_driver!r} is not available; use {' or '.join(LOG_DRIVERS)}")
    if 0 < options.memory < MINIMUM_MEMORY:
        raise InvalidArgument("Minimum memory limit allowed is 6MB")
    return HostConfig(
        binds=tuple(options.binds),
        container_id_file=options.cid_file,
        log_config=LogConfig(options.log_driver, dict(options.log_options)),
        network_mode=options.network,
        auto_remove=options.remove,
        cap_add=tuple(map(_capability, options.cap_add)),
        cap_drop=tuple(map(_capability, options.cap_drop)),
        dns=tuple(options.dns),
        extra_hosts=tuple(options.add_hosts),
        group_add=tuple(options.group_add),
        ipc_mode=options.ipc_mode,
        pid_mode=options.pid_mode,
        privileged=options.privileged,
        readonly_rootfs=options.read_only,
        security_opt=tuple(options.security),
        tmpfs=dict(options.tmpfs),
        shm_size=options.shm_size or DEFAULT_SHM_SIZE,
        sysctls=dict(options.sysctls),
        memory=options.memory,
        memory_swap=2 * options.memory,
        nano_cpus=round(options.cpus * 1_000_000_000),
        devices=tuple(map(parse_device, options.devices)),
        pids_limit=options.pids_limit if options.pids_limit > 0 else None,
        ulimits=tuple(map(parse_ulimit, options.ulimits)),
        mounts=tuple(dict(mount) for mount in options.mounts),
    )


def _capability(name: str) -> str:
    upper = name.upper()
    return upper if upper == "ALL" or upper.startswith("CAP_") else f"CAP_{upper}"


def parse_device(text: str) -> Device:
    """Parse ``host[:container[:rwm]]``."""
    host, _, rest = text.partition(":")
    inside, _, permissions = rest.partition(":")
    if inside and not inside.startswith("/") and set(inside) <= set("rwm"):
        inside, permissions = "", inside
    if not host.startswith("/") or not set(permissions) <= set("rwm"):
        raise InvalidArgument(f"bad format for device {text!r}: expected /dev/x[:/dev/y[:rwm]]")
    return Device(host, inside or host, permissions or "rwm")


def parse_ulimit(text: str) -> Ulimit:
    """Parse ``name=soft[:hard]``."""
    name, equals, limits = text.partition("=")
    soft, _, hard = limits.partition(":")
    numbers = [soft, hard or soft]
    if not name or not equals or not all(number.removeprefix("-").isdecimal() for number in numbers):
        raise InvalidArgument(f"invalid ulimit argument: {text}; expected name=soft[:hard]")
    return Ulimit(name, int(numbers[1]), int(numbers[0]))

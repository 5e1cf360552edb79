"""From a container's record and its mounted root to the runtime's configuration: the one place that looks all up."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from lamella.container.users import resolve_user
from lamella.container.volumes import Volumes, runtime_mounts
from lamella.errors import InvalidArgument, NotFound, Unsupported
from lamella.fs.rooted import Root
from lamella.model.containerconfig import HostConfig, environment_of
from lamella.model.imageconfig import ContainerSettings
from lamella.runtime.machine import read_machine
from lamella.runtime.spec import DEFAULT_PATH, MountPoint, Sandbox, build_spec, parse_security_options
from lamella.store.containerdb import ContainerRecord

_PROFILE_LIMIT: Final = 1 << 20
# Programs of the machine's 32-bit sibling need its system calls open too.
_FOREIGN: Final = {"386", "arm"}


def process_environment(
    settings_env: Sequence[str], *, hostname: str, terminal: bool, home: str, extra: Sequence[str] = ()
) -> list[str]:
    """Return a process's environment: Docker's defaults, then the container's, then *extra*; the last of a key counts."""
    defaults = [DEFAULT_PATH, f"HOSTNAME={hostname}"]
    if terminal:
        defaults.append("TERM=xterm")
    found = environment_of([*defaults, *settings_env, *extra])
    found.setdefault("HOME", home)
    return [f"{key}={value}" for key, value in found.items()]


def build_container_spec(
    record: ContainerRecord,
    *,
    settings: ContainerSettings,
    host: HostConfig,
    root: Path,
    own_files: Sequence[MountPoint],
    volumes: Volumes,
    console_size: tuple[int, int] | None = None,
) -> dict[str, object]:
    """Return the OCI configuration of a container whose file system is mounted at *root*."""
    check_supported(host)
    table = record.config.get("MountPoints")
    mounts = runtime_mounts(table if isinstance(table, dict) else {}, host.tmpfs, host.mounts, volumes)
    with Root(root) as image:
        user = resolve_user(image, settings.user, host.group_add)
    platform = record.config.get("ImagePlatform")
    architecture = platform.get("architecture") if isinstance(platform, dict) else ""
    hostname = settings.hostname or record.id[:12]
    box = Sandbox(
        id=record.id,
        root=str(root),
        args=(record.path, *record.args),
        env=tuple(process_environment(settings.env, hostname=hostname, terminal=settings.tty, home=user.home)),
        cwd=settings.working_dir or "/",
        uid=user.uid,
        gid=user.gid,
        groups=user.groups,
        hostname=hostname,
        domainname=settings.domainname,
        terminal=settings.tty,
        console_size=console_size,
        readonly=host.readonly_rootfs,
        network="host" if host.network_mode == "host" else "none",
        ipc_host=host.ipc_mode == "host",
        pid_host=host.pid_mode == "host",
        uts_host=host.uts_mode == "host",
        privileged=host.privileged,
        cap_add=host.cap_add,
        cap_drop=host.cap_drop,
        security_options=host.security_opt,
        seccomp_profile=read_seccomp_profile(host.security_opt),
        foreign_programs=architecture in _FOREIGN,
        mounts=tuple(mounts),
        own_files=tuple(own_files),
        shm_size=host.shm_size or 64 << 20,
        cgroup_parent=host.cgroup_parent or "/lamella",
        pids_limit=host.pids_limit,
        memory=host.memory,
        memory_swap=host.memory_swap,
        memory_reservation=host.memory_reservation,
        cpu_shares=host.cpu_shares,
        cpu_period=100_000 if host.nano_cpus else host.cpu_period,
        cpu_quota=host.nano_cpus // 10_000 if host.nano_cpus else host.cpu_quota,
        cpuset_cpus=host.cpuset_cpus,
        cpuset_mems=host.cpuset_mems,
        oom_score_adj=host.oom_score_adj,
        ulimits=tuple((limit.name, limit.soft, limit.hard) for limit in host.ulimits),
        sysctls=host.sysctls,
        devices=tuple(
            _device(item.path_on_host, item.path_in_container, item.cgroup_permissions) for item in host.devices
        ),
    )
    return build_spec(box, read_machine(with_devices=host.privileged))


def check_supported(host: HostConfig) -> None:
    """Raise Unsupported for what a container may ask of dockerd and lamella does not have."""
    if host.network_mode not in ("", "none", "host", "default", "bridge"):
        raise Unsupported(f"network mode {host.network_mode!r} is not supported: use none or host")
    for name, value, allowed in (
        ("ipc", host.ipc_mode, ("", "private", "shareable", "host", "none")),
        ("pid", host.pid_mode, ("", "private", "host")),
        ("uts", host.uts_mode, ("", "private", "host")),
        ("userns", host.userns_mode, ("", "host")),
    ):
        if value not in allowed:
            raise Unsupported(f"{name} mode {value!r} is not supported: use private or host")


def read_seccomp_profile(options: Sequence[str]) -> bytes | None:
    """Read the file that ``seccomp=FILE`` names, or take the JSON text that a client put there itself."""
    choice = parse_security_options(options).seccomp
    if choice in ("default", "builtin", "unconfined"):
        return None
    if choice.lstrip().startswith("{"):
        return choice.encode()
    try:
        with open(choice, "rb") as file:
            return file.read(_PROFILE_LIMIT + 1)
    except OSError as problem:
        raise InvalidArgument(
            f"opening seccomp profile ({choice}) failed: {os.strerror(problem.errno or 0)}"
        ) from problem


def _device(host_path: str, path: str, access: str) -> dict[str, object]:
    """Look at a device of the host; raise NotFound or InvalidArgument if it is none."""
    try:
        status = os.stat(host_path)
    except FileNotFoundError:
        raise NotFound(f"error gathering device information: {host_path} does not exist on the host") from None
    kind = "c" if stat.S_ISCHR(status.st_mode) else "b" if stat.S_ISBLK(status.st_mode) else ""
    if not kind:
        raise InvalidArgument(f"error gathering device information: {host_path} is not a device node")
    return {
        "path": path or host_path,
        "type": kind,
        "major": os.major(status.st_rdev),
        "minor": os.minor(status.st_rdev),
        "fileMode": stat.S_IMODE(status.st_mode),
        "uid": status.st_uid,
        "gid": status.st_gid,
        "access": access or "rwm",
    }

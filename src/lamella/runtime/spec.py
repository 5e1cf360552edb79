"""The OCI configuration of one container: Docker's default sandbox, as a pure function of what was asked and where.

Reads nothing but its arguments.  Facts of the machine come in as ``Machine``; users, paths and volumes have been
looked up before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from lamella.errors import InvalidArgument
from lamella.runtime.capabilities import plan_capabilities
from lamella.runtime.machine import Machine
from lamella.runtime.seccomp import default_filter, parse_profile

DEFAULT_PATH: Final = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
DEFAULT_PIDS_LIMIT: Final = 4096
DEFAULT_SHM_SIZE: Final = 64 << 20

_MASKED: Final = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
)
_READ_ONLY: Final = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
_DEVICES: Final = ((1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2))
_UNLIMITED: Final = 2**64 - 1
_NOFILE: Final = (1024, 524288)
_FD_DIRECTORIES: Final = ("/proc/self/fd", "/proc/thread-self/fd", "/dev/fd")


class MountPoint(msgspec.Struct, frozen=True):
    """One mount the user or the image asked for; *kind* is bind or tmpfs."""

    source: str
    destination: str
    options: tuple[str, ...] = ()
    kind: str = "bind"


class Sandbox(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that decides how a container's process runs, with all look-ups done."""

    id: str
    root: str
    args: tuple[str, ...]
    env: tuple[str, ...] = ()
    cwd: str = "/"
    uid: int = 0
    gid: int = 0
    groups: tuple[int, ...] = ()
    hostname: str = ""
    domainname: str = ""
    terminal: bool = False
    console_size: tuple[int, int] | None = None
    readonly: bool = False
    #: "none" (a network of its own with only a loopback) or "host"
    network: str = "none"
    ipc_host: bool = False
    pid_host: bool = False
    uts_host: bool = False
    privileged: bool = False
    cap_add: tuple[str, ...] = ()
    cap_drop: tuple[str, ...] = ()
    security_options: tuple[str, ...] = ()
    #: content of the file that ``seccomp=FILE`` named
    seccomp_profile: bytes | None = None
    foreign_programs: bool = False
    mounts: tuple[MountPoint, ...] = ()
    #: destinations of the runtime's own files: hosts, hostname, resolv.conf
    own_files: tuple[MountPoint, ...] = ()
    shm_size: int = DEFAULT_SHM_SIZE
    cgroup_parent: str = "/lamella"
    pids_limit: int | None = None
    memory: int = 0
    memory_swap: int = 0
    memory_reservation: int = 0
    cpu_shares: int = 0
    cpu_period: int = 0
    cpu_quota: int = 0
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    oom_score_adj: int = 0
    ulimits: tuple[tuple[str, int, int], ...] = ()
    sysctls: Mapping[str, str] = {}
    #: OCI device entries with an ``access`` of their own
    devices: tuple[Mapping[str, object], ...] = ()


class SecurityOptions(msgspec.Struct, frozen=True):
    """``--security-opt``, read."""

    no_new_privileges: bool = False
    seccomp: str = "default"
    unmasked: bool = False


def parse_security_options(options: Sequence[str]) -> SecurityOptions:
    """Read Docker's ``--security-opt`` values; raise InvalidArgument for what is not understood."""
    no_new_privileges, seccomp, unmasked = False, "default", False
    for option in options:
        key, separator, value = option.partition("=")
        if not separator:
            key, separator, value = option.partition(":")
        if key == "no-new-privileges" and value in ("", "true", "false"):
            no_new_privileges = value != "false"
        elif key == "seccomp" and value:
            seccomp = value
        elif option == "systempaths=unconfined":
            unmasked = True
        elif key in ("label", "apparmor") and value in ("disable", "unconfined"):
            continue
        else:
            raise InvalidArgument(f'invalid --security-opt: "{option}"')
    return SecurityOptions(no_new_privileges, seccomp, unmasked)


def clean_directory(path: str) -> str:
    """Clean a working directory lexically; raise InvalidArgument for one that could name a leaked descriptor."""
    if not path:
        return "/"
    if not path.startswith("/"):
        raise InvalidArgument(f"the working directory '{path}' is invalid, it needs to be an absolute path")
    if "\0" in path:
        raise InvalidArgument("the working directory holds a null byte")
    parts: list[str] = []
    for part in path.split("/"):
        if part == "..":
            del parts[-1:]
        elif part not in ("", "."):
            parts.append(part)
    cleaned = "/" + "/".join(parts)
    descriptors = parts[:1] == ["proc"] and "fd" in parts[2:]
    if descriptors or any(cleaned == name or cleaned.startswith(f"{name}/") for name in _FD_DIRECTORIES):
        raise InvalidArgument(f"the working directory '{path}' is refused: it lies among a process's descriptors")
    return cleaned


def build_spec(box: Sandbox, machine: Machine) -> dict[str, object]:
    """Return the OCI configuration; raise InvalidArgument for options that make no sense."""
    security = parse_security_options(box.security_options)
    capabilities = plan_capabilities(
        add=box.cap_add, drop=box.cap_drop, privileged=box.privileged, available=machine.capabilities
    )
    open_paths = box.privileged or security.unmasked
    linux: dict[str, object] = {
        "namespaces": _namespaces(box, machine),
        "maskedPaths": [] if open_paths else [*_MASKED, *machine.thermal_paths],
        "readonlyPaths": [] if open_paths else list(_READ_ONLY),
        "rootfsPropagation": _propagation(box),
    }
    if machine.cgroups.version:
        linux["cgroupsPath"] = f"{box.cgroup_parent.rstrip('/')}/{box.id}"
        linux["resources"] = _resources(box, machine)
    devices = [*(machine.devices if box.privileged else ()), *box.devices]
    if devices:
        linux["devices"] = [{key: value for key, value in device.items() if key != "access"} for device in devices]
    sysctls = _sysctls(box)
    if sysctls:
        linux["sysctl"] = sysctls
    seccomp = _seccomp(box, security.seccomp, capabilities, machine)
    if seccomp is not None:
        linux["seccomp"] = seccomp
    spec: dict[str, object] = {
        "ociVersion": "1.0.2",
        "process": _process(box, capabilities, security, machine),
        "root": {"path": box.root, "readonly": box.readonly},
        "mounts": _mounts(box, machine),
        "linux": linux,
    }
    if not box.uts_host:
        spec["hostname"] = box.hostname or box.id[:12]
        if box.domainname:
            spec["domainname"] = box.domainname
    return spec


def _process(
    box: Sandbox, capabilities: tuple[str, ...], security: SecurityOptions, machine: Machine
) -> dict[str, object]:
    if not box.args or not box.args[0]:
        raise InvalidArgument("no command specified: the image has none; give one after the image's name")
    # A user other than root keeps the bounding set alone; inheritable and ambient sets are always empty.
    effective = list(capabilities) if box.uid == 0 else []
    process: dict[str, object] = {
        "terminal": box.terminal,
        "user": {"uid": box.uid, "gid": box.gid, "umask": 0o022, "additionalGids": _groups(box.gid, box.groups)},
        "args": list(box.args),
        "env": list(box.env),
        "cwd": clean_directory(box.cwd),
        "capabilities": {
            "bounding": list(capabilities),
            "effective": effective,
            "permitted": effective,
            "inheritable": [],
            "ambient": [],
        },
        "rlimits": _rlimits(box, machine),
        "noNewPrivileges": security.no_new_privileges,
    }
    if box.terminal and box.console_size is not None:
        process["consoleSize"] = {"height": box.console_size[0], "width": box.console_size[1]}
    if box.oom_score_adj:
        # Lowering it below our own would need a right that a restricted root lacks.
        process["oomScoreAdj"] = max(box.oom_score_adj, machine.oom_score_adj)
    return process


def exec_process(
    spec: Mapping[str, object],
    *,
    args: Sequence[str],
    env: Sequence[str],
    cwd: str,
    uid: int,
    gid: int,
    groups: Sequence[int],
    terminal: bool,
    privileged: bool = False,
    console_size: tuple[int, int] | None = None,
) -> dict[str, object]:
    """Return the process document of a further command in the container of *spec*, with its rights and no more."""
    first = spec.get("process")
    if not isinstance(first, dict):
        raise InvalidArgument("the container's configuration names no process")
    capabilities = first.get("capabilities")
    bounding = capabilities.get("bounding") if isinstance(capabilities, dict) else None
    held = list(bounding) if isinstance(bounding, list) else []
    if privileged:
        from lamella.runtime.capabilities import NAMES, available_capabilities

        available = available_capabilities()
        held = [name for name in NAMES if name in available]
    effective = held if uid == 0 else []
    process: dict[str, object] = {
        "terminal": terminal,
        "user": {"uid": uid, "gid": gid, "umask": 0o022, "additionalGids": _groups(gid, groups)},
        "args": list(args),
        "env": list(env),
        "cwd": clean_directory(cwd),
        "capabilities": {
            "bounding": held,
            "effective": effective,
            "permitted": effective,
            "inheritable": [],
            "ambient": [],
        },
        "rlimits": first.get("rlimits", []),
        "noNewPrivileges": bool(first.get("noNewPrivileges")),
    }
    if terminal and console_size is not None:
        process["consoleSize"] = {"height": console_size[0], "width": console_size[1]}
    return process


def _groups(gid: int, groups: Sequence[int]) -> list[int]:
    # The primary group always stands there too: dropping it must not open what it was meant to close.
    return list(dict.fromkeys((gid, *groups)))


def _namespaces(box: Sandbox, machine: Machine) -> list[dict[str, str]]:
    kinds = ["mount"]
    kinds += [] if box.pid_host else ["pid"]
    kinds += [] if box.ipc_host else ["ipc"]
    kinds += [] if box.uts_host else ["uts"]
    kinds += [] if box.network == "host" else ["network"]
    kinds += ["cgroup"] if machine.cgroups.version == 2 and not box.privileged else []
    return [{"type": kind} for kind in kinds]


def _propagation(box: Sandbox) -> str:
    options = {option for mount in box.mounts for option in mount.options}
    if options & {"shared", "rshared"}:
        return "rshared"
    return "rslave" if options & {"slave", "rslave"} else "rprivate"


def _mounts(box: Sandbox, machine: Machine) -> list[dict[str, object]]:
    quiet = ["nosuid", "noexec", "nodev"]
    system = [] if box.privileged else ["ro"]
    table: list[dict[str, object]] = [
        _mount("/proc", "proc", quiet),
        _mount("/dev", "tmpfs", ["nosuid", "strictatime", "mode=755", "size=65536k"]),
        _mount("/dev/pts", "devpts", ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
        _mount("/sys", "sysfs", [*quiet, *system]),
        _mount("/dev/mqueue", "mqueue", quiet),
    ]
    if machine.cgroups.version:
        table.append(_mount("/sys/fs/cgroup", "cgroup", [*system, *quiet]))
    if box.ipc_host:
        table.append(_mount("/dev/shm", "bind", ["rbind", "rprivate"], "/dev/shm"))
    else:
        table.append(_mount("/dev/shm", "tmpfs", [*quiet, "mode=1777", f"size={box.shm_size}"], "shm"))
    table += [_mount(own.destination, "bind", ["rbind", "rprivate", *own.options], own.source) for own in box.own_files]
    asked = sorted(box.mounts, key=lambda mount: mount.destination.rstrip("/").count("/"))
    taken = {mount.destination.rstrip("/") or "/" for mount in asked}
    table = [mount for mount in table if mount["destination"] not in taken]
    for mount in asked:
        if mount.kind == "tmpfs":
            given = [option for option in mount.options if option]
            # One that is taken back is not given first: not every runtime takes the later word.
            first = [option for option in ("nosuid", "nodev", "noexec") if option.removeprefix("no") not in given]
            table.append(_mount(mount.destination, "tmpfs", [*first, *given], "tmpfs"))
        else:
            table.append(_mount(mount.destination, "bind", _bind_options(mount.options), mount.source))
    return table


def _bind_options(options: tuple[str, ...]) -> list[str]:
    propagation = {"private", "rprivate", "shared", "rshared", "slave", "rslave"}
    chosen = list(options)
    if not propagation.intersection(chosen):
        chosen.append("rprivate")
    return ["rbind", *chosen]


def _mount(destination: str, kind: str, options: Sequence[str], source: str | None = None) -> dict[str, object]:
    return {"destination": destination, "type": kind, "source": source or kind, "options": list(options)}


def _resources(box: Sandbox, machine: Machine) -> dict[str, object]:
    resources: dict[str, object] = {"devices": _device_rules(box)}
    cgroups = machine.cgroups
    limit = DEFAULT_PIDS_LIMIT if box.pids_limit is None else box.pids_limit
    if limit > 0 and cgroups.has("pids"):
        resources["pids"] = {"limit": limit}
    elif box.pids_limit is not None and box.pids_limit > 0:
        raise InvalidArgument("this machine cannot limit the number of processes: it has no pids controller")
    memory = {"limit": box.memory, "swap": box.memory_swap, "reservation": box.memory_reservation}
    memory = {key: value for key, value in memory.items() if value}
    cpu: dict[str, object] = {
        "shares": box.cpu_shares,
        "period": box.cpu_period,
        "quota": box.cpu_quota,
        "cpus": box.cpuset_cpus,
        "mems": box.cpuset_mems,
    }
    cpu = {key: value for key, value in cpu.items() if value}
    for name, values, controller in (("memory", memory, "memory"), ("cpu", cpu, "cpu")):
        if values and not cgroups.has(controller):
            raise InvalidArgument(f"this machine cannot limit {name}: it has no {controller} controller")
        if values:
            resources[name] = values
    return resources


def _device_rules(box: Sandbox) -> list[dict[str, object]]:
    if box.privileged:
        return [{"allow": True, "access": "rwm"}]
    # The runtime itself adds the making of nodes, the pseudo-terminals and /dev/full.
    rules: list[dict[str, object]] = [{"allow": False, "access": "rwm"}]
    rules += [
        {"allow": True, "type": "c", "major": major, "minor": minor, "access": "rwm"} for major, minor in _DEVICES
    ]
    rules.append({"allow": True, "type": "c", "major": 136, "access": "rwm"})
    rules.append({"allow": False, "type": "c", "major": 10, "minor": 229, "access": "rwm"})
    rules += [
        {"allow": True, **{key: device[key] for key in ("type", "major", "minor", "access")}} for device in box.devices
    ]
    return rules


def _rlimits(box: Sandbox, machine: Machine) -> list[dict[str, object]]:
    wanted = {"nofile": _NOFILE, "nproc": (_UNLIMITED, _UNLIMITED)}
    wanted.update({name: (soft, hard) for name, soft, hard in box.ulimits})
    table: list[dict[str, object]] = []
    for name, (soft, hard) in wanted.items():
        ceiling = machine.hard_limits.get(name)
        if ceiling is None:
            raise InvalidArgument(f"invalid ulimit type: {name}")
        # Never above our own hard limit: that needs a right that a restricted root lacks.
        bounded = min(_unsigned(hard), ceiling)
        table.append({"type": f"RLIMIT_{name.upper()}", "hard": bounded, "soft": min(_unsigned(soft), bounded)})
    return table


def _unsigned(limit: int) -> int:
    return _UNLIMITED if limit < 0 else limit


def _sysctls(box: Sandbox) -> dict[str, str]:
    defaults = {}
    if box.network != "host":
        defaults = {"net.ipv4.ip_unprivileged_port_start": "0", "net.ipv4.ping_group_range": "0 2147483647"}
    return {**defaults, **box.sysctls}


def _seccomp(box: Sandbox, choice: str, capabilities: tuple[str, ...], machine: Machine) -> dict[str, object] | None:
    if choice == "unconfined" or (box.privileged and choice == "default"):
        return None
    if choice in ("default", "builtin"):
        return default_filter(capabilities, machine.machine, foreign=box.foreign_programs)
    if box.seccomp_profile is None:
        raise InvalidArgument(f"seccomp profile {choice} was not read")
    return parse_profile(box.seccomp_profile, capabilities, machine.machine)

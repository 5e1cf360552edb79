"""Facts of this machine and of the calling process that bound what a container may be given."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final, NamedTuple

from lamella.runtime.capabilities import available_capabilities
from lamella.runtime.cgroups import Cgroups, read_cgroups

_INFINITY: Final = 2**64 - 1
_LIMITS: Final = "as core cpu data fsize locks memlock msgqueue nice nofile nproc rss rtprio rttime sigpending stack"
# Numbers of the limits Python's resource module does not name.
_LOCKS: Final = 10


class Machine(NamedTuple):
    """What a container's configuration depends on besides the request."""

    cgroups: Cgroups
    capabilities: frozenset[str]
    #: by the names of ``--ulimit``, 2**64-1 for no limit
    hard_limits: Mapping[str, int]
    #: ``uname -m``
    machine: str
    oom_score_adj: int = 0
    thermal_paths: tuple[str, ...] = ()
    #: OCI device entries for a privileged container
    devices: tuple[Mapping[str, object], ...] = ()


def read_machine(*, with_devices: bool = False) -> Machine:
    """Look at the machine; *with_devices* also lists the host's device nodes."""
    import resource

    limits: dict[str, int] = {}
    for name in _LIMITS.split():
        number = _LOCKS if name == "locks" else getattr(resource, f"RLIMIT_{name.upper()}", None)
        if number is None:
            continue
        hard = resource.getrlimit(number)[1]
        limits[name] = _INFINITY if hard == resource.RLIM_INFINITY else hard
    with open("/proc/self/oom_score_adj", "rb") as file:
        score = int(file.read())
    return Machine(
        cgroups=read_cgroups(),
        capabilities=available_capabilities(),
        hard_limits=limits,
        machine=os.uname().machine,
        oom_score_adj=score,
        thermal_paths=_thermal_paths(),
        devices=tuple(_devices("/dev")) if with_devices else (),
    )


def _thermal_paths() -> tuple[str, ...]:
    base = "/sys/devices/system/cpu"
    try:
        names = sorted(name for name in os.listdir(base) if name[:3] == "cpu" and name[3:].isdecimal())
    except FileNotFoundError:
        return ()
    paths = (f"{base}/{name}/thermal_throttle" for name in names)
    return tuple(path for path in paths if os.path.isdir(path))


def _devices(directory: str) -> list[Mapping[str, object]]:
    """List the device nodes below /dev, save the terminals and what the runtime makes itself."""
    import stat

    found: list[Mapping[str, object]] = []
    made = {f"/dev/{name}" for name in ("null", "zero", "full", "random", "urandom", "tty", "console", "ptmx")}
    pending = [directory]
    while pending:
        with os.scandir(pending.pop()) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                if entry.is_dir(follow_symlinks=False):
                    if entry.path not in ("/dev/pts", "/dev/shm", "/dev/fd", "/dev/mqueue", "/dev/.lxc", "/dev/.udev"):
                        pending.append(entry.path)
                    continue
                status = entry.stat(follow_symlinks=False)
                kind = "c" if stat.S_ISCHR(status.st_mode) else "b" if stat.S_ISBLK(status.st_mode) else ""
                if kind and entry.path not in made:
                    found.append(
                        {
                            "path": entry.path,
                            "type": kind,
                            "major": os.major(status.st_rdev),
                            "minor": os.minor(status.st_rdev),
                            "fileMode": stat.S_IMODE(status.st_mode),
                            "uid": status.st_uid,
                            "gid": status.st_gid,
                        }
                    )
    return found

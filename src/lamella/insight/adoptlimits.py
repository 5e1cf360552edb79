"""What another engine's OCI spec confines a container to, in the words of Docker's ``HostConfig``.

Nothing is widened: a container gets no capability, device or resource here that it did not have there.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any, Final

from lamella.model.containerconfig import Device, HostConfig, Ulimit
from lamella.readers.base import ContainerFacts
from lamella.readers.common import Json
from lamella.runtime.capabilities import DEFAULT, NAMES

_RLIMIT: Final = "RLIMIT_"
_UNLIMITED: Final = 2**63 - 1


def plan_confinement(
    spec: Json,
    facts: ContainerFacts,
    *,
    binds: tuple[str, ...],
    tmpfs: Mapping[str, str],
    network: str,
    notes: list[str],
) -> HostConfig:
    """Return the host settings of a container with this spec; what they cannot say goes to *notes*."""
    process, linux = spec.child("process"), spec.child("linux")
    resources = linux.child("resources")
    memory, cpu = resources.child("memory"), resources.child("cpu")
    fields: dict[str, Any] = {
        "memory": memory.number("limit"),
        "memory_swap": memory.number("swap"),
        "memory_reservation": memory.number("reservation"),
        "cpu_shares": cpu.number("shares"),
        "cpu_period": cpu.number("period"),
        "cpu_quota": cpu.number("quota"),
        "cpuset_cpus": cpu.text("cpus"),
        "cpuset_mems": cpu.text("mems"),
        "pids_limit": resources.child("pids").number("limit"),
        "oom_score_adj": process.number("oomScoreAdj"),
        "readonly_rootfs": spec.child("root").flag("readonly"),
        "ulimits": tuple(_ulimits(process)),
        "tmpfs": dict(tmpfs),
        "group_add": tuple(map(str, _groups(process.child("user")))),
        "extra_hosts": facts.extra_hosts,
        "shm_size": facts.shm_size,
        "sysctls": {
            key: value
            for key, value in linux.child("sysctl").words().items()
            if network != "host" or not key.startswith("net.")
        },
    }
    if process.flag("noNewPrivileges"):
        fields["security_opt"] = ("no-new-privileges",)
    if process.raw:  # a spec that lists no capabilities gives none
        held = set(process.child("capabilities").texts("bounding"))
        fields["cap_add"] = tuple(name for name in NAMES if name in held and name not in DEFAULT)
        fields["cap_drop"] = tuple(name for name in NAMES if name in DEFAULT and name not in held)
        if held >= set(NAMES):
            notes.append("it was privileged: here it has the capabilities of that, but not the devices")
        else:
            fields["devices"] = tuple(_devices(linux, notes))
    return HostConfig(
        binds=binds, network_mode=network, **{name: value for name, value in fields.items() if value is not None}
    )


def _groups(user: Json) -> list[int]:
    """Return the groups that a process has beside its own."""
    found = user.raw.get("additionalGids")
    groups = [item for item in found if isinstance(item, int) and item >= 0] if isinstance(found, list) else []
    return [group for group in groups if group != (user.number("gid") or 0)]


def _devices(linux: Json, notes: list[str]) -> Iterator[Device]:
    """Yield the devices of this machine that a container has beside those that all have."""
    rules = [
        (rule.text("type"), rule.number("major"), rule.number("minor"), rule.text("access"))
        for rule in linux.child("resources").children("devices")
        if rule.flag("allow")
    ]
    for device in linux.children("devices"):
        path, numbers = device.text("path"), (device.number("major"), device.number("minor"))
        access = next((rule[3] for rule in rules if (device.text("type"), *numbers) == rule[:3]), "")
        try:
            status = os.stat(path)
        except OSError:
            status = None
        if status is None or (os.major(status.st_rdev), os.minor(status.st_rdev)) != numbers:
            notes.append(f"device {path}: this machine has no such device, so the container has not")
        elif access:
            yield Device(path, path, access)


def _ulimits(process: Json) -> list[Ulimit]:
    found = []
    for limit in process.children("rlimits"):
        kind, hard, soft = limit.text("type"), limit.number("hard"), limit.number("soft")
        if kind.startswith(_RLIMIT) and hard is not None and soft is not None:
            # The kernel's "no limit" is beyond Docker's numbers, which spell it -1.
            hard, soft = (-1 if value > _UNLIMITED else value for value in (hard, soft))
            found.append(Ulimit(kind.removeprefix(_RLIMIT).lower(), hard, soft))
    return found

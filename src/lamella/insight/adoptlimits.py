"""What another engine's OCI spec confines a container to, in the words of Docker's ``HostConfig``.

Nothing is widened: a container gets no capability, device or resource here that it did not have there.
"""

from __future__ import annotations

from typing import Any, Final

from lamella.model.containerconfig import HostConfig, Ulimit
from lamella.readers.common import Json
from lamella.runtime.capabilities import DEFAULT, NAMES

_RLIMIT: Final = "RLIMIT_"
_UNLIMITED: Final = 2**63 - 1


def plan_confinement(spec: Json, *, binds: tuple[str, ...], network: str, notes: list[str]) -> HostConfig:
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
    }
    if process.flag("noNewPrivileges"):
        fields["security_opt"] = ("no-new-privileges",)
    if process.raw:  # a spec that lists no capabilities gives none
        held = set(process.child("capabilities").texts("bounding"))
        fields["cap_add"] = tuple(name for name in NAMES if name in held and name not in DEFAULT)
        fields["cap_drop"] = tuple(name for name in NAMES if name in DEFAULT and name not in held)
        if held >= set(NAMES):
            notes.append("it was privileged: here it has the capabilities of that, but not the devices")
    return HostConfig(
        binds=binds, network_mode=network, **{name: value for name, value in fields.items() if value is not None}
    )


def _ulimits(process: Json) -> list[Ulimit]:
    found = []
    for limit in process.children("rlimits"):
        kind, hard, soft = limit.text("type"), limit.number("hard"), limit.number("soft")
        if kind.startswith(_RLIMIT) and hard is not None and soft is not None:
            # The kernel's "no limit" is beyond Docker's numbers, which spell it -1.
            hard, soft = (-1 if value > _UNLIMITED else value for value in (hard, soft))
            found.append(Ulimit(kind.removeprefix(_RLIMIT).lower(), hard, soft))
    return found

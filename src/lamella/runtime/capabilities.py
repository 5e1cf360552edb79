"""Capabilities: Docker's default set and what ``--cap-add``, ``--cap-drop`` and ``--privileged`` make of it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from lamella.errors import InvalidArgument

_IN_ORDER = (
    "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE"
    " NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT"
    " SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL"
    " SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE"
)
#: In the order of their numbers in the kernel.
NAMES: Final = tuple(f"CAP_{name}" for name in _IN_ORDER.split())

_DOCKER = (
    "CHOWN DAC_OVERRIDE FSETID FOWNER MKNOD NET_RAW SETGID SETUID SETFCAP SETPCAP NET_BIND_SERVICE SYS_CHROOT KILL"
    " AUDIT_WRITE"
)
DEFAULT: Final = tuple(f"CAP_{name}" for name in _DOCKER.split())


def plan_capabilities(
    *, add: Iterable[str], drop: Iterable[str], privileged: bool, available: frozenset[str]
) -> tuple[str, ...]:
    """Return the container's capabilities; never more than *available*.

    Docker's rules: names with or without ``CAP_``, in any case; ALL; a drop wins over the defaults, an add over
    ``--cap-drop ALL``.  A capability asked for by name that this machine cannot give is InvalidArgument.
    """
    added, dropped = _parse(add, "CapAdd"), _parse(drop, "CapDrop")
    if privileged:
        return tuple(name for name in NAMES if name in available)
    for name in sorted(added - {"ALL"}):
        if name not in available and name not in dropped:
            raise InvalidArgument(f"invalid CapAdd: {name} is not supported by this kernel or not available here")
    if "ALL" in added:
        chosen = {name for name in NAMES if name not in dropped}
    elif "ALL" in dropped:
        chosen = added
    else:
        chosen = (set(DEFAULT) - dropped) | added
    return tuple(name for name in NAMES if name in chosen and name in available)


def available_capabilities() -> frozenset[str]:
    """Read what this process may pass on: its bounding set."""
    with open("/proc/self/status", "rb") as status:
        for line in status:
            if line.startswith(b"CapBnd:"):
                mask = int(line.split()[1], 16)
                return frozenset(name for number, name in enumerate(NAMES) if mask >> number & 1)
    return frozenset()


def _parse(names: Iterable[str], field: str) -> set[str]:
    result: set[str] = set()
    for given in names:
        name = given.upper()
        if name != "ALL" and not name.startswith("CAP_"):
            name = f"CAP_{name}"
        if name != "ALL" and name not in NAMES:
            raise InvalidArgument(f'invalid {field}: unknown capability: "{given}"')
        result.add(name)
    return result

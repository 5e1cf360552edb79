"""What the machine's control groups allow, and what a runtime needs to be told because of it.

Reads only; the groups themselves are made and removed by the OCI runtime.
"""

from __future__ import annotations

import os
from typing import Final, NamedTuple

_ROOT: Final = "/sys/fs/cgroup"


class Cgroups(NamedTuple):
    """The machine's control groups: *version* 0 means there is none that can be written."""

    version: int
    controllers: frozenset[str]
    hide_unified: bool = False
    #: nothing is mounted where the runtime insists on finding something
    bare: bool = False

    def has(self, controller: str) -> bool:
        """Tell whether limits of *controller* can be set."""
        return controller in self.controllers


def read_cgroups() -> Cgroups:
    """Look at what is mounted on /sys/fs/cgroup.

    A hybrid machine runs its containers in the version 1 hierarchies.  crun refuses to when a controller is left to
    version 2 there, so ``hide_unified`` asks for that one mount to be taken out of the runtime's own view.
    """
    controllers: set[str] = set()
    unified = hybrid = writable = covered = False
    with open("/proc/self/mountinfo", "rb") as mounts:
        for line in mounts:
            if b" /sys/fs/cgroup" not in line:
                continue
            head, _, tail = line.partition(b" - ")
            target, options = os.fsdecode(head.split()[4]), head.split()[5].split(b",")
            kind, _, super_options = tail.split()[:3]
            covered = covered or target == _ROOT
            if kind == b"cgroup2" and target == _ROOT:
                unified, writable = True, b"rw" in options
                controllers.update(_words(f"{_ROOT}/cgroup.controllers"))
            elif kind == b"cgroup2" and target == f"{_ROOT}/unified":
                hybrid = bool(_words(f"{_ROOT}/unified/cgroup.controllers"))
            elif kind == b"cgroup" and target.startswith(f"{_ROOT}/"):
                controllers.update(word.decode() for word in super_options.split(b",") if word not in (b"rw", b"ro"))
                writable = writable or b"rw" in options
    if not writable:
        return Cgroups(0, frozenset(), bare=not covered)
    return Cgroups(2 if unified else 1, frozenset(controllers), hide_unified=hybrid and not unified)


def _words(path: str) -> list[str]:
    try:
        with open(path) as file:
            return file.read().split()
    except FileNotFoundError:
        return []

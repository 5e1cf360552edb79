"""Platforms in Go's names: ``linux/amd64``, ``linux/arm/v7``."""

from __future__ import annotations

import os
import re
from typing import NamedTuple

from lamella.errors import InvalidArgument

_PART = re.compile(r"[A-Za-z0-9_.-]+", re.ASCII)
_MACHINES = {
    "x86_64": ("amd64", ""),
    "x86-64": ("amd64", ""),
    "i386": ("386", ""),
    "i486": ("386", ""),
    "i586": ("386", ""),
    "i686": ("386", ""),
    "aarch64": ("arm64", ""),
    "armhf": ("arm", "v7"),
    "armel": ("arm", "v6"),
    "armv5l": ("arm", "v5"),
    "armv6l": ("arm", "v6"),
    "armv7l": ("arm", "v7"),
    "armv8l": ("arm", "v7"),
    "loongarch64": ("loong64", ""),
}
_ARCHITECTURES = frozenset({
    "386", "amd64", "arm", "arm64", "loong64", "mips", "mips64", "mips64le", "mipsle", "ppc64", "ppc64le", "riscv64",
    "s390x", "wasm",
})  # fmt: skip
_SYSTEMS = frozenset({"aix", "android", "darwin", "freebsd", "linux", "netbsd", "openbsd", "solaris", "windows"})


class Platform(NamedTuple):
    """What an image is made for."""

    os: str
    architecture: str
    variant: str = ""

    def __str__(self) -> str:  # type: ignore[explicit-override]  # override() came with Python 3.12
        return f"{self.os}/{self.architecture}" + (f"/{self.variant}" if self.variant else "")


def parse_platform(text: str) -> Platform:
    """Parse ``os/architecture[/variant]``, ``os`` or ``architecture``; the rest is this machine's."""
    parts = text.lower().split("/")
    if len(parts) > 3 or not all(_PART.fullmatch(part) for part in parts):
        raise InvalidArgument(f"invalid platform {text!r:.100}: expected os/architecture[/variant]")
    if len(parts) == 1:
        host = host_platform()
        system = "darwin" if parts[0] == "macos" else parts[0]
        if system in _SYSTEMS:
            return Platform(system, host.architecture, host.variant)
        architecture, variant = _normalised(parts[0], "")
        if architecture not in _ARCHITECTURES:
            raise InvalidArgument(f"invalid platform {text!r:.100}: unknown operating system or architecture")
        return Platform(host.os, architecture, variant)
    architecture, variant = _normalised(parts[1], parts[2] if len(parts) == 3 else "")
    return Platform("darwin" if parts[0] == "macos" else parts[0], architecture, variant)


def host_platform(machine: str | None = None) -> Platform:
    """Return this machine's platform, or that of the kernel's machine name *machine*."""
    return Platform("linux", *_normalised(machine or os.uname().machine, ""))


def _normalised(architecture: str, variant: str) -> tuple[str, str]:
    name, implied = _MACHINES.get(architecture, (architecture, ""))
    if variant.isdigit():
        variant = f"v{variant}"
    if name == "arm64" and variant in {"v8", "v8.0"}:
        return name, ""  # every arm64 is at least that
    if name == "amd64" and variant == "v1":
        return name, ""
    if name == "arm" and not (variant or implied):
        return name, "v7"
    return name, variant or implied

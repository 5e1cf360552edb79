"""``hosts``, ``hostname`` and ``resolv.conf`` of a container: written at every start, bind-mounted into it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from lamella.errors import InvalidArgument
from lamella.runtime.spec import MountPoint

_HOSTS: Final = (
    "127.0.0.1\tlocalhost\n"
    "::1\tlocalhost ip6-localhost ip6-loopback\n"
    "fe00::\tip6-localnet\n"
    "ff00::\tip6-mcastprefix\n"
    "ff02::1\tip6-allnodes\n"
    "ff02::2\tip6-allrouters\n"
)
_LIMIT: Final = 1 << 20


def format_hosts(network: str, host_file: str, extra: Sequence[str]) -> str:
    """Return a container's ``hosts``: the host's own with the host's network, else Docker's list; then *extra*."""
    text = host_file if network == "host" else _HOSTS
    if text and not text.endswith("\n"):
        text += "\n"
    for entry in extra:
        name, separator, address = entry.partition("=" if "=" in entry else ":")
        if not separator or not name or not address:
            raise InvalidArgument(f'bad format for add-host: "{entry}"')
        text += f"{address.strip('[]')}\t{name}\n"
    return text


def format_resolv(host_file: str, servers: Sequence[str], search: Sequence[str], options: Sequence[str]) -> str:
    """Return a container's ``resolv.conf``: the host's, with what was asked for in place of its lines."""
    if not (servers or search or options):
        return host_file
    lines = []
    for line in host_file.splitlines():
        word = line.split(None, 1)[0] if line.split() else ""
        replaced = (
            (word == "nameserver" and servers)
            or (word in ("search", "domain") and search)
            or (word == "options" and options)
        )
        if not replaced:
            lines.append(line)
    lines += [f"nameserver {server}" for server in servers]
    lines += [f"search {' '.join(search)}"] if search and list(search) != ["."] else []
    lines += [f"options {' '.join(options)}"] if options else []
    return "\n".join(lines) + "\n"


def write_network_files(
    directory: Path,
    *,
    hostname: str,
    domainname: str = "",
    network: str,
    extra_hosts: Sequence[str] = (),
    dns: Sequence[str] = (),
    dns_search: Sequence[str] = (),
    dns_options: Sequence[str] = (),
) -> list[MountPoint]:
    """Write the three files below the container's *directory* and return their mounts; not synced."""
    full = f"{hostname}.{domainname}" if domainname else hostname
    resolv = format_resolv(_read("/etc/resolv.conf"), dns, dns_search, dns_options)
    contents = {
        "hostname": f"{full}\n",
        "hosts": format_hosts(network, _read("/etc/hosts"), extra_hosts),
        "resolv.conf": resolv,
    }
    for name, text in contents.items():
        _write(directory / name, text.encode("utf-8", "surrogateescape"))
    digest = hashlib.sha256(resolv.encode("utf-8", "surrogateescape")).hexdigest()
    _write(directory / "resolv.conf.hash", f"sha256:{digest}".encode())
    return [MountPoint(str(directory / name), f"/etc/{name}") for name in ("resolv.conf", "hostname", "hosts")]


def _write(path: Path, content: bytes) -> None:
    # In place: the container may have the file mounted, and a rename would leave it the old one.
    with path.open("wb") as file:
        file.write(content)
    path.chmod(0o644)


def _read(path: str) -> str:
    try:
        with open(path, "rb") as file:
            return file.read(_LIMIT).decode("utf-8", "surrogateescape")
    except OSError:
        return ""

"""What the commands that speak to registries share: their flags, and where settings and credentials are found.

The environment is read here for them: ``HTTPS_PROXY`` and its kin, ``DOCKER_CONFIG``, ``REGISTRY_AUTH_FILE``,
``LAMELLA_INSECURE_REGISTRIES``, ``LAMELLA_REGISTRY_MIRRORS``.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lamella.cli.flags import Flag, UsageError, Values

if TYPE_CHECKING:
    from lamella.cli.context import Context
    from lamella.engine.registries import Registries

_PROXIES = frozenset({"http_proxy", "https_proxy", "no_proxy", "all_proxy"})

AUTH_FLAGS = (
    Flag("authfile", "File of credentials (default is Docker's config.json, then auth.json)", kind="path"),
    Flag("cert-dir", "Directory of CA and client certificates, as /etc/docker/certs.d", kind="path"),
    Flag("tls-verify", "Require TLS with a valid certificate unless the registry is on this machine", default="true"),
)
TRANSFER_FLAGS = (
    *AUTH_FLAGS,
    Flag("parallel", "Number of layers to transfer at a time", kind="int", default="3"),
)
MIRROR_FLAG = Flag("mirror", "Registry to try before Docker Hub", kind="url", many=True)


def auth_files(context: Context, chosen: str = "") -> tuple[Path, ...]:
    """Return the files in which credentials are looked for, the one that is written first."""
    if chosen:
        return (Path(chosen),)
    environment = context.environment
    home = Path(environment.get("HOME") or "/root")
    config = environment.get("DOCKER_CONFIG")
    files = [(Path(config) if config else home / ".docker") / "config.json"]
    if named := environment.get("REGISTRY_AUTH_FILE"):
        files.insert(0, Path(named))
    if runtime := environment.get("XDG_RUNTIME_DIR"):
        files.append(Path(runtime) / "containers/auth.json")
    files.append(Path(environment.get("XDG_CONFIG_HOME") or home / ".config") / "containers/auth.json")
    return tuple(files)


def read_registries(context: Context, flags: Values | None = None, *hosts: str) -> Registries:
    """Collect how registries are reached; ``--tls-verify=false`` holds for *hosts* alone and is said aloud."""
    from lamella.engine.registries import Registries, RegistrySettings

    environment = context.environment
    insecure = set(environment.get("LAMELLA_INSECURE_REGISTRIES", "").replace(",", " ").split())
    mirrors = environment.get("LAMELLA_REGISTRY_MIRRORS", "").replace(",", " ").split()
    settings = RegistrySettings(proxies={key: text for key, text in environment.items() if key.lower() in _PROXIES})
    if flags is not None:
        if not flags.on("tls-verify"):
            for host in hosts:
                context.warn(f"WARNING: the identity of {host} is not verified (--tls-verify=false)")
                insecure.add(host)
        if flags.has("parallel"):
            parallel = flags.number("parallel") or 0
            if parallel < 1:
                raise UsageError("--parallel must be at least 1")
            settings = settings._replace(max_parallel=parallel)
        if flags.has("mirror"):
            mirrors = flags.many("mirror") + mirrors
        if flags.text("cert-dir"):
            settings = settings._replace(certs_dir=Path(flags.text("cert-dir")))
    settings = settings._replace(insecure=frozenset(insecure), mirrors=tuple(mirrors))
    files = auth_files(context, "" if flags is None else flags.text("authfile"))
    return Registries(settings, files, environment)


def host_of(name: str) -> str:
    """Return the registry of an image's name."""
    from lamella.model.reference import parse_reference

    return parse_reference(name).domain

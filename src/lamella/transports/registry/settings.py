"""What a user or a front end may set about registries; nothing here reads files or the environment."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from lamella._version import __version__

CERTS_DIR = Path("/etc/docker/certs.d")


class RegistrySettings(NamedTuple):
    """How registries are reached.

    ``insecure`` holds ``host``, ``host:port`` or networks (``10.0.0.0/8``) that may be without a trusted certificate
    or without TLS.  ``mirrors`` are base URLs asked before Docker Hub for pulls.  ``proxies`` takes the keys ``http``,
    ``https`` and ``no``, or the names of the environment variables (``HTTPS_PROXY``, ``no_proxy``).  ``token_hosts``
    are hosts that any registry may name as its token server.  ``upload_chunk`` is the size of a chunk of an upload;
    0 sends a blob in one request until a registry refuses that.  ``backoff`` is the first wait between tries.
    """

    insecure: frozenset[str] = frozenset()
    mirrors: tuple[str, ...] = ()
    certs_dir: Path = CERTS_DIR
    max_parallel: int = 3
    stall_time: float = 30.0
    retry_time: float = 300.0
    proxies: Mapping[str, str] = MappingProxyType({})
    user_agent: str = f"lamella/{__version__}"
    connect_time: float = 10.0
    backoff: float = 0.5
    token_hosts: frozenset[str] = frozenset()
    upload_chunk: int = 0

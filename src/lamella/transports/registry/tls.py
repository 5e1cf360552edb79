"""Whom to trust: TLS contexts from the system's authorities and from Docker's ``certs.d``."""

from __future__ import annotations

import ssl
import threading
from pathlib import Path

from lamella.errors import InvalidArgument
from lamella.transports.registry.hosts import Endpoint, Origin
from lamella.transports.registry.settings import RegistrySettings


class Trust:
    """Makes the TLS context for each origin that one registry leads to.

    The registry's own directory in ``certs.d`` (``*.crt`` authorities, ``*.cert`` with ``*.key`` for clients) counts
    for it; its authorities count for its token and storage servers too, its client certificates do not.  Only the
    registry's own host goes unverified, and only if it is insecure and no authority was given for it.
    """

    def __init__(self, endpoint: Endpoint, settings: RegistrySettings) -> None:
        self._endpoint = endpoint
        self._certs_dir = settings.certs_dir
        self._made: dict[Origin, ssl.SSLContext] = {}
        self._lock = threading.Lock()

    def context(self, origin: Origin) -> ssl.SSLContext:
        """Return the context for *origin*.  Raises InvalidArgument naming a certificate file that is no good."""
        with self._lock:
            made = self._made.get(origin)
            if made is None:
                made = self._made[origin] = self._make(origin)
        return made

    def is_vouched(self) -> bool:
        """Tell whether an authority was given for the registry itself, which then must vouch for it."""
        own = self._directories(self._endpoint.name, self._endpoint.origin)
        return any(_files(directory, ".crt") for directory in own)

    def advice(self, origin: Origin) -> str:
        """Say what makes *origin* trusted."""
        return f"put its authority into {self._certs_dir / origin.authority}/ca.crt"

    def _make(self, origin: Origin) -> ssl.SSLContext:
        own = self._directories(self._endpoint.name, self._endpoint.origin)
        directories = own if origin == self._endpoint.origin else self._directories(origin.authority, origin)
        authorities = [path for directory in {*directories, *own} for path in _files(directory, ".crt")]
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if self._endpoint.insecure and origin.host == self._endpoint.origin.host and not authorities:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        else:
            context.load_default_certs()
        for path in authorities:
            try:
                context.load_verify_locations(path)
            except (ssl.SSLError, OSError) as problem:
                raise InvalidArgument(f"{path} holds no usable certificate: {problem}") from problem
        for directory in directories:
            _load_client_certificates(context, directory)
        return context

    def _directories(self, name: str, origin: Origin) -> list[Path]:
        names = dict.fromkeys((name, origin.authority))
        return [self._certs_dir / each for each in names if "/" not in each]


def _files(directory: Path, suffix: str) -> list[Path]:
    try:
        return sorted(path for path in directory.iterdir() if path.suffix == suffix)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _load_client_certificates(context: ssl.SSLContext, directory: Path) -> None:
    keys = {path.stem: path for path in _files(directory, ".key")}
    for path in _files(directory, ".cert"):
        key = keys.pop(path.stem, None)
        if key is None:
            raise InvalidArgument(f"{path} has no key; put {path.stem}.key beside it")
        try:
            context.load_cert_chain(path, key)
        except (ssl.SSLError, OSError) as problem:
            raise InvalidArgument(f"{path} and its key are not usable: {problem}") from problem
    for left in keys.values():
        raise InvalidArgument(f"{left} has no certificate; put {left.stem}.cert beside it")

"""Files of the web, for ADD and as contexts: into a temporary directory, within bounds, named as Docker names them."""

from __future__ import annotations

import hashlib
import os
import posixpath
import re
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, NamedTuple

from lamella.build.sources import UNNAMED
from lamella.changeset.limits import require_space
from lamella.errors import DigestMismatch, InvalidArgument, NotFound, PermissionDenied, Unavailable

if TYPE_CHECKING:
    from lamella.transports.registry.hosts import Location
    from lamella.transports.registry.http import Answer, Transport

MAX_SIZE = 64 << 30
_CHUNK = 1 << 20
_SPACE_EVERY = 64 << 20
_TRIES = 3
_REDIRECTS = 10
_CHECKSUM = re.compile(r"sha256:[0-9a-f]{64}")
_NAME_LIMIT = 255


class Download(NamedTuple):
    """A file that was received whole: `name` in `directory`, mode 0600, with the time that the server gave it."""

    directory: Path
    name: str
    digest: str


@contextmanager
def downloaded(
    url: str, *, checksum: str = "", proxies: Mapping[str, str], limit: int = MAX_SIZE
) -> Generator[Download]:
    """Receive what `url` names; the file lives as long as the block.

    Raises DigestMismatch for other bytes than `checksum` (``sha256:<hex>``) says, InvalidArgument for a URL or an
    answer that is wrong or has more than `limit` bytes, NotFound, PermissionDenied or Unavailable for what the server
    says.
    """
    if checksum and not _CHECKSUM.fullmatch(checksum):
        raise InvalidArgument(f"invalid checksum {checksum[:100]!r}: give sha256: and 64 hexadecimal digits")
    with TemporaryDirectory(prefix="lamella-download-") as place:
        found = _with_tries(url, Path(place), checksum, proxies, limit)
        if checksum and found.digest != checksum:
            raise DigestMismatch(_shown(url), checksum, found.digest)
        yield found


def _with_tries(url: str, place: Path, checksum: str, proxies: Mapping[str, str], limit: int) -> Download:
    from lamella.transports.registry.hosts import Endpoint
    from lamella.transports.registry.http import Fault, Transport
    from lamella.transports.registry.settings import RegistrySettings

    location, authorization = _parse(url)
    # Registries' own certificates and exceptions are not for the web at large.
    settings = RegistrySettings(proxies=proxies, certs_dir=Path("/dev/null"))
    transport = Transport(Endpoint(location.origin.authority, location.origin), settings)
    try:
        for attempt in range(_TRIES):
            try:
                return _receive(transport, location, authorization, url, place, limit, pinned=bool(checksum))
            except Fault as fault:
                if not fault.retryable or attempt == _TRIES - 1:
                    raise
                time.sleep(settings.backoff * 2**attempt)
    finally:
        transport.close()
    raise AssertionError("unreachable")


def _receive(
    transport: Transport,
    location: Location,
    authorization: str,
    url: str,
    place: Path,
    limit: int,
    *,
    pinned: bool,
) -> Download:
    from lamella.transports.registry.hosts import parse_location

    first = location
    for _hop in range(_REDIRECTS + 1):
        headers = {"Authorization": authorization} if authorization and location.origin == first.origin else {}
        with transport.send("GET", location, headers) as answer:
            if answer.status not in {301, 302, 303, 307, 308}:
                return _save(answer, url, place, limit)
            target = parse_location(answer.header("Location"), base=location, what="redirect")
            if location.origin.scheme == "https" and target.origin.scheme != "https" and not pinned:
                raise InvalidArgument(
                    f"{location.shown}: redirected from https to {target.shown}; name that URL, or add --checksum"
                )
            _refuse_hidden(first, target)
            location = target
    raise InvalidArgument(f"{_shown(url)}: more than {_REDIRECTS} redirects")


def _refuse_hidden(first: Location, target: Location) -> None:
    """Refuse a server elsewhere that leads to this machine or the cloud's own network."""
    from lamella.transports.registry.hosts import is_link_local, is_loopback

    here, there = first.origin.host, target.origin.host
    if (is_loopback(there) or is_link_local(there)) and not (is_loopback(here) or is_link_local(here)):
        raise InvalidArgument(f"{first.shown}: redirected to this machine ({target.shown}), which is refused")


def _save(answer: Answer, url: str, place: Path, limit: int) -> Download:
    shown = _shown(url)
    _refuse_status(answer.status, shown)
    answer.refuse_encoding(shown)
    if answer.length is not None and answer.length > limit:
        raise InvalidArgument(f"{shown}: {answer.length} bytes is more than the {limit} allowed")
    name = _file_name(url, answer.header("Content-Disposition")) or UNNAMED
    path = place / name
    digest = hashlib.sha256()
    size = 0
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(fd, "wb", buffering=0) as file:
        os.fchmod(fd, 0o600)
        looked = -_SPACE_EVERY
        while piece := answer.read(_CHUNK):
            size += len(piece)
            if size > limit:
                raise InvalidArgument(f"{shown}: more than the {limit} bytes allowed")
            if size - looked >= _SPACE_EVERY:
                require_space(fd)
                looked = size
            digest.update(piece)
            file.write(piece)
    moment = _parse_time(answer.header("Last-Modified"))
    os.utime(path, (moment, moment))
    return Download(place, name, f"sha256:{digest.hexdigest()}")


def _refuse_status(status: int, shown: str) -> None:
    if status in {404, 410}:
        raise NotFound(f"{shown}: not found there (status {status})")
    if status in {401, 403, 407}:
        raise PermissionDenied(f"{shown}: access denied (status {status})")
    if status == 429 or status >= 500:
        from lamella.transports.registry.http import Fault

        raise Fault(f"{shown}: the server answered with status {status}")
    if status != 200:
        raise Unavailable(f"{shown}: the server answered with status {status}")


def _parse(url: str) -> tuple[Location, str]:
    """Check a URL; give where it leads, and the header for the user and password in it."""
    from base64 import b64encode
    from urllib.parse import quote, unquote

    from lamella.transports.registry.hosts import parse_location

    text = url.partition("#")[0]
    scheme, separator, rest = text.partition("://")
    authority, slash, path = rest.partition("/")
    user, at, host = authority.rpartition("@")
    header = ""
    if at:
        name, _, password = user.partition(":")
        header = "Basic " + b64encode(f"{unquote(name)}:{unquote(password)}".encode()).decode()
    path = quote(path, safe="%/:=&?~+!$,;'@()*-._")
    location = parse_location(f"{scheme.lower()}{separator}{host}{slash}{path}")
    return location, header


def _file_name(url: str, disposition: str) -> str:
    """Name the file by the URL's path, or else as its server says; nothing if neither tells."""
    from urllib.parse import unquote, urlsplit

    path = unquote(urlsplit(url).path)
    name = "" if path.endswith("/") else posixpath.basename(path)
    if not name and disposition:
        from email.message import Message

        message = Message()
        message["Content-Disposition"] = disposition
        given = message.get_filename() or ""
        name = "" if given.endswith("/") else posixpath.basename(given)
    if name in {".", ".."} or "\0" in name or len(os.fsencode(name)) > _NAME_LIMIT:
        raise InvalidArgument(f"{_shown(url)}: {name[:100]!r} is no name for a file")
    return name


def _parse_time(text: str) -> int:
    """Read a date of HTTP; without a proper one a file is of 1970."""
    from email.utils import parsedate_to_datetime

    try:
        return max(int(parsedate_to_datetime(text).timestamp()), 0)
    except (TypeError, ValueError, OverflowError):
        return 0


def _shown(url: str) -> str:
    """Give a URL without what may be secret in it."""
    scheme, _, rest = url.partition("://")
    authority, slash, path = rest.partition("/")
    return f"{scheme}://{authority.rpartition('@')[2]}{slash}{re.split('[?#]', path)[0]}"[:300]

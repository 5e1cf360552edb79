"""Hosts and URLs: which are well-formed, which belong together, which may do without TLS, which go through a proxy.

Pure: no name is resolved and nothing is sent here.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Mapping
from typing import NamedTuple, TypeAlias

from lamella.errors import InvalidArgument
from lamella.model.reference import DEFAULT_DOMAIN, Reference
from lamella.transports.registry.settings import RegistrySettings

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

HUB = "registry-1.docker.io"
_PORTS = {"http": 80, "https": 443}
_URL_LIMIT = 16 << 10
_NOT_IN_URL = re.compile(r"[^\x21-\x7e]|[\\\"<>^`{|}]")
_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?\.?|\[[0-9A-Fa-f:.]+\]", re.ASCII)
#: Token servers outside their registry's domain, as the registries document them.
_KNOWN_TOKEN_HOSTS = {"docker.io": ("auth.docker.io",), "lscr.io": ("ghcr.io",)}
#: Domains below which strangers own the names.
_SHARED = frozenset(
    [
        "amazonaws.com",
        "amazonaws.com.cn",
        "azurecr.io",
        "azurecr.cn",
        "azurewebsites.net",
        "azure.com",
        "cloudapp.net",
        "cloudfront.net",
        "fly.dev",
        "github.io",
        "githubusercontent.com",
        "gitlab.io",
        "herokuapp.com",
        "ngrok.io",
        "ngrok.app",
        "netlify.app",
        "pkg.dev",
        "pages.dev",
        "run.app",
        "scw.cloud",
        "vercel.app",
        "web.app",
        "windows.net",
        "workers.dev",
        "appspot.com",
        "duckdns.org",
    ]
)
#: Second levels of country domains, under which names are sold as under ``com``.
_SECOND_LEVELS = frozenset(
    ["ac", "co", "com", "edu", "gob", "gov", "go", "gouv", "mil", "ne", "net", "nom", "or", "org", "sch"]
)


class Origin(NamedTuple):
    """What credentials are bound to."""

    scheme: str
    host: str
    port: int

    @property
    def authority(self) -> str:
        """``host`` or ``host:port``, as people write it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"


class Location(NamedTuple):
    """A checked URL: *target* is path and query as sent."""

    origin: Origin
    target: str

    @property
    def url(self) -> str:
        """The whole URL; not to be shown, since a signed one is a secret."""
        return f"{self.origin.scheme}://{self.origin.authority}{self.target}"

    @property
    def shown(self) -> str:
        """The URL without its query, for messages."""
        return f"{self.origin.scheme}://{self.origin.authority}{self.target.partition('?')[0]}"[:300]

    def at(self, target: str) -> Location:
        """Return another target at the same origin."""
        return Location(self.origin, target)

    def with_query(self, query: str) -> Location:
        """Return this with *query* added to what it has."""
        return Location(self.origin, f"{self.target}{'&' if '?' in self.target else '?'}{query}")


class Endpoint(NamedTuple):
    """One server that may answer for a repository.

    *name* is what certificates and credentials go by; *schemes* are tried in order, *origin* has the first.
    """

    name: str
    origin: Origin
    prefix: str = ""
    insecure: bool = False
    mirror: bool = False
    schemes: tuple[str, ...] = ("https",)


def parse_location(text: str, *, base: Location | None = None, what: str = "URL") -> Location:
    """Parse an absolute URL, or one relative to *base*.

    Raises InvalidArgument for schemes other than http and https, user names, control characters, blanks and anything
    but ASCII: a server that sends such a thing is wrong or an attacker.
    """
    from urllib.parse import urljoin, urlsplit

    # urlsplit drops tabs and line ends silently; the look-out for them comes first.
    if len(text) > _URL_LIMIT or _NOT_IN_URL.search(text):
        raise InvalidArgument(f"{what} {text[:100]!r} is malformed")
    try:
        parts = urlsplit(urljoin(base.url, text) if base else text)
        port = parts.port
    except ValueError as problem:
        raise InvalidArgument(f"{what} {text[:100]!r} is malformed: {problem}") from problem
    if parts.scheme not in _PORTS:
        raise InvalidArgument(f"{what} {text[:100]!r}: only http and https are allowed")
    authority = parts.netloc
    host = authority if port is None else authority.rpartition(":")[0]
    if _HOST.fullmatch(host.removesuffix(":")) is None or port == 0:
        raise InvalidArgument(f"{what} names no proper host")  # it may hold a password: not shown
    target = parts.path or "/"
    if parts.query:
        target += f"?{parts.query}"
    name = host.removesuffix(":").strip("[]").lower()
    return Location(Origin(parts.scheme, name, port or _PORTS[parts.scheme]), target)


def parse_authority(text: str, scheme: str = "https") -> Origin:
    """Parse ``host[:port]``."""
    if "/" in text or "?" in text or "#" in text or "@" in text:
        raise InvalidArgument(f"{text[:100]!r} is not a registry's host name")
    return parse_location(f"{scheme}://{text}/", what="registry").origin


def find_address(host: str) -> Address | None:
    """Return the address *host* spells, in any spelling a resolver would take for one (``127.1``, ``0x7f000001``)."""
    try:
        found: Address = ipaddress.ip_address(host)
    except ValueError:
        if re.fullmatch(r"[0-9a-fA-FxX.]*[0-9a-fA-F]\.?", host) is None:
            return None
        try:
            found = ipaddress.IPv4Address(socket.inet_aton(host.rstrip(".")))
        except OSError:
            return None
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return mapped or found


def is_loopback(host: str) -> bool:
    """Tell whether *host* is this machine by its very name: localhost, 127.0.0.0/8 or ::1."""
    if host.rstrip(".") == "localhost":
        return True
    address = find_address(host)
    return address is not None and address.is_loopback


def is_link_local(host: str) -> bool:
    """Tell whether *host* is a link-local address, where clouds keep their metadata."""
    address = find_address(host)
    return address is not None and address.is_link_local


def is_insecure(origin: Origin, listed: frozenset[str]) -> bool:
    """Tell whether *origin* may be without a trusted certificate: loopback, or listed by name or network."""
    if is_loopback(origin.host):
        return True
    bracketed = f"[{origin.host}]" if ":" in origin.host else origin.host
    if not listed.isdisjoint({origin.host, origin.authority, f"{bracketed}:{origin.port}"}):
        return True
    address = find_address(origin.host)
    return address is not None and any(address in network for network in _networks(listed))


def same_site(one: str, other: str) -> bool:
    """Tell whether two hosts have one registrable domain, by a cautious rule of thumb."""
    if one == other:
        return True
    if find_address(one) or find_address(other):
        return False
    first, second = one.lower().split("."), other.lower().split(".")
    count = _registrable(first)
    return len(first) >= count and len(second) >= count > 1 and first[-count:] == second[-count:]


def may_issue_tokens(realm: Origin, registry: Origin, name: str, allowed: frozenset[str]) -> bool:
    """Tell whether *realm* may get the credentials of *registry*, known to the user as *name*."""
    if realm.scheme != "https" and registry.scheme != "http":
        return False
    if realm.host == registry.host:
        return True
    address = find_address(realm.host)
    inside = realm.host == "localhost" or (address is not None and not address.is_global)
    if realm.host in allowed or realm.authority in allowed:
        return True
    return not inside and (same_site(realm.host, registry.host) or realm.host in _KNOWN_TOKEN_HOSTS.get(name, ()))


def plan_endpoints(reference: Reference, settings: RegistrySettings, *, pull: bool) -> list[Endpoint]:
    """List who is asked for *reference*, in order: the mirrors of Docker Hub for pulls, then the registry."""
    endpoints: list[Endpoint] = []
    if reference.domain == DEFAULT_DOMAIN:
        if pull:
            endpoints += [_mirror(text, settings) for text in settings.mirrors]
        endpoints.append(Endpoint(DEFAULT_DOMAIN, Origin("https", HUB, 443)))
        return endpoints
    origin = parse_authority(reference.domain)
    insecure = is_insecure(origin, settings.insecure)
    schemes = ("https", "http") if insecure else ("https",)
    endpoints.append(Endpoint(reference.domain, origin, insecure=insecure, schemes=schemes))
    return endpoints


def with_scheme(endpoint: Endpoint, scheme: str) -> Origin:
    """Return the endpoint's origin as *scheme*; a port that was left out is that scheme's."""
    explicit = ":" in endpoint.name.rpartition("]")[2]
    port = endpoint.origin.port if explicit or scheme == endpoint.origin.scheme else _PORTS[scheme]
    return Origin(scheme, endpoint.origin.host, port)


def find_proxy(origin: Origin, proxies: Mapping[str, str]) -> str | None:
    """Return the proxy's URL for *origin*, by Go's rules; this machine is never reached through one."""
    table = {key.lower().removesuffix("_proxy"): value for key, value in proxies.items()}
    proxy = table.get(origin.scheme) or table.get("all")
    if not proxy or is_loopback(origin.host) or _excepted(origin, table.get("no", "")):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


def _mirror(text: str, settings: RegistrySettings) -> Endpoint:
    location = parse_location(text if "://" in text else f"https://{text}", what="mirror")
    if "?" in location.target:
        raise InvalidArgument(f"mirror {location.shown} must not have a query")
    insecure = is_insecure(location.origin, settings.insecure)
    if location.origin.scheme == "http" and not insecure:
        raise InvalidArgument(
            f"mirror {location.shown} is plain HTTP; use https, or add {location.origin.authority} to the insecure ones"
        )
    return Endpoint(
        location.origin.authority,
        location.origin,
        prefix=location.target.rstrip("/"),
        insecure=insecure,
        mirror=True,
        schemes=(location.origin.scheme,),
    )


def _registrable(labels: list[str]) -> int:
    """Count the labels of a registrable domain."""
    for count in (3, 2):
        if ".".join(labels[-count:]) in _SHARED:
            return count + 1
    return 3 if len(labels[-1]) == 2 and len(labels) > 2 and labels[-2] in _SECOND_LEVELS else 2


def _networks(listed: frozenset[str]) -> list[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    found: list[ipaddress.IPv4Network | ipaddress.IPv6Network] = []
    for text in listed:
        if "/" in text:
            try:
                found.append(ipaddress.ip_network(text, strict=False))
            except ValueError as problem:
                raise InvalidArgument(f"insecure registry {text!r} is no network: {problem}") from problem
    return found


def _excepted(origin: Origin, text: str) -> bool:
    address = find_address(origin.host)
    for item in text.replace(",", " ").lower().split():
        if item == "*":
            return True
        host, _, port = item.rpartition(":") if re.search(r"[^:]:\d+$", item) else (item, "", "")
        if port and int(port) != origin.port:
            continue
        host = host.strip("[]")
        if "/" in host and address is not None:
            try:
                if address in ipaddress.ip_network(host, strict=False):
                    return True
            except ValueError:
                continue
        bare = host.removeprefix("*").removeprefix(".")
        if origin.host.endswith(f".{bare}") or (origin.host == bare and host == bare):
            return True
    return False

"""Which URLs, hosts and proxies are let through: pure rules, and the attacks they are against."""

from __future__ import annotations

import pytest

from lamella.errors import InvalidArgument
from lamella.model.reference import parse_reference
from lamella.transports.registry.hosts import (
    Location,
    Origin,
    find_address,
    find_proxy,
    is_insecure,
    is_loopback,
    may_issue_tokens,
    parse_location,
    plan_endpoints,
    same_site,
    with_scheme,
)
from lamella.transports.registry.settings import RegistrySettings

BASE = parse_location("https://reg.example:5000/v2/a/b/blobs/x?y=1")


def secure(host: str, port: int = 443) -> Origin:
    return Origin("https", host, port)


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("https://other.example/p?q=%2F", "https://other.example/p?q=%2F"),
        ("/v2/c?d", "https://reg.example:5000/v2/c?d"),
        ("//cdn.example/c", "https://cdn.example/c"),
        ("z", "https://reg.example:5000/v2/a/b/blobs/z"),
        ("HTTP://[::1]:80/", "http://[::1]/"),
        ("https://EXAMPLE.com:443", "https://example.com/"),
    ],
)
def test_a_location_is_resolved_against_where_it_came_from(text: str, url: str) -> None:
    assert parse_location(text, base=BASE).url == url


@pytest.mark.parametrize(
    "text",
    [
        "file:///etc/passwd",
        "gopher://reg.example/",
        "ftp://reg.example/",
        "https://reg.example/\r\nX-Injected: 1",
        "https://reg.example/\tx",
        "https://reg.example/a b",
        "https://reg.example/\0",
        "https://user:secret@reg.example/",
        "https://reg.example\\@evil.example/",
        "https://reg.example:0/",
        "https://reg.example:99999/",
        "https://reg.example:x/",
        "https://réseau.example/",
        "https://a/" + "x" * 20_000,
        "https://[::1/",
    ],
)
def test_a_location_that_no_honest_server_sends_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse_location(text, base=BASE)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_shown_of_a_location_has_no_query() -> None:
    assert Location(secure("cdn.example"), "/blob?signature=secret").shown == "https://cdn.example/blob"


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("localhost", True),
        ("127.0.0.1", True),
        ("127.250.1.2", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("127.1", True),
        ("0x7f000001", True),
        ("2130706433", True),
        ("localhost.evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("10.0.0.1", False),
        ("128.0.0.1", False),
        ("deadbeef.example", False),
    ],
)
def test_loopback_is_known_in_every_spelling(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


def test_a_name_of_hexadecimal_letters_is_no_address() -> None:
    assert find_address("cafe") is None
    assert find_address("abc.de") is None


def test_insecure_registries_are_listed_by_host_port_or_network() -> None:
    listed = frozenset({"reg.example", "other.example:5000", "10.0.0.0/8", "fd00::/8"})
    assert is_insecure(secure("reg.example"), listed)
    assert is_insecure(secure("reg.example", 5000), listed)
    assert is_insecure(secure("other.example", 5000), listed)
    assert not is_insecure(secure("other.example"), listed)
    assert is_insecure(secure("10.1.2.3", 5000), listed)
    assert is_insecure(secure("fd00::1", 5000), listed)
    assert not is_insecure(secure("11.1.2.3"), listed)
    assert not is_insecure(secure("sub.reg.example"), listed)
    with pytest.raises(InvalidArgument, match="no network"):
        is_insecure(secure("10.1.2.3"), frozenset({"10.0.0.0/99"}))


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("reg.example.com", "auth.example.com", True),
        ("docker.elastic.co", "docker-auth.elastic.co", True),
        ("reg.example.co.uk", "auth.example.co.uk", True),
        ("reg.victim.co.uk", "evil.co.uk", False),
        ("one.azurecr.io", "two.azurecr.io", False),
        ("a.one.azurecr.io", "b.one.azurecr.io", True),
        ("x.s3.eu-west-1.amazonaws.com", "y.s3.eu-west-1.amazonaws.com", True),
        ("one.github.io", "two.github.io", False),
        ("registry", "registry", True),
        ("registry", "auth", False),
        ("reg.internal", "auth.internal", False),
        ("10.0.0.1", "11.0.0.1", False),
    ],
)
def test_a_site_is_a_registrable_domain(one: str, other: str, expected: bool) -> None:
    assert same_site(one, other) is expected


@pytest.mark.parametrize(
    ("realm", "registry", "name", "expected"),
    [
        (secure("reg.example.com", 9), secure("reg.example.com"), "reg.example.com", True),
        (secure("auth.docker.io"), secure("registry-1.docker.io"), "docker.io", True),
        (secure("ghcr.io"), secure("lscr.io"), "lscr.io", True),
        (secure("auth.example.com"), secure("reg.example.com"), "reg.example.com", True),
        (secure("evil.example"), secure("reg.example.com"), "reg.example.com", False),
        (Origin("http", "reg.example.com", 80), secure("reg.example.com"), "reg.example.com", False),
        (secure("127.0.0.1"), secure("reg.example.com"), "reg.example.com", False),
        (secure("169.254.169.254"), secure("reg.example.com"), "reg.example.com", False),
        (secure("localhost"), secure("reg.example.com"), "reg.example.com", False),
        (secure("2130706433"), secure("reg.example.com"), "reg.example.com", False),
        (secure("10.0.0.2"), secure("10.0.0.1"), "10.0.0.1", False),
        (secure("10.0.0.1", 8443), secure("10.0.0.1"), "10.0.0.1", True),
        (Origin("http", "10.0.0.1", 80), Origin("http", "10.0.0.1", 5000), "10.0.0.1:5000", True),
        (secure("tokens.example"), secure("reg.example.com"), "reg.example.com", True),
    ],
)
def test_a_realm_must_be_the_registrys_own(realm: Origin, registry: Origin, name: str, expected: bool) -> None:
    assert may_issue_tokens(realm, registry, name, frozenset({"tokens.example"})) is expected


def test_docker_hub_is_reached_by_its_host_and_its_mirrors_first() -> None:
    settings = RegistrySettings(mirrors=("https://mirror.example/hub/", "http://127.0.0.1:5000"))
    first, second, hub = plan_endpoints(parse_reference("ubuntu"), settings, pull=True)
    assert (first.name, first.prefix, first.mirror, first.schemes) == ("mirror.example", "/hub", True, ("https",))
    assert (second.origin, second.schemes) == (Origin("http", "127.0.0.1", 5000), ("http",))
    assert (hub.name, hub.origin, hub.insecure) == ("docker.io", secure("registry-1.docker.io"), False)
    assert plan_endpoints(parse_reference("ubuntu"), settings, pull=False) == [hub]
    assert len(plan_endpoints(parse_reference("reg.example/x"), settings, pull=True)) == 1


@pytest.mark.parametrize("mirror", ["http://mirror.example", "ftp://mirror.example", "https://u:p@mirror.example"])
def test_a_mirror_must_be_a_safe_url(mirror: str) -> None:
    with pytest.raises(InvalidArgument):
        plan_endpoints(parse_reference("ubuntu"), RegistrySettings(mirrors=(mirror,)), pull=True)


def test_plain_http_is_for_loopback_and_listed_registries() -> None:
    def schemes(name: str) -> tuple[str, ...]:
        settings = RegistrySettings(insecure=frozenset({"listed.example"}))
        return plan_endpoints(parse_reference(name), settings, pull=True)[0].schemes

    assert schemes("reg.example/x") == ("https",)
    assert schemes("localhost:5000/x") == ("https", "http")
    assert schemes("listed.example/x") == ("https", "http")
    (endpoint,) = plan_endpoints(parse_reference("localhost/x"), RegistrySettings(), pull=True)
    assert with_scheme(endpoint, "http").port == 80
    (endpoint,) = plan_endpoints(parse_reference("localhost:5000/x"), RegistrySettings(), pull=True)
    assert with_scheme(endpoint, "http").port == 5000


@pytest.mark.parametrize(
    ("origin", "no", "expected"),
    [
        (secure("reg.example"), "", "http://proxy:3128"),
        (secure("reg.example"), "reg.example", None),
        (secure("sub.reg.example"), "reg.example", None),
        (secure("sub.reg.example"), ".reg.example", None),
        (secure("reg.example"), ".reg.example", "http://proxy:3128"),
        (secure("areg.example"), "reg.example", "http://proxy:3128"),
        (secure("reg.example", 5000), "reg.example:5000", None),
        (secure("reg.example"), "reg.example:5000", "http://proxy:3128"),
        (secure("10.1.2.3"), "192.168.0.1, 10.0.0.0/8", None),
        (secure("reg.example"), "10.0.0.0/8", "http://proxy:3128"),
        (secure("reg.example"), "*", None),
        (secure("127.0.0.1", 5000), "", None),
        (secure("localhost"), "", None),
        (Origin("http", "reg.example", 80), "", None),
    ],
)
def test_proxies_go_by_gos_rules(origin: Origin, no: str, expected: str | None) -> None:
    assert find_proxy(origin, {"HTTPS_PROXY": "proxy:3128", "no_proxy": no}) == expected
    assert find_proxy(origin, {"https": "http://proxy:3128", "no": no}) == expected

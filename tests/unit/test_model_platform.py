from __future__ import annotations

import pytest

from lamella.errors import InvalidArgument
from lamella.model.platform import Platform, host_platform, parse_platform


@pytest.mark.parametrize(
    ("text", "platform"),
    [
        ("linux/amd64", "linux/amd64"),
        ("linux/x86_64", "linux/amd64"),
        ("Linux/AMD64/v1", "linux/amd64"),
        ("linux/amd64/v3", "linux/amd64/v3"),
        ("linux/arm64/v8", "linux/arm64"),
        ("linux/aarch64", "linux/arm64"),
        ("linux/arm", "linux/arm/v7"),
        ("linux/arm/6", "linux/arm/v6"),
        ("linux/armhf", "linux/arm/v7"),
        ("windows/386", "windows/386"),
        ("s390x", "linux/s390x"),
    ],
)
def test_platforms_are_normalised(text: str, platform: str) -> None:
    assert str(parse_platform(text)) == platform


@pytest.mark.parametrize("text", ["", "/", "linux/", "a/b/c/d", "linux/a b", "toaster", "linux/é"])
def test_bad_platforms_are_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="invalid platform"):
        parse_platform(text)


def test_machines_have_gos_names() -> None:
    assert host_platform("x86_64") == Platform("linux", "amd64")
    assert host_platform("aarch64") == Platform("linux", "arm64")
    assert host_platform("armv7l") == Platform("linux", "arm", "v7")
    assert host_platform("armv6l") == Platform("linux", "arm", "v6")
    assert host_platform("i686") == Platform("linux", "386")
    assert host_platform("ppc64le") == Platform("linux", "ppc64le")
    assert parse_platform("linux") == host_platform()

"""Filters and points in time."""

from __future__ import annotations

from typing import Never

import pytest

from lamella.engine.options import ContainerOptions, parse_device, parse_ulimit, plan_host_config, plan_settings
from lamella.engine.selection import container_test, image_test, matches_reference, parse_moment
from lamella.errors import InvalidArgument
from lamella.model.containerconfig import Device, Ulimit


def _unasked(name: str) -> Never:
    raise AssertionError(name)


NOW = 1_000_000_000 * 10**9


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("1970-01-01T00:00:01Z", 10**9),
        ("1970-01-01T01:00:01+01:00", 10**9),
        ("1970-01-01T00:00:01", 10**9),
        ("1970-01-02", 86400 * 10**9),
        ("1.5", 1_500_000_000),
        ("12", 12 * 10**9),
        ("10m", NOW - 600 * 10**9),
    ],
)
def test_moments(text: str, moment: int) -> None:
    assert parse_moment(text, NOW) == moment


def test_a_malformed_moment_is_refused() -> None:
    with pytest.raises(InvalidArgument):
        parse_moment("yesterday", NOW)


@pytest.mark.parametrize(
    ("pattern", "familiar", "fits"),
    [
        ("app", "app:1", True),
        ("app:*", "app:1", True),
        ("a*", "app:1", True),
        ("a*", "a/b:1", False),
        ("*/*", "a/b:1", True),
        ("app:[12]", "app:1", True),
        ("app:[12]", "app:3", False),
        ("a?p", "app:1", True),
        ("app:1", "app:12", False),
        ("app.", "appx:1", False),
    ],
)
def test_reference_patterns_match_as_docker_matches(pattern: str, familiar: str, fits: bool) -> None:
    assert matches_reference(pattern, familiar.partition(":")[0], familiar) is fits


@pytest.mark.parametrize("word", ["colour=blue", "dangling=perhaps"])
def test_unknown_filters_are_refused(word: str) -> None:
    with pytest.raises(InvalidArgument):
        image_test([word], _unasked, NOW)
    with pytest.raises(InvalidArgument):
        container_test([word], _unasked, lambda _name: set())


def test_status_is_one_of_dockers() -> None:
    with pytest.raises(InvalidArgument, match="status=asleep"):
        container_test(["status=asleep"], _unasked, lambda _name: set())


def test_options_become_dockers_documents() -> None:
    options = ContainerOptions(
        tty=True, stdin=True, env=["A=1"], entrypoint=[""], cap_add=["net_admin", "ALL"], memory=64 << 20, cpus=1.5,
        remove=True, devices=["/dev/null"], ulimits=["nofile=10:20"], pids_limit=-1, read_only=True,
    )  # fmt: skip
    settings = plan_settings(options, "image", ["sh"])
    assert (settings.tty, settings.open_stdin, settings.attach_stdin, settings.stdin_once) == (True, True, True, True)
    assert (settings.cmd, settings.entrypoint, settings.image, settings.env) == (("sh",), ("",), "image", ("A=1",))
    host = plan_host_config(options)
    assert host.cap_add == ("CAP_NET_ADMIN", "ALL")
    assert (host.memory, host.memory_swap, host.nano_cpus, host.pids_limit) == (
        64 << 20,
        128 << 20,
        1_500_000_000,
        None,
    )
    assert (host.auto_remove, host.readonly_rootfs, host.network_mode) == (True, True, "none")
    assert host.devices == (Device("/dev/null", "/dev/null", "rwm"),)
    assert host.ulimits == (Ulimit("nofile", 20, 10),)
    assert plan_settings(ContainerOptions(), "image", []).cmd is None


@pytest.mark.parametrize("options", [ContainerOptions(network="mynet"), ContainerOptions(log_driver="syslog")])
def test_what_is_not_there_is_refused(options: ContainerOptions) -> None:
    with pytest.raises(InvalidArgument, match="not available"):
        plan_host_config(options)


def test_devices_and_ulimits() -> None:
    assert parse_device("/dev/a:/dev/b:r") == Device("/dev/a", "/dev/b", "r")
    assert parse_device("/dev/a:rw") == Device("/dev/a", "/dev/a", "rw")
    for text in ("a", "/dev/a:/dev/b:x"):
        with pytest.raises(InvalidArgument):
            parse_device(text)
    assert parse_ulimit("core=0") == Ulimit("core", 0, 0)
    assert parse_ulimit("core=-1:-1") == Ulimit("core", -1, -1)
    for text in ("core", "=1", "core=x", "core=1:y"):
        with pytest.raises(InvalidArgument):
            parse_ulimit(text)

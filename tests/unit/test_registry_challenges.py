"""What a 401 and a Retry-After say."""

from __future__ import annotations

import threading
import time
from email.utils import formatdate

import pytest

from lamella.errors import InvalidArgument, Unavailable
from lamella.transports.registry.attempts import RETRIES, Attempts, retry_after
from lamella.transports.registry.auth import Challenge, parse_challenges
from lamella.transports.registry.http import Fault
from lamella.transports.registry.settings import RegistrySettings


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (
            ['Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push"'],
            [
                (
                    "bearer",
                    {
                        "realm": "https://auth.docker.io/token",
                        "service": "registry.docker.io",
                        "scope": "repository:a/b:pull,push",
                    },
                )
            ],
        ),
        (["Basic realm=plain"], [("basic", {"realm": "plain"})]),
        (['BASIC realm="a \\"b\\""'], [("basic", {"realm": 'a "b"'})]),
        (['Basic realm="x", Bearer realm="y" , service=z'], [("basic", {"realm": "x"}), ("bearer", {"realm": "y", "service": "z"})]),
        (["Negotiate", "Basic realm=x"], [("negotiate", {}), ("basic", {"realm": "x"})]),
        (["Negotiate, Basic realm=x"], [("negotiate", {}), ("basic", {"realm": "x"})]),
        ([""], []),
        (['realm="x"'], []),
        (["Bearer realm="], [("bearer", {})]),
        (['Bearer realm="unclosed'], [("bearer", {})]),
    ],
)  # fmt: skip
def test_challenges_are_parsed(values: list[str], expected: list[tuple[str, dict[str, str]]]) -> None:
    assert parse_challenges(values) == [Challenge(scheme, parameters) for scheme, parameters in expected]


def test_an_endless_challenge_is_refused_and_an_odd_one_is_quick() -> None:
    with pytest.raises(InvalidArgument):
        parse_challenges(["Bearer " + 'a="b",' * 5000])
    assert parse_challenges(['Bearer a="' + '\\"' * 4000]) == [Challenge("bearer", {})]


def test_retry_after_is_seconds_or_a_date() -> None:
    assert retry_after("7") == 7
    assert retry_after(" 0 ") == 0
    assert retry_after(formatdate(time.time() - 100, usegmt=True)) == 0
    late = retry_after(formatdate(time.time() + 1000, usegmt=True))
    assert late is not None
    assert late > 900
    assert retry_after("") is retry_after("soon") is retry_after("-5") is None
    assert retry_after("9" * 400) == float("9" * 12)


def test_tries_end_and_progress_begins_them_anew() -> None:
    attempts = Attempts(RegistrySettings(backoff=0.0001), threading.Event())
    for _ in range(3):
        for _ in range(RETRIES):
            attempts.failed(Fault("reg: broke"))
        attempts.progress()
    for _ in range(RETRIES):
        attempts.failed(Fault("reg: broke"))
    with pytest.raises(Unavailable, match="reg: broke; gave up after 6 tries") as caught:
        attempts.failed(Fault("reg: broke"))
    assert not isinstance(caught.value, Fault)


def test_what_cannot_be_mended_is_not_waited_for() -> None:
    attempts = Attempts(RegistrySettings(backoff=60), threading.Event())
    with pytest.raises(Unavailable, match="wrong"):
        attempts.failed(Fault("wrong", retryable=False))
    with pytest.raises(Unavailable, match="asks to wait 3600 s"):
        attempts.failed(Fault("busy", retry_after=3600))
    with pytest.raises(Unavailable, match="gave up"):
        Attempts(RegistrySettings(retry_time=0.1), threading.Event()).failed(Fault("busy", retry_after=5))

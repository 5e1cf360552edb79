"""The policy file: what it may say, and how mistakes in it are named."""

from __future__ import annotations

import pytest

from lamella.errors import InvalidArgument
from lamella.insight.policy import Policy, PolicyError, has_label, is_pinned, parse_age, parse_policy
from lamella.model.units import parse_disk_size

HOUR = 3600 * 10**9


def test_a_file_may_say_everything() -> None:
    raw = b"""
unused-for = "30d"
keep = 3
budget = "50GB"
minimum-age = "90m"
dangling = false
pins = ["debian:12", "ci/*"]
keep-labels = ["keep"]
drop-labels = ["ci=1"]
"""
    assert parse_policy(raw, "gc.toml") == Policy(
        unused_for=30 * 24 * HOUR,
        keep=3,
        budget=50 * 10**9,
        minimum_age=HOUR * 3 // 2,
        dangling=False,
        pins=("debian:12", "ci/*"),
        keep_labels=("keep",),
        drop_labels=("ci=1",),
    )


def test_an_empty_file_selects_nothing_by_name() -> None:
    policy = parse_policy(b"", "gc.toml")
    assert not policy.selects
    assert policy.dangling


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"keep = 1\nbudgets = 5\n", "gc.toml, line 2: unknown key 'budgets'"),
        (b"# x\n\nkeep = 'three'\n", "gc.toml, line 3: keep: a number is due"),
        (b"keep = -1\n", "gc.toml, line 1: keep: a number is due, 0 or more"),
        (b"keep = true\n", "gc.toml, line 1: keep: a number is due"),
        (b"\nunused-for = '30 days'\n", "gc.toml, line 2: unused-for: '30 days' is no duration"),
        (b"unused-for = 30\n", "gc.toml, line 1: unused-for: a duration is due"),
        (b"budget = '50 apples'\n", "gc.toml, line 1: budget: '50 apples' is no size"),
        (b"dangling = 1\n", "gc.toml, line 1: dangling: true or false is due"),
        (b"pins = 'debian'\n", "gc.toml, line 1: pins: a list of texts is due"),
        (b"pins = ['']\n", "gc.toml, line 1: pins: a list of texts is due"),
        (b"keep = 1\nkeep = 2\n", "gc.toml, line 2: Cannot overwrite a value"),
        (b"keep = 1\n\nbudget = \n", "gc.toml, line 3: "),
        (b"keep = 1\n[images]\nx = 1\n", "gc.toml, line 2: unknown key 'images'"),
        (b"keep = 1\n# \xff\n", "gc.toml, line 2: not UTF-8"),
    ],
)
def test_a_mistake_is_named_with_its_line(raw: bytes, message: str) -> None:
    with pytest.raises(PolicyError) as caught:
        parse_policy(raw, "gc.toml")
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("text", "seconds"), [("0", 0), ("45s", 45), ("90m", 5400), ("36h", 129600), ("2w", 1209600), ("1d12h", 129600)]
)
def test_durations_are_numbers_with_units(text: str, seconds: int) -> None:
    assert parse_age(text) == seconds * 10**9


@pytest.mark.parametrize("text", ["", "5", "d", "-1d", "1.5d", "1y", "1d " * 20])
def test_other_durations_are_refused(text: str) -> None:
    with pytest.raises(InvalidArgument):
        parse_age(text)


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("512", 512), ("50GB", 50 * 10**9), ("20GiB", 20 << 30), ("1.5 MB", 1_500_000), ("3k", 3000)],
)
def test_sizes_are_decimal_unless_they_say_otherwise(text: str, size: int) -> None:
    assert parse_disk_size(text) == size


@pytest.mark.parametrize("text", ["", "GB", "-1", "1e9", "50 apples"])
def test_other_sizes_are_refused(text: str) -> None:
    with pytest.raises(InvalidArgument):
        parse_disk_size(text)


ID = "sha256:" + "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("pin", "pinned"),
    [
        ("debian:12", True),
        ("debian", True),
        ("deb*", True),
        ("*:12", True),
        ("debian:1?", True),
        ("localhost:5000/app", True),
        ("localhost:5000/*", True),
        ("0123456789ab", True),
        (ID, True),
        ("debian:11", False),
        ("ubuntu", False),
        ("0123456789a", False),
        ("feedfeedfeed", False),
    ],
)
def test_a_pin_is_a_name_a_pattern_or_an_id(pin: str, pinned: bool) -> None:
    assert is_pinned(pin, ID, ["debian:12", "localhost:5000/app:1"]) is pinned


def test_a_pin_of_a_repository_covers_its_digests() -> None:
    assert is_pinned("app", ID, [f"app@{ID}"])


def test_a_label_is_a_key_with_or_without_a_value() -> None:
    labels = {"ci": "1"}
    assert has_label("ci", labels)
    assert has_label("ci=1", labels)
    assert not has_label("ci=2", labels)
    assert not has_label("keep", labels)

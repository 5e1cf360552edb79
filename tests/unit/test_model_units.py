from __future__ import annotations

import pytest

from lamella.errors import InvalidArgument
from lamella.model.units import format_duration, human_duration, human_size, parse_duration, parse_size

DAY = 86400


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0B"), (999, "999B"), (1000, "1kB"), (7_800_000, "7.8MB"), (1_234_567_890, "1.235GB"), (999_999, "1000kB"),
     (1_982_263, "1.982MB"), (5 * 10**27, "5000YB")],
)  # fmt: skip
def test_sizes_have_four_digits(size: int, text: str) -> None:
    assert human_size(size) == text


def test_tables_have_three_digits() -> None:
    assert human_size(1_982_263, precision=3) == "1.98MB"
    assert human_size(117_400_000, precision=3) == "117MB"
    assert human_size(3, precision=3) == "3B"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "Less than a second"),
        (1, "1 second"),
        (59, "59 seconds"),
        (60, "About a minute"),
        (119, "About a minute"),
        (120, "2 minutes"),
        (3599, "59 minutes"),
        (3600, "About an hour"),
        (5399, "About an hour"),
        (5400, "2 hours"),
        (47 * 3600, "47 hours"),
        (2 * DAY, "2 days"),
        (13 * DAY, "13 days"),
        (14 * DAY, "2 weeks"),
        (59 * DAY, "8 weeks"),
        (60 * DAY, "2 months"),
        (729 * DAY, "24 months"),
        (730 * DAY, "2 years"),
        (-5, "Less than a second"),
    ],
)
def test_durations_are_rough(seconds: float, text: str) -> None:
    assert human_duration(seconds) == text


@pytest.mark.parametrize(
    ("text", "size"),
    [("64m", 64 << 20), ("64M", 64 << 20), ("1.5g", 3 << 29), ("10", 10), ("10b", 10), ("1GiB", 1 << 30), ("5 kb", 5120),
     (".5k", 512), ("0", 0), ("1t", 1 << 40), ("2P", 2 << 50)],
)  # fmt: skip
def test_memory_is_in_powers_of_1024(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "x", "-1", "1x", "1.5.5g", "1 k b", "1ib", "m", "٣", "9" * 30, "1e3"])
def test_bad_sizes_are_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="invalid size"):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "nanoseconds", "spelled"),
    [
        ("1m30s", 90 * 10**9, "1m30s"),
        ("1.5h", 5400 * 10**9, "1h30m0s"),
        ("0", 0, "0s"),
        ("500ms", 5 * 10**8, "500ms"),
        ("-2s", -2 * 10**9, "-2s"),
        ("+1us", 1000, "1µs"),
        ("1.5µs", 1500, "1.5µs"),
        ("10ns", 10, "10ns"),
        (".5s", 5 * 10**8, "500ms"),
        ("1.000000001s", 10**9 + 1, "1.000000001s"),
    ],
)
def test_durations_are_gos(text: str, nanoseconds: int, spelled: str) -> None:
    assert parse_duration(text) == nanoseconds
    assert format_duration(nanoseconds) == spelled


@pytest.mark.parametrize(
    "text", ["", "s", "-", "1x", "1s ", " 1s", "1e3s", ".s", "9" * 40 + "h", "1m" * 50, "1.2.3s", "\u0661s"]
)
def test_bad_durations_are_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="time: invalid duration"):
        parse_duration(text)


@pytest.mark.parametrize("text", ["1", "-1", "5.", ".5", "1s1", "5s5"])
def test_a_duration_without_its_unit_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match=f'time: missing unit in duration "{text}"'):
        parse_duration(text)

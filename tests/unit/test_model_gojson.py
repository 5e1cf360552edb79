from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from lamella.errors import InvalidArgument
from lamella.model.gojson import ZERO_TIME, encode, format_time, now, now_ns, parse_time


def test_text_is_escaped_as_in_go() -> None:
    assert encode("<a> & 'b' \u2028\u2029 é \x7f \t\n \x01 \" \\") == (
        '"\\u003ca\\u003e \\u0026 \'b\' \\u2028\\u2029 é \x7f \\t\\n \\u0001 \\" \\\\"'.encode()
    )
    assert encode("<&>", escape_html=False) == b'"<&>"'


def test_what_is_not_utf8_becomes_the_replacement_character() -> None:
    assert encode({"a": b"\xff".decode(errors="surrogateescape")}) == b'{"a":"\\ufffd"}'


def test_documents_are_compact_and_in_the_order_given() -> None:
    document = {"b": [1, True, False, None, 1.5], "a": {}, "c": [], "d": ("x",), "é": -7}
    assert encode(document) == '{"b":[1,true,false,null,1.5],"a":{},"c":[],"d":["x"],"é":-7}'.encode()
    assert encode({}, newline=True) == b"{}\n"


@pytest.mark.parametrize(
    ("number", "text"),
    [(0.0, "0"), (-0.0, "-0"), (1.0, "1"), (1e20, "100000000000000000000"), (1e21, "1e+21"), (1e-6, "0.000001"),
     (1e-7, "1e-7"), (1.5e-9, "1.5e-9"), (123456789.25, "123456789.25"), (-2.5, "-2.5")],
)  # fmt: skip
def test_floats_are_spelled_as_in_go(number: float, text: str) -> None:
    assert encode(number) == text.encode()


def test_what_has_no_json_form_is_refused() -> None:
    with pytest.raises(InvalidArgument):
        encode(float("nan"))
    with pytest.raises(TypeError):
        encode({1: 2})
    with pytest.raises(TypeError):
        encode(b"x")


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("2020-01-02T03:04:05Z", 1577934245_000000000),
        ("2026-11-24T01:29:44.845461131Z", 1795483784_845461131),
        ("1969-12-31T23:59:59.5Z", -500000000),
        ("2000-02-29T00:00:00Z", 951782400_000000000),
        (ZERO_TIME, -62135596800_000000000),
        ("9999-12-31T23:59:59.999999999Z", 253402300799_999999999),
    ],
)
def test_times_are_read_and_written(text: str, nanoseconds: int) -> None:
    assert parse_time(text) == nanoseconds
    assert format_time(nanoseconds) == text


def test_zones_and_long_fractions_are_understood() -> None:
    assert parse_time("2020-01-02T05:04:05+02:00") == parse_time("2020-01-02T03:04:05Z")
    assert parse_time("2020-01-01T22:34:05-04:30") == parse_time("2020-01-02T03:04:05Z")
    assert parse_time("1970-01-01T00:00:00.1234567899Z") == 123456789


def test_datetimes_are_written_in_utc() -> None:
    assert format_time(datetime(2020, 1, 2, 3, 4, 5, 120000, tzinfo=UTC)) == "2020-01-02T03:04:05.12Z"
    assert format_time(datetime(2020, 1, 2, 5, 4, 5, tzinfo=timezone(timedelta(hours=2)))) == "2020-01-02T03:04:05Z"
    with pytest.raises(InvalidArgument):
        format_time(datetime(2020, 1, 2))  # noqa: DTZ001 - the point of it
    assert now().tzinfo is UTC
    assert now_ns() > parse_time("2020-01-02T03:04:05Z")


@pytest.mark.parametrize(
    "text",
    ["", "x", "2020-01-02", "2020-13-02T03:04:05Z", "2021-02-29T03:04:05Z", "2020-01-02T24:00:00Z", "2020-00-02T03:04:05Z",
     "2020-01-02T03:04:05", "2020-01-02t03:04:05z", "2020-01-02T03:04:05Z\n", "2020-01-02T03:04:05.Z", "٢020-01-02T03:04:05Z",
     "2020-01-02T03:04:05+99:00"],
)  # fmt: skip
def test_bad_times_are_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="invalid time"):
        parse_time(text)


def test_years_of_five_digits_have_no_form() -> None:
    with pytest.raises(InvalidArgument):
        format_time(10**21)

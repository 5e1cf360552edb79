from __future__ import annotations

import pytest

from lamella.errors import InvalidArgument
from lamella.model.documents import decode_document, decode_object, kind_of


def decode(raw: bytes) -> object:
    return decode_document(raw, limit=1 << 20, what="manifest")


def test_a_document_is_decoded() -> None:
    assert decode(b' {"a":[1,-2.5,"\\ud83d\\ude00",null,true]} ') == {"a": [1, -2.5, "\U0001f600", None, True]}


def test_64_levels_are_the_limit() -> None:
    assert decode(b"[" * 64 + b"]" * 64)
    assert decode(b'{"a":' * 64 + b"1" + b"}" * 64)


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"[" * 65 + b"]" * 65, "nested deeper than 64"),
        (b"[" * 100_000, "nested deeper than 64"),
        (b'{"a":[' * 40 + b"]}" * 40, "nested deeper than 64"),
        (b'["[[[", ' + b"[" * 65 + b"]" * 66, "nested deeper than 64"),
        (b'{"a":1,"b":2,"a":1}', "key 'a' is given twice"),
        (b'{"a":{"b":1,"\\u0062":2}}', "key 'b' is given twice"),
        (b"[NaN]", "NaN"),
        (b"[-Infinity]", "Infinity"),
        (b"[1e999]", "out of range"),
        (b"[" + b"9" * 21 + b"]", "more than 20 digits"),
        (b"[" + b"9" * 9000 + b"]", "more than 20 digits"),
        (b"[0." + b"9" * 100 + b"]", "out of range"),
        (b'["\xff"]', "not UTF-8 at byte 2"),
        (b'["\\ud800"]', "half a surrogate pair"),
        (b'{"\\udc00":1}', "half a surrogate pair"),
        (b"\xef\xbb\xbf{}", "not valid JSON"),
        (b"", "not valid JSON"),
        (b"{} x", "not valid JSON"),
        (b'{"a"', "not valid JSON"),
        (b"[1,]", "not valid JSON"),
        (b"{" * 30 + b"[" * 40, "not valid JSON|nested"),
        (b'["\n"]', "not valid JSON"),
        (b"[01]", "not valid JSON"),
    ],
)
def test_hostile_documents_are_refused_by_name(raw: bytes, reason: str) -> None:
    with pytest.raises(InvalidArgument, match=reason) as caught:
        decode(raw)
    assert str(caught.value).startswith("manifest: ")
    assert "\n" not in str(caught.value)


def test_brackets_in_strings_do_not_count() -> None:
    assert decode(b'["' + b"[" * 1000 + b'\\"' + b"{" * 1000 + b'"]')


def test_many_flat_brackets_are_fine() -> None:
    assert decode(b"[" + b",".join([b"[{}]"] * 10_000) + b"]")


def test_size_is_checked_first() -> None:
    with pytest.raises(InvalidArgument, match="11 bytes is more than the 10 allowed"):
        decode_document(b"x" * 11, limit=10, what="manifest")


def test_an_object_is_required_where_one_is_due() -> None:
    assert decode_object(b"{}", limit=10, what="x") == {}
    for raw, kind in ((b"[]", "array"), (b"null", "null"), (b"1", "number"), (b'"a"', "string"), (b"true", "boolean")):
        with pytest.raises(InvalidArgument, match=f"expected a JSON object, got {kind}"):
            decode_object(raw, limit=10, what="x")
    assert kind_of({}) == "object"

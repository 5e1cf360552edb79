from __future__ import annotations

import pytest

from lamella.errors import InvalidArgument
from lamella.model.filters import match_pairs, parse_bool, parse_filters


def test_values_are_collected_by_key() -> None:
    assert parse_filters(["label=a=b", "LABEL= c ", "dangling=true", "", "label=c"], ["label", "dangling"]) == {
        "label": ["a=b", "c"],
        "dangling": ["true"],
    }


def test_bad_filters_are_refused() -> None:
    with pytest.raises(InvalidArgument, match=r"bad format of filter 'x' \(expected name=value\)"):
        parse_filters(["x"], ["label"])
    with pytest.raises(InvalidArgument, match="invalid filter 'foo'; use one of: dangling, label"):
        parse_filters(["foo=1"], ["label", "dangling"])


def test_pairs_match_by_key_or_by_value() -> None:
    labels = {"a": "1", "b": ""}
    assert match_pairs(["a", "a=1", "b="], labels)
    assert not match_pairs(["a=2"], labels)
    assert not match_pairs(["c"], labels)
    assert match_pairs([], {})


def test_truth_values() -> None:
    assert parse_bool("dangling", []) is None
    assert parse_bool("dangling", ["True"]) is True
    assert parse_bool("dangling", ["0"]) is False
    for values in (["x"], ["true", "false"]):
        with pytest.raises(InvalidArgument, match="expected true or false"):
            parse_bool("dangling", values)

from __future__ import annotations

import re

import pytest

from lamella.errors import InvalidArgument
from lamella.model import ids


def test_new_ids_have_dockers_form() -> None:
    assert ids.is_cache_id(ids.new_cache_id())
    assert ids.is_container_id(ids.new_container_id())
    assert ids.is_link_id(ids.new_link_id())
    assert ids.new_cache_id() != ids.new_cache_id()


def test_a_link_id_is_base32_cut_to_26_characters() -> None:
    assert ids.link_id_of(bytes(17)) == "A" * 26
    assert ids.link_id_of(b"\xff" * 17) == "7" * 26
    assert ids.link_id_of(bytes(range(17))) == "AAAQEAYEAUDAOCAJBIFQYDIOB4"


def test_cache_ids_include_buildkits_and_init_layers() -> None:
    assert ids.is_cache_id("9g3uq5fmpqvyhnp57kymqh9cx")
    assert ids.is_cache_id("a" * 64)
    assert ids.is_cache_id(ids.init_id(ids.CacheID("a" * 64)))


@pytest.mark.parametrize(
    "text",
    ["", "l", "..", "a" * 63, "a" * 65, "A" * 64, "a" * 64 + "-removing", "a" * 64 + "\n", "a" * 24, "../" + "a" * 22],
)
def test_names_that_are_no_cache_ids(text: str) -> None:
    assert not ids.is_cache_id(text)


@pytest.mark.parametrize("text", ["", "a" * 26, "A" * 25, "A" * 25 + ",", "A" * 25 + ":", "A" * 26 + "\n"])
def test_names_that_are_no_link_ids(text: str) -> None:
    assert not ids.is_link_id(text)


def test_short_ids() -> None:
    assert ids.short_id("sha256:" + "0123456789abcdef" * 4) == "0123456789ab"
    assert ids.short_id("f" * 64) == "f" * 12


@pytest.mark.parametrize(("text", "name"), [("web", "web"), ("/web_1.a-b", "web_1.a-b"), ("9x", "9x")])
def test_container_names(text: str, name: str) -> None:
    assert ids.parse_container_name(text) == name


@pytest.mark.parametrize("text", ["", "/", "a", "-x", "_x", "a b", "a/b", "//ab", "ab\n", "é1"])
def test_bad_container_names_are_refused_in_dockers_words(text: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        ids.parse_container_name(text)
    assert str(caught.value) == f"Invalid container name ({text}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"


def test_generated_names_are_valid_and_free() -> None:
    name = ids.generate_name(())
    assert re.fullmatch("[a-z]+_[a-z]+", name)
    assert ids.parse_container_name(name) == name


def test_a_number_is_added_when_names_run_out() -> None:
    class AllPlainOnes:
        def __contains__(self, name: object) -> bool:
            return not str(name)[-1:].isdigit()

    assert ids.generate_name(AllPlainOnes())[-1].isdigit()

"""Variables, quotes and modifiers."""

from __future__ import annotations

import time

import pytest

from lamella.build.dockerfile.expand import MAX_EXPANDED, expand, expand_text, expand_words
from lamella.errors import InvalidArgument

VARIABLES = {"x": "hello", "p": "/usr/local/bin", "e": "", "s": "a b  c", "star": "a*b"}


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("$x", "hello"),
        ("${x}!", "hello!"),
        ("$unset.", "."),
        ("${y:-d}${y-d}${e:-d}${e-d}", "ddd"),
        ("${x:-d}", "hello"),
        ("${x:+y}${e:+y}${e+y}${z+y}", "yy"),
        ("'$x'", "$x"),
        ('"$x"', "hello"),
        ('"\\$x \\" \\a \\\\"', '$x " \\a \\'),
        ("\\$x", "$x"),
        ("a\\ b", "a b"),
        ("a\\", "a"),
        ("$", "$"),
        ("a$ b", "a$ b"),
        ("$$x", "x"),
        ("${p#*/}", "usr/local/bin"),
        ("${p##*/}", "bin"),
        ("${p%/*}", "/usr/local"),
        ("${p%%/*}", ""),
        ("${p#x}", "/usr/local/bin"),
        ("${p#/???/}", "local/bin"),
        ("${star#a\\*}", "b"),
        ("${x/l/L}", "heLlo"),
        ("${x//l/L}", "heLLo"),
        ("${x/l*/}", "he"),
        ("${x//?/ab}", "ababababab"),
        ("${p//\\//-}", "-usr-local-bin"),
        ("${x/z/y}", "hello"),
        ("${y:-${x:-z}}", "hello"),
        ("${y:-a b}", "a b"),
        ("${y:-'a}b'}", "a}b"),
    ],
)
def test_words_expand(word: str, value: str) -> None:
    assert expand(word, VARIABLES) == value


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("${", "missing '}'"),
        ("${x", "missing '}'"),
        ("${x:-a", "missing '}'"),
        ("${}", "bad substitution"),
        ("${:x}", "bad substitution"),
        ("${x^}", r"unsupported modifier \(\^\)"),
        ("${x:#a}", r"unsupported modifier \(:#\)"),
        ("${y:?}", "y: is not allowed to be unset"),
        ("${e:?}", "e: is not allowed to be empty"),
        ("${y:?give y}", "y: give y"),
        ("'a", "single-quote"),
        ('"a', "double-quote"),
        ("${x/a}", "missing '/'"),
        ("${x#\\a}", "invalid escape"),
    ],
)
def test_bad_words_are_refused(word: str, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        expand(word, VARIABLES)


def test_a_variable_splits_into_words_unless_quoted() -> None:
    assert expand_words("$s d", VARIABLES) == ["a", "b", "c", "d"]
    assert expand_words('"$s" d\\ e', VARIABLES) == ["a b  c", "d e"]
    assert expand_words("'' \"\"", VARIABLES) == []
    assert expand_words("pre${x:-}post", VARIABLES) == ["prehellopost"]


def test_a_file_from_a_here_document_keeps_its_quotes() -> None:
    text = "a=\"$x\" b='$x' \\$x ${y:-'d'} it's\n"
    assert expand_text(text, VARIABLES) == "a=\"hello\" b='hello' $x 'd' it's\n"


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("${y:-${z:-${x}}}", "hello"),
        ("${y:-\\}}", "}"),
        ('${y:-"a}b"}', "a}b"),
        ("${x:+${p##*/}}", "bin"),
        ("${p%%/${x:+local}*}", "/usr"),
        ("${s//  /_}", "a b_c"),
        ("${star/\\*/${x}}", "ahellob"),
        ("${star#a?}", "b"),
        ("${x?no}", "hello"),
        ("${e?no}", ""),
        ("${1}${10}$1a", "a"),
        ("${p%${y}}", "/usr/local/bin"),
    ],
)
def test_modifiers_nest_and_escape(word: str, value: str) -> None:
    assert expand(word, VARIABLES) == value


def test_the_escape_character_is_the_directives() -> None:
    assert expand("`$x \\a", VARIABLES, escape="`") == "$x \\a"


def test_an_expansion_cannot_outgrow_its_bound() -> None:
    big = {"b": "x" * (MAX_EXPANDED // 2)}
    assert len(expand("$b$b", big)) == MAX_EXPANDED
    with pytest.raises(InvalidArgument, match="larger than"):
        expand("$b$b$b", big)
    with pytest.raises(InvalidArgument, match="larger than"):
        expand("${b//x/yyy}", big)


def test_deep_nesting_is_refused_not_recursed_into() -> None:
    with pytest.raises(InvalidArgument, match="nested"):
        expand("${a:-" * 5000 + "}" * 5000, {})


def test_a_pattern_cannot_take_long() -> None:
    value = {"v": "a" * 200_000}
    started = time.process_time()
    expand("${v##" + "*a" * 200 + "b}", value)
    expand("${v%%" + "*a" * 200 + "b}", value)
    expand("${v//a*b/c}", value)
    assert time.process_time() - started < 5

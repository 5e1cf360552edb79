"""Nothing a user types may end in anything but a value or InvalidArgument."""
# ruff: noqa: PT017 - both outcomes are right; a refusal must only say what it refuses

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lamella.errors import InvalidArgument
from lamella.model.changes import apply_change, expand_word, split_words
from lamella.model.goprint import quote, sprintf, unquote
from lamella.model.gotemplate import render
from lamella.model.imageconfig import ContainerSettings
from lamella.model.platform import parse_platform
from lamella.model.units import format_duration, human_duration, human_size, parse_duration, parse_size

VALUE = {
    "A": {"B": [1, "x", None, 1.5], "c": {}, "D": "text", "E": None},
    "L": ["a", "b"],
    "M": {"k": "v"},
    "N": 7,
    "F": lambda key: key,
}
pieces = st.sampled_from(
    ["{{", "}}", "{{-", "-}}", " ", "(", ")", "|", ".", ".A", ".A.B", ".L", ".M.k", ".N", ".F", "$", "$x", "$x :=", "$x =", ",",
     "range", "if", "else", "end", "with", "break", "continue", "define", "json", "join", "split", "len", "index", "slice",
     "printf", "print", "println", "and", "or", "not", "eq", "lt", "ge", "title", "upper", "truncate", "pad", "html",
     "urlquery", '"s"', '"%d %s"', '"%*v|%[2]q"', "`r`", "'c'", "1", "-1", "9", "1.5", "1e400", "0x", "nil", "true", "/*", "*/",
     '"', "\n", "é", "{{end}}", "{{.}}", "{{range .L}}", "{{if .N}}", "{{else}}"]
)  # fmt: skip
expressions = st.recursive(
    st.sampled_from([".", ".A", ".A.B", ".L", ".M", ".M.k", ".N", ".A.E", "$", '"s"', '"%d|%5.2f|%v"', "3", "-1", "1.5", "nil", "true"]),
    lambda inner: st.builds(
        lambda name, arguments: f"({name} {' '.join(arguments)})",
        st.sampled_from(["json", "join", "split", "len", "index", "slice", "printf", "print", "println", "and", "or", "not",
                         "eq", "ne", "lt", "ge", "title", "upper", "truncate", "pad", "html", "urlquery", ".F"]),
        st.lists(inner, max_size=3),
    ),
    max_leaves=8,
)  # fmt: skip


@settings(deadline=None)
@given(st.one_of(st.text(), st.lists(pieces).map("".join), st.lists(pieces).map(" ".join)))
def test_templates_render_or_are_refused(template: str) -> None:
    try:
        assert isinstance(render(template, VALUE), str)
    except InvalidArgument as error:
        assert str(error).startswith("template parsing error: template: ")


@settings(deadline=None)
@given(
    expressions,
    st.sampled_from(["{{%s}}", "{{range %s}}{{.}}{{else}}x{{end}}", "{{with %s}}{{.}}{{end}}", "{{%s | json}}"]),
)
def test_expressions_evaluate_or_are_refused(expression: str, frame: str) -> None:
    try:
        assert isinstance(render(frame.replace("%s", expression), VALUE), str)
    except InvalidArgument as error:
        assert str(error).startswith("template parsing error: template: ")


@settings(deadline=None)
@given(st.one_of(st.text(), st.lists(st.sampled_from("%d%s%v%q%x%5%.%*%[1]-+# 0eEfFgGtTUcob"), max_size=12).map("".join)),
       st.lists(st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.lists(st.integers()),
                          st.dictionaries(st.text(), st.integers())), max_size=4))  # fmt: skip
def test_printf_always_prints(template: str, values: list[object]) -> None:
    assert isinstance(sprintf(template, values), str)


@settings(deadline=None)
@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_literals_come_back(text: str) -> None:
    assert unquote(quote(text)[1:-1]) == text


instructions = st.sampled_from(
    [
        "CMD",
        "ENTRYPOINT",
        "ENV",
        "EXPOSE",
        "LABEL",
        "ONBUILD",
        "USER",
        "VOLUME",
        "WORKDIR",
        "STOPSIGNAL",
        "HEALTHCHECK",
        "FROM",
    ]
)
arguments = st.one_of(
    st.text(), st.text(alphabet="aA=$\\{}\"':-+? []/\n,180", max_size=30), st.just("--interval=1s --retries=2 CMD x")
)


@settings(deadline=None)
@given(instructions, arguments)
def test_changes_apply_or_are_refused(instruction: str, argument: str) -> None:
    try:
        changed = apply_change(ContainerSettings(env=("A=1",)), f"{instruction} {argument}")
    except InvalidArgument as error:
        assert str(error)
    else:
        assert isinstance(changed, ContainerSettings)


@settings(deadline=None)
@given(st.text(alphabet="ab \t", max_size=20))
def test_plain_words_are_split_at_blanks(text: str) -> None:
    assert split_words(text) == text.split()
    assert expand_word(text, {}) == text


@settings(deadline=None)
@given(st.integers(-(2**63) + 1, 2**63 - 1))
def test_durations_come_back(nanoseconds: int) -> None:
    assert parse_duration(format_duration(nanoseconds)) == nanoseconds


@settings(deadline=None)
@given(st.integers(0, 2**63), st.floats(-1e12, 1e12))
def test_amounts_always_print(size: int, seconds: float) -> None:
    assert human_size(size)[-1] == "B"
    assert human_duration(seconds)


@settings(deadline=None)
@given(st.one_of(st.text(), st.text(alphabet="0123456789.kmgtiIbB ", max_size=20)))
@pytest.mark.parametrize("parse", [parse_size, parse_duration, parse_platform])
def test_amounts_are_read_or_refused(parse: Callable[[str], object], text: str) -> None:
    try:
        parse(text)
    except InvalidArgument as error:
        assert str(error)

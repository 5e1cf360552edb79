"""What reaches a terminal, and what reaches a pipe."""

from __future__ import annotations

import io
import json

import pytest

from lamella.cli.output import Listing, Output, columns_of, escape, escape_json, print_documents, print_listing, shorten
from lamella.errors import InvalidArgument

EVIL = "a\x1b[31mb\x07\u202ec\udcff\u200bd\x7f"
LISTING = Listing({"ID": "IMAGE ID", "Tag": "TAG", "Size": "SIZE"}, ["ID", "Tag", "Size"])
ROWS = [{"ID": "1", "Tag": "a-long-tag-name", "Size": "1B"}, {"ID": "22", "Tag": "b", "Size": "2B"}]


class Terminal(io.BytesIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:  # type: ignore[explicit-override]  # override() came with Python 3.12
        return True


def shown(form: str = "", *, quiet: str = "", rows: list[dict[str, str]] = ROWS, terminal: bool = False) -> str:
    stream = Terminal() if terminal else io.BytesIO()
    print_listing(Output(stream), LISTING, rows, form, quiet=quiet)
    return stream.getvalue().decode("utf-8", "surrogateescape")


def test_escape_leaves_nothing_that_steers_a_terminal() -> None:
    assert escape(EVIL) == "a\\x1b[31mb\\x07\\u202ec\\xff\\u200bd\\x7f"
    assert escape("plain ünïcode 漢字") == "plain ünïcode 漢字"
    assert escape("a\nb\tc") == "a\\nb\\tc"
    assert escape("a\nb\tc\r", keep="\n\t") == "a\nb\tc\\r"
    assert escape("\U000e0041") == "\\U000e0041"


def test_escaped_json_is_the_same_document() -> None:
    text = json.dumps({"a": "x\x7f\u202e\U000e0041\u2028"}, ensure_ascii=False, indent=1)
    assert escape_json(text) != text
    assert escape_json(text).replace("\n", "").isprintable()
    assert json.loads(escape_json(text)) == json.loads(text)


def test_tables_have_dockers_columns_and_spacing() -> None:
    assert shown() == (
        "IMAGE ID  TAG               SIZE\n1         a-long-tag-name   1B\n22        b                 2B\n"
    ).replace("IMAGE ID  ", "IMAGE ID   ").replace("1         ", "1          ").replace("22        ", "22         ")


def test_columns_are_at_least_ten_wide() -> None:
    assert columns_of([["A", "B"], ["x", "y"]]) == ["A         B", "x         y"]
    assert columns_of([]) == []


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ("{{.ID}}:{{.Tag}}", "1:a-long-tag-name\n22:b\n"),
        ("{{.ID}}\\t{{.Tag}}", "1\ta-long-tag-name\n22\tb\n"),
        ("table {{.Tag}}\\t{{.ID}}", "TAG               IMAGE ID\na-long-tag-name   1\nb                 22\n"),
        ("{{upper .Tag}}", "A-LONG-TAG-NAME\nB\n"),
    ],
)
def test_format_takes_templates(form: str, text: str) -> None:
    assert shown(form) == text


def test_format_json_is_a_line_a_row() -> None:
    assert [json.loads(line) for line in shown("json").splitlines()] == ROWS


def test_a_malformed_template_is_refused() -> None:
    with pytest.raises(InvalidArgument):
        shown("{{.ID")


def test_quiet_prints_one_field() -> None:
    assert shown(quiet="ID") == "1\n22\n"
    assert shown("{{.Tag}}", quiet="ID") == "a-long-tag-name\nb\n"


@pytest.mark.parametrize("form", ["", "{{.Tag}}", "table {{.Tag}}", "json"])
def test_foreign_text_is_escaped_on_a_terminal_alone(form: str) -> None:
    rows = [{"ID": "1", "Tag": EVIL.replace("\udcff", ""), "Size": "1B"}]
    assert "\x1b" not in shown(form, rows=rows, terminal=True)
    assert "\u202e" not in shown(form, rows=rows, terminal=True)
    if form != "json":
        assert "\x1b[31m" in shown(form, rows=rows)


def test_documents_keep_their_order_and_indentation() -> None:
    stream = io.BytesIO()
    print_documents(Output(stream), [{"b": [], "a": {"x": None}}], "")
    assert stream.getvalue().decode() == json.dumps([{"b": [], "a": {"x": None}}], indent=4) + "\n"
    stream = io.BytesIO()
    print_documents(Output(stream), [{"b": 1}, {"b": 2}], "{{.b}}")
    assert stream.getvalue() == b"1\n2\n"


def test_shorten_counts_the_ellipsis() -> None:
    assert shorten("abcdef", 6) == "abcdef"
    assert shorten("abcdefg", 6) == "abcde…"

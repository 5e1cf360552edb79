"""`.dockerignore`: Docker's rules for lines and matches."""

from __future__ import annotations

import pytest

from lamella.build.ignore import MAX_IGNORE_FILE, parse_ignore
from lamella.build.patterns import Pattern
from lamella.errors import InvalidArgument


@pytest.mark.parametrize(
    ("lines", "ignored", "kept"),
    [
        ("*.pyc", ["a.pyc"], ["d/a.pyc", "a.py"]),
        ("**/*.pyc", ["a.pyc", "d/e/a.pyc"], ["a.py"]),
        ("/build/", ["build", "build/x"], ["d/build"]),
        ("build", ["build/x/y"], ["builds", "d/build"]),
        ("a/**/z", ["a/z", "a/b/z", "a/b/c/z", "a/b/z/q"], ["az", "b/a/z"]),
        ("a/**", ["a/b", "a/b/c"], ["a", "b"]),
        ("**", ["a", "a/b"], []),
        ("*", ["a", "a/b", ".hidden"], []),
        ("a?c", ["abc"], ["ac", "a/c"]),
        ("[a-c]x", ["ax", "cx"], ["dx"]),
        ("[^a]x", ["bx"], ["ax"]),
        ("\\*", ["*"], ["a"]),
        ("*\n!keep", ["a"], ["keep", "keep/x"]),
        ("*.md\n!README*.md\nREADME-secret.md", ["x.md", "README-secret.md"], ["README.md"]),
        ("*.md\nREADME-secret.md\n!README*.md", ["x.md"], ["README.md", "README-secret.md"]),
        ("a\n!a/b", ["a/c"], ["a/b", "a/b/c"]),
        ("# a\n #a", ["#a"], ["a", "# a"]),
        ("  a  \n\n", ["a"], [" a"]),
        ("./a/../b//c", ["b/c"], ["a"]),
        ("\ufeffa", ["a"], []),
        ("**foo", ["foo", "xfoo", "d/xfoo"], ["foox"]),
        ("**/foo*", ["foo1", "d/foo1"], ["xfoo1"]),
        ("a\r", ["a"], []),
    ],
)
def test_lines_match_as_in_docker(lines: str, ignored: list[str], kept: list[str]) -> None:
    rules = parse_ignore(lines.encode())
    assert [path for path in ignored if not rules.ignores(path)] == []
    assert [path for path in kept if rules.ignores(path)] == []


@pytest.mark.parametrize("line", ["!", "[", "[]", "[a", "a\\", "[a-]", "[-a]"])
def test_bad_patterns_are_refused(line: str) -> None:
    with pytest.raises(InvalidArgument):
        parse_ignore(line.encode())


def test_an_ignored_directory_is_entered_only_for_an_exception() -> None:
    rules = parse_ignore(b"*\n!src/**/*.py\n!README")
    assert rules.may_except_below("src")
    assert rules.may_except_below("src/a/b")
    assert not rules.may_except_below("lib")
    assert not rules.may_except_below("README2")


def test_a_large_file_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="larger than"):
        parse_ignore(b"a\n" * MAX_IGNORE_FILE)


def test_no_pattern_explodes() -> None:
    path = "a" * 4000
    assert not Pattern("*a" * 100 + "b*", deep=True).matches(path)
    assert not Pattern("**/" * 100 + "a*b*", deep=True).matches("a/" * 2000)

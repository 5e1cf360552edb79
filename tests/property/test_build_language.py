"""The Dockerfile language on random text: nothing but InvalidArgument, and what bash or a naive model says."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lamella.build.check import check_dockerfile
from lamella.build.dockerfile import instructions as ast
from lamella.build.dockerfile.expand import expand, expand_words
from lamella.build.dockerfile.mounts import parse_mount
from lamella.build.dockerfile.parser import parse_dockerfile
from lamella.build.ignore import parse_ignore
from lamella.build.patterns import Pattern
from lamella.errors import InvalidArgument
from tests.fuzz.dockerfile import run

KEYWORDS = [
    "FROM", "RUN", "ENV", "COPY", "ADD", "CMD", "ARG", "LABEL", "ONBUILD", "HEALTHCHECK", "VOLUME", "SHELL", "EXPOSE",
    "USER", "WORKDIR", "STOPSIGNAL", "MAINTAINER", "ENTRYPOINT", "# escape=`", "#",
]  # fmt: skip
PIECES = ["\\", "`", "\n", " ", "\t", '"', "'", "[", "]", ",", "=", "--", "--from=", "<<EOF", "<<-'A'", "EOF", "A", "$x",
          "${x:-", "}", "a", "b c", "\r", "\\\n", "CMD", "NONE", "AS", "\u2028", "é", "1"]  # fmt: skip
lines = st.builds(
    lambda word, rest: f"{word} {''.join(rest)}", st.sampled_from(KEYWORDS), st.lists(st.sampled_from(PIECES))
)
files = st.one_of(
    st.binary(max_size=300),
    st.text(max_size=300).map(lambda text: text.encode("utf-8", "replace")),
    st.lists(lines, max_size=8).map(lambda found: "\n".join(["FROM x", *found]).encode()),
)


@settings(max_examples=600)
@given(files)
def test_the_parser_refuses_or_accepts_and_never_breaks(raw: bytes) -> None:
    try:
        dockerfile = parse_dockerfile(raw)
    except InvalidArgument:
        return
    count = raw.count(b"\n") + 1
    for stage in dockerfile.stages:
        assert 1 <= stage.base.line <= count
        assert all(stage.base.line < command.line <= count for command in stage.commands)


@settings(max_examples=400)
@given(st.text(alphabet=[*"ab ${}:-+?#%/\\'\"*<\n\t", "x", "é"], max_size=40), st.sampled_from(["\\", "`"]))
def test_expansion_refuses_or_gives_text(word: str, escape: str) -> None:
    variables = {"a": "1", "x": "a b*", "ab": ""}
    try:
        whole = expand(word, variables, escape=escape)
        words = expand_words(word, variables, escape=escape)
    except InvalidArgument:
        return
    assert len("".join(words)) <= len(whole)


values = st.text(alphabet="ab/.*x-", max_size=8)
# Written back: what was generated, read again.
names = st.text("abcXYZ_", min_size=1, max_size=5)
plain = st.text(
    st.characters(codec="utf-8", exclude_characters="\n\r\0", exclude_categories=("Zs", "Zl", "Zp", "Cc")), max_size=8
)


def quoted(text: str) -> str:
    """Write text so that the expansion gives it back."""
    return "'" + text.replace("'", "'\"'\"'") + "'"


@settings(max_examples=200)
@given(st.lists(st.tuples(names, st.text("ab '\"$\\`{}<>#=,[]é", max_size=8)), min_size=1, max_size=4), st.booleans())
def test_pairs_that_are_written_with_quotes_are_read_as_they_were(pairs: list[tuple[str, str]], split: bool) -> None:
    blank = " \\\n  # between\n  " if split else "  "
    text = "FROM x\nENV " + blank.join(f"{name}={quoted(value)}" for name, value in pairs)
    (command,) = parse_dockerfile(text).stages[0].commands
    assert isinstance(command, ast.Env)
    assert [(pair.name, expand(pair.value, {})) for pair in command.pairs] == pairs


@settings(max_examples=200)
@given(
    st.sampled_from(["RUN", "cmd", "Entrypoint", "SHELL", "VOLUME", "COPY"]), st.lists(plain, min_size=2, max_size=4)
)
def test_lists_that_are_written_as_json_are_read_as_they_were(keyword: str, items: list[str]) -> None:
    items = [f"/{item}" for item in items]
    (command,) = parse_dockerfile(f"FROM x\n{keyword} {json.dumps(items)}\n").stages[0].commands
    if isinstance(command, ast.Volume):
        assert list(command.paths) == items
    elif isinstance(command, ast.Copy):
        assert [*command.sources, command.destination] == items
    else:
        assert isinstance(command, ast.Run | ast.Cmd | ast.Entrypoint | ast.Shell)
        assert list(command.command) == items


@settings(max_examples=200)
@given(
    st.lists(
        st.tuples(names, st.lists(st.text("ab $'\"\\\t#<", max_size=6), max_size=3), st.booleans(), st.booleans()),
        min_size=1,
        max_size=3,
        unique_by=lambda item: item[0],
    )
)
def test_here_documents_are_read_as_they_were_written(documents: list[tuple[str, list[str], bool, bool]]) -> None:
    words, bodies, wanted = [], [], []
    for name, drawn, literal, chomp in documents:
        lines = [line for line in drawn if line.lstrip("\t") != name]
        words.append("<<" + "-" * chomp + (f"'{name}'" if literal else name))
        bodies += [*lines, name]
        content = "".join(f"{line}\n" for line in lines)
        wanted.append((name, re.sub(r"(?m)^\t+", "", content) if chomp else content, not literal))
    text = "\n".join([f"COPY {' '.join(words)} /d/", *bodies, "USER end"])
    copy, user = parse_dockerfile("FROM x\n" + text).stages[0].commands
    assert isinstance(copy, ast.Copy)
    assert [(item.name, item.text(), item.expand) for item in copy.contents] == wanted
    assert user.line == 2 + text.count("\n")


@settings(max_examples=200)
@given(
    st.fixed_dictionaries(
        {"target": plain.map(lambda text: "/" + text.replace('"', "").replace(",", "").replace("$", ""))},
        optional={
            "id": st.text("ab-/ ", max_size=5),
            "sharing": st.sampled_from(["shared", "private", "locked"]),
            "mode": st.integers(0, 0o7777).map(lambda mode: f"{mode:o}"),
            "uid": st.integers(0, 2**32 - 1).map(str),
            "ro": st.sampled_from(["true", "false", "1", "0"]),
        },
    )
)
def test_mounts_are_read_as_they_were_written(fields: dict[str, str]) -> None:
    mount = parse_mount(",".join(["type=cache", *(f"{name}={value}" for name, value in fields.items())]))
    assert (mount.target, mount.id, mount.sharing) == (
        fields["target"],
        fields.get("id", ""),
        fields.get("sharing", ""),
    )
    assert mount.mode == (int(fields["mode"], 8) if "mode" in fields else None)
    assert mount.uid == (int(fields["uid"]) if "uid" in fields else None)
    assert mount.writable == ({"true": False, "1": False}.get(fields["ro"], True) if "ro" in fields else None)


@settings(max_examples=400)
@given(files)
def test_the_linter_finds_or_passes_and_never_breaks(raw: bytes) -> None:
    checked = check_dockerfile(raw)
    for finding in checked.findings:
        assert f"{finding.first:4d} | >>>" in checked.excerpt(finding, "Dockerfile")
    if checked.error is None:
        parse_dockerfile(raw)


def test_the_fuzzer_finds_nothing_in_a_second(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert run(1, 1, log, tmp_path / "findings") == 0
    assert re.search(r"finished after 1 s: [1-9][0-9]+ inputs, [0-9]+ outcomes, 0 broken", log.read_text())


def test_the_fuzzer_keeps_an_input_that_breaks_something(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(raw: bytes) -> tuple[str, ...]:
        raise ValueError(raw)

    monkeypatch.setattr("tests.fuzz.dockerfile.exercise", broken)
    assert run(0.05, 1, tmp_path / "log", tmp_path / "findings") == 1
    assert "BROKEN: ValueError at test_build_language.py" in (tmp_path / "log").read_text()
    assert len(list((tmp_path / "findings").iterdir())) == 1


patterns = st.text(alphabet="ab/.*?", max_size=4)
modifiers = st.one_of(
    st.just("${v}"),
    st.builds(lambda operator, word: f"${{v{operator}{word}}}", st.sampled_from([":-", "-", ":+", "+"]), st.text("abx", max_size=3)),
    st.builds(lambda operator, word: f"${{u{operator}{word}}}", st.sampled_from([":-", "-", ":+", "+"]), st.text("abx", max_size=3)),
    st.builds(
        lambda operator, word: f"${{v{operator}{word}}}",
        st.sampled_from(["#", "##", "%", "%%"]),
        patterns.filter(lambda text: not text.startswith(("#", "%"))),
    ),
    st.builds(
        lambda operator, word, new: f"${{v{operator}{word}/{new}}}",
        st.sampled_from(["/", "//"]),
        st.text(alphabet="ab.*?x", min_size=1, max_size=4),
        st.text(alphabet="xyz", max_size=3),
    ),
)  # fmt: skip
words = st.lists(
    st.one_of(
        modifiers,
        modifiers.map(lambda text: f'"{text}"'),
        st.sampled_from(["'$v'", "\\$v", '"\\$v \\""', "plain", "$v", '"$v"', "''"]),
    ),
    min_size=1,
    max_size=3,
).map("".join)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(values, words), min_size=20, max_size=20))
def test_expansion_is_what_bash_makes_of_it(cases: list[tuple[str, str]]) -> None:
    script = "".join(f"v='{value}'\nr={word}\nprintf '%s\\0' \"$r\"\n" for value, word in cases)
    done = subprocess.run(["bash", "-c", script], capture_output=True, check=True, text=True)
    for (value, word), wanted in zip(cases, done.stdout.split("\0")[:-1], strict=True):
        assert expand(word, {"v": value}) == wanted, (value, word)


posix = st.recursive(
    st.one_of(
        st.text("abx", min_size=1, max_size=3),
        st.sampled_from(["$v", "${v}", "$u", '"$v"', "'$v'", "\\$", '"\\$v"', "''"]),
    ),
    lambda inner: st.one_of(
        st.builds("${{{}{}{}}}".format, st.sampled_from("vue"), st.sampled_from([":-", "-", ":+", "+"]), inner),
        st.builds(
            "${{{}{}{}}}".format,
            st.sampled_from("ve"),
            st.sampled_from(["#", "##", "%", "%%"]),
            st.text("ab/*?", min_size=1, max_size=4),
        ),
        st.lists(inner, min_size=1, max_size=3).map("".join),
    ),
    max_leaves=6,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(values, posix), min_size=30, max_size=30))
def test_nested_expansion_is_what_a_posix_shell_makes_of_it(cases: list[tuple[str, str]]) -> None:
    script = "e=\n" + "".join(f"v='{value}'\nr={word}\nprintf '%s\\0' \"$r\"\n" for value, word in cases)
    done = subprocess.run(["dash", "-c", script], capture_output=True, check=True, text=True)
    for (value, word), wanted in zip(cases, done.stdout.split("\0")[:-1], strict=True):
        assert expand(word, {"v": value, "e": ""}) == wanted, (value, word)


pattern_parts = st.lists(
    st.sampled_from(["a", "b", "ab", "*", "?", "**", "/", "**/", "/**", "[ab]", "[^a]", ".", "\\*"]),
    min_size=1,
    max_size=5,
)
paths = st.lists(
    st.text("ab.*", min_size=1, max_size=3).filter(lambda name: name not in (".", "..")), min_size=1, max_size=4
).map("/".join)


def as_expression(pattern: str, *, deep: bool) -> re.Pattern[str]:
    """Translate a pattern as Docker's patternmatcher does."""
    found = ""
    at = 0
    while at < len(pattern):
        if deep and pattern.startswith("**", at):
            at += 2
            at += pattern.startswith("/", at)
            found += ".*" if at == len(pattern) else "(.*/)?"
            continue
        character = pattern[at]
        at += 1
        if character == "*":
            found += "[^/]*"
        elif character == "?":
            found += "[^/]"
        elif character == "[":
            end = pattern.index("]", at)
            negated = pattern[at] == "^"
            found += "[^/" + pattern[at + 1 : end] + "]" if negated else "[" + pattern[at:end] + "]"
            at = end + 1
        elif character == "\\":
            found += re.escape(pattern[at])
            at += 1
        else:
            found += re.escape(character)
    return re.compile(found + r"\Z", re.DOTALL)


@settings(max_examples=500)
@given(pattern_parts.map("".join), paths, st.booleans())
def test_a_pattern_matches_what_the_same_expression_does(pattern: str, path: str, deep: bool) -> None:
    if deep and pattern.startswith("**") and not pattern.startswith("**/"):
        return  # Docker's special case, tested by example
    assert Pattern(pattern, deep=deep).matches(path) == bool(as_expression(pattern, deep=deep).match(path))


@settings(max_examples=300)
@given(st.lists(st.tuples(st.booleans(), pattern_parts.map("".join)), max_size=5), paths)
def test_ignoring_is_the_last_match_of_a_path_or_what_is_above(rules: list[tuple[bool, str]], path: str) -> None:
    rules = [
        (exception, pattern) for exception, pattern in rules if not pattern.startswith("**") and pattern.strip("/")
    ]
    text = "\n".join(("!" if exception else "") + pattern for exception, pattern in rules)
    found = parse_ignore(text.encode())
    names = path.split("/")
    above = ["/".join(names[: count + 1]) for count in range(len(names))]
    wanted = False
    for pattern, exception in found._rules:
        if exception == wanted and any(pattern.matches(part) for part in above):
            wanted = not exception
    assert found.ignores(path) == wanted


@settings(max_examples=300)
@given(st.binary(max_size=100))
def test_an_ignore_file_is_read_or_refused(raw: bytes) -> None:
    try:
        parse_ignore(raw).ignores("a/b")
    except InvalidArgument:
        return


@pytest.mark.parametrize("escape", ["\\", "`"])
def test_every_line_alone_is_read_or_refused(escape: str) -> None:
    for keyword in KEYWORDS:
        for piece in PIECES:
            text = f"# escape={escape}\nFROM x\n{keyword}{piece}{piece}\n"
            try:
                parse_dockerfile(text)
            except InvalidArgument:
                continue

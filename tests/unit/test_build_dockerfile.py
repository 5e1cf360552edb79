"""The Dockerfile language: lines, instructions, errors with their lines."""

from __future__ import annotations

import pytest

from lamella.build.dockerfile import instructions as ast
from lamella.build.dockerfile.parser import parse_dockerfile, parse_trigger
from lamella.errors import InvalidArgument


def commands(text: str) -> tuple[ast.Command, ...]:
    return parse_dockerfile("FROM base\n" + text).stages[0].commands


def only(text: str) -> ast.Command:
    (command,) = commands(text)
    return command


def test_the_walkthrough_parses_into_its_instructions() -> None:
    text = b"""\
FROM ubuntu:latest
ENV author jlz
RUN echo "x1" >> /tmp/test
ENTRYPOINT ["/bin/bash", "-c", "cat /tmp/test"]
"""
    (stage,) = parse_dockerfile(text).stages
    assert stage.base == ast.From(1, "FROM ubuntu:latest", "ubuntu:latest")
    assert stage.commands == (
        ast.Env(2, "ENV author jlz", (ast.Pair("author", "jlz"),)),
        ast.Run(3, 'RUN echo "x1" >> /tmp/test', ('echo "x1" >> /tmp/test',), shell=True),
        ast.Entrypoint(
            4, 'ENTRYPOINT ["/bin/bash", "-c", "cat /tmp/test"]', ("/bin/bash", "-c", "cat /tmp/test"), shell=False
        ),
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("FROM x\n\nRUNN a", "line 3: unknown instruction: RUNN (did you mean RUN?)"),
        ("FROM x\nxyzzy a", "line 2: unknown instruction: xyzzy"),
        ("RUN a", "line 1: no build stage in current context"),
        ("FROM", "line 1: FROM requires either one or three arguments"),
        ("FROM a b", "line 1: FROM requires either one or three arguments"),
        ("FROM x AS 1a", 'line 1: invalid name for build stage: "1a"'),
        ("FROM x\nENV a", "line 2: ENV must have two arguments"),
        ("FROM x\nENV a=b c", 'line 2: Syntax error - can\'t find = in "c". Must be of the form: name=value'),
        ("FROM x\nENV =b", "line 2: ENV names can not be blank"),
        ("FROM x\nENV", "line 2: ENV requires at least one argument"),
        ("FROM x\nCOPY a", "line 2: COPY requires at least two arguments, but only one was provided"),
        ("FROM x\nCOPY --form=1 a b", "line 2: unknown flag: --form (did you mean from?)"),
        ("FROM x\nCOPY --from a b", "line 2: missing a value on flag: --from"),
        ("FROM x\nCOPY --from=1 --from=2 a b", "line 2: duplicate flag specified: --from"),
        ("FROM x\nCOPY --link=maybe a b", "line 2: expecting boolean value for flag --link, not: maybe"),
        (
            "FROM x\n# c\nRUN --mount=type=cach,target=/x y",
            'line 3: unsupported mount type "cach" (did you mean cache?)',
        ),
        ("FROM x\nRUN --network=hots y", 'line 2: invalid network mode "hots" (did you mean host?)'),
        ("FROM x\nRUN --network= y", 'line 2: invalid network mode ""'),
        ("FROM x\nRUN --security=insecure y", "line 2: RUN --security=insecure is not supported: commands of a build"),
        ("FROM x\nRUN --security=open y", 'line 2: security "open" is not valid'),
        ("FROM x\nRUN --device=gpu y", "line 2: RUN --device is not supported"),
        ("FROM x\nRUN --mont=a y", "line 2: unknown flag: --mont (did you mean mount?)"),
        ("FROM x\nCOPY --from=$v a b", "line 2: variable expansion is not supported for --from, define a new stage"),
        ("# check=skip=all\n# Check=error=true\nFROM x", "line 2: only one check parser directive can be used"),
        ("FROM x\nSHELL a b", "line 2: SHELL requires the arguments to be in JSON form"),
        ("FROM x\nCMD [1]", "line 2: when using JSON array syntax, arrays must be comprised of strings only"),
        ("FROM x\nRUN <<EOF\nabc", 'line 2: unterminated heredoc: no line "EOF" ends it'),
        ("FROM x\nCOPY f <<EOF\nEOF", "line 2: COPY cannot accept a heredoc as a destination"),
        ("# escape=x\nFROM x", "line 1: invalid escape token 'x' does not match ` or \\"),
        ("# escape=`\n# escape=`\nFROM x", "line 2: only one escape parser directive can be used"),
        ("FROM x\nHEALTHCHECK --interval=5 CMD a", 'line 2: time: missing unit in duration "5"'),
        ("FROM x\nHEALTHCHECK --retries=-1 CMD a", "line 2: --retries cannot be negative (-1)"),
        ("FROM x\nHEALTHCHECK NONE x", "line 2: HEALTHCHECK NONE takes no arguments"),
        ("FROM x\nHEALTHCHECK FOO x", 'line 2: Unknown type "FOO" in HEALTHCHECK (try CMD)'),
        ("FROM x\nONBUILD ONBUILD RUN a", "line 2: Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed"),
        ("FROM x\nONBUILD FROM a", "line 2: FROM isn't allowed as an ONBUILD trigger"),
        ("FROM x\nVOLUME []", "line 2: VOLUME requires at least one argument"),
        ("FROM x\nRUN a\0b", "line 2: the line holds a NUL character"),
        ("FROM x\nRUN " + "a" * 70000, "line 2: dockerfile line greater than max allowed size of 65535"),
    ],
)
def test_errors_name_the_line_in_dockers_words(text: str, message: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse_dockerfile(text)
    assert str(caught.value).startswith(f"dockerfile parse error {message}")


def test_an_error_shows_the_words_it_is_about() -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse_dockerfile("FROM x\n\ncoppy a \\\n  b\n")
    assert str(caught.value) == "dockerfile parse error line 3: unknown instruction: coppy (did you mean copy?)"
    assert caught.value.__notes__ == ["line 3: coppy a   b"]
    with pytest.raises(InvalidArgument) as caught:
        parse_dockerfile("FROM x\nENV " + "a" * 1000)
    assert caught.value.__notes__ == ["line 2: ENV " + "a" * 196 + "…"]


@pytest.mark.parametrize("text", ["", "\n\n", "# only a comment\n"])
def test_a_file_without_instructions_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="file with no instructions"):
        parse_dockerfile(text)


def test_comments_and_blank_lines_do_not_end_a_continued_instruction() -> None:
    (run,) = commands("RUN a \\\n# comment\n\n  b \\\n  && c\n")
    assert isinstance(run, ast.Run)
    assert run.command == ("a   b   && c",)
    assert run.line == 2


def test_the_escape_directive_changes_the_continuation() -> None:
    dockerfile = parse_dockerfile("# syntax=some/frontend\n# escape=`\nFROM x\nRUN a `\nb \\\nENV c=d\n")
    assert dockerfile.escape == "`"
    assert dockerfile.syntax == "some/frontend"
    assert [type(command).__name__ for command in dockerfile.stages[0].commands] == ["Run", "Env"]


def test_a_directive_after_the_first_other_line_is_a_comment() -> None:
    assert parse_dockerfile("# comment\n# escape=`\nFROM x\n").escape == "\\"


def test_the_directives_may_stand_in_any_order_and_case() -> None:
    dockerfile = parse_dockerfile("#CHECK = skip=all;error=true \n  # Escape=`\n# syntax=docker/dockerfile:1\nFROM x\n")
    assert (dockerfile.check, dockerfile.escape) == ("skip=all;error=true", "`")
    assert dockerfile.syntax == "docker/dockerfile:1"
    assert dockerfile.warnings == ()


@pytest.mark.parametrize("first", ["# comment", "", "# unknown=directive", "# escape", "// syntax=x"])
def test_what_is_no_directive_ends_them(first: str) -> None:
    text = f"{first}\n# escape=`\nFROM x\n"
    if first.startswith("//"):
        with pytest.raises(InvalidArgument, match="line 1: unknown instruction: //"):
            parse_dockerfile(text)
    else:
        assert parse_dockerfile(text).escape == "\\"


def test_a_line_that_names_an_interpreter_hides_the_escape_directive_only() -> None:
    dockerfile = parse_dockerfile("#!/usr/bin/env build\n# escape=`\n# check=skip=all\nFROM x\n")
    assert (dockerfile.escape, dockerfile.check) == ("\\", "skip=all")


@pytest.mark.parametrize(
    ("syntax", "warned"),
    [
        ("docker/dockerfile", False),
        ("docker.io/docker/dockerfile-upstream:1.7-labs@sha256:00", False),
        ("tonistiigi/llb-json", True),
        ("docker/dockerfiles", True),
    ],
)
def test_the_syntax_of_another_language_is_warned_of(syntax: str, warned: bool) -> None:
    assert bool(parse_dockerfile(f"# syntax={syntax}\nFROM x\n").warnings) == warned


def test_line_endings_and_a_byte_order_mark_are_taken_off() -> None:
    (stage,) = parse_dockerfile(b"\xef\xbb\xbfFROM x\r\nRUN a \\\r\nb\r\n").stages
    assert stage.base.base == "x"
    assert isinstance(stage.commands[0], ast.Run)
    assert stage.commands[0].command == ("a b",)


def test_what_is_not_json_falls_back_to_shell_form() -> None:
    for text in ("['a']", '["a"] x', '["a",]', "[ -f x ]"):
        command = only(f"CMD {text}")
        assert isinstance(command, ast.Cmd)
        assert (command.command, command.shell) == ((text,), True)


def test_pairs_keep_their_quotes_for_the_expansion() -> None:
    command = only("LABEL a=\"b c\" 'd e'=f\\ g h=")
    assert isinstance(command, ast.Label)
    assert [*map(tuple, command.pairs)] == [("a", '"b c"'), ("'d e'", "f\\ g"), ("h", "")]


def test_arg_knows_names_with_and_without_default() -> None:
    command = only("ARG a b=c d=")
    assert isinstance(command, ast.Arg)
    assert [*map(tuple, command.arguments)] == [("a", None), ("b", "c"), ("d", "")]


def test_heredocs_become_files_and_scripts() -> None:
    run, copy = commands("RUN <<EOF\necho $x\nEOF\nCOPY <<a <<-'b' /d/\nA $y\na\n\tB\n\tb\n")
    assert isinstance(run, ast.Run)
    assert [heredoc.text() for heredoc in run.heredocs] == ["echo $x\n"]
    assert isinstance(copy, ast.Copy)
    assert copy.sources == ()
    assert [(item.name, item.text(), item.expand) for item in copy.contents] == [
        ("a", "A $y\n", True),
        ("b", "B\n", False),
    ]


def test_a_command_that_is_all_here_document_is_told_apart() -> None:
    program, shell, piped, two, listed = commands(
        "RUN <<-EOF\n\t#!/usr/bin/env python3\n\tprint()\n\tEOF\n"
        "RUN 3<<'EOF'\necho\nEOF\n"
        "RUN cat <<EOF | sh\nx\nEOF\n"
        "RUN cat <<a <<-b > /f\n1\na\n\t2\n\tb\n"
        'RUN ["cat", "<<EOF"]\n'
    )
    assert isinstance(program, ast.Run)
    assert program.script is not None
    assert program.script.names_interpreter()
    assert program.script.text() == "#!/usr/bin/env python3\nprint()\n"
    assert isinstance(shell, ast.Run)
    assert shell.script is not None
    assert not shell.script.names_interpreter()
    assert isinstance(piped, ast.Run)
    assert isinstance(two, ast.Run)
    assert isinstance(listed, ast.Run)
    assert piped.script is None
    assert two.script is None
    assert [heredoc.name for heredoc in two.heredocs] == ["a", "b"]
    assert (listed.command, listed.heredocs) == (("cat", "<<EOF"), ())


def test_flags_of_run_copy_and_add_are_read() -> None:
    run, sandboxed, copy, add = commands(
        "RUN --network=none --mount=type=ssh --mount=target=/c,from=x make\n"
        "RUN --security=sandbox --network=default make\n"
        "COPY --parents --link=false --exclude=*.o --exclude=b* --chmod=u=rwX,go=rX --from=0 a b/\n"
        "ADD --checksum=sha256:$SUM --keep-git-dir=true --unpack=false --exclude=c https://x/y /z\n"
    )
    assert isinstance(run, ast.Run)
    assert (run.network, [mount.kind for mount in run.mounts]) == ("none", ["ssh", "bind"])
    assert isinstance(sandboxed, ast.Run)
    assert (sandboxed.network, sandboxed.mounts) == ("default", ())
    assert isinstance(copy, ast.Copy)
    assert (copy.parents, copy.link, copy.exclude) == (True, False, ("*.o", "b*"))
    assert (copy.chmod, copy.stage) == ("u=rwX,go=rX", "0")
    assert isinstance(add, ast.Add)
    assert (add.checksum, add.keep_git_dir, add.unpack) == ("sha256:$SUM", True, False)


def test_stages_take_the_instructions_after_their_from() -> None:
    dockerfile = parse_dockerfile("ARG V\nFROM --platform=linux/amd64 a:$V AS One\nRUN x\nFROM one\n")
    assert [argument.arguments[0].name for argument in dockerfile.arguments] == ["V"]
    assert [(stage.base.base, stage.base.name, len(stage.commands)) for stage in dockerfile.stages] == [
        ("a:$V", "one", 1),
        ("one", "", 0),
    ]
    assert dockerfile.stages[0].base.platform == "linux/amd64"


def test_more_instructions_than_the_limit_are_refused() -> None:
    with pytest.raises(InvalidArgument, match="line 10001: more than 10000 instructions"):
        parse_dockerfile("FROM x\n" + "ENV a=b\n" * 10_000)


def test_a_trigger_is_one_instruction() -> None:
    assert isinstance(parse_trigger("RUN echo hi"), ast.Run)
    for text in ("RUN a\nRUN b", "FROM x", "ONBUILD RUN a"):
        with pytest.raises(InvalidArgument):
            parse_trigger(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("RUN a\nRUN b", "should be a single expression"),
        ("FROM x", "FROM isn't allowed as an ONBUILD trigger"),
        ("RUNN x", 'ONBUILD trigger "RUNN x" of the base image: unknown instruction: RUNN (did you mean RUN?)'),
    ],
)
def test_a_bad_trigger_is_refused_with_its_words(text: str, message: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse_trigger(text)
    assert message in str(caught.value)


def test_healthcheck_times_are_nanoseconds() -> None:
    command = only('HEALTHCHECK --interval=1m30s --timeout=1.5s --start-period=100ms --retries=3 CMD ["a", "b"]')
    assert isinstance(command, ast.Healthcheck)
    assert command.test == ("CMD", "a", "b")
    assert (command.interval, command.timeout, command.start_period) == (90 * 10**9, 1_500_000_000, 100_000_000)
    assert command.retries == 3

"""The linter: each rule by what it finds and what it leaves alone."""

from __future__ import annotations

import pytest

from lamella.build.check import CheckedDockerfile, check_dockerfile
from lamella.build.dockerfile.rules import CheckOptions, Finding, parse_check
from lamella.build.ignore import parse_ignore
from lamella.errors import InvalidArgument
from lamella.model.imageconfig import ContainerSettings


def check(text: str, **options: object) -> CheckedDockerfile:
    return check_dockerfile(text, **options)  # type: ignore[arg-type]


def found(text: str, **options: object) -> list[str]:
    checked = check(text, **options)
    assert checked.error is None
    return [f"{finding.first} {finding.rule}" for finding in checked.findings]


@pytest.mark.parametrize(
    ("text", "finding"),
    [
        ("FROM x AS Build", "1 StageNameCasing: Stage name 'Build' should be lowercase"),
        ("FROM x as build", "1 FromAsCasing: 'as' and 'FROM' keywords' casing do not match"),
        ("from x AS build", "1 FromAsCasing: 'AS' and 'from' keywords' casing do not match"),
        ("FROM x\nRUN a \\\n\n  b\nUSER u", "4 NoEmptyContinuation: Empty continuation line"),
        (
            "FROM x\nUSER a\nuser b",
            "3 ConsistentInstructionCasing: Command 'user' should match the case of the command majority (uppercase)",
        ),
        (
            "from x\nuser a\nUser b",
            "3 ConsistentInstructionCasing: Command 'User' should match the case of the command majority (lowercase)",
        ),
        ("FROM x AS a\nFROM y AS a", '2 DuplicateStageName: Duplicate stage name "a", stage names should be unique'),
        (
            "FROM x AS scratch",
            '1 ReservedStageName: Stage name should not use the same name as reserved stage "scratch"',
        ),
        (
            "FROM x\nENTRYPOINT a",
            (
                "2 JSONArgsRecommended: JSON arguments recommended for ENTRYPOINT to prevent unintended behavior related to "
                "OS signals"
            ),
        ),
        ("FROM x\nMAINTAINER a", "2 MaintainerDeprecated: Maintainer instruction is deprecated in favor of using label"),
        (
            "ARG VERSION=1\nFROM x:3-${VERSIN}",
            "2 UndefinedArgInFrom: FROM argument 'VERSIN' is not declared (did you mean VERSION?)",
        ),
        ("FROM scratch\nARG foo=1\nUSER a$fo", "3 UndefinedVar: Usage of undefined variable '$fo' (did you mean $foo?)"),
        (
            "FROM x\nWORKDIR a/b",
            '2 WorkdirRelativePath: Relative workdir "a/b" can have unexpected results if the base image changes',
        ),
        (
            'FROM x\nCMD ["a"]\nCMD ["b"]',
            (
                "2 MultipleInstructionsDisallowed: Multiple CMD instructions should not be used in the same stage because "
                "only the last one will be used"
            ),
        ),
        (
            "FROM x\nENV a b",
            '2 LegacyKeyValueFormat: "ENV key=value" should be used instead of legacy "ENV key value" format',
        ),
        (
            "FROM --platform=$TARGETPLATFORM x",
            (
                "1 RedundantTargetPlatform: Setting platform to predefined $TARGETPLATFORM in FROM is redundant as this is "
                "the default behavior"
            ),
        ),
        (
            "FROM x\nARG AWS_SECRET_ACCESS",
            '2 SecretsUsedInArgOrEnv: Do not use ARG or ENV instructions for sensitive data (ARG "AWS_SECRET_ACCESS")',
        ),
        (
            "ARG TAG\nFROM x:$TAG",
            "2 InvalidDefaultArgInFrom: Default value for ARG x:$TAG results in empty or invalid base image name",
        ),
        (
            "FROM --platform=linux/arm64 x",
            '1 FromPlatformFlagConstDisallowed: FROM --platform flag should not use constant value "linux/arm64"',
        ),
        (
            "FROM x\nCOPY ./secret/a b",
            '2 CopyIgnoredFile: Attempting to Copy file "secret/a" that is excluded by .dockerignore',
        ),
        ("FROM x\nEXPOSE 80/TCP", "2 ExposeProtoCasing: Defined protocol '80/TCP' in EXPOSE instruction should be lowercase"),
        (
            "FROM x\nEXPOSE 127.0.0.1:80:80",
            (
                "2 ExposeInvalidFormat: EXPOSE instruction should not define an IP address or host-port mapping, found "
                "'127.0.0.1:80:80'"
            ),
        ),
    ],
)  # fmt: skip
def test_a_rule_finds_its_mistake(text: str, finding: str) -> None:
    checked = check(text, ignore=parse_ignore(b"secret\n"), build_args={"TAG": "1"})
    assert [f"{each.first} {each.rule}: {each.message}" for each in checked.findings][:1] == [finding]
    rule = finding.split()[1].rstrip(":")
    assert rule not in str(check(f"# check=skip={rule}\n{text}", ignore=parse_ignore(b"secret\n")).findings)


@pytest.mark.parametrize(
    "text",
    [
        "FROM x AS build\nFROM build AS other",
        "from x as build\nuser a",
        "FROM x\nRUN a \\\n # comment\n  b",
        'FROM x\nCMD ["a"]\nFROM y\nCMD ["b"]',
        "FROM x\nCMD []\nHEALTHCHECK CMD a",
        'FROM x\nSHELL ["/bin/bash", "-c"]\nCMD a',
        "ARG V=1\nFROM x:$V\nARG V\nUSER $V",
        "FROM --platform=$BUILDPLATFORM x\nARG TARGETOS TARGETARCH\nUSER $TARGETOS-$TARGETARCH",
        "FROM --platform=linux/amd64 x AS build-amd64",
        "FROM x\nWORKDIR /a\nWORKDIR b",
        "FROM x AS a\nWORKDIR /a\nFROM a\nWORKDIR b",
        "FROM x\nENV a=b c=$PATH\nLABEL d=e",
        "FROM x\nARG TOKEN_FILE PUBLIC_KEY MONKEY TOKENIZER KEY_VERSION",
        "FROM scratch\nARG a=1 b=$a\nUSER $b\nARG c\nUSER $c",
        "FROM scratch AS a\nARG v=1\nENV w=2\nFROM a\nUSER $v$w",
        "FROM scratch\nUSER ${u:-nobody}$HTTP_PROXY",
        "FROM x\nEXPOSE 80 443/udp 1000-1010",
        "FROM x\nCOPY --from=y secret /\nADD https://secret /\nCOPY other secret/\nCOPY . /",
        'FROM x\nRUN $undefined\nCMD ["$undefined"]\nEXPOSE $undefined',
        "FROM x\nCOPY <<EOF /f\n\"quoted\" 'and' $PATH\nEOF",
    ],
)  # fmt: skip
def test_what_is_right_is_left_alone(text: str) -> None:
    findings = found(text, ignore=parse_ignore(b"secret\n"), build_args={"HTTP_PROXY": "p"})
    assert [finding for finding in findings if "UndefinedVar" not in finding or "{u" not in text] == []


def test_a_platforms_default_value_is_a_use() -> None:
    assert found("FROM scratch\nUSER ${u:-nobody}") == ["2 UndefinedVar"]


def test_names_in_capitals_may_be_the_images_own() -> None:
    text = "FROM golang\nENV P=$GOPATH/bin:$lower\nARG VERSION=1\nUSER $VERSON"
    assert found(text) == ["2 UndefinedVar", "4 UndefinedVar"]
    known = ContainerSettings(env=("GOPATH=/go", "lower=x", "PATH=/bin"))
    assert found(text, find_settings=lambda name: known if name == "golang" else None) == ["4 UndefinedVar"]
    assert found(text, find_settings=lambda _: ContainerSettings()) == ["2 UndefinedVar"] * 2 + ["4 UndefinedVar"]


def test_only_the_stages_of_the_target_are_followed() -> None:
    text = "FROM x AS a\nCMD a\nFROM y AS b\nCMD b"
    assert found(text, target="a") == ["2 JSONArgsRecommended"]
    assert found(text) == ["2 JSONArgsRecommended", "4 JSONArgsRecommended"]


def test_a_whole_context_that_is_ignored_is_copied_in_vain() -> None:
    assert found("FROM x\nCOPY . /", ignore=parse_ignore(b"*\n")) == ["2 CopyIgnoredFile"]
    assert found("FROM x\nCOPY . /", ignore=parse_ignore(b"*\n!a\n")) == []


def test_a_comment_before_an_instruction_turns_rules_off_for_it() -> None:
    text = "FROM x\n# check=skip=JSONArgsRecommended\nCMD a\nFROM y\n# check=skip\nCMD b"
    assert found(text) == ["6 JSONArgsRecommended"]


def test_descriptions_are_checked_only_if_asked_for() -> None:
    text = "# about nothing\nFROM x AS build\n# v is good\nARG v\n\n# other\nARG w"
    assert found(text) == []
    asked = "# check=experimental=InvalidDefinitionDescription\n"
    assert found(asked + text) == ["3 InvalidDefinitionDescription", "8 InvalidDefinitionDescription"]


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("", CheckOptions()),
        ("skip=A, B", CheckOptions(frozenset({"A", ""}))),
        ("skip=A,B;error=true", CheckOptions(frozenset("AB"), error=True)),
        ("error=0;experimental=all;skip=all", CheckOptions(frozenset({"all"}), frozenset({"all"}))),
    ],
)
def test_options_are_read(text: str, options: CheckOptions) -> None:
    assert parse_check(text) == options


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("skip", 'invalid check option "skip"'),
        ("skp=A", 'invalid check option "skp"'),
        ("error=yes", 'failed to parse check option "error=yes"'),
    ],
)
def test_bad_options_are_refused(text: str, message: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse_check(text)
    assert message in str(caught.value)
    assert message in str(check(f"# check={text}\nFROM x").error)


def test_a_build_argument_stands_for_the_directive() -> None:
    text = "# check=skip=all\nFROM x AS B\nCMD a"
    arguments = {"BUILDKIT_DOCKERFILE_CHECK": "skip=StageNameCasing;error=true"}
    checked = check(text, build_args=arguments)
    assert [finding.rule for finding in checked.findings] == ["JSONArgsRecommended"]
    with pytest.raises(InvalidArgument, match="lint violation found for rules: JSONArgsRecommended"):
        checked.refuse()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("FROM x\nRUNN a", "line 2: unknown instruction: RUNN (did you mean RUN?)"),
        ("FROM $x", "line 1: base name ($x) should not be blank"),
        ("FROM X", 'line 1: failed to parse stage name "X": invalid reference'),
        ("FROM --platform=$p x", "line 1: empty platform value from expression $p"),
        ("FROM x\nUSER ${a^}", "line 2: failed to process"),
        ("FROM scratch\nUSER ${a:?say who}", "a: say who"),
        ("FROM x\nSTOPSIGNAL NOPE", "line 2: invalid signal: NOPE"),
        ("FROM x\nCOPY --from=0 a b", "line 2: invalid from flag value 0: refers to current build stage"),
        ("ARG m=x\nFROM x\nARG m\nRUN --mount=type=cache,target=/a,mode=$m b", "line 4: invalid value x for mode"),
    ],
)
def test_what_cannot_be_built_is_told_after_the_findings(text: str, message: str) -> None:
    checked = check(f"# one\n\n{text}\n".replace("# one\n\n", ""))
    assert message in str(checked.error)
    assert check(text + "\nMAINTAINER x").findings[-1].rule == "MaintainerDeprecated"


def test_an_unknown_variable_of_the_base_image_is_no_error() -> None:
    assert found("FROM x\nUSER ${APP_USER:?set by the base}\nSTOPSIGNAL $APP_SIGNAL") == []


def test_an_excerpt_shows_the_lines_round_a_finding() -> None:
    checked = check("\ufeffFROM x\r\nUSER a\r\nCMD a \\\r\n  b\r\nUSER c\r\nUSER d\r\n")
    (finding,) = checked.findings
    assert finding == Finding("JSONArgsRecommended", finding.message, 3, 4)
    assert finding.url == "https://docs.docker.com/go/dockerfile/rule/json-args-recommended/"
    assert checked.excerpt(finding, "dir/Dockerfile") == (
        "dir/Dockerfile:3\n"
        "--------------------\n"
        "   2 |     USER a\n"
        "   3 | >>> CMD a \\\n"
        "   4 | >>>   b\n"
        "   5 |     USER c\n"
        "--------------------\n"
    )

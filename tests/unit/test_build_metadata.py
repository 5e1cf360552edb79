"""What metadata instructions do to settings, and the words of the history."""

from __future__ import annotations

import pytest

from lamella.build.arguments import BuildArguments, automatic_arguments, given_epoch
from lamella.build.dockerfile.parser import parse_dockerfile
from lamella.build.metadata import StageState, apply_metadata
from lamella.build.plan import plan_stages
from lamella.build.request import declare_globals
from lamella.errors import InvalidArgument
from lamella.model.goprint import quote
from lamella.model.imageconfig import ContainerSettings
from lamella.model.platform import Platform, host_platform


def apply(text: str, **settings: object) -> tuple[StageState, list[str]]:
    state = StageState(ContainerSettings(**settings), BuildArguments({}), "\\")  # type: ignore[arg-type]
    (stage,) = parse_dockerfile("FROM base\n" + text).stages
    return state, [apply_metadata(state, command) for command in stage.commands]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ENV author jlz", "ENV author=jlz"),
        ('ENV A=b C="d e"', "ENV A=b C=d e"),
        ("LABEL a=b c=d", "LABEL a=b c=d"),
        ('CMD ["sh"]', 'CMD ["sh"]'),
        ("CMD echo hi", 'CMD ["/bin/sh" "-c" "echo hi"]'),
        ('ENTRYPOINT ["/a", "b\\"c"]', 'ENTRYPOINT ["/a" "b\\"c"]'),
        ("ENTRYPOINT []", "ENTRYPOINT []"),
        ("VOLUME /vol", "VOLUME [/vol]"),
        ("EXPOSE 80/tcp 443", "EXPOSE 443 80/tcp"),
        ("USER a:b", "USER a:b"),
        ('SHELL ["a", "b"]', "SHELL [a b]"),
        ("STOPSIGNAL SIGTERM", "STOPSIGNAL SIGTERM"),
        ("ARG x=1 y", "ARG x=1 y"),
        ("MAINTAINER me", "MAINTAINER me"),
        ("ONBUILD RUN x", "ONBUILD RUN x"),
        ("HEALTHCHECK --interval=5s CMD true", 'HEALTHCHECK &{["CMD-SHELL" "true"] "5s" "0s" "0s" \'\\x00\'}'),
        ("HEALTHCHECK --retries=10 CMD true", 'HEALTHCHECK &{["CMD-SHELL" "true"] "0s" "0s" "0s" \'\\n\'}'),
    ],
)
def test_history_spells_an_instruction_as_docker_does(text: str, words: str) -> None:
    assert apply(text)[1] == [words]


def test_env_replaces_in_place_and_sees_only_what_was_before() -> None:
    state, _ = apply("ENV a=1 b=$a\nENV a=2 b=$a", env=("a=0", "c=3"))
    assert state.settings.env == ("a=2", "c=3", "b=1")


def test_entrypoint_clears_an_inherited_cmd_but_not_ones_own() -> None:
    assert apply('ENTRYPOINT ["a"]', cmd=("old",))[0].settings.cmd is None
    assert apply('CMD ["new"]\nENTRYPOINT ["a"]', cmd=("old",))[0].settings.cmd == ("new",)


def test_a_second_healthcheck_keeps_the_times_that_it_does_not_set() -> None:
    state, words = apply("HEALTHCHECK --interval=2m --retries=3 CMD a\nHEALTHCHECK --retries=1 CMD b")
    check = state.settings.healthcheck
    assert check is not None
    assert (check.test, check.interval, check.retries) == (("CMD-SHELL", "b"), 120 * 10**9, 1)
    assert words[1] == 'HEALTHCHECK &{["CMD-SHELL" "b"] "0s" "0s" "0s" \'\\x01\'}'


def test_an_argument_is_hidden_by_an_environment_variable() -> None:
    state, _ = apply("ARG a=1\nENV a=2\nLABEL l=$a")
    assert state.settings.labels == {"l": "2"}
    assert state.arguments.values_besides(state.settings.env) == {}


def test_expose_takes_several_ports_from_one_variable() -> None:
    state, words = apply("ENV P='80 443/udp'\nEXPOSE $P")
    assert state.settings.exposed_ports == ("443/udp", "80/tcp")
    assert words[-1] == "EXPOSE 80 443/udp"


@pytest.mark.parametrize("text", ["EXPOSE x", "EXPOSE 80/abc", "STOPSIGNAL NOPE", "ENV $u=x", "EXPOSE 9-8"])
def test_bad_values_are_refused(text: str) -> None:
    with pytest.raises(InvalidArgument):
        apply(text)


def test_build_arguments_come_from_the_command_line_then_defaults_then_the_global_ones() -> None:
    arguments = BuildArguments({"a": "given", "unasked": "x", "HTTP_PROXY": "p"})
    arguments.declare_global("g", "global")
    stage = arguments.for_stage()
    assert stage.values() == {"HTTP_PROXY": "p"}
    for name, default in (("a", "1"), ("b", "2"), ("g", None), ("n", None)):
        stage.declare(name, default)
    assert stage.values() == {"a": "given", "b": "2", "g": "global", "HTTP_PROXY": "p"}
    assert arguments.unused() == ["unasked"]
    assert not stage.is_recorded("HTTP_PROXY")


def test_an_argument_without_default_takes_the_global_value_or_keeps_its_own() -> None:
    arguments = BuildArguments({})
    arguments.declare_global("g", "global")
    arguments.declare_global("g", None)
    stage = arguments.for_stage()
    for name, default in (("g", "own"), ("g", None), ("n", "own"), ("n", None)):
        stage.declare(name, default)
    assert stage.values() == {"g": "global", "n": "own"}


def test_a_stage_on_another_has_its_arguments() -> None:
    arguments = BuildArguments({})
    parent = arguments.for_stage()
    parent.declare("a", "1")
    child = arguments.for_stage(parent)
    child.declare("b", "2")
    assert child.values() == {"a": "1", "b": "2"}
    assert (parent.values(), arguments.for_stage().values()) == ({"a": "1"}, {})


def test_defaults_may_use_the_arguments_before_them() -> None:
    state, words = apply("ARG a=1 b=$a-2\nARG c=${b#1-}\nENV d=$a$b$c")
    assert state.settings.env == ("d=11-22",)
    assert words[0] == "ARG a=1 b=1-2"
    dockerfile = parse_dockerfile("ARG a=1 b=$a-2\nARG c=${b#1-}\nFROM x:$c")
    arguments = BuildArguments({"b": "given-9"})
    declare_globals(dockerfile, arguments)
    assert arguments.global_values() == {"a": "1", "b": "given-9", "c": "given-9"}


def test_a_default_that_fails_does_not_matter_to_an_argument_that_is_given() -> None:
    text = "ARG a=${b:?unset}"
    with pytest.raises(InvalidArgument, match="b: unset"):
        apply(text)
    state = StageState(ContainerSettings(), BuildArguments({"a": "1"}), "\\")
    (stage,) = parse_dockerfile("FROM base\n" + text).stages
    apply_metadata(state, stage.commands[0])  # type: ignore[arg-type]
    assert state.variables() == {"a": "1"}


def test_what_is_built_where_is_known_to_from_and_to_stages_that_ask() -> None:
    automatic = automatic_arguments(Platform("linux", "arm", "v7"), "app", 7)
    arguments = BuildArguments({"TARGETOS": "other", "SOURCE_DATE_EPOCH": "7"}, automatic)
    values = arguments.global_values()
    assert values["TARGETPLATFORM"] == "linux/arm/v7"
    assert (values["TARGETOS"], values["TARGETARCH"], values["TARGETVARIANT"]) == ("other", "arm", "v7")
    assert values["BUILDPLATFORM"] == str(host_platform())
    stage = arguments.for_stage()
    assert stage.values() == {}
    for name, default in (("TARGETARCH", None), ("TARGETSTAGE", "mine"), ("SOURCE_DATE_EPOCH", None)):
        stage.declare(name, default)
    assert stage.values() == {"TARGETARCH": "arm", "TARGETSTAGE": "mine", "SOURCE_DATE_EPOCH": "7"}
    assert arguments.unused() == []


@pytest.mark.parametrize("text", ["x", "", "-1", "1.5", "٣", "9" * 19])
def test_an_epoch_is_a_number_of_seconds(text: str) -> None:
    assert given_epoch({"SOURCE_DATE_EPOCH": "12"}) == 12
    assert given_epoch({}) is None
    with pytest.raises(InvalidArgument, match="SOURCE_DATE_EPOCH"):
        given_epoch({"SOURCE_DATE_EPOCH": text})


def test_only_the_stages_that_the_target_needs_are_planned() -> None:
    text = """\
FROM x AS one
FROM x AS two
COPY --from=one a b
FROM x AS three
FROM two AS four
COPY --from=0 a b
FROM x
"""
    dockerfile = parse_dockerfile(text)
    assert plan_stages(parse_dockerfile("FROM x AS a\nFROM y AS a\nFROM a\n"), "", {}) == [1, 2]
    assert plan_stages(dockerfile, "", {}) == [4]
    assert plan_stages(dockerfile, "four", {}) == [0, 1, 3]
    assert plan_stages(dockerfile, "TWO", {}) == [0, 1]
    assert plan_stages(dockerfile, "2", {}) == [2]
    with pytest.raises(InvalidArgument, match="failed to reach build target five in Dockerfile"):
        plan_stages(dockerfile, "five", {})


def test_strings_are_quoted_as_go_does() -> None:
    assert quote('a"b\\\n\x01\x7fé\u200b') == '"a\\"b\\\\\\n\\x01\\x7fé\\u200b"'

"""What metadata instructions do to settings, and the words of the history."""

from __future__ import annotations

import pytest

from lamella.build.arguments import BuildArguments
from lamella.build.dockerfile.parser import parse_dockerfile
from lamella.build.metadata import StageState, apply_metadata
from lamella.build.plan import plan_stages
from lamella.errors import InvalidArgument
from lamella.model.goprint import quote
from lamella.model.imageconfig import ContainerSettings


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
    assert plan_stages(dockerfile, "", {}) == [4]
    assert plan_stages(dockerfile, "four", {}) == [0, 1, 3]
    assert plan_stages(dockerfile, "TWO", {}) == [0, 1]
    assert plan_stages(dockerfile, "2", {}) == [2]
    with pytest.raises(InvalidArgument, match="failed to reach build target five in Dockerfile"):
        plan_stages(dockerfile, "five", {})


def test_strings_are_quoted_as_go_does() -> None:
    assert quote('a"b\\\n\x01\x7fé\u200b') == '"a\\"b\\\\\\n\\x01\\x7fé\\u200b"'

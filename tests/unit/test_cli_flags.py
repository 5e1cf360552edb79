"""pflag's rules, flag by flag."""

from __future__ import annotations

import pytest

from lamella.cli.flags import Flag, HelpWanted, UsageError, parse_flags

FLAGS = (
    Flag("interactive", "", short="i"),
    Flag("tty", "", short="t"),
    Flag("rm", ""),
    Flag("sig-proxy", "", default="true"),
    Flag("env", "", short="e", kind="list", many=True),
    Flag("name", "", kind="string"),
    Flag("time", "", short="T", kind="int"),
)


@pytest.mark.parametrize(
    ("argv", "on"),
    [
        (["-i", "-t"], {"interactive", "tty"}),
        (["-it"], {"interactive", "tty"}),
        (["-it=false"], {"interactive"}),
        (["--rm"], {"rm"}),
        (["--rm=true"], {"rm"}),
        (["--rm=T"], {"rm"}),
        (["--rm=false"], set()),
        (["--rm", "--rm=0"], set()),
    ],
)
def test_switches(argv: list[str], on: set[str]) -> None:
    values, rest = parse_flags(FLAGS, argv)
    assert {name for name in ("interactive", "tty", "rm") if values.on(name)} == on
    assert not rest


def test_a_switch_takes_no_value_from_the_next_word() -> None:
    values, rest = parse_flags(FLAGS, ["--rm", "false"])
    assert values.on("rm")
    assert rest == ["false"]


def test_a_switch_may_be_on_by_default() -> None:
    assert parse_flags(FLAGS, [])[0].on("sig-proxy")
    assert not parse_flags(FLAGS, ["--sig-proxy=false"])[0].on("sig-proxy")


@pytest.mark.parametrize("argv", [["-eA=B"], ["-e=A=B"], ["-e", "A=B"], ["--env", "A=B"], ["--env=A=B"], ["-ieA=B"]])
def test_values_join_in_every_spelling(argv: list[str]) -> None:
    assert parse_flags(FLAGS, argv)[0].many("env") == ["A=B"]


def test_lists_add_up_and_single_values_are_replaced() -> None:
    values, _ = parse_flags(FLAGS, ["-e", "A", "--name", "x", "-e", "B,C", "--name=y", "--name="])
    assert values.many("env") == ["A", "B,C"]
    assert values.text("name") == ""
    assert values.given("name")
    assert not values.given("time")


def test_flags_stand_anywhere_unless_the_arguments_belong_to_the_container() -> None:
    argv = ["image", "--rm", "-i", "--", "-t"]
    values, rest = parse_flags(FLAGS, argv)
    assert values.on("rm")
    assert rest == ["image", "-t"]
    values, rest = parse_flags(FLAGS, ["-i", *argv], interspersed=False)
    assert values.on("interactive")
    assert not values.on("rm")
    assert rest == argv


def test_a_dash_is_an_argument_and_a_value_may_look_like_a_flag() -> None:
    values, rest = parse_flags(FLAGS, ["-", "--name", "--rm"])
    assert rest == ["-"]
    assert values.text("name") == "--rm"
    assert not values.on("rm")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--foo"], "unknown flag: --foo"),
        (["--foo=1"], "unknown flag: --foo"),
        (["-iZt"], "unknown shorthand flag: 'Z' in -Zt"),
        (["--name"], "flag needs an argument: --name"),
        (["-ie"], "flag needs an argument: 'e' in -e"),
        (["--=x"], "bad flag syntax: --=x"),
        (
            ["-t=maybe"],
            'invalid argument "maybe" for "-t, --tty" flag: strconv.ParseBool: parsing "maybe": invalid syntax',
        ),
        (
            ["--time", "x"],
            'invalid argument "x" for "-T, --time" flag: strconv.ParseInt: parsing "x": invalid syntax',
        ),
    ],
)
def test_errors_are_worded_as_docker_words_them(argv: list[str], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_flags(FLAGS, argv)
    assert str(caught.value) == message
    assert caught.value.code == 125


def test_help_is_asked_for_by_flag_unless_the_letter_is_taken() -> None:
    for argv in (["--help"], ["-h"], ["x", "--help"]):
        with pytest.raises(HelpWanted):
            parse_flags(FLAGS, argv)
    values, _ = parse_flags((Flag("hostname", "", short="h", kind="string"),), ["-h", "web"])
    assert values.text("hostname") == "web"
    assert parse_flags(FLAGS, ["x", "--help"], interspersed=False)[1] == ["x", "--help"]

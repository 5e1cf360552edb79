"""Expected values were given by ``docker commit --change`` of dockerd 20.10.24."""

from __future__ import annotations

import pytest

from lamella.errors import InvalidArgument
from lamella.model.changes import apply_change, apply_changes, expand_word, join_working_dir, parse_ports, split_words
from lamella.model.imageconfig import ContainerSettings, Healthcheck

BASE = ContainerSettings(
    env=("X=1", "A=c"), working_dir="/w", volumes=("/v",), labels={"a": "b"}, cmd=("x",), exposed_ports=("80/tcp",)
)


def test_variables_are_set_in_place_or_behind() -> None:
    assert apply_change(BASE, "ENV X=2 N=3").env == ("X=2", "A=c", "N=3")


@pytest.mark.parametrize(
    ("text", "added"),
    [
        ('ENV a=$A"b $A"\\$x', ["a=cb c$x"]),
        ('ENV x y z  "w"', ["x=y z  w"]),
        ("ENV author jlz", ["author=jlz"]),
        ('ENV a=b\\ c d="x\\"y"', ["a=b c", 'd=x"y']),
        ("ENV a='b\"c' d=\"e'f\" g=h'i j'", ['a=b"c', "d=e'f", "g=hi j"]),
        ("ENV a=${A:-z}${N:-z}${A:+y}${N:+y}$$ b=$ c=\\$A", ["a=czy", "b=$", "c=$A"]),
        ("env a=1", ["a=1"]),
        ("ENV a=$A:${N}", ["a=c:"]),
        ("ENV a=${N-x}${A-x}${N+y}${A+y}", ["a=xcy"]),
        ("ENV a='$A'", ["a=$A"]),
        ("ENV a=", ["a="]),
        ("ENV a=${N:-${A}d}", ["a=cd"]),
    ],
)
def test_env_reads_words_as_a_shell_does(text: str, added: list[str]) -> None:
    assert list(apply_change(BASE, text).env[2:]) == added


def test_labels_are_added() -> None:
    assert apply_change(BASE, 'LABEL z="q r" a=c').labels == {"a": "c", "z": "q r"}


def test_commands_in_exec_and_shell_form() -> None:
    assert apply_change(BASE, 'CMD ["a", "b c"]').cmd == ("a", "b c")
    assert apply_change(BASE, "CMD echo $A").cmd == ("/bin/sh", "-c", "echo $A")
    assert apply_change(BASE, 'CMD ["a", b]').cmd == ("/bin/sh", "-c", '["a", b]')
    assert apply_change(BASE, "CMD []").cmd == ()
    with_shell = ContainerSettings(shell=("/bin/bash", "-ec"))
    assert apply_change(with_shell, "CMD x").cmd == ("/bin/bash", "-ec", "x")


def test_an_entrypoint_clears_the_command_it_found_but_not_one_set_beside_it() -> None:
    changed = apply_change(BASE, 'ENTRYPOINT ["sh"]')
    assert (changed.entrypoint, changed.cmd) == (("sh",), None)
    assert apply_changes(BASE, ["CMD y", "ENTRYPOINT foo  bar"]).cmd == ("/bin/sh", "-c", "y")
    assert apply_change(ContainerSettings(entrypoint=("x",)), "ENTRYPOINT []").entrypoint is None


def test_ports_volumes_user_and_directory() -> None:
    assert apply_change(BASE, "EXPOSE 8000-8002/udp").exposed_ports == ("80/tcp", "8000/udp", "8001/udp", "8002/udp")
    assert apply_change(BASE, 'VOLUME ["/q","/r s"]').volumes == ("/q", "/r s", "/v")
    assert apply_change(BASE, "VOLUME a,b c").volumes == ("/v", "a,b", "c")
    assert apply_change(BASE, "USER $X").user == "1"
    assert apply_change(BASE, "WORKDIR $A/../../e").working_dir == "/e"
    assert apply_change(BASE, "WORKDIR y").working_dir == "/w/y"


def test_signal_health_and_triggers() -> None:
    assert apply_change(BASE, "STOPSIGNAL SIGTERM").stop_signal == "SIGTERM"
    assert apply_change(BASE, "STOPSIGNAL RTMIN+3").stop_signal == "RTMIN+3"
    assert apply_change(BASE, "HEALTHCHECK NONE").healthcheck == Healthcheck(test=("NONE",))
    flags = "--interval=5s --timeout=1m30s --start-period=2s --start-interval=1s --retries=3"
    assert apply_change(BASE, f"HEALTHCHECK {flags} CMD true").healthcheck == Healthcheck(
        test=("CMD-SHELL", "true"),
        interval=5_000_000_000,
        timeout=90_000_000_000,
        start_period=2_000_000_000,
        start_interval=1_000_000_000,
        retries=3,
    )
    exec_form = apply_change(BASE, 'HEALTHCHECK CMD ["a","b"]').healthcheck
    assert exec_form is not None
    assert exec_form.test == ("CMD", "a", "b")
    assert apply_change(BASE, "ONBUILD RUN echo $A").on_build == ("RUN echo $A",)


def test_one_argument_may_hold_several_instructions_and_none() -> None:
    changed = apply_change(BASE, "# a comment\nENV Q=1 \\\n  R=2\n\nUSER u")
    assert (changed.env[2:], changed.user) == (("Q=1", "R=2"), "u")
    assert apply_changes(BASE, ["", " "]) == BASE


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("FROM x", "from is not a valid change command"),
        ("RUN x", "run is not a valid change command"),
        ("ENV", "ENV requires at least one argument"),
        ("ENV a", "ENV must have two arguments"),
        ("ENV a=b c", 'Syntax error - can\'t find = in "c". Must be of the form: name=value'),
        ("ENV =b", "ENV names can not be blank"),
        ('ENV a="b', "unexpected end of statement while looking for matching double-quote"),
        ("ENV a='b", "unexpected end of statement while looking for matching single-quote"),
        ("ENV a=${b", "unsupported modifier"),
        ("ENV a=${b:", "unsupported modifier"),
        ("ENV a=${b:-c", "syntax error: missing '}'"),
        ("ENV a=${}", "syntax error: bad substitution"),
        ("ENV a=${N:?gone}", "N: gone"),
        ("ENV a=" + "${N:-" * 100, "variables are nested too deeply"),
        ("EXPOSE a", "invalid containerPort: a"),
        ("EXPOSE 70000", "invalid range specified for port: 70000"),
        ("EXPOSE 9-8", "invalid range"),
        ("EXPOSE 80/icmp", "invalid proto: icmp"),
        ("STOPSIGNAL FOO", "invalid signal: FOO"),
        ("STOPSIGNAL 65", "invalid signal: 65"),
        ("USER a b", "USER requires exactly one argument"),
        ("VOLUME", "VOLUME requires at least one argument"),
        ('VOLUME [""]', "VOLUME specified can not be an empty string"),
        ("HEALTHCHECK FOO", 'Unknown type "FOO" in HEALTHCHECK (try CMD)'),
        ("HEALTHCHECK CMD", "Missing command after HEALTHCHECK CMD"),
        ("HEALTHCHECK --interval=5s", "HEALTHCHECK requires at least one argument"),
        ("HEALTHCHECK --interval=1us CMD a", 'Interval "interval" cannot be less than 1ms'),
        ("HEALTHCHECK --interval=x CMD a", 'time: invalid duration "x"'),
        ("HEALTHCHECK --retries=x CMD a", "--retries"),
        ("HEALTHCHECK --foo=1 CMD a", "Unknown flag of HEALTHCHECK: foo"),
        ("HEALTHCHECK NONE x", "HEALTHCHECK NONE takes no arguments"),
        ("ONBUILD FROM x", "FROM isn't allowed as an ONBUILD trigger"),
        ("ONBUILD ONBUILD x", "Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed"),
    ],
)
def test_bad_changes_are_refused_in_dockers_words(text: str, message: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        apply_change(BASE, text)
    assert str(caught.value).startswith(message)


def test_words_keep_their_quotes_until_expanded() -> None:
    assert split_words("a 'b c' \"d e\" f\\ g") == ["a", "'b c'", '"d e"', "f\\ g"]
    assert split_words("  ") == []
    assert expand_word("'$A'\"$A\"$A", {"A": "x"}) == "$Axx"


def test_working_directories_are_joined_as_text() -> None:
    assert join_working_dir("", "a") == "/a"
    assert join_working_dir("/a/b", "../../../c/./d/") == "/c/d"
    assert join_working_dir("/a", "//b") == "/b"
    assert join_working_dir("/a", "/") == "/"


def test_port_names() -> None:
    assert parse_ports("80") == ["80/tcp"]
    assert parse_ports("80/UDP") == ["80/udp"]
    assert parse_ports("127.0.0.1:8080:80") == ["80/tcp"]

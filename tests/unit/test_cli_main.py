"""Finding commands, their help, and the map from errors to exit codes."""

from __future__ import annotations

import errno
import inspect

import pytest

from lamella import errors
from lamella.cli.exits import exit_code
from lamella.cli.flags import UsageError
from lamella.cli.main import describe, load_command, run
from lamella.cli.table import COMMON, NOUNS, TABLE, Entry, find_entry
from lamella.cli.usage import flag_lines, wrap

COMMANDS = sorted(TABLE)
REQUIRED = [
    "build",
    "run",
    "create",
    "start",
    "exec",
    "stop",
    "kill",
    "wait",
    "logs",
    "ps",
    "rm",
    "inspect",
    "diff",
    "commit",
    "cp",
    "export",
    "import",
    "load",
    "save",
    "tag",
    "rmi",
    "images",
    "history",
    "attach",
    "rename",
    "info",
    "version",
    "completion",
    "explain",
    "why",
    "blame",
    "df",
    "fsck",
    "reclaim",
    "adopt",
    "ui",
]


def every_error() -> list[type[errors.LamellaError]]:
    found = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, errors.LamellaError)]
    assert errors.LamellaError in found
    return found


def make(kind: type[errors.LamellaError]) -> errors.LamellaError:
    if kind is errors.BuildFailed:
        return errors.BuildFailed("failed", exit_code=7)
    if kind is errors.DigestMismatch:
        return errors.DigestMismatch("blob", "sha256:a", "sha256:b")
    return kind("something")


@pytest.mark.parametrize("kind", every_error())
def test_every_error_has_an_exit_code(kind: type[errors.LamellaError]) -> None:
    special = {
        errors.CommandNotFound: (127, 127),
        errors.CommandNotExecutable: (126, 126),
        errors.BuildFailed: (7, 7),
        errors.Cancelled: (130, 130),
    }
    assert (exit_code(make(kind)), exit_code(make(kind), 125)) == special.get(kind, (1, 125))
    assert describe(make(kind))


def test_other_failures_have_exit_codes_too() -> None:
    assert exit_code(OSError(errno.ENOSPC, "No space left on device"), 125) == 125
    assert exit_code(KeyboardInterrupt()) == 130
    assert exit_code(UsageError("x")) == 125
    assert exit_code(UsageError("x", code=1)) == 1


def test_an_error_is_one_line() -> None:
    error = errors.NotFound("No such image: x")
    error.add_note("applying layer 3\nof 7")
    assert describe(error) == "No such image: x; applying layer 3 of 7"
    assert (
        describe(FileNotFoundError(errno.ENOENT, "No such file or directory", "/a")) == "/a: no such file or directory"
    )
    assert "image prune" in describe(OSError(errno.ENOSPC, "No space left on device", b"/x"))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*name.split(), "--help"]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"Usage:  lamella {name}")
    assert TABLE[name].help in " ".join(text.split())
    for flag in load_command(TABLE[name]).flags:
        assert (f"--{flag.name}" in text.split()) is not flag.hidden
        assert flag.help


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_stands_in_the_list(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    noun, _, verb = name.rpartition(" ")
    assert run([noun, "--help"] if noun else ["--help"]) == 0
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
    assert (verb in listed) is not TABLE[name].hidden


def test_the_commands_of_docker_are_all_here() -> None:
    assert set(REQUIRED) <= set(TABLE)
    assert set(COMMON) <= set(TABLE)
    assert set(NOUNS) == {"builder", "container", "gc", "image", "system"}


@pytest.mark.parametrize("name", COMMANDS)
def test_flags_are_named_once_and_arguments_bounded(name: str) -> None:
    command = load_command(TABLE[name])
    names = [flag.name for flag in command.flags]
    letters = [flag.short for flag in command.flags if flag.short]
    assert len(names) == len(set(names))
    assert len(letters) == len(set(letters))
    assert command.most is None or command.most >= command.least


def test_aliases_lead_to_the_same_command() -> None:
    for words in (["image", "ls"], ["image", "list"], ["images"]):
        entry, rest = find_entry([*words, "-q"])
        assert isinstance(entry, Entry)
        assert (entry.module, entry.attribute, rest) == ("images", "IMAGES", ["-q"])
    assert find_entry(["image"]) == (None, ["image"])
    assert find_entry(["nothing"])[0] is None


@pytest.mark.parametrize(
    ("argv", "code", "text"),
    [
        (["images", "--foo"], 125, "unknown flag: --foo\nSee 'lamella images --help'.\n"),
        (["run", "-Z", "x"], 125, "unknown shorthand flag: 'Z' in -Z\nSee 'lamella run --help'.\n"),
        (["rmi"], 1, "lamella: 'lamella rmi' requires at least 1 argument\nSee 'lamella rmi --help'.\n"),
        (["tag", "a"], 1, "lamella: 'lamella tag' requires 2 arguments\nSee 'lamella tag --help'.\n"),
        (
            ["images", "a", "b"],
            1,
            "lamella: 'lamella images' requires at most 1 argument\nSee 'lamella images --help'.\n",
        ),
        (["ps", "a"], 1, "lamella: 'lamella ps' accepts no arguments\nSee 'lamella ps --help'.\n"),
        (["imagse"], 1, "lamella: unknown command: lamella imagse (did you mean 'images'?)\nSee 'lamella --help'.\n"),
        (["image", "zzz"], 1, "lamella: unknown command: lamella image zzz\nSee 'lamella image --help'.\n"),
        (["--nothing"], 125, "unknown flag: --nothing\nSee 'lamella --help'.\n"),
        (["help", "zzz"], 1, "unknown help topic: zzz\nSee 'lamella --help'.\n"),
        (
            ["inspect", "--type", "moon", "x"],
            1,
            'lamella: "moon" is not a valid value for --type; it may be image or container\n',
        ),
        (["build", "-t", "a:0,1", "."], 1, "lamella: invalid reference format\n"),
        (["tag", "a", "B"], 1, "lamella: invalid reference format: repository name (library/B) must be lowercase\n"),
        (
            ["run", "-p", "80:80", "x"],
            125,
            "lamella: --publish needs a bridge network, which is not available; use --network host\n",
        ),
    ],
)
def test_misuse_is_told_in_dockers_words(
    argv: list[str], code: int, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(argv) == code
    captured = capsys.readouterr()
    assert captured.err == text
    assert captured.out == ""


def test_help_is_reached_every_way(capsys: pytest.CaptureFixture[str]) -> None:
    texts = []
    for argv in ([], ["help"], ["--help"], ["-h"]):
        assert run(argv) == 0
        texts.append(capsys.readouterr().out)
    assert len(set(texts)) == 1
    for argv in (["help", "image", "rm"], ["image", "rm", "--help"], ["image", "rm", "-h"]):
        assert run(argv) == 0
        texts.append(capsys.readouterr().out)
    assert len(set(texts[4:])) == 1
    for argv in (["image"], ["image", "--help"], ["help", "image"]):
        assert run(argv) == 0
        texts.append(capsys.readouterr().out)
    assert len(set(texts[7:])) == 1


def test_run_hands_flags_after_the_image_on() -> None:
    command = load_command(TABLE["run"])
    assert not command.interspersed
    assert command.failure == 125


def test_help_fits_the_width_and_names_defaults() -> None:
    flags = load_command(TABLE["run"]).flags
    lines = flag_lines(flags, 80)
    assert all(len(line) <= 80 for line in lines)
    assert any(line.startswith("  -i, --interactive ") for line in lines)
    text = " ".join(" ".join(lines).split())
    assert '(default "none")' in text
    assert "(default true)" in text
    assert wrap("a bb ccc", 4) == ["a bb", "ccc"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_completion_knows_commands_and_flags(shell: str, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert run(["completion", shell]) == 0
    script = capfdbinary.readouterr().out.decode()
    for word in ("images", "container") if shell == "tcsh" else ("images", "container", "--no-trunc", "--entrypoint"):
        assert word in script


def test_completion_refuses_other_shells(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["completion", "dos"]) == 1
    assert "unknown shell" in capsys.readouterr().err

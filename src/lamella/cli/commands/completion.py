"""``completion``: the script that teaches a shell lamella's commands, flags, images and containers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lamella.cli.command import Command
from lamella.cli.flags import Flag, Values
from lamella.errors import InvalidArgument

if TYPE_CHECKING:
    from argparse import ArgumentParser

    from lamella.cli.context import Context

SHELLS = ("bash", "zsh", "tcsh")

_PREAMBLE = {
    "bash": """
_lamella_images() { compgen -W "$(lamella images --format '{{.Repository}}:{{.Tag}}' 2>/dev/null)" -- "$1"; }
_lamella_containers() { compgen -W "$(lamella ps -a --format '{{.Names}}' 2>/dev/null)" -- "$1"; }
""",
    "zsh": """
_lamella_images() { local -a found; found=(${(f)"$(lamella images --format '{{.Repository}}:{{.Tag}}' 2>/dev/null)"}); compadd -a found; }
_lamella_containers() { local -a found; found=(${(f)"$(lamella ps -a --format '{{.Names}}' 2>/dev/null)"}); compadd -a found; }
""",
    "tcsh": "",
}
_COMPLETERS = {
    "image": {"bash": "_lamella_images", "zsh": "_lamella_images"},
    "container": {"bash": "_lamella_containers", "zsh": "_lamella_containers"},
}


def run(context: Context, _flags: Values, arguments: list[str]) -> int:
    """Print the script."""
    shell = arguments[0]
    if shell not in SHELLS:
        raise InvalidArgument(f"unknown shell {shell!r}; one of: {', '.join(SHELLS)}")
    import shtab

    script: str = shtab.complete(make_parser(), shell=shell, preamble=_PREAMBLE[shell])
    context.output.raw(script + "\n")
    return 0


def make_parser() -> ArgumentParser:
    """Describe all commands to argparse, which the generator of scripts reads; nothing is ever parsed with it."""
    from argparse import ArgumentParser

    from lamella.cli.main import load_command
    from lamella.cli.table import NOUNS, TABLE
    from lamella.cli.usage import GLOBAL_FLAGS

    parser = ArgumentParser(prog="lamella", add_help=False)
    _add_flags(parser, GLOBAL_FLAGS)
    commands = parser.add_subparsers()
    nouns = {
        noun: commands.add_parser(noun, help=text, add_help=False).add_subparsers() for noun, text in NOUNS.items()
    }
    for name, entry in TABLE.items():
        if entry.hidden:
            continue
        noun, _, verb = name.rpartition(" ")
        command = load_command(entry)
        place = nouns[noun] if noun else commands
        below = place.add_parser(verb, help=entry.help, add_help=False)
        _add_flags(below, command.flags)
        if name == "completion":
            below.add_argument("shell", choices=SHELLS)
        elif command.most != 0:
            argument = below.add_argument("argument", nargs="*")
            if command.completes == "file":
                from shtab import FILE

                argument.complete = FILE  # type: ignore[attr-defined]  # the protocol of shtab
            elif command.completes:
                argument.complete = _COMPLETERS[command.completes]  # type: ignore[attr-defined]
    return parser


def _add_flags(parser: ArgumentParser, flags: tuple[Flag, ...]) -> None:
    for flag in flags:
        if flag.hidden:
            continue
        names = [*([f"-{flag.short}"] if flag.short else []), f"--{flag.name}"]
        text = flag.help.partition("\n")[0].replace("%", "%%")
        parser.add_argument(*names, help=text, action="store_true" if flag.kind == "bool" else "store")


COMPLETION = Command(usage="bash|zsh|tcsh", run=run, least=1, most=1)

"""``exec``: one more command in a running container."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lamella.cli.command import Command
from lamella.cli.common import DETACH_KEYS
from lamella.cli.flags import Flag, Values
from lamella.cli.runflags import read_env
from lamella.cli.terminal import check_terminal, client_streams

if TYPE_CHECKING:
    from lamella.cli.context import Context


def run(context: Context, flags: Values, arguments: list[str]) -> int:
    """Run the command; the exit code is its own."""
    detach, tty, stdin = flags.on("detach"), flags.on("tty"), flags.on("interactive")
    if not detach:
        check_terminal(tty=tty, stdin=stdin)
    container = context.store().container(arguments[0])
    context.output.flush()
    return container.exec(
        arguments[1:],
        None if detach else client_streams([], stdin=stdin),
        tty=tty,
        env=read_env(context, flags),
        user=flags.text("user"),
        workdir=flags.text("workdir"),
        privileged=flags.on("privileged"),
    )


EXEC = Command(
    usage="[OPTIONS] CONTAINER COMMAND [ARG...]",
    run=run,
    least=2,
    interspersed=False,
    completes="container",
    flags=(
        Flag("detach", "Detached mode: run command in the background", short="d"),
        DETACH_KEYS._replace(hidden=True),
        Flag("env", "Set environment variables", short="e", kind="list", many=True),
        Flag("env-file", "Read in a file of environment variables", kind="list", many=True),
        Flag("interactive", "Keep STDIN open even if not attached", short="i"),
        Flag("privileged", "Give extended privileges to the command"),
        Flag("tty", "Allocate a pseudo-TTY", short="t"),
        Flag("user", 'Username or UID (format: "<name|uid>[:<group|gid>]")', short="u", kind="string"),
        Flag("workdir", "Working directory inside the container", short="w", kind="string"),
    ),
)

"""``attach``: join a running container's streams."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lamella.cli.command import Command
from lamella.cli.common import DETACH_KEYS
from lamella.cli.flags import Flag, Values
from lamella.cli.terminal import check_terminal, client_code, client_streams

if TYPE_CHECKING:
    from lamella.cli.context import Context


def run(context: Context, flags: Values, arguments: list[str]) -> int:
    """Stay attached until the container ends or the detach keys are typed; the exit code is the container's."""
    container = context.store().container(arguments[0])
    stdin = container.open_stdin and not flags.on("no-stdin")
    if container.running:  # one at rest has a better reason to be refused
        check_terminal(tty=container.tty, stdin=stdin)
    code = container.attach(
        client_streams([], stdin=stdin),
        detach_keys=flags.text("detach-keys"),
        forward_signals=flags.on("sig-proxy"),
    )
    return client_code(context, code)


ATTACH = Command(
    usage="[OPTIONS] CONTAINER",
    run=run,
    least=1,
    most=1,
    completes="container",
    flags=(
        DETACH_KEYS,
        Flag("no-stdin", "Do not attach STDIN"),
        Flag("sig-proxy", "Proxy all received signals to the process", default="true"),
    ),
)

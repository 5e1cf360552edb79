"""``start``: set containers at rest going."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lamella.cli.command import Command
from lamella.cli.common import DETACH_KEYS, each
from lamella.cli.flags import Flag, Values
from lamella.cli.terminal import check_terminal, client_code, client_streams
from lamella.errors import InvalidArgument

if TYPE_CHECKING:
    from lamella.cli.context import Context


def run(context: Context, flags: Values, arguments: list[str]) -> int:
    """Start each container named; with ``--attach`` one, and the exit code is its own."""
    store = context.store()
    if flags.on("attach") or flags.on("interactive"):
        if len(arguments) > 1:
            raise InvalidArgument("you cannot start and attach multiple containers at once")
        container = store.container(arguments[0])
        stdin = flags.on("interactive") and container.open_stdin
        check_terminal(tty=container.tty, stdin=stdin)
        context.output.flush()
        code = container.run(
            client_streams([], stdin=stdin),
            detach_keys=flags.text("detach-keys"),
            forward_signals=flags.on("sig-proxy"),
        )
        return client_code(context, code)

    def start(name: str) -> str:
        store.container(name).start()
        return name

    return each(context, arguments, start)


START = Command(
    usage="[OPTIONS] CONTAINER [CONTAINER...]",
    run=run,
    least=1,
    completes="container",
    flags=(
        Flag("attach", "Attach STDOUT/STDERR and forward signals", short="a"),
        DETACH_KEYS,
        Flag("interactive", "Attach container's STDIN", short="i"),
        Flag("sig-proxy", "Proxy received signals to the process", default="true", hidden=True),
    ),
)

"""``run``: create a container, start it, and stay with it until it ends."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from lamella.cli.command import Command
from lamella.cli.commands.create import NETWORK_NOTE, make_container
from lamella.cli.common import DETACH_KEYS
from lamella.cli.flags import Flag, Values
from lamella.cli.runflags import CREATE_FLAGS, read_options
from lamella.cli.terminal import check_terminal, client_code, client_streams
from lamella.errors import InvalidArgument

if TYPE_CHECKING:
    from lamella.cli.context import Context


def run(context: Context, flags: Values, arguments: list[str]) -> int:
    """Run a command in a new container; the exit code is its own."""
    detach = flags.on("detach")
    if detach and flags.many("attach"):
        raise InvalidArgument("Conflicting options: -a and -d")
    options = read_options(context, flags, attach=not detach)
    if not detach:
        check_terminal(tty=options.tty, stdin=options.stdin)
    container = make_container(context, flags, arguments[0], arguments[1:], options)
    if detach:
        container.start()
        context.output.line(container.id)
        return 0
    sys.stdout.flush()
    code = container.run(
        client_streams(flags.many("attach"), stdin=options.stdin),
        detach_keys=flags.text("detach-keys"),
        forward_signals=flags.on("sig-proxy"),
    )
    return client_code(context, code)


RUN = Command(
    usage="[OPTIONS] IMAGE [COMMAND] [ARG...]",
    run=run,
    least=1,
    interspersed=False,
    failure=125,
    notes=NETWORK_NOTE,
    completes="image",
    flags=(
        *CREATE_FLAGS,
        Flag("detach", "Run container in background and print container ID", short="d"),
        DETACH_KEYS,
        Flag("sig-proxy", "Proxy received signals to the process", default="true"),
    ),
)

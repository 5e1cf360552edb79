"""``login`` and ``logout``: credentials for a registry, tried and kept, or forgotten."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from lamella.cli.command import Command
from lamella.cli.flags import Flag, Values
from lamella.cli.registries import AUTH_FLAGS, read_registries
from lamella.errors import InvalidArgument

if TYPE_CHECKING:
    from lamella.cli.context import Context

#: What Docker calls Docker Hub here.
_HUB = "https://index.docker.io/v1/"
_PASSWORD_LIMIT = 64 << 10


def run_login(context: Context, flags: Values, arguments: list[str]) -> int:
    """Ask for what is missing, try it on the registry, keep it where Docker would."""
    from lamella.engine.registries import login, registry_host

    registry = arguments[0] if arguments else ""
    registries = read_registries(context, flags, registry_host(registry))
    username = flags.text("username")
    if flags.on("password-stdin"):
        if not username:
            raise InvalidArgument("must provide --username with --password-stdin")
        password = sys.stdin.buffer.read(_PASSWORD_LIMIT).decode("utf-8", "surrogateescape").rstrip("\r\n")
    else:
        if not sys.stdin.isatty():
            raise InvalidArgument("cannot perform an interactive login from a non TTY device; use --password-stdin")
        from getpass import getpass

        context.output.flush()
        username = username or input("Username: ").strip()
        password = getpass("Password: ")
    if not username or not password:
        raise InvalidArgument("username and password must not be empty")
    kept = login(registry, username, password, registries)
    if kept is not None:
        context.warn(f"WARNING! Your credentials are stored unencrypted in '{kept}'; a credential helper would not.")
    context.output.line("Login Succeeded")
    return 0


def run_logout(context: Context, flags: Values, arguments: list[str]) -> int:
    """Forget the credentials; not having any is no failure."""
    from lamella.engine.registries import logout, registry_host

    registry = arguments[0] if arguments else ""
    host = registry_host(registry)
    shown = _HUB if host == "docker.io" else host
    if logout(registry, read_registries(context, flags)):
        context.output.line(f"Removing login credentials for {shown}")
    else:
        context.output.line(f"Not logged in to {shown}")
    return 0


LOGIN = Command(
    usage="[OPTIONS] [SERVER]",
    run=run_login,
    most=1,
    notes="Without SERVER the registry is Docker Hub. A password is taken from the terminal or standard input only.",
    flags=(
        *AUTH_FLAGS,
        Flag("password-stdin", "Take the password from stdin"),
        Flag("username", "Username", short="u", kind="string"),
    ),
)
LOGOUT = Command(usage="[SERVER]", run=run_logout, most=1, flags=AUTH_FLAGS)

"""``ui``: the store as a page in the browser."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from lamella.cli.command import Command
from lamella.cli.flags import Flag, UsageError, Values
from lamella.errors import PermissionDenied

if TYPE_CHECKING:
    from lamella.cli.context import Context


def run(context: Context, flags: Values, _arguments: list[str]) -> int:
    """Serve the page until interrupted."""
    from pathlib import Path

    from lamella.ui.serving import serve

    root = Path(flags.text("root")).absolute() if flags.given("root") else context.root
    port = flags.number("port") or 0
    if not 0 <= port <= 65535:
        raise UsageError(f"--port: {port} is no port (0 to 65535)", code=1)
    if os.geteuid() != 0:
        raise PermissionDenied(f"root is needed for the store at {root}; run it with sudo")
    with _opener(context, wanted=not flags.on("no-open")) as show:

        def ready(address: str) -> None:
            context.output.line(f"{root} is shown at {address}")
            context.output.line("Whoever has this address can see the store; press Ctrl-C to end it.")
            context.output.flush()
            show(address)

        serve(root, port=port, ready=ready)
    return 0


class _Shower:
    """Opens the page in the user's browser, if there is one to be seen."""

    def __init__(self, directory: str) -> None:
        self._directory = directory

    def __call__(self, address: str) -> None:
        if not self._directory:
            return
        import webbrowser

        # The command line of the browser is everyone's to read, so the address goes by a file that is ours alone.
        path = os.path.join(self._directory, "lamella.html")
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(fd, "w", encoding="utf-8") as file:
            file.write(f'<!doctype html><meta http-equiv="refresh" content="0; url={address}"><title>lamella</title>')
        webbrowser.open(f"file://{path}")


@contextmanager
def _opener(context: Context, *, wanted: bool) -> Generator[_Shower]:
    """Give what shows the page; under sudo nothing is opened, as the browser would run as root."""
    seen = context.environment.get("DISPLAY") or context.environment.get("WAYLAND_DISPLAY")
    if not wanted or not seen or context.environment.get("SUDO_UID"):
        yield _Shower("")
        return
    import tempfile

    with tempfile.TemporaryDirectory(prefix="lamella-ui-") as directory:
        yield _Shower(directory)


UI = Command(
    usage="[OPTIONS]",
    run=run,
    most=0,
    notes=(
        "The page is served by this process, to this machine alone, at an address with a secret in it. It shows any "
        "store that lamella can read, also one in use, follows it as it changes, and changes nothing."
    ),
    flags=(
        Flag("no-open", "Only print the address, open no browser"),
        Flag("port", "Port to listen on (0: any that is free)", kind="int", default="0"),
        Flag("root", "The store to show", kind="string"),
    ),
)

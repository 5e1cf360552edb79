"""What every command is given: the global options, the streams, and the store when it is asked for.

The environment is read here and nowhere below: ``LAMELLA_ROOT`` names the store if ``--root`` does not.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from lamella.cli.flags import Values
from lamella.cli.output import Output
from lamella.errors import PermissionDenied

if TYPE_CHECKING:
    from pathlib import Path

    from lamella.engine.looking import Look
    from lamella.engine.store import Store

DEFAULT_ROOT = "/var/lib/lamella"


class Context:
    """One invocation of the command line."""

    def __init__(self, options: Values, environment: dict[str, str]) -> None:
        self.options = options
        self.environment = environment
        self.output = Output(sys.stdout.buffer)
        self._store: Store | None = None

    @property
    def root(self) -> Path:
        """The store's directory."""
        from pathlib import Path

        if self.options.given("root"):
            return Path(self.options.text("root")).absolute()
        return Path(self.environment.get("LAMELLA_ROOT") or DEFAULT_ROOT).absolute()

    def store(self) -> Store:
        """Return the store, opened once and closed with the invocation."""
        if self._store is None:
            if os.geteuid() != 0:
                raise PermissionDenied(f"root is needed for the store at {self.root} and its mounts; run it with sudo")
            from lamella.engine.store import Store

            self._store = Store.open(
                self.root,
                driver=self.options.text("storage-driver") or None,
                runtime=self.options.text("runtime") or None,
                state=self.options.text("state") or None,
            )
        return self._store

    def look(self) -> Look:
        """Open the store at the root for looking only, of whatever engine it is."""
        from lamella.engine.looking import look

        return look(self.root)

    def close(self) -> None:
        """Close the store and hand all output on."""
        if self._store is not None:
            self._store.close()
            self._store = None
        self.output.flush()

    def warn(self, text: str) -> None:
        """Say something on standard error, one line, escaped on a terminal."""
        print_error(text)


def print_error(text: str) -> None:
    """Write one line to standard error; foreign text in it cannot steer the terminal."""
    from lamella.cli.output import escape

    sys.stdout.flush()
    line = escape(text, keep="\n\t") if sys.stderr.isatty() else text
    sys.stderr.buffer.write(line.encode("utf-8", "surrogateescape") + b"\n")
    sys.stderr.flush()

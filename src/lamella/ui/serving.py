"""Starting the page's server and letting it run until it is told to stop."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

from lamella.errors import InUse


def serve(root: Path, *, port: int, ready: Callable[[str], None]) -> None:
    """Serve the page of the store at *root* until interrupted; *ready* is called with the address once it answers.

    Raises NotFound if there is no store, InUse if the port is taken.
    """
    from lamella.ui.documents import Documents
    from lamella.ui.helper import Helper, store_answers
    from lamella.ui.server import PageServer
    from lamella.ui.snapshot import Watch

    watch = Watch(root)
    with ExitStack() as stack:
        helpers = {name: stack.enter_context(Helper(answer)) for name, answer in store_answers(root).items()}
        try:
            server = PageServer(Documents(watch), helpers, port=port)
        except OSError as error:
            raise InUse(f"port {port} of this machine cannot be had ({error.strerror}); choose another") from error
        with server:
            ready(server.address)
            with suppress(KeyboardInterrupt):
                server.serve_forever()

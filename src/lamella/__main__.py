"""``python -m lamella``: the command line."""

from __future__ import annotations

import gc
import os
import sys
from contextlib import suppress
from typing import NoReturn

_COLLECT_AFTER = 50_000
"""Objects made before garbage is looked for.  A command lives shortly and makes few cycles: with the interpreter's own
700 a tenth of its time goes into looking at modules that have just been loaded."""


def main() -> NoReturn:
    """Run the command line on this process's arguments and exit with its code."""
    gc.set_threshold(_COLLECT_AFTER, 10, 10)
    _fill_descriptors()
    from lamella.cli.main import run

    code = run(sys.argv[1:])
    with suppress(OSError):
        sys.stderr.flush()
    # All is flushed and given back by now; taking the interpreter apart would cost the user a few milliseconds more.
    os._exit(code)


def _fill_descriptors() -> None:
    """Open what the caller has closed of the three standard descriptors, lest a file of ours become one of them."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w", closefd=False)
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", closefd=False)


if __name__ == "__main__":
    main()

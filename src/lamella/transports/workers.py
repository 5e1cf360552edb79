"""Work on many things at a time, in threads: one failure or an interrupt ends it all."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import TypeVar

T = TypeVar("T")


def for_each(
    items: Iterable[T], work: Callable[[T], object], *, parallel: int, name: str, stop: Callable[[], object]
) -> None:
    """Call *work* for every item, *parallel* at a time, in threads called after *name*; return when all are done.

    The first failure, or an interrupt of the caller, starts nothing new and calls *stop*, which is to end what is
    under way; when that has ended it is raised here.  What the others then failed of is nobody's concern.
    """
    waiting = list(items)
    waiting.reverse()
    guard = threading.Lock()
    failures: list[BaseException] = []

    def run() -> None:
        try:
            while True:
                with guard:
                    if failures or not waiting:
                        return
                    item = waiting.pop()
                work(item)
        except BaseException as error:  # noqa: BLE001  (raised again in the caller's thread)
            fail(error)

    def fail(error: BaseException) -> None:
        with guard:
            first = not failures
            failures.append(error)
        if first:
            stop()

    # As daemons they do not keep a process alive that is interrupted a second time.
    threads = [
        threading.Thread(target=run, name=f"{name}-{n}", daemon=True)
        for n in range(min(max(1, parallel), len(waiting)))
    ]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    except BaseException as error:
        fail(error)
        for thread in threads:
            if thread.ident is not None:
                thread.join()
        raise
    if failures:
        raise failures[0]

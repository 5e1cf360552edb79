"""Carrying out stages that need one another: each as soon as those it needs are done, several at a time in threads."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import cached_property
from typing import TYPE_CHECKING

from lamella.errors import Cancelled

if TYPE_CHECKING:
    from queue import SimpleQueue
    from threading import Thread

_PAUSE = 0.05


class NeedsStages(Exception):
    """A stage found out that it needs others too: it is begun again once they are done."""

    def __init__(self, needs: Mapping[int, set[int]]) -> None:
        super().__init__(needs)
        self.needs = needs
        """Those stages and what they need in turn, all named."""


def default_jobs() -> int:
    """Give how many stages are built at once if nobody says: as many as there are processors, and at least two."""
    return max(2, len(os.sched_getaffinity(0)))


def can_overlap(needs: Mapping[int, AbstractSet[int]]) -> bool:
    """Tell whether two of these stages could be built at the same time."""
    done: set[int] = set()
    while len(done) < len(needs):
        ready = {index for index in needs if index not in done and needs[index] <= done}
        if len(ready) != 1:
            return True
        done |= ready
    return False


class StageGraph:
    """The stages of one build on their way.

    A stage that is alone is carried out by the calling thread.  The first failure, or an exception in the calling
    thread, stops the others: `stopped` is set, which they look at before each step, and `end` is called, again and
    again, until none is left.
    """

    def __init__(self, needs: Mapping[int, set[int]], *, jobs: int | None, end: Callable[[], None]) -> None:
        """Take the stages, each with those it needs; `jobs` is how many go at once, 0 any number, None the default."""
        self.needs = {index: set(needs[index]) for index in needs}
        self.stopped = False
        self._jobs = default_jobs() if jobs is None else jobs or 1 << 16
        self._end = end
        self._done: set[int] = set()
        self._running: dict[int, Thread] = {}

    @property
    def parallel(self) -> bool:
        """Whether stages may be built beside one another."""
        return self._jobs > 1 and can_overlap(self.needs)

    def check(self) -> None:
        """Raise Cancelled once another stage has failed."""
        if self.stopped:
            raise Cancelled("another stage of the build failed")

    def run(self, work: Callable[[int], None]) -> None:
        """Call `work` for each stage; it raises NeedsStages before it has done anything, if at all.

        Raises the first failure; each later one is a note of it.
        """
        try:
            while self._done != self.needs.keys():
                ready = self._ready()
                if not self._running and (len(ready) == 1 or self._jobs == 1):
                    self._take(ready[0], _attempt(work, ready[0]))
                else:
                    self._start(ready, work)
                    self._take(*self._ends.get())
        except BaseException as failure:
            self.stopped = True
            self._drain(failure)
            raise

    @cached_property
    def _ends(self) -> SimpleQueue[tuple[int, BaseException | None]]:
        """What threads put in at their end: the stage, and what it failed with."""
        from queue import SimpleQueue

        return SimpleQueue()

    def _ready(self) -> list[int]:
        return [
            index
            for index in sorted(self.needs)
            if index not in self._done and index not in self._running and self.needs[index] <= self._done
        ]

    def _start(self, ready: Sequence[int], work: Callable[[int], None]) -> None:
        """Start threads for what is ready, as far as there is room."""
        from threading import Thread

        ends = self._ends

        for index in ready[: max(0, self._jobs - len(self._running))]:

            def carry_out(index: int = index) -> None:
                ends.put((index, _attempt(work, index)))

            thread = Thread(target=carry_out, name=f"lamella-stage-{index}", daemon=True)
            self._running[index] = thread
            thread.start()

    def _take(self, index: int, problem: BaseException | None) -> None:
        self._running.pop(index, None)
        if isinstance(problem, NeedsStages):
            for other, its_needs in problem.needs.items():
                self.needs.setdefault(other, set(its_needs))
            self.needs[index] |= problem.needs.keys()
        elif problem is not None:
            raise problem
        else:
            self._done.add(index)

    def _drain(self, failure: BaseException) -> None:
        """Wait until no stage is carried out any more, ending what they run."""
        if not self._running:
            return
        from queue import Empty

        while self._running:
            self._end()
            try:
                index, problem = self._ends.get(timeout=_PAUSE)
            except Empty:
                # An interrupt may have taken away what a thread said at its end.
                self._running = {index: thread for index, thread in self._running.items() if thread.is_alive()}
                continue
            self._running.pop(index, None)
            if problem is not None and not isinstance(problem, Cancelled | NeedsStages):
                notes = [str(problem), *getattr(problem, "__notes__", [])]
                failure.add_note(f"another stage failed too: {'; '.join(notes)}")


def _attempt(work: Callable[[int], None], index: int) -> BaseException | None:
    try:
        work(index)
    except BaseException as problem:  # noqa: BLE001  (raised where the stages are waited for)
        return problem
    return None

"""Work in threads: all of it is done, or the first failure ends the rest and is what the caller gets."""

from __future__ import annotations

import signal
import threading

import pytest

from lamella.transports.workers import for_each


def never() -> None:
    raise AssertionError("nothing failed, so nothing is to be stopped")


@pytest.mark.parametrize("parallel", [-1, 1, 3, 100])
def test_every_item_is_worked_on_once_in_order_of_beginning(parallel: int) -> None:
    begun: list[int] = []
    for_each(range(20), begun.append, parallel=parallel, name="work", stop=never)
    assert sorted(begun) == list(range(20))
    if parallel <= 1:
        assert begun == list(range(20))


def test_no_more_are_at_work_than_allowed_and_all_those_at_once() -> None:
    together = threading.Barrier(3, timeout=10)
    running: set[str] = set()

    def work(_: int) -> None:
        running.add(threading.current_thread().name)
        together.wait()

    for_each(range(9), work, parallel=3, name="work", stop=never)
    assert running == {"work-0", "work-1", "work-2"}


def test_nothing_to_do_is_done() -> None:
    for_each([], lambda _: never(), parallel=3, name="work", stop=never)


def test_the_first_failure_stops_what_is_under_way_and_is_raised() -> None:
    stopped = threading.Event()
    begun: list[int] = []
    stops: list[str] = []

    def work(item: int) -> None:
        begun.append(item)
        if item == 1:
            raise ValueError("the first")
        stopped.wait(10)
        raise OSError("because it was stopped")

    def stop() -> None:
        stops.append(threading.current_thread().name)
        stopped.set()

    with pytest.raises(ValueError, match="the first"):
        for_each(range(50), work, parallel=2, name="work", stop=stop)
    assert sorted(begun) == [0, 1]
    assert len(stops) == 1


def test_an_interrupt_stops_what_is_under_way_and_waits_for_its_end() -> None:
    stopped = threading.Event()
    ended: list[int] = []

    def work(item: int) -> None:
        if item == 0:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        stopped.wait(10)
        ended.append(item)

    with pytest.raises(KeyboardInterrupt):
        for_each(range(9), work, parallel=2, name="work", stop=stopped.set)
    assert 0 in ended
    assert len(ended) <= 2

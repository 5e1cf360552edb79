"""Stages that need one another: the order they are carried out in, and what a failure does to the others."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Mapping
from queue import SimpleQueue
from typing import Any

import pytest

from lamella.build.graph import NeedsStages, StageGraph, can_overlap, default_jobs
from lamella.errors import BuildFailed, Cancelled, InvalidArgument


def graph(needs: Mapping[int, set[int]], jobs: int | None = 4, end: Callable[[], None] = lambda: None) -> StageGraph:
    return StageGraph(needs, jobs=jobs, end=end)


def test_stages_in_a_line_are_carried_out_in_order_by_the_calling_thread() -> None:
    done: list[tuple[int, threading.Thread]] = []
    graph({0: set(), 1: {0}, 4: {1}}).run(lambda index: done.append((index, threading.current_thread())))
    assert [index for index, _ in done] == [0, 1, 4]
    assert {thread for _, thread in done} == {threading.current_thread()}


def test_stages_that_do_not_need_each_other_are_under_way_at_the_same_time() -> None:
    meeting = threading.Barrier(3, timeout=30)

    def work(index: int) -> None:
        if index < 3:
            meeting.wait()

    graph({0: set(), 1: set(), 2: set(), 3: {0, 1, 2}}).run(work)


def test_a_stage_begins_when_those_it_needs_are_done_whatever_else_goes_on() -> None:
    second = threading.Event()

    def work(index: int) -> None:
        if index == 1:
            assert second.wait(30)
        elif index == 2:
            second.set()

    graph({0: set(), 1: set(), 2: {0}, 3: {1, 2}}).run(work)


@pytest.mark.parametrize("jobs", [1, 2, 3])
def test_no_more_than_so_many_are_under_way_at_once(jobs: int) -> None:
    guard = threading.Lock()
    running: set[int] = set()
    most = 0

    def work(index: int) -> None:
        nonlocal most
        with guard:
            running.add(index)
            most = max(most, len(running))
        threading.Event().wait(0.005)
        with guard:
            running.remove(index)

    graph({index: set() for index in range(8)}, jobs).run(work)
    assert most <= jobs


def test_no_number_of_jobs_is_at_least_two_and_zero_is_any() -> None:
    assert default_jobs() >= 2
    meeting = threading.Barrier(20, timeout=30)

    def meet(_index: int) -> None:
        meeting.wait()

    graph({index: set() for index in range(20)}, 0).run(meet)


def test_the_first_failure_stops_the_others_and_ends_what_they_run() -> None:
    ended = threading.Event()
    done: list[int] = []
    started = threading.Barrier(2, timeout=30)

    def work(index: int) -> None:
        if index == 0:
            started.wait()
            raise BuildFailed("exit 3", exit_code=3)
        started.wait()
        assert ended.wait(30)
        stages.check()
        done.append(index)

    stages = graph({0: set(), 1: set(), 2: {1}}, end=ended.set)
    with pytest.raises(BuildFailed, match="exit 3") as caught:
        stages.run(work)
    assert done == []
    assert getattr(caught.value, "__notes__", []) == []


def test_a_later_failure_is_mentioned_once_and_a_stopped_stage_is_not() -> None:
    ended = threading.Event()
    started = threading.Barrier(3, timeout=30)

    def work(index: int) -> None:
        started.wait()
        if index == 0:
            raise BuildFailed("exit 3", exit_code=3)
        assert ended.wait(30)
        if index == 1:
            error = InvalidArgument("no such file")
            error.add_note("step 4/9")
            raise error
        raise Cancelled("ended")

    with pytest.raises(BuildFailed) as caught:
        graph({0: set(), 1: set(), 2: set()}, end=ended.set).run(work)
    assert caught.value.__notes__ == ["another stage failed too: no such file; step 4/9"]


def test_an_interrupt_of_the_calling_thread_waits_for_the_stages_to_end() -> None:
    ended = threading.Event()
    gone: list[int] = []

    def work(index: int) -> None:
        if index == 1:
            os.kill(os.getpid(), signal.SIGINT)  # to the process, as a terminal does, not to this thread
        assert ended.wait(30)
        gone.append(index)

    with pytest.raises(KeyboardInterrupt):
        graph({0: set(), 1: set()}, end=ended.set).run(work)
    assert sorted(gone) == [0, 1]


def test_an_interrupt_in_the_moment_a_stage_ends_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted(SimpleQueue[tuple[int, BaseException | None]]):
        def get(self, *arguments: Any, **options: Any) -> tuple[int, BaseException | None]:  # type: ignore[explicit-override]
            taken = super().get(*arguments, **options)
            if not options:
                raise KeyboardInterrupt
            return taken

    stages = graph({0: set(), 1: set()})
    monkeypatch.setattr(stages, "_ends", Interrupted())
    with pytest.raises(KeyboardInterrupt):
        stages.run(lambda _: None)


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_stage_that_finds_out_that_it_needs_others_is_begun_again_after_them(jobs: int) -> None:
    done: list[int] = []

    def work(index: int) -> None:
        if index == 3 and 1 not in done:
            raise NeedsStages({0: set(), 1: {0}})
        done.append(index)

    graph({2: set(), 3: set(), 4: {2, 3}}, jobs).run(work)
    assert done.index(0) < done.index(1) < done.index(3)
    assert sorted(done) == [0, 1, 2, 3, 4]


def test_whether_stages_can_overlap() -> None:
    assert not can_overlap({0: set()})
    assert not can_overlap({0: set(), 1: {0}, 2: {0, 1}})
    assert can_overlap({0: set(), 1: set(), 2: {0, 1}})
    assert can_overlap({0: set(), 1: {0}, 2: {0}})
    assert not graph({0: set(), 1: set()}, 1).parallel

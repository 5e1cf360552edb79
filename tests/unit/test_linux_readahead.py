"""Reading ahead: nothing of it is seen but that files are in memory sooner."""

from __future__ import annotations

import os
import threading
from collections.abc import Generator
from pathlib import Path

import pytest

from lamella.linux import readahead
from lamella.linux.readahead import reading_ahead


@pytest.fixture
def directories(tmp_path: Path) -> list[str]:
    for number in range(200):
        place = tmp_path / f"{number:03}"
        place.mkdir()
        (place / "record").write_text(str(number))
    (tmp_path / "000/link").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "001/pipe")
    (tmp_path / "002/below").mkdir()
    return [*sorted(str(path) for path in tmp_path.iterdir()), str(tmp_path / "none")]


def children() -> set[str]:
    return set(Path(f"/proc/self/task/{threading.get_native_id()}/children").read_text().split())


@pytest.fixture(autouse=True)
def none_left() -> Generator[None]:
    before = children()
    yield
    assert children() == before


def test_children_read_and_are_gone_at_the_end(directories: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readahead, "_are_in_memory", lambda _: False)
    before = children()
    with reading_ahead(directories):
        assert children() > before


def test_an_error_in_the_block_leaves_no_child(directories: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readahead, "_are_in_memory", lambda _: False)
    with pytest.raises(KeyError), reading_ahead(directories):
        raise KeyError


def test_where_no_process_is_to_be_had_it_goes_without(directories: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def refused() -> int:
        raise BlockingIOError

    monkeypatch.setattr(readahead, "_are_in_memory", lambda _: False)
    monkeypatch.setattr(os, "fork", refused)
    before = children()
    with reading_ahead(directories):
        assert children() == before


def test_what_is_in_memory_already_is_not_read(directories: list[str]) -> None:
    for directory in directories:
        for path in Path(directory).glob("record"):
            path.read_bytes()
    before = children()
    with reading_ahead(directories):
        assert children() == before


def test_a_few_directories_cost_no_process(directories: list[str]) -> None:
    before = children()
    with reading_ahead(directories[:50]):
        assert children() == before

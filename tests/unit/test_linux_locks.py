"""Locks between processes."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest

from lamella.errors import Unavailable
from lamella.linux.locks import is_locked, locked, try_lock, unlock


def hold_in_child(path: Path, *, shared: bool = False) -> int:
    """Fork a process that holds *path* until it is killed, and return its id once it does."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            with locked(path, shared=shared):
                os.write(writer, b"x")
                signal.pause()
        finally:
            os._exit(1)
    os.close(writer)
    assert os.read(reader, 1) == b"x"
    os.close(reader)
    return pid


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def test_a_lock_excludes_other_processes_and_other_descriptors(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with locked(path):
        assert try_lock(path) is None
        assert try_lock(path, shared=True) is None
        assert is_locked(path)
    fd = try_lock(path)
    assert fd is not None
    unlock(fd)
    assert not is_locked(path)


def test_shared_locks_go_together(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with locked(path, shared=True), locked(path, shared=True, timeout=0):
        assert try_lock(path) is None
        assert is_locked(path)


def test_a_killed_owner_leaves_no_lock(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    pid = hold_in_child(path)
    assert is_locked(path)
    kill(pid)
    with locked(path, timeout=0):
        pass


def test_a_timeout_names_the_lock_and_how_to_see_its_holder(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with locked(path), pytest.raises(Unavailable) as caught, locked(path, timeout=0.01):
        pass
    assert str(path) in str(caught.value)
    assert f"fuser -v {path}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_waiting_ends_when_the_owner_lets_go(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    entered = threading.Event()
    order: list[str] = []

    def second() -> None:
        entered.set()
        with locked(path):
            order.append("second")

    with locked(path):
        thread = threading.Thread(target=second)
        thread.start()
        entered.wait()
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


def test_a_lock_file_removed_by_its_owner_is_not_locked_by_the_one_who_waited(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    inodes: list[tuple[int, int]] = []

    def second() -> None:
        with locked(path) as fd:
            inodes.append((os.fstat(fd).st_ino, os.stat(path).st_ino))

    with locked(path) as fd:
        thread = threading.Thread(target=second)
        thread.start()
        kept = os.dup(fd)  # keeps the inode number from being given out again
        os.unlink(path)
    thread.join()
    os.close(kept)
    (locked_inode, named_inode), *_ = inodes
    assert locked_inode == named_inode


def test_a_symbolic_link_is_not_followed_to_a_lock(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("elsewhere")
    with pytest.raises(OSError, match="link"), locked(tmp_path / "link"):
        pass
    assert not (tmp_path / "elsewhere").exists()


def test_a_forked_copy_of_the_descriptor_does_not_keep_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    reader, writer = os.pipe()
    with locked(path):
        pid = os.fork()
        if pid == 0:
            os.read(reader, 1)
            os._exit(0)
    assert not is_locked(path)
    os.write(writer, b"x")
    os.waitpid(pid, 0)
    os.close(reader)
    os.close(writer)


def test_a_missing_lock_file_is_not_locked_and_not_made_by_asking(tmp_path: Path) -> None:
    assert not is_locked(tmp_path / "lock")
    assert not (tmp_path / "lock").exists()

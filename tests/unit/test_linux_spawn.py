"""Running programs."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from lamella.errors import Unavailable
from lamella.linux import spawn
from lamella.linux.mount import Mount, mounted
from lamella.linux.spawn import Completed, find_tool, run, start


def test_a_program_gets_only_the_environment_it_is_given() -> None:
    assert run(["/usr/bin/env"], env={"A": "1"}) == Completed(0, b"A=1\n", b"")
    assert run(["/usr/bin/env"], env={}).stdout == b""


def test_input_output_errors_and_code_are_bytes() -> None:
    script = "cat; echo problem >&2; exit 7"
    assert run(["/bin/sh", "-c", script], env={}, stdin=b"\xff\x00") == Completed(7, b"\xff\x00", b"problem\n")
    assert run(["/bin/cat"], env={}).stdout == b""


def test_a_signal_shows_as_a_negative_code() -> None:
    assert run(["/bin/sh", "-c", "kill -9 $$"], env={}).code == -signal.SIGKILL


def test_descriptors_reach_a_program_only_by_name(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("x")
    fd = os.open(tmp_path / "f", os.O_RDONLY)
    os.set_inheritable(fd, True)
    other = os.dup(fd)
    os.set_inheritable(other, True)
    try:
        script = f"cat /proc/self/fd/{fd}; test -e /proc/self/fd/{other} && echo leaked; true"
        assert run(["/bin/sh", "-c", script], env={}, pass_fds=(fd,)).stdout == b"x"
    finally:
        os.close(fd)
        os.close(other)


def test_a_mount_can_be_hidden_from_one_program(tmp_path: Path) -> None:
    with mounted(Mount("tmpfs", "hidden"), tmp_path):
        (tmp_path / "f").touch()
        reads, writes = os.pipe()
        with os.fdopen(reads) as seen:
            with spawn.start_without(tmp_path, ["/bin/ls", str(tmp_path)], env={}, stdout=writes) as program:
                os.close(writes)
                assert program.wait() == 0
            assert seen.read() == ""
        assert (tmp_path / "f").exists()


def test_a_program_is_not_started_if_the_mount_is_missing(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="Invalid argument"):
        spawn.start_without(tmp_path, ["/bin/true"], env={})


def test_a_descriptor_can_be_the_input(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("from a file")
    with (tmp_path / "f").open("rb") as file:
        assert run(["/bin/cat"], env={}, stdin=file.fileno(), cwd=tmp_path).stdout == b"from a file"


def test_a_program_that_does_not_end_is_killed() -> None:
    with pytest.raises(Unavailable, match=r"did not finish within 0\.05 s"):
        run(["/bin/sleep", "600"], env={}, timeout=0.05, start_new_session=True)


def test_a_missing_program_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match=r"^no-such is not installed; install it with: apt-get install such$"):
        find_tool("no-such", package="such")
    with pytest.raises(Unavailable, match="cannot be run: no such program"):
        run(["/no/such"], env={})
    with pytest.raises(FileNotFoundError):
        run(["/bin/true"], env={}, cwd=tmp_path / "missing")


def test_tools_are_searched_in_the_path_given_and_never_in_relative_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / "tool"
    tool.write_text("#!/bin/sh\n")
    tool.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    assert find_tool("tool", package="p", path=f"/bin:{tmp_path}") == str(tool)
    with pytest.raises(Unavailable):
        find_tool("tool", package="p", path=":.:")
    assert os.path.isabs(find_tool("sh", package="dash"))


def test_a_started_program_streams() -> None:
    with start(["/bin/cat"], env={}, stdin=spawn.PIPE, stdout=spawn.PIPE, start_new_session=True) as program:
        assert program.stdin is not None
        assert program.stdout is not None
        program.stdin.write(b"a")
        program.stdin.close()
        assert program.stdout.read() == b"a"
        assert os.getsid(program.pid) == program.pid
    assert program.returncode == 0

"""Containers without a monitor, as build steps run them."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Generator
from pathlib import Path

import pytest

from lamella.errors import CommandNotExecutable, CommandNotFound
from lamella.model.ids import ContainerID, new_container_id
from lamella.runtime.foreground import run_foreground
from lamella.runtime.machine import read_machine
from lamella.runtime.oci_cli import OCIRuntime
from lamella.runtime.rundir import RunDirectory
from lamella.runtime.spec import Sandbox, build_spec
from tests.support.containers import eventually


@pytest.fixture(params=["crun", "runc"])
def runtime(request: pytest.FixtureRequest) -> Generator[OCIRuntime]:
    with tempfile.TemporaryDirectory(prefix="lamella-state-", dir="/run") as state:
        yield OCIRuntime.find(Path(state) / "oci", request.param)
        assert [name for name in os.listdir(state) if name != "oci"] == []


def run(runtime: OCIRuntime, rootfs: Path, *args: str, name: ContainerID | None = None) -> tuple[int, bytes, bytes]:
    box = Sandbox(id=name or new_container_id(), root=str(rootfs), args=args, env=("PATH=/bin",), readonly=True)
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        code = run_foreground(
            runtime,
            RunDirectory(runtime.state.parent, box.id),
            build_spec(box, read_machine()),
            stdout=out.fileno(),
            stderr=err.fileno(),
        )
        out.seek(0)
        err.seek(0)
        return code, out.read(), err.read()


def test_streams_and_exit_code_are_the_commands(runtime: OCIRuntime, busybox_rootfs: Path) -> None:
    assert run(runtime, busybox_rootfs, "sh", "-c", "echo o; echo e >&2; cat; exit 7") == (7, b"o\n", b"e\n")
    assert run(runtime, busybox_rootfs, "sh", "-c", "exit 255")[0] == 255
    assert run(runtime, busybox_rootfs, "sh", "-c", "sh -c 'kill -9 $$'; exit $?")[0] == 137


def test_a_command_that_cannot_run_is_told_from_one_that_fails(runtime: OCIRuntime, busybox_rootfs: Path) -> None:
    with pytest.raises(CommandNotFound):
        run(runtime, busybox_rootfs, "no-such-command")
    with pytest.raises(CommandNotExecutable):
        run(runtime, busybox_rootfs, "/etc/passwd")
    assert list(runtime.state.glob("[0-9a-f]*")) == []


def test_an_interrupted_call_takes_the_container_with_it(
    runtime: OCIRuntime, busybox_rootfs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = new_container_id()
    pid_file = RunDirectory(runtime.state.parent, name).pid_file
    seen: list[int] = []

    def interrupted(program: subprocess.Popen[bytes], *_: object, **__: object) -> int:
        eventually(lambda: pid_file.exists() and pid_file.read_text())
        seen.append(int(pid_file.read_text()))
        monkeypatch.undo()
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess.Popen, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(runtime, busybox_rootfs, "sleep", "1000", name=name)
    assert seen
    eventually(lambda: not Path(f"/proc/{seen[0]}").exists())


CALLER = """
import sys
from pathlib import Path
from lamella.runtime.foreground import run_foreground
from lamella.runtime.machine import read_machine
from lamella.runtime.oci_cli import OCIRuntime
from lamella.runtime.rundir import RunDirectory
from lamella.runtime.spec import Sandbox, build_spec
state, program, root, name = sys.argv[1:]
box = Sandbox(id=name, root=root, args=("sleep", "1000"), env=("PATH=/bin",), readonly=True)
run_foreground(OCIRuntime(program, Path(state) / "oci"), RunDirectory(Path(state), name), build_spec(box, read_machine()))
"""


def test_what_a_killed_caller_left_is_ended_by_the_next(runtime: OCIRuntime, busybox_rootfs: Path) -> None:
    name, state = new_container_id(), runtime.state.parent
    left = RunDirectory(state, name)
    caller = subprocess.Popen([sys.executable, "-c", CALLER, str(state), runtime.program, str(busybox_rootfs), name])
    eventually(lambda: left.pid_file.exists() and left.pid_file.read_text())
    pid = int(left.pid_file.read_text())
    caller.kill()
    caller.wait()
    assert Path(f"/proc/{pid}").exists()
    assert run(runtime, busybox_rootfs, "true")[0] == 0
    eventually(lambda: not Path(f"/proc/{pid}").exists())


def test_several_at_once(runtime: OCIRuntime, busybox_rootfs: Path) -> None:
    codes: list[int] = []
    threads = [
        threading.Thread(target=lambda n=n: codes.append(run(runtime, busybox_rootfs, "sh", "-c", f"exit {n}")[0]))
        for n in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(codes) == list(range(6))

"""Containers from creation to removal, with the real runtime, monitor and overlay."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Generator
from pathlib import Path

import pytest

from lamella.container import ending, freezing, lifecycle
from lamella.container.ending import clean_up, remove_container
from lamella.container.lifecycle import kill_container, start_container, stop_container, wait_container
from lamella.container.session import iter_logs, run_attached
from lamella.container.state import State
from lamella.container.status import live_exit_code, live_state, recorded_state
from lamella.errors import AlreadyExists, CommandNotExecutable, CommandNotFound, Conflict, InvalidArgument, NotFound
from lamella.linux.mountinfo import is_mounted, read_mountinfo
from lamella.model.containerconfig import HostConfig
from lamella.model.gojson import ZERO_TIME
from lamella.model.imageconfig import ContainerSettings
from lamella.runtime.attach import Streams
from lamella.runtime.rundir import is_running
from tests.support.containers import Yard, eventually, opened_yard, processes_naming


@pytest.fixture
def yard(store_root: Path, base_tar: Path) -> Generator[Yard]:
    with opened_yard(store_root, base_tar) as made:
        yield made


def mounts_of(yard: Yard) -> list[str]:
    return [entry.target for entry in read_mountinfo() if str(entry.target).startswith(str(yard.root))]


def test_a_container_runs_and_its_exit_code_and_output_arrive(yard: Yard) -> None:
    container = yard.create("sh", "-c", "echo out; echo err >&2; exit 3")
    assert yard.run(container) == (3, b"out\n", b"err\n")
    record = yard.record(container)
    assert recorded_state(record) is State.EXITED
    assert record.exit_code == 3
    assert record.pid == 0
    assert ZERO_TIME < record.started_at <= record.finished_at
    assert mounts_of(yard) == []


def test_input_reaches_the_command_and_its_end_too(yard: Yard) -> None:
    content = os.urandom(1 << 20)
    container = yard.create("cat", open_stdin=True, stdin_once=True)
    assert yard.run(container, stdin=content) == (0, content, b"")


def test_a_container_without_stdin_reads_nothing(yard: Yard) -> None:
    assert yard.run(yard.create("cat")) == (0, b"", b"")


def test_a_new_record_is_complete_and_on_disk(yard: Yard) -> None:
    container = yard.create("sleep", "1", name="named", env=("A=b",))
    raw = json.loads((yard.root / "containers" / container.id / "config.v2.json").read_bytes())
    assert raw["Name"] == "/named"
    assert raw["Path"] == "sleep"
    assert raw["Args"] == ["1"]
    assert raw["Config"]["Env"] == ["A=b", "PATH=/bin:/usr/bin"]
    assert raw["Config"]["Hostname"] == container.id[:12]
    assert raw["Driver"] == "overlay2"
    assert raw["LogPath"] == str(yard.root / "containers" / container.id / f"{container.id}-json.log")
    assert recorded_state(yard.record(container)) is State.CREATED


def test_a_name_can_be_given_once(yard: Yard) -> None:
    yard.create("true", name="twice")
    with pytest.raises(AlreadyExists, match="already in use"):
        yard.create("true", name="twice")
    assert len(list(yard.store.containers.iter_ids())) == 1
    assert len(list((yard.root / "image/overlay2/layerdb/mounts").iterdir())) == 1


def test_a_failed_creation_leaves_nothing(yard: Yard) -> None:
    before = set(os.listdir(yard.root / "overlay2"))
    yard.store.root.path.joinpath("volumes").mkdir()
    (yard.root / "volumes" / "taken").touch()
    with pytest.raises(FileExistsError):
        yard.create("true", host=HostConfig(binds=("taken:/v",)))
    assert set(os.listdir(yard.root / "overlay2")) == before
    assert list(yard.store.containers.iter_ids()) == []
    assert mounts_of(yard) == []


def test_a_detached_container_is_cleaned_up_by_its_monitor(yard: Yard) -> None:
    container = yard.create("sh", "-c", "echo done; sleep 0.2; exit 4")
    assert start_container(yard.site, container.id)
    assert live_state(yard.site, yard.record(container)) is State.RUNNING
    eventually(lambda: not yard.record(container).running)
    assert yard.record(container).exit_code == 4
    eventually(lambda: not yard.site.run_directory(container.id).path.exists())
    assert mounts_of(yard) == []


def test_a_detached_container_that_ends_at_once_is_cleaned_up_too(yard: Yard) -> None:
    for _ in range(5):
        container = yard.create("true")
        start_container(yard.site, container.id)
        eventually(lambda: not yard.record(container).running)  # noqa: B023
        assert yard.record(container).exit_code == 0


def test_a_container_that_removes_itself_is_gone_with_its_anonymous_volumes(yard: Yard) -> None:
    container = yard.create("true", host=HostConfig(auto_remove=True), volumes=("/data",))
    assert len(list((yard.root / "volumes").iterdir())) == 1
    assert yard.run(container)[0] == 0
    assert yard.store.containers.find(container.id) is None
    assert not (yard.root / "containers" / container.id).exists()
    assert list((yard.root / "volumes").iterdir()) == []
    assert list((yard.root / "image/overlay2/layerdb/mounts").iterdir()) == []


def test_starting_again_keeps_the_file_system_and_the_log(yard: Yard) -> None:
    container = yard.create("sh", "-c", "cat /kept 2>/dev/null; echo x >> /kept")
    assert yard.run(container) == (0, b"", b"")
    assert yard.run(container) == (0, b"x\n", b"")
    assert yard.run(container) == (0, b"x\nx\n", b"")
    assert [record.text for record in iter_logs(yard.site, container.id)] == [b"x\n"] * 3
    assert not start_is_refused(yard, container.id)


def start_is_refused(yard: Yard, container: str) -> bool:
    try:
        start_container(yard.site, container)  # type: ignore[arg-type]
    except Conflict:
        return True
    wait_container(yard.site, container)  # type: ignore[arg-type]
    return False


@pytest.mark.parametrize(
    ("command", "kind", "code"),
    [
        ("no-such-command", CommandNotFound, 127),
        ("/etc", CommandNotExecutable, 126),
        ("/etc/passwd", CommandNotExecutable, 126),
    ],
)
def test_a_command_that_cannot_run_says_so_and_leaves_a_created_container(
    yard: Yard, command: str, kind: type[Exception], code: int
) -> None:
    container = yard.create(command)
    with pytest.raises(kind):
        start_container(yard.site, container.id)
    record = yard.record(container)
    assert recorded_state(record) is State.CREATED
    assert record.exit_code == code
    assert record.state["Error"]
    assert mounts_of(yard) == []
    assert not yard.site.run_directory(container.id).path.exists()
    eventually(lambda: not processes_naming(container.id))


def test_the_runtime_can_be_runc(store_root: Path, base_tar: Path) -> None:
    with opened_yard(store_root, base_tar, runtime="runc") as yard:
        container = yard.create("sh", "-c", "id -u; exit 5")
        assert yard.run(container) == (5, b"0\n", b"")
        with pytest.raises(CommandNotFound):
            start_container(yard.site, yard.create("no-such-command").id)


def test_stop_sends_the_containers_own_signal_and_waits(yard: Yard) -> None:
    container = yard.create(
        "sh", "-c", "trap 'echo bye; exit 7' USR1; echo ready; while :; do sleep 0.05; done", stop_signal="SIGUSR1"
    )
    start_container(yard.site, container.id)
    eventually(lambda: list(iter_logs(yard.site, container.id)))
    assert stop_container(yard.site, container.id)
    assert yard.record(container).exit_code == 7
    assert [record.text for record in iter_logs(yard.site, container.id)] == [b"ready\n", b"bye\n"]
    assert not stop_container(yard.site, container.id)


def test_stop_kills_what_does_not_listen(yard: Yard) -> None:
    container = yard.create("sh", "-c", "trap '' TERM; while :; do sleep 1; done")
    start_container(yard.site, container.id)
    stop_container(yard.site, container.id, 0)
    assert yard.record(container).exit_code == 137
    assert recorded_state(yard.record(container)) is State.EXITED


def test_kill_sends_any_signal_and_the_exit_code_tells(yard: Yard) -> None:
    container = yard.create("sh", "-c", "trap 'exit 9' HUP; echo; while :; do sleep 0.05; done")
    start_container(yard.site, container.id)
    eventually(lambda: list(iter_logs(yard.site, container.id)))
    kill_container(yard.site, container.id, "HUP")
    assert wait_container(yard.site, container.id) == 9
    with pytest.raises(Conflict, match="is not running"):
        kill_container(yard.site, container.id)


def test_several_may_wait_and_all_get_the_code(yard: Yard) -> None:
    container = yard.create("sh", "-c", "sleep 0.3; exit 6")
    start_container(yard.site, container.id)
    codes: list[int] = []
    threads = [threading.Thread(target=lambda: codes.append(wait_container(yard.site, container.id))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert codes == [6, 6, 6, 6]
    assert wait_container(yard.site, container.id) == 6


def test_pause_freezes_and_a_paused_container_can_be_killed(yard: Yard) -> None:
    container = yard.create("sh", "-c", "while :; do echo tick; sleep 0.01; done")
    start_container(yard.site, container.id)
    eventually(lambda: list(iter_logs(yard.site, container.id)))
    freezing.pause_container(yard.site, container.id)
    assert live_state(yard.site, yard.record(container)) is State.PAUSED
    with pytest.raises(Conflict, match="already paused"):
        freezing.pause_container(yard.site, container.id)
    with pytest.raises(Conflict, match="paused"):
        remove_container(yard.site, container.id)
    freezing.unpause_container(yard.site, container.id)
    freezing.pause_container(yard.site, container.id)
    kill_container(yard.site, container.id)
    assert yard.record(container).exit_code == 137
    assert recorded_state(yard.record(container)) is State.EXITED


def test_removal_needs_force_while_it_runs(yard: Yard) -> None:
    container = yard.create("sleep", "1000", volumes=("/v",))
    start_container(yard.site, container.id)
    with pytest.raises(Conflict, match="container is running"):
        remove_container(yard.site, container.id)
    assert live_state(yard.site, yard.record(container)) is State.RUNNING
    remove_container(yard.site, container.id, force=True)
    assert yard.store.containers.find(container.id) is None
    assert mounts_of(yard) == []
    assert len(list((yard.root / "volumes").iterdir())) == 1
    eventually(lambda: not processes_naming(container.id))
    with pytest.raises(NotFound):
        remove_container(yard.site, container.id)


def test_removal_that_was_cut_off_goes_on(yard: Yard) -> None:
    container = yard.create("true")
    record = yard.record(container)
    record.state["Dead"] = True
    yard.store.containers.write(record)
    yard.store.rwlayers.remove(yard.store.rwlayers.get(container.id))
    with pytest.raises(Conflict, match="marked for removal"):
        start_container(yard.site, container.id)
    remove_container(yard.site, container.id)
    assert yard.store.containers.find(container.id) is None


def test_a_kill_of_monitor_and_process_is_found_and_recorded_as_255(yard: Yard) -> None:
    container = yard.create("sleep", "1000")
    start_container(yard.site, container.id)
    identity = yard.site.run_directory(container.id).read_identity()
    assert identity is not None
    os.kill(identity.monitor, signal.SIGKILL)
    os.kill(identity.pid, signal.SIGKILL)
    eventually(lambda: not yard.site.run_directory(container.id).is_alive())
    record = yard.record(container)
    assert record.running
    assert live_state(yard.site, record) is State.EXITED
    assert live_exit_code(yard.site, record) == 255
    start_container(yard.site, container.id)
    assert live_state(yard.site, yard.record(container)) is State.RUNNING
    remove_container(yard.site, container.id, force=True)
    assert mounts_of(yard) == []


def test_a_container_outlives_its_monitor_and_can_still_be_stopped(yard: Yard) -> None:
    container = yard.create("sleep", "1000")
    start_container(yard.site, container.id)
    identity = yard.site.run_directory(container.id).read_identity()
    assert identity is not None
    os.kill(identity.monitor, signal.SIGKILL)
    assert live_state(yard.site, yard.record(container)) is State.RUNNING
    stop_container(yard.site, container.id, 0)
    assert recorded_state(yard.record(container)) is State.EXITED
    assert yard.record(container).exit_code == 255


def test_a_restart_of_the_machine_turns_running_into_exited(yard: Yard) -> None:
    container = yard.create("true")
    record = yard.record(container)
    record.state.update(Running=True, Pid=4194303, StartedAt="2020-01-01T00:00:00Z")
    yard.store.containers.write(record)
    assert live_state(yard.site, record) is State.EXITED
    clean_up(yard.site, container.id)
    assert recorded_state(yard.record(container)) is State.EXITED
    assert yard.record(container).exit_code == 255


def test_a_start_that_was_killed_before_it_was_recorded_is_taken_back(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    container = yard.create("sleep", "1000")

    class Killed(BaseException):
        pass

    def die(*_: object, **__: object) -> None:
        raise Killed

    monkeypatch.setattr(lifecycle, "mark_started", die)
    monkeypatch.setattr(lifecycle, "_undo_start", lambda *_, **__: None)
    with pytest.raises(Killed):
        start_container(yard.site, container.id)
    monkeypatch.undo()
    identity = yard.site.run_directory(container.id).read_identity()
    assert identity is not None
    assert recorded_state(yard.record(container)) is State.CREATED
    start_container(yard.site, container.id)
    assert live_state(yard.site, yard.record(container)) is State.RUNNING
    eventually(lambda: not is_running(identity.pid, identity.started))


def test_clean_up_may_be_cut_off_anywhere_and_done_again(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(BaseException):
        pass

    def die(*_: object, **__: object) -> None:
        raise Killed

    for step in ("settle_log", "_clear_runtime", "mark_exited"):
        container = yard.create("sh", "-c", "echo hello; exit 3")
        streams = Streams(None, None, None)
        with monkeypatch.context() as patch:
            patch.setattr(ending, step, die)
            with pytest.raises(Killed):
                run_attached(yard.site, container.id, streams)
        assert live_state(yard.site, yard.record(container)) is State.EXITED
        clean_up(yard.site, container.id)
        clean_up(yard.site, container.id)
        assert yard.record(container).exit_code == 3
        assert [record.text for record in iter_logs(yard.site, container.id)] == [b"hello\n"]
    assert mounts_of(yard) == []


def test_logs_follow_a_running_container_to_its_end(yard: Yard) -> None:
    container = yard.create("sh", "-c", "for i in 1 2 3; do echo $i; sleep 0.1; done; echo end >&2")
    start_container(yard.site, container.id)
    records = list(iter_logs(yard.site, container.id, follow=True))
    assert [(record.stream, record.text) for record in records] == [
        ("stdout", b"1\n"),
        ("stdout", b"2\n"),
        ("stdout", b"3\n"),
        ("stderr", b"end\n"),
    ]
    wait_container(yard.site, container.id)
    assert list(iter_logs(yard.site, container.id)) == records
    log = (yard.root / "containers" / container.id / f"{container.id}-json.log").read_bytes()
    assert json.loads(log.splitlines()[0]) == {
        "log": "1\n",
        "stream": "stdout",
        "time": json.loads(log.splitlines()[0])["time"],
    }


def test_no_log_is_kept_when_none_is_wanted(yard: Yard) -> None:
    from lamella.model.containerconfig import LogConfig

    container = yard.create("echo", "x", host=HostConfig(log_config=LogConfig("none")))
    assert yard.run(container) == (0, b"x\n", b"")
    with pytest.raises(Conflict, match="does not support reading"):
        list(iter_logs(yard.site, container.id))


def test_the_working_directory_is_made_and_the_user_is_the_images(yard: Yard) -> None:
    image = yard.derive(ContainerSettings(env=("PATH=/bin",), user="alice", working_dir="/a/b"))
    container = yard.create("sh", "-c", "pwd; id -un; echo $HOME", image=image)
    code, out, err = yard.run(container)
    assert (code, err) == (0, b"")
    assert out.splitlines() == [b"/a/b", b"alice", b"/home/alice"]


def test_an_unknown_user_fails_the_start_and_leaves_nothing_mounted(yard: Yard) -> None:
    container = yard.create("true", user="nobody-here")
    with pytest.raises(NotFound, match="unable to find user nobody-here"):
        start_container(yard.site, container.id)
    assert recorded_state(yard.record(container)) is State.CREATED
    assert mounts_of(yard) == []
    assert not yard.site.run_directory(container.id).path.exists()


def test_a_working_directory_among_descriptors_is_refused(yard: Yard) -> None:
    for path in ("/proc/self/fd/7", "/proc/1/fd", "/dev/fd/3", "/x/../proc/self/fd"):
        with pytest.raises(InvalidArgument, match="refused"):
            yard.create("true", working_dir=path)


def test_a_full_census_after_many_containers(yard: Yard) -> None:
    descriptors = len(os.listdir("/proc/self/fd"))
    for _ in range(10):
        assert yard.run(yard.create("true", host=HostConfig(auto_remove=True)))[0] == 0
    assert len(os.listdir("/proc/self/fd")) == descriptors
    assert mounts_of(yard) == []
    assert not is_mounted(yard.state)
    assert os.listdir(yard.state / "locks") == []
    assert sorted(os.listdir(yard.root / "lamella" / "tx")) == []
    assert list((yard.root / "image/overlay2/layerdb/mounts").iterdir()) == []

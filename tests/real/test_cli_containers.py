"""Container commands as a user runs them, with real processes in real overlays."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tarfile
import time
from collections.abc import Generator
from pathlib import Path

import pytest

from tests.conftest import mounts_below
from tests.support.cli import LAMELLA, Lamella


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, base_tar: Path) -> Generator[Lamella]:
    place = tmp_path_factory.mktemp("containers")
    store = Lamella(place / "root")
    store.run("import", "-c", 'CMD ["sh"]', str(base_tar), "base:1")
    yield store
    for container in store.run("ps", "-aq").split():
        store.run("rm", "-f", "-v", container)
    assert not mounts_below(place)


def until(holds: object) -> None:
    """Wait for *holds*, called again and again, to be true."""
    assert callable(holds)
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (["true"], 0),
        (["sh", "-c", "exit 42"], 42),
        (["nosuch"], 127),
        (["/etc/passwd"], 126),
        (["/etc"], 126),
    ],
)
def test_runs_exit_code_is_the_containers(store: Lamella, command: list[str], code: int) -> None:
    answer = store.try_run("run", "--rm", "base:1", *command)
    assert answer.returncode == code, answer.stderr
    assert len(answer.stderr.splitlines()) == (1 if code in {126, 127} else 0)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--pull", "never", "nosuch"],
        ["--network", "mynet", "base:1"],
        ["-v", "relative:x", "base:1"],
        ["--foo", "base:1"],
    ],
)
def test_lamellas_own_failure_is_125(store: Lamella, arguments: list[str]) -> None:
    before = store.run("ps", "-aq")
    assert store.try_run("run", *arguments).returncode == 125
    assert store.run("ps", "-aq") == before


def test_a_missing_image_says_what_to_do(store: Lamella) -> None:
    answer = store.try_run("run", "--pull", "never", "nosuch")
    assert "No such image: nosuch:latest" in answer.stderr
    assert "lamella pull nosuch:latest" in answer.stderr


def test_streams_are_kept_apart_and_input_is_passed_on(store: Lamella) -> None:
    answer = store.try_run("run", "--rm", "-i", "base:1", "sh", "-c", "cat; echo err >&2", stdin=b"in\x00put\n")
    assert (answer.stdout, answer.stderr) == ("in\x00put\n", "err\n")
    assert store.run("run", "--rm", "base:1", "cat") == ""


def test_much_output_arrives_whole(store: Lamella) -> None:
    answer = store.try_run("run", "--rm", "base:1", "sh", "-c", "head -c 3000000 /dev/zero | tr '\\0' x")
    assert len(answer.stdout) == 3_000_000


def test_options_reach_the_process(store: Lamella, tmp_path: Path) -> None:
    (tmp_path / "env").write_text("# comment\nFROM_FILE=1\n\nFROM_HOST\n")
    (tmp_path / "data").write_text("host data")
    script = (
        "pwd; id -u; id -g; hostname; echo $A$B$FROM_FILE$FROM_HOST; cat /mnt/data; echo; touch /mnt/data 2>/dev/null || echo ro;"
        "grep ' /t ' /proc/mounts | cut -d' ' -f3; ls /sys/class/net"
    )
    answer = subprocess.run(
        [
            LAMELLA, "--root", store.root, "run", "--rm", "-e", "A=1", "-eB=2", "-e", "FROM_HOST", "--env-file", tmp_path / "env",
            "-w", "/srv/dir", "-u", "alice:wheel", "-h", "web", "-v", f"{tmp_path}/data:/mnt/data:ro", "--tmpfs", "/t:size=1m",
            "base:1", "sh", "-c", script,
        ],
        env={**os.environ, "FROM_HOST": "yes"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    lines = ["/srv/dir", "1000", "10", "web", "121yes"]
    assert answer.stdout.splitlines() == [*lines, "host data", "ro", "tmpfs", "lo"], answer.stderr


def test_read_only_capabilities_and_limits(store: Lamella) -> None:
    script = "touch /x 2>/dev/null || echo ro; grep CapEff /proc/self/status; ulimit -n"
    lines = store.run(
        "run", "--rm", "--read-only", "--cap-drop", "ALL", "--cap-add", "CHOWN", "--ulimit", "nofile=64:64", "base:1", "sh", "-c", script
    ).splitlines()  # fmt: skip
    assert lines == ["ro", "CapEff:\t0000000000000001", "64"]


def test_exec_has_the_groups_that_the_container_was_given(store: Lamella) -> None:
    store.run(
        "run",
        "-d",
        "--name",
        "grouped",
        "-u",
        "7:8",
        "--group-add",
        "10",
        "--group-add",
        "77",
        "base:1",
        "sleep",
        "600",
    )
    try:
        assert set(store.run("exec", "grouped", "id", "-G").split()) == {"8", "10", "77"}
        assert set(store.run("exec", "-u", "alice", "grouped", "id", "-G").split()) == {"1000", "10", "77"}
    finally:
        store.run("rm", "-f", "grouped")


def test_entrypoint_replaces_and_clears_the_images_command(store: Lamella) -> None:
    assert store.run("run", "--rm", "--entrypoint", "echo", "base:1", "a", "-b") == "a -b"
    assert store.try_run("run", "--rm", "--entrypoint", "", "base:1").returncode == 125
    container = store.inspect(store.run("create", "--entrypoint", "echo", "base:1", "x"))
    assert (container["Config"]["Entrypoint"], container["Path"], container["Args"]) == (["echo"], "echo", ["x"])


def test_a_terminal_is_one_on_both_sides(store: Lamella) -> None:
    code, screen = store.on_terminal("run", "--rm", "-it", "base:1", "sh", typed="tty; stty size; exit 7\n")
    assert code == 7
    assert "/dev/pts/0" in screen
    answer = store.try_run("run", "--rm", "-it", "base:1", "true", stdin=b"")
    assert answer.returncode == 1
    assert answer.stderr == "lamella: the input device is not a TTY; leave out -t to pipe data in\n"


class Screen:
    """A command on a terminal that is typed at when it has shown something, as people do."""

    def __init__(self, store: Lamella, *arguments: str) -> None:
        self._controller, terminal = os.openpty()
        self._process = subprocess.Popen(
            [LAMELLA, "--root", store.root, *arguments],
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            start_new_session=True,
        )
        os.close(terminal)
        self._seen = b""

    def expect(self, text: str) -> None:
        """Read until *text* has been shown."""
        while text.encode() not in self._seen:
            self._seen += os.read(self._controller, 4096)

    def type(self, text: str) -> None:
        """Type *text* and forget what was shown before."""
        self._seen = b""
        os.write(self._controller, text.encode())

    def end(self) -> int:
        """Wait for the command's end and return its code."""
        try:
            while os.read(self._controller, 4096):
                pass
        except OSError:  # EIO: nobody holds the other end any more
            pass
        os.close(self._controller)
        return self._process.wait(30)


def test_the_detach_keys_leave_it_running_and_attach_comes_back(store: Lamella) -> None:
    screen = Screen(store, "run", "-it", "--name", "kept", "base:1", "sh")
    screen.expect("/ #")
    screen.type("echo o''ne\n")
    screen.expect("one")
    screen.type("\x10\x11")
    assert screen.end() == 0
    assert store.run("ps", "--format", "{{.Names}}", "-f", "name=^/kept$") == "kept"
    screen = Screen(store, "attach", "kept")
    screen.type("echo t''wo\n")
    screen.expect("two")
    screen.type("exit 5\n")
    assert screen.end() == 5
    assert store.try_run("attach", "kept").returncode == 1


def test_other_detach_keys_can_be_chosen(store: Lamella) -> None:
    screen = Screen(store, "run", "-it", "--detach-keys", "ctrl-a,x", "--name", "chosen", "base:1", "sh")
    screen.expect("/ #")
    screen.type("\x01x")
    assert screen.end() == 0
    store.run("rm", "-f", "chosen")
    assert store.try_run("run", "--detach-keys", "ctrl-", "base:1", "true").returncode == 125


def test_signals_are_passed_on(store: Lamella) -> None:
    script = "trap 'echo got; exit 3' TERM; echo ready; while :; do sleep 0.05; done"
    with subprocess.Popen(
        [LAMELLA, "--root", store.root, "run", "--rm", "base:1", "sh", "-c", script], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.stdout.read() == b"got\n"
        assert process.wait(30) == 3


def test_a_detached_container_lives_its_life(store: Lamella, tmp_path: Path) -> None:
    cid = tmp_path / "cid"
    script = "echo out; echo err >&2; sleep 1000"
    identity = store.run(
        "run", "-d", "--name", "life", "--cidfile", str(cid), "-l", "who=me", "base:1", "sh", "-c", script
    )
    assert cid.read_text() == identity
    assert store.try_run("run", "--cidfile", str(cid), "base:1").returncode == 125
    until(lambda: store.try_run("logs", "life").stderr == "err\n")
    row = json.loads(store.run("ps", "--format", "json", "-f", "label=who=me"))
    assert (row["ID"], row["Names"], row["State"], row["Image"], row["Labels"]) == (
        identity[:12],
        "life",
        "running",
        "base:1",
        "who=me",
    )
    assert row["Status"].startswith("Up ")
    assert row["Command"].startswith("\"sh -c 'echo out; ec")
    assert store.run("exec", "-e", "X=1", "-w", "/tmp", "life", "sh", "-c", "echo $X $PWD") == "1 /tmp"
    assert store.try_run("exec", "life", "sh", "-c", "exit 9").returncode == 9
    assert store.try_run("exec", "life", "nosuch").returncode == 127
    assert store.try_run("exec", "-i", "life", "cat", stdin=b"piped").stdout == "piped"
    assert store.on_terminal("exec", "-it", "life", "sh", typed="exit 4\n")[0] == 4
    assert store.run("exec", "-d", "life", "touch", "/detached") == ""
    until(lambda: store.try_run("exec", "life", "test", "-e", "/detached").returncode == 0)
    assert store.inspect("life")["State"]["Status"] == "running"
    assert store.try_run("rm", "life").returncode == 1
    store.run("rename", "life", "after")
    with subprocess.Popen([LAMELLA, "--root", store.root, "wait", "after"], stdout=subprocess.PIPE) as waiting:
        assert store.run("stop", "-t", "0", "after") == "after"
        assert waiting.communicate(timeout=30)[0] == b"137\n"
    state = store.inspect("after")["State"]
    assert (state["Status"], state["ExitCode"], state["Pid"]) == ("exited", 137, 0)
    assert store.run("ps", "-q") == "" or identity[:12] not in store.run("ps", "-q")
    assert store.run("ps", "-aq", "-f", "exited=137", "-f", "name=after") == identity[:12]
    assert store.run("logs", "after") == "out"
    assert store.run("logs", "-t", "after").partition(" ")[0].endswith("Z")
    assert store.run("logs", "--tail", "0", "after") == ""
    assert store.run("rm", "after") == "after"
    assert store.try_run("rm", "after").stderr == "lamella: No such container: after\n"


def test_unattended_ends_are_recorded_and_removed(store: Lamella) -> None:
    identity = store.run("run", "-d", "--rm", "base:1", "true")
    until(lambda: store.try_run("inspect", identity).returncode == 1)
    identity = store.run("run", "-d", "base:1", "sh", "-c", "exit 6")
    record = store.root / "containers" / identity / "config.v2.json"
    until(lambda: json.loads(record.read_text())["State"]["Running"] is False)
    assert json.loads(record.read_text())["State"]["ExitCode"] == 6
    assert not mounts_below(store.root)


def test_kill_sends_the_signal_named(store: Lamella) -> None:
    script = "trap 'exit 8' USR1; echo ready; while :; do sleep 0.05; done"
    identity = store.run("run", "-d", "base:1", "sh", "-c", script)
    until(lambda: store.run("logs", identity) == "ready")
    assert store.run("kill", "-s", "USR1", identity) == identity
    assert store.run("wait", identity) == "8"
    answer = store.try_run("kill", identity)
    assert answer.returncode == 1
    assert "is not running" in answer.stderr


def test_stop_by_another_signal(store: Lamella) -> None:
    script = "trap 'exit 8' USR1; trap '' TERM; echo ready; while :; do sleep 0.05; done"
    identity = store.run("run", "-d", "base:1", "sh", "-c", script)
    until(lambda: store.run("logs", identity) == "ready")
    store.run("stop", "-s", "USR1", identity)
    assert store.run("wait", identity) == "8"


def test_start_runs_it_again_and_follows(store: Lamella) -> None:
    identity = store.run("create", "base:1", "sh", "-c", "echo $(ls / | grep -c again); touch /again; exit 2")
    for count in (0, 1):
        answer = store.try_run("start", "-a", identity)
        assert (answer.returncode, answer.stdout) == (2, f"{count}\n")
    assert store.run("start", identity) == identity
    assert store.run("logs", "-f", identity).split() == ["0", "1", "1"]
    assert store.try_run("start", "-a", identity, identity).returncode == 1


def test_names_are_unique_and_checked(store: Lamella) -> None:
    store.run("create", "--name", "unique", "base:1")
    answer = store.try_run("create", "--name", "unique", "base:1")
    assert answer.returncode == 1
    assert 'The container name "/unique" is already in use' in answer.stderr
    assert store.try_run("create", "--name", "a b", "base:1").returncode == 1


def test_diff_commit_and_export(store: Lamella, tmp_path: Path) -> None:
    store.run(
        "run",
        "--name",
        "writer",
        "base:1",
        "sh",
        "-c",
        "echo new > /new; rm /etc/issue; mkdir /dir; echo x >> /etc/hosts",
    )
    assert store.run("diff", "writer").splitlines() == ["A /dir", "C /etc", "D /etc/issue", "A /new"]
    identity = store.run("commit", "-m", "note", "-a", "me", "-c", "ENV z=1", "writer", "written:1")
    image = store.inspect("written:1")
    assert (image["Id"], image["Author"]) == (identity, "me")
    assert "z=1" in image["Config"]["Env"]
    assert store.run("run", "--rm", "written:1", "sh", "-c", "cat /new; test -e /etc/issue || echo gone") == "new\ngone"
    archive = tmp_path / "flat.tar"
    store.run("export", "-o", str(archive), "writer")
    with tarfile.open(archive) as tar:
        names = {name.strip("./") for name in tar.getnames()}
    assert {"new", "dir", "bin/busybox"} <= names
    assert "etc/issue" not in names
    assert store.on_terminal("export", "writer", typed="")[0] == 1


def test_sizes_are_shown_on_demand(store: Lamella) -> None:
    store.run("run", "--name", "sized", "base:1", "sh", "-c", "head -c 5000 /dev/zero > /file")
    assert store.inspect("sized").get("SizeRw") is None
    container = json.loads(store.run("inspect", "-s", "sized"))[0]
    assert container["SizeRw"] == 5000
    assert container["SizeRootFs"] == 5000 + store.inspect("base:1")["Size"]
    assert "5kB (virtual " in store.run("ps", "-as", "-f", "name=sized")


def test_layers_of_a_container_end_in_its_own(store: Lamella) -> None:
    identity = store.run("create", "base:1")
    lines = store.run("explain", "-q", identity).splitlines()
    assert lines[1] == lines[2] + "-init"
    tree = store.run("explain", identity)
    assert tree.index("init layer") < tree.index("writable layer")
    assert store.inspect(identity)["GraphDriver"]["Data"]["UpperDir"] in tree


def test_cp_goes_both_ways(store: Lamella, tmp_path: Path) -> None:
    identity = store.run("create", "base:1")
    (tmp_path / "tree/sub").mkdir(parents=True)
    (tmp_path / "tree/sub/file").write_text("content")
    store.run("cp", str(tmp_path / "tree"), f"{identity}:/tmp/copy")
    store.run("cp", f"{tmp_path}/tree/.", f"{identity}:/tmp/copy/")
    store.run("cp", f"{identity}:/tmp/copy/sub/file", str(tmp_path / "back"))
    assert (tmp_path / "back").read_text() == "content"
    piped = subprocess.run(
        [LAMELLA, "--root", store.root, "cp", f"{identity}:/tmp/copy", "-"], capture_output=True, check=True
    ).stdout
    store.run("cp", "-", f"{identity}:/home", stdin=piped)
    assert "A /home/copy/sub/file" in store.run("diff", identity).splitlines()
    for pair in (("a", "b"), (f"{identity}:/a", f"{identity}:/b"), (f"{identity}:/missing", str(tmp_path))):
        assert store.try_run("cp", *pair).returncode == 1


def test_container_prune_takes_what_does_not_run(store_root: Path, base_tar: Path) -> None:
    store = Lamella(store_root)
    store.run("import", str(base_tar), "base:1")
    running = store.run("run", "-d", "base:1", "sleep", "1000")
    rest = store.run("create", "-l", "keep", "base:1", "true")
    assert rest not in store.run("container", "prune", "-f", "--filter", "label=other")
    text = store.run("container", "prune", "-f")
    assert text.startswith(f"Deleted Containers:\n{rest}\n")
    assert store.run("ps", "-aq") == running[:12]
    store.run("rm", "-f", running)


def test_log_driver_none_keeps_nothing(store: Lamella) -> None:
    identity = store.run("run", "-d", "--log-driver", "none", "base:1", "echo", "hidden")
    store.run("wait", identity)
    assert store.try_run("logs", identity).returncode == 1

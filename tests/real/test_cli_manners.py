"""What a user of docker expects of the small things: texts, exit codes, pipes that break, what is left behind."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Generator
from pathlib import Path

import pytest

from tests.conftest import mounts_below
from tests.real.test_cli_containers import until
from tests.support.cli import LAMELLA, Lamella

# More than any pipe holds, but not enough to fill a disk should nobody end it.
MUCH = "yes | head -c 50000000; sleep 999"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, base_tar: Path) -> Generator[Lamella]:
    place = tmp_path_factory.mktemp("manners")
    store = Lamella(place / "root")
    store.run("import", "-c", 'CMD ["sh"]', str(base_tar), "base:1")
    yield store
    for container in store.run("ps", "-aq").split():
        store.run("rm", "-f", "-v", container)
    assert not mounts_below(place)


@pytest.fixture
def running(store: Lamella) -> Generator[str]:
    """A container that ends at once when asked to, with code 3."""
    store.run(
        "run",
        "-d",
        "--name",
        "runs",
        "-l",
        "org.who=me",
        "base:1",
        "sh",
        "-c",
        "trap 'exit 3' TERM; while :; do :; done",
    )
    yield "runs"
    store.run("rm", "-f", "runs")


def containers(store: Lamella) -> list[str]:
    return store.run("ps", "-a", "--format", "{{.Names}}").split()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["base:1", "nosuch"], 127, 'exec: "nosuch": executable file not found in $PATH'),
        (["base:1", "/nosuch"], 127, 'exec: "/nosuch": no such file or directory'),
        (["base:1", "/etc"], 126, 'exec: "/etc": permission denied'),
        (["base:1", "/etc/passwd"], 126, 'exec: "/etc/passwd": permission denied'),
        (["-u", "nosuch", "base:1", "true"], 125, "unable to find user nosuch"),
        (["--memory", "1k", "base:1", "true"], 125, "Minimum memory limit allowed is 6MB"),
    ],
)
def test_a_start_that_fails_says_why_and_leaves_nothing_of_a_passing_container(
    store: Lamella, arguments: list[str], code: int, words: str
) -> None:
    before = containers(store)
    answer = store.try_run("run", "--rm", *arguments)
    assert answer.returncode == code
    assert words in answer.stderr
    assert len(answer.stderr.splitlines()) == 1
    assert containers(store) == before
    assert len(os.listdir(store.root / "containers")) == len(before)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["nosuch"], 127, 'exec: "nosuch": executable file not found in $PATH'),
        (["/nosuch"], 127, 'exec: "/nosuch": no such file or directory'),
        (["/etc"], 126, 'exec: "/etc": permission denied'),
    ],
)
def test_exec_of_what_cannot_run_is_said_once(
    store: Lamella, running: str, arguments: list[str], code: int, words: str
) -> None:
    answer = store.try_run("exec", running, *arguments)
    assert (answer.returncode, answer.stderr) == (code, f"lamella: {words}\n")
    answer = store.try_run("exec", "-w", "/nosuch", running, "pwd")
    assert answer.returncode == 126
    assert answer.stderr.splitlines() == ['lamella: chdir to cwd ("/nosuch") failed: no such directory']


def first_bytes(store: Lamella, *arguments: str) -> int:
    """Run a command, read a little of its output, hang up, and return its exit code."""
    process = subprocess.Popen([LAMELLA, "--root", store.root, *arguments], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.read(2) == b"y\n"
    process.stdout.close()
    return process.wait(60)


@pytest.mark.parametrize("flags", [["--rm"], ["--rm", "-t"]])
def test_a_reader_that_hangs_up_ends_a_passing_container(store: Lamella, flags: list[str]) -> None:
    before = containers(store)
    process = subprocess.Popen(
        [LAMELLA, "--root", store.root, "run", *flags, "base:1", "sh", "-c", MUCH], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.read(1) == b"y"
    process.stdout.close()
    assert process.wait(60) == 141
    until(lambda: containers(store) == before)


def test_a_reader_that_hangs_up_leaves_a_lasting_container_running(store: Lamella) -> None:
    assert (
        first_bytes(store, "run", "--name", "lasting", "base:1", "sh", "-c", "echo y; sleep 1; echo y; sleep 999")
        == 141
    )
    assert store.run("ps", "--format", "{{.Names}}", "-f", "name=lasting") == "lasting"
    store.run("rm", "-f", "lasting")


def test_a_reader_that_hangs_up_ends_exec(store: Lamella, running: str) -> None:
    assert first_bytes(store, "exec", running, "yes") == 141


def test_output_that_cannot_be_written_is_no_success(store: Lamella) -> None:
    with open("/dev/full", "wb") as full:
        answer = subprocess.run(
            [LAMELLA, "--root", store.root, "run", "--rm", "base:1", "echo", "x"], check=False, stdout=full
        )
    assert answer.returncode == 125


def test_a_closed_standard_output_is_not_taken_for_a_file_of_the_store(store: Lamella) -> None:
    line = f"{LAMELLA} --root {store.root} run --rm base:1 echo written; echo $? >&2"
    answer = subprocess.run(["sh", "-c", f"exec >&-; {line}"], check=False, capture_output=True, text=True)
    assert answer.stderr == "0\n"
    found = subprocess.run(["grep", "-rlx", "written", str(store.root)], check=False, capture_output=True, text=True)
    assert found.stdout == ""


def test_a_paused_container_runs_nothing_until_it_goes_on(store: Lamella, running: str) -> None:
    assert store.run("pause", running) == running
    assert "(Paused)" in store.run("ps", "--format", "{{.Status}}")
    assert "is paused, unpause the container" in store.try_run("exec", running, "true").stderr
    assert "is already paused" in store.try_run("pause", running).stderr
    assert store.run("unpause", running) == running
    assert store.run("exec", running, "echo", "on") == "on"
    assert store.try_run("container", "unpause", running).returncode == 1


def test_top_shows_the_containers_processes_and_no_others(store: Lamella, running: str) -> None:
    pid = str(store.inspect(running)["State"]["Pid"])
    titles, *rows = store.run("top", running).splitlines()
    assert titles.split()[:3] == ["UID", "PID", "PPID"]
    assert [row.split()[1] for row in rows] == [pid]
    assert store.run("container", "top", running, "-eo", "pid,comm").split() == ["PID", "COMMAND", pid, "sh"]
    assert store.try_run("top", running, "-eo", "comm").returncode == 1


def test_restart_starts_anew_what_runs_and_what_does_not(store: Lamella, running: str) -> None:
    first = store.inspect(running)["State"]["Pid"]
    assert store.run("restart", "-t", "5", running) == running
    second = store.inspect(running)["State"]["Pid"]
    assert second not in {0, first}
    store.run("stop", running)
    assert store.try_run("top", running).returncode == 1
    store.run("restart", running)
    assert store.inspect(running)["State"]["Running"] is True


def test_ps_takes_dockers_templates_and_filters(store: Lamella, running: str) -> None:
    assert store.run("ps", "--format", '{{.Label "org.who"}}{{.Label "no"}}') == "me"
    table = store.run("ps", "--format", 'table {{.Names}}\t{{.Label "org.who"}}').splitlines()
    assert [line.split() for line in table] == [["NAMES", "who"], [running, "me"]]
    assert json.loads(store.run("ps", "--format", "json"))["Labels"] == "org.who=me"
    assert store.run("ps", "-q", "-f", "health=none") == store.run("ps", "-q")
    assert store.run("ps", "-q", "-f", "publish=80") == ""
    answer = store.try_run("ps", "-f", "name")
    assert answer.returncode == 125
    assert "bad format of filter (expected name=value)" in answer.stderr


def test_small_refusals_are_dockers(store: Lamella, running: str) -> None:
    assert "same name as its current name" in store.try_run("rename", running, running).stderr
    answer = store.try_run("run", "--rm", "-it", "base:1", "true")
    assert answer.returncode == 1
    assert "the input device is not a TTY" in answer.stderr
    for command in (["rm", "-f", "nosuch"], ["rmi", "-f", "nosuch"]):
        answer = store.try_run(*command)
        assert answer.returncode == 0
        assert "No such" in answer.stderr


def test_details_are_set_apart_from_the_line(store: Lamella) -> None:
    store.run("run", "--name", "said", "base:1", "echo", "it")
    assert store.try_run("logs", "--details", "said").stdout == " it\n"
    store.run("rm", "said")


def test_a_commits_message_is_the_images_comment(store: Lamella) -> None:
    store.run("create", "--name", "kept", "base:1")
    store.run("commit", "-m", "as it was", "kept", "kept:1")
    assert store.inspect("kept:1")["Comment"] == "as it was"
    store.run("rm", "kept")
    store.run("rmi", "kept:1")


def test_detaching_is_said(store: Lamella) -> None:
    code, screen = store.on_terminal("run", "-it", "--name", "left", "--detach-keys", "x", "base:1", "cat", typed="x")
    assert code == 0
    assert screen.rstrip().endswith("read escape sequence")
    store.run("rm", "-f", "left")

"""Further commands in running containers, terminals, commit, export and volumes."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Generator
from pathlib import Path

import pytest

from lamella.container.commit import commit_container
from lamella.container.ending import remove_container
from lamella.container.exec import exec_container
from lamella.container.export import export_container
from lamella.container.freezing import pause_container
from lamella.container.lifecycle import kill_container, start_container, stop_container
from lamella.container.session import attach_container, iter_logs
from lamella.container.state import State
from lamella.container.status import live_state
from lamella.errors import CommandNotExecutable, CommandNotFound, Conflict, InvalidArgument, NotFound
from lamella.model.containerconfig import HostConfig
from lamella.model.imageconfig import ContainerSettings
from lamella.model.reference import parse_tagged
from lamella.runtime.attach import Streams
from lamella.store.containerdb import ContainerRecord
from tests.support.containers import Yard, eventually, opened_yard


@pytest.fixture
def yard(store_root: Path, base_tar: Path) -> Generator[Yard]:
    with opened_yard(store_root, base_tar) as made:
        yield made


@pytest.fixture
def running(yard: Yard) -> ContainerRecord:
    made = yard.create("sleep", "1000", env=("A=container",), working_dir="/tmp", user="alice")
    start_container(yard.site, made.id)
    return made


def execute(
    yard: Yard, made: ContainerRecord, *args: str, stdin: bytes | None = None, **options: object
) -> tuple[int, bytes, bytes]:
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err, tempfile.TemporaryFile() as source:
        source.write(stdin or b"")
        source.seek(0)
        streams = Streams(None if stdin is None else source.fileno(), out.fileno(), err.fileno())
        code = exec_container(yard.site, made.id, args, streams, **options)  # type: ignore[arg-type]
        out.seek(0)
        err.seek(0)
        return code, out.read(), err.read()


def test_exec_has_the_containers_user_directory_environment_and_rights(yard: Yard, running: ContainerRecord) -> None:
    code, out, err = execute(
        yard,
        running,
        "sh",
        "-c",
        "id -un; pwd; echo $A $HOME; grep -i -E 'capbnd|capeff|seccomp:' /proc/self/status; exit 5",
    )
    assert (code, err) == (5, b"")
    lines = out.decode().splitlines()
    assert lines[:3] == ["alice", "/tmp", "container /home/alice"]
    assert "CapEff:\t0000000000000000" in lines
    assert "Seccomp:\t2" in lines


def test_exec_options(yard: Yard, running: ContainerRecord) -> None:
    code, out, _ = execute(
        yard,
        running,
        "sh",
        "-c",
        "id -u; id -g; pwd; echo $A $B; cat",
        stdin=b"input",
        env=("A=exec", "B=2"),
        user="7:9",
        workdir="/etc",
    )
    assert (code, out) == (0, b"7\n9\n/etc\nexec 2\ninput")
    assert execute(yard, running, "cat") == (0, b"", b"")
    assert b"1ff" in execute(yard, running, "grep", "CapEff", "/proc/self/status", user="root", privileged=True)[1]


@pytest.mark.parametrize(
    ("command", "kind"),
    [("no-such-command", CommandNotFound), ("/etc/passwd", CommandNotExecutable), ("/etc", CommandNotExecutable)],
)
def test_exec_of_what_cannot_run(yard: Yard, running: ContainerRecord, command: str, kind: type[Exception]) -> None:
    with pytest.raises(kind):
        execute(yard, running, command)
    assert os.listdir(yard.site.run_directory(running.id).path) == os.listdir(yard.site.run_directory(running.id).path)
    assert not [name for name in os.listdir(yard.site.run_directory(running.id).path) if name.startswith("exec-")]


def test_exec_exit_codes_are_the_commands_own_even_255(yard: Yard, running: ContainerRecord) -> None:
    assert execute(yard, running, "sh", "-c", "echo complaint >&2; exit 255") == (255, b"", b"complaint\n")
    assert execute(yard, running, "sh", "-c", "kill -9 $$")[0] == 137


def test_exec_with_a_terminal_for_a_client_that_has_none(yard: Yard, running: ContainerRecord) -> None:
    code, out, _ = execute(yard, running, "sh", "-c", "tty; echo x; exit 4", terminal=True)
    assert (code, out.splitlines()[1:]) == (4, [b"x"])
    assert out.startswith(b"/dev/pts/")
    code, out, _ = execute(yard, running, "cat", stdin=b"typed\n", terminal=True)
    assert (code, out) == (0, b"typed\r\ntyped\r\n")
    with pytest.raises(CommandNotFound):
        execute(yard, running, "no-such-command", terminal=True)
    assert not [name for name in os.listdir(yard.site.run_directory(running.id).path) if name.startswith("exec-")]


def test_exec_detached_runs_on(yard: Yard, running: ContainerRecord) -> None:
    assert exec_container(yard.site, running.id, ["sh", "-c", "sleep 0.2; touch /tmp/later"], None) == 0
    eventually(lambda: execute(yard, running, "test", "-e", "/tmp/later")[0] == 0)


def test_exec_needs_a_running_container(yard: Yard, running: ContainerRecord) -> None:
    pause_container(yard.site, running.id)
    with pytest.raises(Conflict, match="paused"):
        execute(yard, running, "true")
    kill_container(yard.site, running.id)
    with pytest.raises(Conflict, match="is not running"):
        execute(yard, running, "true")
    with pytest.raises(InvalidArgument):
        exec_container(yard.site, running.id, [], None)


SHELL = """
import sys
from pathlib import Path
from lamella.container.exec import exec_container
from lamella.container.session import attach_container, run_attached
from lamella.container.site import Site
from lamella.runtime.attach import Streams
from lamella.store.imagestore import ImageStore
from tests.support.containers import CLEAN_UP
command = lambda container: (sys.executable, "-c", CLEAN_UP, sys.argv[1], sys.argv[2], container)
site = Site(ImageStore.open(Path(sys.argv[1])), Path(sys.argv[2]), exit_command=command)
streams = Streams(0, 1, 2)
if sys.argv[4] == "run":
    code = run_attached(site, sys.argv[3], streams)
elif sys.argv[4] == "attach":
    code = attach_container(site, sys.argv[3], streams)
else:
    code = exec_container(site, sys.argv[3], sys.argv[5:], streams, terminal=True)
print("code", code)
"""


class Client:
    """A client process on a terminal of its own, as a user has one."""

    def __init__(self, yard: Yard, made: ContainerRecord, *verb: str, rows: int = 33, columns: int = 99) -> None:
        import fcntl
        import struct
        import termios

        self.controller, terminal = os.openpty()
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.screen = b""
        self.program = subprocess.Popen(
            [sys.executable, "-c", SHELL, str(yard.root), str(yard.state), made.id, *verb],
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            start_new_session=True,
        )
        os.close(terminal)

    def expect(self, pattern: bytes) -> None:
        import select

        deadline = time.monotonic() + 60
        while not re.search(pattern, self.screen):
            assert time.monotonic() < deadline, self.screen
            if select.select([self.controller], [], [], 1)[0]:
                try:
                    piece = os.read(self.controller, 65536)
                except OSError:
                    piece = b""
                if not piece:
                    assert re.search(pattern, self.screen), self.screen
                self.screen += piece

    def type(self, text: bytes) -> None:
        os.write(self.controller, text)

    def resize(self, rows: int, columns: int) -> None:
        import fcntl
        import struct
        import termios

        fcntl.ioctl(self.controller, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.program.send_signal(signal.SIGWINCH)

    def close(self) -> int:
        code = self.program.wait(60)
        os.close(self.controller)
        return code


def test_a_terminal_session_feels_like_one(yard: Yard) -> None:
    made = yard.create("sh", tty=True, open_stdin=True, stdin_once=True)
    client = Client(yard, made, "run")
    client.expect(rb"[#$] ")
    client.type(b"stty size; tty; echo $TERM\r")
    client.expect(rb"33 99\r\n/dev/pts/0\r\nxterm\r\n")
    client.resize(44, 111)
    client.type(b"stty size\r")
    client.expect(rb"44 111\r\n")
    # Interrupt goes to the command in the container, not to the client.
    client.type(b"sleep 1000\r")
    time.sleep(0.2)
    client.type(b"\x03")
    client.type(b"echo still $((40+2))\r")
    client.expect(rb"still 42\r\n")
    client.type(b"exit 7\r")
    client.expect(rb"code 7\r\n")
    assert client.close() == 0


def test_detach_keys_leave_it_running_and_attach_comes_back(yard: Yard) -> None:
    made = yard.create("sh", tty=True, open_stdin=True, stdin_once=True)
    client = Client(yard, made, "run")
    client.expect(rb"[#$] ")
    client.type(b"X=kept\r\x10a\x15\x10\x11")
    client.expect(rb"code None\r\n")
    assert client.close() == 0
    assert live_state(yard.site, yard.record(made)) is State.RUNNING
    again = Client(yard, made, "attach")
    again.type(b"\recho $X-value\r")
    again.expect(rb"kept-value\r\n")
    again.type(b"exit 3\r")
    again.expect(rb"code 3\r\n")
    assert again.close() == 0
    assert yard.record(made).exit_code == 3


def test_exec_on_a_terminal(yard: Yard, running: ContainerRecord) -> None:
    client = Client(yard, running, "exec", "sh")
    client.expect(rb"\$ ")
    client.type(b"tty; stty size; echo done-$((1+1))\r")
    client.expect(rb"/dev/pts/\d+\r\n33 99\r\ndone-2\r\n")
    client.type(b"exit 6\r")
    client.expect(rb"code 6\r\n")
    assert client.close() == 0


def test_a_client_killed_in_the_foreground_leaves_the_clean_up_to_the_monitor(yard: Yard) -> None:
    made = yard.create("sh", "-c", "echo up; sleep 0.5; exit 8", host=HostConfig())
    client = subprocess.Popen(
        [sys.executable, "-c", SHELL, str(yard.root), str(yard.state), made.id, "run"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    )
    assert client.stdout is not None
    assert client.stdout.readline() == b"up\n"
    client.kill()
    client.wait()
    client.stdout.close()
    eventually(lambda: not yard.record(made).running)
    assert yard.record(made).exit_code == 8


def test_signals_to_the_client_reach_the_command(yard: Yard) -> None:
    made = yard.create("sh", "-c", "trap 'echo got it; exit 4' TERM; echo up; while :; do sleep 0.05; done")
    client = subprocess.Popen(
        [sys.executable, "-c", SHELL, str(yard.root), str(yard.state), made.id, "run"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    )
    assert client.stdout is not None
    assert client.stdout.readline() == b"up\n"
    client.terminate()
    assert client.stdout.read() == b"got it\ncode 4\n"
    client.wait()
    client.stdout.close()


def test_input_and_output_larger_than_all_buffers_do_not_block_each_other(yard: Yard) -> None:
    content = os.urandom(4 << 20)
    made = yard.create("sh", "-c", "cat; cat /bin/busybox >&2", open_stdin=True, stdin_once=True)
    code, out, err = yard.run(made, stdin=content)
    assert (code, out) == (0, content)
    assert err == Path("/bin/busybox").read_bytes()


def test_attach_needs_a_running_container(yard: Yard) -> None:
    made = yard.create("sh", "-c", "read x; echo got $x", open_stdin=True)
    with pytest.raises(Conflict, match="stopped"):
        attach_container(yard.site, made.id, Streams(None, None, None))
    start_container(yard.site, made.id)
    with tempfile.TemporaryFile() as source, tempfile.TemporaryFile() as out:
        source.write(b"word\n")
        source.seek(0)
        assert attach_container(yard.site, made.id, Streams(source.fileno(), out.fileno(), None)) == 0
        out.seek(0)
        assert out.read() == b"got word\n"


# ---------------------------------------------------------------------------------------------- commit and export


def config_of(yard: Yard, image: str) -> dict[str, object]:
    document: dict[str, object] = json.loads(
        (yard.root / "image/overlay2/imagedb/content/sha256" / image[7:]).read_bytes()
    )
    return document


def test_commit_makes_an_image_with_the_changes_and_dockers_history(yard: Yard) -> None:
    made = yard.create("sh", "-c", "echo new > /new; rm /etc/issue", env=("E=1",))
    assert yard.run(made)[0] == 0
    image = commit_container(
        yard.site, made.id, parse_tagged("mine"), author="me", message="why", changes=['CMD ["cat","/new"]', "ENV F=2"]
    )
    document = config_of(yard, image)
    rootfs, history = document["rootfs"], document["history"]
    assert isinstance(rootfs, dict)
    assert isinstance(history, list)
    assert len(rootfs["diff_ids"]) == 2
    assert history[-1] == {
        "created": document["created"],
        "created_by": "sh -c echo new > /new; rm /etc/issue",
        "author": "me",
        "comment": "why",
    }
    assert document["container"] == made.id
    assert document["author"] == "me"
    config = document["config"]
    assert isinstance(config, dict)
    assert config["Cmd"] == ["cat", "/new"]
    assert config["Env"][-1] == "F=2"
    assert yard.store.tags.find(parse_tagged("mine")) == image
    stored = yard.store.images.get(image)
    assert stored.parent == yard.image.id
    assert yard.run(yard.create(image=stored))[1] == b"new\n"
    assert yard.run(yard.create("test", "-e", "/etc/issue", image=stored))[0] == 1


def test_commit_of_an_unchanged_container_adds_no_layer(yard: Yard) -> None:
    made = yard.create("true")
    image = commit_container(yard.site, made.id)
    document = config_of(yard, image)
    assert document["rootfs"] == config_of(yard, yard.image.id)["rootfs"]
    history = document["history"]
    assert isinstance(history, list)
    assert history[-1]["empty_layer"] is True
    assert len(list((yard.root / "image/overlay2/layerdb/sha256").iterdir())) == 1


def test_commit_of_a_running_container_and_its_files_keep_running(yard: Yard) -> None:
    # A file that grows: one that shrinks while it is read cannot be committed without a pause, in any engine.
    made = yard.create("sh", "-c", "while :; do echo more >> /count; done")
    start_container(yard.site, made.id)
    images = {commit_container(yard.site, made.id, pause=pause) for pause in (True, False)}
    assert len(images) == 2
    assert live_state(yard.site, yard.record(made)) is State.RUNNING
    stop_container(yard.site, made.id, 0)


def test_export_is_the_merged_tree_without_volumes(yard: Yard) -> None:
    made = yard.create("sh", "-c", "echo x > /data/in; echo y > /y; rm /etc/issue; sleep 1000", volumes=("/data",))
    start_container(yard.site, made.id)
    eventually(lambda: execute(yard, made, "test", "-e", "/etc/issue")[0] == 1)
    sink = io.BytesIO()
    export_container(yard.site, made.id, sink)
    with tarfile.open(fileobj=io.BytesIO(sink.getvalue())) as archive:
        names = set(archive.getnames())
    assert {"y", "data", "bin/busybox", "etc/passwd", ".dockerenv"} <= names
    assert not {"data/in", "etc/issue", "proc/1"} & names


# ---------------------------------------------------------------------------------------------------------- volumes


def test_a_new_volume_gets_what_the_image_has_there(yard: Yard) -> None:
    made = yard.create(
        "sh", "-c", "ls /etc; stat -c %a /etc; echo more > /etc/more", host=HostConfig(binds=("conf:/etc",))
    )
    code, _, err = yard.run(made)
    assert (code, err) == (0, b"")
    content = yard.root / "volumes/conf/_data"
    assert {"passwd", "group", "issue", "more"} <= set(os.listdir(content))
    # The second container finds the volume as the first left it.
    assert yard.output("cat", "/etc/more", host=HostConfig(binds=("conf:/etc:ro",))) == "more\n"
    assert os.listdir(content.parent) == ["_data"]


def test_a_volume_over_a_hostile_link_takes_nothing_from_the_host(
    yard: Yard, tmp_path: Path, busybox_rootfs: Path
) -> None:
    root = tmp_path / "hostile"
    subprocess.run(["cp", "-a", str(busybox_rootfs), str(root)], check=True)
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "key").write_text("host")
    (root / "data").symlink_to(secret)
    subprocess.run(["tar", "-C", str(root), "-cf", str(tmp_path / "hostile.tar"), "."], check=True)
    image = yard.add_image(tmp_path / "hostile.tar", ContainerSettings(env=("PATH=/bin",), volumes=("/data",)))
    made = yard.create("true", image=image)
    volumes = list((yard.root / "volumes").iterdir())
    assert len(volumes) == 1
    assert os.listdir(volumes[0] / "_data") == []
    remove_container(yard.site, made.id, volumes=True)
    assert list((yard.root / "volumes").iterdir()) == []


def test_binds_and_their_modes(yard: Yard, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("from the host")
    host = HostConfig(binds=(f"{tmp_path}:/h:ro", f"{tmp_path}/new:/n"))
    out = yard.output("sh", "-c", "cat /h/file; touch /h/x 2>/dev/null || echo; echo refused; touch /n/made", host=host)
    assert out == "from the host\nrefused\n"
    assert (tmp_path / "new/made").exists()
    with pytest.raises(InvalidArgument, match="Duplicate mount point"):
        yard.create("true", host=HostConfig(binds=("a:/x", "b:/x")))
    with pytest.raises(InvalidArgument, match="invalid characters"):
        yard.create("true", host=HostConfig(binds=("../../etc:/x",)))
    with pytest.raises(NotFound):
        yard.store.containers.resolve("nothing")


def test_logs_of_a_terminal_are_kept_too(yard: Yard) -> None:
    made = yard.create("sh", "-c", "echo to the terminal", tty=True)
    start_container(yard.site, made.id)
    eventually(lambda: not yard.record(made).running)
    assert [record.text for record in iter_logs(yard.site, made.id)] == [b"to the terminal\r\n"]

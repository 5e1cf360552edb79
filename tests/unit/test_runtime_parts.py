"""The runtime's smaller parts: finding it, reading its complaints, logs, detach keys."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamella.errors import (
    CommandNotExecutable,
    CommandNotFound,
    DataLoss,
    InvalidArgument,
    StartFailed,
    Unavailable,
)
from lamella.model.gojson import parse_time
from lamella.runtime import logs
from lamella.runtime.attach import _scan, parse_detach_keys
from lamella.runtime.cgroups import Cgroups
from lamella.runtime.logs import Record, json_line, read_logs, settle_log
from lamella.runtime.oci_cli import OCIRuntime, find_warning, message_of, parse_version, start_failure

NAME = "d" * 64


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("executable file `nosuch` not found in $PATH: No such file or directory", CommandNotFound),
        (
            'runc create failed: unable to start container process: exec: "nosuch": executable file not found in $PATH',
            CommandNotFound,
        ),
        ('exec: "/nosuch": stat /nosuch: no such file or directory', CommandNotFound),
        ("exec container process (missing dynamic library?) `/bin/x`: No such file or directory", CommandNotFound),
        ("open executable: Permission denied", CommandNotExecutable),
        ("open executable: Operation not permitted", CommandNotExecutable),
        ('exec: "/etc": permission denied', CommandNotExecutable),
        ("exec container process `/bin/x`: Exec format error", CommandNotExecutable),
        ("setrlimit (RLIM_MEMLOCK): Operation not permitted", StartFailed),
        ("", StartFailed),
    ],
)
def test_complaints_have_their_kinds(text: str, kind: type[Exception]) -> None:
    assert type(start_failure(NAME, text)) is kind


def test_the_message_is_the_last_complaint_in_one_line() -> None:
    raw = b'time="x" level=warning msg="w"\ntime="x" level=error msg="runc run failed: exec: \\"a\\":\\n gone"\n'
    assert message_of(raw) == 'runc run failed: exec: "a":n gone'
    assert message_of(b"plain\nwords\n") == "plain words"


def test_a_missing_runtime_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="kata is not installed; install it with: apt-get install kata"):
        OCIRuntime.find(tmp_path, "kata")
    with pytest.raises(Unavailable, match="not an executable"):
        OCIRuntime.find(tmp_path, str(tmp_path / "nothing"))
    assert OCIRuntime.find(tmp_path).name == "crun"
    assert OCIRuntime.find(tmp_path, "runc").name == "runc"


def test_crun_is_prepared_for_the_machine(tmp_path: Path) -> None:
    plain = OCIRuntime("/usr/bin/crun", tmp_path, cgroups=Cgroups(2, frozenset()))
    assert plain.creating_program()[0] == "/usr/bin/crun"
    assert "--cgroup-manager=cgroupfs" in plain.global_arguments()
    hybrid = OCIRuntime("/usr/bin/crun", tmp_path, cgroups=Cgroups(1, frozenset(), hide_unified=True))
    assert hybrid.creating_program()[0].endswith("/unshare")
    assert hybrid.arguments("start", NAME)[0] == "/usr/bin/crun"
    without = OCIRuntime("/usr/bin/crun", tmp_path, cgroups=Cgroups(0, frozenset(), bare=True))
    assert "--cgroup-manager=disabled" in without.global_arguments()
    assert without.arguments("start", NAME)[0].endswith("/unshare")
    assert (
        OCIRuntime("/usr/sbin/runc", tmp_path, cgroups=Cgroups(0, frozenset(), bare=True)).arguments("start", NAME)[0]
        == "/usr/sbin/runc"
    )


def test_known_holes_are_warned_about() -> None:
    assert parse_version("crun version 1.8.1\ncommit: x\n") == (1, 8, 1)
    assert parse_version("runc version 1.1.5+ds1\n") == (1, 1, 5)
    assert parse_version("crun version 1.27") == (1, 27, 0)
    with pytest.raises(InvalidArgument):
        parse_version("what")
    assert "CVE-2024-21626" in (find_warning("runc", (1, 1, 5)) or "")
    assert "CVE-2025-31133" in (find_warning("runc", (1, 2, 7)) or "")
    assert "CVE-2026-30892" in (find_warning("crun", (1, 20, 0)) or "")
    assert find_warning("crun", (1, 8, 1)) is find_warning("runc", (1, 3, 3)) is find_warning("kata", (0, 1, 0)) is None


# ------------------------------------------------------------------------------------------------------------- logs


def monitor_log(directory: Path, *lines: str) -> None:
    with (directory / "lamella.log").open("a") as file:
        for number, line in enumerate(lines):
            file.write(f"2026-11-25T03:14:{number:02d}.377770123+00:00 {line}\n")


def texts(directory: Path, **options: object) -> list[bytes]:
    return [record.text for record in read_logs(directory, NAME, **options)]  # type: ignore[arg-type]


def test_a_settled_log_is_dockers(tmp_path: Path) -> None:
    monitor_log(tmp_path, "stdout F a <b> & c", "stderr F e", "stdout P no newline")
    before = texts(tmp_path)
    settle_log(tmp_path, NAME)
    raw = (tmp_path / f"{NAME}-json.log").read_bytes()
    assert raw.splitlines()[0] == (
        b'{"log":"a \\u003cb\\u003e \\u0026 c\\n","stream":"stdout","time":"2026-11-25T03:14:00.377770123Z"}'
    )
    assert [json.loads(line)["log"] for line in raw.splitlines()] == ["a <b> & c\n", "e\n", "no newline"]
    assert before == texts(tmp_path) == [b"a <b> & c\n", b"e\n", b"no newline"]
    assert os.listdir(tmp_path) == [f"{NAME}-json.log"]
    settle_log(tmp_path, NAME)
    monitor_log(tmp_path, "stdout F again")
    assert texts(tmp_path)[-1] == b"again\n"
    settle_log(tmp_path, NAME)
    assert texts(tmp_path) == [*before, b"again\n"]


def test_bytes_that_are_no_text_become_replacements_as_in_docker() -> None:
    line = json_line(Record(0, "stdout", b"\xff\xfe\n"))
    assert line == b'{"log":"\\ufffd\\ufffd\\n","stream":"stdout","time":"1970-01-01T00:00:00Z"}\n'


def test_long_lines_are_cut_as_in_docker(tmp_path: Path) -> None:
    parts = ["x" * 8192] * 4 + ["y" * 100]
    monitor_log(tmp_path, *(f"stdout P {part}" for part in parts), "stdout F z")
    settle_log(tmp_path, NAME)
    entries = [json.loads(line) for line in (tmp_path / f"{NAME}-json.log").read_bytes().splitlines()]
    assert [len(entry["log"]) for entry in entries] == [16384, 16384, 102]
    assert entries[-1]["log"].endswith("yz\n")
    assert len({entry["time"] for entry in entries}) == 1


def test_streams_do_not_mix_within_a_line(tmp_path: Path) -> None:
    monitor_log(tmp_path, "stdout P out", "stderr P er", "stdout F put", "stderr F ror")
    assert texts(tmp_path) == [b"output\n", b"error\n"]


@pytest.mark.parametrize("cut", ["rename", "write", "unlink"])
def test_settling_may_be_cut_off_and_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut: str) -> None:
    monitor_log(tmp_path, "stdout F first")
    settle_log(tmp_path, NAME)
    monitor_log(tmp_path, *(f"stdout F {number}" for number in range(50)))
    expected = texts(tmp_path)

    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if cut == "rename":
            patch.setattr(logs, "_append", die)
        elif cut == "write":
            lines = iter(range(10))
            real = logs.json_line
            patch.setattr(logs, "json_line", lambda record: real(record) if next(lines, None) is not None else die())
        else:
            patch.setattr(Path, "unlink", die)
        with pytest.raises(KeyboardInterrupt):
            settle_log(tmp_path, NAME)
    assert texts(tmp_path) == expected
    settle_log(tmp_path, NAME)
    assert texts(tmp_path) == expected
    assert os.listdir(tmp_path) == [f"{NAME}-json.log"]


def test_tail_since_and_until(tmp_path: Path) -> None:
    monitor_log(tmp_path, *(f"stdout F {number}" for number in range(10)))
    settle_log(tmp_path, NAME)
    monitor_log(tmp_path, "stderr F last")
    assert texts(tmp_path, tail=2) == [b"9\n", b"last\n"]
    assert texts(tmp_path, tail=0) == []
    assert texts(tmp_path, since=parse_time("2026-11-25T03:14:08Z"), until=parse_time("2026-11-25T03:14:09Z")) == [
        b"8\n"
    ]
    assert texts(tmp_path, tail=3, follow=True) == [b"8\n", b"9\n", b"last\n"]


def test_a_damaged_log_names_the_place(tmp_path: Path) -> None:
    path = tmp_path / f"{NAME}-json.log"
    path.write_bytes(json_line(Record(0, "stdout", b"x\n")) + b"garbage\n")
    with pytest.raises(DataLoss, match="byte 62 is no log entry"):
        texts(tmp_path)


def test_rotated_files_come_first(tmp_path: Path) -> None:
    for suffix, text in ((".2", b"1\n"), (".1", b"2\n"), ("", b"3\n")):
        (tmp_path / f"{NAME}-json.log{suffix}").write_bytes(json_line(Record(0, "stdout", text)))
    assert texts(tmp_path) == [b"1\n", b"2\n", b"3\n"]


def test_no_log_at_all(tmp_path: Path) -> None:
    assert texts(tmp_path) == []
    assert texts(tmp_path, follow=True) == []
    settle_log(tmp_path, NAME)
    assert os.listdir(tmp_path) == []


# ------------------------------------------------------------------------------------------------------ detach keys


def test_detach_keys_are_read_as_docker_reads_them() -> None:
    assert parse_detach_keys("ctrl-p,ctrl-q") == b"\x10\x11"
    assert parse_detach_keys("a,ctrl-@,ctrl-[,ctrl-_") == b"a\x00\x1b\x1f"
    assert parse_detach_keys("") == b""
    for bad in ("ctrl-", "ctrl-1", "ab", "ctrl-pp", ","):
        with pytest.raises(InvalidArgument):
            parse_detach_keys(bad)


@given(st.lists(st.binary(max_size=4), max_size=8))
def test_what_is_typed_arrives_up_to_the_detach_keys(typed: list[bytes]) -> None:
    keys, held, sent, detached = b"\x10\x11", b"", b"", False
    for piece in typed:
        going, held, detached = _scan(held + piece, keys)
        sent += going
        if detached:
            break
    whole = b"".join(typed)
    if keys in whole:
        assert detached
        assert sent == whole[: whole.index(keys)]
    else:
        assert not detached
        assert sent + held == whole

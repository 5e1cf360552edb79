"""The process that makes a layer's small inodes: when it is there, what it holds, how it ends, and that it shows not."""

from __future__ import annotations

import errno
import io
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lamella.changeset import apply as applying
from lamella.changeset import crew
from lamella.changeset.apply import Applied, apply_layer
from lamella.errors import InvalidArgument, Unavailable, Unsupported
from lamella.fs.usage import layer_size
from tests.corpus.craft import END, directory, file, hard, pax, symlink
from tests.support.placing import helped  # noqa: F401 — a fixture

MANY = [file(b"d%d/f%d" % (n % 50, n), b"%d" % n) for n in range(2000)]
# So much that its end is read when the helper has been at work for long.
LONG = (
    b"".join([*MANY, *(file(b"big%d" % n, bytes(8 << 20)) for n in range(6)), *(file(b"end%d" % n) for n in range(9))])
    + END
)


class Watched(io.RawIOBase):
    """A layer that is read piece by piece, with something done before one of them."""

    def __init__(self, content: bytes, at: int, then: Callable[[], None]) -> None:
        self._content = io.BytesIO(content)
        self._at = at
        self._then = then

    def read(self, size: int = -1, /) -> bytes:  # type: ignore[explicit-override]
        if self._content.tell() >= self._at:
            self._at = 1 << 62
            self._then()
        return self._content.read(min(size, 64 << 10) if size >= 0 else 64 << 10)


def helpers(parent: int | None = None) -> list[int]:
    """List the process IDs of helpers that *parent*, or this process, has started."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            command = (entry / "cmdline").read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if any(b"changeset.placer" in word for word in command) and b"%d" % (parent or os.getpid()) in command:
            found.append(int(entry.name))
    return found


def apply(target: Path, *parts: bytes) -> Applied:
    target.mkdir(exist_ok=True)
    return apply_layer(io.BytesIO(b"".join(parts) + END), target)


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the helper make the very first inode."""
    monkeypatch.setattr(crew, "UNAIDED", 1)
    monkeypatch.setattr(crew, "PATIENCE", 30.0)
    monkeypatch.setattr("lamella.changeset.inflow.Inflow.ahead", True)


@pytest.fixture
def alone_forbidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def place(*_: object) -> None:
        pytest.fail("made by the process that reads")

    monkeypatch.setattr(applying, "place", place)


@pytest.mark.usefixtures("at_once", "alone_forbidden")
def test_the_helper_makes_all_small_inodes(tmp_path: Path) -> None:
    apply(tmp_path / "layer", *MANY, symlink(b"link", b"d1"), file(b"link/through", b"x"), hard(b"hard", b"d1/f1"))
    assert len(list((tmp_path / "layer").glob("d*/f*"))) == 2000
    assert (tmp_path / "layer" / "d1" / "through").read_bytes() == b"x"
    assert (tmp_path / "layer" / "hard").stat().st_nlink == 2
    assert not helpers()


@pytest.mark.usefixtures("at_once", "alone_forbidden")
def test_the_helper_sees_the_umask_and_groups_of_directories(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        apply(
            tmp_path / "layer",
            file(b"d/before", b"x", mode=0o664),
            directory(b"d/", mode=0o2775, gid=50),
            file(b"d/after", b"x", mode=0o666, gid=50),
            file(b"d/root", b"x", mode=0o666),
        )
    finally:
        os.umask(before)
    found = {path.name: path.stat() for path in (tmp_path / "layer" / "d").iterdir()}
    assert {name: (stat.S_IMODE(status.st_mode), status.st_gid) for name, status in found.items()} == {
        "before": (0o664, 0),
        "after": (0o666, 50),
        "root": (0o666, 0),
    }


def test_a_small_layer_has_no_helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crew, "PATIENCE", 30.0)
    monkeypatch.setattr("lamella.changeset.inflow.Inflow.ahead", True)
    monkeypatch.setattr("lamella.linux.spawn.start", lambda *_, **__: pytest.fail("started a process"))
    apply(tmp_path / "layer", *MANY[:999])


@pytest.mark.usefixtures("at_once")
def test_nor_has_one_that_waits_for_its_stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lamella.changeset.inflow.Inflow.ahead", False)
    monkeypatch.setattr("lamella.linux.spawn.start", lambda *_, **__: pytest.fail("started a process"))
    apply(tmp_path / "layer", *MANY)


@pytest.mark.parametrize("program", ["", "/usr/sbin/uwsgi", "{here}/python3-absent", "{here}/python3-fails"])
@pytest.mark.usefixtures("at_once")
def test_an_interpreter_that_cannot_be_started_again_works_alone(
    program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "python3-fails").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "python3-fails").chmod(0o755)
    monkeypatch.setattr(sys, "executable", program.format(here=tmp_path))
    before = os.listdir("/proc/self/fd")
    assert apply(tmp_path / "layer", *MANY).entries == 2000
    assert len(list((tmp_path / "layer").glob("d*/f*"))) == 2000
    assert len(os.listdir("/proc/self/fd")) == len(before)


@pytest.mark.usefixtures("at_once")
def test_the_helper_holds_nothing_of_ours(tmp_path: Path) -> None:
    held: list[set[str]] = []

    def look() -> None:
        (helper,) = helpers()
        links = {os.readlink(fd) for fd in Path(f"/proc/{helper}/fd").iterdir()}
        held.append({link.partition(":")[0] for link in links if not link.startswith(str(tmp_path / "layer"))})

    lock = os.open(tmp_path / "lock", os.O_CREAT | os.O_RDWR)
    os.set_inheritable(lock, True)
    (tmp_path / "layer").mkdir()
    try:
        apply_layer(Watched(LONG, len(LONG) - 4096, look), tmp_path / "layer")  # type: ignore[arg-type]
    finally:
        os.close(lock)
    assert held == [{"socket", "/dev/null", "/memfd"}]


@pytest.mark.usefixtures("at_once")
def test_a_helper_that_dies_is_told_of(tmp_path: Path) -> None:
    def kill() -> None:
        for helper in helpers():
            os.kill(helper, signal.SIGKILL)

    (tmp_path / "layer").mkdir()
    with pytest.raises(Unavailable, match="was killed by signal 9; try again"):
        apply_layer(Watched(LONG, len(LONG) - 4096, kill), tmp_path / "layer")  # type: ignore[arg-type]
    assert not helpers()


@pytest.mark.usefixtures("helped")
def test_names_that_are_taken_are_replaced_in_order(tmp_path: Path) -> None:
    target = tmp_path / "layer"
    (target / "d" / "dir").mkdir(parents=True)
    (target / "d" / "dir" / "old").write_bytes(b"old")
    (target / "d" / "file").write_bytes(b"old")
    os.link(target / "d" / "file", tmp_path / "other")
    result = apply(
        target,
        *(file(b"d/before%d" % n, b"x") for n in range(300)),
        file(b"d/dir", b"new"),
        file(b"d/file", b"new"),
        *(file(b"d/after%d" % n, b"x") for n in range(300)),
        hard(b"d/hard", b"d/file"),
    )
    assert ((target / "d" / "dir").read_bytes(), (target / "d" / "file").read_bytes()) == (b"new", b"new")
    assert (tmp_path / "other").read_bytes() == b"old"
    assert (target / "d" / "file").samefile(target / "d" / "hard")
    assert len(os.listdir(target / "d")) == 603
    assert result.size == layer_size(target)


@pytest.mark.usefixtures("helped")
def test_an_implied_directory_gives_way_to_a_later_file(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument):
        apply(tmp_path / "layer", file(b"d/f", b"x"), file(b"d", b"y"))
    apply(tmp_path / "other", directory(b"d/"), file(b"d", b"y"))
    assert (tmp_path / "other" / "d").read_bytes() == b"y"


@pytest.mark.usefixtures("helped")
def test_errors_name_their_member(tmp_path: Path) -> None:
    long = b"n" * 300
    with pytest.raises(InvalidArgument, match=r"member 'd/n{198}'… cannot be made: File name too long"):
        apply(tmp_path / "long", file(b"a", b"x"), pax({b"path": b"d/" + long}), file(b"x", b"x"), file(b"b", b"x"))
    with pytest.raises(InvalidArgument, match=r"member 'f' has the attribute 'user.large', which is too large"):
        apply(tmp_path / "large", pax({b"SCHILY.xattr.user.large": bytes(60_000)}), file(b"f", b"x"), file(b"b", b"x"))
    with pytest.raises((InvalidArgument, Unsupported), match=r"member 'f' has the attribute 'security.capability'"):
        apply(tmp_path / "cap", pax({b"SCHILY.xattr.security.capability": b"bad"}), file(b"f", b"x"), file(b"b"))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", place], check=True)
    yield place
    subprocess.run(["umount", place], check=True)


@pytest.mark.usefixtures("helped")
def test_a_full_disk_is_a_full_disk(small_disk: Path) -> None:
    with pytest.raises(OSError, match="No space left on device") as caught:
        apply(small_disk / "layer", *(file(b"d/f%d" % n, bytes(100_000)) for n in range(20)))
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.filename == b"d/f10"


@pytest.mark.usefixtures("helped")
def test_metadata_too_long_to_hand_over(tmp_path: Path) -> None:
    """A target longer than any path is refused the same way wherever it is tried, among others that are made."""
    with pytest.raises(InvalidArgument, match="cannot be made: File name too long"):
        apply(tmp_path / "layer", file(b"a"), pax({b"linkpath": b"l" * 100_000}), symlink(b"s", b"x"), file(b"b"))
    assert (tmp_path / "layer" / "a").exists()
    with pytest.raises(InvalidArgument, match="cannot be made: File name too long"):
        apply(tmp_path / "name", file(b"a"), pax({b"path": b"n" * 900_000}), file(b"x", b"x"), file(b"b"))
    assert (tmp_path / "name" / "a").exists()


PROGRAM = """
import sys
from pathlib import Path
from lamella.changeset import crew
from lamella.changeset.apply import apply_layer
from lamella.changeset.inflow import Inflow

crew.UNAIDED, crew.PATIENCE, Inflow.ahead = 1, 30.0, True
apply_layer(sys.stdin.buffer.raw, Path(sys.argv[1]))
"""


def test_the_helper_of_a_killed_process_ends(tmp_path: Path) -> None:
    (tmp_path / "layer").mkdir()
    (tmp_path / "start").write_bytes(LONG[: 16 << 20])
    with (tmp_path / "start").open("rb") as start:
        source = subprocess.Popen(["sh", "-c", "cat; exec sleep 60"], stdin=start, stdout=subprocess.PIPE)
    with subprocess.Popen([sys.executable, "-c", PROGRAM, tmp_path / "layer"], stdin=source.stdout) as program:
        until(lambda: helpers(program.pid))
        program.kill()
    until(lambda: not helpers(program.pid))
    source.kill()
    source.communicate()


def until(done: Callable[[], object]) -> None:
    for _ in range(600):
        if done():
            return
        time.sleep(0.05)
    pytest.fail("did not come")

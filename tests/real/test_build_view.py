"""What a build shows: lines off a terminal, a live view on one, and the options that go with it."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.building import Builder, import_base, write_context

TWO = """\
FROM base AS one
RUN echo from one; echo 1 > /one
FROM base AS two
RUN printf 'from two'; echo 2 > /two
FROM base
COPY --from=one /one /
COPY --from=two /two /
"""

_ENVIRONMENT = {name: text for name, text in os.environ.items() if name not in ("NO_COLOR", "SOURCE_DATE_EPOCH")}


class Shell:
    """The command line on one store."""

    def __init__(self, builder: Builder, context: Path) -> None:
        self.builder = builder
        self.context = context
        self._line = [sys.executable, "-m", "lamella", "--root", str(builder.store.root.path)]
        self._line += ["--state", str(builder.site.state), "build"]

    def build(self, *options: str, code: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [*self._line, *options, str(self.context)],
            capture_output=True,
            text=True,
            check=False,
            env={**_ENVIRONMENT, **environment},
        )
        assert done.returncode == code, done.stderr
        return done

    def on_terminal(self, *options: str, code: int = 0, **environment: str) -> str:
        """Build on a terminal of 80 columns and give all that was written to it."""
        ours, theirs = pty.openpty()
        child = subprocess.Popen(
            [*self._line, *options, str(self.context)],
            stdout=theirs,
            stderr=theirs,
            env={**_ENVIRONMENT, "TERM": "xterm", **environment},
        )
        os.close(theirs)
        told = b""
        try:
            while piece := os.read(ours, 1 << 16):
                told += piece
        except OSError:  # the other end is closed
            pass
        os.close(ours)
        assert child.wait() == code, told
        return told.decode()


@pytest.fixture
def shell(store_root: Path, base_tar: Path, tmp_path: Path) -> Shell:
    builder = Builder(store_root)
    import_base(builder.store, base_tar)
    return Shell(builder, write_context(tmp_path / "context", TWO))


def test_lines_of_stages_side_by_side_bear_their_stage(shell: Shell) -> None:
    lines = shell.build("-t", "a", "-t", "b:2").stdout.splitlines()
    assert "[1/3] Step 2/7 : RUN echo from one; echo 1 > /one" in lines
    assert "[1/3] from one" in lines
    assert "[2/3] from two" in lines  # its line had no end
    assert [line for line in lines if not line.startswith("[")][1:] == [
        "Successfully tagged a:latest",
        "Successfully tagged b:2",
    ]


def test_stages_one_after_the_other_and_a_single_stage_are_shown_as_docker_shows_them(shell: Shell) -> None:
    assert "Step 2/7 : RUN echo from one; echo 1 > /one\n" in shell.build("--jobs", "1").stdout
    write_context(shell.context, "FROM base\nRUN printf hi; echo err >&2\n")
    done = shell.build("--progress", "plain")
    assert done.stdout.startswith("Step 1/2 : FROM base\n ---> ")
    assert "\nhiRemoving intermediate container" in done.stdout
    assert done.stderr == "err\n"


def test_a_terminal_gets_a_live_view_and_colours_unless_they_are_not_wanted(shell: Shell) -> None:
    told = shell.on_terminal("-t", "x")
    assert "\x1b[34m => [one 2/7] RUN echo from one; echo 1 > /one" in told
    assert "Successfully tagged x:latest" in told
    assert "Step 1/7" not in told
    told = shell.on_terminal(NO_COLOR="1")
    assert " => CACHED [one 2/7] RUN echo from one" in told
    assert not re.search(r"\x1b\[\d+m", told)
    assert "Step 1/7" in shell.on_terminal("--progress=plain")
    assert "Step 1/7" in shell.on_terminal(TERM="dumb")


def test_off_a_terminal_the_live_view_is_lines(shell: Shell) -> None:
    done = shell.build("--progress", "tty")
    assert "Step 1/7 : FROM base AS one" in done.stdout
    assert "\x1b" not in done.stdout


def test_the_live_view_shows_what_a_failed_step_printed_last_and_no_control_sequences(shell: Shell) -> None:
    text = r"FROM base" + "\n" + r"RUN printf 'a\033[2Jb\rlast \033]0;t\007words\n'; exit 4" + "\n"
    write_context(shell.context, text)
    told = shell.on_terminal(code=4)
    assert " => => # last words\r\n" in told
    assert "\x1b[2J" not in told
    assert "\x1b]0" not in told
    assert "returned a non-zero code: 4" in told


def test_quiet_prints_the_id_alone(shell: Shell, tmp_path: Path) -> None:
    done = shell.build("-q", "--iidfile", str(tmp_path / "iid"))
    assert re.fullmatch(r"sha256:[0-9a-f]{64}\n", done.stdout)
    assert done.stderr == ""
    assert (tmp_path / "iid").read_text() == done.stdout.strip()


def test_a_timestamp_is_taken_from_the_option_or_else_the_environment(shell: Shell) -> None:
    by_option = shell.build("-q", "--timestamp", "1700000000", SOURCE_DATE_EPOCH="1").stdout
    assert shell.build("-q", "--no-cache", SOURCE_DATE_EPOCH="1700000000").stdout == by_option
    raw = shell.builder.store.images.get(by_option.strip()).raw  # type: ignore[arg-type]
    assert json.loads(raw)["created"] == "2023-11-14T22:13:20Z"
    assert "is not a number of seconds" in shell.build("--timestamp", "now", code=1).stderr
    assert "is not a number of seconds" in shell.build(SOURCE_DATE_EPOCH="-1", code=1).stderr


def test_options_that_make_no_sense_are_refused_before_anything_is_built(shell: Shell) -> None:
    assert "choose auto, plain, tty, quiet" in shell.build("--progress", "fancy", code=1).stderr
    assert "for --jobs" in shell.build("--jobs", "-1", code=1).stderr
    assert "no stage of the Dockerfile is called 'three'" in shell.build("--no-cache-filter", "three", code=1).stderr
    assert len(list(shell.builder.store.images.iter_ids())) == 1


def test_the_cache_is_left_out_for_the_stages_that_are_named(shell: Shell) -> None:
    shell.build()
    # What is copied from them is the same content, so that the last stage's steps are found all the same.
    assert shell.build("--no-cache-filter", "one,two", "--force-rm", "--rm").stdout.count("Using cache") == 2
    assert shell.build("--no-cache-filter", "one").stdout.count("Using cache") == 3


def test_a_failed_build_names_stage_and_step_and_exits_as_the_command_did(shell: Shell) -> None:
    write_context(shell.context, TWO.replace("echo 2 > /two", "exit 7"))
    error = shell.build(code=7).stderr
    assert "returned a non-zero code: 7" in error
    assert "step 4/7, stage two, line 4: RUN printf 'from two'; exit 7" in error

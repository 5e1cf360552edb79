"""Stages on a real store: side by side where they can, ended together, and nothing left behind however it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from lamella.build.events import Output, RunRemoved, RunStarted, StepFinished, StepStarted, stage_of
from lamella.errors import BuildFailed, InvalidArgument
from lamella.model.reference import parse_tagged
from tests.conftest import mounts_below
from tests.support.building import Builder, import_base, write_context
from tests.support.containers import eventually, processes_naming

if TYPE_CHECKING:
    from collections.abc import Generator

MEETING = "--mount=type=cache,id=meeting,target=/meet"
"""A directory that the commands of all stages see: one that waits for another's sign there runs beside it."""


def sign(name: str) -> str:
    return f"touch /meet/{name}"


def wait_for(*names: str) -> str:
    seen = " && ".join(f"[ -e /meet/{name} ]" for name in names)
    return f"for i in $(seq 3000); do {seen} && break; sleep 0.01; done; {seen}"


def check_clean(builder: Builder) -> None:
    root = builder.store.root.path
    assert not mounts_below(root)
    assert os.listdir(root / "lamella/tx") == []
    assert os.listdir(root / "lamella/locks") == []
    assert os.listdir(root / "image/overlay2/layerdb/tmp") == []
    assert [path.name for path in builder.site.state.glob("*") if path.name not in ("oci", "builds.lock")] == []
    assert not list(builder.site.state.glob("oci/*"))
    live = {layer.cache_id for layer in builder.store.layers.iter_layers()}
    assert {path.name for path in (root / "overlay2").iterdir()} - {"l"} == live
    assert builder.store.problems == []


@pytest.fixture
def builder(store_root: Path, base_tar: Path) -> Generator[Builder]:
    builder = Builder(store_root)
    import_base(builder.store, base_tar)
    yield builder
    check_clean(Builder(store_root))


@pytest.fixture
def context(tmp_path: Path) -> Path:
    return tmp_path / "context"


# -------------------------------------------------------------------------------------------------- side by side


def test_stages_that_do_not_need_each_other_run_at_the_same_time(builder: Builder, context: Path) -> None:
    text = f"""\
FROM base AS one
RUN {MEETING} {sign("one")}; {wait_for("two")} && echo 1 > /one
FROM base AS two
RUN {MEETING} {sign("two")}; {wait_for("one")} && echo 2 > /two
FROM base
COPY --from=one /one /
COPY --from=two /two /
"""
    image = builder.build(write_context(context, text)).image_id
    assert [builder.text(image, name) for name in ("one", "two")] == ["1\n", "2\n"]
    builder.build(context)
    assert builder.hits == 4


def test_a_stage_starts_when_those_it_needs_are_done_while_others_still_run(builder: Builder, context: Path) -> None:
    text = f"""\
FROM base AS slow
RUN {MEETING} {wait_for("late")}
FROM base AS quick
RUN touch /quick
FROM quick AS late
RUN {MEETING} {sign("late")}; touch /late
FROM slow
COPY --from=late /late /
"""
    image = builder.build(write_context(context, text)).image_id
    assert sorted(builder.top(image)) == ["late"]


def test_one_job_builds_one_stage_after_the_other(builder: Builder, context: Path) -> None:
    text = "FROM base AS a\nRUN echo a\nFROM base AS b\nRUN echo b\nFROM base\nCOPY --from=a /etc/issue /a\nCOPY --from=b /etc/issue /b\n"
    builder.build(write_context(context, text), jobs=1)
    told = [stage_of(event) for event in builder.events if isinstance(event, StepStarted | StepFinished)]
    numbers = [mark.number for mark in told if mark is not None]
    assert numbers == sorted(numbers)
    assert all(mark is not None and mark.alone for mark in told)
    assert [event.number for event in builder.events if isinstance(event, StepStarted)] == [1, 2, 3, 4, 5, 6, 7]


def test_no_more_stages_than_jobs_run_commands_at_once(builder: Builder, context: Path) -> None:
    text = "".join(f"FROM base AS s{index}\nRUN echo {index} > /f\n" for index in range(5))
    text += "FROM base\n" + "".join(f"COPY --from=s{index} /f /f{index}\n" for index in range(5))
    builder.build(write_context(context, text), jobs=2)
    running = most = 0
    for event in builder.events:
        running += isinstance(event, RunStarted) - isinstance(event, RunRemoved)
        most = max(most, running)
    assert most <= 2
    builder.build(context, no_cache=True, jobs=0)


def test_events_bear_the_stage_they_are_about(builder: Builder, context: Path) -> None:
    text = "FROM base AS unused\nRUN exit 1\nFROM base AS a\nRUN echo from a\nFROM base AS b\nRUN echo from b\nFROM b\nCOPY --from=a /etc/issue /\n"
    builder.build(write_context(context, text))
    output = {
        str(event.stage): event.data.decode() for event in builder.events if isinstance(event, Output)
    }  # fmt: skip
    assert output == {"[1/3]": "from a\n", "[2/3]": "from b\n"}
    names = {mark.name for event in builder.events if (mark := stage_of(event)) is not None}
    assert names == {"a", "b", ""}


def test_equal_layers_of_two_stages_are_one_layer(builder: Builder, context: Path) -> None:
    run = "RUN mkdir /d && echo same > /d/f"
    text = f"FROM base AS a\n{run}\nFROM base AS b\n{run}\nFROM base\nCOPY --from=a /d /a\nCOPY --from=b /d /b\n"
    for _ in range(3):
        builder.build(write_context(context, text), timestamp=1_700_000_000, no_cache=True)
    assert len(list(builder.store.layers.iter_layers())) == 4


def test_a_stage_is_needed_by_a_mount_as_by_a_copy(builder: Builder, context: Path) -> None:
    text = """\
FROM base AS tools
RUN echo tool > /tool
FROM base AS unused
RUN exit 1
FROM base
RUN --mount=type=bind,from=tools,target=/t cat /t/tool > /copy
"""
    image = builder.build(write_context(context, text)).image_id
    assert builder.text(image, "copy") == "tool\n"


def test_a_trigger_may_copy_from_a_stage_that_nothing_else_needs(
    builder: Builder, context: Path, base_tar: Path
) -> None:
    import_base(builder.store, base_tar, "trigger:latest", on_build=("COPY --from=tools /tool /triggered",))
    text = "FROM base AS below\nRUN echo tool > /tool\nFROM below AS tools\nFROM base AS unused\nRUN exit 1\nFROM trigger\nENV a=b\n"
    image = builder.build(write_context(context, text)).image_id
    assert builder.text(image, "triggered") == "tool\n"
    assert [line for line in builder.lines if line.endswith(": FROM trigger")] == ["Step 1/2 : FROM trigger"]


def test_missing_base_images_are_brought_in_once_each(builder: Builder, context: Path, base_tar: Path) -> None:
    fetched: list[str] = []

    def fetch(name: str, _platform: str) -> None:
        fetched.append(name)
        import_base(builder.store, base_tar, f"{name}:latest")

    text = "FROM here AS a\nENV a=1\nFROM here AS b\nENV b=1\nFROM there AS c\nRUN touch /c\nFROM here\n"
    text += "".join(f"COPY --from={name} /etc/issue /{name}\n" for name in "abc")
    builder.build(write_context(context, text), fetch=fetch)
    assert sorted(fetched) == ["here", "there"]
    builder.build(context, fetch=fetch)
    assert sorted(fetched) == ["here", "there"]
    builder.build(context, fetch=fetch, pull=True)
    assert sorted(fetched) == ["here", "here", "there", "there"]


# -------------------------------------------------------------------------------------------------- the cache


def test_the_cache_can_be_left_out_for_some_stages(builder: Builder, context: Path) -> None:
    text = "FROM base AS a\nRUN touch /a\nFROM base AS b\nRUN touch /b\nFROM base\nCOPY --from=a /a /\nCOPY --from=b /b /\n"
    builder.build(write_context(context, text))
    builder.build(context, no_cache_stages=("A", "2"))
    assert builder.hits == 1
    with pytest.raises(InvalidArgument, match="no stage of the Dockerfile is called 'c'"):
        builder.build(context, no_cache_stages=("c",))


def test_a_build_from_the_cache_alone_writes_nothing_but_the_name(builder: Builder, context: Path) -> None:
    write_context(context, "FROM base\nRUN touch /a\nCOPY Dockerfile /\nENV a=b\n")
    image = builder.build(context).image_id
    root = builder.store.root.path

    def state() -> dict[str, int]:
        found = {str(path): path.lstat().st_mtime_ns for path in root.rglob("*")}
        # That the base was used is what a build from the cache says too.
        return {path: moment for path, moment in found.items() if "/lamella/last-use/" not in path}

    before = state()
    assert builder.build(context).image_id == image
    assert state() == before
    builder.build(context, tags=("named:1",))
    assert builder.store.tags.find(parse_tagged("named:1")) == image
    assert builder.store.images.get(image).last_updated


def test_a_reproducible_build_takes_no_step_of_another_time_from_the_cache(builder: Builder, context: Path) -> None:
    write_context(context, "FROM base\nRUN touch /a\nENV a=b\n")
    builder.build(context)
    first = builder.build(context, timestamp=1_700_000_000).image_id
    assert builder.hits == 0
    assert builder.build(context, timestamp=1_700_000_000).image_id == first
    assert builder.hits == 2
    assert builder.build(context, timestamp=1_700_000_001).image_id != first


# -------------------------------------------------------------------------------------------------- failures


def test_a_failure_ends_the_other_stages_and_keeps_what_they_finished(builder: Builder, context: Path) -> None:
    text = f"""\
FROM base AS long
RUN touch /done
RUN {MEETING} {sign("long")}; sleep 600
FROM base AS bad
RUN touch /ok
RUN {MEETING} {wait_for("long")}; echo oh no; exit 3
FROM base
COPY --from=long /done /
COPY --from=bad /ok /
"""
    with pytest.raises(BuildFailed, match="non-zero code: 3") as caught:
        builder.build(write_context(context, text), tags=("never:1",))
    assert caught.value.exit_code == 3
    notes = "\n".join(caught.value.__notes__)
    assert "step 6/9, stage bad, line 6: RUN" in notes
    assert "oh no" in notes
    assert "failed too" not in notes
    assert builder.store.tags.find(parse_tagged("never:1")) is None
    check_clean(builder)
    write_context(context, text.replace("sleep 600", "true").replace("exit 3", "true"))
    builder.build(context)
    assert builder.hits == 2


def test_an_error_in_the_reporter_ends_all_stages(builder: Builder, context: Path) -> None:
    from lamella.build.executor import BuildOptions, build_image

    text = "".join(f"FROM base AS s{index}\nRUN echo {index}; sleep 600\n" for index in range(2))
    text += "FROM s0\nCOPY --from=s1 /etc/issue /\n"

    def report(event: object) -> None:
        if isinstance(event, Output):
            raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        build_image(builder.site, write_context(context, text), BuildOptions(), report=report)


COMMAND = (sys.executable, "-m", "lamella")
SLEEPERS = """\
FROM base AS one
RUN touch /first
RUN echo sleeping one; sleep 600
FROM base AS two
RUN touch /second
RUN echo sleeping two; sleep 600
FROM one
COPY --from=two /second /
"""


def started(builder: Builder, context: Path, *options: str) -> subprocess.Popen[bytes]:
    """Start a build of `SLEEPERS` by the command line, and return once both stages sleep."""
    write_context(context, SLEEPERS)
    root, state = builder.store.root.path, builder.site.state
    child = subprocess.Popen(
        [*COMMAND, "--root", str(root), "--state", str(state), "build", *options, str(context)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    assert child.stdout is not None
    asleep: set[bytes] = set()
    for line in child.stdout:
        asleep |= {word for word in (b"] sleeping one", b"] sleeping two") if word in line}
        if len(asleep) == 2:
            return child
    raise AssertionError(child.communicate()[1])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_build_ends_its_containers_and_says_so(
    builder: Builder, context: Path, number: signal.Signals
) -> None:
    child = started(builder, context)
    os.killpg(child.pid, number)  # as a terminal does: to all that the build runs
    _, error = child.communicate(timeout=60)
    assert child.returncode == 128 + number
    assert not processes_naming(str(builder.site.state))
    check_clean(Builder(builder.store.root.path))
    if number == signal.SIGINT:
        assert b"the build was interrupted: its containers are ended" in error
        write_context(context, SLEEPERS.replace("sleep 600", "true"))
        builder.build(context)
        assert builder.hits == 2


def test_a_build_killed_amid_parallel_stages_leaves_nothing_that_the_next_does_not_clear(
    builder: Builder, context: Path
) -> None:
    for _ in range(3):
        child = started(builder, context, "-t", "killed:1", "--no-cache")
        child.kill()
        child.communicate()
        fresh = Builder(builder.store.root.path)
        write_context(context, "FROM base\nRUN touch /next\n")
        fresh.build(context, no_cache=True)
        eventually(lambda: not processes_naming(str(builder.site.state)))
        assert fresh.store.tags.find(parse_tagged("killed:1")) is None
        check_clean(fresh)


BUILD = """
import sys
from pathlib import Path
from tests.support.building import Builder
sys.stdin.read()
builder = Builder(Path(sys.argv[1]))
print(builder.build(Path(sys.argv[2]), tags=(sys.argv[3],)).image_id)
"""


def test_many_builds_at_once_on_one_store(builder: Builder, tmp_path: Path) -> None:
    text = "FROM base AS a\nRUN echo a > /a\nFROM base AS b\nCOPY f /b\nFROM base\nCOPY --from=a /a /\nCOPY --from=b /b /\n"
    contexts = [write_context(tmp_path / f"context{index}", text, {"f": str(index % 4)}) for index in range(20)]
    children = [
        subprocess.Popen(
            [sys.executable, "-c", BUILD, str(builder.store.root.path), str(contexts[index]), f"many:{index}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        for index in range(20)
    ]
    for child in children:
        assert child.stdin is not None
        child.stdin.close()
        child.stdin = None
    told = [child.communicate(timeout=120) for child in children]
    assert [child.returncode for child in children] == [0] * 20, [error for _, error in told if error]
    fresh = Builder(builder.store.root.path)
    for index, (output, _) in enumerate(told):
        image = fresh.store.tags.find(parse_tagged(f"many:{index}"))
        assert image == output.strip()
        assert image is not None
        assert fresh.text(image, "b") == str(index % 4)


# -------------------------------------------------------------------------------------------------- the same again

REPRODUCED = """\
FROM base AS files
RUN mkdir /d && for i in $(seq 30 | shuf); do echo $i > /d/$i; ln /d/$i /d/link$i; mkfifo /d/pipe$i; done
RUN rm /d/7 && hostname > /host && echo $HOSTNAME >> /host && umask > /umask && mv /d/9 /d/8
FROM base AS copies
COPY . /context/
COPY --chown=alice tool /tool
FROM base
WORKDIR /w/x
COPY --from=files /d /d
COPY --from=files /host /umask /
COPY --from=copies /context /tool /c/
ADD <<text /text
words
text
RUN cp -a /c /again && touch /again && chmod 700 /d
LABEL a=b
"""
REPRODUCE = """
import os, sys
from pathlib import Path
from tests.support.building import Builder
os.umask(0o077)
builder = Builder(Path(sys.argv[1]))
print(builder.build(Path(sys.argv[2]), timestamp=1_700_000_000, jobs=1).image_id)
"""


def test_a_timestamp_gives_the_same_image_on_another_store_host_and_day(
    builder: Builder, tmp_path: Path, base_tar: Path
) -> None:
    names = [f"f{index}" for index in range(12)]
    contexts = []
    for index, order in enumerate((names, names[::-1])):
        files: dict[str, object] = {"tool": ("x", 0o755), **{f"dir/{name}": name for name in order}}
        files |= {f"dir/hard-{name}": f"= dir/{name}" for name in order} | {"dir/soft": "-> f1"}
        directory = write_context(tmp_path / f"context{index}", REPRODUCED, files)
        subprocess.run(["setcap", "cap_net_raw+ep", str(directory / "tool")], check=True)
        os.utime(directory / "dir/f3", (1_700_000_500 + index, 1_700_000_500 + index))
        contexts.append(directory)
    first = builder.build(contexts[0], timestamp=1_700_000_000).image_id
    other = Builder(tmp_path / "other" / "data-root")
    import_base(other.store, base_tar)
    line = ["unshare", "--uts", "sh", "-c", 'hostname elsewhere && exec "$@"', "sh", sys.executable, "-c", REPRODUCE]
    done = subprocess.run(
        [*line, str(other.store.root.path), str(contexts[1])],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert done.stdout.split() == [first]
    layers = [[image.config.diff_ids for image in each.store.images.iter_images()] for each in (builder, other)]
    assert sorted(layers[0]) == sorted(layers[1])

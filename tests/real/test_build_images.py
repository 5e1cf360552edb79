"""Builds on a real store: steps, cache, failures, and that nothing escapes or is left behind."""

from __future__ import annotations

import io
import json
import os
import signal
import stat
import subprocess
import sys
import tarfile  # an independent writer
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from lamella.build.events import CacheUsed, Output
from lamella.errors import BuildFailed, CommandNotFound, InvalidArgument, NotFound
from lamella.model.reference import parse_tagged
from tests.conftest import mounts_below
from tests.support.building import OLD, Builder, import_base, write_context

if TYPE_CHECKING:
    from collections.abc import Generator

WALK = """\
FROM base
ENV author jlz
RUN echo "x1" >> /tmp/test
RUN echo "x2" >> /tmp/test2
RUN echo "x3" >> /tmp/test3
ENTRYPOINT ["/bin/sh", "-c", "cat /tmp/test"]
"""


@pytest.fixture
def builder(store_root: Path, base_tar: Path) -> Generator[Builder]:
    builder = Builder(store_root)
    import_base(builder.store, base_tar)
    yield builder
    assert not mounts_below(store_root)
    assert [path.name for path in (store_root / "lamella/tx").iterdir()] == []
    assert [path.name for path in builder.site.state.glob("*") if path.name not in ("oci", "builds.lock")] == []
    live = {layer.cache_id for layer in builder.store.layers.iter_layers()}
    assert {path.name for path in (store_root / "overlay2").iterdir()} - {"l"} == live


@pytest.fixture
def context(tmp_path: Path) -> Path:
    return tmp_path / "context"


def config_of(builder: Builder, image: str) -> dict[str, object]:
    return dict(json.loads(builder.store.images.get(image).raw))  # type: ignore[arg-type]


def test_the_walkthrough_makes_a_layer_for_each_run(builder: Builder, context: Path) -> None:
    result = builder.build(write_context(context, WALK), tags=("my:0.1",))
    assert result.tags == ("my:0.1",)
    assert builder.store.tags.find(parse_tagged("my:0.1")) == result.image_id
    layers = builder.layers(result.image_id)
    assert [sorted(layer) for layer in layers[1:]] == [
        ["tmp", "tmp/test"],
        ["tmp", "tmp/test2"],
        ["tmp", "tmp/test3"],
    ]
    image = builder.store.images.get(result.image_id)
    assert "author=jlz" in image.config.config.env
    assert image.config.config.entrypoint == ("/bin/sh", "-c", "cat /tmp/test")
    assert [(entry.created_by, entry.empty_layer) for entry in image.config.history[1:]] == [
        ("/bin/sh -c #(nop)  ENV author=jlz", True),
        ('/bin/sh -c echo "x1" >> /tmp/test', False),
        ('/bin/sh -c echo "x2" >> /tmp/test2', False),
        ('/bin/sh -c echo "x3" >> /tmp/test3', False),
        ('/bin/sh -c #(nop)  ENTRYPOINT ["/bin/sh" "-c" "cat /tmp/test"]', True),
    ]
    assert image.built_locally
    assert image.last_updated


def test_what_is_told_are_the_classic_builders_lines(builder: Builder, context: Path) -> None:
    image = builder.build(write_context(context, "FROM base\nRUN echo hi\n"), tags=("a:1", "b")).image_id
    short = image.removeprefix("sha256:")[:12]
    base = builder.store.resolve("base").removeprefix("sha256:")[:12]
    running = builder.lines[3].removeprefix(" ---> Running in ")
    assert builder.lines == [
        "Step 1/2 : FROM base",
        f" ---> {base}",
        "Step 2/2 : RUN echo hi",
        f" ---> Running in {running}",
        f"Removing intermediate container {running}",
        f" ---> {short}",
        f"Successfully built {short}",
        "Successfully tagged a:1",
        "Successfully tagged b:latest",
    ]
    assert builder.output == b"hi\n"


def test_a_second_build_takes_every_step_from_the_cache(builder: Builder, context: Path) -> None:
    write_context(context, WALK + "COPY f /f\nWORKDIR /w\n", {"f": "x"})
    first = builder.build(context)
    (context / "f").touch()
    second = builder.build(context)
    assert second.image_id == first.image_id
    assert builder.hits == 7
    assert builder.build(context, no_cache=True).image_id != first.image_id
    assert builder.hits == 0


def test_a_change_breaks_the_cache_from_its_step_on(builder: Builder, context: Path) -> None:
    text = "FROM base\nENV a=1\nCOPY f /f\nRUN cat /f\nENV b=2\n"
    builder.build(write_context(context, text, {"f": "one"}))
    builder.build(write_context(context, text, {"f": "two"}))
    assert builder.hits == 1
    builder.build(write_context(context, text.replace("b=2", "b=3")))
    assert builder.hits == 3


def test_the_newest_of_equal_steps_is_used(builder: Builder, context: Path) -> None:
    write_context(context, "FROM base\nRUN cat /proc/sys/kernel/random/uuid > /uuid\n")
    builder.build(context)
    newest = builder.build(context, no_cache=True).image_id
    assert builder.build(context).image_id == newest


def test_an_image_not_built_here_is_no_cache(builder: Builder, context: Path) -> None:
    image = builder.build(write_context(context, "FROM base\nENV a=b\n")).image_id
    (builder.store.images.metadata / image.removeprefix("sha256:") / "builtLocally").unlink()
    builder.build(context)
    assert builder.hits == 0


def test_a_run_that_changes_nothing_adds_no_layer(builder: Builder, context: Path) -> None:
    image = builder.build(write_context(context, "FROM base\nRUN true\nRUN cat /etc/issue\n")).image_id
    assert len(builder.layers(image)) == 1
    assert [entry.empty_layer for entry in builder.store.images.get(image).config.history] == [False, True, True]


def test_intermediate_images_hang_below_one_another(builder: Builder, context: Path) -> None:
    image = builder.build(write_context(context, WALK)).image_id
    chain = []
    current = image
    while current:
        chain.append(current)
        current = builder.store.images.get(current).parent  # type: ignore[assignment]
    assert chain[-1] == builder.store.resolve("base")
    assert len(chain) == 6
    config = builder.store.images.get(image).config
    assert config.config.image == chain[1]


def test_a_failing_command_names_itself_and_leaves_earlier_steps_as_cache(builder: Builder, context: Path) -> None:
    write_context(context, "FROM base\nRUN echo ok > /ok\nRUN echo out; echo err >&2; exit 3\n")
    with pytest.raises(BuildFailed) as caught:
        builder.build(context, tags=("never:1",))
    error = caught.value
    assert str(error) == "The command '/bin/sh -c echo out; echo err >&2; exit 3' returned a non-zero code: 3"
    assert error.exit_code == 3
    notes = "\n".join(error.__notes__)
    assert "step 3/3, line 3: RUN echo out" in notes
    assert "out" in notes
    assert "err" in notes
    assert builder.store.tags.find(parse_tagged("never:1")) is None
    write_context(context, "FROM base\nRUN echo ok > /ok\nRUN echo fixed\n")
    builder.build(context)
    assert builder.hits == 1


def test_a_command_killed_by_a_signal_and_a_missing_one(builder: Builder, context: Path) -> None:
    with pytest.raises(BuildFailed, match="non-zero code: 137"):
        builder.build(write_context(context, "FROM base\nRUN sh -c 'kill -9 $$'; exit $?\n"))
    with pytest.raises(BuildFailed, match="non-zero code: 127"):
        builder.build(write_context(context, "FROM base\nRUN nope\n"))
    with pytest.raises(CommandNotFound):
        builder.build(write_context(context, 'FROM base\nRUN ["nope"]\n'))


@pytest.mark.parametrize("tag", ["my-ubuntu:0,1", "Upper:1", "a:b:c", ":x", "-a"])
def test_a_bad_tag_is_refused_before_anything_changes(builder: Builder, context: Path, tag: str) -> None:
    before = sorted(builder.store.images.iter_ids())
    with pytest.raises(InvalidArgument, match="invalid reference format"):
        builder.build(write_context(context, WALK), tags=("good:1", tag))
    assert sorted(builder.store.images.iter_ids()) == before
    assert builder.store.tags.find(parse_tagged("good:1")) is None
    assert builder.events == []


def test_stages_are_built_when_needed_and_copied_from(builder: Builder, context: Path) -> None:
    text = """\
FROM base AS unused
RUN exit 1
FROM base AS tools
RUN mkdir /out && echo tool > /out/tool && chown 5:6 /out/tool
FROM tools AS more
RUN echo more > /out/more
FROM base
COPY --from=more /out /out
COPY --from=tools --chown=alice /out/tool /mine
COPY --from=base /etc/passwd /p
"""
    image = builder.build(write_context(context, text)).image_id
    layers = builder.layers(image)
    assert sorted(layers[1]) == ["out", "out/more", "out/tool"]
    assert layers[1]["out/tool"].owner == (5, 6)
    assert layers[2]["mine"].owner == (1000, 1000)
    assert sorted(layers[3]) == ["p"]
    assert builder.build(context, target="tools").image_id != image


def test_a_base_that_is_not_here_is_named(builder: Builder, context: Path) -> None:
    with pytest.raises(NotFound, match="No such image: nothere:1") as caught:
        builder.build(write_context(context, "FROM nothere:1\n"))
    assert caught.value.__notes__ == ["step 1/1, line 1: FROM nothere:1"]
    with pytest.raises(NotFound, match="does not match the specified platform"):
        builder.build(write_context(context, "FROM --platform=linux/arm64 base\nENV a=b\n"))
    with pytest.raises(InvalidArgument, match="should not be blank"):
        builder.build(write_context(context, "FROM $NOPE\n"))


def test_destinations_resolve_inside_the_image(builder: Builder, context: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    text = f"""\
FROM base
RUN ln -s {outside} /l && ln -s {outside}/file /m && ln -s ../../../../../../../../{outside} /n
COPY f /l/
COPY f /m
COPY d /n/
WORKDIR /l/w
ADD t.tar /n/t
"""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        link = tarfile.TarInfo("out")
        link.type, link.linkname = tarfile.SYMTYPE, str(outside)
        tar.addfile(link)
        file = tarfile.TarInfo("out/evil")
        file.size = 1
        tar.addfile(file, io.BytesIO(b"x"))
    image = builder.build(write_context(context, text, {"f": "f", "d/g": "g", "t.tar": raw.getvalue()})).image_id
    inside = str(outside)[1:]
    assert builder.text(image, f"{inside}/f") == "f"
    assert builder.text(image, f"{inside}/file") == "f"
    assert builder.text(image, f"{inside}/g") == "g"
    assert list(outside.iterdir()) == []


def test_a_hostile_archive_is_refused_by_add(builder: Builder, context: Path) -> None:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("../../evil"))
    with pytest.raises(InvalidArgument, match="leaves the root"):
        builder.build(write_context(context, "FROM base\nADD t.tar /\n", {"t.tar": raw.getvalue()}))


def test_chmod_and_heredocs_work_without_buildkit(builder: Builder, context: Path) -> None:
    text = """\
FROM base
ARG who=world
COPY --chmod=751 d /d
COPY <<one <<"two" /h/
hello $who
one
hello $who
two
RUN <<EOF
echo script > /s
echo of two lines >> /s
EOF
RUN cat <<EOF > /t
$who
EOF
"""
    image = builder.build(write_context(context, text, {"d/e/f": "x"})).image_id
    layers = builder.layers(image)
    assert {path: node.mode for path, node in layers[1].items()} == {"d": 0o751, "d/e": 0o751, "d/e/f": 0o751}
    assert builder.text(image, "h/one") == "hello world\n"
    assert builder.text(image, "h/two") == "hello $who\n"
    assert builder.text(image, "s") == "script\nof two lines\n"
    assert builder.text(image, "t") == "world\n"


def test_files_keep_their_time_and_capability(builder: Builder, context: Path) -> None:
    write_context(context, "FROM base\nCOPY d /d\n", {"d/f": ("x", 0o755)})
    subprocess.run(["setcap", "cap_net_raw+ep", str(context / "d/f")], check=True)
    os.utime(context / "d/f", (OLD, OLD))
    node = builder.top(builder.build(context).image_id)["d/f"]
    assert node.mtime == OLD
    assert [name for name, _value in node.xattrs] == ["security.capability"]


def test_special_files_are_copied_or_refused(builder: Builder, context: Path) -> None:
    write_context(context, "FROM base\nCOPY . /all\n")
    os.mkfifo(context / "fifo")
    os.mknod(context / "null", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    assert sorted(builder.top(builder.build(context).image_id)) == ["all", "all/Dockerfile", "all/fifo", "all/null"]
    os.mknod(context / "whiteout", stat.S_IFCHR, 0)
    with pytest.raises(InvalidArgument, match="0:0"):
        builder.build(context)


def test_a_timestamp_makes_the_image_the_same_again(builder: Builder, context: Path, tmp_path: Path) -> None:
    write_context(context, "FROM base\nRUN mkdir /d && echo x > /d/f\nCOPY f /g/\nWORKDIR /w\n", {"f": "x"})
    first = builder.build(context, timestamp=1_700_000_000).image_id
    other = write_context(tmp_path / "other", (context / "Dockerfile").read_text(), {"f": "x"})
    assert builder.build(other, timestamp=1_700_000_000, no_cache=True).image_id == first
    assert {node.mtime for layer in builder.layers(first)[1:] for node in layer.values()} <= {OLD, 1_700_000_000}


def test_triggers_of_the_base_run_first_and_do_not_go_on(builder: Builder, context: Path, base_tar: Path) -> None:
    import_base(builder.store, base_tar, "trigger:latest", on_build=("RUN echo fired > /fired", "COPY f /f"))
    image = builder.build(write_context(context, "FROM trigger\nENV a=b\n", {"f": "x"})).image_id
    assert builder.text(image, "fired") == "fired\n"
    assert builder.store.images.get(image).config.config.on_build == ()
    assert "# Executing 2 build triggers" in builder.lines


def test_arguments_reach_commands_and_history_but_not_the_environment(builder: Builder, context: Path) -> None:
    text = "FROM base\nARG A=1\nARG B\nRUN echo $A$B$http_proxy > /x\n"
    arguments = {"B": "2", "http_proxy": "p", "other": "o"}
    image = builder.build(write_context(context, text), build_args=arguments).image_id
    assert builder.text(image, "x") == "12p\n"
    config = builder.store.images.get(image).config
    assert config.history[-1].created_by == "|2 A=1 B=2 /bin/sh -c echo $A$B$http_proxy > /x"
    assert not [entry for entry in config.config.env if entry.startswith(("A=", "B="))]
    assert "[Warning] One or more build-args [other] were not consumed" in builder.lines


def test_an_argument_that_looks_like_a_secret_is_warned_of(builder: Builder, context: Path) -> None:
    write_context(context, "FROM base\nARG GH_TOKEN\nENV a=b\n")
    builder.build(context, build_args={"GH_TOKEN": "x", "TOKENIZER": "y"})
    warned = [line for line in builder.lines if "SecretsUsedInArgOrEnv" in line]
    told = 'Do not use ARG or ENV instructions for sensitive data (ARG "GH_TOKEN") (line 2)'
    assert warned == [f"[Warning] SecretsUsedInArgOrEnv: {told}"]


def test_a_run_has_its_own_hosts_file_and_leaves_no_trace_of_it(builder: Builder, context: Path) -> None:
    host = Path("/etc/hosts").read_bytes()
    image = builder.build(
        write_context(context, "FROM base\nRUN echo 1.2.3.4 x >> /etc/hosts\nRUN cat /etc/hosts\n")
    ).image_id
    assert len(builder.layers(image)) == 1
    assert Path("/etc/hosts").read_bytes() == host
    assert b"1.2.3.4" not in builder.output


def test_the_network_can_be_taken_away(builder: Builder, context: Path) -> None:
    write_context(context, "FROM base\nRUN ls /sys/class/net\n")
    builder.build(context, network="none")
    assert builder.output.split() == [b"lo"]
    builder.build(context, network="host", no_cache=True)
    assert sorted(builder.output.decode().split()) == sorted(os.listdir("/sys/class/net"))
    with pytest.raises(InvalidArgument, match="network"):
        builder.build(context, network="bridge")


def test_contexts_come_as_streams(builder: Builder, context: Path) -> None:
    image = builder.build(io.BytesIO(b"FROM base\nENV a=b\n")).image_id
    assert "a=b" in builder.store.images.get(image).config.config.env
    write_context(context, "FROM base\nCOPY f /f\n", {"f": "x", ".dockerignore": "g", "g": ""})
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w:gz") as tar:
        tar.add(context, ".")
    raw.seek(0)
    assert builder.text(builder.build(raw).image_id, "f") == "x"


def test_the_dockerfile_may_lie_elsewhere_or_be_given_as_text(builder: Builder, context: Path, tmp_path: Path) -> None:
    write_context(context, "FROM nothere\n", {"f": "x", "sub/Other": "FROM base\nCOPY f /other\n"})
    assert "other" in builder.top(builder.build(context, dockerfile=context / "sub/Other").image_id)
    (tmp_path / "Away").write_text("FROM base\nCOPY f /away\n")
    assert "away" in builder.top(builder.build(context, dockerfile=tmp_path / "Away").image_id)
    assert "text" in builder.top(builder.build(context, dockerfile=b"FROM base\nCOPY f /text\n").image_id)
    with pytest.raises(NotFound):
        builder.build(context, dockerfile=tmp_path / "None")


def test_output_is_told_while_the_command_runs(builder: Builder, context: Path) -> None:
    builder.build(write_context(context, "FROM base\nRUN echo a; echo b >&2; head -c 300000 /dev/zero\n"))
    told = [event for event in builder.events if isinstance(event, Output)]
    assert {event.stream for event in told} == {"stdout", "stderr"}
    assert sum(len(event.data) for event in told) == 300_004


def test_a_reporter_that_fails_ends_the_build_cleanly(builder: Builder, context: Path) -> None:
    from lamella.build.executor import BuildOptions, build_image

    def report(event: object) -> None:
        if isinstance(event, Output):
            raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        build_image(builder.site, write_context(context, "FROM base\nRUN echo a\n"), BuildOptions(), report=report)


def test_scratch_images_can_have_files_or_settings_alone(builder: Builder, context: Path) -> None:
    image = builder.build(write_context(context, "FROM scratch\nCOPY f /d/f\n", {"f": "x"})).image_id
    assert sorted(builder.top(image)) == ["d", "d/f"]
    config = builder.store.images.get(builder.build(write_context(context, "FROM scratch\nENV a=b\n")).image_id).config
    assert config.diff_ids == ()
    assert config.config.env[0].startswith("PATH=")
    builder.build(context)
    assert any(isinstance(event, CacheUsed) for event in builder.events)
    with pytest.raises(InvalidArgument, match="No image was generated"):
        builder.build(write_context(context, "FROM scratch\n"))


KILLED = """
import sys
from pathlib import Path
from tests.support.building import Builder
builder = Builder(Path(sys.argv[1]))
print("ready", flush=True)
builder.build(Path(sys.argv[2]), tags=("killed:1",))
"""


def test_a_killed_build_is_undone_by_the_next_and_keeps_published_steps(builder: Builder, context: Path) -> None:
    write_context(context, "FROM base\nRUN echo first > /first; sleep 1.2\nRUN echo second > /second; sleep 600\n")
    child = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(builder.store.root.path), str(context)],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    assert child.stdout is not None
    assert child.stdout.readline() == b"ready\n"
    running = builder.site.state
    while not any((path / "pid").exists() and path.name != "oci" for path in running.glob("*")) or not list(
        builder.store.images.iter_children(builder.store.resolve("base"))
    ):
        assert child.poll() is None
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    (left,) = [path for path in running.glob("*") if len(path.name) == 64]
    sleeper = int((left / "pid").read_text())
    write_context(context, "FROM base\nRUN echo first > /first; sleep 1.2\nENV a=b\n")
    fresh = Builder(builder.store.root.path)
    fresh.build(context)
    assert fresh.hits == 1
    assert fresh.store.tags.find(parse_tagged("killed:1")) is None
    with pytest.raises(ProcessLookupError):
        os.kill(sleeper, 0)

"""RUN's mounts, networks and here-documents in real containers: what a command sees, and what is left of it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from lamella.build.commands import INPUTS_LABEL
from lamella.build.executor import BuildOptions, build_image
from lamella.build.relay import Relay
from lamella.build.request import RunLimits
from lamella.container.site import Site
from lamella.engine.store import Store
from lamella.errors import BuildFailed, CommandNotFound, InvalidArgument, NotFound
from lamella.model.ids import is_container_id
from lamella.store.cachemounts import CacheMounts
from lamella.store.imagestore import ImageStore
from tests.conftest import mounts_below
from tests.support.building import Builder, import_base, write_context
from tests.support.cli import Lamella
from tests.support.containers import eventually, processes_naming

if TYPE_CHECKING:
    from collections.abc import Generator

    from lamella.model.digest import ImageID


@pytest.fixture
def builder(store_root: Path, base_tar: Path) -> Generator[Builder]:
    builder = Builder(store_root)
    import_base(builder.store, base_tar)
    yield builder
    assert_nothing_is_left(builder)


@pytest.fixture
def context(tmp_path: Path) -> Path:
    return tmp_path / "context"


def assert_nothing_is_left(builder: Builder) -> None:
    root, state = builder.store.root.path, builder.site.state
    assert not mounts_below(root)
    assert not mounts_below(state)
    assert [path.name for path in (root / "lamella/tx").iterdir()] == []
    assert [path.name for path in state.glob("*") if path.name not in ("oci", "builds.lock")] == []
    live = {layer.cache_id for layer in builder.store.layers.iter_layers()}
    assert {path.name for path in (root / "overlay2").iterdir()} - {"l"} == live


def caches(builder: Builder) -> list[Path]:
    return sorted((builder.store.root.path / "lamella/cache-mounts").glob("*/data"))


def raw_of(builder: Builder, image: ImageID) -> str:
    return builder.store.images.get(image).raw.decode()


def names_of(builder: Builder, image: ImageID) -> set[str]:
    """Name what the steps on the base left."""
    return {name for layer in builder.layers(image)[1:] for name in layer}


# ------------------------------------------------------------------------------------------------------- bind


def test_a_bind_mount_shows_the_context_without_a_copy_in_the_image(builder: Builder, context: Path) -> None:
    text = "FROM base\nRUN --mount=type=bind,target=/src cat /src/a/f > /out\n"
    image = builder.build(write_context(context, text, {"a/f": "from the context"})).image_id
    assert builder.text(image, "out") == "from the context"
    assert names_of(builder, image) == {"out"}


def test_a_bind_mount_shows_a_part_of_the_context_and_single_files(builder: Builder, context: Path) -> None:
    text = (
        "FROM base\nWORKDIR /w\n"
        "RUN --mount=source=a,target=dir --mount=source=a/f,target=/one/file ls dir > /out && cat /one/file >> /out\n"
    )
    image = builder.build(write_context(context, text, {"a/f": "text", "b": ""})).image_id
    assert builder.text(image, "out") == "f\ntext"
    assert names_of(builder, image) == {"out", "w"}


def test_a_bind_mount_cannot_be_written(builder: Builder, context: Path) -> None:
    text = "FROM base\nRUN --mount=target=/src ! touch /src/new && ! touch /src/f\n"
    builder.build(write_context(context, text, {"f": ""}))
    assert not (context / "new").exists()


def test_what_is_written_to_a_writable_bind_mount_is_thrown_away(builder: Builder, context: Path) -> None:
    text = (
        "FROM base\n"
        "RUN --mount=target=/src,rw echo changed > /src/f && touch /src/new && cat /src/f > /out\n"
        "RUN --mount=target=/src cat /src/f >> /out && ! test -e /src/new\n"
    )
    image = builder.build(write_context(context, text, {"f": "as it was"})).image_id
    assert builder.text(image, "out") == "changed\nas it was"
    assert (context / "f").read_text() == "as it was"
    assert not (context / "new").exists()


def test_a_bind_mount_shows_what_copy_would_take(builder: Builder, context: Path) -> None:
    """Ignored files are not there, all is root's, and sockets stay outside."""
    files = {".dockerignore": "secret\nd/*\n!d/kept\n", "secret": "s", "d/kept": "k", "d/gone": "g", "f": ""}
    text = "FROM base\nRUN --mount=target=/src cd /src && find . | sort && stat -c %u:%g f\n"
    write_context(context, text, files)
    os.chown(context / "f", 12, 34)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(context / "agent"))
        builder.build(context)
    assert builder.output.decode().split() == [".", "./.dockerignore", "./Dockerfile", "./d", "./d/kept", "./f", "0:0"]


def test_no_link_leads_a_bind_mount_out_of_the_context(builder: Builder, context: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("hush")
    files = {"link": f"-> {tmp_path}/outside", "up": "-> ../outside", "d/f": "inside", "in": "-> /d"}
    write_context(context, "FROM base\nRUN --mount=source=in,target=/m cat /m/f\n", files)
    builder.build(context)
    assert builder.output == b"inside"
    for name in ("link", "up", "../outside"):
        write_context(context, f"FROM base\nRUN --mount=source={name},target=/m cat /m\n")
        with pytest.raises(NotFound, match="not found in the build context"):
            builder.build(context)
    write_context(context, "FROM base\nRUN --mount=target=/m cat /m/up\n")
    with pytest.raises(BuildFailed):
        builder.build(context)


def test_a_bind_mount_from_a_stage_or_an_image(builder: Builder, context: Path, base_tar: Path) -> None:
    import_base(builder.store, base_tar, "other:1")
    text = (
        "FROM base AS made\nRUN mkdir /d && echo one > /d/f\n"
        "FROM base\n"
        "RUN --mount=from=made,source=/d,target=/m cat /m/f > /out\n"
        "RUN --mount=from=made,target=/m,rw rm /m/d/f && touch /m/x && ls /m/d >> /out\n"
        "RUN --mount=from=other:1,source=bin/busybox,target=/m cmp /m /bin/busybox && ls -d /m >> /out\n"
        "RUN --mount=from=made,target=/m ! touch /m/x && cat /m/d/f >> /out\n"
    )
    image = builder.build(write_context(context, text)).image_id
    assert builder.text(image, "out") == "one\n/m\none\n"
    assert "m" not in names_of(builder, image)


def test_the_content_of_a_bind_mount_decides_about_the_cache(builder: Builder, context: Path) -> None:
    text = "FROM base\nRUN --mount=source=a,target=/m cat /m/f > /out\n"
    first = builder.build(write_context(context, text, {"a/f": "1", "b": "1"})).image_id
    (context / "b").write_text("2")
    (context / "a/f").touch()
    assert builder.build(context).image_id == first
    (context / "a/f").write_text("2")
    second = builder.build(context).image_id
    assert builder.text(second, "out") == "2"
    recorded = json.loads(raw_of(builder, second))
    assert INPUTS_LABEL in recorded["container_config"]["Labels"]
    assert INPUTS_LABEL not in (recorded["config"]["Labels"] or {})


def test_another_manner_of_mounting_is_another_step(builder: Builder, context: Path) -> None:
    text = "FROM base\nRUN --mount=target=/m true\n"
    first = builder.build(write_context(context, text)).image_id
    assert builder.build(write_context(context, text.replace("/m", "/n"))).image_id != first
    assert builder.build(write_context(context, text.replace("/m", "/m,rw"))).image_id != first
    assert builder.build(write_context(context, "FROM base\nRUN true\n")).image_id != first
    assert builder.hits == 0


def test_a_stage_that_changed_elsewhere_keeps_the_cache_of_a_part(builder: Builder, context: Path) -> None:
    text = (
        "FROM base AS made\nARG n\nRUN mkdir /d && echo f > /d/f && echo $n > /n\n"
        "FROM base\nRUN --mount=from=made,source=/d,target=/m cat /m/f\n"
    )
    first = builder.build(write_context(context, text), build_args={"n": "1"}).image_id
    assert builder.build(context, build_args={"n": "2"}).image_id == first


@pytest.mark.parametrize("target", ["/", "/a/..", "."])
def test_nothing_is_mounted_over_the_whole_root(builder: Builder, context: Path, target: str) -> None:
    with pytest.raises(InvalidArgument, match="invalid mount target"):
        builder.build(write_context(context, f"FROM base\nRUN --mount=target={target} true\n"))


def test_variables_are_replaced_in_mounts(builder: Builder, context: Path) -> None:
    text = "FROM base\nARG dir=a\nENV at=/m\nRUN --mount=source=$dir,target=${at}/x cat /m/x/f\n"
    builder.build(write_context(context, text, {"a/f": "found"}))
    assert builder.output == b"found"


# ------------------------------------------------------------------------------------------------ mount points


def test_mount_points_stay_out_of_the_layer(builder: Builder, context: Path) -> None:
    text = (
        "FROM base\n"
        "RUN --mount=target=/new/deep --mount=type=cache,target=/c/d --mount=type=tmpfs,target=/t/u "
        "--mount=type=secret,id=s touch /t/u/f && touch /c/d/f && ls /run/secrets/s\n"
    )
    image = builder.build(write_context(context, text), secrets={"s": b"x"}).image_id
    assert names_of(builder, image) == set()


def test_the_driver_that_copies_leaves_no_mount_points_either(store_root: Path, base_tar: Path, context: Path) -> None:
    store = ImageStore.open(store_root, driver="vfs")
    import_base(store, base_tar)
    text = (
        "FROM base\nRUN --mount=target=/new/deep,rw --mount=type=cache,target=/c --mount=type=secret,id=s "
        "echo x > /new/deep/f && cat /new/deep/f /run/secrets/s\n"
    )
    site, options = Site(store, store_root.parent / "state"), BuildOptions(secrets={"s": b"x"})
    image = build_image(site, write_context(context, text), options).image_id
    assert len(store.images.get(image).config.diff_ids) == 1


def test_what_a_command_makes_beside_a_mount_point_is_kept(builder: Builder, context: Path) -> None:
    text = "FROM base\nRUN --mount=type=cache,target=/root/.cache/pip touch /root/.cache/other /root/.cache/pip/f\n"
    image = builder.build(write_context(context, text)).image_id
    assert {name for name in names_of(builder, image) if "cache" in name} == {"root/.cache", "root/.cache/other"}


def test_a_mount_point_that_is_a_link_leads_nowhere_outside(builder: Builder, context: Path, tmp_path: Path) -> None:
    text = (
        f"FROM base\nRUN ln -s {tmp_path} /link\n"
        "RUN --mount=type=tmpfs,target=/link/sub --mount=type=secret,id=s,target=/link/file touch /link/sub/f\n"
    )
    builder.build(write_context(context, text), secrets={"s": b"x"})
    assert not (tmp_path / "sub").exists()
    assert not (tmp_path / "file").exists()


# ------------------------------------------------------------------------------------------------------ caches


def test_a_cache_outlives_the_build_and_is_in_no_layer(builder: Builder, context: Path) -> None:
    text = "FROM base\nARG n\nRUN --mount=type=cache,target=/c echo $n >> /c/log && cat /c/log\n"
    image = builder.build(write_context(context, text), build_args={"n": "1"}).image_id
    builder.build(context, build_args={"n": "2"})
    assert builder.output == b"1\n2\n"
    assert names_of(builder, image) == set()
    (data,) = caches(builder)
    assert (data / "log").read_text() == "1\n2\n"


def test_the_content_of_a_cache_does_not_decide_about_the_cache_of_steps(builder: Builder, context: Path) -> None:
    text = "FROM base\nRUN --mount=type=cache,target=/c echo x >> /c/log\n"
    first = builder.build(write_context(context, text)).image_id
    assert builder.build(context).image_id == first


def test_caches_are_told_apart_by_id_and_begin_as_asked(builder: Builder, context: Path) -> None:
    text = (
        "FROM base AS made\nRUN mkdir -m 711 /d && echo first > /d/f && chown 5:6 /d\n"
        "FROM base\n"
        "RUN --mount=type=cache,target=/c --mount=type=cache,id=two,target=/d touch /c/1 /d/2\n"
        "RUN --mount=type=cache,id=/c,target=/e ls /e > /out\n"
        "RUN --mount=type=cache,id=/c,target=/e,uid=7,gid=8,mode=0750 ls /e >> /out; stat -c '%a %u:%g' /e >> /out\n"
        "RUN --mount=type=cache,id=f,target=/e,from=made,source=/d cat /e/f >> /out; stat -c '%a %u:%g' /e >> /out\n"
        "RUN --mount=type=cache,id=two,target=/e,ro ls /e >> /out; ! touch /e/x\n"
    )
    image = builder.build(write_context(context, text)).image_id
    assert builder.text(image, "out").splitlines() == ["1", "750 7:8", "first", "711 5:6", "2"]
    assert len(caches(builder)) == 4


def test_one_cache_may_be_mounted_twice_and_nested(builder: Builder, context: Path) -> None:
    text = (
        "FROM base\n"
        "RUN --mount=type=cache,id=a,target=/c,sharing=locked --mount=type=cache,id=a,target=/d,sharing=locked "
        "--mount=type=cache,id=b,target=/c/inner touch /c/f /c/inner/g && ls /d/f\n"
    )
    builder.build(write_context(context, text))
    assert builder.output == b"/d/f\n"


def hold_cache(builder: Builder, sharing: str, found: list[Path], *, key: str = "a" * 64) -> threading.Thread:
    """Begin to use a cache in another thread and give it up at once."""

    def work() -> None:
        caches = CacheMounts(builder.store.root.lamella_dir)
        with caches.hold(key, "c", sharing, fill=lambda _: None, before_waiting=lambda: None) as path:
            found.append(path)

    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_a_locked_cache_is_waited_for_a_shared_one_not_and_a_private_one_is_doubled(builder: Builder) -> None:
    mounts = CacheMounts(builder.store.root.lamella_dir)
    builder.store.root.lamella_dir.mkdir(exist_ok=True)
    waited: list[str] = []
    for sharing, other in (("shared", "shared"), ("private", "private"), ("locked", "locked")):
        found: list[Path] = []
        with mounts.hold(
            "a" * 64, "c", sharing, fill=lambda _: None, before_waiting=lambda: waited.append("waits")
        ) as held:
            thread = hold_cache(builder, other, found)
            if sharing == "locked":
                thread.join(0.2)
                assert not found
            else:
                thread.join()
                assert (found == [held]) == (sharing == "shared")
        thread.join()
        assert len(found) == 1
    assert not waited


def test_two_builds_at_once_take_turns_with_a_locked_cache(builder: Builder, context: Path) -> None:
    text = (
        "FROM base\nARG n\n"
        "RUN --mount=type=cache,target=/c,sharing=locked mkdir /c/alone && sleep 0.2 && rmdir /c/alone && echo $n\n"
    )
    write_context(context, text)
    root, state = builder.store.root.path, builder.site.state
    lines = [[BUILD, str(root), str(state), str(context), json.dumps({"build_args": {"n": str(n)}})] for n in range(3)]
    children = [subprocess.Popen([sys.executable, "-c", *line]) for line in lines]
    assert [child.wait(60) for child in children] == [0, 0, 0]


def test_pruning_frees_what_caches_hold_and_says_so(builder: Builder, context: Path) -> None:
    text = "FROM base\nRUN --mount=type=cache,target=/c dd if=/dev/zero of=/c/f bs=1000 count=5000 2>/dev/null\n"
    builder.build(write_context(context, text), tags=("kept",))
    (data,) = caches(builder)
    command = Lamella(builder.store.root.path)
    assert command.run("builder", "prune", "-f", "--filter", "until=1h") == "Total reclaimed space: 0B"
    key = data.parent.name
    printed = command.run("builder", "prune", "--force")
    assert printed == f"Deleted build cache objects:\n{key}\n\nTotal reclaimed space: 5MB"
    assert not caches(builder)
    assert builder.build(context).image_id == builder.store.resolve("kept")


def test_pruning_everything_removes_steps_that_no_name_needs(builder: Builder, context: Path) -> None:
    builder.build(write_context(context, "FROM base\nRUN echo kept > /f\n"), tags=("kept",))
    unnamed = builder.build(write_context(context, "FROM base\nRUN echo gone > /f\n")).image_id
    with Store.open(builder.store.root.path, state=builder.site.state) as store:
        assert store.prune_build_cache().removed == ()
        report = store.prune_build_cache(everything=True)
        assert list(report.removed) == [unnamed]
        assert report.reclaimed == len("gone\n")
        assert store.find_image("kept") is not None
        assert store.find_image("base") is not None


def test_pruning_spares_a_cache_in_use(builder: Builder) -> None:
    builder.store.root.lamella_dir.mkdir(exist_ok=True)
    mounts = CacheMounts(builder.store.root.lamella_dir)
    with mounts.hold("b" * 64, "c", "shared", fill=lambda _: None, before_waiting=lambda: None):
        assert [cache.in_use for cache in mounts.iter_mounts()] == [True]
        assert mounts.remove("b" * 64) is None
    assert mounts.remove("b" * 64) == 0
    assert list(mounts.iter_mounts()) == []


def test_a_first_content_that_fails_leaves_no_cache(builder: Builder, context: Path) -> None:
    text = "FROM base\nRUN --mount=type=cache,target=/c,from=base,source=/bin/busybox true\n"
    with pytest.raises(InvalidArgument, match="is not a directory"):
        builder.build(write_context(context, text))
    assert not caches(builder)


# ------------------------------------------------------------------------------------------- tmpfs, secrets, ssh


def test_a_tmpfs_is_as_large_as_asked_and_vanishes(builder: Builder, context: Path) -> None:
    text = (
        "FROM base\n"
        "RUN --mount=type=tmpfs,target=/t,size=1m echo '#!/bin/sh' > /t/p && chmod +x /t/p && /t/p && "
        "! dd if=/dev/zero of=/t/f bs=64k count=32 2>/dev/null\n"
    )
    assert names_of(builder, builder.build(write_context(context, text)).image_id) == set()


SECRET = b"hush-4711"


def all_bytes_below(*places: Path) -> bytes:
    found = b""
    for place in places:
        for path in place.rglob("*"):
            if path.is_file() and not path.is_symlink():
                found += path.read_bytes()
    return found


def test_a_secret_is_seen_by_its_command_alone(builder: Builder, context: Path) -> None:
    text = (
        "FROM base\n"
        "RUN --mount=type=secret,id=token wc -c < /run/secrets/token; stat -c '%a %u:%g' /run/secrets/token\n"
        "RUN --mount=type=secret,id=token,target=/etc/t,uid=3,gid=4,mode=0440 stat -c '%a %u:%g' /etc/t\n"
        "RUN --mount=type=secret,id=token,env=TOKEN test ${#TOKEN} = 9 && ! test -e /run/secrets/token\n"
        'RUN ! test -e /run/secrets/token && ! test -e /etc/t && test -z "$TOKEN"\n'
    )
    image = builder.build(write_context(context, text), secrets={"token": SECRET}).image_id
    assert builder.output == b"9\n400 0:0\n440 3:4\n"
    assert SECRET not in all_bytes_below(builder.store.root.path / "image", builder.site.state)
    assert all(set(layer) == set() for layer in builder.layers(image)[1:])


def test_a_secret_decides_nothing_about_the_cache(builder: Builder, context: Path) -> None:
    text = "FROM base\nRUN --mount=type=secret,id=s,env=S --mount=type=ssh true\n"
    first = builder.build(write_context(context, text), secrets={"s": b"1"}).image_id
    assert builder.build(context, secrets={"s": b"2"}).image_id == first
    assert builder.build(context).image_id == first


def test_a_secret_that_is_not_given_is_missed_only_if_required(builder: Builder, context: Path) -> None:
    builder.build(write_context(context, "FROM base\nRUN --mount=type=secret,id=s ! test -e /run/secrets/s\n"))
    write_context(context, "FROM base\nRUN --mount=type=secret,id=s,required true\n")
    with pytest.raises(NotFound, match="secret s: not found; give it with --secret id=s,src=FILE"):
        builder.build(context)
    write_context(context, "FROM base\nRUN --mount=type=ssh,required true\n")
    with pytest.raises(NotFound, match="give it with --ssh default"):
        builder.build(context)


def test_an_agent_is_reached_through_its_socket(builder: Builder, context: Path, tmp_path: Path) -> None:
    """Under the user that asks for it, too: then a socket of its own hands on to the agent's."""
    path = tmp_path / "agent"
    text = (
        "FROM base\n"
        "RUN --mount=type=ssh test -S $SSH_AUTH_SOCK && echo $SSH_AUTH_SOCK\n"
        "RUN --mount=type=ssh,id=two,uid=1234,target=/tmp/a test -S $SSH_AUTH_SOCK && stat -c %n:%a:%u $SSH_AUTH_SOCK\n"
        "RUN test -z $SSH_AUTH_SOCK && ! test -e /tmp/a\n"
    )
    with socket.socket(socket.AF_UNIX) as agent:
        agent.bind(str(path))
        image = builder.build(write_context(context, text), ssh={"default": path, "two": path}).image_id
    assert builder.output == b"/run/buildkit/ssh_agent.0\n/tmp/a:600:1234\n"
    assert names_of(builder, image) == set()
    assert str(path) not in raw_of(builder, image)


def test_a_relay_hands_on_what_both_ends_say(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as agent, Relay(tmp_path / "relay", tmp_path / "agent") as relay:
        agent.bind(str(tmp_path / "agent"))
        agent.listen()
        relay.start()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(tmp_path / "relay"))
            served, _ = agent.accept()
            with served:
                client.sendall(b"sign this")
                assert served.recv(100) == b"sign this"
                served.sendall(b"signed")
                assert client.recv(100) == b"signed"
                client.shutdown(socket.SHUT_WR)
                assert served.recv(100) == b""
    assert not (tmp_path / "relay").exists()


def test_the_command_line_reads_secrets_and_agents(
    builder: Builder, context: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (
        "FROM base\n"
        "RUN --mount=type=secret,id=a,env=A --mount=type=secret,id=b,env=B --mount=type=secret,id=C,env=C echo $A-$B-$C\n"
        "RUN grep 'box' /etc/hosts && df -k /dev/shm | tail -1 | tr -s ' ' | cut -d' ' -f2 && ulimit -n\n"
    )
    write_context(context, text)
    (tmp_path / "file").write_text("one")
    monkeypatch.setenv("TWO", "two")
    monkeypatch.setenv("C", "three")
    command = Lamella(builder.store.root.path)
    flags = ("--secret", f"id=a,src={tmp_path}/file", "--secret", "type=env,id=b,env=TWO", "--secret", "id=C")
    limits = ("--add-host", "box:10.1.2.3", "--shm-size", "2m", "--ulimit", "nofile=99:100")
    done = command.try_run("build", *flags, *limits, str(context))
    assert done.returncode == 0, done.stderr
    assert {"one-two-three", "10.1.2.3\tbox", "2048", "99"} <= set((done.stdout + done.stderr).splitlines())
    assert "no variable NONE" in command.try_run("build", "--secret", "id=x,env=NONE", str(context)).stderr
    assert "SSH_AUTH_SOCK is not set" in command.try_run("build", "--ssh", "default", str(context)).stderr


# ------------------------------------------------------------------------------------ networks, proxies, programs


def test_a_command_may_have_no_network(builder: Builder, context: Path) -> None:
    text = "FROM base\nRUN --network=none ls /sys/class/net\nRUN --network=host ls /sys/class/net | wc -l\nRUN true\n"
    builder.build(write_context(context, text))
    first, _, rest = builder.output.partition(b"\n")
    assert first == b"lo"
    assert int(rest) == len(os.listdir("/sys/class/net"))
    builder.build(context, network="none")
    assert builder.hits == 3


def test_limits_reach_the_command(builder: Builder, context: Path) -> None:
    limits = RunLimits(add_hosts=("a:10.0.0.9",), shm_size=1 << 20, ulimits=(("nofile", 55, 66),))
    text = "FROM base\nRUN grep 10.0.0.9 /etc/hosts && df -k /dev/shm | tail -1 && ulimit -n\n"
    builder.build(write_context(context, text), limits=limits)
    words = builder.output.split()
    assert words[:2] == [b"10.0.0.9", b"a"]
    assert b"1024" in words
    assert words[-1] == b"55"


def test_proxies_reach_commands_but_no_record(builder: Builder, context: Path) -> None:
    text = "FROM base\nRUN echo $HTTP_PROXY $https_proxy\n"
    image = builder.build(
        write_context(context, text), build_args={"HTTP_PROXY": "http://me:pass@p", "https_proxy": "q"}
    )
    assert builder.output == b"http://me:pass@p q\n"
    assert "me:pass" not in raw_of(builder, image.image_id)
    assert builder.build(context, build_args={"HTTP_PROXY": "another"}).image_id == image.image_id


def test_a_here_document_is_run_by_the_shell_or_as_a_program(builder: Builder, context: Path) -> None:
    text = (
        "FROM base\n"
        "RUN <<EOF\nx=1\necho shell $x\nEOF\n"
        "RUN <<-'EOF'\n\t#!/bin/cat\n\tprinted $by cat\n\tEOF\n"
        "RUN cat <<one - <<two\nfirst\none\nsecond\ntwo\n"
        'SHELL ["/bin/busybox", "sh", "-ec"]\n'
        "RUN <<EOF\nfalse\necho not here\nEOF\n"
    )
    write_context(context, text)
    with pytest.raises(BuildFailed) as failed:
        builder.build(context)
    assert failed.value.exit_code == 1
    assert builder.output == b"shell 1\n#!/bin/cat\nprinted $by cat\nsecond\n"


def test_a_program_in_the_dockerfile_counts_for_the_cache_and_leaves_nothing(builder: Builder, context: Path) -> None:
    text = "FROM base\nRUN <<EOF\n#!/bin/sh\necho one\nls /dev/pipes\nEOF\n"
    image = builder.build(write_context(context, text)).image_id
    assert builder.output == b"one\nEOF\n"
    assert names_of(builder, image) == set()
    assert builder.build(context).image_id == image
    builder.build(write_context(context, text.replace("one", "two")))
    assert builder.output == b"two\nEOF\n"


# ---------------------------------------------------------------------------------------------------- failures


@pytest.mark.parametrize(
    ("text", "code", "hint"),
    [
        ("FROM base\nRUN echo last words; nosuchprogram\n", 127, "127: a program was not found in the image"),
        ("FROM base\nRUN /etc/hosts\n", 126, "126: a program was found but cannot be executed"),
        ("FROM base\n\n\nRUN echo out; echo err >&2; exit 3\n", 3, "line 4: RUN echo out"),
    ],
)
def test_a_failure_says_which_step_and_what_it_said_last(
    builder: Builder, context: Path, text: str, code: int, hint: str
) -> None:
    with pytest.raises(BuildFailed) as failed:
        builder.build(write_context(context, text))
    assert failed.value.exit_code == code
    notes = "\n".join(failed.value.__notes__)
    assert hint in notes
    assert "step 2/2" in notes
    assert "last lines:" in notes


def test_an_image_without_a_shell_gets_a_hint(builder: Builder, context: Path) -> None:
    for text, hint in (
        ("FROM scratch\nRUN true\n", "FROM scratch"),
        ('FROM base\nSHELL ["/bin/bash", "-c"]\nRUN true\n', "is /bin/bash in the image?"),
    ):
        with pytest.raises(CommandNotFound) as failed:
            builder.build(write_context(context, text))
        assert hint in "\n".join(failed.value.__notes__)


# ----------------------------------------------------------------------------------------------------- crashes

BUILD = (
    "import sys, json; from pathlib import Path; from lamella.build.executor import BuildOptions, build_image;"
    "from lamella.container.site import Site; from lamella.store.imagestore import ImageStore;"
    "options = json.loads(sys.argv[4]);"
    "options['secrets'] = {key: value.encode() for key, value in options.get('secrets', {}).items()};"
    "build_image(Site(ImageStore.open(Path(sys.argv[1])), Path(sys.argv[2])), Path(sys.argv[3]), BuildOptions(**options))"
)


def test_a_build_killed_in_a_command_leaves_caches_whole_and_nothing_else(builder: Builder, context: Path) -> None:
    root, state = builder.store.root.path, builder.site.state
    text = (
        "FROM base AS made\nRUN echo a > /f\nFROM base\n"
        "RUN --mount=type=cache,target=/c,sharing=locked --mount=target=/src,rw --mount=from=made,target=/m "
        "--mount=type=secret,id=s touch /c/before /src/x && echo whole > /c/f && sleep 31337\n"
    )
    write_context(context, text)
    line = [
        sys.executable,
        "-c",
        BUILD,
        str(root),
        str(state),
        str(context),
        json.dumps({"secrets": {"s": "hush-4712"}}),
    ]
    with subprocess.Popen(line) as child:
        eventually(lambda: [path for path in caches(builder) if (path / "f").exists()])
        child.send_signal(signal.SIGKILL)
    assert mounts_below(root)
    builder = Builder(root)  # as the next command opens it
    builder.build(write_context(context, "FROM base\nRUN --mount=type=cache,target=/c,sharing=locked cat /c/f\n"))
    assert builder.output == b"whole\n"
    assert_nothing_is_left(builder)
    assert b"hush-4712" not in all_bytes_below(state, root / "lamella")
    eventually(lambda: not processes_naming("sleep 31337"))
    assert not [name for name in os.listdir(state) if is_container_id(name)]


def test_a_removal_of_caches_that_was_killed_is_finished(builder: Builder) -> None:
    directory = builder.store.root.lamella_dir / "cache-mounts"
    left = directory / f"gone-{'c' * 64}-1"
    (left / "data").mkdir(parents=True)
    half = directory / ("d" * 64)
    (half / "new-1").mkdir(parents=True)
    mounts = CacheMounts(builder.store.root.lamella_dir)
    mounts.sweep()
    assert not left.exists()
    with mounts.hold("d" * 64, "d", "shared", fill=lambda _: None, before_waiting=lambda: None) as data:
        assert data.is_dir()
        assert not (half / "new-1").exists()

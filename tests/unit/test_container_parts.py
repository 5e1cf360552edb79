"""A container's parts that need no process: users, states, volumes, signals, network files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamella.container.netfiles import format_hosts, format_resolv
from lamella.container.sandbox import process_environment
from lamella.container.signals import parse_signal
from lamella.container.state import TRANSITIONS, Event, State, advance
from lamella.container.users import User, parse_id, resolve_group, resolve_user
from lamella.container.volumes import Planned, anonymous_volumes, check_volume_name, plan_mounts
from lamella.errors import Conflict, InvalidArgument, LamellaError, NotFound
from lamella.fs.rooted import Root

# ------------------------------------------------------------------------------------------------------------ users


@pytest.fixture
def image(tmp_path: Path) -> Path:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text(
        "root:x:0:0:root:/root:/bin/sh\n"
        "# a comment\n"
        "broken line\n"
        "alice:x:1000:1001::/home/alice:/bin/sh\n"
        "5:x:77:78::/five:/bin/sh\n"
        "huge:x:99999999999:1::/:/bin/sh\n"
    )
    (tmp_path / "etc/group").write_text("root:x:0:\nstaff:x:50:alice,bob\nwheel:x:10:alice\nusers:x:1001:\n")
    return tmp_path


def looked_up(image: Path, text: str, *add: str) -> User:
    with Root(image) as root:
        return resolve_user(root, text, add)


def test_users_are_looked_up_as_docker_does(image: Path) -> None:
    assert looked_up(image, "") == User(0, 0, (), "/root")
    assert looked_up(image, "alice") == User(1000, 1001, (50, 10), "/home/alice")
    assert looked_up(image, "1000") == User(1000, 1001, (50, 10), "/home/alice")
    assert looked_up(image, "alice:wheel") == User(1000, 10, (), "/home/alice")
    assert looked_up(image, "alice:4242") == User(1000, 4242, (), "/home/alice")
    assert looked_up(image, "4711") == User(4711, 0, (), "/")
    assert looked_up(image, "4711", "wheel", "9") == User(4711, 0, (10, 9), "/")


def test_a_number_is_never_a_name(image: Path) -> None:
    assert looked_up(image, "5") == User(5, 0, (), "/")


@pytest.mark.parametrize("text", ["2147483648", "-1", "99999999999999999999", "+3"])
def test_numbers_out_of_range_are_refused(image: Path, text: str) -> None:
    with pytest.raises(InvalidArgument, match="out of range"):
        looked_up(image, text)


@pytest.mark.parametrize("text", ["nobody", "alice:nogroup", "huge", "broken line", "٣"])
def test_names_the_image_does_not_know(image: Path, text: str) -> None:
    with pytest.raises(NotFound, match="unable to find"):
        looked_up(image, text)


def test_hostile_files_are_bounded_and_confined(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("evil:x:0:0::/:/bin/sh\n")
    image = tmp_path / "image"
    (image / "etc").mkdir(parents=True)
    passwd = image / "etc/passwd"
    passwd.symlink_to(outside)
    with pytest.raises(NotFound):
        looked_up(image, "evil")
    passwd.unlink()
    os.mkfifo(passwd)
    with pytest.raises(InvalidArgument, match="not a regular file"):
        looked_up(image, "evil")
    passwd.unlink()
    passwd.write_bytes(b"a" * (2 << 20) + b":x:1:1::/:\n")
    with pytest.raises(InvalidArgument, match="line of"):
        looked_up(image, "evil")
    passwd.write_bytes(b"a:x:1:1::/:\n" * (1 << 20))
    with pytest.raises(InvalidArgument, match="larger than"):
        looked_up(image, "evil")


@given(st.binary(max_size=400), st.text(max_size=8))
def test_no_content_of_the_files_makes_the_look_up_fall_over(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, text: str
) -> None:
    image = tmp_path_factory.mktemp("image")
    (image / "etc").mkdir()
    (image / "etc/passwd").write_bytes(content)
    (image / "etc/group").write_bytes(content)
    with Root(image) as root:
        try:
            user = resolve_user(root, text)
            group = resolve_group(root, text or "0")
        except LamellaError:
            return
    assert 0 <= user.uid < 2**31
    assert 0 <= group < 2**31


def test_parse_id() -> None:
    assert parse_id("0", "user") == 0
    assert parse_id("root", "user") is None
    assert parse_id("1a", "user") is None


# ----------------------------------------------------------------------------------------------------------- states


def test_every_state_can_be_left_and_reached() -> None:
    assert {state for state, _ in TRANSITIONS} == set(State)
    assert set(TRANSITIONS.values()) | {State.CREATED, State.RESTARTING} == set(State)


def test_what_cannot_happen_is_a_conflict_that_names_the_container() -> None:
    assert advance(State.CREATED, Event.START, "c") is State.RUNNING
    with pytest.raises(Conflict, match="cannot remove container web: container is running"):
        advance(State.RUNNING, Event.REMOVE, "web")
    for state in State:
        for event in Event:
            if (state, event) not in TRANSITIONS:
                with pytest.raises(Conflict):
                    advance(state, event, "c")


# ---------------------------------------------------------------------------------------------------------- volumes


def plan(
    *binds: str,
    volumes: tuple[str, ...] = (),
    tmpfs: dict[str, str] | None = None,
    mounts: tuple[dict[str, object], ...] = (),
) -> list[Planned]:
    return plan_mounts(binds=binds, image_volumes=volumes, mounts=mounts, tmpfs=tmpfs or {})


def test_mount_requests() -> None:
    assert plan("/a:/b") == [Planned("bind", "/a", "/b", writable=True, propagation="rprivate")]
    assert plan("/a/../c:/b:ro,rslave") == [Planned("bind", "/c", "/b", writable=False, propagation="rslave")]
    assert plan("name:/b:nocopy") == [Planned("volume", "name", "/b", copy=False)]
    assert plan("/b/") == [Planned("volume", "", "/b")]
    assert plan("name:/data", volumes=("/data", "/more")) == [
        Planned("volume", "name", "/data"),
        Planned("volume", "", "/more"),
    ]
    assert plan(tmpfs={"/t": "size=1m,mode=700"}) == [Planned("tmpfs", "", "/t", options=("size=1m", "mode=700"))]
    assert plan(mounts=({"Type": "volume", "Source": "v", "Target": "/v", "ReadOnly": True},)) == [
        Planned("volume", "v", "/v", writable=False)
    ]


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "a:",
        ":b",
        "a:b",
        "/a:b",
        "/a:/b:fast",
        "/a:/b:ro:x",
        "a/b:/c",
        "../x:/c",
        ".x:/c",
        "/a:/",
        "metadata.db:/x",
    ],
)
def test_mount_requests_that_are_refused(text: str) -> None:
    with pytest.raises(InvalidArgument):
        plan(text)


def test_two_mounts_on_one_place_are_refused() -> None:
    with pytest.raises(InvalidArgument, match="Duplicate mount point: /x"):
        plan("a:/x", "b:/x/.")


@given(st.text(max_size=12))
def test_a_volume_name_is_one_harmless_component(name: str) -> None:
    try:
        check_volume_name(name)
    except InvalidArgument:
        return
    assert "/" not in name
    assert not name.startswith(".")
    assert name.isascii()


def test_only_anonymous_volumes_belong_to_the_container() -> None:
    table: dict[str, object] = {
        "/a": {"Type": "volume", "Name": "f" * 64, "Spec": {"Source": ""}},
        "/b": {"Type": "volume", "Name": "named", "Spec": {"Source": "named"}},
        "/c": {"Type": "bind", "Source": "/c", "Name": "", "Spec": {"Source": "/c"}},
    }
    assert anonymous_volumes(table) == ["f" * 64]


# ---------------------------------------------------------------------------------------------------- the small ones


def test_signals() -> None:
    assert parse_signal("SIGTERM") == parse_signal("term") == parse_signal("15") == 15
    assert parse_signal("RTMIN+3") == 37
    assert parse_signal("SIGRTMAX-1") == 63
    for bad in ("", "0", "65", "999999", "SIGFISH", "RTMIN+99", "RTMIN*1", "-1"):
        with pytest.raises(InvalidArgument, match="invalid signal"):
            parse_signal(bad)


def test_environment() -> None:
    found = process_environment(["A=1", "A=2", "PATH=/x", "B"], hostname="h", terminal=True, home="/r", extra=["A=3"])
    assert found == ["PATH=/x", "HOSTNAME=h", "TERM=xterm", "A=3", "HOME=/r"]
    assert "HOME=/mine" in process_environment(["HOME=/mine"], hostname="h", terminal=False, home="/r")


def test_hosts() -> None:
    text = format_hosts("none", "1.1.1.1 host\n", ["db:10.0.0.1", "six:[::1]", "seven=::2"])
    assert text.startswith("127.0.0.1\tlocalhost\n")
    assert text.endswith("10.0.0.1\tdb\n::1\tsix\n::2\tseven\n")
    assert format_hosts("host", "1.1.1.1 host", []) == "1.1.1.1 host\n"
    with pytest.raises(InvalidArgument, match="bad format for add-host"):
        format_hosts("none", "", ["nothing"])


def test_resolv_conf() -> None:
    host = "# c\nnameserver 9.9.9.9\nsearch a\noptions x\n"
    assert format_resolv(host, [], [], []) == host
    assert format_resolv(host, ["1.1.1.1"], [], ["ndots:2"]) == "# c\nsearch a\nnameserver 1.1.1.1\noptions ndots:2\n"
    assert format_resolv(host, [], ["."], []) == "# c\nnameserver 9.9.9.9\noptions x\n"

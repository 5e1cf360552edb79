"""Docker's JSON and lists, from records: golden values are those of dockerd 20.10 on the same records."""

from __future__ import annotations

import json

import pytest

from lamella.engine.layers import steps_of_layers
from lamella.engine.views.container import command_line, container_document, mount_list, state_word, status_line
from lamella.engine.views.image import MISSING, ImageFacts, image_document, plan_history
from lamella.model.digest import DiffID, Digest, ImageID, digest_of
from lamella.model.gojson import ZERO_TIME, parse_time
from lamella.model.imageconfig import History, decode_image_config
from lamella.model.reference import parse_reference
from lamella.store.imagedb import StoredImage

LAYER = DiffID(Digest("sha256:" + "1" * 64))
NOW = parse_time("2026-11-25T03:20:00Z")
SETTINGS = {
    "Hostname": "",
    "Domainname": "",
    "User": "",
    "AttachStdin": False,
    "AttachStdout": False,
    "AttachStderr": False,
    "Tty": False,
    "OpenStdin": False,
    "StdinOnce": False,
    "Env": None,
    "Cmd": None,
    "Image": "",
    "Volumes": None,
    "WorkingDir": "",
    "Entrypoint": None,
    "OnBuild": None,
    "Labels": None,
}


def stored(**more: object) -> StoredImage:
    raw = json.dumps(
        {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [LAYER]}, **more}
    )
    return StoredImage(
        ImageID(digest_of(raw.encode())), raw.encode(), decode_image_config(raw.encode()), None, None, False
    )


def facts(*references: str) -> ImageFacts:
    return ImageFacts([parse_reference(text) for text in references], 12, "overlay2", {"UpperDir": "/u"})


def test_an_images_document_has_dockers_keys_in_order() -> None:
    document = image_document(stored(created="2026-01-01T00:00:00Z", author="a", comment="c"), facts("b:1", "a:2"))
    assert list(document) == [
        "Id", "RepoTags", "RepoDigests", "Parent", "Comment", "Created", "Container", "ContainerConfig",
        "DockerVersion", "Author", "Config", "Architecture", "Os", "Size", "VirtualSize", "GraphDriver", "RootFS", "Metadata",
    ]  # fmt: skip
    assert document["RepoTags"] == ["a:2", "b:1"]
    assert document["RepoDigests"] == []
    assert document["Config"] == document["ContainerConfig"] == SETTINGS
    assert list(document["Config"]) == list(SETTINGS)
    assert document["GraphDriver"] == {"Data": {"UpperDir": "/u"}, "Name": "overlay2"}
    assert document["RootFS"] == {"Type": "layers", "Layers": [LAYER]}
    assert document["Metadata"] == {"LastTagTime": ZERO_TIME}
    assert document["Size"] == document["VirtualSize"] == 12


def test_an_image_tells_tags_from_digests_and_its_variant() -> None:
    digest = "sha256:" + "d" * 64
    document = image_document(stored(variant="v8"), facts(f"a@{digest}", "a:1"))
    assert document["RepoTags"] == ["a:1"]
    assert document["RepoDigests"] == [f"a@{digest}"]
    assert list(document)[12:14] == ["Variant", "Os"]
    assert document["Created"] == ZERO_TIME


def test_empty_and_absent_settings_are_told_apart_as_docker_does() -> None:
    config = image_document(stored(config={"Labels": {}, "Env": [], "Cmd": []}), facts())["Config"]
    assert isinstance(config, dict)
    assert (config["Labels"], config["Env"], config["Cmd"], config["Volumes"]) == ({}, [], [], None)


def test_history_goes_from_the_newest_and_follows_the_parents() -> None:
    history = [
        History(created_by="base", created="2026-01-01T00:00:00Z"),
        History(created_by="ENV", empty_layer=True),
        History(created_by="RUN"),
        History(created_by="CMD", empty_layer=True),
    ]
    steps = plan_history(history, [100, 3], [("top", ("a:1",)), ("mid", ())])
    assert [(step.image_id, step.created_by, step.size) for step in steps] == [
        ("top", "CMD", 0), ("mid", "RUN", 3), (MISSING, "ENV", 0), (MISSING, "base", 100),
    ]  # fmt: skip
    assert steps[0].tags == ("a:1",)
    made = steps_of_layers(steps, 2)
    assert [step.created_by for step in made if step] == ["base", "RUN"]
    assert steps_of_layers(steps, 3)[2] is None
    assert plan_history([], [1, 2], [("top", ())]) == []


@pytest.mark.parametrize(
    ("state", "word", "status"),
    [
        ({}, "created", "Created"),
        ({"Running": True, "StartedAt": "2026-11-25T03:19:58Z"}, "running", "Up 2 seconds"),
        (
            {"Running": True, "StartedAt": "2026-11-25T03:19:58Z", "Health": {"Status": "starting"}},
            "running",
            "Up 2 seconds (health: starting)",
        ),
        ({"Running": True, "StartedAt": "2026-11-25T01:20:00Z", "Paused": True}, "paused", "Up 2 hours (Paused)"),
        (
            {"Running": True, "Restarting": True, "ExitCode": 3, "FinishedAt": "2026-11-25T03:19:58Z"},
            "restarting",
            "Restarting (3) 2 seconds ago",
        ),
        (
            {"StartedAt": "2026-11-25T01:20:00Z", "FinishedAt": "2026-11-25T03:19:00Z", "ExitCode": 137},
            "exited",
            "Exited (137) About a minute ago",
        ),
        ({"StartedAt": "2026-11-25T01:20:00Z", "FinishedAt": ZERO_TIME}, "exited", ""),
        ({"Dead": True}, "dead", "Dead"),
        ({"RemovalInProgress": True}, "removing", "Removal In Progress"),
    ],
)
def test_states_and_statuses_are_dockers(state: dict[str, object], word: str, status: str) -> None:
    assert state_word(state) == word
    assert status_line(state, NOW) == status


def test_a_containers_document_has_dockers_keys_in_order() -> None:
    record = {
        "ID": "f" * 64,
        "Name": "/x",
        "Config": {"Tty": False},
        "NetworkSettings": {"Networks": {"none": {}}},
        "Driver": "overlay2",
    }
    document = container_document(record, {"NetworkMode": "none"}, directories=None)
    assert list(document) == [
        "Id", "Created", "Path", "Args", "State", "Image", "ResolvConfPath", "HostnamePath", "HostsPath", "LogPath", "Name",
        "RestartCount", "Driver", "Platform", "MountLabel", "ProcessLabel", "AppArmorProfile", "ExecIDs", "HostConfig",
        "GraphDriver", "Mounts", "Config", "NetworkSettings",
    ]  # fmt: skip
    assert next(iter(document["State"])) == "Status"  # type: ignore[call-overload]
    network = document["NetworkSettings"]
    assert isinstance(network, dict)
    assert list(network)[-1] == "Networks"
    assert network["Ports"] == {}
    assert network["Networks"]["none"]["NetworkID"] == ""
    assert document["Args"] == []
    sized = container_document(record, {}, directories=None, size=5, image_size=100)
    assert (sized["SizeRw"], sized["SizeRootFs"]) == (5, 105)


def test_mounts_are_a_list_by_destination() -> None:
    points: dict[str, object] = {
        "/b": {"Type": "volume", "Name": "v", "Source": "/s", "Destination": "/b", "Driver": "local", "RW": True},
        "/a": {
            "Type": "bind",
            "Source": "/h",
            "Destination": "/a",
            "Mode": "ro",
            "RW": False,
            "Propagation": "rprivate",
        },
    }
    assert mount_list(points) == [
        {"Type": "bind", "Source": "/h", "Destination": "/a", "Mode": "ro", "RW": False, "Propagation": "rprivate"},
        {"Type": "volume", "Name": "v", "Source": "/s", "Destination": "/b", "Driver": "local", "Mode": "", "RW": True, "Propagation": ""},
    ]  # fmt: skip


def test_a_command_line_quotes_spaces_alone() -> None:
    assert command_line("sh", ["-c", "echo a b", "x"]) == "sh -c 'echo a b' x"

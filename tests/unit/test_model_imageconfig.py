"""The documents below were made by dockerd 20.10.24 (import and commit)."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lamella.errors import InvalidArgument
from lamella.model.digest import EMPTY_LAYER, digest_of
from lamella.model.imageconfig import (
    ContainerSettings,
    Healthcheck,
    History,
    ImageConfig,
    decode_image_config,
    encode_image_config,
    parse_settings,
    settings_document,
)

IMPORTED = (
    rb'{"architecture":"amd64","comment":"Imported from -","config":{"Hostname":"","Domainname":"","User":"'
    rb'","AttachStdin":false,"AttachStdout":false,"AttachStderr":false,"ExposedPorts":{"80/tcp":{}},"Tty":f'
    rb'alse,"OpenStdin":false,"StdinOnce":false,"Env":["A=b"],"Cmd":["sh"],"Healthcheck":{"Test":["CMD-SHEL'
    rb'L","true"],"Interval":5000000000},"Image":"","Volumes":{"/v":{}},"WorkingDir":"","Entrypoint":null,"'
    rb'OnBuild":null,"Labels":{"a":"b"}},"container_config":{"Hostname":"","Domainname":"","User":"","Attac'
    rb'hStdin":false,"AttachStdout":false,"AttachStderr":false,"Tty":false,"OpenStdin":false,"StdinOnce":fa'
    rb'lse,"Env":null,"Cmd":null,"Image":"","Volumes":null,"WorkingDir":"","Entrypoint":null,"OnBuild":null'
    rb',"Labels":null},"created":"2026-11-25T03:31:48.642140935Z","docker_version":"20.10.24+dfsg1","histor'
    rb'y":[{"created":"2026-11-25T03:31:48.642140935Z","comment":"Imported from -"}],"os":"linux","rootfs":'
    rb'{"type":"layers","diff_ids":["sha256:7cf0d5a0233cf97b7130ec7f332434e3043c8af30932798ef1e4e9e543171b9'
    rb'1"]}}'
)
COMMITTED = (
    rb'{"architecture":"amd64","author":"me","config":{"Hostname":"872221ce0c28","Domainname":"","User":"0"'
    rb',"AttachStdin":false,"AttachStdout":true,"AttachStderr":true,"ExposedPorts":{"80/tcp":{}},"Tty":fals'
    rb'e,"OpenStdin":false,"StdinOnce":false,"Env":["X=1","A=c","Q=1","P=c:1"],"Cmd":null,"Healthcheck":{"T'
    rb'est":["CMD-SHELL","true"],"Interval":5000000000},"Image":"t:1","Volumes":{"/v":{}},"WorkingDir":"/w/'
    rb'y","Entrypoint":["x"],"OnBuild":null,"Labels":{"a":"b","b":"c","z":"q r"},"StopTimeout":3},"containe'
    rb'r":"872221ce0c2880e3a198fc9b040727b262498f8690b0263907dcb5a7c9fb83e2","container_config":{"Hostname"'
    rb':"872221ce0c28","Domainname":"","User":"0","AttachStdin":false,"AttachStdout":true,"AttachStderr":tr'
    rb'ue,"ExposedPorts":{"80/tcp":{}},"Tty":false,"OpenStdin":false,"StdinOnce":false,"Env":["X=1","A=c"],'
    rb'"Cmd":["-c","echo hi \u003e /f"],"Healthcheck":{"Test":["CMD-SHELL","true"],"Interval":5000000000},"'
    rb'Image":"t:1","Volumes":{"/v":{}},"WorkingDir":"/w","Entrypoint":["sh"],"OnBuild":null,"Labels":{"a":'
    rb'"b"},"StopTimeout":3},"created":"2026-11-25T03:32:20.564511492Z","docker_version":"20.10.24+dfsg1","'
    rb'history":[{"created":"2026-11-25T03:31:48.642140935Z","comment":"Imported from -"},{"created":"2026-'
    rb'11-25T03:32:20.564511492Z","author":"me","created_by":"-c echo hi \u003e /f","comment":"m \u003c\u00'
    rb'26\u003e"}],"os":"linux","rootfs":{"type":"layers","diff_ids":["sha256:7cf0d5a0233cf97b7130ec7f33243'
    rb'4e3043c8af30932798ef1e4e9e543171b91","sha256:c4091bc6674178ce1e908e2d87f9d1ca14fd2da59401c87f50cad41'
    rb'9c2ba24d0"]}}'
)


def again(view: ImageConfig) -> bytes:
    return encode_image_config(
        architecture=view.architecture,
        os=view.os,
        variant=view.variant,
        os_version=view.os_version,
        os_features=view.os_features,
        created=view.created,
        author=view.author,
        comment=view.comment,
        config=view.config,
        history=view.history,
        diff_ids=view.diff_ids,
        container=view.container,
        container_config=view.container_config,
        docker_version=view.docker_version,
    )


def test_an_imported_image_is_encoded_to_dockers_bytes() -> None:
    assert again(decode_image_config(IMPORTED)) == IMPORTED


def test_a_committed_image_is_encoded_to_dockers_bytes_but_for_the_newer_history_order() -> None:
    newer = COMMITTED.replace(
        rb'"author":"me","created_by":"-c echo hi \u003e /f"', rb'"created_by":"-c echo hi \u003e /f","author":"me"'
    )
    assert newer != COMMITTED
    assert again(decode_image_config(COMMITTED)) == newer


def test_a_minimal_config_has_the_known_image_id() -> None:
    raw = encode_image_config(
        architecture="amd64",
        config=ContainerSettings(),
        created="2020-01-02T03:04:05Z",
        diff_ids=[EMPTY_LAYER],
        sparse=True,
    )
    assert len(raw) == 196
    assert digest_of(raw) == "sha256:6dc3e61b170aec46284b8596bc6893b0db2475c70bf2dcd819ad809131c9b425"


def test_keys_appear_when_they_hold_something_and_in_order() -> None:
    raw = encode_image_config(
        architecture="arm64",
        variant="v8",
        os_version="1",
        os_features=["f"],
        created="2020-01-02T03:04:05Z",
        author="a",
        comment="c",
        config=ContainerSettings(),
        container="x",
        container_config=ContainerSettings(),
        docker_version="28",
        history=[History(created="2020-01-02T03:04:05Z", created_by="b", author="a", comment="c", empty_layer=True)],
    )
    document = json.loads(raw)
    assert list(document) == sorted(document)
    assert list(document) == [
        "architecture", "author", "comment", "config", "container", "container_config", "created", "docker_version",
        "history", "os", "os.features", "os.version", "rootfs", "variant",
    ]  # fmt: skip
    assert list(document["history"][0]) == ["created", "created_by", "author", "comment", "empty_layer"]
    assert document["rootfs"] == {"type": "layers"}


def test_a_config_of_dockers_making_always_has_a_time() -> None:
    raw = encode_image_config(architecture="amd64", container_config=ContainerSettings())
    assert json.loads(raw)["created"] == "0001-01-01T00:00:00Z"
    assert "created" not in json.loads(encode_image_config(architecture="amd64"))


def test_empty_settings_have_every_key_that_docker_writes() -> None:
    assert json.dumps(settings_document(ContainerSettings())) == json.dumps({
        "Hostname": "", "Domainname": "", "User": "", "AttachStdin": False, "AttachStdout": False, "AttachStderr": False,
        "Tty": False, "OpenStdin": False, "StdinOnce": False, "Env": None, "Cmd": None, "Image": "", "Volumes": None,
        "WorkingDir": "", "Entrypoint": None, "OnBuild": None, "Labels": None,
    })  # fmt: skip
    assert settings_document(ContainerSettings(), sparse=True) == {}


def test_full_settings_have_every_key_in_dockers_order() -> None:
    settings = ContainerSettings(
        exposed_ports=("90/tcp", "80/tcp"),
        healthcheck=Healthcheck(test=("NONE",), start_interval=1),
        args_escaped=True,
        network_disabled=True,
        mac_address="m",
        stop_signal="9",
        stop_timeout=0,
        shell=("sh",),
        cmd=(),
        labels={"b": "1", "a": "2"},
    )
    document = settings_document(settings)
    assert list(document) == [
        "Hostname", "Domainname", "User", "AttachStdin", "AttachStdout", "AttachStderr", "ExposedPorts", "Tty",
        "OpenStdin", "StdinOnce", "Env", "Cmd", "Healthcheck", "ArgsEscaped", "Image", "Volumes", "WorkingDir",
        "Entrypoint", "NetworkDisabled", "MacAddress", "OnBuild", "Labels", "StopSignal", "StopTimeout", "Shell",
    ]  # fmt: skip
    assert json.dumps(document["ExposedPorts"]) == '{"80/tcp": {}, "90/tcp": {}}'
    assert json.dumps(document["Labels"]) == '{"a": "2", "b": "1"}'
    assert document["Healthcheck"] == {"Test": ["NONE"], "StartInterval": 1}
    assert document["Cmd"] == []
    assert document["StopTimeout"] == 0


def test_null_counts_as_absent() -> None:
    document = dict.fromkeys(settings_document(ContainerSettings()))
    assert parse_settings(document) == ContainerSettings()
    view = decode_image_config(
        b'{"rootfs":{"type":null,"diff_ids":null},"os":null,"config":null,"history":null,"created":null}'
    )
    assert view == ImageConfig()


def test_unknown_fields_are_not_in_the_view_and_do_no_harm() -> None:
    view = decode_image_config(
        b'{"rootfs":{"type":"layers"},"x.y":{"z":[1]},"config":{"Memory":1},"moby.buildkit.v1":"x"}'
    )
    assert view == ImageConfig()


def test_commands_of_ancient_configs_may_be_plain_strings() -> None:
    assert parse_settings({"Cmd": "sh", "Entrypoint": ""}).cmd == ("sh",)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"User": 1}, "config: User: expected str, got int"),
        ({"Env": "x"}, "config: Env: expected array, got str"),
        ({"Env": ["a", 1]}, "config: Env[1]: expected str, got int"),
        ({"Cmd": {}}, "config: Cmd: expected array | null, got object"),
        ({"Tty": 1}, "config: Tty: expected bool, got int"),
        ({"Labels": {"a": 1}}, "config: Labels[...]: expected str, got int"),
        ({"Labels": []}, "config: Labels: expected object, got array"),
        ({"ExposedPorts": ["80"]}, "config: ExposedPorts: expected an object, got array"),
        ({"Volumes": {"/x": 1}}, "config: Volumes['/x']: expected an object, got number"),
        ({"Healthcheck": {"Interval": "5s"}}, "config: Healthcheck.Interval: expected int, got str"),
        ({"Healthcheck": {"Interval": 2**64}}, "config: Healthcheck.Interval: "),
        ({"Healthcheck": []}, "config: Healthcheck: expected object | null, got array"),
        ({"StopTimeout": 2**40}, "config: StopTimeout: expected int <= 2147483647"),
        ({"StopTimeout": 1.5}, "config: StopTimeout: expected int | null, got float"),
        ({"env": []}, "config: key 'env' must be spelled 'Env'"),
        ([], "config: expected an object, got array"),
        (None, "config: expected an object, got null"),
    ],
)
def test_settings_of_the_wrong_type_are_refused_by_name(document: Any, message: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse_settings(document)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"[]", "image config: expected a JSON object, got array"),
        (b"{}", "image config: rootfs is missing"),
        (b'{"rootfs":[]}', "image config: rootfs: expected an object, got array"),
        (b'{"rootfs":{"type":["layers"]}}', "image config: rootfs.type: expected 'layers'"),
        (b'{"rootfs":{"diff_ids":{}}}', "image config: rootfs.diff_ids: expected an array, got object"),
        (b'{"rootfs":{"diff_ids":[1]}}', "image config: rootfs.diff_ids[0]: expected a string, got number"),
        (b'{"rootfs":{"diff_ids":["../x"]}}', "image config: rootfs.diff_ids[0]: invalid checksum digest format"),
        (b'{"rootfs":{"Diff_IDs":[]}}', "image config: rootfs: key 'Diff_IDs' must be spelled 'diff_ids'"),
        (b'{"rootfs":{},"OS":"x"}', "image config: key 'OS' must be spelled 'os'"),
        (b'{"rootfs":{},"os":1}', "image config: os: expected str, got int"),
        (b'{"rootfs":{},"os.features":[1]}', "image config: os.features[0]: expected str, got int"),
        (b'{"rootfs":{},"created":"yesterday"}', "image config: created: invalid time"),
        (b'{"rootfs":{},"config":[]}', "image config: config: expected an object, got array"),
        (b'{"rootfs":{},"container_config":{"Env":1}}', "image config: container_config: Env: expected array, got int"),
        (b'{"rootfs":{},"history":{}}', "image config: history: expected an array, got object"),
        (b'{"rootfs":{},"history":[1]}', "image config: history[0]: expected an object, got number"),
        (b'{"rootfs":{},"history":[{"created":"x"}]}', "image config: history[0].created: invalid time"),
        (
            b'{"rootfs":{},"history":[{"empty_layer":1}]}',
            "image config: history[0]: empty_layer: expected bool, got int",
        ),
        (b'{"rootfs":{},"history":[{}]}', "image config: history tells of 1 layers, rootfs.diff_ids has 0"),
    ],
)
def test_hostile_configs_are_refused_by_name(raw: bytes, message: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        decode_image_config(raw)
    assert str(caught.value).startswith(message)


def test_history_may_tell_of_fewer_layers_than_there_are() -> None:
    layers = json.dumps([EMPTY_LAYER] * 2)
    raw = f'{{"rootfs":{{"diff_ids":{layers}}},"history":[{{"empty_layer":true}},{{}}]}}'.encode()
    view = decode_image_config(raw)
    assert view.diff_ids == (EMPTY_LAYER, EMPTY_LAYER)
    assert [entry.empty_layer for entry in view.history] == [True, False]

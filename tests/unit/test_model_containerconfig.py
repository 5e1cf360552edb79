"""``hostconfig.json`` below was written by dockerd 20.10.24; it ran a container from ours in its place, too."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lamella.errors import InvalidArgument
from lamella.model.containerconfig import (
    Device,
    HostConfig,
    LogConfig,
    RestartPolicy,
    command_of,
    environment_of,
    host_config_document,
    merge_run_settings,
    parse_host_config,
)
from lamella.model.imageconfig import ContainerSettings, Healthcheck

HOST_CONFIG = (
    rb'{"Binds":null,"ContainerIDFile":"","LogConfig":{"Type":"json-file","Config":{}},"NetworkMode":"none"'
    rb',"PortBindings":{},"RestartPolicy":{"Name":"no","MaximumRetryCount":0},"AutoRemove":false,"VolumeDri'
    rb'ver":"","VolumesFrom":null,"CapAdd":null,"CapDrop":null,"CgroupnsMode":"host","Dns":[],"DnsOptions":'
    rb'[],"DnsSearch":[],"ExtraHosts":null,"GroupAdd":null,"IpcMode":"private","Cgroup":"","Links":null,"Oo'
    rb'mScoreAdj":0,"PidMode":"","Privileged":false,"PublishAllPorts":false,"ReadonlyRootfs":false,"Securit'
    rb'yOpt":null,"UTSMode":"","UsernsMode":"","ShmSize":67108864,"Runtime":"runc","ConsoleSize":[0,0],"Iso'
    rb'lation":"","CpuShares":0,"Memory":0,"NanoCpus":0,"CgroupParent":"","BlkioWeight":0,"BlkioWeightDevic'
    rb'e":[],"BlkioDeviceReadBps":[],"BlkioDeviceWriteBps":[],"BlkioDeviceReadIOps":[],"BlkioDeviceWriteIOp'
    rb's":[],"CpuPeriod":0,"CpuQuota":0,"CpuRealtimePeriod":0,"CpuRealtimeRuntime":0,"CpusetCpus":"","Cpuse'
    rb'tMems":"","Devices":[],"DeviceCgroupRules":null,"DeviceRequests":null,"KernelMemory":0,"KernelMemory'
    rb'TCP":0,"MemoryReservation":0,"MemorySwap":0,"MemorySwappiness":null,"OomKillDisable":false,"PidsLimi'
    rb't":null,"Ulimits":[],"CpuCount":0,"CpuPercent":0,"IOMaximumIOps":0,"IOMaximumBandwidth":0,"MaskedPat'
    rb'hs":["/proc/asound","/proc/acpi","/proc/kcore","/proc/keys","/proc/latency_stats","/proc/timer_list"'
    rb',"/proc/timer_stats","/proc/sched_debug","/proc/scsi","/sys/firmware"],"ReadonlyPaths":["/proc/bus",'
    rb'"/proc/fs","/proc/irq","/proc/sys","/proc/sysrq-trigger"]}'
)

IMAGE = ContainerSettings(
    user="app",
    env=("PATH=/bin", "A=1", "B=2"),
    cmd=("serve",),
    entrypoint=("/entry",),
    working_dir="/srv",
    labels={"a": "image", "b": "image"},
    exposed_ports=("80/tcp",),
    volumes=("/data",),
    stop_signal="SIGINT",
    on_build=("RUN x",),
    healthcheck=Healthcheck(test=("CMD", "true"), interval=5, retries=3),
)


def test_our_host_config_is_dockers() -> None:
    dockers = json.loads(HOST_CONFIG)
    ours = host_config_document(
        HostConfig(
            cgroupns_mode="host",
            oom_kill_disable=False,
            masked_paths=tuple(dockers["MaskedPaths"]),
            readonly_paths=tuple(dockers["ReadonlyPaths"]),
        )
    )
    assert {**ours, "KernelMemory": 0, "KernelMemoryTCP": 0} == dockers  # the two went away in Docker 23
    moved = {"ConsoleSize", "KernelMemory", "KernelMemoryTCP"}
    assert [key for key in ours if key not in moved] == [key for key in dockers if key not in moved]


def test_dockers_host_config_is_read() -> None:
    view = parse_host_config(json.loads(HOST_CONFIG))
    assert view.network_mode == "none"
    assert view.log_config == LogConfig("json-file", {})
    assert view.restart_policy == RestartPolicy("no", 0)
    assert view.shm_size == 64 << 20
    assert parse_host_config(host_config_document(view)) == view


def test_rare_fields_appear_when_set() -> None:
    config = HostConfig(
        tmpfs={"/run": "size=1m"},
        sysctls={"a": "b"},
        init=False,
        devices=(Device("/dev/fuse", "/dev/fuse", "rwm"),),
        mounts=({"Type": "bind", "Source": "/a", "Target": "/b"},),
        binds=("/a:/b:ro",),
    )
    document = host_config_document(config)
    assert document["Init"] is False
    assert document["Devices"] == [
        {"PathOnHost": "/dev/fuse", "PathInContainer": "/dev/fuse", "CgroupPermissions": "rwm"}
    ]
    assert parse_host_config(document) == config
    assert (
        not {"Init", "Tmpfs", "Sysctls", "Mounts", "StorageOpt", "Annotations"}
        & host_config_document(HostConfig()).keys()
    )


def test_nulls_and_unknown_fields_do_no_harm() -> None:
    assert parse_host_config({"Binds": None, "LogConfig": {"Type": "local", "Config": None}, "New": 1}) == HostConfig(
        log_config=LogConfig("local")
    )


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ([], "host config: expected an object, got array"),
        ({"Binds": "x"}, "host config: Binds: expected array, got str"),
        ({"LogConfig": {"Type": 1}}, "host config: LogConfig.Type: expected str, got int"),
        ({"Memory": 2**63}, "host config: Memory: "),
        ({"Privileged": "yes"}, "host config: Privileged: expected bool, got str"),
    ],
)
def test_host_configs_of_the_wrong_type_are_refused_by_name(document: Any, message: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse_host_config(document)
    assert str(caught.value).startswith(message)


def test_a_request_without_wishes_gets_the_images_settings() -> None:
    merged = merge_run_settings(IMAGE, ContainerSettings(image="x", tty=True))
    assert command_of(merged) == ("/entry", "serve")
    assert (merged.user, merged.working_dir, merged.stop_signal) == ("app", "/srv", "SIGINT")
    assert merged.env == IMAGE.env
    assert merged.healthcheck == IMAGE.healthcheck
    assert merged.image == "x"
    assert merged.tty
    assert merged.on_build == ()


def test_a_command_replaces_the_images_and_keeps_its_entrypoint() -> None:
    assert command_of(merge_run_settings(IMAGE, ContainerSettings(cmd=("ls", "-l")))) == ("/entry", "ls", "-l")


def test_an_entrypoint_clears_the_images_command() -> None:
    merged = merge_run_settings(IMAGE, ContainerSettings(entrypoint=("sh",)))
    assert merged.entrypoint == ("sh",)
    assert merged.cmd is None
    assert command_of(merge_run_settings(IMAGE, ContainerSettings(entrypoint=("sh",), cmd=("-c",)))) == ("sh", "-c")


def test_an_empty_entrypoint_clears_the_images() -> None:
    merged = merge_run_settings(IMAGE, ContainerSettings(entrypoint=("",), cmd=("ls",)))
    assert merged.entrypoint is None
    assert command_of(merged) == ("ls",)


def test_without_any_command_nothing_can_run() -> None:
    for user in (ContainerSettings(), ContainerSettings(entrypoint=("",))):
        with pytest.raises(InvalidArgument, match="no command specified"):
            merge_run_settings(ContainerSettings(), user)
    with pytest.raises(InvalidArgument, match="no command specified"):
        merge_run_settings(IMAGE, ContainerSettings(entrypoint=("",)))


def test_variables_and_labels_are_united_by_key() -> None:
    merged = merge_run_settings(IMAGE, ContainerSettings(env=("X=1", "A=c"), labels={"b": "user"}))
    assert merged.env == ("X=1", "A=c", "PATH=/bin", "B=2")
    assert merged.labels == {"a": "image", "b": "user"}


def test_ports_and_volumes_are_united() -> None:
    merged = merge_run_settings(IMAGE, ContainerSettings(exposed_ports=("53/udp",), volumes=("/v",)))
    assert merged.exposed_ports == ("53/udp", "80/tcp")
    assert merged.volumes == ("/data", "/v")


def test_a_health_check_inherits_what_it_does_not_say() -> None:
    merged = merge_run_settings(IMAGE, ContainerSettings(healthcheck=Healthcheck(retries=9)))
    assert merged.healthcheck == Healthcheck(test=("CMD", "true"), interval=5, retries=9)


@pytest.mark.parametrize(
    "user",
    [
        ContainerSettings(env=("A=\0",)),
        ContainerSettings(cmd=("a\0b",)),
        ContainerSettings(working_dir="/\0"),
        ContainerSettings(user="a\0"),
    ],
)
def test_what_the_kernel_would_cut_is_refused(user: ContainerSettings) -> None:
    with pytest.raises(InvalidArgument, match="NUL"):
        merge_run_settings(IMAGE, user)


def test_the_environment_of_a_process() -> None:
    assert environment_of(["A=1", "B=2=3", "A=4", "B", "C=", "NOT"]) == {"A": "4", "C": ""}

"""The OCI configuration as a value: what each request puts into it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamella.errors import InvalidArgument
from lamella.runtime.capabilities import DEFAULT, NAMES, plan_capabilities
from lamella.runtime.cgroups import Cgroups
from lamella.runtime.machine import Machine
from lamella.runtime.seccomp import default_filter, parse_profile
from lamella.runtime.spec import (
    MountPoint,
    Sandbox,
    build_spec,
    clean_directory,
    exec_process,
    parse_security_options,
)

ALL = frozenset(NAMES)
V1 = Cgroups(1, frozenset({"pids", "memory", "cpu", "devices"}))
MACHINE = Machine(V1, ALL, {"nofile": 20000, "nproc": 96365, "core": 0}, "x86_64")


def built(machine: Machine = MACHINE, **options: Any) -> dict[str, Any]:
    box = Sandbox(**{"id": "c" * 64, "root": "/merged", "args": ("sh",), **options})
    return build_spec(box, machine)


def test_the_default_process() -> None:
    process = built(gid=5, groups=(7, 5))["process"]
    assert process["user"] == {"uid": 0, "gid": 5, "umask": 0o022, "additionalGids": [5, 7]}
    assert process["capabilities"]["inheritable"] == process["capabilities"]["ambient"] == []
    assert set(process["capabilities"]["bounding"]) == set(DEFAULT)
    assert process["noNewPrivileges"] is False
    assert process["cwd"] == "/"
    assert {"type": "RLIMIT_NOFILE", "hard": 20000, "soft": 1024} in process["rlimits"]
    assert {"type": "RLIMIT_NPROC", "hard": 96365, "soft": 96365} in process["rlimits"]
    assert "oomScoreAdj" not in process


def test_a_user_other_than_root_has_no_effective_capabilities() -> None:
    capabilities = built(uid=1000)["process"]["capabilities"]
    assert capabilities["effective"] == capabilities["permitted"] == []
    assert set(capabilities["bounding"]) == set(DEFAULT)


def test_limits_never_exceed_the_callers_own() -> None:
    limits = {item["type"]: item for item in built(ulimits=(("nofile", -1, -1), ("core", 5, 9)))["process"]["rlimits"]}
    assert limits["RLIMIT_NOFILE"] == {"type": "RLIMIT_NOFILE", "hard": 20000, "soft": 20000}
    assert limits["RLIMIT_CORE"]["hard"] == 0
    with pytest.raises(InvalidArgument, match="invalid ulimit type: fish"):
        built(ulimits=(("fish", 1, 1),))


def test_the_oom_score_is_not_lowered_below_our_own() -> None:
    machine = MACHINE._replace(oom_score_adj=300)
    assert built(machine, oom_score_adj=-500)["process"]["oomScoreAdj"] == 300
    assert built(machine, oom_score_adj=800)["process"]["oomScoreAdj"] == 800


def test_namespaces() -> None:
    def kinds(spec: dict[str, Any]) -> set[str]:
        return {item["type"] for item in spec["linux"]["namespaces"]}

    assert kinds(built()) == {"mount", "pid", "ipc", "uts", "network"}
    assert kinds(built(network="host", pid_host=True, ipc_host=True, uts_host=True)) == {"mount"}
    assert "cgroup" in kinds(built(MACHINE._replace(cgroups=Cgroups(2, frozenset({"pids"})))))
    assert "hostname" not in built(uts_host=True)
    assert built()["hostname"] == "c" * 12


def test_resources_follow_what_the_machine_has() -> None:
    assert built()["linux"]["resources"]["pids"] == {"limit": 4096}
    assert "pids" not in built(pids_limit=-1)["linux"]["resources"]
    assert built()["linux"]["cgroupsPath"] == "/lamella/" + "c" * 64
    without = MACHINE._replace(cgroups=Cgroups(2, frozenset({"hugetlb"})))
    assert "pids" not in built(without)["linux"]["resources"]
    with pytest.raises(InvalidArgument, match="pids controller"):
        built(without, pids_limit=10)
    with pytest.raises(InvalidArgument, match="memory controller"):
        built(without, memory=1 << 20)
    none = MACHINE._replace(cgroups=Cgroups(0, frozenset()))
    assert not {"cgroupsPath", "resources"} & built(none)["linux"].keys()
    assert "/sys/fs/cgroup" not in {mount["destination"] for mount in built(none)["mounts"]}
    limited = built(memory=1 << 20, memory_swap=2 << 20, cpu_quota=50_000, cpu_period=100_000)["linux"]["resources"]
    assert limited["memory"] == {"limit": 1 << 20, "swap": 2 << 20}
    assert limited["cpu"] == {"period": 100_000, "quota": 50_000}


def test_devices() -> None:
    rules = built()["linux"]["resources"]["devices"]
    assert rules[0] == {"allow": False, "access": "rwm"}
    assert {"allow": False, "type": "c", "major": 10, "minor": 229, "access": "rwm"} in rules
    device = {
        "path": "/dev/x",
        "type": "c",
        "major": 10,
        "minor": 5,
        "fileMode": 0o600,
        "uid": 0,
        "gid": 0,
        "access": "r",
    }
    spec = built(devices=(device,))
    assert spec["linux"]["devices"] == [{key: value for key, value in device.items() if key != "access"}]
    assert spec["linux"]["resources"]["devices"][-1] == {
        "allow": True,
        "type": "c",
        "major": 10,
        "minor": 5,
        "access": "r",
    }
    assert built(privileged=True)["linux"]["resources"]["devices"] == [{"allow": True, "access": "rwm"}]


def test_mounts_of_the_user_come_last_and_replace_the_defaults() -> None:
    spec = built(
        mounts=(
            MountPoint("/a", "/x/y", ("ro",)),
            MountPoint("/b", "/x"),
            MountPoint("tmpfs", "/dev/shm", ("size=1m",), "tmpfs"),
        ),
        own_files=(MountPoint("/state/hosts", "/etc/hosts"),),
    )
    places = [mount["destination"] for mount in spec["mounts"]]
    assert places.index("/x") < places.index("/x/y")
    assert places.count("/dev/shm") == 1
    by_place = {mount["destination"]: mount for mount in spec["mounts"]}
    assert by_place["/x/y"]["options"] == ["rbind", "ro", "rprivate"]
    assert by_place["/dev/shm"]["options"] == ["nosuid", "nodev", "noexec", "size=1m"]
    assert by_place["/etc/hosts"]["source"] == "/state/hosts"
    assert by_place["/sys"]["options"] == ["nosuid", "noexec", "nodev", "ro"]
    assert spec["linux"]["rootfsPropagation"] == "rprivate"
    assert built(mounts=(MountPoint("/a", "/a", ("rslave",)),))["linux"]["rootfsPropagation"] == "rslave"


def test_masks_are_lifted_only_when_asked() -> None:
    machine = MACHINE._replace(thermal_paths=("/sys/devices/system/cpu/cpu0/thermal_throttle",))
    linux = built(machine)["linux"]
    assert {"/proc/kcore", "/proc/interrupts", "/sys/firmware", machine.thermal_paths[0]} <= set(linux["maskedPaths"])
    assert "/proc/sysrq-trigger" in linux["readonlyPaths"]
    for options in ({"privileged": True}, {"security_options": ("systempaths=unconfined",)}):
        assert built(machine, **options)["linux"]["maskedPaths"] == []
    assert "seccomp" not in built(privileged=True)["linux"]
    assert "seccomp" not in built(security_options=("seccomp=unconfined",))["linux"]


def test_no_command_is_refused() -> None:
    for args in ((), ("",)):
        with pytest.raises(InvalidArgument, match="no command specified"):
            built(args=args)


def test_security_options() -> None:
    assert parse_security_options(["no-new-privileges"]).no_new_privileges
    assert parse_security_options(["no-new-privileges:true", "apparmor=unconfined"]).no_new_privileges
    assert not parse_security_options(["no-new-privileges=false"]).no_new_privileges
    for bad in ("no-new-privileges=maybe", "seccomp=", "fly", "label=type:x", "apparmor=mine"):
        with pytest.raises(InvalidArgument, match="invalid --security-opt"):
            parse_security_options([bad])


@pytest.mark.parametrize(
    "path", ["/proc/self/fd/8", "/proc/1/fd", "/proc/thread-self/fd/3", "/dev/fd", "/a/../proc/self/fd/1", "rel"]
)
def test_directories_that_are_refused(path: str) -> None:
    with pytest.raises(InvalidArgument):
        clean_directory(path)


@given(st.text(alphabet="ab./", max_size=20))
def test_a_clean_directory_is_absolute_and_has_no_dots(path: str) -> None:
    cleaned = clean_directory("/" + path)
    assert cleaned.startswith("/")
    assert not {".", "..", ""} & set(cleaned.split("/")[1:]) or cleaned == "/"
    assert clean_directory(cleaned) == cleaned


def test_exec_gets_no_more_than_the_container_has() -> None:
    spec = built(cap_drop=("ALL",), cap_add=("CHOWN",), security_options=("no-new-privileges",))
    process: dict[str, Any] = exec_process(spec, args=["id"], env=[], cwd="/", uid=0, gid=0, groups=[], terminal=False)
    assert process["capabilities"]["effective"] == ["CAP_CHOWN"]
    assert process["noNewPrivileges"] is True
    assert process["rlimits"] == spec["process"]["rlimits"]
    with pytest.raises(InvalidArgument, match="refused"):
        exec_process(spec, args=["id"], env=[], cwd="/proc/self/fd/9", uid=0, gid=0, groups=[], terminal=False)


def test_capabilities() -> None:
    def plan(add: list[str], drop: list[str], available: frozenset[str] = ALL, *, privileged: bool = False) -> set[str]:
        return set(plan_capabilities(add=add, drop=drop, privileged=privileged, available=available))

    assert plan([], []) == set(DEFAULT)
    assert len(DEFAULT) == 14
    assert plan(["net_admin"], ["CAP_MKNOD"]) == set(DEFAULT) - {"CAP_MKNOD"} | {"CAP_NET_ADMIN"}
    assert plan(["all"], ["SYS_ADMIN"]) == set(NAMES) - {"CAP_SYS_ADMIN"}
    assert plan(["CHOWN"], ["ALL"]) == {"CAP_CHOWN"}
    assert plan([], [], privileged=True) == set(NAMES)
    less = ALL - {"CAP_SYS_RESOURCE", "CAP_MKNOD"}
    assert plan(["ALL"], [], less) == plan([], [], less, privileged=True) == set(less)
    assert plan([], [], less) == set(DEFAULT) - {"CAP_MKNOD"}
    with pytest.raises(InvalidArgument, match="SYS_RESOURCE"):
        plan(["SYS_RESOURCE"], [], less)
    with pytest.raises(InvalidArgument, match='unknown capability: "FLY"'):
        plan([], ["FLY"])


def allowed(document: dict[str, Any]) -> set[str]:
    return {name for rule in document["syscalls"] if rule["action"] == "SCMP_ACT_ALLOW" for name in rule["names"]}


def refused(document: dict[str, Any]) -> set[str]:
    return {
        name
        for rule in document["syscalls"]
        if rule["action"] == "SCMP_ACT_ERRNO" and not rule.get("args") and rule["errnoRet"] == 1
        for name in rule["names"]
    }


def test_the_filter_has_dockers_370_calls() -> None:
    document: dict[str, Any] = default_filter(DEFAULT, "x86_64")
    assert len(allowed(document)) == 370
    assert document["architectures"] == ["SCMP_ARCH_X86_64"]
    assert default_filter(DEFAULT, "x86_64", foreign=True)["architectures"] == ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"]
    assert {"mount", "unshare", "keyctl", "bpf", "io_uring_setup", "userfaultfd", "setns"} <= refused(document)
    assert not allowed(document) & refused(document)


def test_the_filter_follows_the_capabilities() -> None:
    admin: dict[str, Any] = default_filter([*DEFAULT, "CAP_SYS_ADMIN"], "x86_64")
    assert {"mount", "unshare", "clone", "clone3"} <= allowed(admin)
    assert not any(rule.get("args") and rule["names"] == ["clone"] for rule in admin["syscalls"])
    assert "chroot" not in allowed(default_filter([], "x86_64"))
    assert "reboot" in allowed(default_filter(["CAP_SYS_BOOT"], "aarch64"))
    assert "arch_prctl" not in allowed(default_filter([], "aarch64"))


def test_a_profile_in_dockers_form_is_compiled() -> None:
    profile = {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": 1,
        "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]}],
        "syscalls": [
            {"names": ["read"], "action": "SCMP_ACT_ALLOW"},
            {"names": ["mount"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
            {"names": ["clone"], "action": "SCMP_ACT_ALLOW", "excludes": {"caps": ["CAP_SYS_ADMIN"]}, "args": None},
            {"names": ["ptrace"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "4.8"}},
            {"names": ["later"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "99.0"}},
            {"names": ["arm"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["arm64"]}},
            {"name": "old", "action": "SCMP_ACT_ALLOW"},
        ],
    }
    document: dict[str, Any] = parse_profile(json.dumps(profile).encode(), DEFAULT, "x86_64")
    assert allowed(document) == {"read", "clone", "ptrace", "old"}
    assert document["architectures"] == ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"]
    for bad in (
        b"[]",
        b"{}",
        b"{",
        b'{"defaultAction": "x", "syscalls": [1]}',
        b'{"defaultAction": "x", "syscalls": [{}]}',
    ):
        with pytest.raises(InvalidArgument):
            parse_profile(bad, DEFAULT, "x86_64")

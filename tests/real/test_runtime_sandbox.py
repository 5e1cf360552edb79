"""What a container started with no options may do, asked from inside it."""

from __future__ import annotations

import json
import os
import resource
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from lamella.container.ending import remove_container
from lamella.errors import InvalidArgument
from lamella.model.containerconfig import HostConfig, Ulimit
from lamella.runtime import seccomp_table
from lamella.runtime.capabilities import DEFAULT, NAMES, available_capabilities
from tests.support.containers import Yard, opened_yard

#: The host's Python, readable in a container whose image has only busybox.
PYTHON = ("/usr:/usr:ro", "/usr/lib:/lib:ro", "/usr/lib64:/lib64:ro")

PROBE = r"""
import ctypes, json, os, resource, socket
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *args):
    ctypes.set_errno(0)
    return libc.syscall(number, *args), ctypes.get_errno()
def attempt(number, *args):
    result, error = call(number, *args)
    if number == 56 and result == 0:
        os._exit(0)
    return error if result < 0 else 0
answers = {
    "unshare": attempt(272, 0x20000),
    "mount": attempt(165, b"none", b"/tmp", b"tmpfs", 0, None),
    "umount2": attempt(166, b"/tmp", 0),
    "keyctl": attempt(250, 0, -3, 0, 0, 0),
    "add_key": attempt(248, b"user", b"x", b"y", 1, -3),
    "bpf": attempt(321, 0, None, 0),
    "io_uring_setup": attempt(425, 1, None),
    "userfaultfd": attempt(323, 0),
    "perf_event_open": attempt(298, None, 0, -1, -1, 0),
    "setns": attempt(308, 0, 0),
    "pivot_root": attempt(155, b"/", b"/"),
    "kexec_load": attempt(246, 0, 0, None, 0),
    "init_module": attempt(175, None, 0, b""),
    "open_by_handle_at": attempt(304, -1, None, 0),
    "swapon": attempt(167, b"/x", 0),
    "reboot": attempt(169, 0, 0, 0, None),
    "clone_newuser": attempt(56, 0x10000000 | 17, None, None, None, None),
    "clone3": attempt(435, None, 0),
    "unknown": attempt(9999),
    "sethostname": attempt(170, b"x", 1),
    "settimeofday": attempt(164, None, None),
    "chroot": attempt(161, b"/"),
    "ptrace_nobody": attempt(101, 16, 4194303, None, None),
    "personality_query": attempt(135, ctypes.c_ulong(0xffffffff)),
    "personality_odd": attempt(135, 0x0400000),
}
def family(number):
    try:
        socket.socket(number, socket.SOCK_STREAM if number in (1, 2, 40) else socket.SOCK_RAW).close()
    except OSError as problem:
        return problem.errno
    return 0
answers["socket"] = {str(n): family(n) for n in (1, 2, 16, 38, 40)}
status = dict(line.split(":\t", 1) for line in open("/proc/self/status").read().splitlines() if ":\t" in line)
def first(path):
    try:
        with open(path, "rb") as file: return len(file.read(64))
    except OSError as problem: return -problem.errno
def listed(path):
    try: return len(os.listdir(path))
    except OSError as problem: return -problem.errno
answers["status"] = status
answers["fds"] = sorted(int(n) for n in os.listdir("/proc/self/fd"))
answers["limits"] = {n: resource.getrlimit(getattr(resource, "RLIMIT_" + n)) for n in ("NOFILE", "NPROC", "CORE")}
answers["masked"] = {p: first(p) for p in ("/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/interrupts") if os.path.exists(p)}
answers["masked_dirs"] = {p: listed(p) for p in ("/proc/acpi", "/proc/scsi", "/sys/firmware") if os.path.exists(p)}
def writable(path):
    try: os.close(os.open(path, os.O_WRONLY))
    except OSError as problem: return problem.errno
    return 0
answers["readonly"] = {p: writable(p) for p in ("/proc/sysrq-trigger", "/proc/sys/kernel/core_pattern", "/sys/kernel/uevent_helper") if os.path.exists(p)}
answers["dev"] = sorted(os.listdir("/dev"))
answers["hostname"] = socket.gethostname()
answers["env"] = dict(item.split("=", 1) for item in open("/proc/self/environ").read().split("\0") if item)
answers["mounts"] = [line.split()[:3] + [line.split()[3]] for line in open("/proc/self/mounts")]
answers["cgroup"] = open("/proc/self/cgroup").read()
answers["umask"] = os.umask(0)
answers["oom"] = int(open("/proc/self/oom_score_adj").read())
answers["pid"] = os.getpid()
answers["session"] = os.getsid(0)
answers["interfaces"] = os.listdir("/sys/class/net")
try:
    with socket.create_server(("127.0.0.1", 80)) as server, socket.create_connection(("127.0.0.1", 80)): answers["loopback"] = True
except OSError as problem: answers["loopback"] = problem.errno
print(json.dumps(answers))
"""


@pytest.fixture
def yard(store_root: Path, base_tar: Path) -> Generator[Yard]:
    with opened_yard(store_root, base_tar) as made:
        yield made


def probe(yard: Yard, **options: Any) -> dict[str, Any]:
    host = HostConfig(binds=PYTHON, **options)
    answers: dict[str, Any] = json.loads(yard.output("/usr/bin/python3", "-c", PROBE, host=host))
    return answers


def mask(names: tuple[str, ...]) -> int:
    return sum(1 << NAMES.index(name) for name in names if name in available_capabilities())


def test_a_plain_container_has_dockers_rights_and_no_more(yard: Yard) -> None:
    found = probe(yard)
    status = found["status"]
    assert {int(status[key], 16) for key in ("CapBnd", "CapPrm", "CapEff")} == {mask(DEFAULT)}
    assert int(status["CapInh"], 16) == int(status["CapAmb"], 16) == 0
    assert status["Seccomp"].strip() == "2"
    assert status["NoNewPrivs"].strip() == "0"
    refused = [
        "unshare",
        "mount",
        "umount2",
        "keyctl",
        "add_key",
        "bpf",
        "io_uring_setup",
        "userfaultfd",
        "perf_event_open",
        "setns",
        "pivot_root",
        "kexec_load",
        "init_module",
        "open_by_handle_at",
        "swapon",
        "reboot",
        "clone_newuser",
        "sethostname",
        "settimeofday",
    ]
    assert {name: found[name] for name in refused} == dict.fromkeys(refused, 1)
    # ENOSYS, so that a C library falls back: to clone, or to an older call.
    assert (found["clone3"], found["unknown"], found["personality_odd"]) == (38, 38, 38)
    # ESRCH: the call is open, there is only nobody to trace.
    assert (found["chroot"], found["ptrace_nobody"], found["personality_query"]) == (0, 3, 0)
    assert found["socket"] == {"1": 0, "2": 0, "16": 0, "38": 1, "40": 1}


def test_no_descriptor_but_the_three_reaches_a_container(yard: Yard) -> None:
    leaked = os.open("/etc", os.O_RDONLY)
    try:
        os.set_inheritable(leaked, True)
        found = probe(yard)
    finally:
        os.close(leaked)
    fds = found["fds"]
    # The fourth is the listing itself.
    assert len(fds) == 4
    assert fds[:3] == [0, 1, 2]


def test_limits_are_dockers_bounded_by_our_own(yard: Yard) -> None:
    limits = probe(yard)["limits"]
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    ceiling = 524288 if hard == resource.RLIM_INFINITY else min(hard, 524288)
    assert limits["NOFILE"] == [min(1024, ceiling), ceiling]
    own = resource.getrlimit(resource.RLIMIT_NPROC)[1]
    assert limits["NPROC"][1] == own
    asked = probe(yard, ulimits=(Ulimit("nofile", 2**40, 2**40), Ulimit("core", 0, 0)))["limits"]
    assert asked["NOFILE"][1] == (2**40 if hard == resource.RLIM_INFINITY else hard)
    assert asked["CORE"] == [0, 0]


def test_paths_are_masked_and_read_only(yard: Yard) -> None:
    found = probe(yard)
    assert set(found["masked"].values()) == {0}
    assert set(found["masked_dirs"].values()) <= {0}
    assert set(found["readonly"].values()) == {30}


def test_the_surroundings_are_dockers(yard: Yard) -> None:
    os.environ["LAMELLA_SECRET"] = "s3cret"
    try:
        found = probe(yard)
    finally:
        del os.environ["LAMELLA_SECRET"]
    hostname = found["hostname"]
    assert found["env"] == {"PATH": "/bin:/usr/bin", "HOSTNAME": hostname, "HOME": "/root"}
    expected = {
        "full",
        "null",
        "zero",
        "random",
        "urandom",
        "tty",
        "ptmx",
        "pts",
        "shm",
        "mqueue",
        "fd",
        "stdin",
        "stdout",
        "stderr",
    }
    assert expected <= set(found["dev"]) <= expected | {"core"}
    assert found["umask"] == 0o022
    assert found["pid"] == 1
    assert found["loopback"] is True
    assert set(found["interfaces"]) >= {"lo"}
    mounts = {target: (kind, options.split(",")) for _, target, kind, options in found["mounts"]}
    for target, kind, wanted in (
        ("/proc", "proc", {"nosuid", "nodev", "noexec"}),
        ("/dev", "tmpfs", {"nosuid", "mode=755", "size=65536k"}),
        ("/dev/pts", "devpts", {"nosuid", "noexec", "gid=5", "mode=620", "ptmxmode=666"}),
        ("/sys", "sysfs", {"ro", "nosuid", "nodev", "noexec"}),
        ("/dev/mqueue", "mqueue", {"nosuid", "nodev", "noexec"}),
        ("/dev/shm", "tmpfs", {"nosuid", "nodev", "noexec", "size=65536k"}),
    ):
        assert mounts[target][0] == kind
        assert wanted <= set(mounts[target][1]), target
    assert {"/etc/hosts", "/etc/hostname", "/etc/resolv.conf"} <= set(mounts)
    assert mounts["/"][0] == "overlay"


def test_a_user_keeps_the_bounding_set_alone(yard: Yard) -> None:
    host = HostConfig(binds=PYTHON)
    found = json.loads(yard.output("/usr/bin/python3", "-c", PROBE, host=host, user="alice"))
    status = found["status"]
    assert int(status["CapBnd"], 16) == mask(DEFAULT)
    assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == 0
    assert status["Uid"].split() == ["1000"] * 4
    # The primary group stands among the supplementary ones, with those that list the user.
    assert status["Groups"].split() == ["10", "1000"]
    assert found["env"]["HOME"] == "/home/alice"


def test_options_take_rights_away_and_add_them(yard: Yard) -> None:
    found = probe(yard, cap_drop=("ALL",), cap_add=("CHOWN",), security_opt=("no-new-privileges",))
    status = found["status"]
    assert int(status["CapEff"], 16) == mask(("CAP_CHOWN",))
    assert status["NoNewPrivs"].strip() == "1"
    assert found["chroot"] == 1
    wider = probe(yard, cap_add=("SYS_ADMIN",), security_opt=("seccomp=unconfined",))
    assert wider["unshare"] == 0
    admin = probe(yard, cap_add=("SYS_ADMIN",))
    assert (admin["unshare"], admin["keyctl"]) == (0, 1)
    assert wider["status"]["Seccomp"].strip() == "0"


def test_privileged_has_all_that_the_machine_has(yard: Yard) -> None:
    found = probe(yard, privileged=True)
    status = found["status"]
    assert int(status["CapEff"], 16) == mask(NAMES)
    assert status["Seccomp"].strip() == "0"
    assert found["mount"] == 0
    assert found["readonly"]["/proc/sys/kernel/core_pattern"] == 0


def test_a_capability_the_machine_lacks_is_refused_at_creation(yard: Yard) -> None:
    missing = set(NAMES) - available_capabilities()
    for name in missing:
        with pytest.raises(InvalidArgument, match=name):
            yard.create("true", host=HostConfig(cap_add=(name,)))
    with pytest.raises(InvalidArgument, match="unknown capability"):
        yard.create("true", host=HostConfig(cap_add=("FLY",)))


def test_a_read_only_root_and_tmpfs(yard: Yard) -> None:
    host = HostConfig(readonly_rootfs=True, tmpfs={"/scratch": "size=1m,mode=700"})
    out = yard.output("sh", "-c", "touch /x 2>/dev/null || echo refused; touch /scratch/x && echo made", host=host)
    assert out == "refused\nmade\n"


def test_the_hosts_network_is_shared_only_when_asked(yard: Yard) -> None:
    own = os.readlink("/proc/self/ns/net")
    assert yard.output("readlink", "/proc/self/ns/net", host=HostConfig(network_mode="host")).strip() == own
    assert yard.output("readlink", "/proc/self/ns/net").strip() != own


def test_the_control_group_is_the_containers_own_and_goes_with_it(yard: Yard) -> None:
    container = yard.create("cat", "/proc/self/cgroup")
    _, out, _ = yard.run(container)
    assert container.id.encode() in out
    remove_container(yard.site, container.id)
    left = [str(path) for path in Path("/sys/fs/cgroup").glob(f"*/lamella/{container.id}")]
    assert left == []


def test_the_number_of_processes_is_limited(yard: Yard) -> None:
    container = yard.create(
        "sh",
        "-c",
        "i=0; while [ $i -lt 60 ]; do sleep 5 & i=$((i+1)); done 2>&1 | head -1",
        host=HostConfig(pids_limit=20),
    )
    assert b"fork" in yard.run(container)[1]


def test_every_name_of_the_table_is_in_one_class_only() -> None:
    assert not seccomp_table.ALLOWED & seccomp_table.REFUSED

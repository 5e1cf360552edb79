"""What another engine's spec confines a container to: the same here, or less, never more."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from lamella.insight.adoptlimits import plan_confinement
from lamella.model.containerconfig import HostConfig, Ulimit
from lamella.readers.base import ContainerFacts
from lamella.readers.common import Json
from lamella.runtime.capabilities import NAMES, plan_capabilities


def planned(spec: object) -> tuple[HostConfig, list[str]]:
    notes: list[str] = []
    return plan_confinement(Json(spec), ContainerFacts(), binds=(), tmpfs={}, network="none", notes=notes), notes


def held(host: HostConfig) -> set[str]:
    return set(plan_capabilities(add=host.cap_add, drop=host.cap_drop, privileged=False, available=frozenset(NAMES)))


@given(st.sets(st.sampled_from(NAMES)))
def test_the_capabilities_are_those_of_the_spec(names: set[str]) -> None:
    host, notes = planned({"process": {"capabilities": {"bounding": sorted(names)}}})
    assert held(host) == names
    assert bool(notes) == (names == set(NAMES))


def test_a_spec_that_lists_no_capabilities_gives_none() -> None:
    assert held(planned({"process": {"args": ["sh"]}})[0]) == set()
    assert held(planned({"process": {"args": ["sh"], "capabilities": {}}})[0]) == set()


def test_without_a_spec_a_container_gets_what_any_gets() -> None:
    assert planned(None)[0] == HostConfig(binds=(), network_mode="none")


def test_limits_keep_their_numbers_and_no_limit_is_none() -> None:
    limits = [{"type": "RLIMIT_NOFILE", "soft": 10, "hard": 2**64 - 1}, {"type": "RLIMIT_CORE"}, {"type": "x"}]
    spec: dict[str, Any] = {
        "process": {"rlimits": limits, "noNewPrivileges": True},
        "root": {"readonly": True},
        "linux": {"resources": {"memory": {"limit": 5, "swap": 6}, "cpu": {"cpus": "0-1"}, "pids": {"limit": 7}}},
    }
    host, _ = planned(spec)
    assert host.ulimits == (Ulimit("nofile", hard=-1, soft=10),)
    assert (host.memory, host.memory_swap, host.cpuset_cpus, host.pids_limit) == (5, 6, "0-1", 7)
    assert host.readonly_rootfs
    assert host.security_opt == ("no-new-privileges",)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(
    st.sampled_from(["process", "linux", "root", "resources", "memory", "cpu", "limit", "rlimits", "type", "capabilities",
                     "bounding", "soft", "hard", "readonly", "pids", "cpus"]), x)))  # fmt: skip
def test_no_document_makes_it_fail(document: object) -> None:
    planned(document)

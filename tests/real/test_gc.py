"""Garbage collection on real stores: the bytes of a plan are what du misses afterwards, and nothing else goes."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from lamella import Store
from lamella.engine.ledger import Policy
from tests.support import faults
from tests.support.archives import Made, docker20, image, layer_tar, leaks
from tests.support.cli import Lamella
from tests.support.disk import du
from tests.support.dockerd import Dockerd

DAY = 86400 * 10**9
BASE = layer_tar({"bin": None, "bin/tool": b"t" * 50_000})


def made(number: int, *tags: str, labels: dict[str, str] | None = None) -> Made:
    """Make an image of the common layer and one of its own, created on the day *number*."""
    own = layer_tar({f"own{number}": str(number).encode() * (5000 * number + 1), "etc": None, "etc/x": b"x"})
    config = {"Cmd": ["sh"], "Env": ["PATH=/bin"], "Labels": labels or {}}
    return image([BASE, own], *tags, created=f"2024-01-{number + 1:02}T00:00:00Z", config=config)


@pytest.fixture
def store(store_root: Path, tmp_path: Path) -> Lamella:
    lamella = Lamella(store_root)
    images = [made(n, f"a:{n}") for n in range(4)] + [made(4, "b:1", "c:1"), made(5, "b:2", labels={"ci": "1"})]
    docker20(tmp_path / "images.tar", *images)
    lamella.run("load", "-i", str(tmp_path / "images.tar"))
    settle(lamella, "a:0")
    return lamella


def settle(lamella: Lamella, name: str) -> None:
    """Have lamella make all directories that it keeps for itself."""
    lamella.run("create", "--name", "first", name, "sh")
    lamella.run("rm", "first")
    for stamp in (lamella.root / "lamella/last-use").iterdir():
        stamp.unlink()


def age(lamella: Lamella, name: str, days: int) -> None:
    """Have an image stored and last used so many days ago."""
    identity = lamella.inspect(name)["Id"].partition(":")[2]
    moment = time.time_ns() - days * DAY
    database = lamella.root / "image/overlay2/imagedb"
    for path in (
        database / "content/sha256" / identity,
        database / "metadata/sha256" / identity / "lastUpdated",
        lamella.root / "lamella/last-use" / identity,
    ):
        if path.exists():
            os.utime(path, ns=(moment, moment))


def plan(lamella: Lamella, *arguments: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(lamella.run("gc", "plan", "--json", *arguments))
    return found


def names(lamella: Lamella) -> set[str]:
    return set(lamella.run("images", "--format", "{{.Repository}}:{{.Tag}}").splitlines())


def apply_and_measure(lamella: Lamella, *arguments: str) -> list[str]:
    """Carry a plan out and hold it against du; return the names that went."""
    planned = plan(lamella, *arguments)
    before, _ = du(lamella.root)
    assert planned["before"] == before
    done = json.loads(lamella.run("gc", "apply", "-f", "--json", *arguments))
    after, _ = du(lamella.root)
    assert before - after == planned["before"] - planned["after"]
    assert [step["step"] for step in done["steps"]] == planned["steps"]
    assert [step["bytes"] for step in done["steps"]] == [step["bytes"] for step in planned["steps"]]
    assert not any(step["skipped"] for step in done["steps"])
    assert not leaks(lamella.root)
    return [name for step in planned["steps"] for name in step["names"]]


def test_what_was_not_used_for_long_goes_and_frees_what_was_said(store: Lamella) -> None:
    for number in range(4):
        age(store, f"a:{number}", 10 * number)
    age(store, "b:1", 100)
    assert apply_and_measure(store, "--unused-for", "15d") == ["b:1", "c:1", "a:3", "a:2"]
    assert names(store) == {"a:0", "a:1", "b:2"}


def test_the_last_image_takes_the_common_layer_with_it(store: Lamella) -> None:
    gone = apply_and_measure(store, "--keep", "0", "--minimum-age", "0")
    assert sorted(gone) == ["a:0", "a:1", "a:2", "a:3", "b:1", "b:2", "c:1"]
    assert names(store) == set()


def test_the_newest_of_each_repository_stay(store: Lamella) -> None:
    assert sorted(apply_and_measure(store, "--keep", "2", "--minimum-age", "0")) == ["a:0", "a:1"]


def test_a_budget_takes_the_least_recently_used_and_no_more(store: Lamella) -> None:
    for number in range(4):
        age(store, f"a:{number}", 10 * (4 - number))
    used = plan(store, "--keep", "9")["before"]
    everything = plan(store, "--unused-for", "5d")
    freed = {step["names"][0]: step["bytes"] for step in everything["steps"]}
    assert list(freed) == ["a:0", "a:1", "a:2", "a:3"]
    budget = used - freed["a:0"] - freed["a:1"]
    assert apply_and_measure(store, "--budget", str(budget)) == ["a:0", "a:1"]
    assert du(store.root)[0] <= budget


def test_a_budget_that_cannot_be_kept_is_said(store: Lamella) -> None:
    answer = store.try_run("gc", "plan", "--budget", "1k", "--minimum-age", "0")
    assert answer.returncode == 1
    assert "The budget of 1kB is not kept" in answer.stdout


def test_labels_pins_and_containers_decide(store: Lamella) -> None:
    store.run("create", "--name", "box", "a:1", "sh")
    store.run("pin", "a:2")
    assert store.run("pin") == "a:2"
    found = plan(store, "--keep", "0", "--minimum-age", "0", "--pin", "c", "--keep-label", "none")
    assert [step["names"] for step in found["steps"]] == [["b:2"], ["a:0"], ["a:3"]] or {
        name for step in found["steps"] for name in step["names"]
    } == {"b:2", "a:0", "a:3"}
    reasons = {item["names"][0]: item["reason"] for item in found["kept"]}
    assert reasons == {"a:1": "container box uses it", "a:2": "pinned by a:2", "b:1": "pinned by c"}
    store.run("unpin", "a:2")
    assert store.try_run("unpin", "a:2").returncode == 1
    assert apply_and_measure(store, "--drop-label", "ci=1", "--minimum-age", "0") == ["b:2"]


def test_the_policy_of_a_store_is_a_file_in_it(store: Lamella, tmp_path: Path) -> None:
    answer = store.try_run("gc", "plan")
    assert answer.returncode == 1
    assert "there is no policy" in answer.stderr
    policy = store.root / "lamella/gc.toml"
    policy.write_text('keep = 0\nminimum-age = "0"\npins = ["a:*", "b"]\n')
    assert plan(store)["steps"] == []
    (tmp_path / "other.toml").write_text("keep = 0\nminimum-age = '0'\n")
    assert len(plan(store, "--policy", str(tmp_path / "other.toml"))["steps"]) == 6
    policy.write_text("keep = 0\nminimum-age = 0\n")
    answer = store.try_run("gc", "apply", "-f")
    assert answer.returncode == 1
    assert f"{policy}, line 2: minimum-age: a duration is due" in answer.stderr
    assert len(names(store)) == 7


def test_what_was_just_stored_is_young(store: Lamella) -> None:
    found = plan(store, "--keep", "0")
    assert found["steps"] == []
    assert {item["reason"] for item in found["kept"]} == {"used or stored lately"}


def test_steps_of_a_build_go_with_its_image(store_root: Path, base_tar: Path, tmp_path: Path) -> None:
    lamella = Lamella(store_root)
    lamella.run("import", str(base_tar), "base:1")
    (tmp_path / "Dockerfile").write_text("FROM base:1\nENV a=b\nRUN echo 1 > /one\nRUN echo 2 > /two\n")
    lamella.run("build", "-q", "-t", "app:1", str(tmp_path))
    everything = plan(lamella, "--keep", "0", "--minimum-age", "0")
    assert [(step["names"], len(step["removes"])) for step in everything["steps"]] == [(["app:1"], 3), (["base:1"], 1)]
    assert apply_and_measure(lamella, "--keep", "0", "--minimum-age", "0", "--pin", "base") == ["app:1"]
    assert lamella.run("images", "-aq").count("\n") == 0
    kept = plan(lamella, "--keep", "0")["kept"]
    assert [item["names"] for item in kept] == [["base:1"]]


def test_an_image_that_another_was_made_from_stays_with_it(store_root: Path, base_tar: Path, tmp_path: Path) -> None:
    lamella = Lamella(store_root)
    lamella.run("import", str(base_tar), "base:1")
    (tmp_path / "Dockerfile").write_text("FROM base:1\nRUN echo 1 > /one\n")
    lamella.run("build", "-q", "-t", "app:1", str(tmp_path))
    age(lamella, "base:1", 90)
    found = plan(lamella, "--unused-for", "30d")
    assert found["steps"] == []
    assert {item["names"][0]: item["reason"] for item in found["kept"]}["base:1"] == "app:1 was made from it"


@pytest.mark.parametrize("change", ["tagged", "untagged", "container", "used", "pinned", "gone"])
def test_what_changed_since_the_plan_is_left_out(store: Lamella, change: str) -> None:
    identity = store.inspect("a:3")["Id"]
    with Store.open(store.root) as opened:
        planned, steps = opened.collect_garbage(Policy(keep=0, minimum_age=0, pins=("a:0", "a:1", "a:2", "b", "c")))
        assert [step.names for step in planned.steps] == [("a:3",)]
        expected = {
            "tagged": (["tag", "a:3", "d:1"], "the names of a:3 have changed"),
            "untagged": (["rmi", "--no-prune", "a:3"], "a:3 is gone already"),
            "container": (["create", "--name", "box", "a:3", "sh"], "container box uses a:3"),
            "used": (["run", "--rm", "a:3", "/nothing"], "a:3 was used meanwhile"),
            "pinned": (["pin", "a:3"], "a:3 was pinned"),
            "gone": (["rmi", "-f", "a:3"], "a:3 is gone already"),
        }[change]
        store.try_run(*expected[0])
        (done,) = steps
    assert done.skipped == expected[1]
    assert (done.removed, done.bytes) == ((), 0)
    assert store.try_run("inspect", identity).returncode == (1 if "gone" in expected[1] else 0)


def test_use_is_stamped_when_containers_are_made_and_started_and_by_builds(
    store: Lamella, tmp_path: Path, base_tar: Path
) -> None:
    def stamp(name: str) -> int:
        identity = store.inspect(name)["Id"].partition(":")[2]
        path = store.root / "lamella/last-use" / identity
        return path.stat().st_mtime_ns if path.exists() else 0

    store.run("import", str(base_tar), "base:1")
    assert stamp("base:1") == 0
    store.run("create", "--name", "box", "base:1", "true")
    made_at = stamp("base:1")
    assert abs(made_at - time.time_ns()) < 60 * 10**9
    store.run("start", "-a", "box")
    started_at = stamp("base:1")
    assert started_at > made_at
    (tmp_path / "Dockerfile").write_text("FROM base:1\nCOPY --from=a:1 /etc/x /x\n")
    store.run("build", "-q", "-t", "built:1", str(tmp_path))
    assert stamp("base:1") > started_at
    assert stamp("a:1") > started_at
    assert stamp("a:2") == 0
    store.run("rmi", "a:1")
    assert len(list((store.root / "lamella/last-use").iterdir())) == 1


def test_a_link_in_place_of_the_stamps_is_not_written_through(store: Lamella, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (store.root / "lamella/last-use").rmdir()
    (store.root / "lamella/last-use").symlink_to(tmp_path / "elsewhere")
    store.run("create", "--name", "box", "a:1", "sh")
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_the_table_of_names_is_in_the_sum(store_root: Path, tmp_path: Path) -> None:
    lamella = Lamella(store_root)
    docker20(tmp_path / "images.tar", made(1, *(f"a{n}:{'x' * 100}" for n in range(60))), made(2, "b:1"))
    lamella.run("load", "-i", str(tmp_path / "images.tar"))
    settle(lamella, "b:1")
    assert len(apply_and_measure(lamella, "--keep", "0", "--minimum-age", "0", "--pin", "b")) == 60


def test_files_that_layers_share_are_freed_with_the_last_of_them(store: Lamella) -> None:
    def own(name: str) -> Path:
        return Path(store.inspect(name)["GraphDriver"]["Data"]["UpperDir"])

    (own("a:0") / "all").write_bytes(b"x" * 50_000)
    (own("a:0") / "kept").write_bytes(b"x" * 60_000)
    (own("a:0") / "away").write_bytes(b"x" * 70_000)
    os.link(own("a:0") / "all", own("a:1") / "all")
    os.link(own("a:0") / "kept", own("b:2") / "kept")
    os.link(own("a:0") / "away", store.root.parent / "away")
    planned = plan(store, "--keep", "0", "--minimum-age", "0", "--pin", "b")
    freed = {step["names"][0]: step["bytes"] for step in planned["steps"]}
    assert max(freed["a:0"], freed["a:1"]) > 50_000
    assert freed["a:0"] < 60_000 + 70_000 + 50_000
    assert len(apply_and_measure(store, "--keep", "0", "--minimum-age", "0", "--pin", "b")) == 4
    assert len(apply_and_measure(store, "--keep", "0", "--minimum-age", "0")) == 3


def test_dockerd_agrees_with_what_is_left(store: Lamella) -> None:
    apply_and_measure(store, "--keep", "1", "--minimum-age", "0")
    left = names(store)
    with Dockerd(store.root) as docker:
        answer = store.try_run("gc", "apply", "-f", "--keep", "0", "--minimum-age", "0")
        assert answer.returncode == 1
        assert "dockerd" in answer.stderr
        assert set(docker.run("images", "--format", "{{.Repository}}:{{.Tag}}").splitlines()) == left
        assert plan(store, "--keep", "0", "--minimum-age", "0")["steps"]


def test_a_collection_killed_at_any_change_leaves_each_image_whole_or_gone_and_is_gone_on_with(
    store: Lamella, tmp_path: Path
) -> None:
    policy = Policy(keep=1, minimum_age=0, pins=("c",))
    start, root = tmp_path / "start", tmp_path / "root"
    subprocess.run(["cp", "-a", store.root, start], check=True)

    def copy() -> None:
        subprocess.run(["rm", "-rf", root], check=True)
        subprocess.run(["cp", "-a", start, root], check=True)

    def collect() -> None:
        with Store.open(root) as opened:
            list(opened.collect_garbage(policy)[1])

    copy()
    total = faults.count_changes(collect, tmp_path / "count")
    lamella = Lamella(root)
    left = names(lamella)
    assert {"a:3", "b:2", "c:1"} <= left
    assert total > 20
    for point in range(1, total + 1):
        copy()
        assert faults.run(collect, die_at=point) == faults.KILLED
        with Store.open(root) as opened:
            assert all(opened.parts.is_usable(image._stored) for image in opened.images(all=True))
            assert opened.problems == []
        collect()
        assert names(lamella) == left, f"killed at point {point} of {total}"
        assert leaks(root) == []

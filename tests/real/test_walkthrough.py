"""The main job, end to end, on a real Debian image: build, inspect, run on a terminal, inspect again, commit."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from tests.conftest import mounts_below
from tests.support.cli import Lamella
from tests.support.trees import fingerprint, flatten

if TYPE_CHECKING:
    from collections.abc import Generator

DOCKERFILE = """\
FROM ubuntu:latest
ENV author jlz
RUN echo "x1" >> /tmp/test
RUN echo "x2" >> /tmp/test2
RUN echo "x3" >> /tmp/test3
ENTRYPOINT ["/bin/bash", "-c", "cat /tmp/test"]
"""

pytestmark = pytest.mark.xdist_group("walkthrough")


class Walk(NamedTuple):
    """The walk-through after its interactive run, for the tests to look at."""

    lamella: Lamella
    image: dict[str, Any]
    container: dict[str, Any]
    before: dict[str, str]
    running: dict[str, Any]


def layers_of(image: dict[str, Any]) -> list[Path]:
    """List an image's layer directories, newest first, from what `inspect` says."""
    where = image["GraphDriver"]["Data"]
    lower = where.get("LowerDir")
    return [Path(where["UpperDir"]), *(Path(path) for path in (lower.split(":") if lower else []))]


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory, debian_tar: Path) -> Generator[Walk]:
    place = tmp_path_factory.mktemp("walk")
    lamella = Lamella(place / "root")
    (place / "context").mkdir()
    (place / "context/Dockerfile").write_text(DOCKERFILE)
    lamella.run("import", str(debian_tar), "ubuntu:latest")
    lamella.run("build", "-t", "my-ubuntu:0.1", str(place / "context"))
    image = lamella.inspect("my-ubuntu:0.1")
    before = {str(path): fingerprint(path) for path in layers_of(image)}
    code, screen = lamella.on_terminal(
        "run", "-it", "--name", "walker", "--entrypoint", "sh", "my-ubuntu:0.1",
        typed="echo hahaha > test4\necho 10.0.0.1 gate >> /etc/hosts\nexit\n",
    )  # fmt: skip
    assert code == 0, screen
    container = lamella.inspect("walker")
    lamella.run("run", "-d", "--name", "sleeper", "--entrypoint", "sleep", "my-ubuntu:0.1", "600")
    running = lamella.inspect("sleeper")
    running["mount table"] = Path("/proc/self/mountinfo").read_text()
    lamella.run("rm", "-f", "sleeper")
    yield Walk(lamella, image, container, before, running)
    assert not mounts_below(place)


def test_each_run_step_makes_one_layer_and_metadata_steps_none(walk: Walk) -> None:
    base = walk.lamella.inspect("ubuntu:latest")
    assert len(walk.image["RootFS"]["Layers"]) == 4
    assert walk.image["RootFS"]["Layers"][:1] == base["RootFS"]["Layers"]
    assert "author=jlz" in walk.image["Config"]["Env"]
    assert walk.image["Config"]["Entrypoint"] == ["/bin/bash", "-c", "cat /tmp/test"]
    rows = walk.lamella.run(
        "history", "--no-trunc", "--format", "{{.CreatedBy}}|{{.Size}}", "my-ubuntu:0.1"
    ).splitlines()
    assert len(rows) == 6
    assert "ENTRYPOINT" in rows[0]
    assert rows[0].endswith("|0B")
    assert rows[1] == '/bin/sh -c echo "x3" >> /tmp/test3|3B'
    assert "author" in rows[4]
    assert rows[4].endswith("|0B")


def test_the_image_names_its_layer_directories_newest_first(walk: Walk) -> None:
    where = walk.image["GraphDriver"]
    assert where["Name"] == "overlay2"
    upper = Path(where["Data"]["UpperDir"])
    lower = [Path(path) for path in where["Data"]["LowerDir"].split(":")]
    assert upper.name == "diff"
    assert Path(where["Data"]["MergedDir"]) == upper.parent / "merged"
    assert Path(where["Data"]["WorkDir"]) == upper.parent / "work"
    assert [sorted(flatten(path)) for path in [upper, *lower[:2]]] == [
        ["tmp", "tmp/test3"],
        ["tmp", "tmp/test2"],
        ["tmp", "tmp/test"],
    ]
    assert (lower[1] / "tmp/test").read_text() == "x1\n"
    assert (lower[2] / "etc/debian_version").exists()
    assert not (lower[2] / "tmp/test").exists()


def test_the_container_stands_on_its_init_layer_and_the_images_layers(walk: Walk) -> None:
    where = walk.container["GraphDriver"]["Data"]
    lower = where["LowerDir"].split(":")
    assert lower[0] == str(Path(where["UpperDir"]).parent) + "-init/diff"
    assert lower[1:] == [str(path) for path in layers_of(walk.image)]
    assert walk.container["Config"]["Entrypoint"] == ["sh"]
    assert walk.lamella.inspect("my-ubuntu:0.1") == walk.image


def test_the_kernel_mounts_the_very_overlay_that_inspect_shows(walk: Walk) -> None:
    where = walk.running["GraphDriver"]["Data"]
    line = next(line for line in walk.running["mount table"].splitlines() if f" {where['MergedDir']} " in line)
    options = dict(option.partition("=")[::2] for option in line.split()[-1].split(","))
    assert line.split(" - ")[1].startswith("overlay overlay")
    assert options["upperdir"] == where["UpperDir"]
    assert options["workdir"] == where["WorkDir"]
    assert len(options["lowerdir"].split(":")) == len(where["LowerDir"].split(":"))


def test_a_write_lands_in_the_containers_upper_directory_and_nowhere_else(walk: Walk) -> None:
    assert (Path(walk.container["GraphDriver"]["Data"]["UpperDir"]) / "test4").read_text() == "hahaha\n"
    assert not [path for path in layers_of(walk.image) if (path / "test4").exists()]
    assert {str(path): fingerprint(path) for path in layers_of(walk.image)} == walk.before


def test_the_init_layer_holds_what_the_container_owns(walk: Walk) -> None:
    init = Path(walk.container["GraphDriver"]["Data"]["LowerDir"].split(":")[0])
    seen = {name: (node.kind, node.mode) for name, node in flatten(init).items()}
    regular = [".dockerenv", "dev/console", "etc/hosts", "etc/hostname", "etc/resolv.conf"]
    assert {name: seen.get(name) for name in regular} == dict.fromkeys(regular, ("-", 0o755))
    assert os.readlink(init / "etc/mtab") == "/proc/mounts"
    assert set(seen) <= {*regular, "dev", "dev/pts", "dev/shm", "etc", "etc/mtab", "proc", "sys"}
    assert all((init / name).stat().st_size == 0 for name in regular)


def test_hosts_hostname_and_resolv_conf_are_the_containers_own(walk: Walk) -> None:
    hosts = Path(walk.container["HostsPath"]).read_text()
    assert "10.0.0.1 gate" in hosts
    assert walk.container["Config"]["Hostname"] in Path(walk.container["HostnamePath"]).read_text()
    assert Path(walk.container["ResolvConfPath"]).exists()
    assert "gate" not in walk.lamella.run("run", "--rm", "--entrypoint", "cat", "my-ubuntu:0.1", "/etc/hosts")


def test_diff_shows_the_users_change(walk: Walk) -> None:
    lines = walk.lamella.run("diff", "walker").splitlines()
    assert "A /test4" in lines
    assert not [line for line in lines if "hosts" in line]


def test_commit_stores_the_writable_layer_alone(walk: Walk) -> None:
    walk.lamella.run("commit", "-a", "jlz", "-m", "with test4", "walker", "my-ubuntu:0.2")
    image = walk.lamella.inspect("my-ubuntu:0.2")
    assert image["RootFS"]["Layers"][:4] == walk.image["RootFS"]["Layers"]
    assert len(image["RootFS"]["Layers"]) == 5
    stored = flatten(Path(image["GraphDriver"]["Data"]["UpperDir"]))
    assert "test4" in stored
    assert not [name for name in stored if name.startswith(("etc", "dev", ".dockerenv"))]
    assert image["Author"] == "jlz"
    assert "with test4" in walk.lamella.run("history", "my-ubuntu:0.2").splitlines()[1]
    assert walk.lamella.run("run", "--rm", "--entrypoint", "cat", "my-ubuntu:0.2", "/test4") == "hahaha"


def test_the_image_runs_its_own_entrypoint(walk: Walk) -> None:
    assert walk.lamella.run("run", "--rm", "my-ubuntu:0.1") == "x1"


def test_rm_takes_both_container_layers_and_leaves_the_images(walk: Walk) -> None:
    walk.lamella.run("create", "--name", "short", "my-ubuntu:0.1")
    where = walk.lamella.inspect("short")["GraphDriver"]["Data"]
    upper = Path(where["UpperDir"]).parent
    init = Path(where["LowerDir"].split(":")[0]).parent
    assert upper.is_dir()
    assert init.is_dir()
    walk.lamella.run("rm", "short")
    assert not upper.exists()
    assert not init.exists()
    assert {str(path): fingerprint(path) for path in layers_of(walk.image)} == walk.before


def test_a_malformed_tag_fails_and_changes_nothing(walk: Walk, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text(DOCKERFILE)
    listing = ["find", str(walk.lamella.root), "-printf", "%p %i %s %T@\n"]
    before = subprocess.run(listing, check=True, capture_output=True).stdout
    answer = walk.lamella.try_run("build", "-t", "my-ubuntu:0,1", str(tmp_path))
    assert answer.returncode != 0
    assert "invalid reference format" in answer.stderr
    assert len(answer.stderr.strip().splitlines()) == 1
    assert subprocess.run(listing, check=True, capture_output=True).stdout == before


def test_image_layer_directories_are_closed_to_other_users(walk: Walk) -> None:
    assert stat.S_IMODE(walk.lamella.root.stat().st_mode) == 0o710
    assert stat.S_IMODE((walk.lamella.root / "overlay2").stat().st_mode) == 0o710

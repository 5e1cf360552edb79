"""Images and containers of real engines' stores are adopted: same IDs, same bytes, and they run."""

from __future__ import annotations

import json
import subprocess
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from lamella.readers.detect import open_reader
from lamella.runtime.capabilities import NAMES
from tests.support.cli import Lamella
from tests.support.dockerd import Dockerd
from tests.support.engines import Containerd, Podman
from tests.support.trees import Node, flatten

DAMAGES_STORES = True  # on purpose: they are looked at with that

if TYPE_CHECKING:
    pass

pytestmark = pytest.mark.xdist_group("adopt")

STEPS = """\
FROM {base}
RUN mkdir -p /deep/er && echo one > /deep/er/file && chmod 4755 /deep/er/file && ln /deep/er/file /deep/hard
RUN rm -r /deep/er && echo two > /two && dd if=/dev/urandom of=/blob bs=64k count=3 2>/dev/null
RUN ln -s /two /soft && rm -r /home && mkdir -m 0700 /home && touch -d @1500000000 /home
LABEL made=here
CMD ["cat", "/two"]
"""

PECULIAR = """\
echo $HOME $TERM; id -G; grep 192.0.2.7 /etc/hosts; cat /proc/sys/kernel/msgmax; stat -c %t:%T /dev/fuse
df -k /scratch /dev/shm | awk 'NR>1 {print $2, $6}'; echo t > /scratch/t && stat -c '%a %F' /scratch; exit 7"""


class Source:
    """A store that an engine left behind, with what the engine said of it while it lived."""

    def __init__(self, root: Path, archive: Path, images: dict[str, dict[str, Any]]) -> None:
        self.root = root
        self.archive = archive
        self.images = images

    def copy(self, place: Path) -> Path:
        """Return a copy that a test may damage."""
        subprocess.run(["cp", "-a", self.root, place], check=True)
        return place


def write_context(place: Path, base: str) -> Path:
    context = place / "context"
    context.mkdir()
    (context / "Dockerfile").write_text(STEPS.format(base=base))
    return context


@pytest.fixture(scope="module")
def docker(tmp_path_factory: pytest.TempPathFactory, base_tar: Path) -> Source:
    place = tmp_path_factory.mktemp("docker")
    context = write_context(place, "base:1")
    with Dockerd(place / "root") as engine:
        engine.run("import", str(base_tar), "base:1")
        engine.run("build", "-t", "built:1", "--network=none", str(context))
        engine.run("run", "--network=none", "--name", "worked", "-v", "data:/data", "built:1", "sh", "-c",
                   "echo said; echo w > /written; rm /soft; echo kept > /data/file")  # fmt: skip
        engine.run("run", "-d", "--stop-timeout=1", "--network=none", "--name", "died", "built:1", "sleep", "600")
        engine.run("save", "-o", str(place / "saved.tar"), "built:1")
        images = {name: engine.inspect(name) for name in ("base:1", "built:1")}
        died = engine.inspect("died")["Id"]
    document = place / "root/containers" / died / "config.v2.json"
    record = json.loads(document.read_text())
    record["State"].update(Running=True, Pid=2)  # as an engine leaves it that had no time to write
    document.write_text(json.dumps(record))
    return Source(place / "root", place / "saved.tar", images)


@pytest.fixture(scope="module")
def podman(tmp_path_factory: pytest.TempPathFactory, base_tar: Path) -> Source:
    place = tmp_path_factory.mktemp("podman")
    context = write_context(place, "localhost/base:1")
    with Podman(place / "root") as engine:
        engine.run("import", base_tar, "localhost/base:1")
        engine.build("built:1", context)
        engine.container("run", "worked", "-v", "data:/data", "-v", "/usr/share:/shared:ro", "-e", "WITH=this", "-u", "7:8",
                         "-w", "/tmp", "--hostname", "named", "built:1", "sh", "-c",
                         "echo said; printf part; echo w > /tmp/written")  # fmt: skip
        engine.run("wait", "worked")
        engine.container("create", "confined", "--read-only", "--memory", "64m", "--pids-limit", "50", "--cap-add", "NET_ADMIN",
                         "--cap-drop", "KILL", "--ulimit", "nofile=100:200", "--security-opt", "no-new-privileges",
                         "--cpu-shares", "300", "built:1", "sh", "-c",
                         "ulimit -n; ulimit -Hn; grep -E 'CapBnd|NoNewPrivs' /proc/self/status; touch /x || echo ro")  # fmt: skip
        engine.container("run", "peculiar", "--tmpfs", "/scratch:size=1m,mode=0700", "-e", "HOME=/else", "-e", "TERM=vt100",
                         "--group-add", "10", "--add-host", "other:192.0.2.7", "--label", "kept=yes", "--stop-signal",
                         "USR1", "--shm-size", "1m", "--sysctl", "kernel.msgmax=4096", "--device", "/dev/fuse", "built:1",
                         "sh", "-c", PECULIAR)  # fmt: skip
        engine.run("wait", "peculiar")
        engine.run("save", "--format", "oci-archive", "-o", place / "saved.tar", "built:1")
        images = {name: engine.inspect("image", name) for name in ("base:1", "built:1")}
    return Source(place / "root", place / "saved.tar", images)


@pytest.fixture(scope="module")
def containerd(tmp_path_factory: pytest.TempPathFactory, podman: Source) -> Source:
    place = tmp_path_factory.mktemp("containerd")
    with Containerd(place / "root") as engine:
        engine.ctr("images", "import", "--base-name", "localhost/built", podman.archive)
        engine.ctr(
            "run",
            "--env",
            "WITH=this",
            "--cwd",
            "/tmp",
            "localhost/built:1",
            "worked",
            "sh",
            "-c",
            "echo w > /tmp/written",
        )
    return Source(place / "root", podman.archive, podman.images)


def layer_digests(archive: Path) -> list[str]:
    """Hash the layers of an archive of ours, uncompressed, in its manifest's order."""
    import hashlib

    with tarfile.open(archive) as tar:
        (manifest,) = json.load(tar.extractfile("manifest.json"))  # type: ignore[arg-type]
        return [hashlib.sha256(tar.extractfile(name).read()).hexdigest() for name in manifest["Layers"]]  # type: ignore[union-attr]


def assert_same_image(lamella: Lamella, name: str, theirs: dict[str, Any], place: Path) -> None:
    """The image has its ID and, written out, the layers that its diff IDs promise."""
    ours = lamella.inspect(name)
    assert ours["Id"].removeprefix("sha256:") == theirs["Id"].removeprefix("sha256:")
    assert ours["RootFS"]["Layers"] == theirs["RootFS"]["Layers"]
    lamella.run("save", "-o", str(place / "ours.tar"), name)
    assert [f"sha256:{digest}" for digest in layer_digests(place / "ours.tar")] == theirs["RootFS"]["Layers"]


def assert_tree(lamella: Lamella, name: str) -> None:
    """What the steps made is there, and what they removed is not."""
    script = "cat /two /deep/hard; stat -c %a:%Y /deep/hard /home; readlink /soft; ls /deep; wc -c < /blob"
    told = lamella.run("run", "--rm", "--network", "none", name, "sh", "-c", script).splitlines()
    assert told[:2] == ["two", "one"]
    assert told[2].startswith("4755:")
    assert told[3:] == ["700:1500000000", "/two", "hard", "196608"]


# ---------------------------------------------------------------------------------------------------- Docker


def test_a_dead_dockers_store_is_adopted_whole(docker: Source, tmp_path: Path) -> None:
    lamella = Lamella(tmp_path / "root")
    told = lamella.run("adopt", str(docker.root))
    assert "Adopted image built:1" in told
    assert "Adopted container worked" in told
    assert "Adopted volume data" in told
    for name, theirs in docker.images.items():
        assert_same_image(lamella, name, theirs, tmp_path)
    assert_tree(lamella, "built:1")
    assert lamella.run("logs", "worked") == "said"
    assert lamella.run("diff", "worked").splitlines() == ["A /data", "D /soft", "A /written"]
    assert (tmp_path / "root/volumes/data/_data/file").read_text() == "kept\n"
    state = lamella.inspect("died")["State"]
    assert (state["Status"], state["Running"], state["Pid"]) == ("exited", False, 0)
    lamella.run("start", "-a", "worked")
    assert lamella.run("logs", "worked") == "said\nsaid"
    assert lamella.run("run", "--rm", "--network", "none", "built:1") == "two"


def test_mounts_that_docker_makes_are_made_here_or_said_not_to_be(tmp_path: Path, base_tar: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    with Dockerd(tmp_path / "source") as engine:
        engine.run("import", str(base_tar), "base:1")
        engine.run("volume", "create", "--opt", "type=none", "--opt", "o=bind", "--opt", f"device={tmp_path}/elsewhere",
                   "stands-for")  # fmt: skip
        engine.run("create", "--name", "memory", "--network=none", "--mount", "type=tmpfs,dst=/mem,tmpfs-size=1m",
                   "base:1", "df", "-k", "/mem")  # fmt: skip
        engine.run("create", "--name", "bound", "--network=none", "-v", "stands-for:/data", "base:1", "true")
    lamella = Lamella(tmp_path / "root")
    planned = lamella.try_run("adopt", "--dry-run", str(tmp_path / "source"))
    done = lamella.try_run("adopt", str(tmp_path / "source"))
    for answer in (planned, done):
        assert answer.returncode == 1
        assert f"volume stands-for: it is what is mounted there by its options, {tmp_path}/elsewhere" in answer.stdout
    assert "the container gets an empty one" in done.stdout
    assert lamella.run("start", "-a", "memory").splitlines()[1].split()[:2] == ["tmpfs", "1024"]


def test_images_are_adopted_from_a_docker_that_runs_and_not_into_one(docker: Source, tmp_path: Path) -> None:
    source = docker.copy(tmp_path / "source")
    with Dockerd(source):
        lamella = Lamella(tmp_path / "root")
        lamella.run("adopt", str(source), "built:1")
        refused = Lamella(source).try_run("adopt", str(tmp_path / "root"))
        assert refused.returncode == 1
        assert "dockerd" in refused.stderr
    assert_same_image(lamella, "built:1", docker.images["built:1"], tmp_path)


def test_what_was_adopted_is_a_store_that_dockerd_opens(docker: Source, tmp_path: Path) -> None:
    Lamella(tmp_path / "root").run("adopt", str(docker.root))
    with Dockerd(tmp_path / "root") as engine:
        for name, theirs in docker.images.items():
            assert engine.inspect(name)["Id"] == theirs["Id"]
        assert engine.inspect("worked")["Path"] == "sh"
        assert engine.run("logs", "worked") == "said"
        assert engine.run("start", "-a", "worked") == "said"
        assert sorted(engine.run("diff", "worked").splitlines()) == ["A /data", "A /written", "D /soft"]


def test_adopting_again_changes_nothing(docker: Source, tmp_path: Path) -> None:
    lamella = Lamella(tmp_path / "root")
    lamella.run("adopt", str(docker.root))
    before = (
        flatten(tmp_path / "root/image"),
        flatten(tmp_path / "root/overlay2"),
        flatten(tmp_path / "root/containers"),
    )
    told = lamella.run("adopt", str(docker.root))
    assert all(line.startswith("Here already: ") for line in told.splitlines())
    assert before == (
        flatten(tmp_path / "root/image"),
        flatten(tmp_path / "root/overlay2"),
        flatten(tmp_path / "root/containers"),
    )


def test_a_plan_writes_nothing_and_says_the_same(docker: Source, tmp_path: Path) -> None:
    lamella = Lamella(tmp_path / "root")
    planned = json.loads(lamella.run("adopt", "--dry-run", "--json", str(docker.root)))
    assert lamella.run("images", "-aq") == ""
    assert not list((tmp_path / "root").rglob("config.v2.json"))
    done = json.loads(lamella.run("adopt", "--json", str(docker.root)))
    assert {item["state"] for item in planned} == {"planned"}
    for key in ("kind", "name", "id", "layers", "known", "size"):
        assert [item[key] for item in planned] == [item[key] for item in done], key


def test_the_source_is_left_as_it_was(docker: Source, tmp_path: Path) -> None:
    before = flatten(docker.root)
    Lamella(tmp_path / "root").run("adopt", str(docker.root))
    assert flatten(docker.root) == before


def test_one_image_and_one_container_bring_what_they_need(docker: Source, tmp_path: Path) -> None:
    lamella = Lamella(tmp_path / "root")
    lamella.run("adopt", str(docker.root), "base:1")
    assert lamella.run("images", "--format", "{{.Repository}}:{{.Tag}}") == "base:1"
    lamella.run("adopt", str(docker.root), "worked")
    assert lamella.run("ps", "-a", "--format", "{{.Names}}") == "worked"
    assert_same_image(lamella, "built:1", docker.images["built:1"], tmp_path)
    refused = lamella.try_run("adopt", str(docker.root), "nothing:1")
    assert refused.returncode == 1
    assert "No such image or container" in refused.stderr


def test_vfs_takes_what_overlay_gives_and_gives_it_back(docker: Source, tmp_path: Path) -> None:
    plain = Lamella(tmp_path / "vfs")
    plain.run("--storage-driver", "vfs", "adopt", str(docker.root))
    assert_same_image(plain, "built:1", docker.images["built:1"], tmp_path)
    assert_tree(plain, "built:1")
    back = Lamella(tmp_path / "back")
    back.run("adopt", str(tmp_path / "vfs"), "worked")
    assert_same_image(back, "built:1", docker.images["built:1"], tmp_path)
    assert back.run("diff", "worked").splitlines() == ["A /data", "D /soft", "A /written"]


def test_a_container_outlives_its_image(docker: Source, tmp_path: Path) -> None:
    source = docker.copy(tmp_path / "source")
    for kind in ("content", "metadata"):
        subprocess.run(["rm", "-rf", source / f"image/overlay2/imagedb/{kind}/sha256"], check=True)
    (source / "image/overlay2/imagedb/content/sha256").mkdir()
    lamella = Lamella(tmp_path / "root")
    lamella.run("adopt", str(source))
    assert lamella.run("images", "-aq") == ""
    assert lamella.run("diff", "worked").splitlines() == ["A /data", "D /soft", "A /written"]
    lamella.run("start", "-a", "worked")


# ---------------------------------------------------------------------------------------------------- Podman


def test_a_podman_store_is_adopted(podman: Source, tmp_path: Path) -> None:
    lamella = Lamella(tmp_path / "root")
    lamella.run("adopt", str(podman.root))
    for name, theirs in podman.images.items():
        assert_same_image(lamella, f"localhost/{name}", theirs, tmp_path)
        digests = lamella.inspect(f"localhost/{name}")["RepoDigests"]
        assert digests
        assert set(digests) <= set(theirs["RepoDigests"])
    assert_tree(lamella, "localhost/built:1")
    worked = lamella.inspect("worked")
    assert (worked["Path"], worked["Args"][0]) == ("sh", "-c")
    settings = worked["Config"]
    assert "WITH=this" in settings["Env"]
    assert (settings["User"], settings["WorkingDir"], settings["Hostname"]) == ("7:8", "/tmp", "named")
    assert settings["Labels"] == {"made": "here", **settings["Labels"]}
    assert sorted((m["Type"], m["Destination"], m["RW"]) for m in worked["Mounts"]) == [
        ("bind", "/shared", False),
        ("volume", "/data", True),
    ]
    assert lamella.run("logs", "worked") == "said\npart"
    assert "A /tmp/written" in lamella.run("diff", "worked").splitlines()
    lamella.run("start", "-a", "worked")
    assert lamella.run("logs", "worked") == "said\npartsaid\npart"


def test_what_podman_confines_a_container_to_is_kept(podman: Source, tmp_path: Path) -> None:
    lamella = Lamella(tmp_path / "root")
    lamella.run("adopt", str(podman.root))
    host = lamella.inspect("confined")["HostConfig"]
    assert host["Memory"] == 64 << 20
    assert host["PidsLimit"] == 50
    assert host["CpuShares"] == 300
    assert host["ReadonlyRootfs"] is True
    assert host["CapAdd"] == ["CAP_NET_ADMIN"]
    assert host["CapDrop"] == ["CAP_KILL", "CAP_NET_RAW", "CAP_MKNOD", "CAP_AUDIT_WRITE"]
    assert host["SecurityOpt"] == ["no-new-privileges"]
    assert {"Name": "nofile", "Soft": 100, "Hard": 200} in host["Ulimits"]
    soft, hard, capabilities, privileges, write = lamella.run("start", "-a", "confined").splitlines()
    assert (soft, hard, write) == ("100", "200", "ro")
    names = "CHOWN DAC_OVERRIDE FOWNER FSETID SETGID SETUID SETPCAP NET_BIND_SERVICE NET_ADMIN SYS_CHROOT SETFCAP"
    held = sum(1 << NAMES.index(f"CAP_{name}") for name in names.split())
    assert int(capabilities.split()[1], 16) == held
    assert privileges.split()[1] == "1"


def test_what_podman_gives_a_container_is_given_to_it_here(podman: Source, tmp_path: Path) -> None:
    lamella = Lamella(tmp_path / "root")
    lamella.run("adopt", str(podman.root))
    found = lamella.inspect("peculiar")
    assert (found["State"]["Status"], found["State"]["ExitCode"]) == ("exited", 7)
    assert found["Created"] < found["State"]["StartedAt"] <= found["State"]["FinishedAt"]
    assert found["Config"]["Labels"]["kept"] == "yes"
    assert found["Config"]["StopSignal"] == "SIGUSR1"
    theirs = lamella.run("logs", "peculiar").splitlines()
    assert len(theirs) == 8
    assert lamella.try_run("start", "-a", "peculiar").returncode == 7
    ours = lamella.run("logs", "peculiar").splitlines()[len(theirs) :]
    assert [" ".join(line.split()) for line in ours] == [" ".join(line.split()) for line in theirs]


def test_a_volume_of_podmans_that_stands_for_a_mount_is_not_adopted(tmp_path: Path, base_tar: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    with Podman(tmp_path / "source") as engine:
        engine.run("import", base_tar, "localhost/base:1")
        engine.run("volume", "create", "--opt", "type=none", "--opt", "o=bind", "--opt", f"device={tmp_path}/elsewhere",
                   "stands-for")  # fmt: skip
        engine.run("volume", "create", "plain")
    answer = Lamella(tmp_path / "root").try_run("adopt", str(tmp_path / "source"))
    assert answer.returncode == 1
    assert f"volume stands-for: it is what is mounted there by its options, {tmp_path}/elsewhere" in answer.stdout
    assert "Adopted volume plain" in answer.stdout


def test_a_running_container_is_refused_and_its_image_adopted(tmp_path: Path, base_tar: Path) -> None:
    with Podman(tmp_path / "source") as engine:
        engine.run("import", base_tar, "localhost/base:1")
        engine.container("run", "runs", "base:1", "sleep", "600")
        lamella = Lamella(tmp_path / "root")
        answer = lamella.try_run("adopt", str(tmp_path / "source"))
    assert answer.returncode == 1
    assert "Refused container runs: it runs as process" in answer.stdout
    assert lamella.run("images", "--format", "{{.Repository}}") == "localhost/base"
    assert lamella.run("ps", "-aq") == ""


# ---------------------------------------------------------------------------------------------------- containerd


def test_a_containerd_store_is_adopted(containerd: Source, tmp_path: Path) -> None:
    lamella = Lamella(tmp_path / "root")
    lamella.run("adopt", str(containerd.root))
    assert_same_image(lamella, "localhost/built:1", containerd.images["built:1"], tmp_path)
    assert_tree(lamella, "localhost/built:1")
    worked = lamella.inspect("worked")
    assert "WITH=this" in worked["Config"]["Env"]
    assert "A /tmp/written" in lamella.run("diff", "worked").splitlines()
    lamella.run("start", "-a", "worked")
    told = lamella.run("adopt", str(containerd.root))
    assert all(line.startswith("Here already: ") for line in told.splitlines()), told


# ---------------------------------------------------------------------------------------------------- damage


def file_of(root: Path, image: str, number: int, name: str) -> Path:
    """Return a file of an image's layer in a store."""
    reader = open_reader(root)
    layer = reader.find_layer(reader.find_image(image).layers[number])
    assert layer is not None
    return layer.directory / name


@pytest.mark.parametrize("kind", ["changed", "gone", "replaced by a link", "directory gone"])
@pytest.mark.parametrize("engine", ["docker", "podman"])
def test_a_damaged_layer_is_refused_and_named_and_the_rest_adopted(
    request: pytest.FixtureRequest, tmp_path: Path, engine: str, kind: str
) -> None:
    source: Source = request.getfixturevalue(engine)
    root = source.copy(tmp_path / "source")
    victim = file_of(root, "built:1", 2, "two")
    if kind == "changed":
        victim.write_text("TWO\n")
    elif kind == "directory gone":
        subprocess.run(["rm", "-rf", victim.parent], check=True)
    else:
        victim.unlink()
        if kind == "replaced by a link":
            victim.symlink_to("/etc/hostname")
    lamella = Lamella(tmp_path / "root")
    answer = lamella.try_run("adopt", str(root))
    assert answer.returncode == 1
    (line,) = [line for line in answer.stdout.splitlines() if line.startswith("Refused image") and "built:1" in line]
    assert f"layer 3 ({source.images['built:1']['RootFS']['Layers'][2][7:19]})" in line
    base = "base:1" if engine == "docker" else "localhost/base:1"
    assert_same_image(lamella, base, source.images["base:1"], tmp_path)
    names = lamella.run("images", "-a", "--format", "{{.Repository}}:{{.Tag}}").splitlines()
    assert not [name for name in names if "built" in name]
    # Neither of the layer nor of anything above it is anything left; what stands on the sound ones is whole.
    reader = open_reader(tmp_path / "root")
    assert {layer.directory_id for layer in reader.layers().values()} == set(reader.layer_directories())
    assert source.images["built:1"]["RootFS"]["Layers"][2] not in {layer.diff_id for layer in reader.layers().values()}


def test_a_damaged_blob_is_refused_and_named(containerd: Source, tmp_path: Path) -> None:
    root = containerd.copy(tmp_path / "source")
    reader = open_reader(root)
    blob = reader.image_blobs(reader.find_image("localhost/built:1"))[1]
    assert blob is not None
    blob.chmod(0o644)
    content = bytearray(blob.read_bytes())
    content[len(content) // 2] ^= 1
    blob.write_bytes(content)
    lamella = Lamella(tmp_path / "root")
    answer = lamella.try_run("adopt", str(root))
    assert answer.returncode == 1
    assert "layer 2 (" in answer.stdout
    assert blob.name in answer.stdout
    assert lamella.run("images", "-aq") == ""


def test_blobs_are_enough_where_the_unpacked_layers_are_gone(containerd: Source, tmp_path: Path) -> None:
    root = containerd.copy(tmp_path / "source")
    subprocess.run(["rm", "-rf", root / "io.containerd.snapshotter.v1.overlayfs/snapshots"], check=True)
    lamella = Lamella(tmp_path / "root")
    answer = lamella.try_run("adopt", str(root))
    assert "Refused container worked" in answer.stdout
    assert_same_image(lamella, "localhost/built:1", containerd.images["built:1"], tmp_path)


def test_a_lost_tar_split_is_made_again_where_the_files_tell_all(tmp_path: Path, base_tar: Path) -> None:
    """A layer that lamella itself captured has a tar that its files alone give again."""
    context = write_context(tmp_path, "base:1")
    source = Lamella(tmp_path / "source")
    source.run("import", str(base_tar), "base:1")
    source.run("build", "-t", "built:1", str(context))
    theirs = source.inspect("built:1")
    for record in (tmp_path / "source/image/overlay2/layerdb/sha256").iterdir():
        if (record / "parent").exists():
            (record / "tar-split.json.gz").unlink()
    lamella = Lamella(tmp_path / "root")
    lamella.run("adopt", str(tmp_path / "source"), "built:1")
    assert_same_image(lamella, "built:1", theirs, tmp_path)


def test_a_name_that_is_taken_stays_where_it_is(docker: Source, tmp_path: Path, base_tar: Path) -> None:
    lamella = Lamella(tmp_path / "root")
    lamella.run("import", "--message", "another", str(base_tar), "built:1")
    other = lamella.inspect("built:1")["Id"]
    lamella.run("create", "--name", "worked", "built:1", "true")
    answer = lamella.try_run("adopt", str(docker.root))
    assert answer.returncode == 1
    assert f"built:1 stays with image {other[7:19]} here" in answer.stdout
    assert "Refused container worked: container" in answer.stdout
    assert lamella.inspect("built:1")["Id"] == other
    assert lamella.inspect(docker.images["built:1"]["Id"])["RepoTags"] == []


def contents(root: Path) -> dict[str, Node]:
    """Return the tree below *root*, whatever else its files are linked with."""
    return {name: node._replace(content=node.content.partition(" ")[0]) for name, node in flatten(root).items()}


def test_hard_links_share_files_and_nothing_else(docker: Source, tmp_path: Path) -> None:
    source = docker.copy(tmp_path / "source")
    before = contents(source)
    lamella = Lamella(tmp_path / "root")
    (image,) = [
        item
        for item in json.loads(lamella.run("adopt", "--hard-link", "--json", str(source), "base:1"))
        if item["kind"] == "image"
    ]
    assert image["shared"] > 0.9 * image["size"]
    ours, theirs = (file_of(root, "base:1", 0, "bin/busybox") for root in (tmp_path / "root", source))
    assert ours.samefile(theirs)
    assert contents(source) == before
    assert_same_image(lamella, "base:1", docker.images["base:1"], tmp_path)
    lamella.run(
        "run",
        "--rm",
        "--network",
        "none",
        "base:1",
        "sh",
        "-c",
        "echo changed > /bin/busybox; cat /bin/busybox | head -c 1",
    )
    assert contents(source) == before
    lamella.run("rmi", "base:1")
    assert contents(source) == before


def test_a_store_is_not_adopted_into_itself(docker: Source) -> None:
    answer = Lamella(docker.root).try_run("adopt", str(docker.root))
    assert answer.returncode == 1
    assert "this store itself" in answer.stderr

"""What becomes of a build: archives, trees and pushes; one layer in place of many; caches that other stores build on."""

from __future__ import annotations

import io
import json
import os
import subprocess
import tempfile
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import Any

import pytest

from lamella.build.cacheplaces import parse_cache_from, parse_cache_to
from lamella.build.events import BuildEvent
from lamella.build.outputs import Output, parse_output
from lamella.engine.images import Image
from lamella.engine.registries import Registries, RegistrySettings
from lamella.engine.store import Store
from lamella.errors import InvalidArgument, Unsupported
from tests.support.building import import_base, write_context
from tests.support.cli import Lamella
from tests.support.dockerd import Dockerd
from tests.support.registry import RealRegistry
from tests.support.trees import Node, flatten

pytestmark = pytest.mark.xdist_group("build-outputs")

EPOCH = 1_700_000_000
DOCKERFILE = """\
FROM base
RUN mkdir -p /deep/er && echo one > /deep/er/file && chmod 4755 /deep/er/file && chown 1000:1000 /deep
RUN ln /deep/er/file /deep/hard && ln -s er/file /deep/soft && mkfifo /deep/pipe
RUN rm /etc/passwd && rm -r /home && mkdir -m 0700 /home
COPY note /note
LABEL made=here
CMD ["/bin/sh"]
"""
STAGES = """\
FROM base AS tools
RUN echo tool > /tool
RUN echo more >> /tool
FROM base
RUN echo first > /first
COPY --from=tools /tool /tool
RUN cat /tool > /last
"""


def sh(*command: str | Path) -> str:
    answer = subprocess.run(command, capture_output=True, check=False, text=True)
    assert answer.returncode == 0, f"{command}: {answer.stderr}"
    return answer.stdout


class Place:
    """A store of its own, with the base image that all have, and what its last build told."""

    def __init__(self, root: Path, base_tar: Path, driver: str | None = None) -> None:
        root.parent.mkdir(parents=True, exist_ok=True)
        self.store = Store.open(root, driver=driver, state=root.parent / f"{root.name}-state")
        import_base(self.store.parts, base_tar, "base:latest", env=("PATH=/bin",))
        self.base_tar = base_tar
        self.events: list[BuildEvent] = []

    def build(self, context: Path, **options: Any) -> Image:
        self.events.clear()
        return self.store.build(context, registries=REGISTRIES, report=self.events.append, **options)

    @property
    def lines(self) -> list[str]:
        return [str(event) for event in self.events]

    @property
    def hits(self) -> int:
        return self.lines.count(" ---> Using cache")

    @property
    def runs(self) -> int:
        return sum(line.startswith(" ---> Running in") for line in self.lines)

    @property
    def warnings(self) -> list[str]:
        return [line for line in self.lines if line.startswith("[Warning]")]

    def tree(self, image: Image) -> dict[str, Node]:
        with image.mount() as root:
            return flatten(root)


REGISTRIES = Registries(RegistrySettings())


@pytest.fixture
def here(store_root: Path, base_tar: Path) -> Place:
    return Place(store_root, base_tar)


@pytest.fixture
def there(tmp_path: Path, base_tar: Path) -> Place:
    return Place(tmp_path / "there", base_tar)


@pytest.fixture
def context(tmp_path: Path) -> Path:
    return write_context(tmp_path / "context", DOCKERFILE, {"note": "a note"})


@pytest.fixture
def registry() -> Generator[RealRegistry]:
    with RealRegistry() as running:
        yield running


# --------------------------------------------------------------------------------------------------- the grammar


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("out", Output("local", "out")),
        ("-", Output("tar", "-")),
        ("type=local,dest=out", Output("local", "out")),
        ("type=tar", Output("tar", "-")),
        ("type=tar,dest=o.tar", Output("tar", "o.tar")),
        ("type=oci,dest=-", Output("oci", "-")),
        ("type=docker", Output("docker", "")),
        ("type=oci,dest=d,tar=false", Output("oci", "d", layout=True)),
        ("type=docker,dest=o.tar,name=a:1", Output("docker", "o.tar", ("a:1",))),
        ('type=image,"name=a:1,b",push=true', Output("image", "", ("a:1", "b:latest"), push=True)),
        ("type=registry", Output("image", push=True)),
        ("Type=oci,DEST=x,compression=uncompressed", Output("oci", "x", compression="none")),
        ('type=local,"dest=a,b"', Output("local", "a,b")),
    ],
)
def test_outputs_are_spelled_as_for_buildx(text: str, expected: Output) -> None:
    assert parse_output(text) == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "is needed"),
        ("type=local", "dest is required"),
        ("dest=x,type=", "type is required"),
        ("type=tar,dest", "key=value is needed"),
        ("type=tar,dest=a,dest=b", "given twice"),
        ("type=tar,tag=x", "unknown field"),
        ("type=oci,tar=false", "needs dest"),
        ("type=oci,tar=maybe,dest=x", "must be true or false"),
        ("type=oci,compression=lzma,dest=x", "must be one of"),
        ("type=image,name=UPPER", "must be lowercase"),
        ('type=tar,"dest', "output"),
    ],
)
def test_an_output_that_makes_no_sense_is_refused_with_what_is_wrong(text: str, reason: str) -> None:
    with pytest.raises(InvalidArgument, match=reason):
        parse_output(text)


def test_types_of_other_builders_are_named_as_such() -> None:
    for parse, text in ((parse_output, "type=moby"), (parse_cache_from, "type=gha"), (parse_cache_to, "type=s3")):
        with pytest.raises(Unsupported, match=text):
            parse(text)


def test_nothing_is_built_for_an_output_that_cannot_be_written(here: Place, context: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for output, reason in (
        (str(tmp_path / "file"), "is not a directory"),
        (f"type=tar,dest={tmp_path}", "is a directory"),
        (f"type=tar,dest={tmp_path}/none/o.tar", "does not exist"),
        ("type=registry", "tag is needed"),
    ):
        with pytest.raises(InvalidArgument, match=reason):
            here.build(context, outputs=[output])
    assert not here.events
    assert len(here.store.images(all=True)) == 1


# --------------------------------------------------------------------------------------------------- archives


def test_skopeo_and_podman_read_the_oci_archive_and_the_layout(here: Place, context: Path, tmp_path: Path) -> None:
    image = here.build(
        context,
        tags=["made:1"],
        outputs=[f"type=oci,dest={tmp_path}/oci.tar", f"type=oci,dest={tmp_path}/layout,tar=false"],
    )
    for place in (f"oci-archive:{tmp_path}/oci.tar", f"oci:{tmp_path}/layout:1"):
        config = json.loads(sh("skopeo", "inspect", "--config", "--raw", place))
        assert config["rootfs"]["diff_ids"] == list(image.config.diff_ids)
        manifest = json.loads(sh("skopeo", "inspect", "--raw", place))
        assert manifest["config"]["digest"] == image.id
        assert {layer["mediaType"] for layer in manifest["layers"]} == {"application/vnd.oci.image.layer.v1.tar+gzip"}
    short = tempfile.mkdtemp(prefix="p-")
    podman: list[str | Path] = ["podman", "--root", tmp_path / "podman", "--runroot", short, "--storage-driver", "vfs"]
    sh(*podman, "load", "-i", tmp_path / "oci.tar")
    found = json.loads(sh(*podman, "image", "inspect", "made:1"))[0]
    assert found["Id"] == image.id.removeprefix("sha256:")
    subprocess.run(["rm", "-rf", short], check=True)


def test_docker_reads_the_docker_archive(here: Place, context: Path, tmp_path: Path) -> None:
    image = here.build(context, outputs=[f"type=docker,dest={tmp_path}/docker.tar,name=made:2"])
    assert not image.tags
    with Dockerd(tmp_path / "docker") as docker:
        docker.run("load", "-i", str(tmp_path / "docker.tar"))
        assert docker.inspect("made:2")["Id"] == image.id


@pytest.mark.parametrize("form", ["type=oci", "type=docker", "type=tar"])
def test_the_same_build_at_the_same_time_gives_the_same_bytes(
    here: Place, there: Place, context: Path, tmp_path: Path, form: str
) -> None:
    here.build(context, timestamp=EPOCH, outputs=[f"{form},dest={tmp_path}/one"])
    there.build(context, timestamp=EPOCH, outputs=[f"{form},dest={tmp_path}/two"])
    assert there.hits == 0
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


# --------------------------------------------------------------------------------------------------- trees


def test_a_tar_holds_the_images_tree(here: Place, context: Path, tmp_path: Path) -> None:
    sink = io.BytesIO()
    image = here.build(context, outputs=["-"], stdout=sink)
    (tmp_path / "tree").mkdir()
    subprocess.run(
        ["tar", "--xattrs", "--xattrs-include=*", "--numeric-owner", "-xpf", "-", "-C", tmp_path / "tree"],
        input=sink.getvalue(),
        check=True,
    )
    assert flatten(tmp_path / "tree") == here.tree(image)


def test_on_the_command_line_a_tar_has_standard_output_for_itself(tmp_path: Path, context: Path, here: Place) -> None:
    lamella = Lamella(here.store.root)
    answer = subprocess.run(
        [*(str(part) for part in lamella.try_run("version").args[:3]), "build", "-o", "-", str(context)],
        capture_output=True,
        check=True,
    )
    listed = subprocess.run(["tar", "-t"], input=answer.stdout, capture_output=True, check=True).stdout.split()
    assert b"deep/er/file" in listed
    assert b"Successfully built" in answer.stderr


def test_the_command_line_has_all_of_it(tmp_path: Path, context: Path, here: Place, registry: RealRegistry) -> None:
    lamella, name = Lamella(here.store.root), f"{registry.host}/cli:1"
    cache = f"type=local,dest={tmp_path}/cache,mode=max"
    lamella.run("build", "-q", "-t", name, "--squash", "--push", "--load", "--cache-to", cache, str(context))
    assert len(lamella.inspect(name)["RootFS"]["Layers"]) == 2
    assert json.loads(sh("skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{name}"))["layers"]
    fresh = Place(tmp_path / "fresh", here.base_tar)
    other = Lamella(fresh.store.root)
    said = other.run("build", "--cache-from", f"type=local,src={tmp_path}/cache", "-o", f"{tmp_path}/out", str(context))
    assert said.count("Using cache") == 6
    assert (tmp_path / "out/note").read_text() == "a note"
    refused = other.try_run("build", "-o", "type=none", str(context))
    assert refused.returncode != 0
    assert "outputs are local, tar, oci, docker, image and registry" in refused.stderr


def test_a_directory_gets_the_images_tree_as_the_callers_files(here: Place, context: Path, tmp_path: Path) -> None:
    image = here.build(context, outputs=[str(tmp_path / "out")])
    expected = {name: node._replace(owner=(0, 0)) for name, node in here.tree(image).items()}
    assert flatten(tmp_path / "out") == expected
    assert here.tree(image)["deep"].owner == (1000, 1000)


def test_a_directory_that_holds_files_is_merged_into(here: Place, context: Path, tmp_path: Path) -> None:
    out, outside = tmp_path / "out", tmp_path / "outside"
    outside.mkdir()
    out.mkdir()
    (out / "mine").write_text("mine")
    (out / "etc").symlink_to(outside)
    (out / "note").mkdir()
    (out / "note/inside").write_text("")
    (out / "home").write_text("in the way")
    (out / "deep").mkdir()
    (out / "deep/mine").write_text("mine")
    (out / "deep/hard").symlink_to(outside / "victim")
    image = here.build(context, outputs=[f"type=local,dest={out}"])
    assert (out / "mine").read_text() == (out / "deep/mine").read_text() == "mine"
    assert list(outside.iterdir()) == []
    found = flatten(out)
    expected = {name: node._replace(owner=(0, 0)) for name, node in here.tree(image).items()}
    assert {name: found[name] for name in expected} == expected
    assert found.keys() - expected.keys() == {"mine", "deep/mine"}


def test_an_output_leaves_the_image_in_the_store_as_cache(here: Place, context: Path, tmp_path: Path) -> None:
    first = here.build(context, outputs=[str(tmp_path / "out")])
    assert not first.tags
    assert here.build(context, tags=["later:1"]).id == first.id
    assert here.hits == 6


# --------------------------------------------------------------------------------------------------- pushes


def test_a_push_is_of_all_tags_or_of_the_outputs_own_names(here: Place, context: Path, registry: RealRegistry) -> None:
    image = here.build(
        context,
        tags=[f"{registry.host}/a:1", f"{registry.host}/a:2"],
        outputs=["type=registry", f"type=image,name={registry.host}/b:3,push=true,compression=zstd"],
    )
    for name, packing in (("a:1", "gzip"), ("a:2", "gzip"), ("b:3", "zstd")):
        raw = sh("skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{registry.host}/{name}")
        manifest = json.loads(raw)
        assert manifest["config"]["digest"] == image.id
        assert all(layer["mediaType"].endswith(packing) for layer in manifest["layers"])
    assert f"{registry.host}/b:3" in image.tags


# --------------------------------------------------------------------------------------------------- squash

SQUASHED = """\
FROM base AS first
RUN echo only-here-for-a-while > /secret && mkdir /gone /kept && echo a > /gone/a && echo b > /kept/b
FROM first
RUN rm -r /secret /gone /etc/passwd && mkdir /gone && echo c > /gone/c
RUN setfattr -n user.note -v x /kept/b 2>/dev/null || true
RUN rm -r /home && echo file > /home && ln /gone/c /kept/c
RUN touch -d @1000000 /marked && printf 1 > /etc/hostnam_ && touch -d @1000000 /etc/hostnam_
CMD ["squashed"]
"""


@pytest.mark.parametrize("driver", ["overlay2", "vfs"])
def test_a_squashed_image_has_one_layer_and_the_same_tree(
    tmp_path: Path, base_tar: Path, store_root: Path, driver: str
) -> None:
    place = Place(store_root, base_tar, driver)
    context = write_context(tmp_path / "context", SQUASHED)
    plain = place.build(context, tags=["plain:1"])
    image = place.build(context, tags=["squashed:1"], squash=True)
    assert place.hits == 6
    parts = place.store.parts
    long, short = parts.images.get(plain.id), parts.images.get(image.id)
    assert len(short.config.diff_ids) == 2
    assert short.config.diff_ids[0] == long.config.diff_ids[0]
    assert place.tree(image) == place.tree(plain)
    assert [entry.created_by for entry in short.config.history[:-1]] == [
        entry.created_by for entry in long.config.history
    ]
    assert short.config.history[-1].comment == f"merge {plain.id} to {parts.resolve('base')}"
    assert [entry.empty_layer for entry in short.config.history] == [False, *[True] * 6, False]
    assert short.config.config == long.config.config
    assert short.parent is None


def test_what_a_squashed_build_removed_is_in_no_byte_of_its_layers(here: Place, tmp_path: Path, context: Path) -> None:
    write_context(context, SQUASHED)
    image = here.build(context, squash=True, outputs=[f"type=docker,dest={tmp_path}/o.tar"])
    assert b"only-here-for-a-while\n" not in (tmp_path / "o.tar").read_bytes()
    top = here.store.parts.layers.get(here.store.parts.images.get(image.id).chains[-1])
    found = io.BytesIO()
    here.store.parts.layers.reassemble(top, found.write)
    assert b"gone/a" not in found.getvalue()
    assert b"secret" not in found.getvalue()
    assert b"etc/.wh.passwd" in found.getvalue()


def test_squashing_sees_new_bytes_of_old_length_and_time(here: Place, tmp_path: Path, context: Path) -> None:
    write_context(context, "FROM base\nRUN printf old > /file\n")
    here.build(context, tags=["below:1"], timestamp=EPOCH)
    write_context(context, "FROM below:1\nRUN printf new > /file\n")
    image = here.build(context, timestamp=EPOCH, squash=True)
    with image.mount() as root:
        assert (root / "file").read_text() == "new"
        assert (root / "file").stat().st_mtime == EPOCH


def test_a_build_that_makes_no_layer_is_not_squashed(here: Place, context: Path) -> None:
    write_context(context, "FROM base\nLABEL a=b\n")
    assert here.build(context, squash=True).id == here.build(context).id


def test_squashing_from_nothing_gives_one_layer(here: Place, context: Path) -> None:
    write_context(context, "FROM scratch\nCOPY note /a\nCOPY note /b\n", {"note": "x"})
    plain = here.build(context)
    image = here.build(context, squash=True)
    config = here.store.parts.images.get(image.id).config
    assert len(config.diff_ids) == 1
    assert config.history[-1].comment == f"create new from {plain.id}"
    assert here.tree(image) == here.tree(plain)


# --------------------------------------------------------------------------------------------------- caches


@pytest.mark.parametrize("kind", ["registry", "local"])
def test_another_store_takes_every_step_from_an_exported_cache(
    here: Place, there: Place, context: Path, registry: RealRegistry, tmp_path: Path, kind: str
) -> None:
    to, where = f"type=local,dest={tmp_path}/cache", f"type=local,src={tmp_path}/cache"
    if kind == "registry":
        to = where = f"type=registry,ref={registry.host}/cache:main"
    image = here.build(context, cache_to=[to])
    again = there.build(context, cache_from=[where], tags=["same:1"])
    assert (there.hits, there.runs, there.warnings) == (6, 0, [])
    assert again.id == image.id
    assert there.tree(again) == here.tree(image)
    there.build(context)
    assert there.hits == 6


def test_a_store_of_another_driver_takes_the_steps_too(
    here: Place, context: Path, tmp_path: Path, base_tar: Path
) -> None:
    image = here.build(context, cache_to=[f"type=local,dest={tmp_path}/cache"])
    other = Place(tmp_path / "vfs", base_tar, "vfs")
    again = other.build(context, cache_from=[f"type=local,src={tmp_path}/cache"])
    assert (other.hits, other.runs, again.id) == (6, 0, image.id)
    assert other.tree(again) == here.tree(image)


@pytest.mark.parametrize(("mode", "runs"), [("max", 0), ("min", 2)])
def test_mode_max_has_the_steps_of_all_stages(
    here: Place, there: Place, context: Path, tmp_path: Path, mode: str, runs: int
) -> None:
    write_context(context, STAGES)
    image = here.build(context, cache_to=[f"type=local,dest={tmp_path}/cache,mode={mode}"])
    again = there.build(context, cache_from=[f"type=local,src={tmp_path}/cache"])
    assert (there.runs, there.warnings) == (runs, [])
    assert again.id == image.id


def test_layers_that_no_step_needs_are_not_fetched(
    here: Place, there: Place, context: Path, registry: RealRegistry
) -> None:
    write_context(context, "FROM base\nRUN echo a > /a\nRUN echo b > /b\nRUN echo c > /c\n")
    where = f"type=registry,ref={registry.host}/cache"
    here.build(context, cache_to=[where])
    index = json.loads(sh("skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{registry.host}/cache"))
    assert len(index["manifests"]) == 3
    newest = f"docker://{registry.host}/cache@{index['manifests'][0]['digest']}"
    layers = json.loads(sh("skopeo", "inspect", "--raw", "--tls-verify=false", newest))["layers"]
    write_context(context, "FROM base\nRUN echo a > /a\nRUN echo other > /b\n")
    there.build(context, cache_from=[where])
    assert (there.hits, there.runs) == (1, 1)
    fetched = [line for line in registry.log.splitlines() if '"GET /v2/cache/blobs/' in line and "Go-http" not in line]
    wanted = [[layer["digest"] in line for line in fetched].count(True) for layer in layers]
    assert wanted == [0, 1, 0, 0]  # the base is here, the first step is stood on, the others are passed over


def test_the_result_of_an_exported_cache_is_an_image_that_can_be_pulled(
    here: Place, there: Place, context: Path, registry: RealRegistry
) -> None:
    image = here.build(context, cache_to=[f"{registry.host}/cache"])
    assert there.store.pull(f"{registry.host}/cache", registries=REGISTRIES).image.id == image.id


def test_a_cache_is_written_again_without_sending_what_is_there(
    here: Place, context: Path, registry: RealRegistry, tmp_path: Path
) -> None:
    places = [f"type=registry,ref={registry.host}/cache", f"type=local,dest={tmp_path}/cache"]
    here.build(context, cache_to=places)
    sent = registry.log.count('"PUT /v2/cache/blobs/')
    before = {path.name: path.stat().st_ino for path in (tmp_path / "cache/blobs/sha256").iterdir()}
    assert sent > 6
    here.build(context, cache_to=places)
    assert registry.log.count('"PUT /v2/cache/blobs/') == sent
    after = {path.name: path.stat().st_ino for path in (tmp_path / "cache/blobs/sha256").iterdir()}
    large = {name for name in before if (tmp_path / "cache/blobs/sha256" / name).stat().st_size > 10_000}
    assert large
    assert {name: after[name] for name in large} == {name: before[name] for name in large}


def test_steps_done_here_at_another_time_are_followed_by_those_of_the_cache(
    here: Place, there: Place, context: Path, tmp_path: Path
) -> None:
    write_context(context, "FROM base\nRUN echo a > /a\nENV x=y\nRUN echo b > /b\nRUN echo c > /c\n")
    image = here.build(context, cache_to=[f"type=local,dest={tmp_path}/cache"])
    write_context(context, "FROM base\nRUN echo a > /a\nENV x=y\n")
    assert there.build(context).id not in [layer.id for layer in here.store.images(all=True)]
    write_context(context, "FROM base\nRUN echo a > /a\nENV x=y\nRUN echo b > /b\nRUN echo c > /c\n")
    again = there.build(context, cache_from=[f"type=local,src={tmp_path}/cache"])
    assert (there.hits, there.runs) == (4, 0)
    assert again.id == image.id


def test_a_cache_that_is_missing_is_a_warning(here: Place, context: Path, registry: RealRegistry) -> None:
    places = ["type=local,src=/nowhere", f"type=registry,ref={registry.host}/none", f"{registry.host}/none:2"]
    here.build(context, cache_from=places)
    assert here.runs == 3
    assert len(here.warnings) == 3
    assert "cache /nowhere is not used: /nowhere is not a directory" in here.warnings[0]


def damage(paths: Iterable[Path]) -> None:
    """Change one byte in the middle of each file."""
    for path in paths:
        raw = bytearray(path.read_bytes())
        raw[len(raw) // 2] ^= 1
        path.write_bytes(raw)


def test_a_cache_with_damaged_documents_is_a_warning(here: Place, there: Place, context: Path, tmp_path: Path) -> None:
    here.build(context, cache_to=[f"type=local,dest={tmp_path}/cache"])
    blobs = (tmp_path / "cache/blobs/sha256").iterdir()
    damage([path for path in blobs if b'"rootfs"' in path.read_bytes()])
    there.build(context, cache_from=[f"type=local,src={tmp_path}/cache"])
    assert (there.hits, there.runs) == (0, 3)
    assert len(there.warnings) == 1


def test_a_build_does_without_a_cache_whose_layers_are_damaged(
    here: Place, there: Place, context: Path, tmp_path: Path
) -> None:
    noise = os.urandom(200_000).hex()
    write_context(context, "FROM base\nCOPY noise /noise\nRUN echo a > /a\n", {"noise": noise})
    here.build(context, cache_to=[f"type=local,dest={tmp_path}/cache"])
    blobs = (tmp_path / "cache/blobs/sha256").iterdir()
    damage([path for path in blobs if 100_000 < path.stat().st_size < 400_000])
    image = there.build(context, cache_from=[f"type=local,src={tmp_path}/cache"])
    assert there.runs == 1
    assert "building without it" in there.warnings[0]
    with image.mount() as root:
        assert (root / "noise").read_text() == noise


def test_a_cache_that_cannot_be_written_fails_the_build_unless_told_otherwise(
    here: Place, context: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        here.build(context, cache_to=[f"type=local,dest={tmp_path}/file/cache"])
    here.build(context, cache_to=[f"type=local,dest={tmp_path}/file/cache,ignore-error=true"])
    assert "is not written" in here.warnings[0]


# --------------------------------------------------------------------------------------------------- images as caches


def test_an_image_in_a_registry_is_a_cache_and_only_missing_layers_come(
    here: Place, there: Place, context: Path, registry: RealRegistry
) -> None:
    name = f"{registry.host}/made:1"
    image = here.build(context, tags=[name], outputs=["type=registry"], cache_to=["type=inline"])
    again = there.build(context, cache_from=[name])
    assert (there.hits, there.runs, there.warnings) == (6, 0, [])
    assert again.id == image.id
    assert not again.tags


def test_part_of_an_images_history_is_taken(here: Place, there: Place, context: Path, registry: RealRegistry) -> None:
    name = f"{registry.host}/made:1"
    here.build(context, tags=[name], outputs=["type=registry"])
    write_context(context, "\n".join(DOCKERFILE.splitlines()[:3]) + "\nRUN cat /deep/soft > /new\n")
    image = there.build(context, cache_from=[name])
    assert (there.hits, there.runs) == (2, 1)
    with image.mount() as root:
        assert (root / "new").read_text() == "one\n"


def test_an_image_that_the_classic_builder_made_is_a_cache(
    here: Place, context: Path, tmp_path: Path, base_tar: Path
) -> None:
    # Debian's client sums files otherwise than later ones do, so that this one's COPY is another step.
    write_context(context, "\n".join(line for line in DOCKERFILE.splitlines() if not line.startswith("COPY")) + "\n")
    with (tmp_path / "base.tar").open("wb") as sink:
        here.store.save(["base:latest"], sink)
    with Dockerd(tmp_path / "docker") as docker:
        docker.run("load", "-i", str(tmp_path / "base.tar"))
        docker.run("build", "-t", "theirs:1", str(context))
        docker.run("save", "-o", str(tmp_path / "theirs.tar"), "theirs:1")
        made = docker.inspect("theirs:1")["Id"]
    here.store.load(tmp_path / "theirs.tar")
    assert here.build(context).id != made
    assert here.hits == 0
    fresh = Place(tmp_path / "fresh", base_tar)
    fresh.store.load(tmp_path / "theirs.tar")
    assert fresh.build(context, cache_from=["theirs:1"]).id == made
    assert (fresh.hits, fresh.runs) == (5, 0)


def test_a_step_that_depends_on_more_than_its_command_is_not_taken_from_a_history(
    here: Place, there: Place, context: Path, tmp_path: Path
) -> None:
    write_context(
        context,
        "FROM base\nRUN echo a > /a\nRUN --mount=type=bind,source=note,target=/n cat /n > /x\n",
        {"note": "old"},
    )
    here.build(
        context,
        cache_to=[f"type=local,dest={tmp_path}/cache"],
        outputs=[f"type=oci,dest={tmp_path}/o.tar,name=made:1"],
    )
    there.store.load(tmp_path / "o.tar")
    there.build(context, cache_from=["made:1"])
    assert (there.hits, there.runs) == (1, 1)
    write_context(context, (context / "Dockerfile").read_text(), {"note": "new"})
    image = there.build(context, cache_from=["made:1", f"type=local,src={tmp_path}/cache"])
    assert (there.hits, there.runs) == (1, 1)
    with image.mount() as root:
        assert (root / "x").read_text() == "new"


def test_a_reproducible_build_takes_only_steps_of_its_own_time(
    here: Place, there: Place, context: Path, tmp_path: Path
) -> None:
    here.build(context, timestamp=EPOCH, cache_to=[f"type=local,dest={tmp_path}/cache"])
    there.build(context, timestamp=EPOCH + 1, cache_from=[f"type=local,src={tmp_path}/cache"])
    assert there.hits == 0
    there.build(context, timestamp=EPOCH, cache_from=[f"type=local,src={tmp_path}/cache"])
    assert there.hits == 6


def test_without_cache_no_place_is_looked_into(here: Place, context: Path) -> None:
    here.build(context, no_cache=True, cache_from=["type=local,src=/nowhere"])
    assert not here.warnings


def test_a_squashed_image_is_no_cache(here: Place, there: Place, context: Path, tmp_path: Path) -> None:
    here.build(context, squash=True, outputs=[f"type=oci,dest={tmp_path}/o.tar,name=squashed:1"])
    there.store.load(tmp_path / "o.tar")
    there.build(context, cache_from=["squashed:1"])
    assert there.hits == 0
    assert "the image was squashed" in there.warnings[0]

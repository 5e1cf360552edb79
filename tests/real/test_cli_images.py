"""Image commands as a user runs them, and the library's mounts, on real stores."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import lamella
from tests.conftest import mounts_below
from tests.support.cli import LAMELLA, Lamella

DOCKERFILE = 'FROM base:1\nENV a=b\nRUN echo x > /x\nLABEL made=here\nCMD ["cat", "/x"]\n'


@pytest.fixture
def store(store_root: Path, base_tar: Path) -> Lamella:
    store = Lamella(store_root)
    store.run("import", "-m", "the base", "-c", "ENV k=v", "-c", 'CMD ["sh"]', str(base_tar), "base:1")
    return store


def build(store: Lamella, tag: str, context: Path, dockerfile: str = DOCKERFILE) -> str:
    context.mkdir(exist_ok=True)
    (context / "Dockerfile").write_text(dockerfile)
    return store.run("build", "-q", "-t", tag, str(context))


def test_an_empty_store_lists_the_heading_alone(store_root: Path) -> None:
    assert Lamella(store_root).run("images") == "REPOSITORY   TAG       IMAGE ID   CREATED   SIZE"
    assert Lamella(store_root).run("images", "-q") == ""


def test_import_makes_an_image_of_one_layer(store: Lamella) -> None:
    image = store.inspect("base:1")
    assert image["RepoTags"] == ["base:1"]
    assert image["Comment"] == "the base"
    assert (image["Config"]["Env"], image["Config"]["Cmd"]) == (["k=v"], ["sh"])
    assert len(image["RootFS"]["Layers"]) == 1
    assert "LowerDir" not in image["GraphDriver"]["Data"]
    assert image["Metadata"]["LastTagTime"].startswith("20")


def test_import_reads_standard_input_and_needs_no_name(store: Lamella, base_tar: Path) -> None:
    identity = store.run("import", "-", stdin=base_tar.read_bytes())
    assert identity.startswith("sha256:")
    assert store.inspect(identity)["RepoTags"] == []
    assert store.inspect(identity)["Comment"] == "Imported from -"
    assert "<none>" in store.run("images")


def test_save_and_load_keep_ids_and_tags(store: Lamella, tmp_path: Path) -> None:
    build(store, "app:1", tmp_path / "context")
    store.run("tag", "app:1", "app:2")
    before = store.inspect("app:1")
    archive = tmp_path / "app.tar"
    store.run("save", "-o", str(archive), "app", "base:1")
    other = Lamella(store.root.parent / "other-root")
    lines = other.run("load", "-i", str(archive)).splitlines()
    assert sorted(lines) == ["Loaded image: app:1", "Loaded image: app:2", "Loaded image: base:1"]
    after = other.inspect("app:1")
    for part in ("Id", "RepoTags", "RootFS", "Config", "Size", "Created"):
        assert after[part] == before[part]
    piped = subprocess.run([LAMELLA, "--root", store.root, "save", "base:1"], capture_output=True, check=True).stdout
    assert other.run("load", "-q", stdin=piped) == "Loaded image: base:1"
    assert not list(tmp_path.glob(".app*"))


def test_save_of_a_missing_image_leaves_no_file(store: Lamella, tmp_path: Path) -> None:
    answer = store.try_run("save", "-o", str(tmp_path / "x.tar"), "base:1", "missing")
    assert (answer.returncode, answer.stderr) == (1, "lamella: No such image: missing\n")
    assert not list(tmp_path.glob("*x.tar*"))


def test_save_refuses_a_terminal(store: Lamella) -> None:
    code, screen = store.on_terminal("save", "base:1", typed="")
    assert code == 1
    assert "refusing to save to a terminal" in screen


def test_load_of_rubbish_changes_nothing(store: Lamella) -> None:
    before = store.run("images", "-a", "-q", "--no-trunc")
    answer = store.try_run("load", stdin=b"rubbish" * 1000)
    assert answer.returncode == 1
    assert len(answer.stderr.splitlines()) == 1
    assert store.run("images", "-a", "-q", "--no-trunc") == before


def test_images_hides_steps_and_filters(store: Lamella, tmp_path: Path) -> None:
    app = build(store, "app:1", tmp_path / "context")
    store.run("tag", "app:1", "other.example/team/app:2")
    rows = store.run("images", "--format", "{{.Repository}}:{{.Tag}}").splitlines()
    assert sorted(rows) == ["app:1", "base:1", "other.example/team/app:2"]
    assert len(store.run("images", "-aq").splitlines()) == 3 + 3
    for arguments, names in {
        ("app",): ["app:1"],
        ("-f", "reference=*/*/app"): ["other.example/team/app:2"],
        ("-f", "label=made=here"): ["app:1", "other.example/team/app:2"],
        ("-f", "label=made=there"): [],
        ("-f", "since=base:1"): ["app:1", "other.example/team/app:2"],
        ("-f", "before=app:1"): ["base:1"],
        ("-f", "dangling=true"): [],
    }.items():
        found = store.run("images", "--format", "{{.Repository}}:{{.Tag}}", *arguments).splitlines()
        assert sorted(found) == names, arguments
    assert store.run("images", "-q", "--no-trunc", "app") == app
    assert store.try_run("images", "-f", "colour=blue").returncode == 1
    assert store.try_run("images", "-f", "label").returncode == 125
    assert json.loads(store.run("images", "--format", "json", "app"))["Tag"] == "1"
    assert "DIGEST" in store.run("images", "--digests").splitlines()[0]


def test_notes_of_an_image_that_is_gone_hide_no_image(store: Lamella, base_tar: Path) -> None:
    loose = store.run("import", str(base_tar))
    notes = store.root / "image/overlay2/imagedb/metadata/sha256" / ("0" * 64)
    notes.mkdir(parents=True)
    (notes / "parent").write_text(loose)
    assert loose in store.run("images", "-q", "--no-trunc").splitlines()
    shutil.rmtree(notes)


def test_history_and_explain_tell_the_steps(store: Lamella, tmp_path: Path) -> None:
    build(store, "app:1", tmp_path / "context")
    rows = store.run("history", "--no-trunc", "--format", "{{.CreatedBy}}|{{.Size}}|{{.Comment}}", "app:1").splitlines()
    assert rows[2] == "/bin/sh -c echo x > /x|2B|"
    assert rows[4].endswith("|the base")
    assert store.run("history", "-q", "app:1").splitlines()[-1] == store.run("images", "-q", "base:1")
    image = store.inspect("app:1")
    tree = store.run("explain", "app:1")
    assert store.run("explain", "-q", "app:1").splitlines() == image["RootFS"]["Layers"]
    at = [tree.index(text) for text in (*image["RootFS"]["Layers"], image["GraphDriver"]["Data"]["UpperDir"])]
    assert at == sorted(at)
    assert "RUN echo x > /x" in tree
    assert "ENV a=b  (settings only)" in tree
    assert "\x1b" not in tree


def test_inspect_takes_templates_types_and_several_names(store: Lamella) -> None:
    assert store.run("inspect", "-f", "{{.Config.Cmd}} {{json .RepoTags}}", "base:1") == '[sh] ["base:1"]'
    answer = store.try_run("inspect", "base:1", "missing")
    assert answer.returncode == 1
    assert answer.stderr == "lamella: No such object: missing\n"
    assert len(json.loads(answer.stdout)) == 1
    assert store.try_run("inspect", "--type", "container", "base:1").returncode == 1
    assert json.loads(store.try_run("inspect", "missing").stdout) == []
    assert json.loads(store.run("image", "inspect", store.run("images", "-q")))[0]["RepoTags"] == ["base:1"]


def test_rmi_untags_then_deletes_with_the_steps(store: Lamella, tmp_path: Path) -> None:
    app = build(store, "app:1", tmp_path / "context")
    store.run("tag", "app:1", "app:2")
    upper = Path(store.inspect("app:1")["GraphDriver"]["Data"]["UpperDir"])
    assert store.run("rmi", "app:2") == "Untagged: app:2"
    assert store.run("rmi", "base:1") == "Untagged: base:1"
    store.run("tag", store.inspect("app:1")["RootFS"] and app, "kept:1")
    store.run("rmi", "kept:1")
    lines = store.run("rmi", "app:1").splitlines()
    assert lines[:2] == ["Untagged: app:1", f"Deleted: {app}"]
    assert len([line for line in lines if line.startswith("Deleted: sha256:")]) == 5 + 2
    assert not upper.exists()
    assert store.run("images", "-aq") == ""
    assert not [name for name in os.listdir(store.root / "overlay2") if name != "l"]


def test_rmi_refuses_what_is_used_and_goes_on_with_the_next(store: Lamella, base_tar: Path) -> None:
    container = store.run("create", "base:1")
    store.run("import", str(base_tar), "second:1")
    answer = store.try_run("rmi", "base:1", "missing", "second:1")
    image = store.run("images", "-q", "base:1")
    assert answer.returncode == 1
    refusal = 'lamella: conflict: unable to remove repository reference "base:1" (must force)'
    assert answer.stderr.splitlines() == [
        f"{refusal} - container {container[:12]} is using its referenced image {image}",
        "lamella: No such image: missing",
    ]
    assert answer.stdout.startswith("Untagged: second:1\nDeleted: ")
    assert store.run("rmi", "-f", "base:1").startswith("Untagged: base:1\nDeleted: ")
    assert store.run("inspect", "-f", "{{.Image}}", container).startswith("sha256:" + image)
    assert store.run("start", "-a", container) == ""
    store.run("rm", container)
    assert not [name for name in os.listdir(store.root / "overlay2") if name != "l"]
    assert store.run("rmi", "-f", "missing") == ""


def test_prune_takes_dangling_images_and_all_on_demand(store: Lamella, base_tar: Path) -> None:
    loose = store.run("import", str(base_tar))
    text = store.run("image", "prune", "-f")
    assert text.startswith(f"Deleted Images:\ndeleted: {loose}\n")
    assert text.splitlines()[-1].startswith("Total reclaimed space: ")
    assert store.run("image", "prune", "-f") == "Total reclaimed space: 0B"
    answer = store.try_run("image", "prune", "-a", stdin=b"n\n")
    assert answer.returncode == 0
    assert store.run("images", "-q")
    assert "untagged: base:1" in store.try_run("image", "prune", "-a", stdin=b"y\n").stdout
    assert not store.run("images", "-aq")


def test_system_prune_takes_containers_images_and_build_cache_at_once(store: Lamella, tmp_path: Path) -> None:
    build(store, "app:1", tmp_path / "context")
    store.run("create", "--name", "rests", "app:1", "true")
    asked = store.try_run("system", "prune", stdin=b"n\n")
    assert "  - all stopped containers\n  - all dangling images\n  - all dangling build cache\n" in asked.stdout
    assert store.run("ps", "-aq")
    text = store.run("system", "prune", "-f")
    assert text.startswith("Deleted Containers:\n")
    assert text.splitlines()[-1].startswith("Total reclaimed space: ")
    assert store.run("ps", "-aq") == ""
    assert store.run("images", "-q", "app")
    assert "untagged: app:1" in store.run("system", "prune", "-a", "-f")
    assert not store.run("images", "-aq")


def test_foreign_text_cannot_steer_the_terminal(store: Lamella, base_tar: Path) -> None:
    store.run("import", "-m", "evil \x1b[2J\u202e", str(base_tar), "evil:1")
    for command in (["history", "evil:1"], ["inspect", "evil:1"], ["explain", "evil:1"]):
        code, screen = store.on_terminal(*command, typed="")
        assert code == 0
        assert "\x1b[2J" not in screen
        assert "\u202e" not in screen
        assert "evil" in screen
    assert "\x1b[2J" in store.run("history", "--no-trunc", "--format", "{{.Comment}}", "evil:1")


def test_a_reader_that_leaves_is_no_error(store: Lamella) -> None:
    program = f"{LAMELLA} --root {store.root} save base:1 | head -c 10 | wc -c; echo ${{PIPESTATUS[0]}}"
    answer = subprocess.run(["bash", "-c", program], capture_output=True, text=True, check=True)
    assert answer.stdout.split() == ["10", "141"]
    assert answer.stderr == ""


def test_another_user_gets_one_clear_line(store: Lamella) -> None:
    program = "import os, sys; os.setuid(65534); from lamella.cli.main import run; sys.exit(run(sys.argv[1:]))"
    answer = subprocess.run(
        [sys.executable, "-c", program, "--root", store.root, "images"], capture_output=True, text=True, check=False
    )
    assert answer.returncode == 1
    assert answer.stderr == f"lamella: root is needed for the store at {store.root} and its mounts; run it with sudo\n"


def test_the_environment_names_the_root(store: Lamella) -> None:
    answer = subprocess.run(
        [LAMELLA, "images", "-q"],
        env={"PATH": os.environ["PATH"], "LAMELLA_ROOT": str(store.root)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert answer.stdout.strip() == store.run("images", "-q")


def test_info_and_version_name_the_tools(store: Lamella) -> None:
    info = json.loads(store.run("info", "--format", "json"))
    assert (info["Images"], info["Containers"], info["Driver"]) == (1, 0, "overlay2")
    assert info["Warnings"] == []
    assert "Images: 1" in store.run("info")
    version = json.loads(store.run("version", "-f", "json"))
    assert version["Version"] == lamella.__version__
    assert "not installed" not in version.values()


def test_the_library_mounts_an_image_read_only(store: Lamella) -> None:
    with lamella.Store.open(store.root) as opened:
        image = opened.image("base:1")
        with image.mount() as root:
            assert (root / "etc/issue").read_text() == "busybox for tests\n"
            with pytest.raises(OSError, match="Read-only"):
                (root / "new").write_text("x")
        assert not mounts_below(store.root)
        layer = image.layers()[0]
        assert (layer.kind, layer.size, layer.diff_id) == ("image", image.size, image.config.diff_ids[0])
        assert (layer.directory / "etc/issue").exists()
        assert image.history()[0].comment == "the base"
        assert opened.find_image("missing") is None


def test_a_scratch_copy_is_writable_and_thrown_away(store: Lamella) -> None:
    with lamella.Store.open(store.root) as opened:
        image = opened.image("base:1")
        before = sorted(os.listdir(store.root / "overlay2"))
        with image.scratch() as root:
            (root / "etc/issue").write_text("changed")
            (root / "new").write_text("x")
        with image.mount() as root:
            assert (root / "etc/issue").read_text() == "busybox for tests\n"
            assert not (root / "new").exists()
        with pytest.raises(ZeroDivisionError), image.scratch() as root:
            raise ZeroDivisionError
        assert sorted(os.listdir(store.root / "overlay2")) == before
        assert not list((store.root / "lamella/tx").iterdir())
    assert not mounts_below(store.root)


def test_a_scratch_copy_of_a_killed_process_is_cleared_by_the_next_change(store: Lamella) -> None:
    before = sorted(os.listdir(store.root / "overlay2"))
    program = (
        "import lamella, os, signal, sys\n"
        "with lamella.Store.open(sys.argv[1]) as store, store.image('base:1').scratch() as root:\n"
        "    (root / 'new').write_text('x')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    answer = subprocess.run([sys.executable, "-c", program, store.root], check=False)
    assert answer.returncode == -signal.SIGKILL
    assert sorted(os.listdir(store.root / "overlay2")) != before
    store.run("tag", "base:1", "base:2")
    assert sorted(os.listdir(store.root / "overlay2")) == before
    assert not mounts_below(store.root)


def test_a_build_that_fails_has_its_steps_code_and_one_line(store: Lamella, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM base:1\nRUN echo out; echo err >&2; exit 3\n")
    answer = store.try_run("build", "-t", "no:1", str(tmp_path))
    assert answer.returncode == 3
    assert "out\n" in answer.stdout
    lines = answer.stderr.splitlines()
    assert lines[0] == "err"
    assert lines[1].startswith(
        "lamella: The command '/bin/sh -c echo out; echo err >&2; exit 3' returned a non-zero code: 3"
    )
    assert len(lines) == 2
    assert store.try_run("inspect", "no:1").returncode == 1


def test_build_reads_arguments_targets_and_standard_input(store: Lamella, tmp_path: Path) -> None:
    text = b"ARG who=nobody\nFROM base:1 AS first\nARG who\nRUN echo $who > /who\nFROM first\nRUN exit 1\n"
    identity = store.run("build", "-q", "--target", "first", "--build-arg", "who=me", "--label", "l=1", "-", stdin=text)
    assert store.run("run", "--rm", identity, "cat", "/who") == "me"
    assert store.inspect(identity)["Config"]["Labels"] == {"l": "1"}
    (tmp_path / "other").write_bytes(text)
    store.run(
        "build", "--iidfile", str(tmp_path / "iid"), "--target", "first", "-f", str(tmp_path / "other"), str(tmp_path)
    )
    assert (tmp_path / "iid").read_text().startswith("sha256:")


def test_progress_is_shown_on_a_terminal_and_nothing_is_left_of_it(store: Lamella, tmp_path: Path) -> None:
    archive = tmp_path / "base.tar"
    code, _ = store.on_terminal("save", "-o", str(archive), "base:1", typed="")
    assert code == 0
    store.run("rmi", "base:1")
    code, screen = store.on_terminal("load", "-i", str(archive), typed="")
    assert code == 0
    assert "\x1b[" in screen
    assert "Loaded image: base:1" in screen
    store.run("rmi", "base:1")
    code, screen = store.on_terminal("load", "-q", "-i", str(archive), typed="")
    assert (code, screen.strip()) == (0, "Loaded image: base:1")


def test_the_library_runs_a_container_from_end_to_end(store: Lamella, tmp_path: Path) -> None:
    reader, writer = os.pipe()
    with lamella.Store.open(store.root) as opened:
        options = lamella.ContainerOptions(name="library", env=["WHO=me"], labels={"a": "b"})
        container = opened.create_container("base:1", ["sh", "-c", "echo $WHO; echo x > /new; exit 5"], options)
        assert (container.state, container.name, container.labels) == ("created", "library", {"a": "b"})
        assert container.run(lamella.Streams(None, writer, writer)) == 5
        os.close(writer)
        with os.fdopen(reader) as output:
            assert output.read() == "me\n"
        assert (container.state, container.exit_code, container.wait()) == ("exited", 5, 5)
        assert [record.text for record in container.logs()] == [b"me\n"]
        assert [(str(change.kind), change.path.strip(b"/")) for change in container.diff()] == [("A", b"new")]
        image = container.commit("library:1", message="by the library")
        assert image.tags == ["library:1"]
        assert image.parent == opened.image("base:1").id
        container.copy_out("/new", tmp_path / "new")
        assert (tmp_path / "new").read_text() == "x\n"
        assert [layer.kind for layer in container.layers()] == ["image", "init", "writable"]
        assert opened.containers() == []
        assert [one.id for one in opened.containers(all=True)] == [container.id]
        with pytest.raises(lamella.Conflict):
            opened.remove_image("base:1")
        container.remove()
        assert opened.find_container("library") is None
        assert str(image.remove()[0]) == "Untagged: library:1"


@pytest.mark.parametrize("command", [("tag", "base:1"), ("import", "BASE"), ("build", "-q", "CONTEXT", "-t")])
def test_a_digest_cannot_be_given_as_a_name(
    store: Lamella, base_tar: Path, tmp_path: Path, command: tuple[str, ...]
) -> None:
    (tmp_path / "Dockerfile").write_text("FROM base:1\n")
    words = [{"BASE": str(base_tar), "CONTEXT": str(tmp_path)}.get(word, word) for word in command]
    answer = store.try_run(*words, f"x@sha256:{'a' * 64}")
    assert answer.returncode != 0
    assert "refusing to create a tag with a digest reference" in answer.stderr
    assert store.run("images", "-q").count("\n") == 0


def test_a_name_is_not_given_to_an_image_that_another_process_removed(store: Lamella) -> None:
    with lamella.Store.open(store.root) as library:
        image = library.image("base:1")
        store.run("rmi", "base:1")
        with pytest.raises(lamella.Conflict):
            image.tag("ghost:1")
    assert "ghost" not in (store.root / "image/overlay2/repositories.json").read_text()

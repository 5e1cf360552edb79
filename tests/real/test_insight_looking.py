"""explain, why, blame and image diff on a store that lamella made, held against docker's views and the kernel's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import lamella
from tests.support.archives import docker20, image, layer_tar
from tests.support.cli import Lamella

DAMAGES_STORES = True  # on purpose: they are looked at with that

if TYPE_CHECKING:
    from collections.abc import Generator

pytestmark = pytest.mark.xdist_group("looking")

STEPS = """\
FROM base:1
ENV author=jlz
RUN echo x1 > /tmp/test && rm /etc/issue && echo changed > /etc/group
RUN rm -r /home && mkdir /home && echo new > /home/file && ln -s /home/file /pointer
LABEL last=one
"""
HOSTILE = "RUN echo '<script>alert(1)</script>' && \x1b[31m\x07 \udcff ]]> & \u202e"
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, base_tar: Path) -> Generator[Lamella]:
    """A store with a built image, one beside it on the same base, and a container that runs."""
    place = tmp_path_factory.mktemp("looking")
    context = place / "context"
    context.mkdir()
    (context / "Dockerfile").write_text(STEPS)
    engine = Lamella(place / "root")
    engine.run("import", str(base_tar), "base:1")
    engine.run("build", "-q", "-t", "app:1", str(context))
    (context / "Dockerfile").write_text("FROM base:1\nRUN echo other > /other\n")
    engine.run("build", "-q", "-t", "other:1", str(context))
    engine.run(
        "run", "-d", "--name", "runs", "app:1", "sh", "-c", "echo w > /w; rm /tmp/test; echo g > /etc/group; sleep 600"
    )
    engine.run("exec", "runs", "sh", "-c", "while ! [ -e /w ] || [ -e /tmp/test ]; do :; done")
    yield engine
    engine.run("rm", "-f", "runs")


def data(engine: Lamella, *arguments: str) -> Any:
    return json.loads(engine.run(*arguments))


def why(*questions: str) -> list[dict[str, Any]]:
    """Ask without naming a store."""
    command = [str(Path(sys.executable).parent / "lamella"), "why", "--json", *questions]
    answer = subprocess.run(command, capture_output=True, check=False, timeout=60)
    assert answer.returncode in {0, 3, 4}, answer.stderr.decode(errors="replace")
    found: list[dict[str, Any]] = json.loads(answer.stdout)
    return found


# ---------------------------------------------------------------------------------------------------- explain


def test_explain_tells_what_inspect_history_and_the_disk_tell(store: Lamella) -> None:
    story = data(store, "explain", "--json", "app:1")
    theirs = store.inspect("app:1")
    assert (story["kind"], story["id"], story["names"]) == ("image", theirs["Id"], ["app:1"])
    layers = story["layers"]
    assert [layer["diff_id"] for layer in layers] == theirs["RootFS"]["Layers"]
    places = theirs["GraphDriver"]["Data"]
    assert [layer["directory"] for layer in layers[::-1]] == [places["UpperDir"], *places["LowerDir"].split(":")]
    assert story["size"] == theirs["Size"] == sum(layer["size"] for layer in layers)
    history = store.run("history", "-q", "--no-trunc", "app:1").splitlines()
    assert len(story["steps"]) == len(history)
    assert [step["layer"] for step in story["steps"]] == [1, None, 2, 3, None]
    assert [step["instruction"].split()[0] for step in story["steps"][1:]] == ["ENV", "RUN", "RUN", "LABEL"]
    files = [tuple(layer["files"][key] for key in ("added", "changed", "deleted")) for layer in layers]
    assert files[1:] == [(1, 1, 1), (2, 0, 0)]
    found = subprocess.run(
        ["find", layers[0]["directory"], "!", "-type", "d", "-printf", "x"], capture_output=True, check=True
    )
    assert files[0] == (len(found.stdout), 0, 0)
    named = {name: item["layers"] for item in story["relatives"] for name in item["names"]}
    assert named == {"base:1": 1, "other:1": 1}
    assert layers[0]["shared_by"] == 2  # not the steps of its own build
    assert len(store.run("images", "-aq").splitlines()) > 3


def test_explain_shows_a_container_as_the_kernel_mounts_it(store: Lamella) -> None:
    story = data(store, "explain", "--json", "runs")
    theirs = store.inspect("runs")
    places = theirs["GraphDriver"]["Data"]
    assert [layer["role"] for layer in story["layers"]] == ["image", "image", "image", "init", "writable"]
    assert [layer["directory"] for layer in story["layers"][::-1]] == [
        places["UpperDir"],
        *places["LowerDir"].split(":"),
    ]
    container = story["container"]
    assert (container["merged"], container["status"]) == (places["MergedDir"], "running")
    assert container["pid"] == theirs["State"]["Pid"]
    lines = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    (line,) = [line for line in lines if line[4] == places["MergedDir"]]
    (own, theirs_) = container["mounts"]
    assert (own["seen_by"], str(own["id"]), own["super_options"]) == ("self", line[0], line[-1])
    assert (theirs_["seen_by"], theirs_["target"]) == (str(container["pid"]), "/")
    changes = [line.split(" ", 1) for line in store.run("diff", "runs").splitlines()]
    upper = Path(places["UpperDir"])
    files = story["layers"][-1]["files"]
    for letter, key in (("A", "added"), ("C", "changed")):
        assert files[key] == sum(kind == letter and not (upper / path[1:]).is_dir() for kind, path in changes), key
    assert files["deleted"] == sum(kind == "D" for kind, _ in changes)


def test_counts_are_kept_in_a_store_of_ours_and_a_broken_file_of_them_costs_a_count(store: Lamella) -> None:
    story = data(store, "explain", "--json", "app:1")
    kept = store.root / "lamella" / "counts"
    chains = {layer["chain_id"] for layer in story["layers"]}
    assert chains <= set(json.loads(kept.read_bytes()))
    for damaged in (b"", b"\0" * 300, b"{}", b'{"a": [1]}'):
        kept.write_bytes(damaged)
        assert data(store, "explain", "--json", "app:1") == story
    kept.unlink()
    kept.symlink_to("/dev/full")
    assert data(store, "explain", "--json", "app:1") == story
    assert kept.is_file()
    assert not kept.is_symlink()


def test_looking_at_a_root_without_lamella_writes_nothing(store: Lamella, tmp_path: Path) -> None:
    foreign = tmp_path / "foreign"
    subprocess.run(["cp", "-a", store.root, foreign], check=True)
    subprocess.run(["rm", "-rf", foreign / "lamella", foreign / "containers"], check=True)
    before = subprocess.run(["find", foreign, "-printf", "%p %T@ %C@\n"], capture_output=True, check=True).stdout
    seen = lamella.look(foreign)
    assert seen.explain("app:1").layers[1].files is not None
    seen.blame("app:1", ["/etc/issue"])
    seen.blame_all("app:1")
    seen.image_diff("base:1", "app:1")
    after = subprocess.run(["find", foreign, "-printf", "%p %T@ %C@\n"], capture_output=True, check=True).stdout
    assert after == before


def test_a_layer_that_is_lost_is_told_and_the_rest_explained(store: Lamella, tmp_path: Path) -> None:
    broken = Lamella(tmp_path / "broken")
    subprocess.run(["cp", "-a", store.root, broken.root], check=True)
    layers = data(broken, "explain", "--json", "app:1")["layers"]
    record = broken.root / "image/overlay2/layerdb/sha256" / layers[1]["chain_id"][7:]
    subprocess.run(["rm", "-r", record], check=True)
    subprocess.run(["rm", "-r", broken.root / "overlay2" / layers[2]["cache_id"]], check=True)
    story = data(broken, "explain", "--json", "app:1")
    assert [layer["present"] for layer in story["layers"]] == [True, False, False]
    assert "missing" in broken.run("explain", "app:1")
    answer = broken.try_run("blame", "app:1", "/w")
    assert answer.returncode == 1
    assert "layer 2 of app:1" in answer.stderr


def test_drawings_are_well_formed_and_foreign_text_in_them_is_text(tmp_path: Path) -> None:
    engine = Lamella(tmp_path / "root")
    made = image(
        [layer_tar({"a": b"1"}), layer_tar({"b": b"2"})],
        "evil:1",
        history=[{"created_by": HOSTILE.encode("utf-8", "replace").decode()}, {"created_by": '"/><script>x</script>'}],
    )
    docker20(tmp_path / "evil.tar", made)
    engine.run("load", "-i", str(tmp_path / "evil.tar"))
    engine.run("explain", "--svg", str(tmp_path / "x.svg"), "--html", str(tmp_path / "x.html"), "evil:1")
    drawing = ET.parse(tmp_path / "x.svg").getroot()
    assert drawing.tag == f"{SVG}svg"
    assert drawing.get("role") == "img"
    assert {element.tag for element in drawing.iter()} <= {
        f"{SVG}{name}" for name in ("svg", "title", "desc", "style", "rect", "text", "g", "line")
    }
    told = " ".join(element.text or "" for element in drawing.iter(f"{SVG}title"))
    assert "<script>alert(1)</script>" in told
    page = (tmp_path / "x.html").read_text()
    assert "<script" not in page
    assert "default-src 'none'" in page
    assert not [
        mark
        for mark in ("http://", "https://", "url(", "@import")
        if mark in page.replace("http://www.w3.org/2000/svg", "")
    ]
    ET.fromstring(page.replace("<!DOCTYPE html>", ""))
    assert engine.run("explain", "--svg", "-", "evil:1") == (tmp_path / "x.svg").read_text().strip()


# ---------------------------------------------------------------------------------------------------- why


def test_every_directory_and_record_of_a_store_has_an_owner(store: Lamella) -> None:
    story = data(store, "explain", "--json", "app:1")
    for layer in story["layers"]:
        place = Path(layer["directory"])
        link = (place.parent / "link").read_text()
        record = store.root / "image/overlay2/layerdb/sha256" / layer["chain_id"][7:]
        for answer in why(str(place), str(place.parent), str(record), str(store.root / "overlay2/l" / link)):
            assert (answer["state"], answer["holder"]) == ("held", "layer"), answer
            assert (answer["root"], answer["layer"]["diff_id"]) == (str(store.root), layer["diff_id"])
            assert "app:1" in [name for image in answer["images"] for name in image["names"]]
            assert len(answer["images"]) == layer["shared_by"] + 1
            assert (answer["step"]["layer"], answer["containers"][0]["names"]) == (layer["number"], ["runs"])
    container = store.inspect("runs")
    places = container["GraphDriver"]["Data"]
    own = [places["UpperDir"], places["LowerDir"].split(":")[0], container["LogPath"]]
    for answer in why(*own):
        assert (answer["holder"], [item["id"] for item in answer["containers"]]) == ("container", [container["Id"]])
    (config,) = why(str(store.root / "image/overlay2/imagedb/content/sha256" / story["id"][7:]))
    assert (config["holder"], config["images"][0]["names"]) == ("image", ["app:1"])


def test_a_file_is_followed_through_the_mount_to_the_layer_that_shows_it(store: Lamella) -> None:
    container = store.inspect("runs")
    merged = container["GraphDriver"]["Data"]["MergedDir"]
    pid = container["State"]["Pid"]
    step, base, written, linked, seen, gone = why(
        f"{merged}/home/file",
        f"{merged}/bin/sh",
        f"{merged}/w",
        f"{merged}/pointer",
        f"/proc/{pid}/root/home/file",
        f"{merged}/tmp/test",
    )
    assert (step["layer"]["role"], step["step"]["number"], step["inside"]) == ("image", 4, "/home/file")
    assert Path(step["path"]).read_text() == "new\n"
    assert base["step"]["layer"] == 1
    assert (written["holder"], written["inside"]) == ("container", "/w")
    assert linked["inside"] == "/pointer"
    assert {**seen, "asked": "", "process": None} == {**step, "asked": "", "process": None}
    assert (gone["exists"], gone["containers"][0]["names"]) == (False, ["runs"])


def test_processes_mounts_and_inodes_lead_to_their_container(store: Lamella) -> None:
    container = store.inspect("runs")
    places = container["GraphDriver"]["Data"]
    tables = [Path(name).read_text().splitlines() for name in ("/proc/self/mountinfo", "/proc/self/mounts")]
    tables.append(subprocess.run(["mount"], capture_output=True, text=True, check=True).stdout.splitlines())
    lines = [line for table in tables for line in table if places["MergedDir"] in line]
    assert len(lines) == 3
    written = Path(places["UpperDir"], "w").stat()
    inode = f"{written.st_dev}:{written.st_ino}"
    audit = f'type=PATH name="/w" inode={written.st_ino} dev={os.major(written.st_dev):02x}:{os.minor(written.st_dev):02x} mode=0100644'
    for answer in why(str(container["State"]["Pid"]), *lines, places["MergedDir"], inode, audit):
        names = [item["names"] for item in (answer["containers"] if answer["seen_in"] is None else [answer["seen_in"]])]
        assert names == [["runs"]], answer
    (found,) = why(inode)
    assert found["path"] == f"{places['UpperDir']}/w"


def test_a_path_is_followed_through_the_mounts_of_the_process_that_has_it(store: Lamella, tmp_path: Path) -> None:
    (tmp_path / "bound").mkdir()
    script = (
        "cp /bin/busybox /data/sleep; echo b > /bound/file; echo t > /scr/file; cd /data;"
        " exec 3> /tmp/open; rm /tmp/open; exec 4> /data/done; exec /data/sleep 600"
    )
    store.run("run", "-d", "--name", "mounts", "-v", "mine:/data", "-v", f"{tmp_path}/bound:/bound", "--tmpfs", "/scr",
              "app:1", "sh", "-c", script)  # fmt: skip
    try:
        store.run("exec", "mounts", "sh", "-c", "while ! [ -e /data/done ]; do :; done")
        container = store.inspect("mounts")
        pid = container["State"]["Pid"]
        volume = store.root / "volumes/mine/_data"
        while os.readlink(f"/proc/{pid}/exe") != "/data/sleep":
            pass
        for question, inside in (
            (str(pid), "/sleep"), (f"/proc/{pid}/exe", "/sleep"), (f"/proc/{pid}/root/data/sleep", "/sleep"),
            (f"/proc/{pid}/cwd", ""), (f"/proc/{pid}/cwd/sleep", "/sleep"), (f"/proc/{pid}/fd/4", "/done"),
        ):  # fmt: skip
            (answer,) = why(question)
            assert (answer["holder"], answer["volumes"], answer["inside"]) == ("volume", ["mine"], inside), question
            assert answer["path"] == f"{volume}{inside}"
            assert (answer["seen_in"]["names"], answer["process"]) == (["mounts"], pid)
        hosts, bound, scratch, removed, shown = why(
            f"/proc/{pid}/root/etc/hosts", f"/proc/{pid}/root/bound/file", f"/proc/{pid}/root/scr/file",
            f"/proc/{pid}/fd/3", f"/proc/{pid}/root/pointer",
        )  # fmt: skip
        assert hosts["path"] == container["HostsPath"]
        assert (bound["state"], str(tmp_path / "bound/file") in bound["reason"]) == ("unknown", True)
        assert (scratch["state"], "tmpfs mounted at /scr" in scratch["reason"]) == ("unknown", True)
        assert (removed["holder"], removed["exists"]) == ("container", False)
        assert "/tmp/open was deleted" in removed["reason"]
        assert shown["inside"] == "/pointer"
    finally:
        store.run("rm", "-f", "mounts")


def test_image_diff_tells_of_the_root_directory_itself(store: Lamella, tmp_path: Path) -> None:
    for name, mode in (("one", 0o755), ("two", 0o711)):
        files = tmp_path / name
        files.mkdir(mode=0o755)
        (files / "file").write_text("same\n")
        os.utime(files / "file", (1_500_000_000, 1_500_000_000))
        files.chmod(mode)
        subprocess.run(["tar", "-C", files, "-cf", tmp_path / f"{name}.tar", "."], check=True)
        store.run("import", str(tmp_path / f"{name}.tar"), f"{name}:1")
    found = data(store, "image", "diff", "--json", "one:1", "two:1")
    assert [(file["path"], file["differs"]) for file in found["files"]] == [("/", ["mode"])]
    store.run("rmi", "one:1", "two:1")


def test_what_is_bound_elsewhere_is_still_its_layers(store: Lamella, tmp_path: Path) -> None:
    layer = data(store, "explain", "--json", "app:1")["layers"][1]
    subprocess.run(["mount", "--bind", layer["directory"], tmp_path], check=True)
    try:
        (answer,) = why(f"{tmp_path}/tmp/test")
        assert (answer["layer"]["diff_id"], answer["inside"]) == (layer["diff_id"], "/tmp/test")
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_inodes_of_what_is_mounted_in_a_store_are_not_the_stores(store: Lamella) -> None:
    place = store.root / "volumes/other/_data"
    place.mkdir(parents=True)
    device = store.root.stat().st_dev
    subprocess.run(["mount", "-t", "tmpfs", "none", place], check=True)
    try:
        (place / "file").write_text("")
        (answer,) = why(f"{device}:{(place / 'file').stat().st_ino}")
        assert answer["path"] != str(place / "file")
    finally:
        subprocess.run(["umount", place], check=True)
        subprocess.run(["rm", "-r", store.root / "volumes/other"], check=True)


def test_what_nobody_needs_is_an_orphan_and_what_is_in_no_store_unknown(store: Lamella, tmp_path: Path) -> None:
    orphan = store.root / "overlay2" / ("0" * 64)
    (orphan / "diff").mkdir(parents=True)
    link = store.root / "overlay2/l" / ("A" * 26)
    link.symlink_to(f"../{'1' * 64}/diff")
    try:
        for place in (orphan, orphan / "diff/x", link, store.root / "containers" / ("2" * 64)):
            answer = store.try_run("why", str(place))
            assert (answer.returncode, ": nobody\n" in answer.stdout) == (3, True), answer
    finally:
        (orphan / "diff").rmdir()
        orphan.rmdir()
        link.unlink()
    for question in (str(tmp_path), str(os.getpid())):
        answer = store.try_run("why", question)
        assert (answer.returncode, ": unknown\n" in answer.stdout) == (4, True), answer
    assert store.try_run("why", "/no/such/path").returncode == 1


def test_a_store_inside_a_volume_is_the_volumes(store: Lamella) -> None:
    inner = store.root / "volumes/dind/_data/overlay2/abc"
    (store.root / "volumes/dind/_data/image/overlay2").mkdir(parents=True)
    inner.mkdir(parents=True)
    (answer,) = why(str(inner))
    assert (answer["holder"], answer["volumes"], answer["inside"]) == ("volume", ["dind"], "/overlay2/abc")
    subprocess.run(["rm", "-r", store.root / "volumes/dind"], check=True)


# ---------------------------------------------------------------------------------------------------- blame, image diff


def test_blame_names_layer_step_and_everything_hidden(store: Lamella) -> None:
    group, issue, absent = data(store, "blame", "--json", "runs", "/etc/group", "/etc/issue") + json.loads(
        store.try_run("blame", "--json", "runs", "/never").stdout
    )
    assert [(version["layer"], version["does"], version["hidden_by"]) for version in group["versions"]] == [
        (5, "changes", None),
        (2, "changes", 5),
        (1, "adds", 2),
    ]
    contents = [Path(version["path"]).read_text() for version in group["versions"]]
    assert contents[:2] == ["g\n", "changed\n"]
    assert (issue["state"], issue["layer"]["number"], issue["versions"][1]["hidden_by"]) == ("deleted", 2, 2)
    assert issue["layer"]["instruction"].startswith("RUN echo x1")
    assert (absent["state"], absent["layer"], absent["versions"]) == ("absent", None, [])
    assert store.try_run("blame", "runs", "/never").returncode == 1


def test_blame_weighs_an_image_to_the_byte(store: Lamella) -> None:
    whole = data(store, "blame", "--json", "app:1")
    assert whole["size"] == store.inspect("app:1")["Size"] == whole["kept"] + whole["overwritten"] + whole["deleted"]
    store.run("create", "--name", "resting", "app:1", "true")
    hidden = {file["path"]: (file["fate"], file["by"]) for file in whole["offenders"]}
    assert hidden == {"/etc/issue": ("deleted", 2), "/etc/group": ("overwritten", 2)}
    base = data(store, "blame", "--json", "base:1", "/etc/issue", "/etc/group")
    sizes = [answer["versions"][0]["size"] for answer in base]
    assert (whole["deleted"], whole["overwritten"]) == tuple(sizes)
    assert store.try_run("blame", "--fail-over", "10", "app:1").returncode == 3
    assert store.try_run("blame", "--fail-over", "1m", "app:1").returncode == 0


def test_image_diff_flattened_by_layer_and_in_settings(store: Lamella) -> None:
    found = data(store, "image", "diff", "--json", "base:1", "app:1")
    changes = {file["path"]: (file["change"], file["differs"]) for file in found["files"]}
    assert {path: change for path, (change, _) in changes.items()} == {
        "/etc/group": "changed",
        "/etc/issue": "deleted",
        "/home/file": "added",
        "/pointer": "added",
        "/tmp/test": "added",
    }
    assert set(changes["/etc/group"][1]) == {"size", "time"}
    settings = {change["field"]: (change["old"], change["new"]) for change in found["config"]}
    assert settings["Env.author"] == (None, "jlz")
    assert settings["Labels.last"] == (None, "one")
    back = data(store, "image", "diff", "--json", "app:1", "base:1")
    opposite = {"added": "deleted", "deleted": "added", "changed": "changed"}
    assert {file["path"]: opposite[file["change"]] for file in back["files"]} == {p: c for p, (c, _) in changes.items()}
    layers = data(store, "image", "diff", "--json", "--by-layer", "other:1", "app:1")["layers"]
    assert [(item["side"], item["layer"]["number"]) for item in layers] == [
        ("both", 1),
        ("old", 2),
        ("new", 2),
        ("new", 3),
    ]
    assert layers[1]["changes"] == [["added", "/other"]]
    assert store.try_run("image", "diff", "--exit-code", "app:1", "app:1").returncode == 0
    assert store.try_run("image", "diff", "--exit-code", "base:1", "app:1").returncode == 1


def test_image_diff_compares_bytes_where_asked(tmp_path: Path) -> None:
    engine = Lamella(tmp_path / "root")
    for name, content, time in (("one", "same", "@1"), ("two", "same", "@9"), ("three", "diff", "@1")):
        place = tmp_path / name
        place.mkdir()
        (place / "f").write_text(content)
        for path in (place / "f", place):
            subprocess.run(["touch", "-d", time, path], check=True)
        subprocess.run(["tar", "-C", place, "-cf", tmp_path / f"{name}.tar", "f"], check=True)
        engine.run("import", str(tmp_path / f"{name}.tar"), f"{name}:1")

    def differs(new: str, *flags: str) -> list[list[str]]:
        return [file["differs"] for file in data(engine, "image", "diff", "--json", *flags, "one:1", new)["files"]]

    assert differs("two:1") == [["time"]]
    assert differs("two:1", "--content") == []
    assert differs("three:1") == []
    assert differs("three:1", "--content") == [["content"]]


def test_a_stranger_in_a_store_is_told_from_what_is_its_own(store: Lamella) -> None:
    strangers = [store.root / "stranger", store.root / "containers/stranger", store.root / "overlay2/stranger"]
    for path in strangers:
        path.touch()
    try:
        for answer in why(*map(str, strangers)):
            assert (answer["state"], answer["holder"], answer["root"]) == ("unknown", "", str(store.root)), answer
            assert "it lies in the store's directory, but" in answer["reason"]
        for answer in why(*(str(store.root / name) for name in ("containers", "overlay2", "image", "lamella", "."))):
            assert answer["state"] == "own", answer
    finally:
        for path in strangers:
            path.unlink()


def test_one_question_that_cannot_be_answered_does_not_hide_the_others(store: Lamella) -> None:
    answer = store.try_run("why", str(store.root), "/nowhere", str(store.root / "containers"))
    assert answer.returncode == 1
    assert answer.stderr.splitlines() == ["lamella: /nowhere: no such file or directory, and it is not in a store"]
    assert [line.split(": ")[0] for line in answer.stdout.splitlines() if not line.startswith(" ") and line] == [
        str(store.root),
        str(store.root / "containers"),
    ]

"""The context: what is in it, what is not, and that nothing outside is read."""

from __future__ import annotations

import io
import os
import socket
import tarfile  # an independent writer
from pathlib import Path

import pytest

from lamella.build.context import SourceTree, open_context, read_dockerfile
from lamella.build.copyfiles import find_sources, total_sum
from lamella.build.stream import open_stream
from lamella.errors import InvalidArgument, NotFound
from tests.support.building import write_context


def make(place: Path, files: dict[str, object]) -> Path:
    return write_context(place / "context", "FROM scratch\n", files)


def names(tree: SourceTree, pattern: str) -> list[str]:
    return [os.fsdecode(source.path) for source in find_sources(tree, [pattern], "COPY")]


def test_the_checksum_of_a_file_is_dockers(tmp_path: Path) -> None:
    with open_context(make(tmp_path, {"f": ("a\n", 0o644)})) as tree:
        (source,) = find_sources(tree, ["f"], "COPY")
    assert source.digest == "file:f26fb074db0444895767d1e9e169b2515de7963c86d2adfa684b5f98996c6319"


def test_touching_changes_no_checksum_and_chmod_does(tmp_path: Path) -> None:
    context = make(tmp_path, {"d/f": "a", "d/e/g": "b"})

    def checksum() -> str:
        with open_context(context) as tree:
            return total_sum(find_sources(tree, ["d"], "COPY"))

    before = checksum()
    (context / "d/f").touch()
    assert checksum() == before
    (context / "d/f").chmod(0o600)
    assert checksum() != before


def test_a_links_own_text_counts(tmp_path: Path) -> None:
    context = make(tmp_path, {"d/f": "a", "d/l": "-> f"})
    with open_context(context) as tree:
        first = total_sum(find_sources(tree, ["d"], "COPY"))
    (context / "d/l").unlink()
    (context / "d/l").symlink_to("../d/f")
    with open_context(context) as tree:
        assert total_sum(find_sources(tree, ["d"], "COPY")) != first


@pytest.mark.parametrize("source", ["out", "dir/f", "loop", "abs", "d/../missing", "fifo/x", "nested/out"])
def test_what_leads_outside_is_not_found(tmp_path: Path, source: str) -> None:
    (tmp_path / "secret").write_text("secret")
    context = make(
        tmp_path,
        {
            "out": "-> ../secret",
            "dir": "-> ..",
            "abs": f"-> {tmp_path}/secret",
            "loop": "-> loop",
            "d/f": "x",
            "nested/out": "-> ../../../../../../etc/passwd",
        },
    )
    os.mkfifo(context / "fifo")
    with open_context(context) as tree, pytest.raises((NotFound, InvalidArgument), match="COPY failed: "):
        find_sources(tree, [source], "COPY")


def test_the_message_for_a_missing_file_is_dockers(tmp_path: Path) -> None:
    with open_context(make(tmp_path, {})) as tree, pytest.raises(NotFound) as caught:
        find_sources(tree, ["./x"], "COPY")
    assert str(caught.value) == (
        "COPY failed: file not found in build context or excluded by .dockerignore: stat x: file does not exist"
    )


@pytest.mark.parametrize("source", ["../x", "d/../../x", "/../x"])
def test_a_path_that_leaves_the_context_is_forbidden(tmp_path: Path, source: str) -> None:
    with open_context(make(tmp_path, {})) as tree, pytest.raises(InvalidArgument, match="forbidden path outside"):
        find_sources(tree, [source], "COPY")


def test_links_inside_are_followed_with_the_context_as_root(tmp_path: Path) -> None:
    with open_context(make(tmp_path, {"d/f": "x", "l": "-> /d/f", "m": "-> ../../d"})) as tree:
        assert names(tree, "l") == ["d/f"]
        assert names(tree, "m/f") == ["d/f"]


def test_globs_match_names_in_order_and_never_leave(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/x.txt").write_text("x")
    context = make(tmp_path, {"b.txt": "", "a.txt": "", "d/c.txt": "", "l": "-> ../outside", ".h.txt": ""})
    with open_context(context) as tree:
        assert names(tree, "*.txt") == [".h.txt", "a.txt", "b.txt"]
        assert names(tree, "*/*.txt") == ["d/c.txt"]
        assert names(tree, "[ab].txt") == ["a.txt", "b.txt"]
        with pytest.raises(NotFound, match="no source files were specified"):
            names(tree, "*.nope")


def test_ignored_files_are_not_found_and_exceptions_are(tmp_path: Path) -> None:
    files: dict[str, object] = {".dockerignore": "*\n!d/keep\n", "f": "", "d/keep": "", "d/not": "", "l": "-> f"}
    with open_context(make(tmp_path, files)) as tree:
        assert names(tree, "d/keep") == ["d/keep"]
        assert [os.fsdecode(entry.path) for entry in tree.walk(b"")] == ["d", "d/keep"]
        for source in ("f", "d/not", "l"):
            with pytest.raises(NotFound):
                names(tree, source)


def test_a_link_to_an_ignored_file_is_not_found(tmp_path: Path) -> None:
    with (
        open_context(make(tmp_path, {".dockerignore": "secret\n", "secret": "x", "l": "-> secret"})) as tree,
        pytest.raises(NotFound),
    ):
        names(tree, "l")


def test_a_dockerfiles_own_ignore_file_takes_precedence(tmp_path: Path) -> None:
    context = make(tmp_path, {".dockerignore": "a\n", "Other.dockerignore": "b\n", "a": "", "b": ""})
    with open_context(context, dockerfile="Other") as tree:
        assert names(tree, "a") == ["a"]
        with pytest.raises(NotFound):
            names(tree, "b")


@pytest.mark.parametrize("name", ["Dockerfile", ".dockerignore"])
@pytest.mark.parametrize("kind", ["link", "fifo", "directory", "socket", "huge"])
def test_files_that_steer_the_build_must_be_plain_and_small(tmp_path: Path, name: str, kind: str) -> None:
    context = make(tmp_path, {"real": "FROM scratch\n"})
    path = context / name
    path.unlink(missing_ok=True)
    if kind == "link":
        path.symlink_to("real")
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    elif kind == "huge":
        path.write_text("#" * ((1 << 20) + 1))
    else:
        with socket.socket(socket.AF_UNIX) as server:
            os.chdir(context)
            server.bind(name)
    with pytest.raises(InvalidArgument), open_context(context) as tree:
        read_dockerfile(tree)


def test_a_lower_case_dockerfile_is_found(tmp_path: Path) -> None:
    context = make(tmp_path, {})
    (context / "Dockerfile").rename(context / "dockerfile")
    with open_context(context) as tree:
        assert read_dockerfile(tree) == b"FROM scratch\n"


def test_a_stream_is_a_tar_or_a_dockerfile() -> None:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w:gz") as tar:
        member = tarfile.TarInfo("./d/f")
        member.size = 3
        tar.addfile(member, io.BytesIO(b"abc"))
    raw.seek(0)
    with open_stream(raw) as (directory, text):
        assert text is None
        assert (directory / "d/f").read_bytes() == b"abc"
    with open_stream(io.BytesIO(b"FROM x\n")) as (directory, text):
        assert text == b"FROM x\n"
        assert list(directory.iterdir()) == []


def tar_of(*members: tuple[str, str]) -> io.BytesIO:
    """Make a tar of one-byte files and, where a target is given, links."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        for name, target in members:
            member = tarfile.TarInfo(name)
            if target:
                member.type, member.linkname = tarfile.SYMTYPE, target
                tar.addfile(member)
            else:
                member.size = 1
                tar.addfile(member, io.BytesIO(b"x"))
    raw.seek(0)
    return raw


def test_a_tar_whose_name_leaves_the_context_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="leaves the root"), open_stream(tar_of(("../evil", ""))):
        pass


def test_a_tar_cannot_write_through_a_link_to_the_outside(tmp_path: Path) -> None:
    with open_stream(tar_of(("l", str(tmp_path)), ("l/evil", ""))) as (directory, _text):
        assert (directory / str(tmp_path)[1:] / "evil").exists()
    assert not (tmp_path / "evil").exists()

"""The context: what is in it, what is not, and that nothing outside is read."""

from __future__ import annotations

import contextlib
import io
import os
import socket
import stat
import tarfile  # an independent writer
from pathlib import Path

import pytest

from lamella.build.context import SourceTree, open_context, read_dockerfile
from lamella.build.copyfiles import Manner, copy_source
from lamella.build.ignore import parse_excluded
from lamella.build.request import open_request
from lamella.build.selection import walk_selected
from lamella.build.sources import Finder, Source, total_sum
from lamella.build.stream import open_stream
from lamella.errors import InvalidArgument, NotFound, Unavailable
from lamella.fs.rooted import Root
from tests.support.building import write_context


def make(place: Path, files: dict[str, object]) -> Path:
    return write_context(place / "context", "FROM scratch\n", files)


def is_there(tree: SourceTree, source: str) -> bool:
    try:
        return names(tree, source) == [source]
    except NotFound:
        return False


def names(tree: SourceTree, pattern: str) -> list[str]:
    return [os.fsdecode(source.path) for source in Finder(tree, "COPY").find([pattern])]


def test_the_checksum_of_a_file_is_dockers(tmp_path: Path) -> None:
    with open_context(make(tmp_path, {"f": ("a\n", 0o644)})) as tree:
        (source,) = Finder(tree, "COPY").find(["f"])
    assert source.digest == "file:f26fb074db0444895767d1e9e169b2515de7963c86d2adfa684b5f98996c6319"


def test_touching_changes_no_checksum_and_chmod_does(tmp_path: Path) -> None:
    context = make(tmp_path, {"d/f": "a", "d/e/g": "b"})

    def checksum() -> str:
        with open_context(context) as tree:
            return total_sum(Finder(tree, "COPY").find(["d"]))

    before = checksum()
    (context / "d/f").touch()
    assert checksum() == before
    (context / "d/f").chmod(0o600)
    assert checksum() != before


def test_a_links_own_text_counts(tmp_path: Path) -> None:
    context = make(tmp_path, {"d/f": "a", "d/l": "-> f"})
    with open_context(context) as tree:
        first = total_sum(Finder(tree, "COPY").find(["d"]))
    (context / "d/l").unlink()
    (context / "d/l").symlink_to("../d/f")
    with open_context(context) as tree:
        assert total_sum(Finder(tree, "COPY").find(["d"])) != first


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
        Finder(tree, "COPY").find([source])


def test_the_message_for_a_missing_file_is_dockers(tmp_path: Path) -> None:
    with open_context(make(tmp_path, {})) as tree, pytest.raises(NotFound) as caught:
        Finder(tree, "COPY").find(["./x"])
    assert str(caught.value) == (
        "COPY failed: file not found in build context or excluded by .dockerignore: stat x: file does not exist"
    )


@pytest.mark.parametrize("source", ["../x", "d/../../x", "/../x"])
def test_a_path_that_leaves_the_context_is_forbidden(tmp_path: Path, source: str) -> None:
    with open_context(make(tmp_path, {})) as tree, pytest.raises(InvalidArgument, match="forbidden path outside"):
        Finder(tree, "COPY").find([source])


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
        assert names(tree, "*.nope") == []
        assert names(tree, "l/*.txt") == []


def test_a_glob_follows_links_before_its_first_wildcard_only(tmp_path: Path) -> None:
    with open_context(make(tmp_path, {"d/e/c.txt": "", "l": "-> d", "m/n": "-> ../d/e"})) as tree:
        assert names(tree, "l/e/*.txt") == ["d/e/c.txt"]
        assert names(tree, "m/n/c.*") == ["d/e/c.txt"]
        assert names(tree, "l*/e/*.txt") == []


def test_escapes_in_a_glob_make_a_character_mean_itself(tmp_path: Path) -> None:
    with open_context(make(tmp_path, {"a[1].txt": "", "a1.txt": "", "b*c": "", "bxc": "", "b*d/f": ""})) as tree:
        assert names(tree, "a[[]1].*") == ["a[1].txt"]
        assert names(tree, "b\\*[abc]") == ["b*c"]
        assert names(tree, "b\\*d/?") == ["b*d/f"]


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
@pytest.mark.parametrize("kind", ["link out", "loop", "fifo", "directory", "socket", "huge"])
def test_files_that_steer_the_build_must_be_plain_and_small(tmp_path: Path, name: str, kind: str) -> None:
    context = make(tmp_path, {"real": "FROM scratch\n"})
    path = context / name
    path.unlink(missing_ok=True)
    if kind == "link out":
        (tmp_path / "outside").write_text("FROM scratch\n")
        path.symlink_to("../outside")
    elif kind == "loop":
        path.symlink_to(name)
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    elif kind == "huge":
        path.write_text("#" * ((1 << 20) + 1))
    else:
        # By a short way round: a socket's path may have 107 bytes.
        with socket.socket(socket.AF_UNIX) as server, contextlib.chdir(context):
            server.bind(name)
    with pytest.raises(InvalidArgument), open_context(context) as tree:
        read_dockerfile(tree)


def test_a_dockerfile_may_be_a_link_inside_the_context(tmp_path: Path) -> None:
    context = make(tmp_path, {"docker/one": "FROM scratch\nENV a=b\n", "docker/ignored": "x\n", "x": ""})
    (context / "Dockerfile").unlink()
    (context / "Dockerfile").symlink_to("/docker/one")
    (context / ".dockerignore").symlink_to("docker/ignored")
    with open_request(context, None) as (tree, text):
        assert text == b"FROM scratch\nENV a=b\n"
        with pytest.raises(NotFound):
            names(tree, "x")


def test_a_dockerfile_named_in_the_context_is_read_with_the_context_as_root(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/Dockerfile").write_text("FROM outside\n")
    context = make(tmp_path, {"out": "-> ../outside", "sub/D": "FROM sub\n", "l": "-> sub"})
    with open_request(context, context / "l/D") as (_tree, text):
        assert text == b"FROM sub\n"
    with pytest.raises(NotFound), open_request(context, context / "out/Dockerfile"):
        pass


def test_a_dockerfile_outside_the_context_has_its_ignore_file_beside_it(tmp_path: Path) -> None:
    context = make(tmp_path, {".dockerignore": "a\n", "a": "", "b": ""})
    (tmp_path / "other").write_text("FROM scratch\n")
    with open_request(context, tmp_path / "other") as (tree, text):
        assert text == b"FROM scratch\n"
        assert [source for source in ("a", "b") if is_there(tree, source)] == ["b"]
    (tmp_path / "other.dockerignore").write_text("b\n")
    with open_request(context, tmp_path / "other") as (tree, _text):
        assert [source for source in ("a", "b") if is_there(tree, source)] == ["a"]
    with open_request(context, b"FROM scratch\n") as (tree, text):
        assert text == b"FROM scratch\n"
        assert [source for source in ("a", "b") if is_there(tree, source)] == ["b"]


@pytest.mark.parametrize("swap", ["link", "fifo", "directory"])
def test_a_file_that_is_replaced_after_it_was_found_is_never_followed(tmp_path: Path, swap: str) -> None:
    (tmp_path / "secret").write_text("secret")
    context = make(tmp_path, {"d/f": "mine"})
    (tmp_path / "out").mkdir()
    with open_context(context) as tree, Root(tmp_path / "out") as out:
        (source,) = Finder(tree, "COPY").find(["d/f"])
        (context / "d/f").unlink()
        if swap == "link":
            (context / "d/f").symlink_to(tmp_path / "secret")
        elif swap == "fifo":
            os.mkfifo(context / "d/f")
        else:
            (context / "d/f").mkdir()
        with pytest.raises((OSError, Unavailable)):
            copy_source(source, out, b"/f", Manner(None, None, 0))
    assert not (tmp_path / "out/f").exists() or (tmp_path / "out/f").read_bytes() == b""


def test_a_directory_that_is_replaced_by_a_link_is_never_entered(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/secret").write_text("secret")
    context = make(tmp_path, {"d/e/f": "mine"})
    with open_context(context) as tree:
        walked = tree.walk(b"")
        while next(walked).path != b"d":
            pass
        (context / "d/e/f").unlink()
        (context / "d/e").rmdir()
        (context / "d").rmdir()
        (context / "d").symlink_to("../outside")
        with pytest.raises(OSError, match=r"replaced|Not a directory|symbolic"):
            list(walked)


def test_parents_are_kept_from_the_pivot_on(tmp_path: Path) -> None:
    files: dict[str, object] = {"a/b/c/f.txt": "", "a/b2/c/g.txt": "", "a/b/x.md": "", "top.txt": ""}
    with open_context(make(tmp_path, files)) as tree:

        def kept(*patterns: str) -> list[str]:
            found = Finder(tree, "COPY", parents=True).find(patterns)
            return [
                os.fsdecode(entry.below)
                for source in found
                for entry in walk_selected(tree, source.path, source.selection)
                if not stat.S_ISDIR(entry.stat.st_mode)
            ]

        assert kept("a/b/c") == ["a/b/c/f.txt"]
        assert kept("./a/./b/c/f.txt") == ["b/c/f.txt"]
        assert kept("a/./**/*.txt", "top.txt") == ["b/c/f.txt", "b2/c/g.txt", "top.txt"]
        assert kept("a/b*/./c") == ["c/f.txt", "c/g.txt"]
        assert kept("a/b/.") == ["a/b/c/f.txt", "a/b/x.md"]
        assert kept("a/./b/./c") == ["b/c/f.txt"]
        assert kept("nothing/*") == []
        with pytest.raises(NotFound, match="stat a/nothing: file does not exist"):
            kept("a/nothing")


def test_where_the_pivot_stands_counts_for_the_checksum(tmp_path: Path) -> None:
    with open_context(make(tmp_path, {"a/b/f": ""})) as tree:
        sums = {total_sum(Finder(tree, "COPY", parents=True).find([path])) for path in ("a/b/f", "a/./b/f", "a/b/./f")}
    assert len(sums) == 3


@pytest.mark.parametrize(
    ("excluded", "left"),
    [
        (["*.txt"], ["d/b.txt", "d/e/c.txt", "x.md"]),
        (["**/*.txt"], ["x.md"]),
        (["d"], ["a.txt", "x.md"]),
        (["d/*", "!d/e"], ["a.txt", "d/e/c.txt", "x.md"]),
        (["/d/e/"], ["a.txt", "d/b.txt", "x.md"]),
        (["*"], []),
    ],
)
def test_what_is_excluded_is_neither_summed_nor_copied(tmp_path: Path, excluded: list[str], left: list[str]) -> None:
    context = make(tmp_path, {"a.txt": "", "d/b.txt": "", "d/e/c.txt": "", "x.md": ""})
    (context / "Dockerfile").unlink()

    def found() -> Source:
        with open_context(context) as tree:
            (source,) = Finder(tree, "COPY", parse_excluded(excluded)).find(["."])
            entries = walk_selected(tree, b"", source.selection)
            files = [os.fsdecode(entry.below) for entry in entries if stat.S_ISREG(entry.stat.st_mode)]
        assert files == left
        return source

    before = found().digest
    for name in {"a.txt", "d/b.txt", "d/e/c.txt", "x.md"} - set(left):
        (context / name).write_text("changed")
    assert found().digest == before


def test_excluded_files_are_left_out_of_globs(tmp_path: Path) -> None:
    with open_context(make(tmp_path, {"home.txt": "", "home.md": "", "d/home.txt": ""})) as tree:
        excluded = parse_excluded(["*.txt"])
        assert [source.name for source in Finder(tree, "COPY", excluded).find(["hom*", "d/*"])] == [b"home.md"]


def test_the_data_of_a_files_second_name_counts(tmp_path: Path) -> None:
    context = make(tmp_path, {"a": "one", "b": "= a"})

    def checksum() -> str:
        with open_context(context) as tree:
            return total_sum(Finder(tree, "COPY").find(["b"]))

    before = checksum()
    (context / "a").write_text("two")
    assert checksum() != before


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

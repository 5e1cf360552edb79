"""COPY and ADD with BuildKit's flags on a real store: what they make, and what their cache depends on."""

from __future__ import annotations

import io
import os
import tarfile  # an independent writer
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from lamella.errors import InvalidArgument, NotFound
from lamella.model.digest import ImageID
from tests.conftest import mounts_below
from tests.support.building import OLD, Builder, import_base, write_context

if TYPE_CHECKING:
    from collections.abc import Generator

FILES: dict[str, object] = {"f": "file\n", "d/a.txt": "a", "d/b.md": "b", "d/e/c.txt": "c", "x.txt": "x"}


@pytest.fixture
def builder(store_root: Path, base_tar: Path) -> Generator[Builder]:
    builder = Builder(store_root)
    import_base(builder.store, base_tar)
    yield builder
    assert not mounts_below(store_root)
    assert [path.name for path in (store_root / "lamella/tx").iterdir()] == []


@pytest.fixture
def context(tmp_path: Path) -> Path:
    return tmp_path / "context"


def build(
    builder: Builder, context: Path, *lines: str, base: str = "base", files: dict[str, object] = FILES
) -> ImageID:
    return builder.build(write_context(context, "\n".join([f"FROM {base}", *lines, ""]), files)).image_id


def paths(builder: Builder, image: ImageID) -> list[str]:
    return sorted(builder.top(image))


def tar_with(place: Path, *members: tuple[str, str | bytes | None], **pax: str) -> Path:
    """Write an archive: bytes are a file, text is a link's target, None is a directory; `pax` goes to each member."""
    with tarfile.open(place, "w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.mtime = OLD
            member.pax_headers = dict(pax)
            member.mode = 0o755 if content is None else 0o644
            if isinstance(content, bytes):
                member.size = len(content)
            elif content is None:
                member.type = tarfile.DIRTYPE
            else:
                member.type, member.linkname = tarfile.SYMTYPE, content
            tar.addfile(member, io.BytesIO(content) if isinstance(content, bytes) else None)
    return place


def test_excluded_files_are_not_copied(builder: Builder, context: Path) -> None:
    image = build(builder, context, "ENV E=md", "COPY --exclude=**/*.txt --exclude=*.$E d /d/")
    assert paths(builder, image) == ["d", "d/e"]
    image = build(builder, context, "COPY --exclude=*.txt ?.txt d/* /g/")
    assert paths(builder, image) == ["g", "g/b.md"]


def test_all_excluded_leaves_an_empty_destination(builder: Builder, context: Path) -> None:
    assert paths(builder, build(builder, context, "ADD --exclude=* d /g")) == ["g"]


def test_parents_keep_the_directories_of_the_source(builder: Builder, context: Path) -> None:
    image = build(builder, context, "COPY --parents d/e/c.txt ./d/./a.txt /p/")
    assert paths(builder, image) == ["p", "p/a.txt", "p/d", "p/d/e", "p/d/e/c.txt"]
    assert builder.top(image)["p/d/e"].mtime == OLD
    image = build(builder, context, "COPY --parents **/*.txt /p")
    assert paths(builder, image) == ["p", "p/d", "p/d/a.txt", "p/d/e", "p/d/e/c.txt", "p/x.txt"]
    image = build(builder, context, "COPY --from=base --parents /etc/./passwd /p/")
    assert paths(builder, image) == ["p", "p/passwd"]


def test_parents_of_a_plain_name_that_is_missing_fail(builder: Builder, context: Path) -> None:
    with pytest.raises(NotFound, match="file does not exist"):
        build(builder, context, "COPY --parents d/none /p/")


def test_a_pattern_that_matches_nothing_copies_nothing_and_says_so(builder: Builder, context: Path) -> None:
    image = build(builder, context, "COPY none* /p/")
    assert image is not None
    assert any("COPY none*: no file matches" in line for line in builder.lines)
    assert paths(builder, build(builder, context, "COPY f none* /p/")) == ["p", "p/f"]


def test_directories_of_a_glob_need_no_slash_at_the_destination(builder: Builder, context: Path) -> None:
    image = build(builder, context, "COPY d* /g", files={"d1/a": "1", "d2/b": "2"})
    assert paths(builder, image) == ["g", "g/a", "g/b"]
    with pytest.raises(InvalidArgument, match="more than one source file"):
        build(builder, context, "COPY f x.txt /g")


@pytest.mark.parametrize(
    ("chmod", "modes"),
    [
        ("600", {"n": 0o600, "n/d": 0o600, "n/d/a.txt": 0o600, "n/d/e": 0o600}),
        ("go-r,u+x", {"n": 0o755, "n/d": 0o711, "n/d/a.txt": 0o700, "n/d/e": 0o711}),
        ("$M", {"n": 0o711, "n/d": 0o711, "n/d/a.txt": 0o711, "n/d/e": 0o711}),
    ],
)
def test_chmod_is_octal_or_symbolic(builder: Builder, context: Path, chmod: str, modes: dict[str, int]) -> None:
    top = builder.top(build(builder, context, "ARG M=711", f"COPY --chmod={chmod} d /n/d"))
    assert {path: top[path].mode for path in modes} == modes


def test_a_linked_layer_is_the_same_on_every_base(builder: Builder, context: Path, tmp_path: Path) -> None:
    linked = tar_with(tmp_path / "linked.tar", ("real/", None), ("real/old", b"old"), ("dest", "real"))
    import_base(builder.store, linked, "linked:latest")
    import_base(builder.store, tar_with(tmp_path / "plain.tar", ("dest/", None), ("dest/old", b"old")), "plain:latest")
    lines = ("COPY --link --chown=5:6 f d /dest/sub/", "COPY --link <<EOF /dest/text", "words", "EOF")
    images = [build(builder, context, *lines, base=base) for base in ("linked", "plain", "scratch")]
    layers = [builder.store.images.get(image).config.diff_ids[-2:] for image in images]
    assert layers[0] == layers[1] == layers[2]
    top = builder.layers(images[0])[-2]
    assert (top["dest"].kind, top["dest"].owner, top["dest/sub/f"].owner) == ("d", (5, 6), (5, 6))
    assert builder.text(images[0], "dest/sub/f") == "file\n"  # a directory now, where the base has a link
    assert builder.text(images[0], "real/old") == "old"
    assert builder.text(images[1], "dest/old") == "old"  # a directory of the base is added to


def test_a_linked_copy_looks_up_no_names(builder: Builder, context: Path) -> None:
    with pytest.raises(InvalidArgument, match="give numbers"):
        build(builder, context, "COPY --link --chown=alice f /f")


def test_without_link_the_links_of_the_image_are_followed(builder: Builder, context: Path, tmp_path: Path) -> None:
    linked = tar_with(tmp_path / "linked.tar", ("real/", None), ("dest", "real"))
    import_base(builder.store, linked, "linked:latest")
    assert paths(builder, build(builder, context, "COPY f /dest/", base="linked")) == ["real", "real/f"]


def test_each_flag_is_part_of_what_the_cache_compares(builder: Builder, context: Path) -> None:
    lines = [
        "COPY d /p/",
        "COPY --link d /p/",
        "COPY --parents d /p/",
        "COPY --exclude=nothing d /p/",
        "COPY --chmod=0755 d /p/",
        "COPY --chmod=a+r d /p/",
        "COPY --chown=0:0 d /p/",
    ]
    assert len({build(builder, context, line) for line in lines}) == len(lines)
    for line in lines:
        build(builder, context, line)
        assert builder.hits == 1, line
    assert (
        builder.store.images.get(build(builder, context, lines[0]))
        .config.history[-1]
        .created_by.startswith("/bin/sh -c #(nop) COPY dir:")
    )


def test_a_copy_between_stages_keeps_attributes_links_and_nodes(
    builder: Builder, context: Path, tmp_path: Path
) -> None:
    archive = tar_with(tmp_path / "attributes.tar", ("d/", None), ("d/f", b"x"), **{"SCHILY.xattr.user.mark": "here"})
    import_base(builder.store, archive, "attributes:latest")
    image = build(builder, context, "COPY --from=attributes /d /e/d", "COPY --from=attributes /d/f /f")
    both = builder.layers(image)[-2:]
    assert both[0]["e/d/f"].xattrs == both[1]["f"].xattrs == (("user.mark", b"here"),)
    lines = ("RUN mkdir /n && echo 1 > /n/a && ln /n/a /n/b && mknod /n/c c 1 3 && mkfifo /n/p && ln -s a /n/l",)
    stage = ("FROM base AS made", *lines, "FROM scratch", "COPY --from=made /n /n", "COPY --from=made /n/p /n/c /m/")
    image = builder.build(write_context(context, "\n".join([*stage, ""]))).image_id
    first, second = builder.layers(image)
    assert {path: node.kind for path, node in first.items()} == {
        "n": "d", "n/a": "-", "n/b": "-", "n/c": "c", "n/p": "p", "n/l": "l",
    }  # fmt: skip
    assert first["n/b"].content.endswith("linked with n/a")
    assert {path: node.kind for path, node in second.items()} == {"m": "d", "m/p": "p", "m/c": "c"}


def test_attributes_of_an_archive_are_unpacked(builder: Builder, context: Path, tmp_path: Path) -> None:
    raw = tar_with(tmp_path / "a.tar", ("f", b"x"), **{"SCHILY.xattr.user.mark": "here"}).read_bytes()
    image = build(builder, context, "ADD a.tar /t/", files={"a.tar": raw})
    assert builder.top(image)["t/f"].xattrs == (("user.mark", b"here"),)


def test_an_archive_is_unpacked_unless_it_is_said_not_to(builder: Builder, context: Path, tmp_path: Path) -> None:
    raw = tar_with(tmp_path / "a.tar", ("f", b"x")).read_bytes()
    image = build(builder, context, "ADD --unpack=false a.tar /t/", "ADD --unpack a.tar /u/", files={"a.tar": raw})
    assert [sorted(layer) for layer in builder.layers(image)[-2:]] == [["t", "t/a.tar"], ["u", "u/f"]]


def test_heredocs_become_files_with_owner_and_mode(builder: Builder, context: Path) -> None:
    text = ("COPY --chown=alice --chmod=640 <<a <<b /h/", "1", "a", "2", "b", "ADD <<-EOF /one", "\ttabs go", "EOF")
    image = build(builder, context, *text)
    first, second = builder.layers(image)[-2:]
    assert {path: (node.mode, node.owner) for path, node in first.items() if path != "h"} == {
        "h/a": (0o640, (1000, 1000)),
        "h/b": (0o640, (1000, 1000)),
    }
    assert (second["one"].mode, builder.text(image, "one")) == (0o644, "tabs go\n")


def test_a_linked_copy_works_with_a_driver_of_whole_trees(tmp_path: Path, base_tar: Path, context: Path) -> None:
    builder = Builder(tmp_path / "store", driver="vfs")
    import_base(builder.store, base_tar)
    image = build(builder, context, "RUN mkdir /p && echo old > /p/old", "COPY --link f /p/")
    assert builder.text(image, "p/old") == "old\n"
    assert builder.text(image, "p/f") == "file\n"
    assert builder.text(image, "etc/passwd").startswith("root:")


def test_hostile_archives_of_a_context_touch_nothing_outside(builder: Builder, context: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    raw = tar_with(
        tmp_path / "a.tar", ("l", str(victim)), ("l/evil", b"x"), ("m", "/etc"), ("m/evil", b"x")
    ).read_bytes()
    image = build(builder, context, "ADD a.tar /t/", files={"a.tar": raw})
    assert os.listdir(victim) == []
    assert f"t{victim}/evil" in builder.top(image)
    for name in ("../evil", "d/../../evil"):
        raw = tar_with(tmp_path / "b.tar", (name, b"x")).read_bytes()
        with pytest.raises(InvalidArgument):
            build(builder, context, "ADD a.tar /t/", files={"a.tar": raw})

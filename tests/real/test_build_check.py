"""``build --check`` as a user runs it, warnings of a build, and what FROM and stages know of arguments."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest

import lamella
from lamella.errors import InvalidArgument
from tests.support.building import Builder, import_base, write_context
from tests.support.cli import Lamella

FOUND = """\
Check complete, 2 warnings have been found!

WARNING: StageNameCasing - https://docs.docker.com/go/dockerfile/rule/stage-name-casing/
Stage name 'App' should be lowercase
Dockerfile:1
--------------------
   1 | >>> FROM base AS App
   2 |     COPY left.out /
   3 |     USER $APP_USER
--------------------

WARNING: CopyIgnoredFile - https://docs.docker.com/go/dockerfile/rule/copy-ignored-file/
Attempting to Copy file "left.out" that is excluded by .dockerignore
Dockerfile:2
--------------------
   1 |     FROM base AS App
   2 | >>> COPY left.out /
   3 |     USER $APP_USER
--------------------
"""


@pytest.fixture
def builder(store_root: Path, base_tar: Path) -> Generator[Builder]:
    builder = Builder(store_root)
    import_base(builder.store, base_tar)
    yield builder


@pytest.fixture
def context(tmp_path: Path) -> Path:
    return tmp_path / "context"


def test_a_check_shows_its_findings_and_makes_no_store(tmp_path: Path, context: Path) -> None:
    write_context(context, "FROM base AS App\nCOPY left.out /\nUSER $APP_USER\n", {".dockerignore": "*.out\n"})
    tool = Lamella(tmp_path / "store")
    answer = tool.try_run("build", "--check", str(context))
    assert (answer.returncode, answer.stdout, answer.stderr) == (1, FOUND, "")
    assert not (tmp_path / "store").exists()


def test_a_check_without_findings_says_so(tmp_path: Path, context: Path) -> None:
    tool = Lamella(tmp_path / "store")
    write_context(context, "FROM base\nRUN a\n")
    assert tool.run("build", "--check", str(context)) == "Check complete, no warnings found."
    assert tool.run("build", "--check", "-", stdin=b"FROM base\n") == "Check complete, no warnings found."
    other = context / "other"
    other.write_text("# check=skip=all\nFROM base AS X\n")
    assert tool.run("build", "--check", "-f", str(other), str(context)) == "Check complete, no warnings found."


def test_a_check_of_what_cannot_be_built_ends_with_the_error(tmp_path: Path, context: Path) -> None:
    write_context(context, "FROM base\nMAINTAINER me\nCOPPY a b\n")
    answer = Lamella(tmp_path / "store").try_run("build", "--check", str(context))
    assert answer.returncode == 1
    assert "WARNING: MaintainerDeprecated" in answer.stdout
    assert answer.stderr == (
        "lamella: dockerfile parse error line 3: unknown instruction: COPPY (did you mean COPY?); line 3: COPPY a b\n"
    )


def test_a_check_knows_the_variables_of_images_that_are_here(builder: Builder, base_tar: Path, context: Path) -> None:
    import_base(builder.store, base_tar, "golang:latest", env=("GOPATH=/go",))
    write_context(context, "FROM golang\nENV P=$GOPATH/bin Q=$GOROOT\n")
    with lamella.Store.open(builder.store.root.path) as store:
        checked = lamella.check_dockerfile(context, store=store)
        assert [finding.message for finding in checked.findings] == ["Usage of undefined variable '$GOROOT'"]
    assert lamella.check_dockerfile(context).findings == ()


def test_a_build_ends_with_its_warnings(builder: Builder, context: Path) -> None:
    write_context(context, "FROM base AS unused\nCMD a\nFROM base\nENV A=$undefined\nCMD echo $A\n")
    builder.build(context)
    assert [line.partition(":")[0] + line[-9:] for line in builder.lines if line.startswith("[Warning]")] == [
        "[Warning] UndefinedVar (line 4)",
        "[Warning] JSONArgsRecommended (line 5)",
    ]


def test_a_file_can_ask_that_warnings_are_errors(builder: Builder, context: Path) -> None:
    write_context(context, "# check=error=true\nFROM base\nRUN touch /x\nCMD a\n")
    before = {image.id for image in builder.store.images.iter_images()}
    with pytest.raises(InvalidArgument, match=r"lint violation found for rules: JSONArgsRecommended; .* \(line 4\)"):
        builder.build(context)
    assert {image.id for image in builder.store.images.iter_images()} == before


def test_from_and_stages_know_what_is_built_where(builder: Builder, context: Path) -> None:
    text = (
        "FROM --platform=$BUILDPLATFORM base AS one\nARG TARGETARCH\nARG V=1\n"
        "FROM one AS two\nRUN echo $TARGETARCH-$V-$TARGETOS > /x\n"
    )
    image = builder.build(write_context(context, text)).image_id
    assert builder.text(image, "x") == "amd64-1-\n"


def test_a_file_of_a_here_document_is_written_as_it_stands(builder: Builder, context: Path) -> None:
    text = "FROM base\nENV v=1\nCOPY <<-EOF <<'E' /d/\n\ta=\"$v\" 'b' \\$v\n\tEOF\n\"$v\"\nE\n"
    image = builder.build(write_context(context, text)).image_id
    assert builder.text(image, "d/EOF") == "a=\"1\" 'b' $v\n"
    assert builder.text(image, "d/E") == '"$v"\n'

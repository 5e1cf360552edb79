"""ADD and contexts from the network: a real HTTP server, a real git daemon, and what hostile ones may not do."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import subprocess
import tarfile  # an independent writer
import threading
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from lamella.build.download import downloaded
from lamella.build.gitsource import GitReference, parse_git
from lamella.errors import DigestMismatch, InvalidArgument, LamellaError, NotFound, PermissionDenied, Unavailable
from tests.conftest import mounts_below
from tests.support.building import OLD, Builder, import_base, write_context
from tests.support.cli import Lamella
from tests.support.web import DATE, Page, Web

if TYPE_CHECKING:
    from collections.abc import Generator


@pytest.fixture
def web() -> Generator[Web]:
    server = Web()
    yield server
    server.close()


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


def sha(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def packed(**files: str) -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text.encode()))
    return gzip.compress(raw.getvalue(), mtime=0)


# ---------------------------------------------------------------------------------------------------------- files


def test_a_url_becomes_a_private_file_of_the_servers_time(builder: Builder, context: Path, web: Web) -> None:
    web.pages["/x/tool.sh?v=1"] = Page(b"#!/bin/sh\n", headers=(("Last-Modified", DATE),))
    image = builder.build(write_context(context, f"FROM base\nADD {web.url}/x/tool.sh?v=1 /opt/\n")).image_id
    node = builder.top(image)["opt/tool.sh"]
    assert (node.mode, node.owner, node.mtime) == (0o600, (0, 0), OLD)
    assert builder.text(image, "opt/tool.sh") == "#!/bin/sh\n"


def test_the_cache_is_keyed_on_the_content_of_a_url(builder: Builder, context: Path, web: Web) -> None:
    web.pages["/f"] = Page(b"one", headers=(("Last-Modified", DATE),))
    write_context(context, f"FROM base\nADD {web.url}/f /f\n")
    first = builder.build(context).image_id
    web.pages["/f"] = Page(b"one")
    assert builder.build(context).image_id == first
    assert builder.hits == 1
    web.pages["/f"] = Page(b"two")
    assert builder.text(builder.build(context).image_id, "f") == "two"


def test_owner_and_mode_of_a_url_can_be_asked_for(builder: Builder, context: Path, web: Web) -> None:
    web.pages["/f"] = Page(b"x")
    text = f"FROM base\nADD --chown=alice --chmod=u=rwx,go=rx {web.url}/f /n/f\n"
    node = builder.top(builder.build(write_context(context, text)).image_id)["n/f"]
    assert (node.mode, node.owner, node.mtime) == (0o755, (1000, 1000), 0)


@pytest.mark.parametrize(
    ("path", "disposition", "name"),
    [
        ("/a/b.txt", "", "b.txt"),
        ("/a/b.txt", 'attachment; filename="other"', "b.txt"),
        ("/a%20b%2Fc", "", "c"),
        ("/d/", 'attachment; filename="../given.txt"', "given.txt"),
        ("/d/", "attachment; filename*=UTF-8''gr%C3%BCn", "grün"),
        ("/d/", "", "__unnamed__"),
        ("", "", "__unnamed__"),
    ],
)
def test_a_file_is_named_as_docker_names_it(web: Web, path: str, disposition: str, name: str) -> None:
    web.pages[path or "/"] = Page(b"x", headers=(("Content-Disposition", disposition),) if disposition else ())
    with downloaded(web.url + path, proxies={}) as found:
        assert (found.name, found.directory.joinpath(name).read_bytes()) == (name, b"x")


def test_a_file_without_a_name_needs_one_at_the_destination(builder: Builder, context: Path, web: Web) -> None:
    web.pages["/"] = Page(b"x")
    assert builder.text(builder.build(write_context(context, f"FROM base\nADD {web.url} /n\n")).image_id, "n") == "x"
    with pytest.raises(InvalidArgument, match="cannot determine filename"):
        builder.build(write_context(context, f"FROM base\nADD {web.url} /n/\n"))


def test_a_url_is_unpacked_only_when_asked(builder: Builder, context: Path, web: Web) -> None:
    web.pages["/t.tgz"] = Page(packed(a="1"))
    text = f"FROM base\nADD {web.url}/t.tgz /t/\nADD --unpack {web.url}/t.tgz /u/\nADD --unpack=false {web.url}/t.tgz /v/\n"
    image = builder.build(write_context(context, text)).image_id
    assert [sorted(layer) for layer in builder.layers(image)[1:]] == [["t", "t/t.tgz"], ["u", "u/a"], ["v", "v/t.tgz"]]


def test_a_checksum_must_be_that_of_the_bytes(builder: Builder, context: Path, web: Web) -> None:
    web.pages["/f"] = Page(b"right")
    right = f"FROM base\nARG SUM={sha(b'right')}\nADD --checksum=$SUM {web.url}/f /f\n"
    assert builder.text(builder.build(write_context(context, right)).image_id, "f") == "right"
    web.pages["/f"] = Page(b"wrong")
    before = set(builder.store.images.iter_ids())
    with pytest.raises(DigestMismatch, match=sha(b"wrong")):
        builder.build(context)
    assert set(builder.store.images.iter_ids()) == before


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("ADD --checksum=sha256:12 {url}/f /f", "64 hexadecimal digits"),
        ("ADD --checksum={sum} local /f", "requires HTTP"),
        ("ADD --checksum={sum} {url}/f {url}/f /f/", "multiple sources"),
        ("COPY {url}/f /f", "can't be a URL for COPY"),
        ("ADD {url}/.. /f/", "no name for a file"),
    ],
)
def test_what_cannot_be_meant_is_refused(builder: Builder, context: Path, web: Web, line: str, said: str) -> None:
    web.pages["/f"] = web.pages["/.."] = Page(b"x")
    text = f"FROM base\n{line.format(url=web.url, sum=sha(b'x'))}\n"
    with pytest.raises(InvalidArgument, match=said):
        builder.build(write_context(context, text, {"local": "x"}))


@pytest.mark.parametrize(
    ("page", "error"),
    [
        (Page(status=404), NotFound),
        (Page(status=403), PermissionDenied),
        (Page(status=418), Unavailable),
        (Page(b"short", length=50), Unavailable),
        (Page(b"x", headers=(("Content-Encoding", "gzip"),)), InvalidArgument),
        (Page(status=302, headers=(("Location", "file:///etc/passwd"),)), InvalidArgument),
        (Page(status=302, headers=(("Location", "/f"),)), InvalidArgument),
    ],
)
def test_what_a_server_may_do_wrong_ends_the_download(web: Web, page: Page, error: type[LamellaError]) -> None:
    web.pages["/f"] = page
    with pytest.raises(error), downloaded(f"{web.url}/f", proxies={}):
        pass


def test_a_download_has_a_limit(web: Web) -> None:
    web.pages["/f"] = Page(b"x" * 11)
    with pytest.raises(InvalidArgument, match="more than the 10"), downloaded(f"{web.url}/f", proxies={}, limit=10):
        pass


def test_redirects_are_followed_and_passwords_stay_where_they_were_meant_for(web: Web) -> None:
    other = Web()
    try:
        other.pages["/g"] = Page(b"there")
        web.pages["/f"] = Page(status=302, headers=(("Location", f"{other.url}/g"),))
        with downloaded(web.url.replace("//", "//me:word@") + "/f", proxies={}) as found:
            assert (found.name, (found.directory / "f").read_bytes()) == ("f", b"there")
        assert web.asked == [("/f", "Basic bWU6d29yZA==")]
        assert other.asked == [("/g", "")]
    finally:
        other.close()


# ------------------------------------------------------------------------------------------------------- contexts


def test_a_context_may_be_the_url_of_an_archive_or_a_dockerfile(builder: Builder, web: Web) -> None:
    web.pages["/c.tar.gz"] = Page(packed(Dockerfile="FROM base\nCOPY f /f\n", Other="FROM base\nENV a=b\n", f="here"))
    web.pages["/Dockerfile"] = Page(b"FROM base\nCOPY <<a /f\nalone\na\n")
    assert builder.text(builder.build(f"{web.url}/c.tar.gz").image_id, "f") == "here"
    other = builder.build(f"{web.url}/c.tar.gz", dockerfile=Path("Other")).image_id
    assert "a=b" in builder.store.images.get(other).config.config.env
    assert builder.text(builder.build(f"{web.url}/Dockerfile").image_id, "f") == "alone\n"


def test_the_command_line_takes_every_kind_of_context(
    builder: Builder, context: Path, web: Web, repository: Repository
) -> None:
    lamella = Lamella(builder.store.root.path)
    raw = packed(Dockerfile="FROM base\nCOPY f /f\n", Other="FROM base\nENV a=b\n", f="here")
    web.pages["/c.tar.gz"] = Page(raw)
    other = write_context(context, "FROM base\nENV x=y\n", {"f": "x"}).parent / "Elsewhere"
    other.write_text("FROM base\nENV c=d\n")
    given: list[tuple[list[str], bytes | None, str]] = [
        ([f"{web.url}/c.tar.gz"], None, ""),
        (["-f", "Other", f"{web.url}/c.tar.gz"], None, "a=b"),
        (["-f", "Other", "-"], raw, "a=b"),
        (["-f", "-", str(context)], b"FROM base\nCOPY f /f\nENV e=f\n", "e=f"),
        (["-f", str(other), str(context)], None, "c=d"),
        (["-"], b"FROM base\nENV g=h\n", "g=h"),
        ([f"{repository.url}#v1"], None, ""),
    ]
    for arguments, stdin, variable in given:
        image = builder.store.images.get(builder.store.resolve(lamella.run("build", "-q", *arguments, stdin=stdin)))
        assert variable in ("", *image.config.config.env), arguments
    refused = lamella.try_run("build", "-q", "-f", "-", "-", stdin=b"FROM base\n")
    assert (refused.returncode, "can't use stdin for both" in refused.stderr) == (1, True)


# ------------------------------------------------------------------------------------------------------------ git


class Repository(NamedTuple):
    """A repository that a git daemon serves."""

    url: str
    commits: list[str]
    directory: Path


def git(directory: Path, *arguments: str) -> str:
    env = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "GIT_CONFIG_NOSYSTEM": "1", "GIT_AUTHOR_NAME": "a",
           "GIT_AUTHOR_EMAIL": "a@x", "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@x",
           "GIT_AUTHOR_DATE": f"{OLD} +0000", "GIT_COMMITTER_DATE": f"{OLD} +0000"}  # fmt: skip
    done = subprocess.run(["git", "-C", directory, *arguments], env=env, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Generator[Repository]:
    work = tmp_path / "served/repo.git"
    work.mkdir(parents=True)
    git(work, "init", "-q", "-b", "main")
    commits = []
    for number in ("1", "2"):
        write_context(work, f"FROM base\nCOPY sub /s{number}\n", {"sub/f": number, "run": ("#!/bin/sh\n", 0o755)})
        git(work, "add", ".")
        git(work, "commit", "-qm", number)
        commits.append(git(work, "rev-parse", "HEAD"))
        git(work, "tag", "-am", number, f"v{number}")
    git(work, "branch", "old", commits[0])
    git(work, "config", "uploadpack.allowReachableSHA1InWant", "true")
    port_file = tmp_path / "port"
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    daemon = subprocess.Popen(
        ["git", "daemon", "--export-all", f"--base-path={tmp_path / 'served'}", "--listen=127.0.0.1",
         f"--port={port}", "--reuseaddr", f"--pid-file={port_file}"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        for _try in range(200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            threading.Event().wait(0.02)
        yield Repository(f"git://127.0.0.1:{port}/repo.git", commits, work)
    finally:
        os.killpg(daemon.pid, 15)
        daemon.wait()


def test_a_repository_is_added_at_a_reference(builder: Builder, context: Path, repository: Repository) -> None:
    url, commits = repository.url, repository.commits
    lines = [f"ADD {url} /a/", f"ADD {url}#old /b/", f"ADD {url}#v1:sub /c/", f"ADD {url}#{commits[0]} /d/"]
    image = builder.build(write_context(context, "\n".join(["FROM base", *lines, ""]))).image_id
    layers = builder.layers(image)[1:]
    assert [builder.text(image, path) for path in ("a/sub/f", "b/sub/f", "c/f", "d/sub/f")] == ["2", "1", "1", "1"]
    assert sorted(layers[0]) == ["a", "a/Dockerfile", "a/run", "a/sub", "a/sub/f"]
    run = layers[0]["a/run"]
    assert (run.mode, run.owner, run.mtime, layers[0]["a/sub"].mode) == (0o755, (0, 0), OLD, 0o755)
    builder.build(context)
    assert builder.hits == len(lines)


def test_the_git_directory_is_kept_when_asked(builder: Builder, context: Path, repository: Repository) -> None:
    write_context(context, f"FROM base\nADD --keep-git-dir=true {repository.url}#v1 /a/\n")
    image = builder.build(context).image_id
    assert builder.text(image, "a/.git/HEAD").strip() == repository.commits[0]
    builder.build(context)
    assert builder.hits == 1


def test_a_commit_may_be_demanded(builder: Builder, context: Path, repository: Repository) -> None:
    first, second = repository.commits
    builder.build(write_context(context, f"FROM base\nADD --checksum={second} {repository.url} /a/\n"))
    with pytest.raises(DigestMismatch, match=second):
        builder.build(write_context(context, f"FROM base\nADD --checksum={first} {repository.url} /a/\n"))


def test_a_context_may_be_a_repository(builder: Builder, repository: Repository) -> None:
    assert builder.text(builder.build(repository.url).image_id, "s2/f") == "2"
    assert builder.text(builder.build(f"{repository.url}#v1").image_id, "s1/f") == "1"
    image = builder.build(f"{repository.url}#:sub", dockerfile=b"FROM base\nCOPY f /f\n").image_id
    assert builder.text(image, "f") == "2"


def test_a_server_without_single_commits_gives_all_there_are(
    builder: Builder, context: Path, repository: Repository, tmp_path: Path
) -> None:
    bare = tmp_path / "dumb/repo.git"
    subprocess.run(["git", "clone", "-q", "--bare", repository.directory, bare], check=True, capture_output=True)
    git(bare, "update-server-info")
    command = ["python3", "-m", "http.server", "0", "--bind", "127.0.0.1", "--directory", str(tmp_path / "dumb")]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env={"PYTHONUNBUFFERED": "1",
                              "PATH": os.environ["PATH"]})  # fmt: skip
    try:
        assert server.stdout is not None
        port = server.stdout.readline().split()[5].decode()
        for reference in ("v1", repository.commits[0]):
            url = f"http://127.0.0.1:{port}/repo.git#{reference}"
            image = builder.build(write_context(context, f"FROM base\nADD {url} /a/\n"), no_cache=True).image_id
            assert builder.text(image, "a/sub/f") == "1"
    finally:
        server.terminate()
        server.communicate()


def test_a_hostile_repository_runs_nothing_and_reads_nothing(
    builder: Builder, context: Path, repository: Repository, tmp_path: Path
) -> None:
    work, mark = repository.directory, tmp_path / "mark"
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "word").write_text("secret")
    git(secret, "init", "-q")
    git(secret, "add", ".")
    git(secret, "commit", "-qm", "x")
    (work / ".gitattributes").write_text("* filter=evil\n")
    (work / "out").symlink_to(secret)
    (work / "post-checkout").write_text(f"#!/bin/sh\ntouch {mark}\n")
    git(work, "add", ".")
    git(work, "commit", "-qm", "hostile")
    image = builder.build(write_context(context, f"FROM base\nADD {repository.url} /a/\n")).image_id
    assert builder.top(image)["a/out"].kind == "l"
    with pytest.raises(NotFound):
        builder.build(write_context(context, f"FROM base\nADD {repository.url}#:out /a/\n"))
    git(work, "-c", "protocol.file.allow=always", "submodule", "add", "-q", f"file://{secret}", "module")
    git(work, "commit", "-qm", "submodule")
    with pytest.raises(Unavailable, match="git submodule"):
        builder.build(write_context(context, f"FROM base\nADD {repository.url} /a/\n"))
    assert not mark.exists()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("https://h/r.git", GitReference("https://h/r.git")),
        ("https://h/r.git#v1:a/b", GitReference("https://h/r.git", "v1", "a/b")),
        ("https://h/r.git#:a", GitReference("https://h/r.git", "", "a")),
        ("git@h:me/r.git#x", GitReference("git@h:me/r.git", "x")),
        ("ssh://git@h/r", GitReference("ssh://git@h/r")),
        ("https://h/r.git?tag=v1&subdir=d", GitReference("https://h/r.git", "refs/tags/v1", "d")),
        ("https://h/r.git?keep-git-dir", GitReference("https://h/r.git", keep_git_dir=True)),
        ("https://h/r.tar", None),
        ("https://h/r.git/info", None),
        ("file:///etc/r.git", None),
        ("r.git", None),
    ],
)
def test_git_urls_are_told_from_others(text: str, found: GitReference | None) -> None:
    assert parse_git(text) == found


@pytest.mark.parametrize(
    "text",
    ["git://-oProxyCommand=x/r.git", "https://h/r.git#--upload-pack=x", "https://h/r.git#a..b~1", "ssh://h/r\n.git",
     "https://h/r.git?what=x", "https://h/r.git?commit=zz"],
)  # fmt: skip
def test_git_urls_that_are_options_are_refused(text: str) -> None:
    with pytest.raises(InvalidArgument):
        parse_git(text)

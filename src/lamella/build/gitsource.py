"""Git repositories, for ADD and as contexts: one commit's files, fetched by the ``git`` that is installed.

A repository is hostile: git reads no configuration but what is given here, runs no hook and no filter, asks nobody for
a password, and speaks http, https, ssh and its own protocol, also where a submodule says otherwise.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from lamella.build.context import SourceTree
from lamella.errors import DigestMismatch, InvalidArgument, NotFound, Unavailable
from lamella.fs.rooted import Root
from lamella.fs.tree import remove_tree
from lamella.fs.walk import walk
from lamella.linux import spawn

_PROTOCOLS = ("http", "https", "ssh", "git")
_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_PART_OF_COMMIT = re.compile(r"[0-9a-f]{7,64}")
_SCP = re.compile(r"[A-Za-z0-9_.-]+@[A-Za-z0-9.-]+:[^\s]+")
_REFERENCE = re.compile(r"[^-\x00-\x20\x7f~^:?*\[\\][^\x00-\x20\x7f~^:?*\[\\]*")
_TRUTHS = {"": True, "1": True, "true": True, "0": False, "false": False}
_CONFIG = (
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "core.attributesFile=/dev/null",
    "core.autocrlf=false",
    "credential.helper=",
    "protocol.allow=never",
    *(f"protocol.{name}.allow=always" for name in _PROTOCOLS),
    "submodule.recurse=false",
    "fetch.recurseSubmodules=false",
    "gc.auto=0",
    "advice.detachedHead=false",
)


class GitReference(NamedTuple):
    """A commit of a repository, and the directory of it that is meant."""

    url: str
    reference: str = ""
    subdirectory: str = ""
    checksum: str = ""
    """The commit, or its beginning."""
    keep_git_dir: bool | None = None
    submodules: bool = True

    @property
    def shown(self) -> str:
        """The URL without a password."""
        return re.sub(r"://[^/@]*@", "://", self.url)[:300]


class Checkout(NamedTuple):
    """The files of a commit."""

    directory: Path
    commit: str


def parse_git(text: str) -> GitReference | None:
    """Read ``https://host/repo.git#ref:directory`` and its like; None if it is no git repository's.

    Raises InvalidArgument for one that is malformed, or of a protocol that is not allowed.
    """
    address, _, fragment = text.partition("#")
    scheme, separator, rest = address.partition("://")
    query = ""
    if separator:
        scheme = scheme.lower()
        address, _, query = address.partition("?")
        path = address.partition("://")[2].partition("/")[2]
        if scheme in ("http", "https"):
            if not path.rstrip("/").endswith(".git"):
                return None
        elif scheme not in ("ssh", "git"):
            return None
        if rest.startswith("-") or re.search(r"[\x00-\x20\x7f]", address):
            raise InvalidArgument(f"git URL {text[:100]!r} is malformed")
    elif not _SCP.fullmatch(address):
        return None
    reference, _, subdirectory = fragment.partition(":")
    return _with_query(GitReference(address, reference, subdirectory), query, text)


def _with_query(given: GitReference, query: str, text: str) -> GitReference:
    from urllib.parse import parse_qsl

    for key, value in parse_qsl(query, keep_blank_values=True):
        if key in ("ref", "branch", "tag") and not given.reference:
            prefix = {"ref": "", "branch": "refs/heads/", "tag": "refs/tags/"}[key]
            given = given._replace(reference=prefix + value)
        elif key == "subdir" and not given.subdirectory:
            given = given._replace(subdirectory=value)
        elif key in ("checksum", "commit") and not given.checksum:
            given = given._replace(checksum=value)
        elif key == "keep-git-dir" and value.lower() in _TRUTHS:
            given = given._replace(keep_git_dir=_TRUTHS[value.lower()])
        elif key == "submodules" and value.lower() in _TRUTHS:
            given = given._replace(submodules=_TRUTHS[value.lower()])
        else:
            raise InvalidArgument(f"git URL {text[:100]!r}: {key[:50]} is unknown, given twice or wrong")
    if given.reference and not _REFERENCE.fullmatch(given.reference):
        raise InvalidArgument(f"git URL {text[:100]!r}: {given.reference[:100]!r} is no branch, tag or commit")
    if given.checksum and not _PART_OF_COMMIT.fullmatch(given.checksum):
        raise InvalidArgument(f"git URL {text[:100]!r}: the checksum of a repository is a commit")
    return given


@contextmanager
def checked_out(wanted: GitReference, *, proxies: Mapping[str, str]) -> Generator[Checkout]:
    """Fetch a commit and write its files, which live as long as the block: root's, 0644 or 0755, of the commit's time.

    Raises Unavailable without git or if it fails, NotFound for a directory that is not there, DigestMismatch for
    another commit than ``checksum`` says.
    """
    program = spawn.find_tool("git", package="git")
    with TemporaryDirectory(prefix="lamella-git-") as place:
        work = Path(place, "work")
        git = _Git(program, work, Path(place), proxies)
        git.call("init", "--quiet", "--template=", str(work), directory=Path(place))
        _fetch(git, wanted)
        git.call("checkout", "--quiet", "--force", "--detach", "FETCH_HEAD")
        commit = git.call("rev-parse", "HEAD").strip()
        if wanted.checksum and not commit.startswith(wanted.checksum):
            raise DigestMismatch(wanted.shown, wanted.checksum, commit)
        if wanted.submodules and (work / ".gitmodules").is_file():
            git.call("submodule", "--quiet", "update", "--init", "--recursive", "--depth=1")
        moment = int(git.call("log", "-1", "--format=%ct").strip() or "0")
        if wanted.keep_git_dir:
            git.call("remote", "add", "origin", wanted.shown)
        _settle(work, moment, keep=bool(wanted.keep_git_dir))
        yield Checkout(_subdirectory(work, wanted), commit)


class _Git(NamedTuple):
    program: str
    work: Path
    home: Path
    proxies: Mapping[str, str]

    def call(self, *arguments: str, directory: Path | None = None) -> str:
        """Run git.  Raises Unavailable with its last line."""
        done = self.attempt(*arguments, directory=directory)
        if done.code:
            lines = [line for line in done.stderr.decode(errors="replace").splitlines() if line.strip()]
            said = re.sub(r"://[^/@\s]*@", "://", lines[-1] if lines else f"exit code {done.code}")[:300]
            raise Unavailable(f"git {arguments[0]}: {said}")
        return done.stdout.decode(errors="surrogateescape")

    def attempt(self, *arguments: str, directory: Path | None = None) -> spawn.Completed:
        """Run git in an environment that holds nothing of the caller's."""
        environment = {
            "PATH": spawn.DEFAULT_PATH,
            "HOME": str(self.home),
            "LC_ALL": "C.UTF-8",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": "/dev/null",
            "GIT_ATTR_NOSYSTEM": "1",
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_ASKPASS": "/bin/true",
            "GIT_ALLOW_PROTOCOL": ":".join(_PROTOCOLS),
            "GIT_LFS_SKIP_SMUDGE": "1",
            "GIT_SSH_COMMAND": "ssh -o BatchMode=yes -o StrictHostKeyChecking=yes",
        }
        for key, value in self.proxies.items():
            name = key.lower().removesuffix("_proxy")
            environment[f"{name}_proxy"] = value
        options = [word for setting in _CONFIG for word in ("-c", setting)]
        return spawn.run(
            [self.program, *options, *arguments],
            env=environment,
            cwd=directory or self.work,
            start_new_session=True,
        )


def _fetch(git: _Git, wanted: GitReference) -> None:
    """Fetch the commit alone, or all there is where a server does not give single ones."""
    reference = wanted.reference or "HEAD"
    quiet = ("fetch", "--quiet", "--no-tags", "--no-recurse-submodules")
    if not git.attempt(*quiet, "--depth=1", "--", wanted.url, reference).code:
        return
    if not _COMMIT.fullmatch(reference):
        git.call(*quiet, "--", wanted.url, reference)
        return
    git.call(*quiet, "--", wanted.url, "+refs/heads/*:refs/all/heads/*", "+refs/tags/*:refs/all/tags/*")
    if git.attempt("cat-file", "-e", f"{reference}^{{commit}}").code:
        raise NotFound(f"{wanted.shown}: it has no commit {reference}")
    git.call("update-ref", "FETCH_HEAD", reference)


def _settle(work: Path, moment: int, *, keep: bool) -> None:
    """Make the files what they would be on any machine, whatever the umask and the clock."""
    if not keep:
        remove_tree(work / ".git")
    with Root(work) as root:
        if not keep:
            for path in [entry.path for entry in walk(root.fd) if entry.name == b".git"]:
                remove_tree(work / os.fsdecode(path))  # a submodule's
        directories: list[bytes] = []
        for entry in walk(root.fd, prune=lambda entry: entry.path == b".git"):
            kind = entry.stat.st_mode
            if stat.S_ISDIR(kind):
                directories.append(entry.path)
            if not stat.S_ISLNK(kind):
                mode = 0o755 if stat.S_ISDIR(kind) or kind & stat.S_IXUSR else 0o644
                os.chmod(entry.name, mode, dir_fd=entry.dir_fd)
            os.utime(entry.name, (moment, moment), dir_fd=entry.dir_fd, follow_symlinks=False)
        for path in reversed(directories):
            fd = root.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                os.utime(fd, (moment, moment))
            finally:
                os.close(fd)
    os.chmod(work, 0o755)


def _subdirectory(work: Path, wanted: GitReference) -> Path:
    with Root(work) as root:
        try:
            path, status = SourceTree(root).resolve(os.fsencode(wanted.subdirectory))
        except OSError as error:
            raise NotFound(f"{wanted.shown}: it has no directory {wanted.subdirectory}") from error
    if not stat.S_ISDIR(status.st_mode):
        raise InvalidArgument(f"{wanted.shown}: {wanted.subdirectory} is not a directory")
    return work / os.fsdecode(path)

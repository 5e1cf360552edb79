"""The same contexts built by Debian's dockerd (classic builder) and by lamella: equal settings, history and layers.

Compared is every layer's own tree (type, mode, owner, content, links, whiteouts) and the time of what comes from the
context; left out are IDs, the moment of the build, and names of temporary containers.
"""

from __future__ import annotations

import json
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from lamella.errors import LamellaError
from tests.support.building import OLD, Builder, import_base, write_context
from tests.support.dockerd import Dockerd
from tests.support.rootfs import pack
from tests.support.trees import Node, flatten

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

pytestmark = pytest.mark.xdist_group("build-conformance")


class Case(NamedTuple):
    dockerfile: str
    files: Mapping[str, object] = MappingProxyType({})
    options: tuple[str, ...] = ()


TREE: dict[str, object] = {
    "f": "file\n",
    "script": ("#!/bin/sh\n", 0o755),
    "secret": ("s", 0o600),
    "d/a": "a",
    "d/b": ("b", 0o640),
    "d/sub/c": "c",
    "d/empty": None,
    "d/link": "-> a",
    "d/broken": "-> nowhere",
    "d/up": "-> ../f",
    "dirlink": "-> d",
    "filelink": "-> f",
    "x.txt": "x",
    "y.txt": "y",
}


def copy(*lines: str) -> Case:
    return Case("FROM base\n" + "\n".join(lines) + "\n", TREE)


CASES: dict[str, Case] = {
    "env": Case('FROM base\nENV a=b c="d e" f=$PATH\nENV old form of $a\nENV a=2 g=${a}x\nRUN env | grep -v HOSTNAME > /e\n'),
    "label": Case('FROM base\nLABEL a=b "c d"="e f"\nLABEL a=$PATH\n'),
    "cmd-shell": Case("FROM base\nCMD echo $PATH\n"),
    "cmd-exec": Case('FROM base\nCMD ["a", "b c", "\\"q\\"", "\\u00e9\\n"]\n'),
    "cmd-empty": Case("FROM base\nCMD []\nENTRYPOINT []\n"),
    "entrypoint-clears-cmd": Case('FROM base\nCMD ["x"]\nENTRYPOINT ["y"]\n'),
    "entrypoint-inherits": Case('FROM withcmd\nENTRYPOINT ["y"]\n'),
    "entrypoint-shell": Case("FROM base\nENTRYPOINT exec top -b\n"),
    "expose": Case("FROM base\nENV P='90 91'\nEXPOSE 80 443/udp\nEXPOSE 8000-8002 $P\n"),
    "volume": Case('FROM base\nVOLUME /a /b\nVOLUME ["/c d"]\n'),
    "user": Case("FROM base\nUSER alice\nRUN id -u > /tmp/who; id -g >> /tmp/who\nUSER 5:6\nRUN id > /tmp/who2\n"),
    "user-home": Case("FROM base\nUSER alice\nRUN echo $HOME > /tmp/home\n"),
    "workdir": Case("FROM base\nWORKDIR /w/x\nWORKDIR y\nRUN pwd > out\nWORKDIR /etc\nWORKDIR ../tmp\n"),
    "workdir-env": Case("FROM base\nENV D=/q\nWORKDIR $D/r\n"),
    "workdir-user": Case("FROM base\nUSER alice\nWORKDIR /made\n"),
    "shell": Case('FROM base\nSHELL ["/bin/sh", "-ec"]\nRUN echo hi > /x\nCMD foo\nENV a=b\n'),
    "stopsignal": Case("FROM base\nSTOPSIGNAL SIGUSR1\nSTOPSIGNAL 9\n"),
    "healthcheck": Case("FROM base\nHEALTHCHECK --interval=5s --timeout=1m30s --retries=3 CMD true\n"),
    "healthcheck-exec": Case('FROM base\nHEALTHCHECK CMD ["/bin/true"]\n'),
    "healthcheck-none": Case("FROM base\nHEALTHCHECK NONE\n"),
    "maintainer": Case("FROM base\nMAINTAINER Me <me@x>\nRUN true\n"),
    "onbuild": Case("FROM base\nONBUILD RUN echo hi\nONBUILD COPY . /x\n"),
    "onbuild-fires": Case("FROM trigger\nENV x=y\n", {"f": "f"}),
    "arg": Case("ARG V=latest\nFROM base:$V\nARG A=1\nARG B\nRUN echo $A$B > /x\nENV A=3\nRUN echo $A > /y\n"),
    "arg-given": Case("FROM base\nARG A\nARG B=2\nRUN echo $A$B > /x\n", {}, ("--build-arg", "A=9")),
    "arg-global": Case("ARG G=g\nFROM base\nARG G\nRUN echo $G > /x\n"),
    "arg-proxy": Case("FROM base\nRUN echo $http_proxy > /x\n", {}, ("--build-arg", "http_proxy=p")),
    "labels-option": Case("FROM base\nENV a=b\n", {}, ("--label", "z=1", "--label", "b=$PATH")),
    "run-nothing": Case("FROM base\nRUN true\nRUN echo hi\n"),
    "run-exec": Case('FROM base\nRUN ["/bin/sh", "-c", "echo a > /b"]\n'),
    "run-remove": Case("FROM base\nRUN rm /etc/issue && rm -r /home\nRUN mkdir /home && echo 1 > /home/x\n"),
    "run-replace-dir": Case("FROM base\nRUN mkdir -p /q/r && echo 1 > /q/r/s\nRUN rm -r /q && mkdir /q && echo 2 > /q/t\n"),
    "run-links": Case("FROM base\nRUN echo a > /a && ln /a /b && ln -s a /c && mkfifo /d && mknod /e c 1 3\n"),
    "run-modes": Case("FROM base\nRUN touch /x && chmod 4755 /x && mkdir -m 1777 /y && chown 3:4 /x\n"),
    "run-touch-etc": Case("FROM base\nRUN echo x > /etc/new; echo 1.2.3.4 h >> /etc/hosts\n"),
    "run-continuation": Case("FROM base\nRUN echo a \\\n  # comment\n\n  b > /x && \\\n  echo c\n"),
    "run-umask": Case("FROM base\nRUN umask > /u\n"),
    "run-stdin": Case("FROM base\nRUN cat > /in; tty > /tty; true\n"),
    "lowercase": Case("from base\nenv a=b\nrun echo $a > /x\n"),
    "escape": Case("# escape=`\nFROM base\nRUN echo a `\n b > /x\nENV w=c:\\dir\n"),
    "scratch": Case('FROM scratch\nCOPY f /f\nCMD ["/f"]\n', {"f": ("f", 0o755)}),
    "scratch-workdir": Case("FROM scratch\nWORKDIR /a/b\nCOPY f .\n", {"f": "f"}),
    "scratch-env": Case("FROM scratch\nENV a=b\nLABEL c=d\n"),
    "stages": Case("FROM base AS one\nRUN echo 1 > /one\nFROM base\nCOPY --from=one /one /two\nCOPY --from=0 /one /three\n"),
    "stage-base": Case("FROM base AS one\nENV a=b\nRUN echo 1 > /one\nFROM one\nRUN cat /one > /two\n"),
    "stage-unused": Case("FROM base AS one\nRUN echo 1 > /one\nFROM base AS two\nRUN echo 2 > /two\n", {}, ("--target", "one")),
    "copy-from-image": Case("FROM base\nCOPY --from=base /etc/passwd /p\nCOPY --from=base /etc /e\n"),
    "copy-from-owners": Case("FROM base AS o\nRUN mkdir /o && echo 1 > /o/a && chown -R 7:8 /o && chmod 4711 /o/a\n"
                             "FROM base\nCOPY --from=o /o /o1\nCOPY --from=o /o/a /o2/a\nCOPY --from=o --chown=1 /o /o3\n"),
    "copy-from-links": Case("FROM base AS o\nRUN mkdir /o && echo 1 > /o/a && ln /o/a /o/b && ln -s /o/a /o/c && ln -s /o /p\n"
                            "FROM base\nCOPY --from=o /o /o1\nCOPY --from=o /o/c /c\nCOPY --from=o /p /p\nCOPY --from=o /p/a /z\n"),
    "copy-file": copy("COPY f /g"),
    "copy-file-to-dir": copy("COPY f /etc"),
    "copy-file-to-dir-slash": copy("COPY f /etc/"),
    "copy-file-new-dir": copy("COPY f /n/e/w/"),
    "copy-file-new-path": copy("COPY f /n/e/w"),
    "copy-root": copy("COPY f /"),
    "copy-dot": copy("COPY f ."),
    "copy-relative": copy("WORKDIR /w", "COPY f g", "COPY f h/", "COPY f ../i"),
    "copy-dir": copy("COPY d /d"),
    "copy-dir-slash": copy("COPY d/ /d/"),
    "copy-dir-existing": copy("RUN mkdir -m 700 -p /d/sub && chown 9:9 /d /d/sub && echo old > /d/old && echo old > /d/a", "COPY d /d"),
    "copy-dir-nested-new": copy("COPY d /n/o/p"),
    "copy-dir-over-file-inside": copy("RUN mkdir -p /d && echo file > /d/sub", "COPY d /d"),
    "copy-dir-over-dir-inside": copy("RUN mkdir -p /d/a/b && echo x > /d/a/b/c", "COPY d /d"),
    "copy-dir-over-link-inside": copy("RUN mkdir -p /d /t && ln -s /t /d/sub && ln -s /t/q /d/a", "COPY d /d"),
    "copy-file-over-file": copy("RUN echo old > /f && chmod 777 /f && chown 5:5 /f", "COPY f /f"),
    "copy-file-over-link": copy("RUN echo old > /t && ln -s /t /l", "COPY f /l"),
    "copy-file-over-dangling": copy("RUN ln -s /new/place /l", "COPY f /l"),
    "copy-file-over-relative-link": copy("RUN mkdir -p /q/r && ln -s r/t /q/l", "COPY f /q/l"),
    "copy-file-into-linked-dir": copy("RUN mkdir /t && ln -s t /l", "COPY f /l/", "COPY f /l/g", "COPY d /l"),
    "copy-file-over-escaping-link": copy("RUN ln -s ../../../etc /l", "COPY f /l/x"),
    "copy-into-dir-with-link-of-name": copy("RUN mkdir /q && ln -s /etc/passwd /q/f", "COPY f /q/"),
    "copy-into-dir-with-dir-of-name": copy("RUN mkdir -p /q/f/g", "COPY f /q/"),
    "copy-many": copy("COPY f script secret /m/"),
    "copy-many-dirs": copy("COPY f d /m/"),
    "copy-glob": copy("COPY *.txt /g/"),
    "copy-glob-one": copy("COPY x.* /g/"),
    "copy-glob-question": copy("COPY ?.txt /g/"),
    "copy-glob-class": copy("COPY [a-x].txt /g/"),
    "copy-glob-dirs": copy("COPY d* /g/"),
    "copy-glob-deep": copy("COPY d/*/c /g/"),
    "copy-json": copy('COPY ["f", "x.txt", "/a b/"]'),
    "copy-link-file": copy("COPY filelink /g", "COPY filelink /h/"),
    "copy-link-dir": copy("COPY dirlink /g"),
    "copy-through-link": copy("COPY dirlink/a /g"),
    "copy-dotdot-inside": copy("COPY d/../f /g", "COPY d/sub/../../x.txt /h"),
    "copy-absolute": copy("COPY /f /g"),
    "copy-all": copy("COPY . /all"),
    "copy-all-slash": copy("COPY . /all/"),
    "copy-chown": copy("COPY --chown=1:2 f /g", "COPY --chown=alice f /h", "COPY --chown=alice:wheel d /i"),
    "copy-chown-new-parents": copy("COPY --chown=1:2 f /n/e/w/g", "COPY --chown=1:2 d /m/e/w"),
    "copy-chown-existing": copy("RUN mkdir /q", "COPY --chown=3:4 d /q"),
    "copy-chown-uid": copy("COPY --chown=77 f /g"),
    "copy-chown-variable": copy("ARG U=5", "COPY --chown=$U:6 f /g"),
    "copy-setuid": Case("FROM base\nCOPY s /s\nCOPY --chown=1 s /t\nCOPY . /all\n", {"s": ("s", 0o4755), "g": ("g", 0o2755), "n": ("n", 0o2644)}),
    "copy-setgid-dir": Case("FROM base\nRUN mkdir /q && chgrp 9 /q && chmod 2775 /q\nCOPY f /q/f\n", {"f": "f"}),
    "copy-hardlinks": Case("FROM base\nCOPY h /h\nCOPY h/a h/b /i/\n", {"h/a": "a", "h/b": "= h/a"}),
    "copy-names": Case("FROM base\nCOPY . /n/\n", {"a b": "1", "ü": "2", ".hidden": "3", "-dash": "4", 'q"uote': "5"}),
    "copy-variable": copy("ENV S=f D=/g", "COPY $S ${D}/x"),
    "copy-user": copy("USER alice", "COPY f /g", "COPY d /h/"),
    "copy-empty-dir": copy("COPY d/empty /e", "COPY d/empty /f/"),
    "copy-into-volume": copy("VOLUME /v", "COPY f /v/"),
    "copy-whiteout-name": Case("FROM base\nRUN rm /etc/issue\nCOPY f /etc/issue\n", {"f": "new"}),
    "ignore": Case("FROM base\nCOPY . /all\n", {**TREE, ".dockerignore": "*.txt\nd/sub\n# c\n\n!y.txt\nDockerfile\n.dockerignore\n"}),
    "ignore-all-but": Case("FROM base\nCOPY . /all\n", {**TREE, ".dockerignore": "*\n!d\n"}),
    "ignore-deep": Case("FROM base\nCOPY . /all\n", {**TREE, ".dockerignore": "**/c\n**/*.txt\n"}),
    "ignore-exception-in-dir": Case("FROM base\nCOPY . /all\n", {**TREE, ".dockerignore": "d/*\n!d/a\n"}),
    "add-file": copy("ADD f /g", "ADD d /h/"),
    "add-tar": Case("FROM base\nADD t.tar /t\nADD t.tar.gz /u/\nCOPY t.tar /v/\n", {"t.tar": b"", "t.tar.gz": b""}),
    "add-tar-over": Case("FROM base\nRUN mkdir -p /t/etc && echo o > /t/etc/issue\nADD --chown=5:5 t.tar /t\n", {"t.tar": b""}),
    "add-no-tar": Case("FROM base\nADD f.tar /t\nADD g.gz /u\n", {"f.tar": "no", "g.gz": "\x1f\x8b no"}),
}  # fmt: skip


class Outcome(NamedTuple):
    config: dict[str, Any]
    layers: list[dict[str, Node]]


# Debian's client sends modes with the bits of the file's type, newer ones without: the sums differ.
_SUM = re.compile(r"(file|dir|multi):[0-9a-f]{64}")


def settled(layers: list[dict[str, Node]]) -> list[dict[str, Node]]:
    """Keep a time only where it is the source's."""
    return [
        {path: node._replace(mtime=node.mtime if node.mtime <= OLD + 10 else -1) for path, node in layer.items()}
        for layer in layers
    ]


def comparable(config: dict[str, Any]) -> dict[str, Any]:
    """Leave out what cannot be equal."""
    settings = {key: value for key, value in config["config"].items() if key not in ("Image", "Hostname")}
    parent = {key: value for key, value in config["container_config"].items() if key not in ("Image", "Hostname")}
    parent["Labels"] = parent["Labels"] or None  # dockerd makes a container for most steps, with labels {}
    parent["Cmd"] = [_SUM.sub(r"\1:…", word) for word in parent["Cmd"]]
    history = [{key: value for key, value in entry.items() if key != "created"} for entry in config["history"]]
    for entry in history:
        entry["created_by"] = _SUM.sub(r"\1:…", entry.get("created_by", ""))
    others = {key: config.get(key) for key in ("architecture", "os", "author")}
    return {"config": settings, "container_config": parent, "history": history, **others}


def archive(directory: Path, compress: bool) -> bytes:
    import subprocess

    source = directory / "tar-source"
    if not source.exists():
        (source / "etc").mkdir(parents=True)
        (source / "etc/issue").write_text("from the tar")
        (source / "run").write_text("x")
        (source / "run").chmod(0o4755)
        (source / "link").symlink_to("/etc/issue")
    command = ["tar", "--mtime=@1600000000", "--owner=12", "--group=13", "-C", str(source), "-cf", "-", "."]
    plain = subprocess.run(command, check=True, capture_output=True).stdout
    if not compress:
        return plain
    return subprocess.run(["gzip", "-n"], input=plain, check=True, capture_output=True).stdout


def context_of(name: str, place: Path) -> Path:
    case = CASES[name]
    files = dict(case.files)
    for path, content in files.items():
        if content == b"":
            files[path] = archive(place, path.endswith(".gz"))
    return write_context(place / "contexts" / name, case.dockerfile, files)


def build_with_docker(docker: Dockerd, root: Path, name: str, context: Path) -> Outcome | str:
    try:
        docker.run("build", "-q", "-t", f"case:{name}", *CASES[name].options, str(context))
    except AssertionError as error:
        return str(error)
    found = docker.inspect(f"case:{name}")
    data = found["GraphDriver"]["Data"] or {}
    lower = data.get("LowerDir")
    paths = [data["UpperDir"], *(lower.split(":") if lower else [])][::-1] if data else []
    raw = (root / "image/overlay2/imagedb/content/sha256" / found["Id"].removeprefix("sha256:")).read_text()
    return Outcome(comparable(json.loads(raw)), settled([flatten(Path(path)) for path in paths]))


def build_with_lamella(builder: Builder, name: str, context: Path) -> Outcome | str:
    given = CASES[name].options
    pairs = list(zip(given[::2], given[1::2], strict=True))
    options: dict[str, Any] = {
        "build_args": dict(value.split("=", 1) for flag, value in pairs if flag == "--build-arg"),
        "labels": dict(value.split("=", 1) for flag, value in pairs if flag == "--label"),
        "target": next((value for flag, value in pairs if flag == "--target"), ""),
    }
    try:
        image = builder.build(context, **options).image_id
    except LamellaError as error:
        return str(error)
    config = json.loads(builder.store.images.get(image).raw)
    layers = builder.layers(image) if config["rootfs"].get("diff_ids") else []
    return Outcome(comparable(config), settled(layers))


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory, busybox_rootfs: Path) -> Generator[dict[str, list[Any]]]:
    place = tmp_path_factory.mktemp("conformance")
    pack(busybox_rootfs, place / "base.tar")
    builder = Builder(place / "lamella")
    import_base(builder.store, place / "base.tar")
    import_base(builder.store, place / "base.tar", "withcmd:latest", cmd=("inherited",), env=("PATH=/bin", "x=y"))
    import_base(builder.store, place / "base.tar", "trigger:latest", on_build=("RUN echo fired > /fired", "COPY f /f"))
    shutil.copytree(place / "lamella", place / "docker", symlinks=True)
    found: dict[str, list[Any]] = {}
    with Dockerd(place / "docker") as docker:
        contexts = {name: context_of(name, place) for name in CASES}
        with ThreadPoolExecutor(6) as pool:
            built = pool.map(partial(build_with_docker, docker, place / "docker"), contexts, contexts.values())
            theirs = list(built)
    for (name, context), outcome in zip(contexts.items(), theirs, strict=True):
        found[name] = [outcome, build_with_lamella(builder, name, context)]
    yield found


@pytest.mark.parametrize("name", CASES)
def test_both_build_the_same_image(name: str, outcomes: dict[str, list[Any]]) -> None:
    docker, lamella = outcomes[name]
    assert not isinstance(docker, str), docker
    assert not isinstance(lamella, str), lamella
    assert lamella.config == docker.config
    assert len(lamella.layers) == len(docker.layers)
    for ours, theirs in zip(lamella.layers, docker.layers, strict=True):
        assert ours == theirs

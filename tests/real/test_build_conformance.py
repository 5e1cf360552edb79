"""The same contexts built by Debian's dockerd (classic builder) and by lamella: equal settings, history and layers.

Compared is every layer's own tree (type, mode, owner, content, links, whiteouts) and the time of what comes from the
context; left out are IDs, the moment of the build, and names of temporary containers.
"""

from __future__ import annotations

import json
import re
import subprocess
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
from tests.support.web import DATE, Page, Web

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
    "env-modifiers": Case("FROM base\nENV s=x e=''\nENV a=${s:-d} b=${e:-d} c=${u:-d} d=${s:+r} f=${u:+r} g=${u:-${s}y}\n"),
    "env-escapes": Case("FROM base\nENV s=x\nENV a=\\$s b='$s' c=\"$s\\\"\" d=\\\\$s e=a\\ b\nENV old $s '$s'\n"),
    "env-continued": Case("FROM base\nENV a=1 \\\n  b=2 \\\n\n  c=3\nRUN echo $a$b$c > /x\n"),
    "label-quotes": Case("FROM base\nARG v=1\nLABEL a='$v' b=\"$v\" \"c d\"=$v e=\\\n\"f g\"\n"),
    "cmd-variable": Case('FROM base\nENV X=y\nCMD ["$X", "${X}"]\nENTRYPOINT $X\n'),
    "expose-twice": Case("FROM base\nARG P=81\nEXPOSE 80 80/tcp $P\nEXPOSE 80/udp\n"),
    "user-variable": Case("FROM base\nARG U=alice\nUSER $U:wheel\nRUN id > /tmp/x\nUSER root\nRUN id > /y\n"),
    "stopsignal-variable": Case("FROM base\nENV S=SIGTERM\nSTOPSIGNAL $S\n"),
    "healthcheck-periods": Case("FROM base\nHEALTHCHECK --start-period=1s --interval=2m CMD a\nHEALTHCHECK --retries=1 CMD b\n"),
    "arg-stages": Case("ARG G=g\nFROM base AS a\nARG G\nARG L=l\nRUN echo $G$L > /x\nFROM base\nCOPY --from=a /x /a\nARG G=h\nRUN echo $G$L > /y\n"),
    "arg-from-arg": Case("ARG A=ba\nARG B=${A}se\nFROM $B\nARG A=1\nARG C=${A}2\nRUN echo $A$C > /x\n"),
    "arg-env-wins": Case("FROM base\nARG A=1\nENV A=${A}e\nARG A=2\nRUN echo $A > /x\n", {}, ("--build-arg", "A=9")),
    "arg-empty": Case("FROM base\nARG A\nARG B=\nRUN echo [$A$B] > /x\n", {}, ("--build-arg", "B=")),
    "arg-in-paths": Case("FROM base\nARG D=/d W=w\nWORKDIR $D\nCOPY f $W/\nUSER ${U:-alice}\n", {"f": "f"}),
    "onbuild-many": Case("FROM triggers\nRUN echo $T > /after\n"),
    "onbuild-stage": Case("FROM base AS a\nONBUILD RUN echo 1 > /o\nONBUILD ENV b=c\nFROM a\nRUN echo $b > /p\n"),
    "workdir-relative": Case("FROM base\nWORKDIR a\nWORKDIR b/../c\nCOPY f .\nCOPY f d/\nRUN pwd > p\n", {"f": "f"}),
    "workdir-existing": Case("FROM base\nRUN mkdir -m 700 /w && chown 5:5 /w\nWORKDIR /w\nCOPY f .\nWORKDIR /w/x\n", {"f": "f"}),
    "workdir-link": Case("FROM base\nRUN mkdir /t && ln -s /t /l\nWORKDIR /l/x\nRUN pwd > /p\nCOPY f y\n", {"f": "f"}),
    "workdir-dangling": Case("FROM base\nRUN ln -s /no/where /l\nWORKDIR /l\nRUN pwd -P > /p\n"),
    "workdir-slash": Case("FROM base\nWORKDIR /w/\nCOPY f x\nWORKDIR .\nRUN pwd > p\n", {"f": "f"}),
    "workdir-root": Case("FROM base\nWORKDIR /\nCOPY f x\nWORKDIR ..\n", {"f": "f"}),
    "volume-run": Case("FROM base\nVOLUME /v\nRUN echo x > /v/f; echo y > /w\n"),
    "volume-content": Case("FROM base\nRUN mkdir /v && echo 1 > /v/a\nVOLUME /v\nRUN echo 2 > /v/b; cat /v/a > /c\nCOPY f /v/c\n", {"f": "f"}),
    "volume-replaced": Case("FROM base\nRUN mkdir /v && echo 1 > /v/a\nVOLUME /v\nRUN rm /v/a; echo 2 > /v/a; true\nRUN cat /v/a > /w\n"),
    "run-exec-unexpanded": Case('FROM base\nENV X=y\nRUN ["/bin/echo", "$X"]\nRUN ["/bin/sh", "-c", "echo $X > /x"]\n'),
    "run-quotes": Case("FROM base\nRUN echo 'a  b' \"c  d\" e\\ f > /x # no comment\n"),
    "run-chmod-only": Case("FROM base\nRUN chmod 600 /etc/passwd\nRUN chown 3:4 /etc/group\n"),
    "run-rename": Case("FROM base\nRUN mkdir -p /q/r && echo 1 > /q/r/s\nRUN mv /q/r /q/t && mv /q/t/s /q/u\n"),
    "run-removes-copied": copy("COPY d /d", "RUN rm /d/a && rm -r /d/sub", "COPY d/sub /d/sub"),
    "copy-to-directory-dot": copy("COPY f /etc/.", "COPY f /n/."),
    "copy-to-dot-slash": copy("WORKDIR /w", "COPY f ./", "COPY d ."),
    "copy-to-dotdot": copy("WORKDIR /w/x", "COPY f ..", "COPY d ../y/", "COPY f /a/../b"),
    "copy-slashes": copy("COPY f //g//h", "COPY d//sub///c /i", "COPY d/// /j///"),
    "copy-dir-to-root": copy("COPY d /"),
    "copy-over-root": Case("FROM base\nCOPY . /\n", {"etc/new": "1", "etc/passwd": "root:x:0:0::/:/bin/sh\n", "tmp/x": "2"}),
    "copy-many-existing": copy("RUN mkdir -m 711 /m && chown 4:4 /m && echo old > /m/f", "COPY f script d /m/"),
    "copy-dir-linked-parent": copy("RUN mkdir -p /t/u && ln -s t /l", "COPY d /l/u/v", "COPY d /l/w/"),
    "copy-dir-over-link": copy("RUN mkdir /t && ln -s t /l", "COPY d /l/", "COPY dirlink /l"),
    "copy-link-chain": copy("RUN ln -s b /a && ln -s /c/d /b && mkdir /c", "COPY f /a"),
    "copy-link-dotdot": copy("RUN mkdir -p /q/r && ln -s q/r /l", "COPY f /l/g", "COPY f /l/./h"),
    "copy-absolute-link": copy("RUN ln -s /etc /l", "COPY f /l/", "COPY d /l/d"),
    "copy-file-into-new-linked": copy("RUN ln -s /n /l", "COPY f /l/"),
    "copy-replaces-fifo": copy("RUN mkfifo /p && mknod /n c 1 3", "COPY f /p", "COPY script /n"),
    "copy-dir-back-to-file": copy("COPY d /x", "RUN rm -r /x", "COPY f /x", "RUN rm /x", "COPY d /x"),
    "copy-glob-all": copy("COPY * /g/"),
    "copy-glob-hidden": Case("FROM base\nCOPY .* /g/\nCOPY d/.[a-h]* /h/\n", {".a": "1", ".b": "2", "d/.c": "3", "d/.x": "4"}),
    "copy-glob-links": copy("COPY *link /g/"),
    "copy-glob-to-file": copy("COPY x.t?t /g", "COPY script* /h/i"),
    "copy-glob-negated": copy("COPY [^x].txt /g/"),
    "copy-glob-brackets": Case("FROM base\nCOPY a[[]1].txt /g/\nCOPY b[*]c /h/\n", {"a[1].txt": "1", "a1.txt": "2", "b*c": "3", "bxc": "4"}),
    "copy-glob-missing-one": copy("COPY f nothing* /g/"),
    "copy-glob-double-star": copy("COPY **/a /g/", "COPY d/su** /h/"),
    "copy-chown-mixed": copy("COPY --chown=alice:5 f /g", "COPY --chown=6:wheel d /h", "COPY --chown=0 f /i"),
    "copy-chown-late-user": copy("RUN echo bob:x:77:78::/: >> /etc/passwd && echo bob:x:79: >> /etc/group", "COPY --chown=bob f /g", "COPY --chown=bob:alice d /h"),
    "copy-chown-links": copy("COPY --chown=3:4 . /all", "COPY --chown=3:4 filelink /l"),
    "copy-chown-into-existing": copy("RUN mkdir /q && echo 1 > /q/a && chmod 4755 /q/a", "COPY --chown=3:4 d /q", "ADD --chown=5 d/b /q/"),
    "copy-modes": Case("FROM base\nCOPY . /m\nCOPY t /t\n", {"n": ("n", 0), "a": ("a", 0o777), "s": ("s", 0o1644), "t": (None, 0o1777), "t/x": "x", "p": (None, 0o700)}),
    "copy-fifo": Case("FROM base\nCOPY . /m\n", {"p": "|", "d/q": "|", "f": "f"}),
    "copy-large": Case("FROM base\nCOPY l /l\nCOPY . /all\n", {"l": "0123456789abcdef" * 150_000, "e": ""}),
    "copy-deep": Case("FROM base\nCOPY a /n/\nCOPY a/b/c/d/e/f/g /g\n", {"a/b/c/d/e/f/g/h": "x", "a/b/c/i": "y"}),
    "copy-from-glob": Case("FROM base AS o\nRUN mkdir /o && echo 1 > /o/a.x && echo 2 > /o/b.x\nFROM base\nCOPY --from=o /o/*.x /p/\nCOPY --from=o /o/a.? /q\n"),
    "copy-from-chained": Case("FROM base AS a\nRUN echo 1 > /a\nFROM base AS b\nCOPY --from=a /a /b\nFROM base\nCOPY --from=b /b /c\nCOPY --from=1 /b /d\n"),
    "copy-from-nodes": Case("FROM base AS o\nRUN mkdir /o && mkfifo /o/p && mknod /o/c c 1 3 && mknod /o/b b 7 0 && chmod 640 /o/c\nFROM base\nCOPY --from=o /o /o\n"),
    "copy-from-modes": Case("FROM base AS o\nRUN mkdir -m 1777 /o && mkdir -m 2755 /o/g && touch /o/s && chmod 6755 /o/s && chown 1:2 /o/g\nFROM base\nCOPY --from=o /o /o1\nCOPY --from=o --chown=3:4 /o /o2\n"),
    "copy-from-root": Case("FROM scratch AS o\nCOPY . /\nFROM base\nCOPY --from=o / /all\n", TREE),
    "ignore-anchored": Case("FROM base\nCOPY . /all\n", {**TREE, ".dockerignore": "/x.txt\nd/\n/dirlink/\n"}),
    "ignore-order": Case("FROM base\nCOPY . /all\n", {**TREE, ".dockerignore": "!x.txt\n*.txt\n!y.*\nd/**\n!d/sub/c\n"}),
    "ignore-marks": Case("FROM base\nCOPY . /all\n", {**TREE, "#a": "1", "!b": "2", "c d": "3", ".dockerignore": "\ufeff#a\n # b\n\\!b\n c d \n"}),
    "ignore-classes": Case("FROM base\nCOPY . /all\n", {**TREE, ".dockerignore": "[w-x].txt\n?\n**/s?b\n"}),
    "ignore-links": Case("FROM base\nCOPY . /all\n", {**TREE, ".dockerignore": "d/link\nfilelink\nd/../x.txt\n"}),
    "add-dirs": copy("ADD d dirlink /h/", "ADD *.txt /g/"),
    "add-tar-xz": Case("FROM base\nADD t.tar.xz /t\nADD t.tar.bz2 /u/\n", {"t.tar.xz": b"", "t.tar.bz2": b""}),
    "add-tar-new-path": Case("FROM base\nADD t.tar /n/e/w\nADD *.tar /g/\nWORKDIR /w\nADD t.tar .\n", {"t.tar": b""}),
    "add-url": Case("FROM base\nADD http://web/a.txt /u/\nADD http://web/a.txt?x=y /v\nWORKDIR /w\nADD http://web/a%20b .\n"),
    "add-url-archive": Case("FROM base\nADD http://web/t.tar /u/\nADD http://web/t.tar /v/w\n"),
    "add-url-chown": Case("FROM base\nADD --chown=alice:wheel http://web/a.txt /n/e/w/\nADD http://web/undated /etc\n"),
    "add-url-named": Case("FROM base\nADD http://web/d/ /u/\nADD http://web/e/ /v\n"),
    "add-tar-linked": Case("FROM base\nRUN mkdir /r && ln -s /r /l && ln -s /etc/passwd /r/run\nADD t.tar /l\n", {"t.tar": b""}),
}  # fmt: skip


class Outcome(NamedTuple):
    config: dict[str, Any]
    layers: list[dict[str, Node]]


# Debian's client sends modes with the bits of the file's type, newer ones without: the sums differ.
_SUM = re.compile(r"((?:file|dir|multi):|)[0-9a-f]{64}")


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
    parent["Cmd"] = [_SUM.sub(r"\1…", word) for word in parent["Cmd"]]
    history = [{key: value for key, value in entry.items() if key != "created"} for entry in config["history"]]
    for entry in history:
        entry["created_by"] = _SUM.sub(r"\1…", entry.get("created_by", ""))
    others = {key: config.get(key) for key in ("architecture", "os", "author")}
    return {"config": settings, "container_config": parent, "history": history, **others}


PACKERS = {".gz": ["gzip", "-n"], ".xz": ["xz"], ".bz2": ["bzip2"]}


def archive(directory: Path, suffix: str) -> bytes:
    source = directory / "tar-source"
    if not source.exists():
        (source / "etc").mkdir(parents=True)
        (source / "etc/issue").write_text("from the tar")
        (source / "run").write_text("x")
        (source / "run").chmod(0o4755)
        (source / "link").symlink_to("/etc/issue")
        (source / "other").hardlink_to(source / "run")
        (source / "shut").mkdir(0o700)
    command = ["tar", "--mtime=@1600000000", "--owner=12", "--group=13", "-C", str(source), "-cf", "-", "."]
    plain = subprocess.run(command, check=True, capture_output=True).stdout
    if suffix not in PACKERS:
        return plain
    return subprocess.run(PACKERS[suffix], input=plain, check=True, capture_output=True).stdout


def serve_pages(web: Web, place: Path) -> None:
    dated = (("Last-Modified", DATE),)
    web.pages["/a.txt"] = web.pages["/a.txt?x=y"] = web.pages["/a%20b"] = Page(b"a", headers=dated)
    web.pages["/t.tar"] = Page(archive(place, ".tar"), headers=dated)
    web.pages["/undated"] = web.pages["/e/"] = Page(b"u")
    web.pages["/d/"] = Page(b"d", headers=(*dated, ("Content-Disposition", 'attachment; filename="named"')))


def context_of(name: str, place: Path, web: Web) -> Path:
    case = CASES[name]
    files = dict(case.files)
    for path, content in files.items():
        if content == b"":
            files[path] = archive(place, Path(path).suffix)
    return write_context(place / "contexts" / name, case.dockerfile.replace("http://web", web.url), files)


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
    triggers = ("ENV T=1", "WORKDIR /t", "ARG A=2", "RUN echo $T$A > o", "LABEL x=$T")
    import_base(builder.store, place / "base.tar", "triggers:latest", on_build=triggers)
    subprocess.run(["cp", "-a", place / "lamella", place / "docker"], check=True)
    found: dict[str, list[Any]] = {}
    web = Web()
    serve_pages(web, place)
    with Dockerd(place / "docker") as docker:
        contexts = {name: context_of(name, place, web) for name in CASES}
        with ThreadPoolExecutor(6) as pool:
            built = pool.map(partial(build_with_docker, docker, place / "docker"), contexts, contexts.values())
            theirs = list(built)
    for (name, context), outcome in zip(contexts.items(), theirs, strict=True):
        found[name] = [outcome, build_with_lamella(builder, name, context)]
    web.close()
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

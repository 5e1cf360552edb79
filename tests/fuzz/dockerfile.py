"""Feeds damaged Dockerfiles to the parser, the expansion and the linter for as long as one likes: see docs/fuzzing.md.

    python -m tests.fuzz.dockerfile --seconds 3600 --log fuzz.log --findings fuzz-findings

An input is a seed or an earlier input that led somewhere new, changed a few times.  Somewhere new is a sequence of
instructions, or an error, that no input had before.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import re
import resource
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from lamella.build.check import check_dockerfile
from lamella.build.dockerfile import instructions as ast
from lamella.build.dockerfile.expand import MAX_EXPANDED, expand, expand_text, expand_words
from lamella.build.dockerfile.mounts import expand_mount, parse_mount
from lamella.build.dockerfile.parser import parse_dockerfile, parse_trigger
from lamella.build.ignore import parse_ignore
from lamella.errors import InvalidArgument

VARIABLES = {"x": "hello world", "p": "/usr/local/bin", "e": "", "star": "a*b?c", "é": "ü", "long": "ab/" * 200}
SLOW_SECONDS = 5.0
POOL = 5000
SEEDS = [
    b"""# syntax=docker/dockerfile:1\n# escape=`\n# check=skip=JSONArgsRecommended;error=true
ARG V=1 W=$V\nFROM --platform=$BUILDPLATFORM alpine:${V:-2} AS One
ENV a=b "c d"=e f='g h'\nENV old value with blanks
RUN a `\n # comment\n\n  && b\nRUN ["a", "b\\u0020c"]\nCOPY --from=0 --chown=1:2 --link a* ["b c", "/d/"]
""",
    b"""FROM scratch AS build\nRUN --mount=type=cache,target=/c,id=x,sharing=locked,mode=0755,uid=1,gid=2 --network=none make
RUN --mount=type=secret,id=s,required,env=S --mount=type=ssh --mount=type=tmpfs,target=/t,size=64m --mount=from=build,ro true
RUN <<EOF\necho $x\nEOF\nRUN <<-'A' cat <<B\n\tx\n\tA\ny\nB\nCOPY <<one <<-"two" /d/\n$x\none\n\t$y\n\ttwo
ADD --checksum=sha256:aa --keep-git-dir=true --unpack=false --exclude=*.o https://x/y /z\nCOPY --parents ./a/./b /c/
""",
    b"""FROM x\nHEALTHCHECK --interval=1m30s --timeout=1.5s --retries=3 CMD ["a"]\nHEALTHCHECK NONE\nSHELL ["a", "b"]
EXPOSE 80 443/udp 1000-1010 127.0.0.1:80:80/TCP\nVOLUME ["/a", "/b"]\nVOLUME /c /d\nUSER a:b\nWORKDIR rel/$p\nSTOPSIGNAL 9
LABEL a="b \\"c\\" $x" 'd'=e\\ f\nMAINTAINER a b\nONBUILD RUN echo hi\nONBUILD COPY <<E /f\nx\nE\nCMD a $x\nENTRYPOINT []
ARG API_TOKEN\nENV K=${x:-a} L=${x-b} M=${x:+c} N=${e:?no} O=${p#*/} P=${p##*/} Q=${p%/*} R=${p%%/*} S=${x/l/L} T=${x//l/L}
""",
    b"\xef\xbb\xbf#!/bin/x\r\n# check=skip=all\r\nfrom a\r\nrun b \\\r\n  c\r\nFrom a as B\r\nCmd x\r\n",
]
TOKENS = [
    *(b"FROM RUN ENV COPY ADD CMD ARG LABEL ONBUILD HEALTHCHECK VOLUME SHELL EXPOSE USER WORKDIR STOPSIGNAL MAINTAINER "
      b"ENTRYPOINT NONE AS as scratch --from= --mount= --platform= --chown= --network= --security= --device= -- type=cache "
      b"type=bind, target=$x size=1g mode=777 required rw ro=false sharing=private # # escape=` # check=skip=all; syntax= "
      b"$x ${x ${x:-y} ${x##*l} ${p//\\/ ${e:?} ${x/ } $$ $@ <<EOF <<-'A' <<\"B\" EOF A B \\ ` ' \" [ ] , = : / * ? ** ").split(),
    b"\n", b"\r\n", b" ", b"\t", b"\0", b"\\\n", b"`\n", b"\\\n\n", b"\xc2\xa0", b"\xe2\x80\xa8", b"\xff", b"\xf0\x9f\x90\xb3",
    b"{" * 50, b"${a:-" * 20, b"[" * 500, b'["' + b"a" * 300 + b'"]', b"9" * 40, b"\v", b"\f", b"\x85", b"-9", b"0x1",
]  # fmt: skip


class Outcome(NamedTuple):
    """What one input led to: comparable, and None if nothing but refusal was seen."""

    signature: tuple[str, ...]


def mutate(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """Change an input in one to six places."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 6)):
        at = rng.randint(0, len(changed))
        end = min(len(changed), at + rng.choice((1, 1, 2, 8, 40)))
        match rng.randrange(9):
            case 0:
                changed[at:end] = b""
            case 1:
                changed[at:at] = rng.choice(TOKENS)
            case 2:
                changed[at:end] = rng.choice(TOKENS)
            case 3 if changed:
                changed[at % len(changed)] = rng.randrange(256)
            case 4:
                changed[at:at] = changed[at:end] * rng.choice((1, 2, 30))
            case 5:
                lines = changed.split(b"\n")
                rng.shuffle(lines)
                changed = bytearray(b"\n".join(lines))
            case 6:
                other = rng.choice(others)
                cut = rng.randint(0, len(other))
                changed[at:] = other[cut:]
            case 7:
                lines = changed.split(b"\n")
                lines.insert(rng.randint(0, len(lines)), bytearray(rng.choice(rng.choice(others).split(b"\n"))))
                changed = bytearray(b"\n".join(lines))
            case _:
                changed[at:at] = b" " + rng.choice(TOKENS) + b" "
    return bytes(changed[:20_000])


def exercise(raw: bytes) -> tuple[str, ...]:
    """Try everything that reads such text; give where it led.  Raises whatever is a bug."""
    text = raw.decode(errors="replace")
    found = [_outcome(lambda: _parse(raw)), _outcome(lambda: _check(raw))]
    line = max(text.split("\n"), key=len)[:2000]
    found += [_outcome(lambda: _expand(line, "\\")), _outcome(lambda: _expand(line, "`"))]
    found.append(_outcome(lambda: [type(parse_trigger(line)).__name__]))
    found.append(_outcome(lambda: _mount(line)))
    found.append(_outcome(lambda: [str(parse_ignore(raw[:5000]).ignores("a/b"))]))
    return tuple(found)


def _outcome(action: Callable[[], list[str]]) -> str:
    try:
        return " ".join(action())
    except InvalidArgument as error:
        return re.sub(r"""(['"]).*\1|[0-9]+|\(.*\)""", "_", str(error), flags=re.DOTALL)[:80]


def _parse(raw: bytes) -> list[str]:
    dockerfile = parse_dockerfile(raw)
    assert parse_dockerfile(raw) == dockerfile
    instructions: list[ast.Instruction] = list(dockerfile.arguments)
    for stage in dockerfile.stages:
        instructions += [stage.base, *stage.commands]
    numbers = [instruction.line for instruction in instructions]
    assert numbers == sorted(set(numbers)), numbers
    assert numbers[-1] <= raw.count(b"\n") + 1
    return [type(instruction).__name__ for instruction in instructions[:12]]


def _check(raw: bytes) -> list[str]:
    checked = check_dockerfile(raw, ignore=parse_ignore(b"a*\n"))
    for finding in checked.findings:
        assert f"{finding.first:4d} | >>>" in checked.excerpt(finding, "Dockerfile")
    if checked.error is not None:
        raise checked.error
    parse_dockerfile(raw)  # what the linter lets pass, the parser does
    return sorted({finding.rule for finding in checked.findings})


def _expand(line: str, escape: str) -> list[str]:
    whole = expand(line, VARIABLES, escape=escape)
    words = expand_words(line, VARIABLES, escape=escape)
    assert sum(map(len, words)) <= len(whole) <= 2 * MAX_EXPANDED
    expand_text(line, VARIABLES)
    return [str(min(len(words), 3))]


def _mount(line: str) -> list[str]:
    mount = parse_mount(line)
    full = expand_mount(mount, lambda word: expand(word, VARIABLES))
    return [full.kind, *(name for name, value in full._asdict().items() if value and name != "text")]


def run(seconds: float, seed: int, log: Path | None, findings: Path) -> int:
    """Fuzz for so long; give the number of inputs that broke something, each kept in `findings`."""
    rng = random.Random(seed)
    pool = list(SEEDS)
    seen: set[tuple[int, str]] = set()
    broken: set[str] = set()
    count, slowest = 0, 0.0
    started = reported = time.monotonic()
    _say(log, f"started: seed {seed}, {seconds:.0f} s, Python {sys.version.split()[0]}")
    while (now := time.monotonic()) - started < seconds:
        raw = mutate(rng, rng.choice(pool), pool)
        began = time.process_time()
        try:
            outcome = exercise(raw)
        except KeyboardInterrupt:
            break
        except Exception as error:  # noqa: BLE001 - any other is what we look for
            frames = traceback.extract_tb(error.__traceback__)
            where = f"{type(error).__name__} at {frames[-1].filename.rpartition('/')[2]}:{frames[-1].lineno}"
            if where not in broken:
                broken.add(where)
                _keep(findings, raw)
                _say(log, f"BROKEN: {where}\n{traceback.format_exc()}")
            continue
        finally:
            count += 1
        spent = time.process_time() - began
        if spent > SLOW_SECONDS:
            broken.add(f"slow {len(broken)}")
            _say(log, f"SLOW: {spent:.1f} s, kept as {_keep(findings, raw)}")
        slowest = max(slowest, spent)
        new = set(enumerate(outcome)) - seen
        if new:
            seen |= new
            if len(pool) < POOL:
                pool.append(raw)
        if now - reported > 10:
            reported = now
            _say(
                log,
                f"{now - started:.0f} s: {count} inputs, {len(seen)} outcomes, {len(broken)} broken, slowest {slowest:.2f} s",
            )
    took = time.monotonic() - started
    _say(
        log,
        f"finished after {took:.0f} s: {count} inputs, {len(seen)} outcomes, {len(broken)} broken, slowest {slowest:.2f} s",
    )
    return len(broken)


def _keep(findings: Path, raw: bytes) -> Path:
    findings.mkdir(parents=True, exist_ok=True)
    path = findings / hashlib.sha256(raw).hexdigest()[:16]
    path.write_bytes(raw)
    return path


def _say(log: Path | None, text: str) -> None:
    if log is None:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
        return
    with log.open("a", encoding="utf-8", errors="backslashreplace") as file:
        file.write(text + "\n")


def main() -> int:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Fuzz the Dockerfile language.")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--log", type=Path)
    parser.add_argument("--findings", type=Path, default=Path("fuzz-findings"))
    parser.add_argument("inputs", nargs="*", type=Path, help="try these files once instead")
    options = parser.parse_args()
    if options.inputs:
        for path in options.inputs:
            _say(None, f"{path}: {exercise(path.read_bytes())}")
        return 0
    resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
    return 1 if run(options.seconds, options.seed, options.log, options.findings) else 0


if __name__ == "__main__":
    sys.exit(main())

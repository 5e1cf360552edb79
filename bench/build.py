"""``python -m bench.build [ROUNDS] [FILE…]``: Dockerfiles built by lamella, dockerd's classic builder and podman in turn.

Each round builds every file without the cache (``uncached``) and then once more (``cached``), in an order that turns
from round to round.  All stand on the same Debian image and build without a network.  Nothing is removed before the
end: ext4 is slow for minutes after inodes were freed.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.support.dockerd import DOCKER, Dockerd

from bench.engines import BASE, LAMELLA, Engine

TARGETS: dict[str, dict[str, float]] = {"uncached": {"docker": 0.5, "podman": 0.5}, "cached": {"docker": 1.0}}


def walk_through(_context: Path) -> str:
    """Make the four layers of the README."""
    return "FROM ubuntu:latest\nENV author jlz\n" + "".join(f'RUN echo "x{n}" >> /tmp/test{n}\n' for n in (1, 2, 3))


def thirty_steps(context: Path) -> str:
    """Make ten each of RUN, COPY and ENV."""
    lines = ["FROM ubuntu:latest"]
    for number in range(10):
        (context / f"file{number}").write_text(f"{number}\n" * 1000)
        lines += [f"ENV V{number}={number}", f"COPY file{number} /srv/", f"RUN echo {number} > /srv/out{number}"]
    return "\n".join(lines) + "\n"


def five_stages(_context: Path) -> str:
    """Make four stages that do not need each other and work for half a second each, and one that takes from all."""
    work = "RUN i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; echo done > /result"
    stages = [f"FROM ubuntu:latest AS s{number}\n{work}{number}\n" for number in range(4)]
    copies = [f"COPY --from=s{number} /result{number} /results/\n" for number in range(4)]
    return "".join([*stages, "FROM ubuntu:latest\n", *copies])


def many_files(context: Path) -> str:
    """Make a context of 20,000 files in 200 directories."""
    for number in range(200):
        directory = context / f"d{number}"
        directory.mkdir()
        for file in range(100):
            (directory / f"f{file}").write_bytes(b"%d %d\n" % (number, file) * 250)
    return "FROM ubuntu:latest\nCOPY . /ctx/\n"


FILES: dict[str, Callable[[Path], str]] = {
    "walk-through": walk_through,
    "30-steps": thirty_steps,
    "5-stages": five_stages,
    "20000-files": many_files,
}


def one_round(engine: Engine, contexts: dict[str, Path]) -> None:
    """Build every file without and with the cache."""
    options = ["--network", "none", "-q"] + (["--layers"] if engine.name == "podman" else [])
    for name, context in contexts.items():
        build = ["build", *options, "-t", f"bench-{name}", str(context)]
        engine.measure(f"{name} uncached", build[0], "--no-cache", *build[1:])
        # --no-cache of podman stores nothing that a later build would take.
        if engine.name == "podman" and f"{name} cached" not in engine.timings:
            engine.do(*build)
        engine.measure(f"{name} cached", *build)


def show(engines: list[Engine], names: list[str], rounds: int) -> None:
    """Print the table."""
    print(f"{rounds} rounds, medians of wall time in seconds, and what lamella's is of the others'")
    print(f"{'':24} {'lamella':>8} {'docker':>8} {'podman':>8} {'/docker':>8} {'/podman':>8}  targets")
    for name in names:
        for kind, targets in TARGETS.items():
            found = {
                engine.name: statistics.median(timing.seconds for timing in engine.timings[f"{name} {kind}"])
                for engine in engines
            }
            mine = found["lamella"]
            wanted = ", ".join(f"{target} of {engine}" for engine, target in targets.items())
            print(
                f"{name + ' ' + kind:24} {mine:8.3f} {found['docker']:8.3f} {found['podman']:8.3f}"
                f" {mine / found['docker']:8.2f} {mine / found['podman']:8.2f}  {wanted}"
            )


def main() -> None:
    """Run the rounds and print the table."""
    words = sys.argv[1:]
    rounds = int(words.pop(0)) if words and words[0].isdecimal() else 5
    chosen = words or list(FILES)
    with tempfile.TemporaryDirectory(prefix="lamella-build-") as directory:
        place = Path(directory)
        contexts: dict[str, Path] = {}
        for name in chosen:
            contexts[name] = place / f"context-{name}"
            contexts[name].mkdir()
            (contexts[name] / "Dockerfile").write_text(FILES[name](contexts[name]))
        (place / "run").mkdir()
        # crun refuses to run where the second cgroup hierarchy is mounted beside the first.
        alone = 'umount -l /sys/fs/cgroup/unified 2>/dev/null; exec podman "$@"'
        podman = [
            "unshare",
            "-m",
            "sh",
            "-c",
            alone,
            "podman",
            "--root",
            f"{place}/podman",
            "--runroot",
            f"{place}/run",
            "--storage-driver",
            "overlay",
        ]
        with Dockerd(place / "docker") as docker:
            engines = [
                Engine("lamella", [str(LAMELLA), "--root", f"{place}/lamella"]),
                Engine("docker", [DOCKER, "--host", f"unix://{docker.state}/socket"]),
                Engine("podman", podman),
            ]
            for engine in engines:
                engine.do("import", str(BASE), "ubuntu:latest")
                one_round(engine, contexts)  # warms the page cache and each program's own files
                engine.timings.clear()
            for number in range(rounds):
                turn = number % len(engines)
                for engine in engines[turn:] + engines[:turn]:
                    one_round(engine, contexts)
        show(engines, chosen, rounds)


if __name__ == "__main__":
    os.umask(0o022)
    main()

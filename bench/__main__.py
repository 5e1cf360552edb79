"""``python -m bench [ROUNDS]``: load, build, run and commit beside dockerd, in turn, medians and ratios.

Each engine has a store of its own on the same file system.  A round runs each step once by each engine, in an order
that alternates, so that neither always comes second.  Times are wall time of the whole command as a user types it;
memory is the peak of the command's own process tree (for docker: the client and the daemon's high-water mark).
"""

from __future__ import annotations

import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent
sys.path.insert(0, str(REPOSITORY))

from tests.support.dockerd import DOCKER, Dockerd  # noqa: E402 - the daemon that the tests start, too

from bench.engines import BASE, LAMELLA, Engine, timed  # noqa: E402

TARGETS = {"load": 0.6, "build": 0.6, "run": 0.7, "commit": 1.0}
DOCKERFILE = """\
FROM ubuntu:latest
ENV author jlz
RUN echo "x1" >> /tmp/test
RUN echo "x2" >> /tmp/test2
RUN echo "x3" >> /tmp/test3
ENTRYPOINT ["/bin/bash", "-c", "cat /tmp/test"]
"""


def make_archives(place: Path, count: int) -> list[Path]:
    """Make *count* archives of the Debian base image, each with a file of its own, so that none is in a store already."""
    maker = Engine("maker", [str(LAMELLA), "--root", str(place / "maker")])
    archives = []
    for number in range(count):
        (place / "number").write_text(f"{number}\n")
        shutil.copy(BASE, place / "base.tar")
        subprocess.run(["tar", "-C", place, "-rf", place / "base.tar", "number"], check=True)
        maker.do("import", str(place / "base.tar"), "ubuntu:latest")
        archives.append(place / f"ubuntu-{number}.tar")
        maker.do("save", "-o", str(archives[-1]), "ubuntu:latest")
    return archives


def one_round(engine: Engine, archive: Path, context: Path) -> None:
    """Load, build, run and commit once.

    The images stay: ext4 gives out inodes many times slower for minutes after thousands were freed, which would
    drown what is to be measured.
    """
    engine.measure("load", "load", "-q", "-i", str(archive))
    engine.measure("build", "build", "--no-cache", "--network", "none", "-q", "-t", "my-ubuntu:0.1", str(context))
    engine.measure("run", "run", "--rm", "--network", "none", "--entrypoint", "true", "my-ubuntu:0.1")
    engine.do(
        "run",
        "--name",
        "writer",
        "--network",
        "none",
        "--entrypoint",
        "sh",
        "my-ubuntu:0.1",
        "-c",
        "echo hahaha > test4",
    )
    engine.measure("commit", "commit", "writer", "my-ubuntu:0.2")
    engine.do("rm", "writer")


def daemon_peak(state: Path) -> int:
    """Read the daemon's high-water mark in kilobytes."""
    pid = (state / "pid").read_text().strip()
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))


def start_up(command: list[str], rounds: int) -> float:
    """Measure the median of a command that does nothing, in milliseconds."""
    return statistics.median(timed(command, env={"PATH": "/usr/bin:/bin"}).seconds for _ in range(rounds)) * 1000


def main() -> None:
    """Run the rounds and print the table."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with tempfile.TemporaryDirectory(prefix="lamella-bench-") as place:
        context = Path(place, "context")
        context.mkdir()
        (context / "Dockerfile").write_text(DOCKERFILE)
        archives = make_archives(Path(place), rounds + 1)
        ours = Engine("lamella", [str(LAMELLA), "--root", f"{place}/lamella"])
        with Dockerd(Path(place, "docker")) as docker:
            theirs = Engine("docker", [DOCKER, "--host", f"unix://{docker.state}/socket"])
            for number, archive in enumerate(archives):
                for engine in (ours, theirs) if number % 2 else (theirs, ours):
                    one_round(engine, archive, context)
            for engine in (ours, theirs):  # the first round warmed the page cache and each program's own files
                for timings in engine.timings.values():
                    del timings[0]
            peak = daemon_peak(docker.state)
        print(f"{rounds} rounds, medians; archives of {archives[0].stat().st_size / 1e6:.0f} MB")
        print(f"{'step':8} {'lamella':>10} {'docker':>10} {'ratio':>6} {'target':>6}   lamella peak")
        for step, target in TARGETS.items():
            mine = statistics.median(timing.seconds for timing in ours.timings[step])
            his = statistics.median(timing.seconds for timing in theirs.timings[step])
            memory = max(timing.peak_kb for timing in ours.timings[step]) / 1024
            print(f"{step:8} {mine:9.3f}s {his:9.3f}s {mine / his:6.2f} {target:6.1f}   {memory:.0f} MB")
        print(f"lamella --version: {start_up([str(LAMELLA), '--version'], 20):.0f} ms (target 60)")
        print(f"docker --version:  {start_up([DOCKER, '--version'], 20):.0f} ms; dockerd's peak: {peak / 1024:.0f} MB")


if __name__ == "__main__":
    main()

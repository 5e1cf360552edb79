"""The engines that are measured: how their commands begin, and one command timed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

LAMELLA = Path(__file__).parent.parent / ".cache/venv/bin/lamella"  # as a user has it, without development packages
BASE = Path(__file__).parent.parent / ".cache/debian.tar"


class Timing(NamedTuple):
    """One command, once: seconds of wall time and peak kilobytes of its processes."""

    seconds: float
    peak_kb: int
    busy: float
    """Seconds of processor time."""


def timed(command: list[str], *, env: dict[str, str]) -> Timing:
    """Run *command* and measure it; a failure ends the bench."""
    start = time.perf_counter()
    process = subprocess.Popen(
        command, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    assert process.stderr is not None
    errors = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{' '.join(command)}: {errors.decode(errors='replace')}")
    return Timing(seconds, usage.ru_maxrss, usage.ru_utime + usage.ru_stime)


class Engine:
    """How the commands of one engine begin."""

    def __init__(self, name: str, prefix: list[str]) -> None:
        self.name = name
        self.prefix = prefix
        self.env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "DOCKER_BUILDKIT": "0"}
        self.timings: dict[str, list[Timing]] = {}

    def do(self, *arguments: str) -> str:
        """Run a command that is not measured."""
        return subprocess.run(
            [*self.prefix, *arguments],
            env=self.env,
            check=True,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
        ).stdout.strip()

    def measure(self, step: str, *arguments: str) -> None:
        """Run a command and keep its timing under *step*."""
        os.sync()
        self.timings.setdefault(step, []).append(timed([*self.prefix, *arguments], env=self.env))

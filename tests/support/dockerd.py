"""A real dockerd on a data root of the test's choosing: the judge of what lamella writes."""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, Self

DOCKER = "/usr/bin/docker"
DOCKERD = "/usr/sbin/dockerd"


class Dockerd:
    """Debian's dockerd, started on *root* by ``with`` and stopped cleanly at its end.

    Its socket, pid file and exec root lie in a short temporary directory, since a socket's path may have 107 bytes.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._state = tempfile.TemporaryDirectory(prefix="dockerd-")
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def state(self) -> Path:
        """The directory of the socket and the log."""
        return Path(self._state.name)

    @property
    def log(self) -> str:
        """What the daemon has logged so far."""
        return (self.state / "log").read_text(errors="replace")

    def __enter__(self) -> Self:
        with (self.state / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [
                    DOCKERD,
                    f"--data-root={self.root}",
                    f"--exec-root={self.state}/exec",
                    f"--pidfile={self.state}/pid",
                    f"--host=unix://{self.state}/socket",
                    "--storage-driver=overlay2",
                    "--bridge=none",
                    "--iptables=false",
                    "--ip6tables=false",
                ],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )
        deadline = time.monotonic() + 60
        while not (self.state / "socket").exists() or self._ask("version").returncode:
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"dockerd did not start:\n{self.log[-3000:]}")
            time.sleep(0.05)
        return self

    def __exit__(self, *exc: object) -> None:
        assert self._process is not None
        self._process.terminate()
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for line in Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines():
            target = line.split()[4]
            # Where mounts are private, dockerd mounts its data root on itself and leaves it so.
            if target == str(self.root) or target.startswith((f"{self.state}/", f"{self.root}/")):
                subprocess.run(["umount", "-l", target], check=False)
        self._state.cleanup()

    def _ask(
        self, *arguments: str, stdin: bytes | None = None, buildkit: bool = False
    ) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [DOCKER, "--host", f"unix://{self.state}/socket", *arguments],
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            check=False,
            env={"PATH": "/usr/bin:/bin", "HOME": self._state.name, "DOCKER_BUILDKIT": str(int(buildkit))},
        )

    def run(self, *arguments: str, stdin: bytes | None = None) -> str:
        """Run ``docker`` with *arguments* and return its standard output; a failure is the test's."""
        answer = self._ask(*arguments, stdin=stdin)
        if answer.returncode:
            raise AssertionError(f"docker {' '.join(arguments)}: {answer.stderr.decode(errors='replace')}")
        return answer.stdout.decode(errors="replace").strip()

    def try_run(self, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        """Run ``docker`` with *arguments*, whatever its exit code."""
        return self._ask(*arguments)

    def build_with_buildkit(self, tag: str, context: Path) -> None:
        """Build *context* with the daemon's own BuildKit."""
        answer = self._ask("build", "--network", "none", "-t", tag, str(context), buildkit=True)
        if answer.returncode:
            raise AssertionError(f"docker build: {answer.stderr.decode(errors='replace')}")

    def inspect(self, name: str) -> dict[str, Any]:
        """Return ``docker inspect`` of one object."""
        documents: list[dict[str, Any]] = json.loads(self.run("inspect", name))
        return documents[0]

"""Real podman and containerd on stores of the test's choosing: the judges of what lamella reads of them."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, Self


def unmount_below(*places: Path | str) -> None:
    """Take away every mount at or below these places."""
    for line in reversed(Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines()):
        target = line.split()[4]
        if any(target == str(place) or target.startswith(f"{place}/") for place in places):
            subprocess.run(["umount", "-l", target], check=False)


def sh(*command: str | Path, stdin: bytes | None = None) -> str:
    """Run a command that must succeed and return its standard output, stripped."""
    answer = subprocess.run(command, input=stdin, capture_output=True, check=False, timeout=120)
    assert answer.returncode == 0, f"{command}: {answer.stderr.decode(errors='replace')}"
    return answer.stdout.decode(errors="replace").strip()


class Podman:
    """Debian's podman on *root*; its containers are removed, and what it mounted is undone, at the end of ``with``."""

    def __init__(self, root: Path, driver: str = "overlay") -> None:
        self.root = root
        self.driver = driver
        self._state = tempfile.mkdtemp(prefix="p-")  # podman takes at most 50 characters

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.end()

    def end(self) -> None:
        """Stop what runs and leave the store as a dead engine would: nothing mounted, containers in the catalogue."""
        running = self.run("ps", "-q").split()
        if running:
            self.run("stop", "-t", "0", *running)
        unmount_below(self.root, self._state)
        subprocess.run(["rm", "-rf", self._state], check=False)

    def run(self, *arguments: str | Path, stdin: bytes | None = None) -> str:
        """Run ``podman`` with *arguments*, which must succeed."""
        return sh(
            "podman", "--root", self.root, "--runroot", f"{self._state}/run", "--tmpdir", f"{self._state}/tmp",
            "--storage-driver", self.driver, "--runtime", "runc", "--cgroup-manager", "cgroupfs",
            "--events-backend", "none", *arguments, stdin=stdin,
        )  # fmt: skip

    def build(self, tag: str, context: Path) -> None:
        """Build an image, a layer a step."""
        self.run("build", "--isolation", "chroot", "--network", "host", "--layers", "-t", tag, context)

    def container(self, verb: str, name: str, *arguments: str) -> str:
        """Run ``podman run`` or ``create`` with what works without networks and within this machine's limits."""
        limits = ("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024")
        return self.run(
            verb, *(["-d"] if verb == "run" else []), "--name", name, "--network", "none", *limits, *arguments
        )

    def inspect(self, kind: str, name: str) -> dict[str, Any]:
        """Return ``podman inspect`` of one object."""
        documents: list[dict[str, Any]] = json.loads(self.run(kind, "inspect", name))
        return documents[0]


class Containerd:
    """Debian's containerd on *root*, started by ``with`` and stopped at its end."""

    def __init__(self, root: Path, namespace: str = "") -> None:
        self.root = root
        # runc knows containers by namespace and name on the whole machine, however many daemons there are.
        self.namespace = namespace or f"tests-{os.getpid()}-{time.monotonic_ns()}"
        self._state = tempfile.mkdtemp(prefix="c-")
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        config = Path(self._state, "config.toml")
        config.write_text('version = 2\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n')
        with Path(self._state, "log").open("wb") as log:
            self._process = subprocess.Popen(
                [
                    "containerd", "--config", config, "--root", self.root, "--state", f"{self._state}/state",
                    "--address", f"{self._state}/socket",
                ],
                stdout=log,
                stderr=log,
            )  # fmt: skip
        deadline = time.monotonic() + 60
        while self._try("version").returncode:
            assert self._process.poll() is None, Path(self._state, "log").read_text()[-2000:]
            assert time.monotonic() < deadline, Path(self._state, "log").read_text()[-2000:]
            time.sleep(0.05)
        return self

    def __exit__(self, *exc: object) -> None:
        assert self._process is not None
        for line in self.ctr("tasks", "ls", "-q").split():
            self._try("tasks", "kill", "--signal", "SIGKILL", line)
            self._try("tasks", "delete", "--force", line)
        self._process.terminate()
        self._process.wait(60)
        unmount_below(self.root, self._state)
        subprocess.run(["rm", "-rf", self._state], check=False)

    def _try(self, *arguments: str | Path) -> subprocess.CompletedProcess[bytes]:
        command = ["ctr", "-a", f"{self._state}/socket", "-n", self.namespace, *arguments]
        return subprocess.run(command, capture_output=True, check=False, timeout=120)

    def ctr(self, *arguments: str | Path) -> str:
        """Run ``ctr`` with *arguments*, which must succeed."""
        answer = self._try(*arguments)
        assert answer.returncode == 0, f"ctr {arguments}: {answer.stderr.decode(errors='replace')}"
        return answer.stdout.decode(errors="replace").strip()

    def table(self, *arguments: str) -> list[list[str]]:
        """Return what a listing of ``ctr`` shows, a list of words a line, without the heading."""
        return [line.split() for line in self.ctr(*arguments).splitlines()[1:]]

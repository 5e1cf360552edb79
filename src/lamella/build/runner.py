"""RUN's commands, each in the foreground of a container of its own, their output reported as it comes."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Self

from lamella.build.events import Output, Report
from lamella.container.site import Site
from lamella.errors import LamellaError
from lamella.fs.rooted import Root
from lamella.model.ids import ContainerID
from lamella.model.imageconfig import ContainerSettings

_TAIL = 4096
_LOCK = "builds.lock"
_CONTAINER = "container-"


class CommandFailed(LamellaError):
    """A RUN's command ended with a non-zero code; the executor says of which step."""

    def __init__(self, code: int, tail: bytes) -> None:
        super().__init__(f"exit code {code}")
        self.code = code
        self.tail = tail


class Runner:
    """Runs the commands of one build; enter it as a context.

    `network` is ``host`` or ``none``.  The files mounted on ``/etc/hosts`` and its kin lie in a directory below the
    runtime's state directory.  If this build is killed, the next one ends its container and removes the directory.
    """

    def __init__(self, site: Site, *, network: str, report: Report) -> None:
        self._site = site
        self._network = network
        self._report = report
        self._stack = ExitStack()
        self._files: Path | None = None

    def __enter__(self) -> Self:
        remove_dead_builds(self._site)
        return self

    def __exit__(self, *_problem: object) -> None:
        self._stack.close()

    def run(self, container: ContainerID, merged: Path, settings: ContainerSettings) -> None:
        """Run ``settings.cmd`` in the mounted root `merged`; raises CommandFailed or StartFailed."""
        from lamella.container.netfiles import write_network_files
        from lamella.container.sandbox import process_environment
        from lamella.container.users import resolve_user
        from lamella.runtime.foreground import run_foreground
        from lamella.runtime.machine import read_machine
        from lamella.runtime.spec import Sandbox, build_spec

        hostname = os.uname().nodename if self._network == "host" else container[:12]
        with Root(merged) as root:
            user = resolve_user(root, settings.user)
        if self._files is None:
            self._files = self._stack.enter_context(_scratch_directory(self._site))
        box = Sandbox(
            id=container,
            root=str(merged),
            args=settings.cmd or (),
            env=tuple(process_environment(settings.env, hostname=hostname, terminal=False, home=user.home)),
            cwd=settings.working_dir or "/",
            uid=user.uid,
            gid=user.gid,
            groups=user.groups,
            hostname=hostname,
            network=self._network,
            own_files=tuple(write_network_files(self._files, hostname=hostname, network=self._network)),
        )
        spec = build_spec(box, read_machine())
        with _Pump(self._report) as pump:
            run = self._site.run_directory(container)
            note = self._files / f"{_CONTAINER}{container}"
            note.touch()
            code = run_foreground(self._site.runtime, run, spec, stdout=pump.stdout, stderr=pump.stderr)
            note.unlink()
        if code:
            raise CommandFailed(code, pump.tail)


@contextmanager
def _scratch_directory(site: Site) -> Generator[Path]:
    """Make a directory of one build's own, locked while the build lives; `_CONTAINER` in it names what it runs."""
    import fcntl
    from tempfile import mkdtemp

    from lamella.fs.tree import remove_tree
    from lamella.linux.locks import locked

    with locked(site.state / _LOCK):
        path = Path(mkdtemp(prefix="build-", dir=site.state))
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(fd, fcntl.LOCK_SH)
    try:
        yield path
    finally:
        remove_tree(path)
        os.close(fd)


def remove_dead_builds(site: Site) -> None:
    """End the containers of builds that were killed, and remove what those left in the state directory."""
    import fcntl

    from lamella.fs.tree import remove_tree
    from lamella.linux.locks import locked

    site.state.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = [entry for entry in os.listdir(site.state) if entry.startswith("build-")]
    if not found:
        return
    with locked(site.state / _LOCK):
        for name in found:
            path = site.state / name
            try:
                fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
            except FileNotFoundError:
                continue
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            else:
                for container in path.glob(f"{_CONTAINER}*"):
                    run = site.run_directory(ContainerID(container.name.removeprefix(_CONTAINER)))
                    site.runtime.delete(run.name, force=True)
                    run.remove()
                remove_tree(path)
            finally:
                os.close(fd)


class _Pump:
    """Two pipes whose content is reported as it comes; the last of it is kept."""

    def __init__(self, report: Report) -> None:
        from threading import Thread

        self._report = report
        self._problem: BaseException | None = None
        self.tail = b""
        out, self.stdout = os.pipe2(os.O_CLOEXEC)
        err, self.stderr = os.pipe2(os.O_CLOEXEC)
        self._names = {out: "stdout", err: "stderr"}
        self._thread = Thread(target=self._read, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_problem: object) -> None:
        os.close(self.stdout)
        os.close(self.stderr)
        self._thread.join()
        for fd in self._names:
            os.close(fd)
        if self._problem is not None:
            raise self._problem

    def _read(self) -> None:
        from select import POLLIN, poll

        poller = poll()
        for fd in self._names:
            poller.register(fd, POLLIN)
        waiting = len(self._names)
        while waiting:
            for fd, _event in poller.poll():
                piece = os.read(fd, 1 << 16)
                if not piece:
                    poller.unregister(fd)
                    waiting -= 1
                    continue
                self.tail = (self.tail + piece)[-_TAIL:]
                try:
                    if self._problem is None:
                        self._report(Output(self._names[fd], piece))
                except BaseException as problem:  # noqa: BLE001  (raised in the thread that waits)
                    self._problem = problem

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


class CommandFailed(LamellaError):
    """A RUN's command ended with a non-zero code; the executor says of which step."""

    def __init__(self, code: int, tail: bytes) -> None:
        super().__init__(f"exit code {code}")
        self.code = code
        self.tail = tail


class Runner:
    """Runs the commands of one build; enter it as a context.

    `network` is ``host`` or ``none``.  The files mounted on ``/etc/hosts`` and its kin lie in a directory below the
    runtime's state directory, which the next build removes if this one is killed.
    """

    def __init__(self, site: Site, *, network: str, report: Report) -> None:
        self._site = site
        self._network = network
        self._report = report
        self._stack = ExitStack()
        self._files: Path | None = None

    def __enter__(self) -> Self:
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
            self._files = self._stack.enter_context(_scratch_directory(self._site.state))
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
            code = run_foreground(self._site.runtime, run, spec, stdout=pump.stdout, stderr=pump.stderr)
        if code:
            raise CommandFailed(code, pump.tail)


@contextmanager
def _scratch_directory(state: Path) -> Generator[Path]:
    """Make a directory of one build's own; those of builds that were killed are removed."""
    import fcntl
    from tempfile import mkdtemp

    from lamella.fs.tree import remove_tree

    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    for path in state.glob("build-*"):
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        else:
            remove_tree(path)
        finally:
            os.close(fd)
    path = Path(mkdtemp(prefix="build-", dir=state))
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH)
        yield path
    finally:
        remove_tree(path)
        os.close(fd)


class _Pump:
    """Two pipes whose content is reported as it comes; the last of it is kept."""

    def __init__(self, report: Report) -> None:
        from threading import Thread

        self._report = report
        self._problem: BaseException | None = None
        self.tail = b""
        self._readers: list[int] = []
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

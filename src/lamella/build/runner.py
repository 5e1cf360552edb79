"""RUN's commands, each in the foreground of a container of its own, their output reported as it comes."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from signal import SIGKILL
from typing import TYPE_CHECKING, Self

from lamella.build.events import Output, Report
from lamella.build.request import RunLimits
from lamella.errors import Cancelled, LamellaError, NotFound, StartFailed, Unavailable
from lamella.fs.rooted import Root
from lamella.model.ids import ContainerID

if TYPE_CHECKING:
    from lamella.container.site import Site
    from lamella.model.imageconfig import ContainerSettings
    from lamella.runtime.spec import MountPoint

_TAIL = 4096
_LOCK = "builds.lock"
_CONTAINER = "container-"
_SECRETS = "secrets"


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

    def __init__(
        self, site: Site, *, network: str, report: Report, limits: RunLimits | None = None, hostname: str = ""
    ) -> None:
        """Take what all commands have in common; `hostname` empty is as a container's."""
        self._site = site
        self._hostname = hostname
        self._limits = limits or RunLimits()
        self._network = network
        self._report = report
        self._stack = ExitStack()
        self._files: Path | None = None
        self._running: set[ContainerID] = set()
        self._ended: set[ContainerID] = set()

    def for_stage(self, report: Report) -> Runner:
        """Give the runner of one stage, which may run its commands beside those of others, and tells `report`."""
        runner = Runner(self._site, network=self._network, report=report, limits=self._limits, hostname=self._hostname)
        runner._stack = self._stack
        runner._running, runner._ended = self._running, self._ended
        return runner

    def end_all(self) -> None:
        """End what all stages run now; their ``run`` raises Cancelled.  One that just starts is met the next time."""
        for container in tuple(self._running):
            self._ended.add(container)
            self._kill(container)

    def _kill(self, container: ContainerID) -> None:
        with suppress(NotFound, Unavailable):
            self._site.runtime.kill(container, SIGKILL)

    def __enter__(self) -> Self:
        remove_dead_builds(self._site)
        return self

    def __exit__(self, *_problem: object) -> None:
        self._stack.close()

    def run(
        self,
        container: ContainerID,
        merged: Path,
        settings: ContainerSettings,
        *,
        mounts: Sequence[MountPoint] = (),
        network: str = "",
    ) -> None:
        """Run ``settings.cmd`` in the mounted root `merged`; raises CommandFailed or StartFailed.

        `network` is that of this command alone: ``host``, ``none``, empty for the build's own.
        """
        from lamella.container.netfiles import write_network_files
        from lamella.container.sandbox import process_environment
        from lamella.container.users import resolve_user
        from lamella.runtime.foreground import run_foreground
        from lamella.runtime.machine import read_machine
        from lamella.runtime.spec import DEFAULT_SHM_SIZE, Sandbox, build_spec

        network = network or self._network
        limits = self._limits
        hostname = self._hostname or (os.uname().nodename if network == "host" else container[:12])
        with Root(merged) as root:
            user = resolve_user(root, settings.user)
        files = self._scratch()
        own_files = write_network_files(files, hostname=hostname, network=network, extra_hosts=limits.add_hosts)
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
            network=network,
            own_files=tuple(own_files),
            mounts=tuple(mounts),
            shm_size=limits.shm_size or DEFAULT_SHM_SIZE,
            ulimits=limits.ulimits,
            memory=limits.memory,
            memory_swap=limits.memory_swap,
            cpu_shares=limits.cpu_shares,
            cpu_period=limits.cpu_period,
            cpu_quota=limits.cpu_quota,
            cpuset_cpus=limits.cpuset_cpus,
            cpuset_mems=limits.cpuset_mems,
        )
        spec = build_spec(box, read_machine())
        with _Pump(self._report, lambda: self._kill(container)) as pump:
            run = self._site.run_directory(container)
            note = files / f"{_CONTAINER}{container}"
            note.touch()
            self._running.add(container)
            try:
                code = run_foreground(self._site.runtime, run, spec, stdout=pump.stdout, stderr=pump.stderr)
            except StartFailed as error:
                if container in self._ended:
                    raise Cancelled("the command was ended") from error
                raise
            finally:
                self._running.discard(container)
            note.unlink()
        if container in self._ended:
            raise Cancelled("the command was ended")
        if code:
            raise CommandFailed(code, pump.tail)

    def _scratch(self) -> Path:
        if self._files is None:
            self._files = self._stack.enter_context(_scratch_directory(self._site))
        return self._files

    @contextmanager
    def secret_file(self, value: bytes, mode: int, uid: int, gid: int) -> Generator[Path]:
        """Hold a file with `value` in a file system of the memory, which nothing but the kernel's swap writes out."""
        directory = self._scratch() / _SECRETS
        if not directory.exists():
            self._stack.enter_context(_memory(directory))
        path = directory / os.urandom(8).hex()
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(value)
                file.flush()
                os.fchown(fd, uid, gid)
                os.fchmod(fd, mode)
            yield path
        finally:
            path.unlink()

    @contextmanager
    def agent_socket(self, agent: Path, mode: int, uid: int, gid: int) -> Generator[Path]:
        """Hold a socket with these rights, whose connections go on to the socket `agent`."""
        from lamella.build.relay import Relay

        path = self._scratch() / f"agent-{os.urandom(4).hex()}"
        with Relay(path, agent) as relay:
            os.chown(path, uid, gid)
            os.chmod(path, mode)
            relay.start()
            yield path


@contextmanager
def _memory(directory: Path) -> Generator[None]:
    """Hold a file system of the memory mounted on a new directory."""
    from lamella.linux.mount import Mount, perform, unmount

    directory.mkdir(mode=0o700)
    perform(Mount("tmpfs", "lamella-secrets", ("mode=700",)), directory)
    try:
        yield
    finally:
        unmount(directory, lazy=True)


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
    site.state.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = [entry for entry in os.listdir(site.state) if entry.startswith("build-")]
    if not found:
        return
    import fcntl

    from lamella.fs.tree import remove_tree
    from lamella.linux.locks import locked
    from lamella.linux.mount import unmount

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
                with suppress(OSError):  # most have none
                    unmount(path / _SECRETS, lazy=True)
                for container in path.glob(f"{_CONTAINER}*"):
                    run = site.run_directory(ContainerID(container.name.removeprefix(_CONTAINER)))
                    site.runtime.delete(run.name, force=True)
                    run.remove()
                remove_tree(path)
            finally:
                os.close(fd)


class _Pump:
    """Two pipes whose content is reported as it comes; the last of it is kept.

    `give_up` is called if it cannot be reported: nobody waits for the rest then.
    """

    def __init__(self, report: Report, give_up: Callable[[], None]) -> None:
        from threading import Thread

        self._report = report
        self._give_up = give_up
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
                    self._give_up()

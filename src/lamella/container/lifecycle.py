"""Starting, stopping and waiting.

What a container's end leaves behind is taken up in ``ending``, whoever comes first: the command that attends it, or
the monitor's exit command.  Signals are sent without any lock, so that a container can be killed while another
command waits for it.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Generator

from lamella.container.ending import attended, clean_up, clean_up_if_over, clean_up_locked, remove_failed
from lamella.container.freezing import thaw
from lamella.container.netfiles import write_network_files
from lamella.container.sandbox import build_container_spec
from lamella.container.signals import parse_signal
from lamella.container.site import Site
from lamella.container.state import Event, State, advance
from lamella.container.status import live_state, mark_failed, mark_started, recorded_state
from lamella.container.volumes import Volumes
from lamella.errors import (
    CommandNotExecutable,
    CommandNotFound,
    Conflict,
    LamellaError,
    StartFailed,
    Unavailable,
)
from lamella.model.containerconfig import HostConfig, parse_host_config
from lamella.model.gojson import encode
from lamella.model.ids import ContainerID
from lamella.model.imageconfig import ContainerSettings, parse_settings
from lamella.runtime.monitor import create_monitored, wait_exit
from lamella.runtime.rundir import RunDirectory, open_pidfd
from lamella.store.containerdb import ContainerRecord

DEFAULT_STOP_TIMEOUT = 10
# How long a killed container may take to be gone: a process in the kernel's hands cannot be hurried.
_KILL_TIMEOUT = 10.0


def start_container(
    site: Site,
    container: ContainerID,
    *,
    before: Callable[[RunDirectory], None] | None = None,
    console_size: tuple[int, int] | None = None,
) -> bool:
    """Start a container; return False if it runs already.

    *before* is called when the process exists but has not begun: whoever attaches then misses nothing, and attends
    the container's end.  Raises StartFailed or one of its kinds, and the record says why; everything made for the
    attempt is undone, and a container that is to remove itself is removed.
    """
    with site.locked(container):
        record = clean_up_locked(site, site.store.containers.get(container))
        if recorded_state(record) is State.RUNNING:
            return False
        advance(recorded_state(record), Event.START, record.name)
        settings, host = parse_settings(record.settings), parse_host_config(record.host_config)
        run = site.run_directory(container)
        run.create()
        with attended(run):
            try:
                _start(site, record, settings, host, run, before, console_size)
            except BaseException as failure:
                _undo_start(site, record, run, failure, durable=not host.auto_remove)
                if host.auto_remove:
                    remove_failed(site, record, failure)
                raise
    if before is None:
        # Nobody attended the exit of a command that ended before the promise above was given back.
        clean_up_if_over(site, container)
    return True


def _start(
    site: Site,
    record: ContainerRecord,
    settings: ContainerSettings,
    host: HostConfig,
    run: RunDirectory,
    before: Callable[[RunDirectory], None] | None,
    console_size: tuple[int, int] | None,
) -> None:
    store = site.store
    directory = site.directory(record.id)
    layer = store.rwlayers.get(record.id)
    root = store.rwlayers.mount(layer, record.id)
    own_files = write_network_files(
        directory,
        hostname=settings.hostname or record.id[:12],
        domainname=settings.domainname,
        network=host.network_mode,
        extra_hosts=host.extra_hosts,
        dns=host.dns,
        dns_search=host.dns_search,
        dns_options=host.dns_options,
    )
    spec = build_container_spec(
        record,
        settings=settings,
        host=host,
        root=root,
        own_files=own_files,
        volumes=Volumes(store.root.path),
        console_size=console_size,
    )
    run.config.write_bytes(encode(spec))
    pid = create_monitored(
        site.runtime,
        run,
        log_directory=directory if host.log_config.type in ("", "json-file") else None,
        terminal=settings.tty,
        stdin=settings.open_stdin,
        # Only a client that was promised to be the last one takes the input with it; a terminal is hung up by nobody.
        keep_stdin=settings.tty or not settings.stdin_once,
        exit_command=site.exit_command(record.id),
    )
    mark_started(record, pid)
    store.containers.write(record, host_config=False, sync=not host.auto_remove)
    if before is not None:
        before(run)
    site.runtime.start(record.id)
    store.last_use.stamp(record.image)


def _undo_start(
    site: Site, record: ContainerRecord, run: RunDirectory, failure: BaseException, *, durable: bool
) -> None:
    """Take back a start that failed; the record keeps the reason.  A second failure is only noted on the first."""
    try:
        with contextlib.suppress(Unavailable):
            site.runtime.delete(record.id, force=True)
        layer = site.store.rwlayers.find(record.id)
        if layer is not None:
            site.store.rwlayers.unmount(layer, record.id)
        run.remove()
        code = (
            127 if isinstance(failure, CommandNotFound) else 126 if isinstance(failure, CommandNotExecutable) else 128
        )
        if isinstance(failure, StartFailed) or recorded_state(record) is State.RUNNING:
            mark_failed(record, code, str(failure))
            site.store.containers.write(record, host_config=False, sync=durable)
    except (LamellaError, OSError) as second:
        failure.add_note(f"undoing the start failed too: {second}")


def kill_container(site: Site, container: ContainerID, text: str = "KILL") -> None:
    """Send a signal to a running container's first process; raise Conflict if it does not run."""
    number = parse_signal(text)
    record = site.store.containers.get(container)
    if live_state(site, record) not in (State.RUNNING, State.PAUSED):
        raise Conflict(f"cannot kill container: {record.name}: container {record.id} is not running")
    _note_stop_by_hand(site, container, number)
    _signal(site, container, number)
    if record.paused:
        # A frozen process takes nothing in, not even SIGKILL where cgroups are of version 1.
        thaw(site, container)
    if number == signal.SIGKILL:
        with _attending(site, container):
            wait_exit(site.run_directory(container), timeout=_KILL_TIMEOUT)
        clean_up_if_over(site, container)


def stop_container(site: Site, container: ContainerID, timeout: int | None = None) -> bool:
    """Ask a container to end, and kill it after *timeout* seconds (negative: never); False if it did not run.

    The signal and, without *timeout*, the time are the container's own.  Its end is recorded on return.
    """
    record = site.store.containers.get(container)
    if live_state(site, record) not in (State.RUNNING, State.PAUSED):
        clean_up_if_over(site, container)
        return False
    settings = parse_settings(record.settings)
    number = parse_signal(settings.stop_signal or "SIGTERM")
    if timeout is None:
        timeout = DEFAULT_STOP_TIMEOUT if settings.stop_timeout is None else settings.stop_timeout
    run = site.run_directory(container)
    _note_stop_by_hand(site, container, signal.SIGKILL)
    with _attending(site, container):
        if record.paused:
            thaw(site, container)
        _signal(site, container, number)
        if wait_exit(run, timeout=None if timeout < 0 else float(timeout)) is None:
            _signal(site, container, signal.SIGKILL)
            if wait_exit(run, timeout=_KILL_TIMEOUT) is None:
                raise Unavailable(
                    f"container {record.name} was killed but is not gone after {_KILL_TIMEOUT:g} s; try again"
                )
    clean_up(site, container)
    return True


def restart_container(site: Site, container: ContainerID, timeout: int | None = None) -> None:
    """Stop a container if it runs, and start it."""
    stop_container(site, container, timeout)
    start_container(site, container)


def wait_container(site: Site, container: ContainerID) -> int:
    """Wait until a container is at rest and return its exit code; one that was removed meanwhile counts too."""
    record = site.store.containers.get(container)
    if recorded_state(record) not in (State.RUNNING, State.PAUSED):
        return record.exit_code
    with _attending(site, container):
        code = wait_exit(site.run_directory(container))
    clean_up(site, container)
    if code is not None and site.run_directory(container).path.exists():
        return code
    found = site.store.containers.find(container)
    return found.exit_code if found is not None and not found.running else code or 0


def _signal(site: Site, container: ContainerID, number: int) -> None:
    """Send *number* to the container's first process, which is named by a descriptor: a reused pid gets nothing."""
    found = site.run_directory(container).read_identity()
    fd = None if found is None else open_pidfd(found.pid, found.started)
    if fd is None:
        return
    try:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(fd, number)
    finally:
        os.close(fd)


@contextlib.contextmanager
def _attending(site: Site, container: ContainerID) -> Generator[None]:
    """Promise the monitor to clean up ourselves."""
    run = site.run_directory(container)
    if not run.path.exists():
        yield
        return
    with attended(run):
        yield


def _note_stop_by_hand(site: Site, container: ContainerID, number: int) -> None:
    """Record that it was the user who ended the container, where a restart policy would ask."""
    if number not in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT):
        return
    record = site.store.containers.get(container)
    if parse_host_config(record.host_config).restart_policy.name in ("", "no"):
        return
    with site.locked(container):
        record = site.store.containers.get(container)
        record.config["HasBeenManuallyStopped"] = True
        site.store.containers.write(record, host_config=False)

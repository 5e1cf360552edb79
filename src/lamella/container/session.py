"""A client at a container: running one in the foreground, and attaching to one that runs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from lamella.container.ending import attended, clean_up, clean_up_if_over
from lamella.container.lifecycle import kill_container, start_container
from lamella.container.site import Site
from lamella.container.state import State
from lamella.container.status import live_state
from lamella.errors import Conflict, NotFound
from lamella.model.gojson import parse_time
from lamella.model.ids import ContainerID
from lamella.runtime.attach import DETACH_KEYS, Attachment, Streams, read_terminal_size
from lamella.runtime.logs import Record, read_logs
from lamella.runtime.monitor import wait_exit
from lamella.runtime.rundir import RunDirectory


def run_attached(
    site: Site,
    container: ContainerID,
    streams: Streams,
    *,
    detach_keys: bytes = DETACH_KEYS,
    forward_signals: bool = True,
) -> int | None:
    """Start a container and stay with it: return its exit code, or None if the client detached.

    The end is recorded and, for a container that is to, the removal done on return.  Raises OSError if the client's
    output takes no more: then the container goes on, unless it is to remove itself: that one is killed.
    """
    record = site.store.containers.get(container)
    terminal = record.settings.get("Tty") is True
    size = read_terminal_size(streams.stdin) if terminal and streams.stdin is not None else None
    with contextlib.ExitStack() as scope:
        attachments: list[Attachment] = []

        def connect(run: RunDirectory) -> None:
            scope.enter_context(attended(run))
            attachments.append(scope.enter_context(Attachment(run)))

        if not start_container(site, container, before=connect, console_size=size):
            raise Conflict(f"container {record.name} is running already: attach to it")
        try:
            ended = attachments[0].stream(
                streams, terminal=terminal, detach_keys=detach_keys, forward_signals=forward_signals
            )
        except OSError:
            if record.host_config.get("AutoRemove") is True:
                # Nobody would ever find it: end it, as a pipe that nobody reads ends a process.
                with contextlib.suppress(Conflict, NotFound):
                    kill_container(site, container)
            raise
        code = wait_exit(site.run_directory(container)) if ended else None
        if ended:
            clean_up(site, container)
    if not ended:
        clean_up_if_over(site, container)
    return code


def attach_container(
    site: Site,
    container: ContainerID,
    streams: Streams,
    *,
    detach_keys: bytes = DETACH_KEYS,
    forward_signals: bool = True,
) -> int | None:
    """Join a running container's streams: return its exit code, or None if the client detached."""
    record = site.store.containers.get(container)
    state = live_state(site, record)
    if state is State.PAUSED:
        raise Conflict("cannot attach to a paused container, unpause it first")
    if state is not State.RUNNING:
        raise Conflict("cannot attach to a stopped container, start it first")
    terminal = record.settings.get("Tty") is True
    run = site.run_directory(container)
    if record.settings.get("OpenStdin") is not True:
        streams = streams._replace(stdin=None)
    with attended(run), Attachment(run) as attachment:
        ended = attachment.stream(streams, terminal=terminal, detach_keys=detach_keys, forward_signals=forward_signals)
        code = wait_exit(run) if ended else None
        if ended:
            clean_up(site, container)
    if not ended:
        clean_up_if_over(site, container)
    return code


def iter_logs(
    site: Site,
    container: ContainerID,
    *,
    follow: bool = False,
    tail: int | None = None,
    since: int | str | None = None,
    until: int | str | None = None,
) -> Iterator[Record]:
    """Yield what a container printed; with *follow* until it ends.  Raises Conflict if nothing is logged."""
    record = site.store.containers.get(container)
    driver = record.host_config.get("LogConfig")
    kind = driver.get("Type") if isinstance(driver, dict) else "json-file"
    if kind not in (None, "", "json-file"):
        raise Conflict(f"configured logging driver {kind!r} does not support reading")
    run = site.run_directory(container)
    return read_logs(
        site.directory(container),
        container,
        follow=follow,
        tail=tail,
        since=parse_time(since) if isinstance(since, str) else since,
        until=parse_time(until) if isinstance(until, str) else until,
        is_running=lambda: run.is_alive() or run.is_monitored(),
    )

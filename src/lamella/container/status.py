"""A container's state: what its record says, what its processes say, and how the record is changed."""

from __future__ import annotations

from lamella.container.site import Site
from lamella.container.state import Event, State, advance
from lamella.model.gojson import ZERO_TIME, format_time, now_ns
from lamella.store.containerdb import ContainerRecord


def recorded_state(record: ContainerRecord) -> State:
    """Return the state that the record's flags spell, in dockerd's order of precedence."""
    flags = record.state
    if flags.get("Running") is True:
        if flags.get("Paused") is True:
            return State.PAUSED
        return State.RESTARTING if flags.get("Restarting") is True else State.RUNNING
    if flags.get("Dead") is True:
        return State.DEAD
    if flags.get("RemovalInProgress") is True:
        return State.REMOVING
    return State.CREATED if record.started_at == ZERO_TIME else State.EXITED


def live_state(site: Site, record: ContainerRecord) -> State:
    """Return the state as it is now: one recorded as running whose processes are gone has exited."""
    state = recorded_state(record)
    if state in (State.RUNNING, State.PAUSED, State.RESTARTING) and not site.run_directory(record.id).is_alive():
        return State.EXITED
    return state


def live_exit_code(site: Site, record: ContainerRecord) -> int:
    """Return the exit code as it is known now, also if nobody has recorded it yet."""
    if recorded_state(record) in (State.RUNNING, State.PAUSED, State.RESTARTING):
        code = site.run_directory(record.id).read_exit_code()
        return 255 if code is None and live_state(site, record) is State.EXITED else code or 0
    return record.exit_code


def mark_started(record: ContainerRecord, pid: int) -> None:
    """Record that the container runs as *pid* from now on."""
    advance(recorded_state(record), Event.START, record.name)
    record.state.update(
        Running=True,
        Paused=False,
        Restarting=False,
        OOMKilled=False,
        RemovalInProgress=False,
        Dead=False,
        Pid=pid,
        ExitCode=0,
        Error="",
        StartedAt=format_time(now_ns()),
        FinishedAt=record.finished_at,
    )
    record.config["HasBeenStartedBefore"] = True
    record.config["HasBeenManuallyStopped"] = False


def mark_failed(record: ContainerRecord, code: int, error: str) -> None:
    """Record that the container's command could not be started."""
    record.state.update(Running=False, Paused=False, Restarting=False, Pid=0, ExitCode=code, Error=error)


def mark_exited(record: ContainerRecord, code: int, *, finished_ns: int | None = None) -> None:
    """Record that the container has ended with *code*."""
    advance(recorded_state(record), Event.EXIT, record.name)
    record.state.update(
        Running=False,
        Paused=False,
        Restarting=False,
        Pid=0,
        ExitCode=code,
        FinishedAt=format_time(now_ns() if finished_ns is None else finished_ns),
    )


def mark_paused(record: ContainerRecord, *, paused: bool) -> None:
    """Record that the container was frozen or thawed."""
    advance(recorded_state(record), Event.PAUSE if paused else Event.UNPAUSE, record.name)
    record.state["Paused"] = paused


def mark_dead(record: ContainerRecord) -> None:
    """Record that the container's removal has begun: it can only be removed now."""
    advance(recorded_state(record), Event.REMOVE, record.name)
    record.state.update(Dead=True, RemovalInProgress=False)

"""The states of a container and what leads from one to the next, as one table.

dockerd keeps them as flags in ``config.v2.json``; here they are one word, in Docker's vocabulary.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from lamella.errors import Conflict


class State(StrEnum):
    """What a container is, as ``ps`` says it."""

    CREATED = "created"
    RUNNING = "running"
    PAUSED = "paused"
    RESTARTING = "restarting"
    REMOVING = "removing"
    EXITED = "exited"
    DEAD = "dead"


class Event(StrEnum):
    """What happens to a container."""

    START = "start"
    PAUSE = "pause"
    UNPAUSE = "unpause"
    EXIT = "exit"
    REMOVE = "remove"
    FAIL_REMOVAL = "fail removal"


TRANSITIONS: Final[dict[tuple[State, Event], State]] = {
    (State.CREATED, Event.START): State.RUNNING,
    (State.EXITED, Event.START): State.RUNNING,
    (State.RESTARTING, Event.START): State.RUNNING,
    (State.RUNNING, Event.PAUSE): State.PAUSED,
    (State.PAUSED, Event.UNPAUSE): State.RUNNING,
    (State.RUNNING, Event.EXIT): State.EXITED,
    (State.PAUSED, Event.EXIT): State.EXITED,
    (State.RESTARTING, Event.EXIT): State.EXITED,
    # The command could not be started: the attempt counts as one that ended.
    (State.CREATED, Event.EXIT): State.EXITED,
    (State.EXITED, Event.EXIT): State.EXITED,
    (State.CREATED, Event.REMOVE): State.REMOVING,
    (State.EXITED, Event.REMOVE): State.REMOVING,
    (State.DEAD, Event.REMOVE): State.REMOVING,
    (State.REMOVING, Event.REMOVE): State.REMOVING,
    (State.REMOVING, Event.FAIL_REMOVAL): State.DEAD,
}

_REFUSALS: Final[dict[tuple[State, Event], str]] = {
    (State.RUNNING, Event.REMOVE): (
        "cannot remove container {name}: container is running: stop the container before removing or force remove"
    ),
    (State.PAUSED, Event.REMOVE): (
        "cannot remove container {name}: container is paused and must be unpaused first, or force remove"
    ),
    (State.PAUSED, Event.START): "cannot start a paused container, try unpause instead",
    (State.DEAD, Event.START): "container {name} is marked for removal and cannot be started",
    (State.REMOVING, Event.START): "container {name} is marked for removal and cannot be started",
    (State.PAUSED, Event.PAUSE): "container {name} is already paused",
    (State.RUNNING, Event.UNPAUSE): "container {name} is not paused",
}


def advance(state: State, event: Event, name: str) -> State:
    """Return the state after *event*; raise Conflict, naming the container, if it cannot happen now."""
    following = TRANSITIONS.get((state, event))
    if following is None:
        text = _REFUSALS.get((state, event), "container {name} is not running")
        raise Conflict(text.format(name=name))
    return following

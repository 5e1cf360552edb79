"""What a build tells while it runs: values whose text is the line that Docker's classic builder prints.

Stages that are built at the same time tell theirs in between; each event bears its stage's mark.  Whoever listens is
called by one thread at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock

import msgspec

from lamella.model.digest import ImageID
from lamella.model.ids import ContainerID, short_id

# mypy: disable-error-code="explicit-override"


class StageMark(msgspec.Struct, frozen=True):
    """Which stage of a build an event is about."""

    number: int
    """From 1, in the order of the Dockerfile, of the stages that are built."""
    total: int
    name: str
    """What the Dockerfile calls it, empty if it has no name."""
    alone: bool
    """Whether no other stage of this build can be under way at the same time."""

    def __str__(self) -> str:
        return f"[{self.number}/{self.total}]"


class StepStarted(msgspec.Struct, frozen=True):
    """An instruction is about to be carried out."""

    number: int
    total: int
    source: str
    stage: StageMark | None = None

    def __str__(self) -> str:
        return f"Step {self.number}/{self.total} : {self.source}"


class StepFinished(msgspec.Struct, frozen=True):
    """An instruction has led to this image; None is ``scratch``."""

    image: ImageID | None
    stage: StageMark | None = None

    def __str__(self) -> str:
        return f" ---> {short_id(self.image) if self.image else ''}"


class CacheUsed(msgspec.Struct, frozen=True):
    """The image of this step was there already."""

    image: ImageID
    stage: StageMark | None = None

    def __str__(self) -> str:
        return " ---> Using cache"


class RunStarted(msgspec.Struct, frozen=True):
    """The command of RUN starts in a container."""

    container: ContainerID
    stage: StageMark | None = None

    def __str__(self) -> str:
        return f" ---> Running in {short_id(self.container)}"


class RunRemoved(msgspec.Struct, frozen=True):
    """The container of RUN is gone."""

    container: ContainerID
    stage: StageMark | None = None

    def __str__(self) -> str:
        return f"Removing intermediate container {short_id(self.container)}"


class TriggersStarted(msgspec.Struct, frozen=True):
    """The base image's ONBUILD instructions follow."""

    triggers: int
    stage: StageMark | None = None

    def __str__(self) -> str:
        return f"# Executing {self.triggers} build trigger{'s' if self.triggers > 1 else ''}"


class Warned(msgspec.Struct, frozen=True):
    """Something deserves a look."""

    text: str
    stage: StageMark | None = None

    def __str__(self) -> str:
        return f"[Warning] {self.text}"


class Output(msgspec.Struct, frozen=True):
    """A piece of what a RUN's command wrote, as it came."""

    stream: str
    """``stdout`` or ``stderr``."""
    data: bytes
    stage: StageMark | None = None


class Built(msgspec.Struct, frozen=True):
    """The image is complete and durable."""

    image: ImageID

    def __str__(self) -> str:
        return f"Successfully built {short_id(self.image)}"


class Tagged(msgspec.Struct, frozen=True):
    """A reference names the image now."""

    reference: str

    def __str__(self) -> str:
        return f"Successfully tagged {self.reference}"


BuildEvent = (
    StepStarted
    | StepFinished
    | CacheUsed
    | RunStarted
    | RunRemoved
    | TriggersStarted
    | Warned
    | Output
    | Built
    | Tagged
)
Report = Callable[[BuildEvent], None]


def stage_of(event: BuildEvent) -> StageMark | None:
    """Give the mark of the stage that an event is about, None if it is about the whole build."""
    return None if isinstance(event, Built | Tagged) else event.stage


def silent(_event: BuildEvent) -> None:
    """Report nothing."""


def one_at_a_time(report: Report) -> Report:
    """Make `report` fit to be called by several threads."""
    guard = Lock()

    def guarded(event: BuildEvent) -> None:
        with guard:
            report(event)

    return guarded


def marking(report: Report, mark: StageMark) -> Report:
    """Give a reporter for one stage, which puts its mark on each event."""

    def marked(event: BuildEvent) -> None:
        report(event if isinstance(event, Built | Tagged) else msgspec.structs.replace(event, stage=mark))

    return marked

"""What a build tells while it runs: values whose text is the line that Docker's classic builder prints."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from lamella.model.digest import ImageID
from lamella.model.ids import ContainerID, short_id

# mypy: disable-error-code="explicit-override"


class StepStarted(NamedTuple):
    """An instruction is about to be carried out."""

    number: int
    total: int
    source: str

    def __str__(self) -> str:
        return f"Step {self.number}/{self.total} : {self.source}"


class StepFinished(NamedTuple):
    """An instruction has led to this image; None is ``scratch``."""

    image: ImageID | None

    def __str__(self) -> str:
        return f" ---> {short_id(self.image) if self.image else ''}"


class CacheUsed(NamedTuple):
    """The image of this step was there already."""

    image: ImageID

    def __str__(self) -> str:
        return " ---> Using cache"


class RunStarted(NamedTuple):
    """The command of RUN starts in a container."""

    container: ContainerID

    def __str__(self) -> str:
        return f" ---> Running in {short_id(self.container)}"


class RunRemoved(NamedTuple):
    """The container of RUN is gone."""

    container: ContainerID

    def __str__(self) -> str:
        return f"Removing intermediate container {short_id(self.container)}"


class TriggersStarted(NamedTuple):
    """The base image's ONBUILD instructions follow."""

    triggers: int

    def __str__(self) -> str:
        return f"# Executing {self.triggers} build trigger{'s' if self.triggers > 1 else ''}"


class Warned(NamedTuple):
    """Something deserves a look."""

    text: str

    def __str__(self) -> str:
        return f"[Warning] {self.text}"


class Output(NamedTuple):
    """A piece of what a RUN's command wrote, as it came."""

    stream: str
    """``stdout`` or ``stderr``."""
    data: bytes


class Built(NamedTuple):
    """The image is complete and durable."""

    image: ImageID

    def __str__(self) -> str:
        return f"Successfully built {short_id(self.image)}"


class Tagged(NamedTuple):
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


def silent(_event: BuildEvent) -> None:
    """Report nothing."""

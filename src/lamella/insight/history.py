"""An image's history beside its layers: which step made which layer, and the steps that made none."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

import msgspec

from lamella.model.imageconfig import ImageConfig

if TYPE_CHECKING:
    from lamella.readers.base import ImageRecord

_WRITING: Final = ("RUN ", "COPY ", "ADD ", "WORKDIR ")
_NO_INSTRUCTION: Final = "(no instruction recorded: a commit or an import)"


class Step(msgspec.Struct, frozen=True):
    """One line of an image's history."""

    number: int
    """1 for the first."""
    instruction: str
    """In the Dockerfile's words, without the builders' decoration."""
    created_by: str
    """As it is recorded."""
    created: str
    author: str
    comment: str
    layer: int | None
    """The number of the layer that it made, 1 for the base; None for a step that made none."""

    @property
    def idle(self) -> str:
        """Say why it made no layer."""
        return why_idle(self.instruction)


def build_steps(images: Iterable[ImageRecord]) -> frozenset[str]:
    """Return the images that are steps of builds: without a name, and others were made from them."""
    images = tuple(images)
    parents = {image.parent for image in images}
    return frozenset(image.id for image in images if not image.names and not image.digests and image.id in parents)


def plan_steps(config: ImageConfig) -> tuple[Step, ...]:
    """Join the history with the layers as Docker does: from the base up, empty steps left out.

    Layers above the last step that made one have no step.
    """
    steps: list[Step] = []
    layer = 0
    for number, entry in enumerate(config.history, 1):
        layer += not entry.empty_layer
        steps.append(
            Step(
                number=number,
                instruction=spell_step(entry.created_by, entry.comment),
                created_by=entry.created_by,
                created=entry.created,
                author=entry.author,
                comment=entry.comment,
                layer=None if entry.empty_layer else layer,
            )
        )
    return tuple(steps)


def why_idle(instruction: str) -> str:
    """Say why a step made no layer: some never do, others found nothing to change."""
    return "changed no file" if instruction.startswith(_WRITING) else "settings only"


def step_of_layer(steps: tuple[Step, ...], layer: int) -> Step | None:
    """Return the step that made the layer of this number."""
    return next((step for step in steps if step.layer == layer), None)


def spell_step(created_by: str, comment: str = "") -> str:
    """Say what made a layer in the Dockerfile's words: ``RUN make``, ``COPY file:… /``, ``ENV a=b``."""
    text = created_by.strip()
    if not text:
        return comment or _NO_INSTRUCTION
    _, nop, instruction = text.partition("#(nop) ")
    if nop:
        return instruction.strip()
    text = text.removesuffix("# buildkit").strip()
    command = text.removeprefix("/bin/sh -c ")
    return f"RUN {command}" if command != text else text

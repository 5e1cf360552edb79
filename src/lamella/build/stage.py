"""One stage while it is built, and what its steps share with those of all others."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from lamella.build.bases import Bases
from lamella.build.cache import StepSource
from lamella.build.context import SourceTree
from lamella.build.events import CacheUsed, Report
from lamella.build.journal import Journal
from lamella.build.metadata import StageState
from lamella.build.request import BuildOptions
from lamella.build.runner import Runner
from lamella.build.snapshot import Snapshot, make_child
from lamella.build.steps import FileStep
from lamella.model.digest import DiffID
from lamella.model.imageconfig import ContainerSettings


class Services(NamedTuple):
    """What all stages of a build share."""

    tree: SourceTree
    """The context."""
    files: FileStep
    runner: Runner
    bases: Bases
    cache: StepSource | None
    journal: Journal
    options: BuildOptions
    report: Report


class Stage:
    """One stage: the image so far, and the settings that its next step starts from."""

    def __init__(self, index: int, image: Snapshot, state: StageState, services: Services) -> None:
        self.index = index
        self.image = image
        self.state = state
        self.services = services
        self.cached = True
        """Whether all steps so far were in the cache."""

    def nop(self, *words: str) -> ContainerSettings:
        """Give the container that stands for a step without a command, as the classic builder records it."""
        return msgspec.structs.replace(self.state.settings, cmd=(*self.state.shell, *words))

    def use_cache(self, container: ContainerSettings) -> bool:
        """Take a step's image from the cache; after the first miss a stage looks no more."""
        services = self.services
        if services.cache is None or not self.cached:
            return False
        found = services.cache.find(self.image, container, self.state.settings)
        if found is None or found.id is None:
            self.cached = False
            return False
        services.report(CacheUsed(found.id))
        self._advance(found)
        return True

    def commit(self, container: ContainerSettings, diff_id: DiffID) -> None:
        """Make the step's image, with one more layer unless `diff_id` is ``EMPTY_LAYER``."""
        self.services.files.need(self.image)
        raw, child = make_child(
            self.image,
            settings=self.state.settings,
            container=container,
            diff_id=diff_id,
            author=self.state.author,
            created=self.services.journal.created(),
        )
        self.services.journal.add(raw, self.image.id)
        self._advance(child)

    def _advance(self, image: Snapshot) -> None:
        self.image = image
        self.state.change(image=image.id or "")

"""The build itself: stage by stage, instruction by instruction, each leaving an image as Docker's classic builder does.

Finished steps are published together when a second's worth of them has gathered, and at the end, whether the build
succeeds or a step fails: they are the cache of the next build.  What a killed build has not published is undone by
the next command.  Tags are set last, all or none.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

from lamella.build.arguments import BuildArguments
from lamella.build.bases import Bases
from lamella.build.cache import StepCache
from lamella.build.commands import run_command
from lamella.build.context import SourceTree
from lamella.build.dockerfile import instructions as ast
from lamella.build.dockerfile.parser import parse_dockerfile, parse_trigger
from lamella.build.events import (
    Built,
    Report,
    StepFinished,
    StepStarted,
    Tagged,
    TriggersStarted,
    Warned,
    silent,
)
from lamella.build.journal import Journal
from lamella.build.metadata import StageState, apply_metadata, label_command
from lamella.build.plan import plan_stages
from lamella.build.request import BuildOptions, BuildResult, declare_globals, open_request
from lamella.build.runner import Runner
from lamella.build.snapshot import Snapshot, stage_settings
from lamella.build.stage import Services, Stage
from lamella.build.steps import FileStep
from lamella.build.transfers import copy_files, make_workdir
from lamella.container.site import Site
from lamella.errors import Conflict, InvalidArgument, LamellaError
from lamella.model.digest import EMPTY_LAYER, ImageID
from lamella.model.reference import Reference, parse_new_name
from lamella.store.imagestore import ImageStore
from lamella.store.transactions import Transaction

__all__ = ["BuildOptions", "BuildResult", "build_image"]

_SECRET = re.compile(r"(?i)(^|_)(pass(word|wd|phrase)?|secret|token|api_?key|private_?key|credentials?|auth)(_|$)")


def build_image(site: Site, context: Path | BinaryIO, options: BuildOptions, *, report: Report = silent) -> BuildResult:
    """Build an image and tag it.

    `context` is a directory, or a stream that holds a tar of one or a Dockerfile alone.  Durable on return.  Raises
    InvalidArgument with Docker's words for a bad tag, file or option before anything is changed, and BuildFailed when
    a command fails; the steps before it stay as cache.
    """
    store = site.store
    tags = [parse_new_name(tag) for tag in options.tags]
    if options.network not in ("host", "none", "default", ""):
        raise InvalidArgument(f"network {options.network!r} is not known to build: use host or none")
    with ExitStack() as stack:
        tree, text = stack.enter_context(open_request(context, options.dockerfile))
        dockerfile = parse_dockerfile(text)
        for warning in dockerfile.warnings:
            report(Warned(warning))
        for name in filter(_SECRET.search, options.build_args):
            report(Warned(f"build argument {name} will be seen in the image's history; give no secret that way"))
        arguments = BuildArguments(options.build_args)
        declare_globals(dockerfile, arguments)
        stages = plan_stages(dockerfile, options.target, arguments.global_values())
        network = "none" if options.network == "none" else "host"
        runner = stack.enter_context(Runner(site, network=network, report=report))
        failure: LamellaError | None = None
        final: ImageID | None = None
        with store.root.transaction("build") as tx:
            build = _Build(store, tx, dockerfile, tree, runner, arguments, options, report)
            try:
                final = build.run(stages)
            except LamellaError as error:
                # The transaction ends well: what the steps before have made is kept.
                failure = error
            build.journal.publish()
            if final is not None:
                _finish(store, tx, final, tags, build)
        if final is None:
            raise failure or InvalidArgument("No image was generated. Is your Dockerfile empty?")
    for name in arguments.unused():
        report(Warned(f"One or more build-args [{name}] were not consumed"))
    report(Built(final))
    for tag in tags:
        report(Tagged(tag.familiar()))
    return BuildResult(final, tuple(tag.familiar() for tag in tags))


def _finish(store: ImageStore, tx: Transaction, image: ImageID, tags: Sequence[Reference], build: _Build) -> None:
    """Set the tags, seeing to it that the image is still there."""
    with store.root.writing():
        if store.images.find(image) is None:
            raise Conflict(f"image {image} was removed by another command while it was built; build again")
        store.commit(tx, {tag.familiar(): image for tag in tags})
        if tags:
            store.images.touch(image, moment=build.journal.created() if build.is_timed else None)


class _Build:
    """One build in progress."""

    def __init__(
        self,
        store: ImageStore,
        tx: Transaction,
        dockerfile: ast.Dockerfile,
        tree: SourceTree,
        runner: Runner,
        arguments: BuildArguments,
        options: BuildOptions,
        report: Report,
    ) -> None:
        self._dockerfile = dockerfile
        self._arguments = arguments
        self.journal = Journal(store, options.timestamp)
        self._services = Services(
            tree=tree,
            files=FileStep(store, tx, timestamp=options.timestamp),
            runner=runner,
            bases=Bases(store, dockerfile, options),
            cache=None if options.no_cache else StepCache(store),
            journal=self.journal,
            options=options,
            report=report,
        )
        self._report = report
        self._step = 0
        self._total = 0

    @property
    def is_timed(self) -> bool:
        """Tell whether the time of all that is made was given."""
        return self._services.options.timestamp is not None

    def run(self, stages: Sequence[int]) -> ImageID | None:
        """Build these stages; give the last one's image, None if it is ``scratch``."""
        labels = label_command(self._services.options.labels)
        all_stages = self._dockerfile.stages
        self._total = len(self._dockerfile.arguments) + len(labels)
        self._total += sum(1 + len(all_stages[index].commands) for index in stages)
        for instruction in self._dockerfile.arguments:
            self._begin(instruction)
        results = self._services.bases.results
        for index in stages:
            stage = all_stages[index]
            extra = labels if index == stages[-1] else []
            results[index] = self._build_stage(index, [*stage.commands, *extra])
        return results[stages[-1]].id

    def _begin(self, instruction: ast.Instruction) -> None:
        self._step += 1
        self._report(StepStarted(self._step, self._total, instruction.source))

    def _build_stage(self, index: int, commands: Sequence[ast.Command]) -> Snapshot:
        base = self._dockerfile.stages[index].base
        self._begin(base)
        with self._explained(base):
            image = self._services.bases.find_base(base, index, self._arguments.global_values())
        state = StageState(stage_settings(image), self._arguments.for_stage(), self._dockerfile.escape)
        stage = Stage(index, image, state, self._services)
        if triggers := state.settings.on_build:
            state.change(on_build=())
            self._report(TriggersStarted(len(triggers)))
            for trigger in triggers:
                with self._explained(base):
                    _carry_out(stage, parse_trigger(trigger))
        self._report(StepFinished(stage.image.id))
        for command in commands:
            self._begin(command)
            with self._explained(command):
                _carry_out(stage, command)
            self._report(StepFinished(stage.image.id))
            self.journal.publish_gathered()
        return stage.image

    @contextmanager
    def _explained(self, instruction: ast.Instruction) -> Generator[None]:
        """Say of an error in which line it came up."""
        try:
            yield
        except LamellaError as error:
            error.add_note(f"step {self._step}/{self._total}, line {instruction.line}: {instruction.source}")
            raise


def _carry_out(stage: Stage, command: ast.Command) -> None:
    if isinstance(command, ast.Run):
        run_command(stage, command)
    elif isinstance(command, ast.Copy | ast.Add):
        copy_files(stage, command)
    elif isinstance(command, ast.Workdir):
        make_workdir(stage, command)
    else:
        container = stage.nop("#(nop) ", apply_metadata(stage.state, command))
        if not stage.use_cache(container):
            stage.commit(container, EMPTY_LAYER)

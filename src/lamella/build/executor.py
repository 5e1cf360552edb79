"""The build itself: stages, instruction by instruction, each leaving an image as Docker's classic builder does.

Stages that do not need one another are built at the same time (`graph`).  Finished steps are published together when a
second's worth of them has gathered, and at the end, whether the build succeeds or a step fails or is interrupted: they
are the cache of the next build.  What a killed build has not published is undone by
the next command.  Tags are set last, all or none.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, BinaryIO

import msgspec

from lamella.build.arguments import BuildArguments, automatic_arguments
from lamella.build.bases import Bases
from lamella.build.buildcheck import BuildCheck
from lamella.build.cache import BrokenCache, StepCache, StepSource
from lamella.build.context import SourceTree
from lamella.build.dockerfile import instructions as ast
from lamella.build.dockerfile.parser import parse_dockerfile, parse_trigger
from lamella.build.events import (
    Built,
    Report,
    StageMark,
    StepFinished,
    StepStarted,
    Tagged,
    TriggersStarted,
    Warned,
    marking,
    one_at_a_time,
    silent,
)
from lamella.build.graph import NeedsStages, StageGraph
from lamella.build.journal import Journal
from lamella.build.metadata import StageState, apply_metadata, label_command
from lamella.build.plan import find_stage, needs_of, plan_graph, stage_below, stages_named
from lamella.build.request import BuildOptions, BuildResult, declare_globals, open_request
from lamella.build.runner import Runner
from lamella.build.snapshot import Snapshot, stage_settings
from lamella.build.stage import Services, Stage
from lamella.build.steps import FileStep
from lamella.errors import Cancelled, Conflict, InvalidArgument, LamellaError
from lamella.model.digest import EMPTY_LAYER, ImageID
from lamella.model.platform import host_platform, parse_platform
from lamella.model.reference import Reference, parse_new_name
from lamella.store.imagestore import ImageStore

if TYPE_CHECKING:
    from lamella.container.site import Site

__all__ = ["BuildOptions", "BuildResult", "build_image"]

_HOSTNAME = "lamella"


def build_image(
    site: Site, context: Path | BinaryIO | str, options: BuildOptions, *, report: Report = silent
) -> BuildResult:
    """Build an image and tag it.

    `context` is a directory, or a stream that holds a tar of one or a Dockerfile alone.  Durable on return.  Raises
    InvalidArgument with Docker's words for a bad tag, file or option before anything is changed, BuildFailed when a
    command fails, and Cancelled in place of KeyboardInterrupt; the steps before it stay as cache.
    """
    store = site.store
    is_heard = report is not silent
    report = one_at_a_time(report)
    tags = [parse_new_name(tag) for tag in options.tags]
    if options.network not in ("host", "none", "default", ""):
        raise InvalidArgument(f"network {options.network!r} is not known to build: use host or none")
    with ExitStack() as stack:
        tree, text = stack.enter_context(open_request(context, options.dockerfile, proxies=options.proxies))
        dockerfile = parse_dockerfile(text)
        for warning in dockerfile.warnings:
            report(Warned(warning))
        arguments = _begin_arguments(dockerfile, options)
        needs = plan_graph(dockerfile, options.target, arguments.global_values())
        checking = BuildCheck(text, options, list(needs), tree.ignore, store)
        checking.refuse()
        network = "none" if options.network == "none" else "host"
        # A command may write its host's name into a file, which must not differ in a reproducible build.
        hostname = "" if options.timestamp is None else _HOSTNAME
        runner = stack.enter_context(
            Runner(site, network=network, report=report, limits=options.limits, hostname=hostname)
        )
        failure: LamellaError | KeyboardInterrupt | None = None
        final: ImageID | None = None
        with Journal(store, options.timestamp) as journal:
            build = _Build(store, journal, dockerfile, tree, runner, arguments, options, needs, report)
            try:
                try:
                    final = build.run()
                except BrokenCache as error:
                    report(Warned(f"{error}; building without it"))
                    build.close()
                    options = msgspec.structs.replace(options, cache_from=())
                    build = _Build(store, journal, dockerfile, tree, runner, arguments, options, needs, report)
                    final = build.run()
            except (LamellaError, KeyboardInterrupt) as error:
                # The transaction ends well: what the steps before have made is kept.
                failure = error
            finally:
                build.close()
            journal.publish()
            if final is not None:
                _finish(store, journal, final, tags)
        if is_heard:
            for finding in checking.findings():
                report(Warned(str(finding)))
        if isinstance(failure, KeyboardInterrupt):
            raise Cancelled(
                "the build was interrupted: its containers are ended, finished steps are kept as cache"
            ) from failure
        if final is None:
            raise failure or InvalidArgument("No image was generated. Is your Dockerfile empty?")
    for name in arguments.unused():
        report(Warned(f"One or more build-args [{name}] were not consumed"))
    report(Built(final))
    for tag in tags:
        report(Tagged(tag.familiar()))
    return BuildResult(final, tuple(tag.familiar() for tag in tags), build.steps)


def _begin_arguments(dockerfile: ast.Dockerfile, options: BuildOptions) -> BuildArguments:
    """Give the build arguments, those before the first FROM taken."""
    target = options.target or dockerfile.stages[-1].base.name
    platform = parse_platform(options.platform) if options.platform else None
    arguments = BuildArguments(options.build_args, automatic_arguments(platform, target, options.timestamp))
    declare_globals(dockerfile, arguments)
    return arguments


def _finish(store: ImageStore, journal: Journal, image: ImageID, tags: Sequence[Reference]) -> None:
    """Set the tags, seeing to it that the image is still there; without a transaction nothing else is to be written."""
    wanted = {tag.familiar(): image for tag in tags}
    if journal.begun is None and not wanted:
        if not store.images.exists(image):
            raise _removed(image)
        return
    with store.root.writing():
        if store.images.find(image) is None:
            raise _removed(image)
        if journal.begun is not None:
            store.commit(journal.begun, wanted)
        else:
            store.name_images(wanted)
        if wanted:
            store.images.touch(image, moment=journal.created() if journal.is_timed else None)


def _removed(image: ImageID) -> Conflict:
    return Conflict(f"image {image} was removed by another command while it was built; build again")


class _StagePlan:
    """What is to be done for one stage, and which numbers its steps have."""

    def __init__(self, first: int, commands: tuple[ast.Command, ...]) -> None:
        self.first = first
        """The number of its FROM."""
        self.commands = commands
        self.mark = StageMark(1, 1, "", alone=True)
        self.begun = False


def _stage_called(dockerfile: ast.Dockerfile, name: str) -> int:
    index = find_stage(dockerfile.stages, name)
    if index is None:
        raise InvalidArgument(f"no stage of the Dockerfile is called {name!r}, whose steps are not to be cached")
    return index


class _Build:
    """One build in progress."""

    def __init__(
        self,
        store: ImageStore,
        journal: Journal,
        dockerfile: ast.Dockerfile,
        tree: SourceTree,
        runner: Runner,
        arguments: BuildArguments,
        options: BuildOptions,
        needs: dict[int, set[int]],
        report: Report,
    ) -> None:
        self._dockerfile = dockerfile
        self._arguments = arguments
        self._runner = runner
        self._scope = ExitStack()
        self._store = store
        self.steps: tuple[ImageID, ...] = ()
        """The images of the stages' last steps, the target's first."""
        cache = None if options.no_cache else self._open_cache(journal, options, report)
        self._services = Services(
            tree=tree,
            files=FileStep(
                store,
                journal.transaction,
                timestamp=options.timestamp,
                need=(lambda _: None) if cache is None else cache.need,
            ),
            runner=runner,
            bases=Bases(store, dockerfile, options),
            cache=cache,
            journal=journal,
            options=options,
            report=report,
        )
        self._report = report
        self._target = list(needs)[-1]
        self._labels = label_command(options.labels)
        self._uncached = {_stage_called(dockerfile, name) for name in options.no_cache_stages}
        self._graph = StageGraph(needs, jobs=options.jobs, end=runner.end_all)
        self._plans: dict[int, _StagePlan] = {}
        self._stage_arguments: dict[int, BuildArguments] = {}
        self._enrolling = Lock()
        self._total = len(dockerfile.arguments)
        self._enroll(needs)

    def close(self) -> None:
        """Remove what only the steps needed."""
        self._services.files.close()
        self._scope.close()

    def _open_cache(self, journal: Journal, options: BuildOptions, report: Report) -> StepSource:
        created = journal.created() if journal.is_timed else ""
        if not options.cache_from:
            return StepCache(self._store, created=created)
        from lamella.build.cacheimport import Cache

        return Cache(
            self._store,
            options.cache_from,
            connect=options.connect,
            platform=parse_platform(options.platform) if options.platform else host_platform(),
            created=created,
            report=report,
            scope=self._scope,
        )

    def run(self) -> ImageID | None:
        """Build the stages; give the last one's image, None if it is ``scratch``."""
        for number, instruction in enumerate(self._dockerfile.arguments, 1):
            self._report(StepStarted(number, self._total, instruction.source))
        self._graph.run(self._build_stage)
        results = self._services.bases.results
        final = results[self._target]
        self._services.files.need(final)
        ends = [final, *(results[index] for index in sorted(results, reverse=True))]
        self.steps = tuple(dict.fromkeys(image.id for image in ends if image.id is not None))
        return self._squash(final) if self._services.options.squash else final.id

    def _squash(self, image: Snapshot) -> ImageID | None:
        """Put one layer in place of the build's own; what was made so far stays as cache."""
        from lamella.build.squash import squash_image

        journal = self._services.journal
        base = self._services.bases.find_root(self._target, self._arguments.global_values())
        made = squash_image(self._store, journal.transaction(), image, base, created=journal.created())
        if made is None:
            return image.id
        raw, squashed = made
        journal.add(raw, None, as_cache=False)
        return squashed.id

    def _enroll(self, stages: Iterable[int]) -> None:
        """Give the steps of these stages their numbers."""
        for index in stages:
            stage = self._dockerfile.stages[index]
            commands = (*stage.commands, *(self._labels if index == self._target else ()))
            self._plans[index] = _StagePlan(self._total + 1, commands)
            self._total += 1 + len(commands)
        alone = not self._graph.parallel
        for number, index in enumerate(sorted(self._plans), 1):
            name = self._dockerfile.stages[index].base.name
            plan = self._plans[index]
            plan.mark = StageMark(number, len(self._plans), name, alone)

    def _build_stage(self, index: int) -> None:
        plan = self._plans[index]
        report = marking(self._report, plan.mark)
        services = self._services._replace(
            report=report,
            runner=self._runner.for_stage(report),
            cache=None if index in self._uncached else self._services.cache,
        )
        base = self._dockerfile.stages[index].base
        number = plan.first
        self._graph.check()
        if not plan.begun:
            report(StepStarted(number, self._total, base.source))
            plan.begun = True
        with self._explained(base, plan, number):
            image = services.bases.find_base(base, index, self._arguments.global_values())
        escape = self._dockerfile.escape
        below = stage_below(self._dockerfile.stages, index, self._arguments.global_values(), escape)
        arguments = self._arguments.for_stage(None if below is None else self._stage_arguments[below])
        self._stage_arguments[index] = arguments
        state = StageState(stage_settings(image), arguments, escape)
        stage = Stage(index, image, state, services)
        if triggers := state.settings.on_build:
            with self._explained(base, plan, number):
                commands = [parse_trigger(trigger) for trigger in triggers]
                self._require(index, commands)
                state.change(on_build=())
                report(TriggersStarted(len(triggers)))
                for command in commands:
                    self._graph.check()
                    _carry_out(stage, command)
        report(StepFinished(stage.image.id))
        for number, command in enumerate(plan.commands, plan.first + 1):
            self._graph.check()
            report(StepStarted(number, self._total, command.source))
            with self._explained(command, plan, number):
                _carry_out(stage, command)
            report(StepFinished(stage.image.id))
            services.journal.publish_gathered()
        services.bases.results[index] = stage.image

    def _require(self, index: int, commands: Sequence[ast.Command]) -> None:
        """See that the stages which triggers name are done: the Dockerfile did not tell of them."""
        named = stages_named(self._dockerfile.stages, commands, index) - self._services.bases.results.keys()
        if not named:
            return
        needs = needs_of(self._dockerfile, named, self._arguments.global_values())
        with self._enrolling:
            self._enroll(other for other in needs if other not in self._plans)
        raise NeedsStages(needs)

    @contextmanager
    def _explained(self, instruction: ast.Instruction, plan: _StagePlan, number: int) -> Generator[None]:
        """Say of an error in which stage and line it came up."""
        try:
            yield
        except LamellaError as error:
            mark = plan.mark
            stage = f"stage {mark.name or mark.number}, " if mark.total > 1 else ""
            error.add_note(f"step {number}/{self._total}, {stage}line {instruction.line}: {instruction.source}")
            raise


def _carry_out(stage: Stage, command: ast.Command) -> None:
    """Carry out one instruction, loading what its kind alone needs."""
    if isinstance(command, ast.Run):
        from lamella.build.commands import run_command

        run_command(stage, command)
    elif isinstance(command, ast.Copy | ast.Add):
        from lamella.build.transfers import copy_files

        copy_files(stage, command)
    elif isinstance(command, ast.Workdir):
        from lamella.build.workdir import make_workdir

        make_workdir(stage, command)
    else:
        container = stage.nop("#(nop) ", apply_metadata(stage.state, command))
        if not stage.use_cache(container):
            stage.commit(container, EMPTY_LAYER)

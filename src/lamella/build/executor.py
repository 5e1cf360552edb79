"""The build itself: stage by stage, instruction by instruction, each leaving an image as Docker's classic builder does.

Finished steps are published together when a second's worth of them has gathered, and at the end, whether the build
succeeds or a step fails: they are the cache of the next build.  What a killed build has not published is undone by
the next command.  Tags are set last, all or none.
"""

from __future__ import annotations

import posixpath
import re
import time
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

import msgspec

from lamella.build.arguments import BuildArguments
from lamella.build.cache import StepCache
from lamella.build.context import SourceTree
from lamella.build.copyfiles import Manner, Owner, find_sources, text_source, total_sum
from lamella.build.dockerfile import instructions as ast
from lamella.build.dockerfile.expand import expand
from lamella.build.dockerfile.lexer import find_heredoc
from lamella.build.dockerfile.parser import parse_dockerfile, parse_trigger
from lamella.build.events import (
    Built,
    CacheUsed,
    Report,
    RunRemoved,
    RunStarted,
    StepFinished,
    StepStarted,
    Tagged,
    TriggersStarted,
    Warned,
    silent,
)
from lamella.build.metadata import StageState, apply_metadata, label_command
from lamella.build.plan import find_stage, plan_stages
from lamella.build.request import BuildOptions, BuildResult, declare_globals, open_request
from lamella.build.runner import CommandFailed, Runner
from lamella.build.snapshot import Snapshot, make_child, scratch, stage_settings
from lamella.build.steps import FileStep
from lamella.container.site import Site
from lamella.errors import BuildFailed, Conflict, InvalidArgument, LamellaError, NotFound
from lamella.model.digest import EMPTY_LAYER, DiffID, ImageID
from lamella.model.gojson import format_time, now
from lamella.model.ids import new_container_id
from lamella.model.imageconfig import ContainerSettings
from lamella.model.platform import Platform, host_platform, parse_platform
from lamella.model.reference import Reference, parse_new_name
from lamella.store.imagestore import ImageStore
from lamella.store.transactions import Transaction

__all__ = ["BuildOptions", "BuildResult", "build_image"]

_PUBLISH_AFTER = 1.0
_SECRET = re.compile(r"(?i)(^|_)(pass(word|wd|phrase)?|secret|token|api_?key|private_?key|credentials?|auth)(_|$)")
_MODE = re.compile(r"[0-7]{1,4}")


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
            build.publish()
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
            store.images.touch(image, moment=build.created() if build.is_timed else None)


class _Stage:
    """One stage while it is built."""

    def __init__(self, image: Snapshot, state: StageState) -> None:
        self.image = image
        self.state = state
        self.cached = True
        """Whether all steps so far were in the cache."""


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
        self._store = store
        self._dockerfile = dockerfile
        self._tree = tree
        self._runner = runner
        self._arguments = arguments
        self._options = options
        self._fetched: set[str] = set()
        self._report = report
        self._files = FileStep(store, tx, timestamp=options.timestamp)
        self._cache = None if options.no_cache else StepCache(store)
        self._results: dict[int, Snapshot] = {}
        self._unpublished: list[tuple[bytes, ImageID | None]] = []
        self._published_at = time.monotonic()
        self._step = 0
        self._total = 0
        self._source = ""

    @property
    def is_timed(self) -> bool:
        """Tell whether the time of all that is made was given."""
        return self._options.timestamp is not None

    def created(self) -> str:
        """Give the time that a step's image bears."""
        if self._options.timestamp is not None:
            return format_time(self._options.timestamp * 10**9)
        return format_time(now())

    def run(self, stages: Sequence[int]) -> ImageID | None:
        """Build these stages; give the last one's image, None if it is ``scratch``."""
        labels = label_command(self._options.labels)
        all_stages = self._dockerfile.stages
        self._total = len(self._dockerfile.arguments) + len(labels)
        self._total += sum(1 + len(all_stages[index].commands) for index in stages)
        for instruction in self._dockerfile.arguments:
            self._begin(instruction)
        for index in stages:
            stage = all_stages[index]
            extra = labels if index == stages[-1] else []
            self._results[index] = self._build_stage(index, [*stage.commands, *extra])
        return self._results[stages[-1]].id

    def publish(self) -> None:
        """Put the images of finished steps into the store, with their layers; durable on return."""
        for raw, parent in self._unpublished:
            self._store.images.put(raw, parent=parent, built_locally=True)
        self._unpublished.clear()
        self._published_at = time.monotonic()

    def _begin(self, instruction: ast.Instruction) -> None:
        self._step += 1
        self._source = instruction.source
        self._report(StepStarted(self._step, self._total, instruction.source))

    def _build_stage(self, index: int, commands: Sequence[ast.Command]) -> Snapshot:
        base = self._dockerfile.stages[index].base
        self._begin(base)
        with self._explained(base):
            image = self._find_base(base, index)
        state = StageState(stage_settings(image), self._arguments.for_stage(), self._dockerfile.escape)
        stage = _Stage(image, state)
        if triggers := state.settings.on_build:
            state.change(on_build=())
            self._report(TriggersStarted(len(triggers)))
            for trigger in triggers:
                with self._explained(base):
                    self._carry_out(stage, parse_trigger(trigger), index)
        self._report(StepFinished(stage.image.id))
        for command in commands:
            self._begin(command)
            with self._explained(command):
                self._carry_out(stage, command, index)
            self._report(StepFinished(stage.image.id))
            if time.monotonic() - self._published_at > _PUBLISH_AFTER:
                self.publish()
        return stage.image

    @contextmanager
    def _explained(self, instruction: ast.Instruction) -> Generator[None]:
        """Say of an error in which line it came up."""
        try:
            yield
        except LamellaError as error:
            error.add_note(f"step {self._step}/{self._total}, line {instruction.line}: {instruction.source}")
            raise

    def _find_base(self, base: ast.From, index: int) -> Snapshot:
        variables = self._arguments.global_values()
        name = expand(base.base, variables, escape=self._dockerfile.escape)
        if not name:
            raise InvalidArgument(f"base name ({base.base}) should not be blank")
        wanted: Platform | None = None
        platform = expand(base.platform, variables, escape=self._dockerfile.escape) or self._options.platform
        if platform:
            wanted = parse_platform(platform)
        earlier = None if name.isdecimal() else find_stage(self._dockerfile.stages, name, before=index)
        if earlier is not None:
            return self._results[earlier]
        if name == "scratch":
            return scratch(wanted or host_platform())
        return self._find_image(name, wanted)

    def _fetch(self, name: str, wanted: Platform | None) -> None:
        """Have an image brought in if it is missing, or once in a build if that is asked for."""
        if self._options.fetch is None or name in self._fetched:
            return
        if not self._options.pull:
            try:
                self._store.resolve(name)
            except NotFound:
                pass
            else:
                return
        self._fetched.add(name)
        self._store.root.flush()  # a pull may wait for another one's layers: it must not hold any meanwhile
        self._options.fetch(name, str(wanted or ""))

    def _find_image(self, name: str, wanted: Platform | None = None) -> Snapshot:
        self._fetch(name, wanted)
        try:
            stored = self._store.images.get(self._store.resolve(name))
        except NotFound as error:
            raise NotFound(f"No such image: {name}; load, import or pull it first") from error
        if not self._store.is_usable(stored):
            raise NotFound(f"image {name} lacks a layer; load or pull it again")
        image = Snapshot(stored.id, stored.config)
        if wanted is not None and (wanted.os, wanted.architecture) != image.platform[:2]:
            raise NotFound(
                f"image with reference {name} was found but does not match the specified platform: "
                f"wanted {wanted}, actual: {image.platform}"
            )
        if not image.config.architecture:
            architecture = host_platform().architecture
            image = image._replace(config=msgspec.structs.replace(image.config, architecture=architecture))
        return image

    def _carry_out(self, stage: _Stage, command: ast.Command, index: int) -> None:
        if isinstance(command, ast.Run):
            self._run(stage, command)
        elif isinstance(command, ast.Copy | ast.Add):
            self._copy(stage, command, index)
        elif isinstance(command, ast.Workdir):
            self._workdir(stage, command)
        else:
            text = apply_metadata(stage.state, command)
            container = self._nop(stage.state, "#(nop) ", text)
            if not self._use_cache(stage, container):
                self._commit(stage, container, EMPTY_LAYER)

    def _nop(self, state: StageState, *words: str) -> ContainerSettings:
        return msgspec.structs.replace(state.settings, cmd=(*state.shell, *words))

    def _use_cache(self, stage: _Stage, container: ContainerSettings) -> bool:
        """Take a step's image from the cache; after the first miss a stage looks no more."""
        if self._cache is None or not stage.cached:
            return False
        found = self._cache.find(stage.image, container)
        if found is None or found.id is None:
            stage.cached = False
            return False
        self._report(CacheUsed(found.id))
        self._advance(stage, found)
        return True

    def _commit(self, stage: _Stage, container: ContainerSettings, diff_id: DiffID) -> None:
        raw, child = make_child(
            stage.image,
            settings=stage.state.settings,
            container=container,
            diff_id=diff_id,
            author=stage.state.author,
            created=self.created(),
        )
        self._unpublished.append((raw, stage.image.id))
        self._advance(stage, child)

    @staticmethod
    def _advance(stage: _Stage, image: Snapshot) -> None:
        stage.image = image
        stage.state.change(image=image.id or "")

    def _run(self, stage: _Stage, command: ast.Run) -> None:
        state = stage.state
        line = state.command_line(_script_of(command), shell=command.shell)
        arguments = state.arguments.values_besides(state.settings.env)
        recorded = line
        if arguments:
            shown = sorted(f"{name}={value}" for name, value in arguments.items() if state.arguments.is_recorded(name))
            recorded = (f"|{len(shown)}", *shown, *line)
        container = msgspec.structs.replace(state.settings, cmd=recorded)
        if recorded:
            container = msgspec.structs.replace(container, entrypoint=None)
        if self._use_cache(stage, container):
            return
        env = (*state.settings.env, *(f"{name}={value}" for name, value in sorted(arguments.items())))
        running = msgspec.structs.replace(state.settings, cmd=line, env=env)
        owner = new_container_id()
        self._report(RunStarted(owner))
        try:
            diff_id = self._files.run(stage.image, self._runner, running, owner)
        except CommandFailed as failed:
            message = f"The command '{' '.join(line)}' returned a non-zero code: {failed.code}"
            error = BuildFailed(message, exit_code=failed.code)
            if tail := failed.tail.decode(errors="replace").strip():
                error.add_note("last lines:\n" + "\n".join(tail.splitlines()[-10:]))
            raise error from failed
        self._report(RunRemoved(owner))
        self._commit(stage, container, diff_id)

    def _workdir(self, stage: _Stage, command: ast.Workdir) -> None:
        state = stage.state
        path = state.expander()(command.path)
        if not path:
            raise InvalidArgument("WORKDIR: cannot normalize nothing")
        if not path.startswith("/"):
            path = posixpath.normpath(posixpath.join("/", state.settings.working_dir, path))
        state.change(working_dir=path)
        container = self._nop(state, f"#(nop) WORKDIR {path}")
        if not self._use_cache(stage, container):
            self._commit(stage, container, self._files.make_directory(stage.image, path))

    def _copy(self, stage: _Stage, command: ast.Copy | ast.Add, index: int) -> None:
        state = stage.state
        expanded = state.expander()
        name = "COPY" if isinstance(command, ast.Copy) else "ADD"
        chown, chmod = expanded(command.chown), expanded(command.chmod)
        destination = expanded(command.destination)
        mode = _parse_mode(chmod) if chmod else None
        with ExitStack() as stack:
            tree = self._tree
            from_image = isinstance(command, ast.Copy) and command.stage != ""
            if isinstance(command, ast.Copy) and from_image:
                tree = stack.enter_context(self._files.source_tree(self._find_copy_base(command.stage, index)))
            sources = find_sources(tree, [expanded(path) for path in command.sources], name) if command.sources else []
            for heredoc in command.contents:
                text = heredoc.text()
                sources.append(text_source(heredoc.name, expanded(text) if heredoc.expand else text))
            if len(sources) > 1 and not destination.endswith("/"):
                raise InvalidArgument(
                    f"When using {name} with more than one source file, the destination must be a directory and end with a /"
                )
            flags = (f"--chown={chown}" if chown else "") + (f"--chmod={chmod} " if chmod else "")
            container = self._nop(state, f"#(nop) {name} {flags}{total_sum(sources)} in {destination} ")
            if self._use_cache(stage, container):
                return
            if not destination.startswith("/"):
                slash = "/" if destination.endswith("/") else ""
                destination = posixpath.normpath(posixpath.join("/", state.settings.working_dir, destination)) + slash
            moment = time.time_ns() if self._options.timestamp is None else self._options.timestamp * 10**9
            manner = Manner(None if from_image and not chown else Owner(0, 0), mode, moment)
            unpack = isinstance(command, ast.Add) and command.unpack is not False
            diff_id = self._files.copy(stage.image, sources, destination, manner, chown, unpack=unpack)
        self._commit(stage, container, diff_id)

    def _find_copy_base(self, name: str, index: int) -> Snapshot:
        found = find_stage(self._dockerfile.stages, name, before=index)
        if found is not None and found in self._results:
            return self._results[found]
        if name.isdecimal():
            reason = "refers to current build stage" if int(name) == index else "index out of bounds"
            raise InvalidArgument(f"invalid from flag value {name}: {reason}")
        return self._find_image(name)


def _script_of(command: ast.Run) -> tuple[str, ...]:
    """Give RUN's command with its here-documents: one that is all there is becomes the command."""
    if not command.heredocs or not command.shell:
        return command.command
    (text,) = command.command
    if find_heredoc(text) is not None:
        return (command.heredocs[0].text(),)
    return ("".join([text, *(f"\n{heredoc.content}{heredoc.name}" for heredoc in command.heredocs)]),)


def _parse_mode(text: str) -> int:
    if not _MODE.fullmatch(text):
        raise InvalidArgument(f"invalid --chmod {text!r}: an octal mode such as 755 is needed")
    return int(text, 8)

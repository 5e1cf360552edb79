"""RUN: a command in a container of its own, whose writable layer becomes the image's next layer."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from hashlib import sha256
from pathlib import Path

import msgspec

from lamella.build.dockerfile import instructions as ast
from lamella.build.events import RunRemoved, RunStarted
from lamella.build.runmounts import RunMounts
from lamella.build.runner import CommandFailed
from lamella.build.stage import Stage
from lamella.container.volumes import copy_directory
from lamella.errors import BuildFailed, CommandNotExecutable, CommandNotFound, InvalidArgument, StartFailed
from lamella.fs.rooted import Root
from lamella.model.gojson import encode
from lamella.model.ids import new_container_id
from lamella.model.imageconfig import ContainerSettings
from lamella.model.platform import host_platform
from lamella.runtime.spec import MountPoint

INPUTS_LABEL = "lamella.inputs"
"""A label of the container that a step is recorded with, never of its image: the digest of what the step depends on
besides what the classic builder compares."""

_SCRIPTS = "/dev/pipes/"
_SCRIPT_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,100}")
_TAIL_LINES = 10


def run_command(stage: Stage, command: ast.Run) -> None:
    """Carry out RUN, or take its image from the cache.

    Raises BuildFailed for a non-zero exit code, StartFailed or one of its kinds if the command cannot be started.
    """
    state, services = stage.state, stage.services
    program, words = _words_of(command)
    line = state.command_line(words, shell=command.shell)
    arguments = state.arguments.values_besides(state.settings.env)
    recorded = line
    if arguments:
        shown = sorted(f"{name}={value}" for name, value in arguments.items() if state.arguments.is_recorded(name))
        recorded = (f"|{len(shown)}", *shown, *line)
    container = msgspec.structs.replace(state.settings, cmd=recorded)
    if recorded:
        container = msgspec.structs.replace(container, entrypoint=None)
    mounts = RunMounts(stage, command.mounts)
    network = "" if command.network == "default" else command.network
    container = _with_inputs(container, mounts, network, program)
    if stage.use_cache(container):
        return
    env = (*state.settings.env, *(f"{name}={value}" for name, value in sorted(arguments.items())))
    owner = new_container_id()

    def work(merged: Path) -> None:
        with (
            mounts.opened() as given,
            _program_mount(stage, program) as script,
            _volume_mounts(stage, merged, [mount.destination for mount in given.mounts]) as volumes,
        ):
            running = msgspec.structs.replace(state.settings, cmd=line, env=(*env, *given.env))
            services.runner.run(owner, merged, running, mounts=(*volumes, *given.mounts, *script), network=network)

    services.report(RunStarted(owner))
    try:
        diff_id = services.files.run(stage.image, owner, work, mounts.fill)
    except CommandFailed as failed:
        raise _failure(line, failed) from failed
    except StartFailed as error:
        if hint := _start_hint(stage, command, error):
            error.add_note(hint)
        raise
    services.report(RunRemoved(owner))
    stage.commit(container, diff_id)


def _words_of(command: ast.Run) -> tuple[ast.Heredoc | None, tuple[str, ...]]:
    """Give RUN's command with its here-documents, and the one that is a program of its own.

    One that is all there is becomes the command, or a program if it names its interpreter; several go to the shell.
    """
    if not command.heredocs or not command.shell:
        return None, command.command
    if command.script is not None:
        if not command.script.names_interpreter():
            return None, (command.script.text(),)
        if _SCRIPT_NAME.fullmatch(command.script.name) is None:
            raise InvalidArgument(f"the here-document {command.script.name[:100]!r} cannot be the name of a program")
        return command.script, (_SCRIPTS + command.script.name,)
    (text,) = command.command
    return None, ("".join([text, *(f"\n{heredoc.content}{heredoc.name}" for heredoc in command.heredocs)]),)


def _with_inputs(
    container: ContainerSettings, mounts: RunMounts, network: str, program: ast.Heredoc | None
) -> ContainerSettings:
    """Note what the classic builder would not compare; what it knows in full stays as it records it."""
    inputs: dict[str, object] = {}
    if found := mounts.inputs():
        inputs["mounts"] = found
    if network:
        inputs["network"] = network
    if program is not None:
        inputs["program"] = program.text()
    if not inputs:
        return container
    label = f"sha256:{sha256(encode(inputs)).hexdigest()}"
    return msgspec.structs.replace(container, labels={**container.labels, INPUTS_LABEL: label})


@contextmanager
def _program_mount(stage: Stage, program: ast.Heredoc | None) -> Generator[tuple[MountPoint, ...]]:
    """Hold a here-document as a file that can be executed."""
    if program is None:
        yield ()
        return
    files = stage.services.files
    with files.view(None, writable=True) as directory:
        path = directory / program.name
        path.write_bytes(program.text().encode())
        os.chmod(path, 0o755)
        yield (MountPoint(str(path), _SCRIPTS + program.name, ("ro",)),)


@contextmanager
def _volume_mounts(stage: Stage, merged: Path, taken: Sequence[str]) -> Generator[tuple[MountPoint, ...]]:
    """Hold what a command writes to the image's volumes, which begin as the image has them and are thrown away."""
    places = {posixpath.normpath("/" + path.lstrip("/")) for path in stage.state.settings.volumes}
    with ExitStack() as stack, Root(merged) as root:
        mounts = []
        for place in sorted(places - {"/"} - set(taken)):
            try:
                made = root.make_directories(os.fsencode(place), 0o755, 0, 0)
            except NotADirectoryError as error:
                raise InvalidArgument(f"volume {place}: there is a file in its place") from error
            content = stack.enter_context(stage.services.files.view(None, writable=True)) / "content"
            fd = root.open(made, os.O_RDONLY | os.O_DIRECTORY)
            try:
                copy_directory(fd, content)
            finally:
                os.close(fd)
            mounts.append(MountPoint(str(content), place))
        yield tuple(mounts)


def _failure(line: tuple[str, ...], failed: CommandFailed) -> BuildFailed:
    error = BuildFailed(
        f"The command '{' '.join(line)}' returned a non-zero code: {failed.code}", exit_code=failed.code
    )
    if failed.code == 126:
        error.add_note("126: a program was found but cannot be executed: it is not executable, or of another platform")
    elif failed.code == 127:
        error.add_note("127: a program was not found in the image: install it, or name it with its path")
    elif failed.code == 137:
        error.add_note("137: the command was killed, perhaps for lack of memory")
    if tail := failed.tail.decode(errors="replace").strip():
        error.add_note("last lines:\n" + "\n".join(tail.splitlines()[-_TAIL_LINES:]))
    return error


def _start_hint(stage: Stage, command: ast.Run, error: StartFailed) -> str:
    """Say what is likely to be wrong with a command that could not be started."""
    platform, host = stage.image.platform, host_platform()
    if isinstance(error, CommandNotExecutable):
        if platform.architecture and platform.architecture != host.architecture:
            return f"the image is for {platform}, this machine is {host}"
        return "the program is not executable, or of another platform than this machine"
    if not isinstance(error, CommandNotFound):
        return ""
    shell = stage.state.shell[0]
    if command.shell and stage.image.chain is None:
        return f'the image is empty (FROM scratch) and so has no {shell}: use the form RUN ["program", "argument"]'
    if command.shell:
        return f'is {shell} in the image? Name another with SHELL, or use the form RUN ["program", "argument"]'
    return ""

"""RUN carried out: a command in a container of its own, whose writable layer becomes the image's next layer."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
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
from lamella.model.digest import DiffID
from lamella.model.ids import new_container_id
from lamella.model.imageconfig import ContainerSettings
from lamella.model.platform import host_platform
from lamella.runtime.spec import MountPoint

_TAIL_LINES = 10


def carry_out(
    stage: Stage,
    command: ast.Run,
    settings: ContainerSettings,
    *,
    mounts: RunMounts | None,
    program: ast.Heredoc | None,
    network: str,
) -> DiffID:
    """Run the command of `settings` on the stage's image; give the diff ID of the layer it leaves.

    `program` is a here-document to mount where the command's last word says, `network` the command's own or empty.
    Raises BuildFailed for a non-zero exit code, StartFailed or one of its kinds if the command cannot be started.
    """
    services = stage.services
    mounted = mounts or RunMounts(stage, ())
    owner = new_container_id()

    def work(merged: Path) -> None:
        with (
            mounted.opened() as given,
            _program_mount(stage, program, settings.cmd or ()) as script,
            _volume_mounts(stage, merged, [mount.destination for mount in given.mounts]) as volumes,
        ):
            running = msgspec.structs.replace(settings, env=(*settings.env, *given.env))
            services.runner.run(owner, merged, running, mounts=(*volumes, *given.mounts, *script), network=network)

    services.report(RunStarted(owner))
    try:
        diff_id = services.files.run(stage.image, owner, work, mounted.fill)
    except CommandFailed as failed:
        raise _failure(settings.cmd or (), failed) from failed
    except StartFailed as error:
        if hint := _start_hint(stage, command, error):
            error.add_note(hint)
        raise
    services.report(RunRemoved(owner))
    return diff_id


@contextmanager
def _program_mount(stage: Stage, program: ast.Heredoc | None, line: Sequence[str]) -> Generator[tuple[MountPoint, ...]]:
    """Hold a here-document as a file that can be executed, mounted where the last word of `line` says."""
    if program is None:
        yield ()
        return
    files = stage.services.files
    with files.view(None, writable=True) as directory:
        path = directory / program.name
        path.write_bytes(program.text().encode())
        os.chmod(path, 0o755)
        yield (MountPoint(str(path), line[-1], ("ro",)),)


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

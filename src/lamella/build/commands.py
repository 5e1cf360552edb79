"""RUN: what it asks for, looked up in the cache or carried out."""

from __future__ import annotations

import re
from hashlib import sha256
from typing import TYPE_CHECKING

import msgspec

from lamella.build.dockerfile import instructions as ast
from lamella.build.stage import Stage
from lamella.errors import InvalidArgument
from lamella.model.gojson import encode
from lamella.model.imageconfig import ContainerSettings

if TYPE_CHECKING:
    from lamella.build.runmounts import RunMounts

INPUTS_LABEL = "lamella.inputs"
"""A label of the container that a step is recorded with, never of its image: the digest of what the step depends on
besides what the classic builder compares."""

_SCRIPTS = "/dev/pipes/"
"""Where a here-document that is a program of its own is mounted."""
_SCRIPT_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,100}")


def run_command(stage: Stage, command: ast.Run) -> None:
    """Carry out RUN, or take its image from the cache.

    Raises BuildFailed for a non-zero exit code, StartFailed or one of its kinds if the command cannot be started.
    """
    state = stage.state
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
    mounts = None
    if command.mounts:
        from lamella.build.runmounts import RunMounts

        mounts = RunMounts(stage, command.mounts)
    network = "" if command.network == "default" else command.network
    container = _with_inputs(container, mounts, network, program)
    if stage.use_cache(container):
        return
    from lamella.build.running import carry_out

    env = (*state.settings.env, *(f"{name}={value}" for name, value in sorted(arguments.items())))
    running = msgspec.structs.replace(state.settings, cmd=line, env=env)
    diff_id = carry_out(stage, command, running, mounts=mounts, program=program, network=network)
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
    container: ContainerSettings, mounts: RunMounts | None, network: str, program: ast.Heredoc | None
) -> ContainerSettings:
    """Note what the classic builder would not compare; what it knows in full stays as it records it."""
    inputs: dict[str, object] = {}
    if mounts is not None:
        inputs["mounts"] = mounts.inputs()
    if network:
        inputs["network"] = network
    if program is not None:
        inputs["program"] = program.text()
    if not inputs:
        return container
    label = f"sha256:{sha256(encode(inputs)).hexdigest()}"
    return msgspec.structs.replace(container, labels={**container.labels, INPUTS_LABEL: label})

"""RUN: a command in a container of its own, whose writable layer becomes the image's next layer."""

from __future__ import annotations

import msgspec

from lamella.build.dockerfile import instructions as ast
from lamella.build.dockerfile.lexer import find_heredoc
from lamella.build.events import RunRemoved, RunStarted
from lamella.build.runner import CommandFailed
from lamella.build.stage import Stage
from lamella.errors import BuildFailed
from lamella.model.ids import new_container_id


def run_command(stage: Stage, command: ast.Run) -> None:
    """Carry out RUN, or take its image from the cache.  Raises BuildFailed for a non-zero exit code."""
    state, services = stage.state, stage.services
    line = state.command_line(_script_of(command), shell=command.shell)
    arguments = state.arguments.values_besides(state.settings.env)
    recorded = line
    if arguments:
        shown = sorted(f"{name}={value}" for name, value in arguments.items() if state.arguments.is_recorded(name))
        recorded = (f"|{len(shown)}", *shown, *line)
    container = msgspec.structs.replace(state.settings, cmd=recorded)
    if recorded:
        container = msgspec.structs.replace(container, entrypoint=None)
    if stage.use_cache(container):
        return
    env = (*state.settings.env, *(f"{name}={value}" for name, value in sorted(arguments.items())))
    running = msgspec.structs.replace(state.settings, cmd=line, env=env)
    owner = new_container_id()
    services.report(RunStarted(owner))
    try:
        diff_id = services.files.run(stage.image, services.runner, running, owner)
    except CommandFailed as failed:
        message = f"The command '{' '.join(line)}' returned a non-zero code: {failed.code}"
        error = BuildFailed(message, exit_code=failed.code)
        if tail := failed.tail.decode(errors="replace").strip():
            error.add_note("last lines:\n" + "\n".join(tail.splitlines()[-10:]))
        raise error from failed
    services.report(RunRemoved(owner))
    stage.commit(container, diff_id)


def _script_of(command: ast.Run) -> tuple[str, ...]:
    """Give RUN's command with its here-documents: one that is all there is becomes the command."""
    if not command.heredocs or not command.shell:
        return command.command
    (text,) = command.command
    if find_heredoc(text) is not None:
        return (command.heredocs[0].text(),)
    return ("".join([text, *(f"\n{heredoc.content}{heredoc.name}" for heredoc in command.heredocs)]),)

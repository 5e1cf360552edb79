"""COPY, ADD and WORKDIR: what they ask for, looked up in the cache or carried out."""

from __future__ import annotations

import posixpath
import re
import time
from contextlib import ExitStack

from lamella.build.copyfiles import Manner, Owner, find_sources, text_source, total_sum
from lamella.build.dockerfile import instructions as ast
from lamella.build.stage import Stage
from lamella.errors import InvalidArgument

_MODE = re.compile(r"[0-7]{1,4}")


def make_workdir(stage: Stage, command: ast.Workdir) -> None:
    """Carry out WORKDIR: the directory is made if it is missing."""
    state = stage.state
    path = state.expander()(command.path)
    if not path:
        raise InvalidArgument("WORKDIR: cannot normalize nothing")
    if not path.startswith("/"):
        path = posixpath.normpath(posixpath.join("/", state.settings.working_dir, path))
    state.change(working_dir=path)
    container = stage.nop(f"#(nop) WORKDIR {path}")
    if not stage.use_cache(container):
        stage.commit(container, stage.services.files.make_directory(stage.image, path))


def copy_files(stage: Stage, command: ast.Copy | ast.Add) -> None:
    """Carry out COPY or ADD, or take its image from the cache, which is keyed on the sources' content."""
    state, services = stage.state, stage.services
    expanded = state.expander()
    name = "COPY" if isinstance(command, ast.Copy) else "ADD"
    chown, chmod = expanded(command.chown), expanded(command.chmod)
    destination = expanded(command.destination)
    mode = _parse_mode(chmod) if chmod else None
    with ExitStack() as stack:
        tree = services.tree
        from_image = isinstance(command, ast.Copy) and command.stage != ""
        if isinstance(command, ast.Copy) and from_image:
            tree = stack.enter_context(
                services.files.source_tree(services.bases.find_source(command.stage, stage.index))
            )
        sources = find_sources(tree, [expanded(path) for path in command.sources], name) if command.sources else []
        for heredoc in command.contents:
            text = heredoc.text()
            sources.append(text_source(heredoc.name, expanded(text) if heredoc.expand else text))
        if len(sources) > 1 and not destination.endswith("/"):
            raise InvalidArgument(
                f"When using {name} with more than one source file, the destination must be a directory and end with a /"
            )
        flags = (f"--chown={chown}" if chown else "") + (f"--chmod={chmod} " if chmod else "")
        container = stage.nop(f"#(nop) {name} {flags}{total_sum(sources)} in {destination} ")
        if stage.use_cache(container):
            return
        if not destination.startswith("/"):
            slash = "/" if destination.endswith("/") else ""
            destination = posixpath.normpath(posixpath.join("/", state.settings.working_dir, destination)) + slash
        timestamp = services.options.timestamp
        moment = time.time_ns() if timestamp is None else timestamp * 10**9
        manner = Manner(None if from_image and not chown else Owner(0, 0), mode, moment)
        unpack = isinstance(command, ast.Add) and command.unpack is not False
        diff_id = services.files.copy(stage.image, sources, destination, manner, chown, unpack=unpack)
    stage.commit(container, diff_id)


def _parse_mode(text: str) -> int:
    if not _MODE.fullmatch(text):
        raise InvalidArgument(f"invalid --chmod {text!r}: an octal mode such as 755 is needed")
    return int(text, 8)

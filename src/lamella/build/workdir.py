"""WORKDIR: the directory of the commands that follow, made if it is missing."""

from __future__ import annotations

import posixpath

from lamella.build.dockerfile import instructions as ast
from lamella.build.stage import Stage
from lamella.errors import InvalidArgument


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

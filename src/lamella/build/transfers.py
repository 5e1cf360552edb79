"""COPY and ADD: what they ask for, looked up in the cache or carried out."""

from __future__ import annotations

import posixpath
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from lamella.build.context import SourceTree
from lamella.build.dockerfile import instructions as ast
from lamella.build.events import Warned
from lamella.build.ignore import parse_excluded
from lamella.build.sources import UNNAMED, Finder, Source, is_remote, text_source, total_sum
from lamella.build.stage import Stage
from lamella.errors import InvalidArgument

_OLDEST = 315_532_800
"""1980, the first year that every archive format knows: the time in a linked layer of what has none of its own."""


def copy_files(stage: Stage, command: ast.Copy | ast.Add) -> None:
    """Carry out COPY or ADD, or take its image from the cache, which is keyed on the sources' content."""
    state, services = stage.state, stage.services
    expanded = state.expander()
    name = "COPY" if isinstance(command, ast.Copy) else "ADD"
    chown = expanded(command.chown)
    chmod = None
    if command.chmod:
        from lamella.build.chmod import parse_chmod

        chmod = parse_chmod(expanded(command.chmod))
    destination = expanded(command.destination)
    with ExitStack() as stack:
        tree = services.tree
        from_image = isinstance(command, ast.Copy) and command.stage != ""
        if isinstance(command, ast.Copy) and from_image:
            tree = stack.enter_context(
                services.files.source_tree(services.bases.find_source(command.stage, stage.index))
            )
        sources = _find_sources(stage, command, name, tree, expanded, stack)
        if len(sources) > 1 and not destination.endswith("/") and not all(source.is_directory for source in sources):
            raise InvalidArgument(
                f"When using {name} with more than one source file, the destination must be a directory and end with a /"
            )
        _refuse_nameless(sources, destination)
        flags = _shown_flags(command, expanded)
        container = stage.nop(f"#(nop) {name} {flags}{total_sum(sources)} in {destination} ")
        if stage.use_cache(container):
            return
        from lamella.build.copyfiles import Manner, Owner

        slash = "/" if destination.endswith("/") else ""
        path = posixpath.normpath(posixpath.join("/", state.settings.working_dir, destination))
        destination = "/" + path.lstrip("/") + slash
        manner = Manner(
            None if from_image and not chown else Owner(0, 0), chmod, _moment(stage, command), whole_seconds=True
        )
        unpack = isinstance(command, ast.Add) and command.unpack is not False
        diff_id = services.files.copy(
            stage.image, sources, destination, manner, chown, unpack=unpack, link=command.link
        )
    stage.commit(container, diff_id)


def _find_sources(
    stage: Stage,
    command: ast.Copy | ast.Add,
    name: str,
    tree: SourceTree,
    expanded: Callable[[str], str],
    stack: ExitStack,
) -> list[Source]:
    """Find and sum what is copied; downloads live as long as `stack`."""
    patterns = [expanded(path) for path in command.sources]
    fetch: Callable[[str], Source] | None = None
    parents = False
    if isinstance(command, ast.Copy):
        parents = command.parents
    else:
        checksum = expanded(command.checksum)
        if checksum and len(patterns) != 1:
            raise InvalidArgument("ADD failed: checksum can't be specified for multiple sources")
        if checksum and not is_remote(patterns[0]):
            raise InvalidArgument("ADD failed: checksum requires HTTP(S) or Git sources")

        def bring_in(url: str) -> Source:
            from lamella.build.remote import RemoteSource

            asked = RemoteSource(url, checksum, command.keep_git_dir, command.unpack is True)
            return stack.enter_context(asked.opened(stage.services.options.proxies))

        fetch = bring_in
    excluded = parse_excluded([expanded(pattern) for pattern in command.exclude])
    finder = Finder(tree, name, excluded, parents, fetch)
    sources = finder.find(patterns)
    for heredoc in command.contents:
        text = heredoc.text()
        sources.append(text_source(heredoc.name, stage.state.expand_text(text) if heredoc.expand else text))
    if not sources:
        stage.services.report(Warned(f"{name} {' '.join(patterns)}: no file matches, nothing is copied"))
    return sources


def _refuse_nameless(sources: Sequence[Source], destination: str) -> None:
    if destination.endswith("/") and any(source.name == UNNAMED.encode() for source in sources):
        raise InvalidArgument(
            f"ADD failed: cannot determine filename for source: the URL ends without one; name the file in "
            f"the destination instead of {destination}"
        )


def _shown_flags(command: ast.Copy | ast.Add, expanded: Callable[[str], str]) -> str:
    """Give the flags as history shows them, and the cache compares them; without any as the classic builder does."""
    shown = ""
    if command.link:
        shown += "--link "
    if isinstance(command, ast.Copy) and command.parents:
        shown += "--parents "
    if isinstance(command, ast.Add):
        if command.unpack is not None:
            shown += f"--unpack={str(command.unpack).lower()} "
        if command.keep_git_dir:
            shown += "--keep-git-dir "
    shown += "".join(f"--exclude={expanded(pattern)} " for pattern in command.exclude)
    if command.chmod:
        shown += f"--chmod={expanded(command.chmod)} "
    # The classic builder knows this flag alone, and puts no blank after it.
    return shown + (f"--chown={expanded(command.chown)}" if command.chown else "")


def _moment(stage: Stage, command: ast.Copy | ast.Add) -> int:
    """Give the time of what has none of its own, in nanoseconds.

    A linked layer is the same whenever it is made, so the clock has no part in it.
    """
    timestamp = stage.services.options.timestamp
    if timestamp is not None:
        return timestamp * 10**9
    return _OLDEST * 10**9 if command.link else time.time_ns()

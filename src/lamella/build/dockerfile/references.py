"""The words of an instruction that may refer to variables, and which variables they refer to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from lamella.build.dockerfile import instructions as ast
from lamella.build.dockerfile.expand import expand, expand_text

# mypy: disable-error-code="explicit-override"


class NotedVariables(Mapping[str, str]):
    """Variables that note which of them are asked for."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = dict(values)
        self.found: dict[str, None] = {}
        self.missing: dict[str, None] = {}

    def __getitem__(self, name: str) -> str:
        value = self._values.get(name)
        if value is None:
            self.missing[name] = None
            raise KeyError(name)
        self.found[name] = None
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def completed(self) -> NotedVariables:
        """Give a copy in which all that was missing is there."""
        return NotedVariables({**dict.fromkeys(self.missing, "x"), **self._values})

    def define(self, name: str) -> None:
        """Add a name of which only matters that it is there."""
        self._values.setdefault(name, "")


def expand_all(command: ast.Command, variables: NotedVariables, is_given: Callable[[str], bool], escape: str) -> None:
    """Replace all variables of an instruction, for what `variables` notes meanwhile.

    `is_given` tells of an argument whether its default does not matter.  Raises InvalidArgument.
    """
    for defined, word in _words_of(command, is_given):
        expand(word, variables, escape=escape)
        if defined:
            variables.define(defined)
    if isinstance(command, ast.Copy | ast.Add):
        for heredoc in command.contents:
            if heredoc.expand:
                expand_text(heredoc.text(), variables)


def _words_of(command: ast.Command, is_given: Callable[[str], bool]) -> Iterator[tuple[str, str]]:
    """Yield the words in which a build replaces variables and reports those missing, after what each defines at once."""
    words: Sequence[str] = ()
    match command:
        case ast.Env() | ast.Label():
            literal = isinstance(command, ast.Label) and command.literal
            words = [] if literal else [word for pair in command.pairs for word in pair]
        case ast.Copy():
            words = (command.chown, command.chmod, *command.sources, command.destination)
        case ast.Add():
            words = (command.chown, command.chmod, command.checksum, *command.sources, command.destination)
        case ast.Workdir():
            words = (command.path,)
        case ast.User():
            words = (command.user,)
        case ast.Volume():
            words = command.paths
        case ast.StopSignal():
            words = (command.signal,)
        case ast.Run():
            words = [mount.text for mount in command.mounts]
        case ast.Arg():
            for argument in command.arguments:
                yield argument.name, "" if is_given(argument.name) else argument.default or ""
        case _:
            pass
    yield from (("", word) for word in words)

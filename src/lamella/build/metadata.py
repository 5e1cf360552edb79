"""Instructions that change nothing but settings: ENV, LABEL, CMD and their kin.

Pure: each gives the settings after it and the words under which the step stands in the history.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import assert_never

import msgspec

from lamella.build.arguments import BuildArguments
from lamella.build.dockerfile import instructions as ast
from lamella.build.dockerfile.expand import expand, expand_text, expand_words
from lamella.build.gotext import plain_list, quoted_list
from lamella.errors import InvalidArgument
from lamella.model.changes import check_signal, parse_ports, set_variable
from lamella.model.goprint import quote, quote_rune
from lamella.model.imageconfig import ContainerSettings, Healthcheck

_DEFAULT_SHELL = ("/bin/sh", "-c")

MetadataCommand = (
    ast.Arg
    | ast.Env
    | ast.Label
    | ast.Maintainer
    | ast.Cmd
    | ast.Entrypoint
    | ast.User
    | ast.Expose
    | ast.Volume
    | ast.Shell
    | ast.StopSignal
    | ast.Healthcheck
    | ast.OnBuild
)


class StageState:
    """What a stage has come to, apart from its image."""

    def __init__(self, settings: ContainerSettings, arguments: BuildArguments, escape: str) -> None:
        self.settings = settings
        self.arguments = arguments
        self.author = ""
        self.has_cmd = False
        self._escape = escape

    def change(self, **fields: object) -> None:
        """Change fields of the settings."""
        self.settings = msgspec.structs.replace(self.settings, **fields)

    def variables(self) -> dict[str, str]:
        """Give what an instruction's words may use: the environment, then the build arguments."""
        found = self.arguments.values()
        found.update((name, value) for name, _, value in (entry.partition("=") for entry in self.settings.env))
        return found

    def expander(self) -> Callable[[str], str]:
        """Give the function that replaces variables as of now: an instruction does not see its own changes."""
        variables = self.variables()
        return lambda word: expand(word, variables, escape=self._escape)

    def expand_text(self, text: str) -> str:
        """Replace the variables of a here-document that becomes a file."""
        return expand_text(text, self.variables())

    def words(self, text: str) -> list[str]:
        """Replace variables and split into words."""
        return expand_words(text, self.variables(), escape=self._escape)

    def command_line(self, command: tuple[str, ...], *, shell: bool) -> tuple[str, ...]:
        """Give a command as it is run: the shell form has the shell before it."""
        return (*self.shell, *command) if shell else command

    @property
    def shell(self) -> tuple[str, ...]:
        """Give the shell in force."""
        return self.settings.shell or _DEFAULT_SHELL


def apply_metadata(state: StageState, command: MetadataCommand) -> str:
    """Change the state as `command` says; give the history's words, such as ``ENV a=b``."""
    expanded = state.expander()
    match command:
        case ast.Env():
            pairs = [ast.Pair(expanded(pair.name), expanded(pair.value)) for pair in command.pairs]
            env = state.settings.env
            for pair in pairs:
                if not pair.name:
                    raise InvalidArgument("ENV names can not be blank")
                env = set_variable(env, pair.name, pair.value)
            state.change(env=env)
            return " ".join(["ENV", *map(str, pairs)])
        case ast.Label():
            pairs = list(command.pairs)
            if not command.literal:
                pairs = [ast.Pair(expanded(pair.name), expanded(pair.value)) for pair in pairs]
            state.change(labels={**state.settings.labels, **{pair.name: pair.value for pair in pairs}})
            return " ".join(["LABEL", *map(str, pairs)])
        case ast.Arg():
            return _arg(state, command)
        case ast.Maintainer():
            state.author = command.name
            return f"MAINTAINER {command.name}"
        case ast.Cmd():
            line = state.command_line(command.command, shell=command.shell)
            state.change(cmd=line, args_escaped=False)
            state.has_cmd = bool(command.command)
            return f"CMD {quoted_list(line)}"
        case ast.Entrypoint():
            line = state.command_line(command.command, shell=command.shell) if command.command else ()
            state.change(entrypoint=line or None, args_escaped=False)
            if not state.has_cmd:
                state.change(cmd=None)
            return f"ENTRYPOINT {quoted_list(line)}"
        case ast.User():
            user = expanded(command.user)
            state.change(user=user)
            return f"USER {user}"
        case ast.Expose():
            ports = [port for text in command.ports for port in state.words(text)]
            exposed = {*state.settings.exposed_ports, *(port for text in ports for port in parse_ports(text))}
            state.change(exposed_ports=tuple(sorted(exposed)))
            return " ".join(["EXPOSE", *ports])
        case ast.Volume():
            paths = [expanded(path) for path in command.paths]
            if "" in paths:
                raise InvalidArgument("VOLUME specified can not be an empty string")
            state.change(volumes=tuple(sorted({*state.settings.volumes, *paths})))
            return f"VOLUME {plain_list(paths)}"
        case ast.Shell():
            state.change(shell=command.command)
            return f"SHELL {plain_list(command.command)}"
        case ast.StopSignal():
            signal = check_signal(expanded(command.signal))
            state.change(stop_signal=signal)
            return f"STOPSIGNAL {signal}"
        case ast.Healthcheck():
            return _healthcheck(state, command)
        case ast.OnBuild():
            state.change(on_build=(*state.settings.on_build, command.trigger))
            return f"ONBUILD {command.trigger}"
        case _:
            assert_never(command)


def label_command(labels: Mapping[str, str]) -> list[ast.Label]:
    """Make the LABEL instructions that ``--label`` asks for."""
    return [
        ast.Label(0, f"LABEL {name}={value}", (ast.Pair(name, value),), literal=True)
        for name, value in sorted(labels.items())
    ]


def _arg(state: StageState, command: ast.Arg) -> str:
    """Take the arguments one by one: a default may use those before it."""
    parts: list[str] = []
    for argument in command.arguments:
        expanded = state.expander()
        name = expanded(argument.name)
        default = argument.default
        if default is not None:
            try:
                default = expanded(default)
            except InvalidArgument:
                if not state.arguments.is_given(name):
                    raise
        state.arguments.declare(name, default)
        parts.append(name if default is None else f"{name}={default}")
    return " ".join(["ARG", *parts])


def _healthcheck(state: StageState, command: ast.Healthcheck) -> str:
    from lamella.model.units import format_duration

    check = Healthcheck(
        test=command.test,
        interval=command.interval,
        timeout=command.timeout,
        start_period=command.start_period,
        start_interval=command.start_interval,
        retries=command.retries,
    )
    # A time that is not given stays what it was, as where Docker makes a container of an image's settings.
    before = state.settings.healthcheck or Healthcheck()
    kept = {
        name: getattr(check, name) or getattr(before, name)
        for name in ("interval", "timeout", "start_period", "start_interval", "retries")
    }
    state.change(healthcheck=msgspec.structs.replace(check, **kept))
    times = [check.interval, check.timeout, check.start_period]
    if check.start_interval:  # Docker 25 and newer always write it; older ones do not know it
        times.append(check.start_interval)
    shown = " ".join(quote(format_duration(time)) for time in times)
    return f"HEALTHCHECK &{{{quoted_list(check.test)} {shown} {quote_rune(check.retries)}}}"

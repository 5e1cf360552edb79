"""The linter: what is likely a mistake in a Dockerfile that can be built, by the rules and names of Docker's own.

It walks the stages as a build does, carrying out what only changes settings, so that it knows the variables at each
instruction.  Of a base image it knows the variables that it is told; where it is told none, a name in capitals that
nothing in the file defines may be the image's, and is only reported if it looks like a misspelt one.
"""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from lamella.build.arguments import CHECK, BuildArguments, automatic_arguments
from lamella.build.dockerfile import instructions as ast
from lamella.build.dockerfile.expand import expand
from lamella.build.dockerfile.flags import suggestion
from lamella.build.dockerfile.lexer import Lexer, LogicalLine, blank_separated, error_at
from lamella.build.dockerfile.mounts import expand_mount
from lamella.build.dockerfile.parser import parse_dockerfile
from lamella.build.dockerfile.readers import quoted_words
from lamella.build.dockerfile.references import NotedVariables, expand_all
from lamella.build.dockerfile.rules import CheckOptions, Finding, excerpt, names_secret, parse_check
from lamella.build.ignore import NOTHING_IGNORED, IgnoreRules
from lamella.build.metadata import StageState, apply_metadata
from lamella.build.plan import find_stage, plan_stages
from lamella.build.request import declare_globals
from lamella.build.snapshot import DEFAULT_PATH
from lamella.errors import InvalidArgument
from lamella.model.goprint import quote
from lamella.model.imageconfig import ContainerSettings
from lamella.model.platform import parse_platform
from lamella.model.reference import parse_reference

__all__ = ["CheckedDockerfile", "Finding", "check_dockerfile", "names_secret"]

_RESERVED = frozenset({"context", "scratch"})
_PROTOCOLS = frozenset({"", "tcp", "udp", "sctp"})
_UNSEEN = frozenset({"BUILDKIT_SBOM_SCAN_CONTEXT", "BUILDKIT_SBOM_SCAN_STAGE"})

FindSettings = Callable[[str], ContainerSettings | None]
"""Gives the settings of an image by name, None if it is not known."""


class CheckedDockerfile(NamedTuple):
    """What the linter has to say."""

    text: str

    findings: tuple[Finding, ...]
    """In the order of their lines."""
    error: InvalidArgument | None
    """Why the file cannot be built at all; the findings are then those up to there."""
    strict: bool
    """Whether ``# check=error=true`` asks that findings fail the build."""

    def excerpt(self, finding: Finding, filename: str) -> str:
        """Show the lines that a finding is about, under the file's name, ending in a newline."""
        return excerpt(self.text, finding, filename)

    def refuse(self) -> None:
        """Raise InvalidArgument if there are findings and the file wants them to be errors."""
        if self.strict and self.findings:
            rules = ", ".join(sorted({finding.rule for finding in self.findings}))
            raise InvalidArgument(f"lint violation found for rules: {rules}; {self.findings[0]}")


def check_dockerfile(
    raw: bytes | str,
    *,
    build_args: Mapping[str, str] | None = None,
    target: str = "",
    platform: str = "",
    stages: Sequence[int] | None = None,
    ignore: IgnoreRules = NOTHING_IGNORED,
    find_settings: FindSettings | None = None,
) -> CheckedDockerfile:
    """Check a Dockerfile: all of its stages, those that `target` needs, or those whose numbers are `stages`.

    `ignore` is the context's `.dockerignore`; `find_settings` looks up base images.  Nothing is raised for what the file
    says: see `CheckedDockerfile.error`.
    """
    text = raw if isinstance(raw, str) else raw.decode(errors="replace")
    checker = _Checker(text, dict(build_args or {}), ignore, find_settings or (lambda _name: None))
    error: InvalidArgument | None = None
    try:
        checker.check(target, platform, stages)
    except InvalidArgument as refused:
        error = refused
    findings = tuple(sorted(checker.findings, key=lambda each: each.first))
    return CheckedDockerfile(text, findings, error, checker.options.error)


class _StageView:
    """What the linter knows of a stage."""

    def __init__(self, state: StageState, *, is_known: bool, has_workdir: bool) -> None:
        self.state = state
        self.is_known = is_known
        """Whether all variables of the base image are known."""
        self.has_workdir = has_workdir
        self.only_once: dict[type[ast.Instruction], LogicalLine] = {}


class _Checker:
    """One reading of one file."""

    def __init__(self, text: str, build_args: dict[str, str], ignore: IgnoreRules, find_settings: FindSettings) -> None:
        self.findings: list[Finding] = []
        self.options = CheckOptions()
        self._text = text
        self._given = build_args
        self._ignore = ignore
        self._find_settings = find_settings
        self._lines: dict[int, LogicalLine] = {}
        self._views: dict[int, _StageView] = {}
        self._reported: set[tuple[int, str]] = set()

    def check(self, target: str, platform: str, chosen: Sequence[int] | None) -> None:
        """Look at everything; raises InvalidArgument for what no build would take."""
        lexer = Lexer(self._text)
        refused: InvalidArgument | None = None
        try:
            for line in lexer.lines():
                self._lines[line.number] = line
        except InvalidArgument as error:
            refused = error
        self.options = parse_check(self._given.get(CHECK, lexer.check))
        for line in self._lines.values():
            if line.holds_blank:
                self._report("NoEmptyContinuation", line._replace(number=line.end), "Empty continuation line")
            self._check_words(line)
        if refused is not None:
            raise refused
        dockerfile = parse_dockerfile(self._text)
        stages = dockerfile.stages
        self._check_names(stages)
        self._check_casing(stages)
        self._check_defaults(dockerfile)
        wanted = parse_platform(platform) if platform else None
        arguments = BuildArguments(self._given, automatic_arguments(wanted, target or stages[-1].base.name))
        declare_globals(dockerfile, arguments)
        values = arguments.global_values()
        bases = [self._check_from(stage.base, arguments, dockerfile.escape) for stage in stages]
        if chosen is None:
            chosen = plan_stages(dockerfile, target, values) if target else range(len(stages))
        for index in chosen:
            self._check_stage(dockerfile, index, bases[index], arguments)

    def _report(self, rule: str, line: LogicalLine, message: str, *, local: bool = True) -> None:
        """Note a finding unless the rule is off, by the file's options or, if `local`, those before the line."""
        options = self.options.merged(line.comments) if local else self.options
        if options.allows(rule):
            self.findings.append(Finding(rule, message, line.number, max(line.end, line.number)))

    def _check_words(self, line: LogicalLine) -> None:
        """Check what the words of one instruction show."""
        keyword, words = line.keyword, blank_separated(line.rest)
        name = keyword.lower()
        if name == "maintainer":
            self._report("MaintainerDeprecated", line, "Maintainer instruction is deprecated in favor of using label")
        defined: list[str] = []
        if name == "from" and len(words) == 3:
            _base, separator, stage = words
            defined = [stage.lower()]
            if stage != stage.lower():
                self._report("StageNameCasing", line, f"Stage name '{stage}' should be lowercase")
            if (keyword.islower() and not separator.islower()) or (keyword.isupper() and not separator.isupper()):
                self._report("FromAsCasing", line, f"'{separator}' and '{keyword}' keywords' casing do not match")
        elif name == "arg":
            defined = [word.partition("=")[0] for word in words]
        if defined and line.comments and line.comments[-1].partition(" ")[0] not in defined:
            example = defined[0] if len(defined) == 1 else "<arg_key>"
            message = f"Comment for {keyword.upper()} should follow the format: `# {example} <description>`"
            self._report("InvalidDefinitionDescription", line, message)

    def _check_names(self, stages: Sequence[ast.Stage]) -> None:
        names: set[str] = set()
        for base in (stage.base for stage in stages if stage.base.name):
            line = self._lines[base.line]
            if base.name in _RESERVED:
                message = f"Stage name should not use the same name as reserved stage {quote(base.name)}"
                self._report("ReservedStageName", line, message, local=False)
            if base.name in names:
                message = f"Duplicate stage name {quote(base.name)}, stage names should be unique"
                self._report("DuplicateStageName", line, message, local=False)
            names.add(base.name)

    def _check_casing(self, stages: Sequence[ast.Stage]) -> None:
        instructions: list[ast.Instruction] = []
        for stage in stages:
            instructions += [stage.base, *stage.commands]
        lines = [self._lines[instruction.line] for instruction in instructions]
        counts = Counter("lower" if line.keyword.islower() else "upper" for line in lines if _is_one_case(line.keyword))
        is_lower = counts["lower"] > counts["upper"]
        for line in lines:
            if line.keyword != (line.keyword.lower() if is_lower else line.keyword.upper()):
                casing = "lowercase" if is_lower else "uppercase"
                message = f"Command '{line.keyword}' should match the case of the command majority ({casing})"
                self._report("ConsistentInstructionCasing", line, message, local=False)

    def _check_defaults(self, dockerfile: ast.Dockerfile) -> None:
        """Check that each FROM names an image without any ``--build-arg``, too."""
        defaults = BuildArguments({}, automatic_arguments(None, dockerfile.stages[-1].base.name))
        try:
            declare_globals(dockerfile, defaults)
            names = [
                expand(stage.base.base, defaults.global_values(), escape=dockerfile.escape)
                for stage in dockerfile.stages
            ]
        except InvalidArgument:
            return  # it is refused below, or builds with the arguments given
        for stage, name in zip(dockerfile.stages, names, strict=True):
            if not _is_reference(name):
                message = f"Default value for ARG {stage.base.base} results in empty or invalid base image name"
                self._report("InvalidDefaultArgInFrom", self._lines[stage.base.line], message, local=False)

    def _check_from(self, base: ast.From, arguments: BuildArguments, escape: str) -> str:
        """Check a FROM; give the base's name."""
        line = self._lines[base.line]
        variables = NotedVariables(arguments.global_values())
        name = self._expand(line, base.base, variables, escape)
        self._report_undeclared(line, variables, arguments)
        if not name:
            raise error_at(base.line, f"base name ({base.base}) should not be blank", line.text)
        if not _is_reference(name):
            raise error_at(base.line, f"failed to parse stage name {quote(name[:200])}: invalid reference", line.text)
        if base.platform:
            variables = NotedVariables(arguments.global_values())
            platform = self._expand(line, base.platform, variables, escape)
            self._report_undeclared(line, variables, arguments)
            self._check_platform(line, base, platform, variables)
        return name

    def _check_platform(self, line: LogicalLine, base: ast.From, platform: str, variables: NotedVariables) -> None:
        if not platform:
            raise error_at(base.line, f"empty platform value from expression {base.platform}", line.text)
        parsed = parse_platform(platform)
        if list(variables.found) == ["TARGETPLATFORM"] and not variables.missing:
            if platform == variables["TARGETPLATFORM"]:
                message = f"Setting platform to predefined {base.platform} in FROM is redundant as this is the default behavior"
                self._report("RedundantTargetPlatform", line, message)
        elif not variables.found and not variables.missing:
            if parsed.os in base.name or parsed.architecture in base.name:
                return
            message = f"FROM --platform flag should not use constant value {quote(platform)}"
            self._report("FromPlatformFlagConstDisallowed", line, message)

    def _report_undeclared(self, line: LogicalLine, variables: NotedVariables, arguments: BuildArguments) -> None:
        declared = arguments.declared_global()
        for name in variables.missing:
            if name not in declared:
                hint = suggestion(name, sorted(declared), exact_case=True)
                self._report("UndefinedArgInFrom", line, f"FROM argument '{name}' is not declared{hint}")

    def _expand(self, line: LogicalLine, word: str, variables: Mapping[str, str], escape: str) -> str:
        try:
            return expand(word, variables, escape=escape)
        except InvalidArgument as error:
            raise error_at(line.number, str(error), line.text) from error

    def _check_stage(self, dockerfile: ast.Dockerfile, index: int, base: str, arguments: BuildArguments) -> None:
        view = self._begin(dockerfile, index, base, arguments)
        self._views[index] = view
        for command in dockerfile.stages[index].commands:
            line = self._lines[command.line]
            missing = self._check_variables(line, command, view, dockerfile.escape)
            is_certain = view.is_known or not missing
            try:
                self._check_command(line, command, view, dockerfile, index)
                if not isinstance(command, ast.Run | ast.Copy | ast.Add | ast.Workdir):
                    apply_metadata(view.state, command)
            except InvalidArgument as error:
                if is_certain:
                    raise error_at(line.number, str(error), line.text) from error

    def _begin(self, dockerfile: ast.Dockerfile, index: int, base: str, arguments: BuildArguments) -> _StageView:
        """Give what is known at the start of a stage."""
        earlier = None if base.isdecimal() else find_stage(dockerfile.stages, base, before=index)
        if earlier is not None and (parent := self._views.get(earlier)) is not None:
            local = arguments.for_stage(parent.state.arguments)
            state = StageState(parent.state.settings, local, dockerfile.escape)
            state.change(on_build=())
            return _StageView(state, is_known=parent.is_known, has_workdir=parent.has_workdir)
        settings = ContainerSettings() if base == "scratch" else self._find_settings(base)
        state = StageState(settings or ContainerSettings(), arguments.for_stage(), dockerfile.escape)
        if not any(entry.startswith("PATH=") for entry in state.settings.env):
            state.change(env=(*state.settings.env, DEFAULT_PATH))
        return _StageView(state, is_known=settings is not None, has_workdir=False)

    def _check_variables(self, line: LogicalLine, command: ast.Command, view: _StageView, escape: str) -> list[str]:
        """Report the variables that an instruction uses and nothing defines; give their names."""
        values, is_given = view.state.variables(), view.state.arguments.is_given
        variables = NotedVariables(values)
        try:
            expand_all(command, variables, is_given, escape)
        except InvalidArgument as error:
            try:
                if not view.is_known:  # what it lacks may be the image's; is it wrong with that, too?
                    expand_all(command, variables.completed(), is_given, escape)
            except InvalidArgument:
                raise error_at(line.number, str(error), line.text) from error
            if view.is_known:
                raise error_at(line.number, str(error), line.text) from error
        missing = [name for name in variables.missing if name not in view.state.arguments.declared() | _UNSEEN]
        names = values.keys() if view.is_known else values.keys() - {"PATH"}
        for name in missing:
            hint = suggestion(name, sorted(names), exact_case=True)
            if view.is_known or hint or name != name.upper():
                hint = hint.replace("mean ", "mean $")
                self._report("UndefinedVar", line, f"Usage of undefined variable '${name}'{hint}")
        return missing

    def _check_command(
        self, line: LogicalLine, command: ast.Command, view: _StageView, dockerfile: ast.Dockerfile, index: int
    ) -> None:
        """Check what one instruction of a stage does."""
        keyword, expanded = line.keyword, view.state.expander()
        if isinstance(command, ast.Cmd | ast.Entrypoint | ast.Healthcheck):
            if (before := view.only_once.get(type(command))) is not None:
                message = f"Multiple {keyword} instructions should not be used in the same stage because only the last one will be used"
                self._report("MultipleInstructionsDisallowed", before, message)
            view.only_once[type(command)] = line
        match command:
            case ast.Cmd() | ast.Entrypoint():
                if command.shell and not view.state.settings.shell:
                    message = (
                        f"JSON arguments recommended for {keyword} to prevent unintended behavior related to OS signals"
                    )
                    self._report("JSONArgsRecommended", line, message)
            case ast.Env() | ast.Label():
                if "=" not in quoted_words(line.rest, dockerfile.escape)[0]:
                    message = f'"{keyword} key=value" should be used instead of legacy "{keyword} key value" format'
                    self._report("LegacyKeyValueFormat", line, message)
                if isinstance(command, ast.Env):
                    self._report_secrets(line, "ENV", [expanded(pair.name) for pair in command.pairs])
            case ast.Arg():
                self._report_secrets(line, "ARG", [argument.name for argument in command.arguments])
            case ast.Workdir():
                path = expanded(command.path)
                if not view.has_workdir and not path.startswith("/"):
                    message = f"Relative workdir {quote(path)} can have unexpected results if the base image changes"
                    self._report("WorkdirRelativePath", line, message)
                view.has_workdir = True
            case ast.Expose():
                for port in (port for text in command.ports for port in view.state.words(text)):
                    self._check_port(line, port)
            case ast.Copy() | ast.Add():
                self._check_transfer(line, command, [expanded(path) for path in command.sources], dockerfile, index)
            case ast.Run():
                for mount in command.mounts:
                    expand_mount(mount, expanded)
            case _:
                pass

    def _report_secrets(self, line: LogicalLine, instruction: str, names: Sequence[str]) -> None:
        for name in filter(names_secret, names):
            message = f"Do not use ARG or ENV instructions for sensitive data ({instruction} {quote(name)})"
            self._report("SecretsUsedInArgOrEnv", line, message)

    def _check_port(self, line: LogicalLine, port: str) -> None:
        *host, inside = port.split(":")
        protocol = inside.partition("/")[2]
        if protocol != protocol.lower() and protocol.lower() in _PROTOCOLS:
            message = f"Defined protocol '{port}' in EXPOSE instruction should be lowercase"
            self._report("ExposeProtoCasing", line, message)
        if any(host):
            message = f"EXPOSE instruction should not define an IP address or host-port mapping, found '{port}'"
            self._report("ExposeInvalidFormat", line, message)

    def _check_transfer(
        self,
        line: LogicalLine,
        command: ast.Copy | ast.Add,
        sources: Sequence[str],
        dockerfile: ast.Dockerfile,
        index: int,
    ) -> None:
        if isinstance(command, ast.Copy) and command.stage:
            stage = command.stage
            if stage.isdecimal() and find_stage(dockerfile.stages, stage, before=index) is None:
                reason = "refers to current build stage" if int(stage) == index else "index out of bounds"
                raise InvalidArgument(f"invalid from flag value {stage}: {reason}")
            return
        if not self._ignore or self._ignore.has_exceptions:
            return
        verb = "Copy" if isinstance(command, ast.Copy) else "Add"
        for source in sources:
            if "://" in source or source.startswith("git@"):
                continue
            shown = posixpath.normpath(source) if source else "."
            path = shown.lstrip("/")
            if path.startswith("../"):
                continue
            if self._ignore.ignores_everything if path in ("", ".") else self._ignore.ignores(path):
                message = f"Attempting to {verb} file {quote(shown)} that is excluded by .dockerignore"
                self._report("CopyIgnoredFile", line, message)


def _is_one_case(word: str) -> bool:
    return word in (word.lower(), word.upper())


def _is_reference(name: str) -> bool:
    try:
        parse_reference(name)
    except InvalidArgument:
        return False
    return True

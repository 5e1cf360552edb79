"""Text into instructions: Docker's Dockerfile grammar, each error with the line it is about."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from lamella.build.dockerfile import instructions as ast
from lamella.build.dockerfile.flags import Flags, suggestion
from lamella.build.dockerfile.lexer import Lexer, LogicalLine, blank_separated, error_at, find_heredoc, json_words
from lamella.build.dockerfile.lexer import split_instruction as split
from lamella.errors import InvalidArgument
from lamella.model.goprint import quote
from lamella.model.units import parse_duration

MAX_INSTRUCTIONS = 10_000
_STAGE_NAME = re.compile(r"[a-z][a-z0-9-_.]*")
_ONBUILD = re.compile(r"(?i)^\s*ONBUILD\s*")


def parse_dockerfile(raw: bytes | str) -> ast.Dockerfile:
    """Read a Dockerfile; raises InvalidArgument ``dockerfile parse error line N: …``."""
    text = raw if isinstance(raw, str) else raw.decode(errors="replace")
    lexer = Lexer(text)
    arguments: list[ast.Arg] = []
    stages: list[tuple[ast.From, list[ast.Command]]] = []
    count = 0
    for line in lexer.lines():
        count += 1
        if count > MAX_INSTRUCTIONS:
            raise error_at(line.number, f"more than {MAX_INSTRUCTIONS} instructions")
        instruction = _parse(line, lexer.escape)
        if isinstance(instruction, ast.From):
            stages.append((instruction, []))
        elif stages:
            stages[-1][1].append(instruction)
        elif isinstance(instruction, ast.Arg):
            arguments.append(instruction)
        else:
            raise error_at(
                line.number, f"no build stage in current context: {line.keyword.upper()} before the first FROM"
            )
    if not count:
        raise InvalidArgument("file with no instructions: the Dockerfile is empty")
    if not stages:
        raise InvalidArgument("no build stage: the Dockerfile has no FROM")
    return ast.Dockerfile(
        lexer.escape,
        lexer.syntax,
        tuple(arguments),
        tuple(ast.Stage(base, tuple(commands)) for base, commands in stages),
        tuple(lexer.warnings),
    )


def parse_trigger(text: str) -> ast.Command:
    """Read one instruction kept by ONBUILD."""
    lines = list(Lexer(text).lines())
    if len(lines) != 1:
        raise InvalidArgument("onbuild trigger should be a single expression")
    instruction = _parse(lines[0], "\\")
    if isinstance(instruction, ast.From | ast.OnBuild | ast.Maintainer):
        raise InvalidArgument(f"{lines[0].keyword.upper()} isn't allowed as an ONBUILD trigger")
    return instruction


class _Request(NamedTuple):
    """An instruction on its way from text to value."""

    line: LogicalLine
    escape: str

    @property
    def name(self) -> str:
        """Give the keyword as error messages spell it."""
        return self.line.keyword.upper()

    def flags(self, *, texts: Sequence[str] = (), booleans: Sequence[str] = (), lists: Sequence[str] = ()) -> Flags:
        """Read the flags, of which these are known."""
        return Flags(self.line.flags, texts=texts, booleans=booleans, lists=lists)

    def words(self) -> list[str]:
        """Give the arguments of COPY, ADD and VOLUME: a JSON array or words between blanks."""
        strings = _json_strings(self.line.rest)
        return blank_separated(self.line.rest) if strings is None else strings

    def command(self, text: str | None = None) -> tuple[tuple[str, ...], bool]:
        """Give a command and whether it is in shell form."""
        text = self.line.rest if text is None else text
        strings = _json_strings(text)
        if strings is not None:
            return tuple(strings), False
        return ((text,) if text else ()), True

    def one(self) -> str:
        """Give the single argument."""
        if not self.line.rest:
            raise InvalidArgument(f"{self.name} requires exactly one argument")
        return self.line.rest


def _parse(line: LogicalLine, escape: str) -> ast.Command | ast.From:
    reader = _READERS.get(line.keyword.lower())
    if reader is None:
        hint = suggestion(line.keyword, [name.upper() for name in _READERS])
        raise error_at(line.number, f"unknown instruction: {line.keyword[:100]}{hint}")
    try:
        return reader(_Request(line, escape), line.number, line.text)
    except InvalidArgument as error:
        raise error_at(line.number, str(error)) from error


def _json_strings(text: str) -> list[str] | None:
    elements = json_words(text)
    if elements is None:
        return None
    strings = [element for element in elements if isinstance(element, str)]
    if len(strings) != len(elements):
        raise InvalidArgument("when using JSON array syntax, arrays must be comprised of strings only")
    return strings


def _quoted_words(text: str, escape: str) -> list[str]:
    """Split at blanks outside quotes; quotes and escapes stay for the expansion to remove."""
    words: list[str] = []
    word: list[str] = []
    quote = ""
    at = 0
    while at < len(text):
        character = text[at]
        at += 1
        if not quote and character.isspace():
            if word:
                words.append("".join(word))
                word.clear()
            continue
        if quote:
            if character == quote:
                quote = ""
        elif character in "'\"":
            word.append(character)
            quote = character
            continue
        if character == escape and quote != "'":
            if at == len(text):
                break
            word.append(character)
            character = text[at]
            at += 1
        word.append(character)
    if word:
        words.append("".join(word))
    return words


def _pairs(request: _Request) -> tuple[ast.Pair, ...]:
    """Read ``name=value …``, or the old ``name value`` whose value is the rest of the line."""
    request.flags()
    words = _quoted_words(request.line.rest, request.escape)
    if not words:
        raise InvalidArgument(f"{request.name} requires at least one argument")
    if "=" not in words[0]:
        name, *value = re.split(r"[\t\v\f\r ]+", request.line.rest, maxsplit=1)
        if not value:
            raise InvalidArgument(f"{request.name} must have two arguments")
        return (ast.Pair(name, value[0]),)
    pairs: list[ast.Pair] = []
    for word in words:
        name, equals, text = word.partition("=")
        if not equals:
            message = f"Syntax error - can't find = in {quote(word)}. Must be of the form: name=value"
            raise InvalidArgument(message)
        if not name:
            raise InvalidArgument(f"{request.name} names can not be blank")
        pairs.append(ast.Pair(name, text))
    return tuple(pairs)


def _from(request: _Request, number: int, text: str) -> ast.From:
    flags = request.flags(texts=["platform"])
    words = blank_separated(request.line.rest)
    name = ""
    if len(words) == 3 and words[1].lower() == "as":
        name = words[2].lower()
        if not _STAGE_NAME.fullmatch(name):
            message = (
                f"invalid name for build stage: {quote(words[2])}, name can't start with a number or contain symbols"
            )
            raise InvalidArgument(message)
    elif len(words) != 1:
        raise InvalidArgument("FROM requires either one or three arguments")
    return ast.From(number, text, words[0], name, flags.text("platform"))


def _arg(request: _Request, number: int, text: str) -> ast.Arg:
    request.flags()
    words = _quoted_words(request.line.rest, request.escape)
    if not words:
        raise InvalidArgument("ARG requires at least one argument")
    found: list[ast.BuildArgument] = []
    for word in words:
        name, equals, default = word.partition("=")
        if not name:
            raise InvalidArgument("ARG names can not be blank")
        found.append(ast.BuildArgument(name, default if equals else None))
    return ast.Arg(number, text, tuple(found))


def _run(request: _Request, number: int, text: str) -> ast.Run:
    for flag in request.line.flags:
        name = flag.partition("=")[0]
        if name in ("--mount", "--network", "--security", "--device"):
            raise InvalidArgument(f"RUN {name} is not supported yet")
    request.flags()
    command, shell = request.command()
    heredocs = request.line.heredocs
    if heredocs and shell and find_heredoc(command[0]) is not None and heredocs[0].content.startswith("#!"):
        raise InvalidArgument("RUN with a here-document that names its interpreter (#!) is not supported yet")
    return ast.Run(number, text, command, shell, heredocs)


def _transfer_parts(request: _Request) -> tuple[tuple[str, ...], str, tuple[ast.Heredoc, ...]]:
    words = request.words()
    if len(words) < 2:
        raise InvalidArgument(
            f"{request.name} requires at least two arguments, but only one was provided. "
            "Destination could not be determined"
        )
    *sources, destination = words
    if find_heredoc(destination) is not None:
        raise InvalidArgument(f"{request.name} cannot accept a heredoc as a destination")
    by_name = {heredoc.name: heredoc for heredoc in request.line.heredocs}
    paths: list[str] = []
    contents: list[ast.Heredoc] = []
    for source in sources:
        announced = find_heredoc(source)
        if announced is not None and announced.name in by_name:
            contents.append(by_name[announced.name])
        else:
            paths.append(source)
    return tuple(paths), destination, tuple(contents)


def _unsupported(request: _Request, flags: Flags, names: Sequence[str]) -> None:
    for name in names:
        if flags.given(name):
            raise InvalidArgument(f"{request.name} --{name} is not supported yet")


def _copy(request: _Request, number: int, text: str) -> ast.Copy:
    flags = request.flags(texts=["chown", "chmod", "from"], booleans=["link", "parents"], lists=["exclude"])
    _unsupported(request, flags, ["parents", "exclude"])
    sources, destination, contents = _transfer_parts(request)
    return ast.Copy(
        number, text, sources, destination, contents, flags.text("chown"), flags.text("chmod"), flags.true("link"),
        flags.list("exclude"), flags.text("from"), flags.true("parents"),
    )  # fmt: skip


def _add(request: _Request, number: int, text: str) -> ast.Add:
    flags = request.flags(
        texts=["chown", "chmod", "checksum"], booleans=["link", "keep-git-dir", "unpack"], lists=["exclude"]
    )
    _unsupported(request, flags, ["exclude", "checksum", "keep-git-dir"])
    sources, destination, contents = _transfer_parts(request)
    return ast.Add(
        number, text, sources, destination, contents, flags.text("chown"), flags.text("chmod"), flags.true("link"),
        flags.list("exclude"), flags.text("checksum"), flags.true("keep-git-dir"),
        flags.true("unpack") if flags.given("unpack") else None,
    )  # fmt: skip


def _cmd(request: _Request, number: int, text: str) -> ast.Cmd:
    request.flags()
    return ast.Cmd(number, text, *request.command())


def _entrypoint(request: _Request, number: int, text: str) -> ast.Entrypoint:
    request.flags()
    return ast.Entrypoint(number, text, *request.command())


def _env(request: _Request, number: int, text: str) -> ast.Env:
    return ast.Env(number, text, _pairs(request))


def _label(request: _Request, number: int, text: str) -> ast.Label:
    return ast.Label(number, text, _pairs(request))


def _maintainer(request: _Request, number: int, text: str) -> ast.Maintainer:
    request.flags()
    return ast.Maintainer(number, text, request.one())


def _workdir(request: _Request, number: int, text: str) -> ast.Workdir:
    request.flags()
    return ast.Workdir(number, text, request.one())


def _user(request: _Request, number: int, text: str) -> ast.User:
    request.flags()
    return ast.User(number, text, request.one())


def _stop_signal(request: _Request, number: int, text: str) -> ast.StopSignal:
    request.flags()
    return ast.StopSignal(number, text, request.one())


def _expose(request: _Request, number: int, text: str) -> ast.Expose:
    request.flags()
    ports = blank_separated(request.line.rest)
    if not ports:
        raise InvalidArgument("EXPOSE requires at least one argument")
    return ast.Expose(number, text, tuple(sorted(ports)))


def _volume(request: _Request, number: int, text: str) -> ast.Volume:
    request.flags()
    paths = [path.strip() for path in request.words()]
    if not paths:
        raise InvalidArgument("VOLUME requires at least one argument")
    if "" in paths:
        raise InvalidArgument("VOLUME specified can not be an empty string")
    return ast.Volume(number, text, tuple(paths))


def _shell(request: _Request, number: int, text: str) -> ast.Shell:
    request.flags()
    command, shell = request.command()
    if not command:
        raise InvalidArgument("SHELL requires at least one argument")
    if shell:
        raise InvalidArgument(f"SHELL requires the arguments to be in JSON form: {text}")
    return ast.Shell(number, text, command)


def _healthcheck(request: _Request, number: int, text: str) -> ast.Healthcheck:
    kind, *rest = re.split(r"\s+", request.line.rest, maxsplit=1)
    command, shell = request.command(rest[0] if rest else "")
    if not kind:
        raise InvalidArgument("HEALTHCHECK requires at least one argument")
    if kind.upper() == "NONE":
        request.flags()
        if command:
            raise InvalidArgument("HEALTHCHECK NONE takes no arguments")
        return ast.Healthcheck(number, text, ("NONE",))
    flags = request.flags(texts=["interval", "timeout", "start-period", "start-interval", "retries"])
    if kind.upper() != "CMD":
        raise InvalidArgument(f"Unknown type {quote(kind.upper())} in HEALTHCHECK (try CMD)")
    if not command:
        raise InvalidArgument("Missing command after HEALTHCHECK CMD")
    return ast.Healthcheck(
        number,
        text,
        ("CMD-SHELL" if shell else "CMD", *command),
        _interval(flags, "interval"),
        _interval(flags, "timeout"),
        _interval(flags, "start-period"),
        _interval(flags, "start-interval"),
        _retries(flags),
    )


def _interval(flags: Flags, name: str) -> int:
    text = flags.text(name)
    duration = parse_duration(text) if text else 0
    if duration and duration < 10**6:
        raise InvalidArgument(f"Interval {quote(name)} cannot be less than 1ms")
    return duration


def _retries(flags: Flags) -> int:
    text = flags.text("retries")
    if not text:
        return 0
    if not re.fullmatch(r"[+-]?[0-9]{1,10}", text) or int(text) >= 2**31:
        raise InvalidArgument(f"invalid value {quote(text)} for --retries: not a number")
    if int(text) < 0:
        raise InvalidArgument(f"--retries cannot be negative ({int(text)})")
    return int(text)


def _onbuild(request: _Request, number: int, text: str) -> ast.OnBuild:
    request.flags()
    if not request.line.rest:
        raise InvalidArgument("ONBUILD requires at least one argument")
    keyword, flags, rest = split(request.line.rest, request.escape)
    trigger = keyword.upper()
    if trigger == "ONBUILD":
        raise InvalidArgument("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed")
    if trigger in ("MAINTAINER", "FROM"):
        raise InvalidArgument(f"{trigger} isn't allowed as an ONBUILD trigger")
    # The trigger is read now for its errors' sake, and again by the build that it fires in.
    _parse(LogicalLine(number, keyword, flags, rest, request.line.rest, request.line.heredocs), request.escape)
    original = _ONBUILD.sub("", text)
    for heredoc in request.line.heredocs:
        original += f"\n{heredoc.content}{heredoc.name}"
    return ast.OnBuild(number, text, original)


_READERS: dict[str, Callable[[_Request, int, str], ast.Command | ast.From]] = {
    "add": _add,
    "arg": _arg,
    "cmd": _cmd,
    "copy": _copy,
    "entrypoint": _entrypoint,
    "env": _env,
    "expose": _expose,
    "from": _from,
    "healthcheck": _healthcheck,
    "label": _label,
    "maintainer": _maintainer,
    "onbuild": _onbuild,
    "run": _run,
    "shell": _shell,
    "stopsignal": _stop_signal,
    "user": _user,
    "volume": _volume,
    "workdir": _workdir,
}

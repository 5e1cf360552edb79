"""The instructions one by one: what follows each keyword, by Docker's grammar."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from lamella.build.dockerfile import instructions as ast
from lamella.build.dockerfile.expand import expand
from lamella.build.dockerfile.flags import Flags, suggestion
from lamella.build.dockerfile.lexer import LogicalLine, blank_separated, find_heredoc, json_words, split_instruction
from lamella.errors import InvalidArgument
from lamella.model.goprint import quote

_NETWORKS = ("default", "host", "none")
_STAGE_NAME = re.compile(r"[a-z][a-z0-9-_.]*")
_ONBUILD = re.compile(r"(?i)^\s*ONBUILD\s*")


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


def read_instruction(line: LogicalLine, escape: str) -> ast.Command | ast.From:
    """Read one instruction; raises InvalidArgument, which does not say where."""
    reader = _READERS.get(line.keyword.lower())
    if reader is None:
        hint = suggestion(line.keyword, [name.upper() for name in _READERS])
        raise InvalidArgument(f"unknown instruction: {line.keyword[:100]}{hint}")
    return reader(_Request(line, escape), line.number, line.text)


def _json_strings(text: str) -> list[str] | None:
    elements = json_words(text)
    if elements is None:
        return None
    strings = [element for element in elements if isinstance(element, str)]
    if len(strings) != len(elements):
        raise InvalidArgument("when using JSON array syntax, arrays must be comprised of strings only")
    return strings


def quoted_words(text: str, escape: str) -> list[str]:
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
    words = quoted_words(request.line.rest, request.escape)
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
    words = quoted_words(request.line.rest, request.escape)
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
    flags = request.flags(texts=["network", "security"], lists=["mount", "device"])
    if flags.given("device"):
        raise InvalidArgument("RUN --device is not supported: a build is given no devices")
    network, security = flags.text("network"), flags.text("security")
    if flags.given("network") and network not in _NETWORKS:
        hint = suggestion(network, _NETWORKS, exact_case=True)
        raise InvalidArgument(f"invalid network mode {quote(network[:100])}{hint}")
    if security == "insecure":
        raise InvalidArgument("RUN --security=insecure is not supported: commands of a build always run in the sandbox")
    if flags.given("security") and security != "sandbox":
        raise InvalidArgument(f"security {quote(security[:100])} is not valid")
    mounts: tuple[ast.Mount, ...] = ()
    if flags.given("mount"):
        from lamella.build.dockerfile.mounts import parse_mount

        mounts = tuple(parse_mount(value) for value in flags.list("mount"))
    command, shell = request.command()
    heredocs = request.line.heredocs
    script = heredocs[0] if heredocs and shell and find_heredoc(command[0]) is not None else None
    return ast.Run(number, text, command, shell, heredocs, mounts, network, script)


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


def _copy(request: _Request, number: int, text: str) -> ast.Copy:
    flags = request.flags(texts=["chown", "chmod", "from"], booleans=["link", "parents"], lists=["exclude"])
    stage = flags.text("from")
    if expand(stage, {}, escape=request.escape) != stage:
        raise InvalidArgument(
            "variable expansion is not supported for --from, define a new stage with FROM using ARG from global scope "
            "as a workaround"
        )
    sources, destination, contents = _transfer_parts(request)
    return ast.Copy(
        number, text, sources, destination, contents, flags.text("chown"), flags.text("chmod"), flags.true("link"),
        flags.list("exclude"), stage, flags.true("parents"),
    )  # fmt: skip


def _add(request: _Request, number: int, text: str) -> ast.Add:
    flags = request.flags(
        texts=["chown", "chmod", "checksum"], booleans=["link", "keep-git-dir", "unpack"], lists=["exclude"]
    )
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
    from lamella.model.units import parse_duration

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
    keyword, flags, rest = split_instruction(request.line.rest, request.escape)
    trigger = keyword.upper()
    if trigger == "ONBUILD":
        raise InvalidArgument("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed")
    if trigger in ("MAINTAINER", "FROM"):
        raise InvalidArgument(f"{trigger} isn't allowed as an ONBUILD trigger")
    # The trigger is read now for its errors' sake, and again by the build that it fires in.
    read_instruction(
        LogicalLine(number, keyword, flags, rest, request.line.rest, request.line.heredocs), request.escape
    )
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

"""``--change`` of commit and import: single Dockerfile instructions applied to settings.

Only instructions that change settings are known here.  Whole Dockerfiles, with stages, arguments and files, are the
builder's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping

import msgspec

from lamella.errors import InvalidArgument
from lamella.model.imageconfig import ContainerSettings, Healthcheck

_DEFAULT_SHELL = ("/bin/sh", "-c")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*|[0-9]+|[@*#?$!-]", re.ASCII)  # the last are the shell's own, always empty
_PORTS = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?(?:/([A-Za-z]+))?", re.ASCII)
# Compiled at first use, which is rare.
_SIGNAL = (
    r"(?a)ABRT|ALRM|BUS|CHLD|CLD|CONT|FPE|HUP|ILL|INT|IO|IOT|KILL|PIPE|POLL|PROF|PWR|QUIT|RTMAX|RTMIN|"
    r"SEGV|STKFLT|STOP|SYS|TERM|TRAP|TSTP|TTIN|TTOU|UNUSED|URG|USR1|USR2|VTALRM|WINCH|XCPU|XFSZ|RTMIN\+(?:[1-9]|1[0-5])|RTMAX-(?:[1-9]|1[0-4])"
)


def apply_change(settings: ContainerSettings, instruction: str) -> ContainerSettings:
    """Return *settings* after one instruction such as ``ENV a=b`` or ``CMD ["sh"]``."""
    return apply_changes(settings, [instruction])


def apply_changes(settings: ContainerSettings, instructions: Iterable[str]) -> ContainerSettings:
    """Return *settings* after all *instructions*, in order.

    As in a Dockerfile, ENTRYPOINT clears a CMD that none of the *instructions* set.  InvalidArgument names the
    instruction at fault.
    """
    cmd_is_ours = False
    for text in instructions:
        for line in _lines(text):
            word, rest = _first_word(line)
            name = word.upper()
            act = _INSTRUCTIONS.get(name)
            if act is None:
                raise InvalidArgument(
                    f"{word[:64].lower()} is not a valid change command; use one of {', '.join(sorted(_INSTRUCTIONS))}"
                )
            if not rest:
                raise InvalidArgument(f"{name} requires at least one argument")
            settings = act(settings, rest)
            if name == "CMD":
                cmd_is_ours = True
            elif name == "ENTRYPOINT" and not cmd_is_ours:
                settings = msgspec.structs.replace(settings, cmd=None)
    return settings


def _lines(text: str) -> Iterator[str]:
    for line in re.sub(r"\\[ \t]*\n", "", text).split("\n"):
        stripped = line.strip()
        if stripped and not stripped.startswith("#"):
            yield stripped


def _first_word(text: str) -> tuple[str, str]:
    word, *rest = text.split(None, 1)
    return word, "".join(rest).strip()


def split_words(text: str) -> list[str]:
    """Split at blanks that are neither quoted nor escaped; quotes and backslashes stay for ``expand_word``."""
    words: list[str] = []
    word = quote = ""
    escaped = False
    for char in text:
        if escaped:
            escaped = False
        elif char == "\\" and quote != "'":
            escaped = True
        elif quote:
            quote = "" if char == quote else quote
        elif char in "\"'":
            quote = char
        elif char.isspace():
            if word:
                words.append(word)
            word = ""
            continue
        word += char
    return [*words, word] if word else words


def expand_word(text: str, environment: Mapping[str, str]) -> str:
    """Take quotes and escapes out of *text* and put variables in, as a shell would; blanks do not split it."""
    value, end = _expand(text, 0, environment, until="")
    return value if end == len(text) else value + text[end:]


def _expand(text: str, at: int, environment: Mapping[str, str], *, until: str, depth: int = 0) -> tuple[str, int]:
    if depth > 32:
        raise InvalidArgument("variables are nested too deeply")
    out: list[str] = []
    quoted = False
    while at < len(text):
        char = text[at]
        if char == until and not quoted:
            return "".join(out), at
        if char == "'" and not quoted:
            close = text.find("'", at + 1)
            if close < 0:
                raise InvalidArgument(
                    f"unexpected end of statement while looking for matching single-quote: {text!r:.100}"
                )
            out.append(text[at + 1 : close])
            at = close + 1
        elif char == '"':
            quoted = not quoted
            at += 1
        elif char == "\\" and at + 1 < len(text):
            # Within double quotes a backslash is one unless it shields what means something there.
            if quoted and text[at + 1] not in '"$\\':
                out.append(char)
            out.append(text[at + 1])
            at += 2
        elif char == "$":
            value, at = _variable(text, at + 1, environment, depth)
            out.append(value)
        else:
            out.append(char)
            at += 1
    if quoted:
        raise InvalidArgument(f"unexpected end of statement while looking for matching double-quote: {text!r:.100}")
    if until:
        raise InvalidArgument(f"syntax error: missing {until!r} in {text!r:.100}")
    return "".join(out), at


def _variable(text: str, at: int, environment: Mapping[str, str], depth: int) -> tuple[str, int]:
    """Read what follows a ``$``; return its value and the position behind it."""
    braced = text.startswith("{", at)
    match = _NAME.match(text, at + braced)
    if match is None:
        if braced:
            raise InvalidArgument(f"syntax error: bad substitution in {text!r:.100}")
        return "$", at
    value, at = environment.get(match[0]), match.end()
    if not braced:
        return value or "", at
    if text.startswith("}", at):
        return value or "", at + 1
    colon = text.startswith(":", at)
    operator = text[at + colon : at + colon + 1]
    if operator not in {"-", "+", "?"}:
        raise InvalidArgument(f"unsupported modifier ({text[at : at + 2]}) in substitution {text!r:.100}")
    word, at = _expand(text, at + colon + 1, environment, until="}", depth=depth + 1)
    present = value is not None and not (colon and not value)
    if operator == "+":
        return word if present else "", at + 1
    if present:
        return value or "", at + 1
    if operator == "?":
        raise InvalidArgument(f"{match[0]}: {word or 'not set'}")
    return word, at + 1


def _environment(settings: ContainerSettings) -> dict[str, str]:
    return {key: value for key, _, value in (entry.partition("=") for entry in settings.env)}


def _pairs(name: str, rest: str, settings: ContainerSettings) -> list[tuple[str, str]]:
    """Read ``a=b c="d e"``, or the old form ``a b c`` whose value is the rest of the line."""
    environment = _environment(settings)
    words = split_words(rest)
    if "=" not in words[0]:
        key, value = words[0], rest[len(words[0]) :].strip()
        if not value:
            raise InvalidArgument(f"{name} must have two arguments")
        return [(expand_word(key, environment), expand_word(value, environment))]
    pairs: list[tuple[str, str]] = []
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise InvalidArgument(f'Syntax error - can\'t find = in "{word[:100]}". Must be of the form: name=value')
        key = expand_word(key, environment)
        if not key:
            raise InvalidArgument(f"{name} names can not be blank")
        pairs.append((key, expand_word(value, environment)))
    return pairs


def exec_form(text: str) -> tuple[str, ...] | None:
    """Read a JSON array of strings; None if *text* is none and thus a line for the shell."""
    if not text.startswith("["):
        return None
    try:
        return tuple(msgspec.json.decode(text, type=list[str]))
    except (msgspec.MsgspecError, UnicodeEncodeError, RecursionError):
        return None


def _command(settings: ContainerSettings, text: str) -> tuple[str, ...]:
    arguments = exec_form(text)
    return (*(settings.shell or _DEFAULT_SHELL), text) if arguments is None else arguments


def _cmd(settings: ContainerSettings, rest: str) -> ContainerSettings:
    return msgspec.structs.replace(settings, cmd=_command(settings, rest), args_escaped=False)


def _entrypoint(settings: ContainerSettings, rest: str) -> ContainerSettings:
    return msgspec.structs.replace(settings, entrypoint=_command(settings, rest) or None)


def set_variable(entries: tuple[str, ...], key: str, value: str) -> tuple[str, ...]:
    """Return env *entries* with *key* set, in its old place if it had one."""
    fresh = f"{key}={value}"
    if any(entry.partition("=")[0] == key for entry in entries):
        return tuple(fresh if entry.partition("=")[0] == key else entry for entry in entries)
    return (*entries, fresh)


def _env(settings: ContainerSettings, rest: str) -> ContainerSettings:
    entries = settings.env
    for key, value in _pairs("ENV", rest, settings):
        entries = set_variable(entries, key, value)
    return msgspec.structs.replace(settings, env=entries)


def _label(settings: ContainerSettings, rest: str) -> ContainerSettings:
    return msgspec.structs.replace(settings, labels={**settings.labels, **dict(_pairs("LABEL", rest, settings))})


def parse_ports(text: str) -> list[str]:
    """Read ``80``, ``80/udp`` or ``8000-8010/tcp`` into Docker's port names (``80/tcp``)."""
    match = _PORTS.fullmatch(text.rpartition(":")[2])
    if match is None:
        raise InvalidArgument(f"invalid containerPort: {text[:64]}")
    first, last, protocol = int(match[1]), int(match[2] or match[1]), (match[3] or "tcp").lower()
    if protocol not in {"tcp", "udp", "sctp"}:
        raise InvalidArgument(f"invalid proto: {match[3]}")
    if not first <= last <= 65535:
        raise InvalidArgument(f"invalid range specified for port: {text[:64]}")
    return [f"{port}/{protocol}" for port in range(first, last + 1)]


def _expose(settings: ContainerSettings, rest: str) -> ContainerSettings:
    environment = _environment(settings)
    ports = set(settings.exposed_ports)
    for word in split_words(rest):
        for spec in expand_word(word, environment).split():
            ports.update(parse_ports(spec))
    return msgspec.structs.replace(settings, exposed_ports=tuple(sorted(ports)))


def _onbuild(settings: ContainerSettings, rest: str) -> ContainerSettings:
    trigger = rest.split(None, 1)[0].upper()
    if trigger == "ONBUILD":
        raise InvalidArgument("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed")
    if trigger in {"MAINTAINER", "FROM"}:
        raise InvalidArgument(f"{trigger} isn't allowed as an ONBUILD trigger")
    return msgspec.structs.replace(settings, on_build=(*settings.on_build, rest))


def _one(name: str, rest: str, settings: ContainerSettings) -> str:
    words = split_words(rest)
    if len(words) != 1 and name != "WORKDIR":  # Docker lets a WORKDIR have blanks
        raise InvalidArgument(f"{name} requires exactly one argument")
    return expand_word(rest, _environment(settings))


def _user(settings: ContainerSettings, rest: str) -> ContainerSettings:
    return msgspec.structs.replace(settings, user=_one("USER", rest, settings))


def _volume(settings: ContainerSettings, rest: str) -> ContainerSettings:
    environment = _environment(settings)
    paths = exec_form(rest)
    if paths is None:
        paths = tuple(split_words(rest))
    expanded = [expand_word(path, environment).strip() for path in paths]
    if not all(expanded) or not expanded:
        raise InvalidArgument("VOLUME specified can not be an empty string")
    return msgspec.structs.replace(settings, volumes=tuple(sorted({*settings.volumes, *expanded})))


def join_working_dir(current: str, path: str) -> str:
    """Resolve *path* against *current* by text alone, ``/`` where there is none."""
    whole = path if path.startswith("/") else f"{current or '/'}/{path}"
    parts: list[str] = []
    for part in whole.split("/"):
        if part == "..":
            del parts[-1:]
        elif part not in {"", "."}:
            parts.append(part)
    return "/" + "/".join(parts)


def _workdir(settings: ContainerSettings, rest: str) -> ContainerSettings:
    path = _one("WORKDIR", rest, settings)
    if not path:
        raise InvalidArgument("cannot normalize nothing")
    return msgspec.structs.replace(settings, working_dir=join_working_dir(settings.working_dir, path))


def check_signal(text: str) -> str:
    """Return the signal *text* (``TERM``, ``SIGTERM``, ``15``) as given, if it is one."""
    name = text.upper().removeprefix("SIG")
    number = text.isascii() and text.isdigit() and len(text) < 4 and 0 < int(text) <= 64
    if not (number or re.fullmatch(_SIGNAL, name)):
        raise InvalidArgument(f"invalid signal: {text[:64]}")
    return text


def _stopsignal(settings: ContainerSettings, rest: str) -> ContainerSettings:
    return msgspec.structs.replace(settings, stop_signal=check_signal(_one("STOPSIGNAL", rest, settings)))


def _healthcheck(settings: ContainerSettings, rest: str) -> ContainerSettings:
    durations: dict[str, int] = {}
    while rest.startswith("--"):
        flag, rest = _first_word(rest)
        option, equals, value = flag[2:].partition("=")
        field = option.replace("-", "_")
        if not equals or field not in {"interval", "timeout", "start_period", "start_interval", "retries"}:
            raise InvalidArgument(f"Unknown flag of HEALTHCHECK: {option[:64]}")
        durations[field] = _healthcheck_number(option, value)
    if not rest:
        raise InvalidArgument("HEALTHCHECK requires at least one argument")
    kind, command = _first_word(rest)
    if kind.upper() == "NONE":
        if command or durations:
            raise InvalidArgument("HEALTHCHECK NONE takes no arguments")
        return msgspec.structs.replace(settings, healthcheck=Healthcheck(test=("NONE",)))
    if kind.upper() != "CMD":
        raise InvalidArgument(f'Unknown type "{kind[:64]}" in HEALTHCHECK (try CMD)')
    arguments = exec_form(command)
    test = ("CMD-SHELL", command) if arguments is None else ("CMD", *arguments)
    if len(test) < 2 or not test[1]:
        raise InvalidArgument("Missing command after HEALTHCHECK CMD")
    return msgspec.structs.replace(settings, healthcheck=Healthcheck(test=test, **durations))


def _healthcheck_number(option: str, value: str) -> int:
    if option == "retries":
        if not (value.isascii() and value.isdigit() and len(value) < 10):
            raise InvalidArgument("--retries of HEALTHCHECK must be a whole number that is not negative")
        return int(value)
    from lamella.model.units import parse_duration

    duration = parse_duration(value)
    if duration and duration < 1_000_000:
        raise InvalidArgument(f'Interval "{option}" cannot be less than 1ms')
    return duration


_INSTRUCTIONS: dict[str, Callable[[ContainerSettings, str], ContainerSettings]] = {
    "CMD": _cmd,
    "ENTRYPOINT": _entrypoint,
    "ENV": _env,
    "EXPOSE": _expose,
    "HEALTHCHECK": _healthcheck,
    "LABEL": _label,
    "ONBUILD": _onbuild,
    "STOPSIGNAL": _stopsignal,
    "USER": _user,
    "VOLUME": _volume,
    "WORKDIR": _workdir,
}

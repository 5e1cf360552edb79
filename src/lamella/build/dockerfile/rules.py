"""The linter's rules by name, what a finding says, and the options of ``# check=``."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from lamella.errors import InvalidArgument
from lamella.model.goprint import quote

_MANUAL = "https://docs.docker.com/go/dockerfile/rule/"
EXPERIMENTAL = frozenset({"InvalidDefinitionDescription"})
_FALSE = frozenset({"0", "f", "F", "FALSE", "false", "False"})
_TRUE = frozenset({"1", "t", "T", "TRUE", "true", "True"})
_ALL = frozenset({"all"})
# A whole word of the name, first, last or between underscores, says that it holds a secret.
_SECRET = re.compile(r"(?i)(?:_|^)(?:apikey|auth|credentials?|key|password|pword|passwd|secret|token)(?:_|$)")
_NO_SECRET = re.compile(r"(?i)(?:_|^)(?:public|file|version)(?:_|$)")


class Finding(NamedTuple):
    """One thing that a rule has found."""

    rule: str
    """The rule's name, as ``skip=`` takes it."""
    message: str
    """What is wrong here, one sentence."""
    first: int
    """The instruction's first line, counted from 1."""
    last: int

    def __str__(self) -> str:  # type: ignore[explicit-override]  # override() came with Python 3.12
        return f"{self.rule}: {self.message} (line {self.first})"

    @property
    def url(self) -> str:
        """Where Docker's manual explains the rule."""
        return _MANUAL + re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "-", self.rule).lower() + "/"


class CheckOptions(NamedTuple):
    """What ``# check=`` asks for; the name ``all`` stands for all rules."""

    skip: frozenset[str] = frozenset()
    experimental: frozenset[str] = frozenset()
    error: bool = False
    """Whether a build with findings fails."""

    def allows(self, rule: str) -> bool:
        """Tell whether a rule is in force: experimental ones have to be asked for."""
        if rule in EXPERIMENTAL:
            return bool(self.experimental & {rule, "all"})
        return not self.skip & {rule, "all"}

    def merged(self, comments: Iterable[str]) -> CheckOptions:
        """Add what the first ``check=`` in the comments before an instruction asks for, if it can be read."""
        for comment in comments:
            name, equals, value = comment.partition("=")
            if not equals or name.strip().lower() != "check":
                continue
            try:
                more = parse_check(value)
            except InvalidArgument:
                return self
            return self._replace(skip=self.skip | more.skip, experimental=self.experimental | more.experimental)
        return self


def parse_check(text: str) -> CheckOptions:
    """Read ``skip=Rule,Rule;error=true;experimental=Rule``, of which what follows a blank does not count."""
    options = CheckOptions()
    text = text.strip().partition(" ")[0]
    if not text:
        return options
    for part in text.split(";", 2):
        name, equals, value = part.partition("=")
        if not equals:
            raise InvalidArgument(f"invalid check option {quote(part[:100])}")
        names = frozenset(each.strip() for each in value.split(","))
        match name.strip():
            case "skip":
                options = options._replace(skip=_ALL if value.strip() == "all" else names)
            case "experimental":
                options = options._replace(experimental=_ALL if value.strip() == "all" else names)
            case "error" if value.strip() in _TRUE | _FALSE:
                options = options._replace(error=value.strip() in _TRUE)
            case "error":
                raise InvalidArgument(f"failed to parse check option {quote(part[:100])}: expected true or false")
            case unknown:
                raise InvalidArgument(f"invalid check option {quote(unknown[:100])}")
    return options


def names_secret(name: str) -> bool:
    """Tell whether a variable's name says that it holds a secret: ``GH_TOKEN``, not ``TOKEN_FILE``."""
    return bool(_SECRET.search(name)) and not _NO_SECRET.search(name)


def excerpt(text: str, finding: Finding, filename: str) -> str:
    """Show the lines that a finding is about and some round them, as Docker does, ending in a newline."""
    lines = text.removeprefix("\ufeff").removesuffix("\n").split("\n")
    start, end = min(finding.first, len(lines)), min(finding.last, len(lines))
    wanted = 4 if start == end else 2
    first, last, shown = start, end, 0
    while shown < wanted:
        if first > 1:
            first -= 1
            shown += 1
        if last < len(lines):
            last += 1
            shown += 1
        shown += 1
    rule = "-" * 20
    body = "".join(
        f" {number:3d} | {'>>>' if start <= number <= end else '   '} {lines[number - 1]}".rstrip() + "\n"
        for number in range(first, last + 1)
    )
    return f"{filename}:{finding.first}\n{rule}\n{body}{rule}\n"

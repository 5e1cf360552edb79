"""The lines of a Dockerfile: directives, comments, continuations and here-documents.

Gives one `LogicalLine` for each instruction, cut into keyword, flags and rest; what these mean is `parser`'s.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from lamella.build.dockerfile.expand import Expander
from lamella.build.dockerfile.instructions import Heredoc
from lamella.errors import InvalidArgument
from lamella.model.goprint import quote

MAX_DOCKERFILE = 1 << 20
MAX_LINE = 65535
MAX_SHOWN = 200
_BLANKS = re.compile(r"[\t\v\f\r ]+")
_HEREDOC = re.compile(r"(\d*)<<(-?)\s*([^<]*)", re.ASCII)
_DIRECTIVE_NAME = re.compile(r"[a-zA-Z][a-zA-Z0-9]*")
_DIRECTIVES = frozenset({"syntax", "escape", "check"})
_TAKE_HEREDOCS = frozenset({"add", "copy", "run"})


class LogicalLine(NamedTuple):
    """One instruction, as text."""

    number: int
    """Where it begins, counted from 1."""
    keyword: str
    flags: tuple[str, ...]
    rest: str
    text: str
    """All of it, continuation lines joined."""
    heredocs: tuple[Heredoc, ...]
    end: int = 0
    """Its last line, which may be that of a here-document."""
    comments: tuple[str, ...] = ()
    """The comments before it, up to an empty one, without their marks."""
    holds_blank: bool = False
    """Whether an empty line stands between continued ones."""


class Lexer:
    """Reads one Dockerfile; its directives are known once the first line has been read."""

    def __init__(self, text: str) -> None:
        if len(text) > MAX_DOCKERFILE:
            raise InvalidArgument(f"the Dockerfile is larger than {MAX_DOCKERFILE} bytes")
        self.escape = "\\"
        self.syntax = ""
        self.check = ""
        self._lines = text.removeprefix("\ufeff").split("\n")
        if self._lines[-1] == "":
            self._lines.pop()
        self._next = 0
        self._directives: set[str] | None = set()
        self._shebang = False

    def lines(self) -> Iterator[LogicalLine]:
        """Read instruction by instruction; raises InvalidArgument with the line's number."""
        comments: list[str] = []
        while (line := self._take()) is not None:
            line = line.rstrip("\r").lstrip()
            is_directive = self._directive(line)
            if line.startswith("#"):
                comment = line[1:].strip()
                if not comment:
                    comments.clear()
                elif not is_directive:
                    comments.append(comment)
                continue
            number = self._next
            line, goes_on = self._continued(line)
            holds_blank = False
            if goes_on:
                line, holds_blank = self._join(line)
            elif not line:
                continue
            logical = self._logical(line, number)
            yield logical._replace(end=self._next, comments=tuple(comments), holds_blank=holds_blank)
            comments.clear()

    def _take(self) -> str | None:
        """Give the next physical line."""
        if self._next >= len(self._lines):
            return None
        line = self._lines[self._next]
        self._next += 1
        if len(line) > MAX_LINE:
            raise error_at(self._next, f"dockerfile line greater than max allowed size of {MAX_LINE}")
        if "\0" in line:
            raise error_at(self._next, "the line holds a NUL character")
        return line

    def _directive(self, line: str) -> bool:
        """Note a parser directive; the first line that is none ends them."""
        if self._directives is None:
            return False
        if self._next == 1 and line.startswith("#!"):
            self._shebang = True  # Docker looks past it for all but the escape character
            return False
        name, equals, value = line[1:].partition("=")
        name = name.strip().lower()
        value = value.strip()
        known = name in _DIRECTIVES and _DIRECTIVE_NAME.fullmatch(name)
        if not (line.startswith("#") and equals and value and known):
            self._directives = None
            return False
        if name in self._directives:
            raise error_at(self._next, f"only one {name} parser directive can be used", line)
        self._directives.add(name)
        if name == "escape" and not self._shebang:
            if value not in ("`", "\\"):
                raise error_at(self._next, f"invalid escape token '{value[:100]}' does not match ` or \\", line)
            self.escape = value
        elif name == "syntax":
            self.syntax = value
        elif name == "check":
            self.check = value
        return True

    def _continued(self, line: str) -> tuple[str, bool]:
        """Cut the continuation character off; True if there was one."""
        bare = line.rstrip(" \t")
        # An escaped escape character at the end is text.
        if bare.endswith(self.escape) and (len(bare) == 1 or bare[-2] != self.escape):
            return bare[:-1], True
        return line, False

    def _join(self, line: str) -> tuple[str, bool]:
        """Join the lines that continue `line`; comments and blank lines between them do not end it.

        True if there was a blank one.
        """
        parts = [line]
        goes_on = True
        blank = False
        while goes_on and (following := self._take()) is not None:
            following = following.rstrip("\r")
            stripped = following.lstrip()
            if stripped.startswith("#"):
                continue
            if not stripped:
                blank = True
                continue
            following, goes_on = self._continued(following)
            parts.append(following)
        return "".join(parts), blank

    def _logical(self, text: str, number: int) -> LogicalLine:
        keyword, flags, rest = split_instruction(text, self.escape)
        heredocs: tuple[Heredoc, ...] = ()
        if "<<" in text and _may_have_heredocs(keyword, rest, self.escape):
            try:
                found = _heredocs_of(text)
            except InvalidArgument as error:
                raise error_at(number, str(error), text) from error
            heredocs = tuple(self._read_heredoc(heredoc, number, text) for heredoc in found)
        return LogicalLine(number, keyword, flags, rest, text.strip(), heredocs)

    def _read_heredoc(self, heredoc: Heredoc, number: int, text: str) -> Heredoc:
        content: list[str] = []
        while (line := self._take()) is not None:
            possible_end = line.rstrip("\r")
            if heredoc.chomp:
                possible_end = possible_end.lstrip("\t")
            if possible_end == heredoc.name:
                return heredoc._replace(content="".join(content))
            content.append(line + "\n")
        raise error_at(number, f"unterminated heredoc: no line {quote(heredoc.name[:100])} ends it", text)


def error_at(number: int, message: str, source: str = "") -> InvalidArgument:
    """Make the error that refuses a Dockerfile for what stands in line `number`, `source` if that is known."""
    error = InvalidArgument(f"dockerfile parse error line {number}: {message}")
    if shown := source.strip():
        error.add_note(f"line {number}: {shown if len(shown) <= MAX_SHOWN else shown[:MAX_SHOWN] + '…'}")
    return error


def blank_separated(text: str) -> list[str]:
    """Split at blanks as Docker does: an empty text has no words."""
    return _BLANKS.split(text) if text else []


def split_instruction(text: str, escape: str) -> tuple[str, tuple[str, ...], str]:
    """Cut an instruction into keyword, flags (``--name=value``, quotes removed) and the rest."""
    keyword, *arguments = _BLANKS.split(text.strip(), maxsplit=1)
    if not arguments:
        return keyword, (), ""
    flags, rest = _split_flags(arguments[0], escape)
    return keyword, tuple(flags), rest.strip()


def _split_flags(line: str, escape: str) -> tuple[list[str], str]:
    """Take the leading words that begin with two dashes; ``--`` alone ends them."""
    flags: list[str] = []
    at = 0
    while True:
        while at < len(line) and line[at].isspace():
            at += 1
        if not line.startswith("--", at):
            return flags, line[at:]
        word: list[str] = []
        quote = ""
        quoted = False
        while at < len(line):
            character = line[at]
            if not quote and character.isspace():
                break
            at += 1
            if quote and character == quote:
                quote = ""
            elif not quote and character in "'\"":
                quote = character
                quoted = True
            elif character == escape:
                if at < len(line):
                    word.append(line[at])
                    at += 1
            else:
                word.append(character)
        flag = "".join(word)
        if flag == "--":
            return flags, line[at:]
        if flag or quoted:
            flags.append(flag)


def _may_have_heredocs(keyword: str, rest: str, escape: str) -> bool:
    keyword = keyword.lower()
    if keyword == "onbuild" and rest:
        keyword, _flags, rest = split_instruction(rest, escape)
        keyword = keyword.lower()
    return keyword in _TAKE_HEREDOCS and json_words(rest) is None


def json_words(text: str) -> list[object] | None:
    """Give the elements of a JSON array, or None if `text` is not one (then it is shell form)."""
    if not text.startswith("["):
        return None
    import msgspec

    try:
        return msgspec.json.decode(text, type=list[object])
    except (msgspec.DecodeError, RecursionError):
        return None


def find_heredoc(word: str) -> Heredoc | None:
    """Tell whether a word announces a here-document."""
    match = _HEREDOC.fullmatch(word)
    if match is None or not match[3]:
        return None
    _text, words = Expander({}, keep_unset=True).expand(match[3])
    _raw, raw_words = Expander({}, keep_unset=True, raw_quotes=True).expand(match[3])
    if len(words) != 1 or len(raw_words) != 1:
        return None
    quotes, raw_quotes = (sum(text.count(quote) for quote in "'\"") for text in (words[0], raw_words[0]))
    return Heredoc(words[0], "", expand=quotes == raw_quotes, chomp=bool(match[2]))


def _heredocs_of(line: str) -> list[Heredoc]:
    """Find the here-documents that a line announces; one that no lexer can read announces none."""
    try:
        _text, words = Expander({}, keep_unset=True, raw_quotes=True, raw_escapes=True).expand(line)
    except InvalidArgument:
        return []
    return [heredoc for word in words if (heredoc := find_heredoc(word)) is not None]

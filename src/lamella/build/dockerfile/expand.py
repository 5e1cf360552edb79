"""Variables and quotes in a Dockerfile's words, by the rules of Docker's own shell lexer.

``$name``, ``${name}``, the modifiers ``:- - :+ + :? ? # ## % %% / //``, single and double quotes and the escape
character.  It is not a shell: commands are not run, names are not globbed.  Every result is bounded, so that a file of
one page cannot ask for gigabytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from lamella.build.dockerfile.glob import remove_prefix, remove_suffix, substitute
from lamella.errors import InvalidArgument
from lamella.model.goprint import quote

MAX_EXPANDED = 1 << 20
_MAX_DEPTH = 100
_SPACE = frozenset("\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028"
                   "\u2029\u202f\u205f\u3000")  # fmt: skip
_SPECIAL = frozenset("@*#?-$!0")
_END = ""


def expand(word: str, variables: Mapping[str, str], *, escape: str = "\\") -> str:
    """Replace the variables of `word` and remove its quotes; blanks stay as they are."""
    return Expander(variables, escape=escape).expand(word)[0]


def expand_words(word: str, variables: Mapping[str, str], *, escape: str = "\\") -> list[str]:
    """Replace the variables of `word` and split the result at blanks that are neither quoted nor escaped."""
    return Expander(variables, escape=escape).expand(word)[1]


def expand_text(text: str, variables: Mapping[str, str]) -> str:
    """Replace the variables of a here-document that becomes a file: its quotes stay, a backslash escapes."""
    return Expander(variables, keep_quotes=True).expand(text)[0]


class _Words:
    """The words found so far."""

    def __init__(self) -> None:
        self.found: list[str] = []
        self.letters: list[str] = []
        self.inside = False

    def add(self, text: str) -> None:
        """Add text that blanks divide into words."""
        for character in text:
            if character not in _SPACE:
                self.letters.append(character)
                self.inside = True
            elif self.inside and self.letters:
                self.found.append("".join(self.letters))
                self.letters.clear()
                self.inside = False

    def add_whole(self, text: str) -> None:
        """Add text whose blanks are part of the word."""
        if text:
            self.letters.append(text)
        self.inside = True

    def finish(self) -> list[str]:
        """End the last word and give all of them."""
        word = "".join(self.letters)
        if word:
            self.found.append(word)
        self.letters.clear()
        self.inside = False
        return self.found


class Expander:
    """One reading of one word; the options serve the search for here-documents."""

    def __init__(
        self,
        variables: Mapping[str, str],
        *,
        escape: str = "\\",
        raw_quotes: bool = False,
        raw_escapes: bool = False,
        keep_unset: bool = False,
        keep_quotes: bool = False,
    ) -> None:
        self._variables = variables
        self._escape = escape
        self._raw_quotes = raw_quotes
        self._raw_escapes = raw_escapes
        self._keep_unset = keep_unset
        self._keep_quotes = keep_quotes
        self._text = ""
        self._at = 0
        self._depth = 0

    def expand(self, word: str) -> tuple[str, list[str]]:
        """Give the expanded text and the words it makes; raises InvalidArgument."""
        self._text = word
        self._at = 0
        self._depth = 0
        try:
            return self._read_until(_END, raw_escapes=self._raw_escapes)
        except InvalidArgument as error:
            shown = word if len(word) <= 200 else word[:200] + "…"
            raise InvalidArgument(f"failed to process {quote(shown)}: {error}") from error

    def _peek(self) -> str:
        return self._text[self._at] if self._at < len(self._text) else _END

    def _next(self) -> str:
        if self._at >= len(self._text):
            return _END
        self._at += 1
        return self._text[self._at - 1]

    def _read_until(self, stop: str, *, raw_escapes: bool) -> tuple[str, list[str]]:
        """Read up to `stop`, which is consumed, or to the end of the text if there is none."""
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise InvalidArgument(f"substitutions are nested more than {_MAX_DEPTH} deep")
        outer, self._raw_escapes = self._raw_escapes, raw_escapes
        try:
            return self._read_parts(stop)
        finally:
            self._raw_escapes = outer
            self._depth -= 1

    def _read_parts(self, stop: str) -> tuple[str, list[str]]:
        special: dict[str, Callable[[], str]] = {
            "$": self._dollar,
            "<": self._maybe_heredoc,
        }
        if not self._keep_quotes:
            special |= {"'": self._single_quoted, '"': self._double_quoted}
        result: list[str] = []
        words = _Words()
        size = 0
        while (character := self._peek()) != _END:
            if character == stop:
                self._at += 1
                return "".join(result), words.finish()
            if reader := special.get(character):
                part = reader()
                result.append(part)
                if character == "$":
                    words.add(part)
                else:
                    words.add_whole(part)
                size += len(part)
            else:
                self._at += 1
                if character == self._escape:
                    if self._raw_escapes:
                        words.add_whole(character)
                        result.append(character)
                    character = self._next()
                    if character == _END:
                        break
                    words.add_whole(character)
                else:
                    words.add(character)
                result.append(character)
                size += 1
            if size > MAX_EXPANDED:
                raise InvalidArgument(f"the expanded value is larger than {MAX_EXPANDED} bytes")
        if stop != _END:
            raise InvalidArgument(f"unexpected end of statement while looking for matching {stop}")
        return "".join(result), words.finish()

    def _single_quoted(self) -> str:
        end = self._text.find("'", self._at + 1)
        if end < 0:
            self._at = len(self._text)
            raise InvalidArgument("unexpected end of statement while looking for matching single-quote")
        start, self._at = self._at, end + 1
        return self._text[start : end + 1] if self._raw_quotes else self._text[start + 1 : end]

    def _double_quoted(self) -> str:
        self._at += 1
        result = ['"'] if self._raw_quotes else []
        while (character := self._peek()) != _END:
            if character == "$":
                result.append(self._dollar())
                continue
            self._at += 1
            if character == '"':
                if self._raw_quotes:
                    result.append(character)
                return "".join(result)
            if character == self._escape:
                if self._raw_escapes:
                    result.append(character)
                following = self._peek()
                if following == _END:
                    continue
                # Only these lose their escape character; before all others it stands for itself.
                if following in ('"', "$", self._escape):
                    self._at += 1
                    character = following
            result.append(character)
        raise InvalidArgument("unexpected end of statement while looking for matching double-quote")

    def _maybe_heredoc(self) -> str:
        """Keep the blanks between ``<<`` and the word that ends the here-document."""
        self._at += 1
        if self._peek() != "<":
            return "<"
        start = self._at - 1
        self._at += 1
        while self._peek() in ("\t", "\r", " "):
            self._at += 1
        return self._text[start : self._at]

    def _name(self) -> str:
        start = self._at
        first = self._peek()
        if first.isdecimal():
            while self._peek().isdecimal():
                self._at += 1
        elif first in _SPECIAL:
            self._at += 1
        else:
            while (character := self._peek()).isalpha() or character.isdecimal() or character == "_":
                self._at += 1
        return self._text[start : self._at]

    def _dollar(self) -> str:
        self._at += 1
        if self._peek() != "{":
            name = self._name()
            if not name:
                return "$"
            value = self._variables.get(name)
            if value is None:
                return f"${name}" if self._keep_unset else ""
            return value
        self._at += 1
        following = self._peek()
        if following == _END:
            raise InvalidArgument("syntax error: missing '}'")
        if following in "{}:":
            raise InvalidArgument("syntax error: bad substitution")
        return self._braced(self._name())

    def _braced(self, name: str) -> str:
        value = self._variables.get(name)
        modifier = self._next()
        if modifier == "}":
            if value is None:
                return f"${{{name}}}" if self._keep_unset else ""
            return value
        if modifier == "/":
            return self._replaced(name, value)
        empty_is_unset = modifier == ":"
        shown = modifier
        if empty_is_unset:
            modifier = self._next()
            shown += modifier
        if modifier == _END:
            raise InvalidArgument("syntax error: missing '}'")
        pattern = modifier in "#%"
        if modifier not in "-+?#%" or (empty_is_unset and pattern):
            raise InvalidArgument(f"unsupported modifier ({shown}) in substitution")
        word = self._operand("}", raw_escapes=pattern)
        if value is None and self._keep_unset:
            return f"${{{name}{shown}{word}}}"
        if pattern:
            return _trimmed(value or "", modifier, word)
        missing = value is None or (empty_is_unset and not value)
        if modifier == "-":
            return word if missing else value or ""
        if modifier == "+":
            return "" if missing else word
        if missing:
            reason = word or f"is not allowed to be {'unset' if value is None else 'empty'}"
            raise InvalidArgument(f"{name}: {reason}")
        return value or ""

    def _operand(self, stop: str, *, raw_escapes: bool) -> str:
        try:
            return self._read_until(stop, raw_escapes=raw_escapes)[0]
        except InvalidArgument as error:
            if self._peek() != _END:
                raise
            where = "" if stop == "}" else " in ${}"
            raise InvalidArgument(f"syntax error: missing '{stop}'{where}") from error

    def _replaced(self, name: str, value: str | None) -> str:
        everywhere = self._peek() == "/"
        if everywhere:
            self._at += 1
        pattern = self._operand("/", raw_escapes=True)
        replacement = self._operand("}", raw_escapes=True)
        if value is None and self._keep_unset:
            return f"${{{name}/{pattern}/{replacement}}}"
        return substitute(pattern, replacement, value or "", everywhere=everywhere, limit=MAX_EXPANDED)


def _trimmed(value: str, modifier: str, pattern: str) -> str:
    """Remove what `pattern` matches at the start (``#``) or end (``%``), doubled for the longest match."""
    longest = pattern.startswith(modifier)
    if longest:
        pattern = pattern[1:]
    remove = remove_prefix if modifier == "#" else remove_suffix
    return remove(pattern, value, longest=longest)

"""The syntax of Go's text/template: text to tree.  Running the tree is ``gotemplate``'s business.

Left out are named templates (``define``, ``template``, ``block``), for which a ``--format`` has no use.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterator
from typing import NamedTuple, TypeAlias

from lamella.errors import InvalidArgument
from lamella.model.goprint import quote, unquote

_SPACE = " \t\r\n"
_DEPTH_LIMIT = 40
_TOKEN = re.compile(
    r"""
      (?P<space>[ \t\r\n]+)
    | (?P<string>"(?:[^"\\\n]|\\.)*")
    | (?P<raw>`[^`]*`)
    | (?P<char>'(?:[^'\\\n]|\\.[0-9a-fA-F]*)')
    | (?P<number>[+-]?(?:0[xX][0-9a-fA-F_]+|0[bB][01_]+|0[oO][0-7_]+
                        |(?:[0-9][0-9_]*(?:\.[0-9_]*)?|\.[0-9][0-9_]*)(?:[eE][+-]?[0-9]+)?))
    | (?P<field>\.[^\W\d]\w*)
    | (?P<variable>\$\w*)
    | (?P<word>[^\W\d]\w*)
    | (?P<dot>\.)
    | (?P<declare>:=) | (?P<assign>=) | (?P<pipe>\|) | (?P<open>\() | (?P<close>\)) | (?P<comma>,)
    | (?P<other>[!#-&*;-@\[-^{-~])
    """,
    re.VERBOSE,
)
_KEYWORDS = frozenset({"break", "block", "continue", "define", "else", "end", "if", "range", "template", "with"})


class Token(NamedTuple):
    """One word of an action; *spaced* tells whether white space stands before it."""

    kind: str
    text: str
    at: int
    spaced: bool


class Literal(NamedTuple):
    """A constant."""

    value: str | float | bool | None
    at: int
    text: str


class Field(NamedTuple):
    """``.A.B`` of dot; without names, dot itself."""

    names: tuple[str, ...]
    at: int
    text: str


class Variable(NamedTuple):
    """``$x.A.B``."""

    name: str
    names: tuple[str, ...]
    at: int
    text: str


class Chain(NamedTuple):
    """``(pipeline).A.B``."""

    pipeline: Pipeline
    names: tuple[str, ...]
    at: int
    text: str


class Function(NamedTuple):
    """The name of a function."""

    name: str
    at: int
    text: str


Operand: TypeAlias = Literal | Field | Variable | Chain | Function


class Pipeline(NamedTuple):
    """Commands whose result is the last argument of the next; *names* are the variables that get the last one's."""

    names: tuple[str, ...]
    declares: bool
    commands: tuple[tuple[Operand, ...], ...]


class Text(NamedTuple):
    """What is copied."""

    text: str


class Action(NamedTuple):
    """A pipeline whose value is printed, unless it goes to a variable."""

    pipeline: Pipeline


class Branch(NamedTuple):
    """``if``, ``with`` or ``range`` with its two bodies."""

    kind: str
    pipeline: Pipeline
    body: tuple[Node, ...]
    otherwise: tuple[Node, ...]


class Leave(NamedTuple):
    """``break`` or ``continue``."""

    kind: str


Node: TypeAlias = Text | Action | Branch | Leave


def parse_template(source: str, functions: Container[str]) -> tuple[Node, ...]:
    """Parse *source*; names that are neither keywords nor *functions* are refused."""
    return _Parser(source, functions).whole()


class _Parser:
    def __init__(self, source: str, functions: Container[str]) -> None:
        self._source = source
        self._functions = functions
        self._items = list(self._lex())
        self._next = 0
        self._tokens: list[Token] = []
        self._position = 0
        self._variables = ["$"]
        self._loops = 0
        self._depth = 0

    def _error(self, at: int, message: str) -> InvalidArgument:
        line = self._source.count("\n", 0, at) + 1
        return InvalidArgument(f"template parsing error: template: :{line}: {message}")

    # Text and actions -------------------------------------------------------------------------------------------

    def _lex(self) -> Iterator[tuple[str, list[Token]]]:
        """Cut the source into pairs of a text and the tokens of the action behind it."""
        source, at, trim = self._source, 0, False
        while True:
            start = source.find("{{", at)
            text = source[at:] if start < 0 else source[at:start]
            if trim:
                text = text.lstrip(_SPACE)
            if start < 0:
                yield text, []
                return
            inside = start + 2
            if source[inside : inside + 1] == "-" and source[inside + 1 : inside + 2] in {*_SPACE}:
                text = text.rstrip(_SPACE)
                inside += 2
            comment = inside
            if source.startswith("/*", comment):
                at, trim = self._comment(comment)
                yield text, []
                continue
            tokens, at, trim = self._action(inside)
            if not tokens:
                raise self._error(start, "missing value for command")
            yield text, tokens

    def _comment(self, at: int) -> tuple[int, bool]:
        end = self._source.find("*/", at + 2)
        if end < 0:
            raise self._error(at, "unclosed comment")
        match = re.compile(r"([ \t\r\n]-)?\}\}").match(self._source, end + 2)
        if match is None:
            raise self._error(at, "comment ends before closing delimiter")
        return match.end(), match[1] is not None

    def _action(self, at: int) -> tuple[list[Token], int, bool]:
        source, spaced = self._source, False
        tokens: list[Token] = []
        parens = 0
        while at < len(source):
            ends = source.startswith("}}", at)
            trims = spaced and source.startswith("-}}", at)
            if ends or trims:
                if parens:
                    raise self._error(at, "unclosed left paren")
                return tokens, at + (3 if trims else 2), trims
            match = _TOKEN.match(source, at)
            if match is None:
                raise self._bad_character(at)
            kind = match.lastgroup or ""
            at = match.end()
            if kind == "space":
                spaced = True
                continue
            if kind in {"field", "variable", "word", "number"} and not self._terminated(at, kind):
                raise self._bad_character(at, match[0] if kind == "number" else "")
            parens += (kind == "open") - (kind == "close")
            if parens < 0:
                raise self._error(match.start(), "unexpected right paren")
            tokens.append(Token(kind, match[0], match.start(), spaced))
            spaced = False
        raise self._error(len(source), "unclosed action")

    def _terminated(self, at: int, kind: str) -> bool:
        after = self._source[at : at + 1]
        if kind == "number":
            return not (after.isalnum() or after in {"_", "."}) or not after
        return not after or after in " \t\r\n.,|:()=" or self._source.startswith("}}", at)

    def _bad_character(self, at: int, number: str = "") -> InvalidArgument:
        char = self._source[at]
        if number:
            return self._error(at, f"bad number syntax: {quote(number + char)}")
        if char in "\"`'":
            kind = {'"': "quoted string", "`": "raw quoted string", "'": "character constant"}[char]
            return self._error(at, f"unterminated {kind}")
        return self._error(at, f"unexpected bad character U+{ord(char):04X} {char!a} in command")

    # Structure --------------------------------------------------------------------------------------------------

    def whole(self) -> tuple[Node, ...]:
        nodes, end = self._body()
        if end is not None:
            raise self._error(end.at, f"unexpected {{{{{end.text}}}}}")
        return nodes

    def _body(self) -> tuple[tuple[Node, ...], Token | None]:
        """Read nodes up to an ``else`` or ``end``, or the end of the source (None)."""
        nodes: list[Node] = []
        while self._next < len(self._items):
            text, tokens = self._items[self._next]
            self._next += 1
            if text:
                nodes.append(Text(text))
            if not tokens:
                continue
            self._tokens, self._position = tokens, 0
            first = tokens[0]
            if first.kind != "word" or first.text not in _KEYWORDS:
                nodes.append(Action(self._whole_pipeline(first, "command")))
                continue
            self._position = 1
            if first.text in {"else", "end"}:
                return tuple(nodes), first
            if first.text in {"if", "with", "range"}:
                nodes.append(self._branch(first))
            elif first.text in {"break", "continue"}:
                if not self._loops:
                    raise self._error(first.at, f"{{{{{first.text}}}}} outside {{{{range}}}}")
                self._nothing_more(first)
                nodes.append(Leave(first.text))
            else:
                raise self._error(first.at, f"{{{{{first.text}}}}} is not supported")
        return tuple(nodes), None

    def _branch(self, keyword: Token) -> Branch:
        self._enter(keyword)
        mark = len(self._variables)
        pipeline = self._whole_pipeline(keyword, keyword.text)
        self._loops += keyword.text == "range"
        body, end = self._body()
        self._loops -= keyword.text == "range"
        otherwise: tuple[Node, ...] = ()
        if end is not None and end.text == "else":
            if self._position < len(self._tokens):
                again = self._tokens[self._position]
                if again.text != keyword.text or again.text == "range":
                    raise self._error(again.at, f"unexpected <{again.text}> in else")
                self._position += 1
                otherwise = (self._branch(again),)  # its end is ours too
                end = None
                del self._variables[mark:]
                self._depth -= 1
                return Branch(keyword.text, pipeline, body, otherwise)
            otherwise, end = self._body()
            if end is not None and end.text == "else":
                raise self._error(end.at, "expected end; found {{else}}")
        if end is None:
            raise self._error(len(self._source), "unexpected EOF")
        self._nothing_more(end)
        del self._variables[mark:]
        self._depth -= 1
        return Branch(keyword.text, pipeline, body, otherwise)

    def _enter(self, token: Token) -> None:
        self._depth += 1
        if self._depth > _DEPTH_LIMIT:
            raise self._error(token.at, f"nested deeper than {_DEPTH_LIMIT} levels")

    def _nothing_more(self, keyword: Token) -> None:
        if self._position < len(self._tokens):
            raise self._error(keyword.at, f"unexpected {quote(self._tokens[self._position].text)} in {keyword.text}")

    # Pipelines --------------------------------------------------------------------------------------------------

    def _peek(self) -> Token | None:
        return self._tokens[self._position] if self._position < len(self._tokens) else None

    def _whole_pipeline(self, first: Token, context: str) -> Pipeline:
        pipeline = self._pipeline(first, context)
        token = self._peek()
        if token is not None:
            raise self._error(token.at, f"unexpected {quote(token.text)} in {context}")
        return pipeline

    def _pipeline(self, start: Token, context: str) -> Pipeline:
        names, declares = self._declarations(context)
        commands: list[tuple[Operand, ...]] = []
        while True:
            command = self._command()
            if not command:
                token = self._peek()
                if token is not None and not commands:
                    raise self._error(token.at, f"unexpected {quote(token.text)} in {context}")
                raise self._error(start.at, f"missing value for {context}" if not commands else "empty command")
            if commands and isinstance(command[0], (Literal, Field)) and not getattr(command[0], "names", ()):
                raise self._error(command[0].at, f"non executable command in pipeline stage {len(commands) + 1}")
            commands.append(command)
            token = self._peek()
            if token is None or token.kind != "pipe":
                break
            self._position += 1
        # Only now: "$x := $x" speaks of an older $x.
        if declares:
            self._variables.extend(names)
        return Pipeline(names, declares, tuple(commands))

    def _declarations(self, context: str) -> tuple[tuple[str, ...], bool]:
        kinds = [token.kind for token in self._tokens[self._position : self._position + 4]]
        if kinds[:1] != ["variable"]:
            return (), False
        count = 0
        if kinds[1:2] in (["declare"], ["assign"]):
            count = 1
        elif context == "range" and kinds[1:3] == ["comma", "variable"] and kinds[3:4] in (["declare"], ["assign"]):
            count = 2
        if not count:
            return (), False
        first = self._position
        names = tuple(self._tokens[first + 2 * index].text for index in range(count))
        declares = kinds[2 * count - 1] == "declare"
        self._position += 2 * count
        for name in names:
            if not declares and name not in self._variables:
                raise self._error(self._tokens[first].at, f"undefined variable {quote(name)}")
        return names, declares

    def _command(self) -> tuple[Operand, ...]:
        operands: list[Operand] = []
        while (token := self._peek()) is not None and token.kind not in {"pipe", "close"}:
            if token.kind == "other" and not operands:
                break
            if operands and not token.spaced:
                shown = "<.>" if token.kind == "dot" else quote(token.text)
                raise self._error(token.at, f"unexpected {shown} in operand")
            operands.append(self._operand(token))
        return tuple(operands)

    def _operand(self, token: Token) -> Operand:
        self._position += 1
        text, at = token.text, token.at
        match token.kind:
            case "word":
                if text in {"true", "false", "nil"}:
                    return self._constant({"true": True, "false": False, "nil": None}[text], token)
                if text not in self._functions:
                    raise self._error(at, f"function {quote(text)} not defined")
                return Function(text, at, text)
            case "string" | "char":
                value = unquote(text[1:-1])
                if value is None or (token.kind == "char" and len(value) != 1):
                    raise self._error(
                        at, f"malformed character constant: {text}" if token.kind == "char" else "invalid syntax"
                    )
                return self._constant(ord(value) if token.kind == "char" else value, token)
            case "raw":
                return self._constant(text[1:-1], token)
            case "number":
                return self._constant(self._number(token), token)
            case "dot":
                return Field((), at, ".")
            case "field":
                names, at = self._fields(at)
                return Field((text[1:], *names), at, text + "".join(f".{name}" for name in names))
            case "variable":
                if text not in self._variables:
                    raise self._error(at, f"undefined variable {quote(text)}")
                names, at = self._fields(at)
                return Variable(text, names, at, text + "".join(f".{name}" for name in names))
            case "open":
                return self._parenthesis(token)
            case _:
                raise self._error(at, f"unexpected {quote(text)} in operand")

    def _constant(self, value: str | float | bool | None, token: Token) -> Literal:
        follower = self._peek()
        if follower is not None and follower.kind == "field" and not follower.spaced:
            raise self._error(token.at, f"unexpected . after term {quote(token.text)}")
        return Literal(value, token.at, token.text)

    def _parenthesis(self, token: Token) -> Chain:
        self._enter(token)
        pipeline = self._pipeline(token, "parenthesized pipeline")
        close = self._peek()
        if close is None or close.kind != "close":
            raise self._error(token.at, "unclosed left paren")
        self._position += 1
        self._depth -= 1
        names, at = self._fields(token.at)
        return Chain(pipeline, names, at, self._source[token.at : close.at + 1] + "".join(f".{name}" for name in names))

    def _fields(self, at: int) -> tuple[tuple[str, ...], int]:
        """Read ``.A.B`` that touches what went before; like Go's, the position is that of the first of them."""
        names: list[str] = []
        while (token := self._peek()) is not None and token.kind == "field" and not token.spaced:
            if not names:
                at = token.at
            names.append(token.text[1:])
            self._position += 1
        return tuple(names), at

    def _number(self, token: Token) -> float:
        text = token.text.replace("_", "")
        try:
            if re.fullmatch(r"[+-]?0[xXbBoO].*", text):
                number: float = int(text, 0)
            elif re.fullmatch(r"[+-]?[0-9]{1,30}", text):
                number = int(text)
            else:
                number = float(text[:64])
        except ValueError as error:
            raise self._error(token.at, f"bad number syntax: {quote(token.text)}") from error
        if isinstance(number, int) and not -(2**63) <= number < 2**64:
            raise self._error(token.at, f"integer overflow: {quote(token.text)}")
        if number in {float("inf"), float("-inf")}:
            raise self._error(token.at, f"bad number syntax: {quote(token.text)}")
        return number

"""Text into instructions: Docker's Dockerfile grammar, each error with the line it is about."""

from __future__ import annotations

import re

from lamella.build.dockerfile import instructions as ast
from lamella.build.dockerfile.lexer import MAX_SHOWN, Lexer, LogicalLine, error_at
from lamella.build.dockerfile.readers import read_instruction
from lamella.errors import InvalidArgument
from lamella.model.goprint import quote

MAX_INSTRUCTIONS = 10_000
_OWN_SYNTAX = r"(docker\.io/)?docker/dockerfile(-upstream)?(:[^@]*)?(@.*)?"


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
        instruction = parse_line(line, lexer.escape)
        if isinstance(instruction, ast.From):
            stages.append((instruction, []))
        elif stages:
            stages[-1][1].append(instruction)
        elif isinstance(instruction, ast.Arg):
            arguments.append(instruction)
        else:
            message = f"no build stage in current context: {line.keyword.upper()} before the first FROM"
            raise error_at(line.number, message, line.text)
    if not count:
        raise InvalidArgument("file with no instructions: the Dockerfile is empty")
    if not stages:
        raise InvalidArgument("no build stage: the Dockerfile has no FROM")
    return ast.Dockerfile(
        lexer.escape,
        lexer.syntax,
        lexer.check,
        tuple(arguments),
        tuple(ast.Stage(base, tuple(commands)) for base, commands in stages),
        _warnings(lexer.syntax),
    )


def _warnings(syntax: str) -> tuple[str, ...]:
    """Say if the file asks for another language than the one read here."""
    name = syntax.partition(" ")[0]
    if not name or re.fullmatch(_OWN_SYNTAX, name):
        return ()
    return (f"# syntax={name[:200]} names another language; the file is read as a Dockerfile",)


def parse_trigger(text: str) -> ast.Command:
    """Read one instruction kept by ONBUILD; raises InvalidArgument with its words."""
    shown = quote(text[:MAX_SHOWN])
    lines = list(Lexer(text).lines())
    if len(lines) != 1:
        raise InvalidArgument(f"onbuild trigger should be a single expression: {shown}")
    try:
        instruction = read_instruction(lines[0], "\\")
    except InvalidArgument as error:
        raise InvalidArgument(f"ONBUILD trigger {shown} of the base image: {error}") from error
    if isinstance(instruction, ast.From | ast.OnBuild | ast.Maintainer):
        raise InvalidArgument(f"{lines[0].keyword.upper()} isn't allowed as an ONBUILD trigger: {shown}")
    return instruction


def parse_line(line: LogicalLine, escape: str) -> ast.Command | ast.From:
    """Read one instruction; raises InvalidArgument with its line and its words."""
    try:
        return read_instruction(line, escape)
    except InvalidArgument as error:
        raise error_at(line.number, str(error), line.text) from error

"""``--format`` templates: Go's text/template over plain values, with Docker's functions.

Dicts stand for both structs and maps.  A missing key is an error where the dict is a struct: its name begins with a
capital and the dict is the root or holds more than strings; elsewhere (a label, a network) it is ``<no value>``.
Values that are callable are methods.  What is null prints as Docker's type for that field would: ``[]``, ``map[]`` or
``<nil>``.  Everything that goes wrong is InvalidArgument with Go's message; the ``table`` prefix and the escaping of
terminals are the caller's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NoReturn

from lamella.errors import InvalidArgument
from lamella.model.gofunctions import FUNCTIONS, CallError, truth
from lamella.model.goprint import show, type_name
from lamella.model.gosyntax import (
    Action,
    Branch,
    Chain,
    Field,
    Function,
    Leave,
    Literal,
    Node,
    Operand,
    Pipeline,
    Text,
    Variable,
    parse_template,
)

_RANGE_LIMIT = 1_000_000
_OUTPUT_LIMIT = 64 << 20
_MAPS = frozenset({
    "Annotations", "Data", "DriverOpts", "ExposedPorts", "Labels", "Networks", "Options", "PortBindings", "Ports",
    "StorageOpt", "Sysctls", "Tmpfs", "Volumes",
})  # fmt: skip
_POINTERS = frozenset({
    "ContainerConfig", "Health", "Healthcheck", "ImageManifestDescriptor", "IPAMConfig", "Init", "MemorySwappiness",
    "OomKillDisable", "PidsLimit", "Platform", "SizeRootFs", "SizeRw", "StopTimeout",
})  # fmt: skip


def render(template: str, value: object) -> str:
    """Run *template* once over *value*."""
    return Template(template).render(value)


class Template:
    """A parsed template, to be run over many values."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._nodes = parse_template(source, FUNCTIONS)

    def render(self, value: object) -> str:
        """Run the template over *value*."""
        run = _Run(self._source, value)
        try:
            run.walk(self._nodes, value)
        except RecursionError as error:
            raise InvalidArgument("template parsing error: template: : values are nested too deeply") from error
        return "".join(run.out)


class _Leave(Exception):
    def __init__(self, kind: str) -> None:
        self.kind = kind


class _Run:
    def __init__(self, source: str, value: object) -> None:
        self.out: list[str] = []
        self._source = source
        self._variables: list[tuple[str, object]] = [("$", value)]
        self._written = 0
        self._turns = 0

    def _fail(self, operand: Operand, message: str) -> NoReturn:
        before = self._source[: operand.at]
        line = before.count("\n") + 1
        column = len(before.rpartition("\n")[2].encode(errors="replace"))
        text = operand.text if len(operand.text) <= 20 else operand.text[:17] + "..."
        raise InvalidArgument(
            f'template parsing error: template: :{line}:{column}: executing "" at <{text}>: {message}'
        )

    def _write(self, text: str, operand: Operand | None = None) -> None:
        self._written += len(text)
        if self._written > _OUTPUT_LIMIT and operand is not None:
            self._fail(operand, f"more than {_OUTPUT_LIMIT} characters of output")
        self.out.append(text)

    # Statements -------------------------------------------------------------------------------------------------

    def walk(self, nodes: tuple[Node, ...], dot: object) -> None:
        for node in nodes:
            match node:
                case Text(text):
                    self._write(text)
                case Action(pipeline):
                    value = self._pipeline(pipeline, dot)
                    if not pipeline.names:
                        first = pipeline.commands[0][0]
                        self._write(self._nil(pipeline, dot) if value is None else show(value), first)
                case Branch("range"):
                    self._range(node, dot)
                case Branch():
                    self._choose(node, dot)
                case Leave(kind):
                    raise _Leave(kind)

    def _nil(self, pipeline: Pipeline, dot: object) -> str:
        """Print a null: what Docker's Go type for the field of that name would give, if it is one."""
        operand = pipeline.commands[0][0]
        if len(pipeline.commands) > 1 or not isinstance(operand, Field) or not operand.names:
            return "<no value>"
        *path, name = operand.names
        parent = self._evaluate(operand._replace(names=tuple(path)), dot, [])
        if not isinstance(parent, Mapping) or name not in parent or not name[:1].isupper():
            return "<no value>"
        return "map[]" if name in _MAPS else "<nil>" if name in _POINTERS else "[]"

    def _choose(self, node: Branch, dot: object) -> None:
        mark = len(self._variables)
        value = self._pipeline(node.pipeline, dot)
        if truth(value):
            self.walk(node.body, value if node.kind == "with" else dot)
        else:
            self.walk(node.otherwise, dot)
        del self._variables[mark:]

    def _range(self, node: Branch, dot: object) -> None:
        mark = len(self._variables)
        pipeline = node.pipeline
        value = self._pipeline(pipeline._replace(names=(), declares=False), dot)
        ran = False
        try:
            for key, item in self._turns_of(value, pipeline.commands[0][0]):
                ran = True
                del self._variables[mark:]
                turn = (item,) if len(pipeline.names) < 2 else (key, item)
                for name, content in zip(pipeline.names, turn, strict=False):
                    self._set(name, content, declare=pipeline.declares)
                try:
                    self.walk(node.body, item)
                except _Leave as leave:
                    if leave.kind == "break":
                        break
        finally:
            del self._variables[mark:]
        if not ran:
            self.walk(node.otherwise, dot)

    def _turns_of(self, value: object, operand: Operand) -> Iterator[tuple[object, object]]:
        turns: Iterator[tuple[object, object]]
        if value is None:
            return
        if isinstance(value, Mapping):
            turns = iter([(key, value[key]) for key in sorted(value, key=show)])
        elif isinstance(value, (list, tuple)):
            turns = enumerate(value)
        elif isinstance(value, int) and not isinstance(value, bool):
            turns = ((index, index) for index in range(value))
        else:
            self._fail(operand, f"range can't iterate over {show(value)}")
        for turn in turns:
            self._turns += 1
            if self._turns > _RANGE_LIMIT:
                self._fail(operand, f"range goes on for more than {_RANGE_LIMIT} turns")
            yield turn

    def _set(self, name: str, value: object, *, declare: bool) -> None:
        if declare:
            self._variables.append((name, value))
            return
        for index in range(len(self._variables) - 1, -1, -1):
            if self._variables[index][0] == name:
                self._variables[index] = (name, value)
                return

    # Values -----------------------------------------------------------------------------------------------------

    def _pipeline(self, pipeline: Pipeline, dot: object) -> object:
        value: object = None
        for stage, command in enumerate(pipeline.commands):
            value = self._command(command, dot, (value,) if stage else ())
        for name in pipeline.names:
            self._set(name, value, declare=pipeline.declares)
        return value

    def _command(self, command: tuple[Operand, ...], dot: object, final: tuple[object, ...]) -> object:
        first, *rest = command
        if isinstance(first, Function):
            return self._call(first, rest, dot, final)
        arguments = [self._operand(operand, dot) for operand in rest]
        arguments += final
        if isinstance(first, (Field, Variable)) or (isinstance(first, Chain) and first.names):
            return self._evaluate(first, dot, arguments)
        if arguments:
            self._fail(first, f"can't give argument to non-function {first.text}")
        if isinstance(first, Literal) and first.value is None:
            self._fail(first, "nil is not a command")
        return self._operand(first, dot)

    def _operand(self, operand: Operand, dot: object) -> object:
        match operand:
            case Literal():
                return operand.value
            case Function():
                return self._call(operand, [], dot, ())
            case _:
                return self._evaluate(operand, dot, [])

    def _evaluate(self, operand: Field | Variable | Chain, dot: object, arguments: list[object]) -> object:
        value: object
        match operand:
            case Field():
                value = dot
            case Variable():
                value = next(content for name, content in reversed(self._variables) if name == operand.name)
            case Chain():
                value = self._pipeline(operand.pipeline, dot)
        for index, name in enumerate(operand.names):
            value = self._field(operand, value, name, arguments if index == len(operand.names) - 1 else [])
        if not operand.names and arguments:
            self._fail(operand, f"can't give argument to non-function {operand.text}")
        return value

    def _field(self, operand: Operand, value: object, name: str, arguments: list[object]) -> object:
        if value is None:
            return None
        found: object
        if isinstance(value, Mapping):
            if name not in value:
                struct = value is self._variables[0][1] or not all(isinstance(item, str) for item in value.values())
                if struct and name[:1].isupper():
                    self._fail(operand, f'map has no entry for key "{name}"')
                return None
            found = value[name]
        elif name.startswith("_") or isinstance(value, (str, int, float, list)) or not hasattr(value, name):
            self._fail(operand, f"can't evaluate field {name} in type {type_name(value)}")
        else:
            found = getattr(value, name)
        if callable(found):
            return self._method(operand, name, found, arguments)
        if arguments:
            self._fail(operand, f"{name} is not a method but has arguments")
        return found

    def _method(self, operand: Operand, name: str, method: Callable[..., object], arguments: list[object]) -> object:
        try:
            return method(*arguments)
        except TypeError as error:
            self._fail(operand, f"wrong number of args for {name}: {error}")

    def _call(self, function: Function, rest: list[Operand], dot: object, final: tuple[object, ...]) -> object:
        if function.name in {"and", "or"}:
            return self._short_circuit(function, rest, dot, final)
        arguments = [self._operand(operand, dot) for operand in rest]
        arguments += final
        act, fewest, most = FUNCTIONS[function.name]
        if not (fewest <= len(arguments) and (most is None or len(arguments) <= most)):
            want = str(fewest) if most == fewest else f"at least {fewest}" if most is None else f"{fewest} to {most}"
            self._fail(function, f"wrong number of args for {function.name}: want {want} got {len(arguments)}")
        try:
            return act(*arguments)
        except CallError as error:
            self._fail(function, f"error calling {function.name}: {error}")

    def _short_circuit(self, function: Function, rest: list[Operand], dot: object, final: tuple[object, ...]) -> object:
        if not rest and not final:
            self._fail(function, f"wrong number of args for {function.name}: want at least 1 got 0")
        value: object = None
        for operand in rest:
            value = self._operand(operand, dot)
            if truth(value) == (function.name == "or"):
                return value
        return final[0] if final else value

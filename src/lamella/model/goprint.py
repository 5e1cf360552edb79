"""Go's fmt for plain values: ``%v``, quoting and Printf.

Values are what JSON has (None, bool, int, float, str, list, dict).  Only what templates need is here; a wrong verb
yields Go's ``%!d(string=x)``, never an error.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

_VERB = re.compile(r"%([-+# 0]*)(\*|[0-9]+)?(?:\.(\*|[0-9]*))?(.)?", re.DOTALL)
_WIDTH_LIMIT = 10_000
_ESCAPES = {
    "\a": "\\a",
    "\b": "\\b",
    "\f": "\\f",
    "\n": "\\n",
    "\r": "\\r",
    "\t": "\\t",
    "\v": "\\v",
    "\\": "\\\\",
    '"': '\\"',
}
_UNESCAPES = {"a": 7, "b": 8, "f": 12, "n": 10, "r": 13, "t": 9, "v": 11, "\\": 92, "'": 39, '"': 34}
_ESCAPED = re.compile(
    r"\\(?:x([0-9a-fA-F]{2})|([0-7]{3})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([abfnrtv\\'\"])|)", re.ASCII
)


def show(value: object) -> str:
    """Print as ``%v``: ``[a b]``, ``map[k:v]``, ``true``, ``<nil>``."""
    if isinstance(value, str):
        return value
    if value is None:
        return "<nil>"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return int.__repr__(value)
    if isinstance(value, float):
        return _general(value)
    if isinstance(value, Mapping):
        return "map[" + " ".join(f"{show(key)}:{show(value[key])}" for key in sorted(value, key=show)) + "]"
    fields = getattr(value, "_fields", None) or getattr(value, "__struct_fields__", None)
    if fields:
        return "{" + " ".join(show(getattr(value, field)) for field in fields) + "}"
    if isinstance(value, (list, tuple, set, frozenset)):
        return "[" + " ".join(show(item) for item in value) + "]"
    return str(value)


def type_name(value: object) -> str:
    """Name the Go type that *value* would have."""
    if value is None:
        return "<nil>"
    if isinstance(value, bool):
        return "bool"
    for kind, name in ((int, "int"), (float, "float64"), (str, "string"), (Mapping, "map[string]interface {}")):
        if isinstance(value, kind):
            return name
    return "[]interface {}" if isinstance(value, (list, tuple)) else type(value).__name__


def _general(value: float) -> str:
    """Print a float with the shortest digits that give it back, exponent from 1e21 on."""
    if value != value or value in {float("inf"), float("-inf")}:  # noqa: PLR0124 - the definition of NaN
        return "NaN" if value != value else "+Inf" if value > 0 else "-Inf"  # noqa: PLR0124
    text = repr(value)
    mantissa, _, exponent = text.partition("e")
    power = int(exponent or "0")
    if exponent and 0 < power < 21:
        return str(int(value))
    mantissa = mantissa.removesuffix(".0")
    if exponent:
        return f"{mantissa}e{'-' if power < 0 else '+'}{abs(power):02d}"
    return mantissa


def quote(text: str) -> str:
    """Write *text* as a Go string literal."""
    out = ['"']
    for char in text:
        if char in _ESCAPES:
            out.append(_ESCAPES[char])
        elif char.isprintable():
            out.append(char)
        elif char < "\x80":
            out.append(f"\\x{ord(char):02x}")
        else:
            code = ord(char)
            out.append(f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}")
    return "".join(out) + '"'


def unquote(literal: str) -> str | None:
    """Read the inside of a Go string or character literal; None if an escape is wrong."""
    out = bytearray()
    at = 0
    while at < len(literal):
        if literal[at] != "\\":
            out += literal[at].encode(errors="replace")
            at += 1
            continue
        match = _ESCAPED.match(literal, at)
        if match is None or match.end() == at + 1:
            return None
        if match[1] or match[2]:
            byte = int(match[1], 16) if match[1] else int(match[2], 8)
            if byte > 255:
                return None
            out.append(byte)
        elif match[5]:
            out.append(_UNESCAPES[match[5]])
        else:
            code = int(match[3] or match[4], 16)
            if code > 0x10FFFF or 0xD800 <= code < 0xE000:
                return None
            out += chr(code).encode()
        at = match.end()
    return out.decode(errors="replace")


def sprint(values: Sequence[object]) -> str:
    """Print values one after the other, a blank between two of which neither is a string."""
    out: list[str] = []
    for index, value in enumerate(values):
        if index and not isinstance(value, str) and not isinstance(values[index - 1], str):
            out.append(" ")
        out.append(show(value))
    return "".join(out)


def sprintf(template: str, values: Sequence[object]) -> str:
    """Format *values* as Printf does."""
    out: list[str] = []
    rest = list(values)
    position = 0
    for match in _VERB.finditer(template):
        out.append(template[position : match.start()])
        position = match.end()
        flags, verb = match[1], match[4]
        width, flags = _number(match[2], rest, flags)
        precision = None
        if match[3] is not None:
            precision, _ = _number(match[3] or "0", rest, "")
        if verb is None:
            out.append("%!(NOVERB)")
        elif verb == "%":
            out.append("%")
        elif not rest:
            out.append(f"%!{verb}(MISSING)")
        else:
            body = _verb(verb, flags, precision, rest.pop(0))
            out.append(_padded(body, flags, width or 0))
    out.append(template[position:])
    if rest:
        extra = ", ".join(f"{type_name(value)}={show(value)}" if value is not None else "<nil>" for value in rest)
        out.append(f"%!(EXTRA {extra})")
    return "".join(out)


def _number(text: str | None, rest: list[object], flags: str) -> tuple[int | None, str]:
    if text is None:
        return None, flags
    if text != "*":
        return min(int(text[:9]), _WIDTH_LIMIT), flags
    value = rest.pop(0) if rest else 0
    if not isinstance(value, int):
        return None, flags
    if value < 0:
        flags += "-"
    return min(abs(value), _WIDTH_LIMIT), flags


def _padded(body: str, flags: str, width: int) -> str:
    if "-" in flags:
        return body.ljust(width)
    if "0" in flags:
        sign = body[:1] if body[:1] in {"+", "-"} else ""
        return sign + body[len(sign) :].rjust(width - len(sign), "0")
    return body.rjust(width)


def _verb(verb: str, flags: str, precision: int | None, value: object) -> str:
    bad = f"%!{verb}({type_name(value)}={show(value)})" if value is not None else f"%!{verb}(<nil>)"
    if verb == "T":
        return type_name(value)
    if verb == "v":
        return quote(value) if "#" in flags and isinstance(value, str) else show(value)
    if isinstance(value, (list, tuple)):
        return "[" + " ".join(_verb(verb, flags, precision, item) for item in value) + "]"
    if isinstance(value, Mapping):
        parts = (
            f"{_verb(verb, flags, precision, key)}:{_verb(verb, flags, precision, value[key])}"
            for key in sorted(value, key=show)
        )
        return "map[" + " ".join(parts) + "]"
    if isinstance(value, bool):
        return show(value) if verb == "t" else bad
    if isinstance(value, str):
        return _string_verb(verb, precision, value, bad)
    if isinstance(value, int):
        return _int_verb(verb, flags, value, bad)
    if isinstance(value, float) and verb in "eEfFgG":
        if precision is None and verb in "gG":
            return _general(value)
        return f"{value:{'+' if '+' in flags else ''}.{6 if precision is None else min(precision, 100)}{verb}}"
    return bad


def _string_verb(verb: str, precision: int | None, value: str, bad: str) -> str:
    if precision is not None:
        value = value[:precision]
    if verb == "s":
        return value
    if verb == "q":
        return quote(value)
    if verb in "xX":
        digits = value.encode(errors="replace").hex()
        return digits if verb == "x" else digits.upper()
    return bad


def _int_verb(verb: str, flags: str, value: int, bad: str) -> str:
    if verb in "dxXob":
        form = ("+" if "+" in flags else " " if " " in flags else "") + ("#" if "#" in flags and verb != "d" else "")
        return f"{value:{form}{verb}}"
    valid = 0 <= value <= 0x10FFFF and not 0xD800 <= value < 0xE000
    if verb == "c":
        return chr(value) if valid else "\ufffd"
    if verb == "q":
        return "'" + (chr(value) if valid else "\ufffd") + "'"
    if verb == "U" and value >= 0:
        return f"U+{value:04X}"
    return bad

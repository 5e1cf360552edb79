"""Go's fmt for plain values: ``%v``, quoting and Printf.

Values are what JSON has (None, bool, int, float, str, list, dict).  Only what templates need is here; a wrong verb
yields Go's ``%!d(string=x)``, never an error.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

# Compiled at first use: most commands only quote.
_VERB = r"(?s)%([-+# 0]*)(\*|[0-9]+)?(?:\.(\*|[0-9]*))?(?:\[([0-9]{1,4})\])?(.)?"
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
}
_UNESCAPES = {"a": 7, "b": 8, "f": 12, "n": 10, "r": 13, "t": 9, "v": 11, "\\": 92, "'": 39, '"': 34}
_ESCAPED = r"(?a)\\(?:x([0-9a-fA-F]{2})|([0-7]{3})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([abfnrtv\\'\"])|)"


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
    """Print a float with the shortest digits that give it back, with an exponent below -4 and from 6 on."""
    if value != value or value in {float("inf"), float("-inf")}:  # noqa: PLR0124 - the definition of NaN
        return "NaN" if value != value else "+Inf" if value > 0 else "-Inf"  # noqa: PLR0124
    # repr has the right digits; 17 of them would not, so its own are counted and given to %e.
    digits = repr(value).partition("e")[0].lstrip("-").replace(".", "").strip("0")
    scientific = f"{value:.{max(len(digits) - 1, 0)}e}"
    if -4 <= int(scientific.partition("e")[2]) < 6:
        return repr(value).removesuffix(".0")
    return scientific


def quote(text: str) -> str:
    """Write *text* as a Go string literal."""
    return '"' + "".join(_escaped(char, '"') for char in text) + '"'


def quote_rune(code: int) -> str:
    """Write the character of a code as a Go rune literal; of no valid code, the replacement character."""
    valid = 0 <= code < 0x110000 and not 0xD800 <= code < 0xE000
    return "'" + _escaped(chr(code if valid else 0xFFFD), "'") + "'"


def _escaped(char: str, delimiter: str) -> str:
    if char == delimiter:
        return "\\" + char
    if char in _ESCAPES:
        return _ESCAPES[char]
    if char.isprintable():
        return char
    code = ord(char)
    if char < "\x80":
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def unquote(literal: str) -> str | None:
    """Read the inside of a Go string or character literal; None if an escape is wrong."""
    out = bytearray()
    at = 0
    while at < len(literal):
        if literal[at] != "\\":
            out += literal[at].encode(errors="replace")
            at += 1
            continue
        match = re.compile(_ESCAPED).match(literal, at)
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


class _Spec(NamedTuple):
    """One verb with its flags."""

    verb: str
    flags: str
    width: int
    precision: int | None


def sprintf(template: str, values: Sequence[object]) -> str:
    """Format *values* as Printf does."""
    out: list[str] = []
    position = taken = 0
    reordered = False
    for match in re.finditer(_VERB, template):
        out.append(template[position : match.start()])
        position = match.end()
        flags, verb = match[1], match[5]
        width, taken = _number(match[2], values, taken)
        precision, taken = _number(match[3] or ("0" if match[3] is not None else None), values, taken)
        if width is not None and width < 0:
            flags += "-"
        if match[4] is not None:
            reordered = True
            taken = int(match[4]) - 1
        if verb is None:
            out.append("%!(NOVERB)")
        elif verb == "%":
            out.append("%")
        elif not 0 <= taken < len(values):
            out.append(f"%!{verb}({'BADINDEX' if match[4] is not None else 'MISSING'})")
        else:
            out.append(_format(_Spec(verb, flags, abs(width or 0), precision), values[taken]))
            taken += 1
    out.append(template[position:])
    rest = values[taken:]
    if rest and not reordered:
        extra = ", ".join("<nil>" if value is None else f"{type_name(value)}={show(value)}" for value in rest)
        out.append(f"%!(EXTRA {extra})")
    return "".join(out)


def _number(text: str | None, values: Sequence[object], taken: int) -> tuple[int | None, int]:
    """Read a width or precision, from *values* if it is an asterisk."""
    if text is None:
        return None, taken
    if text != "*":
        return min(int(text[:9]), _WIDTH_LIMIT), taken
    value = values[taken] if taken < len(values) else None
    if isinstance(value, bool) or not isinstance(value, int):
        return None, taken + 1
    return max(-_WIDTH_LIMIT, min(value, _WIDTH_LIMIT)), taken + 1


def _format(spec: _Spec, value: object) -> str:
    if spec.verb == "T":
        return _format(spec._replace(verb="s"), type_name(value))
    if value is None:
        return _padded("<nil>", spec) if spec.verb == "v" else f"%!{spec.verb}(<nil>)"
    if isinstance(value, (list, tuple)):
        return "[" + " ".join(_format(spec, item) for item in value) + "]"
    if isinstance(value, Mapping):
        keys = sorted(value, key=show)
        return "map[" + " ".join(f"{_format(spec, key)}:{_format(spec, value[key])}" for key in keys) + "]"
    done: str | None = None
    if isinstance(value, bool):
        done = _padded(show(value), spec) if spec.verb in {"t", "v"} else None
    elif isinstance(value, str):
        done = _string(spec, value)
    elif isinstance(value, int):
        done = _int(spec, value)
    elif isinstance(value, float):
        done = _float(spec, value)
    elif spec.verb in {"s", "v"}:
        done = _padded(show(value), spec)
    if done is not None:
        return done
    # As Go: the value is shown, by the same flags, beside its type.
    inner = _format(spec._replace(verb="v", flags=spec.flags.replace("#", "")), value)
    if "+" in spec.flags and inner[:1].isdigit() and not isinstance(value, str):
        inner = "+" + inner
    return f"%!{spec.verb}({type_name(value)}={inner})"


def _padded(body: str, spec: _Spec, *, zeros: bool = True) -> str:
    if "-" in spec.flags:
        return body.ljust(spec.width)
    if zeros and "0" in spec.flags:
        sign = body[:1] if body[:1] in {"+", "-"} else ""
        return sign + body[len(sign) :].rjust(spec.width - len(sign), "0")
    return body.rjust(spec.width)


def _string(spec: _Spec, value: str) -> str | None:
    text = value if spec.precision is None else value[: max(spec.precision, 0)]
    match spec.verb:
        case "s" | "v":
            body = quote(text) if spec.verb == "v" and "#" in spec.flags else text
        case "q":
            body = quote(text)
        case "x" | "X":
            body = text.encode(errors="replace").hex()
            body = body if spec.verb == "x" else body.upper()
        case _:
            return None
    return _padded(body, spec)


def _int(spec: _Spec, value: int) -> str | None:
    verb = "d" if spec.verb == "v" else spec.verb
    if verb in "dxXob":
        sign = "-" if value < 0 else ""
        if spec.verb != "v":
            sign = sign or ("+" if "+" in spec.flags else " " if " " in spec.flags else "")
        prefix = {"x": "0x", "X": "0X", "o": "0", "b": "0b"}.get(verb, "") if "#" in spec.flags else ""
        digits = f"{abs(value):{verb}}".rjust(max(spec.precision or 0, 0), "0")
        # A precision says how many digits; zeros are not filled in besides.
        return _padded(sign + prefix + digits, spec, zeros=spec.precision is None)
    valid = 0 <= value <= 0x10FFFF and not 0xD800 <= value < 0xE000
    char = chr(value) if valid else "\ufffd"
    if verb == "c":
        return _padded(char, spec)
    if verb == "q":
        inside = "\\'" if char == "'" else char if char == '"' else quote(char)[1:-1]
        return _padded(f"'{inside}'", spec)
    if verb == "U" and value >= 0:
        return _padded(f"U+{value:04X}", spec, zeros=False)
    return None


def _float(spec: _Spec, value: float) -> str | None:
    if spec.verb not in "eEfFgGv":
        return None
    sign = "+" if "+" in spec.flags and spec.verb != "v" else ""
    if spec.precision is None and spec.verb in "gGv":
        body = _general(value)
        body = sign * (body[:1] not in {"-", "+"}) + (body.upper() if spec.verb == "G" else body)
    else:
        precision = 6 if spec.precision is None else min(max(spec.precision, 0), 100)
        body = f"{value:{sign}.{precision}{'g' if spec.verb == 'v' else spec.verb}}"
    return _padded(body, spec)

"""The patterns of ``${name#pattern}`` and its kin: ``*`` any text, ``?`` any character, a backslash for the rest.

A pattern is cut at its stars; what lies between has a fixed length, so that earliest and latest places decide the
shortest and longest match without going back: no pattern takes longer than its length times the value's.
"""

from __future__ import annotations

from lamella.errors import InvalidArgument

_Piece = tuple[str | None, ...]  # None is "?"
_MAX_WORK = 1 << 27


def remove_prefix(pattern: str, value: str, *, longest: bool) -> str:
    """Remove the shortest or longest start of `value` that `pattern` matches."""
    end = _match(_parse(pattern, value), value, 0, longest=longest)
    return value if end is None else value[end:]


def remove_suffix(pattern: str, value: str, *, longest: bool) -> str:
    """Remove the shortest or longest end of `value` that `pattern` matches."""
    backwards = [piece[::-1] for piece in reversed(_parse(pattern, value))]
    end = _match(backwards, value[::-1], 0, longest=longest)
    return value if end is None else value[: len(value) - end]


def substitute(pattern: str, replacement: str, value: str, *, everywhere: bool, limit: int) -> str:
    """Replace the first match, or all, each as long as it can be; raises InvalidArgument beyond `limit`."""
    pieces = _parse(pattern, value)
    result: list[str] = []
    size = len(value)
    copied = start = 0
    last_end: int | None = None
    while start <= len(value):
        found = _find(pieces[0], value, start)
        end = None if found is None else _match(pieces, value, found, longest=True)
        if found is None or end is None:
            break
        if not (end == found and found == last_end):  # an empty match that touches the one before does not count
            result += value[copied:found], replacement
            copied = last_end = end
            size += len(replacement) - (end - found)
            if size > limit:
                raise InvalidArgument(f"the expanded value is larger than {limit} bytes")
        if not everywhere:
            break
        start = end if end > found else end + 1
    result.append(value[copied:])
    return "".join(result)


def _parse(pattern: str, value: str) -> list[_Piece]:
    """Cut `pattern` at its stars."""
    pieces: list[_Piece] = []
    piece: list[str | None] = []
    characters = iter(pattern)
    for character in characters:
        if character == "*":
            pieces.append(tuple(piece))
            piece = []
        elif character == "?":
            piece.append(None)
        elif character == "\\":
            escaped = next(characters, "")
            if escaped not in tuple("}/*?\\"):
                raise InvalidArgument(f"invalid pattern ({pattern}) in substitution: invalid escape '\\{escaped}'")
            piece.append(escaped)
        else:
            piece.append(character)
    pieces.append(tuple(piece))
    if sum(map(len, pieces)) * (len(value) + 1) > _MAX_WORK and any(None in piece for piece in pieces):
        raise InvalidArgument("pattern and value of a substitution are too large together")
    return pieces


def _match(pieces: list[_Piece], value: str, start: int, *, longest: bool) -> int | None:
    """Find where a match that begins at `start` ends."""
    if not _fits(pieces[0], value, start):
        return None
    end = start + len(pieces[0])
    for piece in pieces[1:-1]:
        found = _find(piece, value, end)
        if found is None:
            return None
        end = found + len(piece)
    if len(pieces) == 1:
        return end
    found = (_find_last if longest else _find)(pieces[-1], value, end)
    return None if found is None else found + len(pieces[-1])


def _fits(piece: _Piece, value: str, at: int) -> bool:
    if at + len(piece) > len(value):
        return False
    return all(wanted is None or wanted == value[at + offset] for offset, wanted in enumerate(piece))


def _find(piece: _Piece, value: str, start: int) -> int | None:
    if None not in piece:
        found = value.find("".join(piece), start)  # type: ignore[arg-type]
        return None if found < 0 else found
    return next((at for at in range(start, len(value) - len(piece) + 1) if _fits(piece, value, at)), None)


def _find_last(piece: _Piece, value: str, start: int) -> int | None:
    if None not in piece:
        found = value.rfind("".join(piece), start)  # type: ignore[arg-type]
        return None if found < 0 else found
    return next((at for at in range(len(value) - len(piece), start - 1, -1) if _fits(piece, value, at)), None)

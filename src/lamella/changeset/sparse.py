"""Sparse members: where their data goes in the file.

Four ways of writing the map are in use, GNU's old type ``S`` and the PAX formats 0.0, 0.1 and 1.0.  All are checked
here for order, overlap and sum, so that who makes the file can trust them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from lamella.changeset.entry import show
from lamella.changeset.tarheader import BLOCK, parse_number, pax_integer
from lamella.errors import InvalidArgument

Regions = list[tuple[int, int]]

_LINE: Final = re.compile(rb"[0-9]{1,19}")
_LONGEST_LINE: Final = 20
_IN_HEADER: Final = 4
_IN_EXTENSION: Final = 21


def checked_regions(regions: Regions, real_size: int, data_size: int, name: bytes, limit: int) -> Regions:
    """Return *regions* if they are in order, do not overlap, end within the file and hold exactly the data."""
    if len(regions) > limit:
        raise InvalidArgument(f"sparse member {show(name)} has more than {limit} regions")
    end = 0
    total = 0
    for offset, length in regions:
        if offset < end or length < 0 or offset + length > real_size:
            raise InvalidArgument(f"sparse member {show(name)} has a map that contradicts itself")
        end = offset + length
        total += length
    if total != data_size or not 0 <= real_size < 1 << 63:
        raise InvalidArgument(f"sparse member {show(name)} has a map that does not fit its data")
    return regions


def read_old_map(block: bytes, more: Callable[[], bytes], name: bytes, limit: int) -> tuple[Regions, int]:
    """Read the map of a type ``S`` header and of the extension blocks after it, and the size of the file."""
    regions: Regions = []
    real_size = parse_number(block[483:495])
    slots, extended = block[386:482], block[482]
    count = _IN_HEADER
    while True:
        for index in range(count):
            slot = slots[24 * index : 24 * index + 24]
            if not slot[0]:
                break
            regions.append((parse_number(slot[:12]), parse_number(slot[12:])))
        if not extended:
            return regions, real_size
        if len(regions) > limit:
            raise InvalidArgument(f"sparse member {show(name)} has more than {limit} regions")
        slots = more()
        extended = slots[504]
        count = _IN_EXTENSION


def parse_map_record(value: bytes, limit: int) -> Regions:
    """Read a ``GNU.sparse.map`` record: offsets and lengths in turn, separated by commas."""
    numbers = [pax_integer(part, "sparse map") for part in value.split(b",", 2 * limit + 2)] if value else []
    if len(numbers) % 2 or len(numbers) > 2 * limit:
        raise InvalidArgument("archive is damaged: malformed or oversized sparse map")
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def read_map_1_0(more: Callable[[], bytes], limit: int) -> tuple[Regions, int]:
    """Read the map that format 1.0 puts before the data; also return the number of bytes it took."""
    taken = 0
    lines: list[bytes] = []
    rest = b""
    wanted = 1
    while len(lines) < wanted:
        if len(rest) > _LONGEST_LINE:
            raise InvalidArgument("archive is damaged: malformed sparse map")
        block = more()
        taken += BLOCK
        *complete, rest = (rest + block).split(b"\n")
        lines += complete
        if wanted == 1 and lines:
            wanted = 1 + 2 * _decimal(lines[0])
            if wanted > 1 + 2 * limit:
                raise InvalidArgument(f"sparse member has more than {limit} regions")
    numbers = [_decimal(line) for line in lines[1:wanted]]
    return list(zip(numbers[::2], numbers[1::2], strict=True)), taken


def _decimal(line: bytes) -> int:
    if _LINE.fullmatch(line) is None:
        raise InvalidArgument("archive is damaged: malformed sparse map")
    return int(line)

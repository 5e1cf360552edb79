"""Which layers the images of a Docker data root have, for the price of reading their configs and no more."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from lamella.errors import DataLoss
from lamella.model.digest import PREFIX, digest_of
from lamella.readers.base import ImageStack
from lamella.store.smallfiles import find_small, list_names

_LIMIT = 8 << 20
_HEX = re.compile(r"[0-9a-f]{64}", re.ASCII)


class _RootFS(msgspec.Struct):
    diff_ids: tuple[str, ...] | None = None


class _Config(msgspec.Struct):
    rootfs: _RootFS


def read_stacks(content: Path, names: Mapping[str, Sequence[str]], problems: list[str]) -> Iterator[ImageStack]:
    """Yield the stack of each config in the directory *content*; *names* are the tags of each image.

    A config that does not hash to its name, or tells of no layers, is left out and goes to *problems*.
    """
    decoder = msgspec.json.Decoder(_Config)
    for name in list_names(content):
        if _HEX.fullmatch(name) is None:
            continue
        image = f"{PREFIX}{name}"
        try:
            raw = find_small(f"{content}/{name}", _LIMIT)
            if raw is None:
                continue
            config = decoder.decode(raw)
        except (DataLoss, msgspec.DecodeError) as error:
            problems.append(f"image {image}: {error}")
            continue
        if digest_of(raw) != image:
            problems.append(f"image {image}: its config is damaged; remove it and load or pull it again")
            continue
        yield ImageStack(image, tuple(sorted(names.get(image, ()))), config.rootfs.diff_ids or ())

"""Looking into a store of any engine without changing it: what is where, where it came from, what differs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lamella.errors import InvalidArgument, PermissionDenied

if TYPE_CHECKING:
    from lamella.insight.answer import Answer
    from lamella.insight.blame import ImageBlame, PathBlame, Version
    from lamella.insight.explain import Explanation, LayerStory
    from lamella.insight.imagediff import ImageDifference
    from lamella.readers.base import StoreReader

__all__ = [
    "Answer",
    "Explanation",
    "ImageBlame",
    "ImageDifference",
    "LayerStory",
    "Look",
    "PathBlame",
    "Version",
    "draw",
    "look",
    "why",
]


class Look:
    """One store, open for looking: Docker's, lamella's, Podman's, containerd's.

    Nothing is written but counts of files below ``lamella/`` of a data root of lamella's own, and no lock is taken, so
    the store may be in use, and its engine may be dead.
    """

    def __init__(self, reader: StoreReader) -> None:
        self._reader = reader

    @property
    def root(self) -> Path:
        """The store's root."""
        return self._reader.root

    @property
    def kind(self) -> str:
        """``docker``, ``containers-storage``, ``containerd``."""
        return self._reader.kind

    @property
    def problems(self) -> list[str]:
        """What was found damaged so far, a line each."""
        return self._reader.problems

    def explain(self, name: str, *, count_all: bool = False) -> Explanation:
        """Explain an image or container: its layers with their steps, directories, files and sharers.

        Layers with very many files stay uncounted unless *count_all* is set.  Raises NotFound, InvalidArgument.
        """
        from lamella.insight.counts import LIMIT
        from lamella.insight.explain import explain

        return explain(self._reader, name, limit=None if count_all else LIMIT)

    def why(self, what: str) -> Answer:
        """Say to what a path, ``DEVICE:INODE``, a mount or a process belongs, or that it is nobody's.

        Raises NotFound if there is no such thing on this machine.
        """
        from lamella.insight.why import why

        return why(what, self._reader)

    def blame(self, name: str, paths: Sequence[str]) -> list[PathBlame]:
        """Say of each path of an image or container which layer, step and package it is from, and what it hides."""
        from lamella.insight.blame import blame_paths

        return blame_paths(self._reader, name, [os.fsencode(path) for path in paths])

    def blame_all(self, name: str, *, offenders: int = 20) -> ImageBlame:
        """Weigh an image or container: bytes that show, that were overwritten, that were deleted and still ship.

        *offenders* says how many of the largest files that do not show are named.
        """
        from lamella.insight.blame import blame_image

        return blame_image(self._reader, name, offenders=offenders)

    def image_diff(self, old: str, new: str, *, by_layer: bool = False, content: bool = False) -> ImageDifference:
        """Compare two images or containers: files, flattened or layer by layer, and settings.

        Status decides whether files differ; *content* reads those of equal length whose layers differ.
        """
        from lamella.insight.imagediff import diff_images

        return diff_images(self._reader, old, new, by_layer=by_layer, content=content)


def look(path: Path | str) -> Look:
    """Open the store at *path* for looking, whatever engine it is of.

    Raises NotFound if there is none, Unsupported for a driver that lamella does not know.
    """
    from lamella.readers.detect import open_reader

    _need_root()
    return Look(open_reader(Path(path)))


def why(what: str, root: Path | str | None = None, *, roots: Sequence[Path | str] = ()) -> Answer:
    """Say to what a path, ``DEVICE:INODE``, a mount or a process belongs, in whatever store it is found.

    *root* is the store to ask; without it the one above the path, or the first of *roots*, and of the engines' usual
    ones, that has it.  See ``Look.why``.
    """
    from lamella.insight.why import why_anywhere
    from lamella.readers.detect import open_reader

    _need_root()
    if not what.strip():
        raise InvalidArgument("give a path, DEVICE:INODE, a line of the mount table or a process ID")
    reader = None if root is None else open_reader(Path(root))
    return why_anywhere(what, reader, [Path(each) for each in roots])


def _need_root() -> None:
    if os.geteuid() != 0:
        raise PermissionDenied("root is needed to read a store; run it with sudo")


def draw(story: Explanation, form: str) -> str:
    """Draw an explanation as ``svg`` or ``html``: one document that needs no other, dark and light."""
    from lamella.insight.draw import draw_html, draw_svg

    return draw_svg(story) if form == "svg" else draw_html(story)

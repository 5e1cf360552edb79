"""The files of one layer in ``DATA-ROOT/overlay2``: what they hold, how they are made and read.

::

    overlay2/ID/diff/        the layer's own files
    overlay2/ID/link         26 characters: the layer's short name
    overlay2/ID/lower        l/LINK:l/LINK…, the layers below, uppermost first; absent for a bottom layer
    overlay2/ID/work/        overlay's work directory; absent for a bottom layer
    overlay2/ID/committed    empty: the layer is never to be mounted for writing
    overlay2/l/LINK          -> ../ID/diff

Nothing read from here is trusted: names must match their patterns before they become part of a path or of mount data.
Mounting and counting are the driver's.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

from lamella.errors import DataLoss, InvalidArgument, NotFound
from lamella.fs.atomic import write_file
from lamella.model.ids import CacheID, LinkID, is_cache_id, is_link_id, new_link_id

# The kernel takes more, Docker does not: 125 layers of an image, an init layer and a container's own, and one to spare.
MAX_LOWERS = 128
# Longer than 128 entries of 28 characters with their colons.
_READ_LIMIT = 8192


class LayerDirectory:
    """One layer's directory; making the object looks at nothing on disk."""

    def __init__(self, home: Path, layer: CacheID) -> None:
        if not is_cache_id(layer):
            raise InvalidArgument(f"{layer!r} cannot be the name of a layer directory")
        self.home = home
        self.layer = layer
        self.path = home / layer
        self.diff = self.path / "diff"
        self.work = self.path / "work"
        self.merged = self.path / "merged"

    def exists(self) -> bool:
        """Tell whether there is a directory of this name, complete or not."""
        try:
            return stat.S_ISDIR(os.lstat(self.path).st_mode)
        except FileNotFoundError:
            return False

    def require(self, *, work: bool = False) -> None:
        """Raise NotFound unless the layer's files are there, and with *work* what overlay needs to write them."""
        for path in (self.path, self.diff, self.work)[: 3 if work else 2]:
            try:
                found = stat.S_ISDIR(os.lstat(path).st_mode)
            except FileNotFoundError:
                found = False
            if not found:
                raise NotFound(f"{path}: the layer's directory does not exist; load the image again")

    def forget_volatile(self) -> None:
        """Remove the mark of a volatile mount, for which the kernel would refuse the next one."""
        mark = self.work / "work" / "incompat"
        with suppress(OSError):
            os.unlink(mark / "volatile" / "dirty")
            os.rmdir(mark / "volatile")
            os.rmdir(mark)

    def create(self, parent: LayerDirectory | None, *, committed: bool) -> None:
        """Make the directory with an empty ``diff``, in Docker's order.

        A crash leaves part of it, which :meth:`remove` takes away.  Names are replaced whole, but nothing is synced.
        """
        lowers = [] if parent is None else parent.lowers_of_child()
        _make_directory(self.path, 0o710)
        _make_directory(self.diff, 0o755)
        link = new_link_id()
        os.symlink(f"../{self.layer}/diff", self.home / "l" / link)
        write_file(self.path / "link", link.encode(), mode=0o644, sync=False)
        if parent is not None:
            _make_directory(self.work, 0o700)
            parent.commit()
            write_file(self.path / "lower", ":".join(lowers).encode(), mode=0o644, sync=False)
        if committed:
            self.commit()

    def commit(self) -> None:
        """Mark the layer as never to be written through a mount; doing it again is harmless."""
        with suppress(FileExistsError):
            # An empty file needs no draft aside: it is whole as soon as it exists.
            os.close(os.open(self.path / "committed", os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))

    def is_committed(self) -> bool:
        """Tell whether the layer has been marked."""
        return os.path.lexists(self.path / "committed")

    def link(self) -> LinkID:
        """Return the layer's short name; DataLoss if it is missing or not one."""
        text = self._read("link")
        if text is None or not is_link_id(text):
            raise DataLoss(f"{self.path / 'link'} is missing or damaged; remove the image and load it again")
        return LinkID(text)

    def lowers(self) -> list[str]:
        """Return the entries of ``lower``, ``l/LINK`` each and uppermost first; empty for a bottom layer."""
        text = self._read("lower")
        if text is None:
            return []
        entries = text.split(":")
        if len(entries) > MAX_LOWERS:
            raise DataLoss(f"{self.path / 'lower'} names {len(entries)} layers; at most {MAX_LOWERS} can be")
        for entry in entries:
            if not (entry.startswith("l/") and is_link_id(entry[2:])):
                raise DataLoss(f"{self.path / 'lower'} is damaged; remove the image and load it again")
        return entries

    def lowers_of_child(self) -> list[str]:
        """Return what ``lower`` of a layer on top of this one holds; InvalidArgument beyond the depth limit."""
        self.require()
        entries = [f"l/{self.link()}", *self.lowers()]
        if len(entries) > MAX_LOWERS:
            raise InvalidArgument(f"max depth exceeded: a layer can stand on at most {MAX_LOWERS} others")
        return entries

    def resolve(self, entry: str) -> LayerDirectory:
        """Return the layer that the entry ``l/LINK`` stands for; DataLoss if it leads nowhere or astray."""
        place = self.home / entry
        try:
            target = os.readlink(place)
        except OSError as problem:
            raise DataLoss(f"{place}, needed by layer {self.layer[:12]}, is missing; load the image again") from problem
        parts = target.split("/")
        if len(parts) != 3 or parts[0] != ".." or parts[2] != "diff" or not is_cache_id(parts[1]):
            raise DataLoss(f"{place} leads to {target!r}, which is no layer; load the image again")
        return LayerDirectory(self.home, CacheID(parts[1]))

    def stands_on(self, parent: CacheID | None) -> bool:
        """Tell whether *parent* is the layer directly below."""
        lowers = self.lowers()
        if not lowers or parent is None:
            return not lowers and parent is None
        return self.resolve(lowers[0]).layer == parent

    def remove(self) -> None:
        """Remove the short name, then the directory, complete or not."""
        from lamella.fs.tree import remove_tree

        links = self.home / "l"
        text = self._read("link") if self.exists() else None
        if text is not None and is_link_id(text):
            candidates = [text]
        else:
            # A crash between the two steps of making a layer leaves a short name that only its target tells.
            try:
                candidates = [name for name in os.listdir(links) if is_link_id(name)]
            except FileNotFoundError:
                candidates = []
        for name in candidates:
            place = links / name
            if place.is_symlink() and os.readlink(place) == f"../{self.layer}/diff":
                place.unlink()
        remove_tree(self.path)

    def _read(self, name: str) -> str | None:
        """Return the text of one of the small files, None if it does not exist."""
        try:
            fd = os.open(self.path / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        except OSError as problem:
            raise DataLoss(f"{self.path / name} is not a regular file") from problem
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise DataLoss(f"{self.path / name} is not a regular file")
            return os.read(fd, _READ_LIMIT).decode("ascii", "replace")
        finally:
            os.close(fd)


def _make_directory(path: Path, mode: int) -> None:
    """Make a directory with exactly *mode*, whatever the umask."""
    os.mkdir(path, mode)
    os.chmod(path, mode)

"""The quarantine: what was taken out of a data-root, kept until its time is up, and put back on demand.

::

    lamella/quarantine/<time>-<random>/record.json   what, why and from where
    lamella/quarantine/<time>-<random>/<number>      each thing, moved here by one rename

The record is on disk before the first thing is moved, so that a kill at any instant leaves each thing in one of the two
places, and a record that says where it belongs.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from lamella.errors import Conflict, DataLoss, InvalidArgument, LamellaError, NotFound
from lamella.fs.atomic import fsync_dir, write_file
from lamella.linux.locks import is_locked
from lamella.model.documents import decode_object
from lamella.model.gojson import encode
from lamella.store.smallfiles import is_directory, list_names, read_small

RECORD = "record.json"
_LIMIT = 8 << 20
_ID = re.compile(r"[0-9]{8}T[0-9]{6}Z-[0-9a-f]{8}", re.ASCII)
_GONE = "-removing"
_DRAFT = ".draft-"
MAKING = "making"
"""Holds the inode of a replacement that is being made in an entry, until it has changed places with the damaged one."""
HEALING = "healing"
"""The lock of whoever mends the store: beside the quarantine, held also while layers are fetched without the store lock."""


class Entry(NamedTuple):
    """One entry: what was taken out together, for one reason."""

    id: str
    path: Path
    moved_at: float
    """Seconds since the epoch."""
    run: str
    """What was moved by one command has this in common."""
    code: str
    text: str
    proof: tuple[str, ...]
    origins: tuple[str, ...]
    """Where each thing came from, relative to the data-root; its name here is its number in this list."""
    references: Mapping[str, str]
    """Names that were taken from images, and the images."""
    held: tuple[int, ...]
    """The numbers of those that are really here."""

    def to_document(self) -> dict[str, object]:
        """Give the entry as data."""
        return {
            "id": self.id,
            "moved_at": self.moved_at,
            "code": self.code,
            "text": self.text,
            "proof": list(self.proof),
            "origins": [self.origins[number] for number in self.held],
            "references": dict(self.references),
        }


class Quarantine:
    """The quarantine of one data-root; whoever moves anything holds the store lock."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.directory = root / "lamella" / "quarantine"

    def put(
        self,
        code: str,
        text: str,
        paths: Sequence[Path],
        *,
        run: str = "",
        proof: Sequence[str] = (),
        references: Mapping[str, str] | None = None,
    ) -> Entry:
        """Move *paths*, in their order, to a new entry; those that are gone already are left out.

        Durable on return.  *references* are only noted.
        """
        entry = self.begin(code, text, paths, run=run, proof=proof, references=references)
        return self.fill(entry)

    def begin(
        self,
        code: str,
        text: str,
        paths: Sequence[Path],
        *,
        run: str = "",
        proof: Sequence[str] = (),
        references: Mapping[str, str] | None = None,
    ) -> Entry:
        """Write the record of a new entry, durably; nothing is moved yet."""
        origins = tuple(str(path.relative_to(self.root)) for path in paths)
        moment = time.time()
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(moment))
        entry_id = f"{stamp}-{os.urandom(4).hex()}"
        path = self.directory / entry_id
        self._make()
        draft = self.directory / f"{_DRAFT}{entry_id}"
        os.mkdir(draft, 0o700)
        record = {
            "time": int(moment),
            "run": run,
            "code": code,
            "text": text,
            "proof": list(proof),
            "origins": list(origins),
            "references": dict(references or {}),
        }
        write_file(draft / RECORD, encode(record))
        os.rename(draft, path)
        fsync_dir(self.directory)
        return Entry(entry_id, path, moment, run, code, text, tuple(proof), origins, dict(references or {}), ())

    def fill(self, entry: Entry) -> Entry:
        """Move what an entry's record names, as far as it is still where it was; all that can be moved, or nothing."""
        held: list[int] = []
        parents = set()
        for number, origin in enumerate(entry.origins):
            source = self.root / origin
            try:
                os.rename(source, entry.path / str(number))
            except FileNotFoundError:
                pass
            except OSError:  # a disk of its own, or a full one
                for done in reversed(held):
                    os.rename(entry.path / str(done), self.root / entry.origins[done])
                self.remove(entry)
                raise
            else:
                parents.add(source.parent)
            if os.path.lexists(entry.path / str(number)):
                held.append(number)
        for parent in parents:
            if parent.is_dir():
                fsync_dir(parent)
        fsync_dir(entry.path)
        return entry._replace(held=tuple(held))

    def entries(self) -> list[Entry]:
        """Return all readable entries, oldest first; one in which a replacement is being made is none yet."""
        found = []
        for name in list_names(self.directory):
            if _ID.fullmatch(name) and not os.path.lexists(self.directory / name / MAKING):
                try:
                    found.append(self._read(name))
                except (LamellaError, OSError):
                    continue
        return found

    def damaged(self) -> list[Path]:
        """Return the entries whose record cannot be read."""
        found = []
        for name in list_names(self.directory):
            if name.endswith(_GONE) or name.startswith(_DRAFT):
                continue
            try:
                self._read(name)
            except (LamellaError, OSError):
                found.append(self.directory / name)
        return found

    def get(self, entry_id: str) -> Entry:
        """Return one entry by the beginning of its ID.  Raises NotFound, or InvalidArgument if several begin so."""
        found = [entry for entry in self.entries() if entry_id and entry.id.startswith(entry_id)]
        exact = [entry for entry in found if entry.id == entry_id]
        if len(exact or found) > 1:
            raise InvalidArgument(f"{entry_id} is ambiguous: {len(found)} entries of the quarantine begin with it")
        if not found:
            raise NotFound(f"there is no {entry_id} in the quarantine")
        return (exact or found)[0]

    def restore(self, entry: Entry) -> list[str]:
        """Put everything of an entry back where it was and forget the entry; return the places.

        The references are the caller's to set.  Raises Conflict, before anything is moved, if a place is taken.
        """
        for number in entry.held:
            target = self.root / entry.origins[number]
            if os.path.lexists(target):
                raise Conflict(f"{target} exists again: move it away to have {entry.id} put back")
            if not target.parent.is_dir():
                raise Conflict(f"{target.parent}, where {entry.origins[number]} belongs, does not exist any more")
        for number in reversed(entry.held):
            target = self.root / entry.origins[number]
            os.rename(entry.path / str(number), target)
            fsync_dir(target.parent)
        self.remove(entry)
        return [entry.origins[number] for number in entry.held]

    def remove(self, entry: Entry) -> None:
        """Delete an entry with all that is in it; a kill in the middle is finished by ``sweep``."""
        gone = self.directory / f"{entry.id}{_GONE}"
        os.rename(entry.path, gone)
        self._finish_removals()

    def sweep(self, *, replacements: bool = False) -> None:
        """Finish deletions that were begun, and drop replacements that were never put in place.

        While a store is mended, replacements are being made, and only who mends it says *replacements*.
        """
        self._finish_removals()
        if replacements or not is_locked(self.directory.parent / HEALING):
            self._drop_replacements()

    def _finish_removals(self) -> None:
        from lamella.fs.tree import remove_tree

        for name in list_names(self.directory):
            path = self.directory / name
            if name.endswith(_GONE) or name.startswith(_DRAFT):
                remove_tree(path)

    def _drop_replacements(self) -> None:
        from lamella.fs.tree import remove_tree

        for name in list_names(self.directory):
            path = self.directory / name
            try:
                made = read_small(path / MAKING)
            except (LamellaError, OSError):
                continue
            # Whether the exchange took place is told by which of the two directories is here.
            if made and os.path.lexists(path / "0") and made != inode_of(path / "0"):
                (path / MAKING).unlink(missing_ok=True)
            else:
                os.rename(path, self.directory / f"{name}{_GONE}")
                remove_tree(self.directory / f"{name}{_GONE}")

    def rest(self, entry: Entry) -> Entry:
        """Look again at what an entry holds; one that holds nothing and notes nothing is removed."""
        found = self._read(entry.id)
        if not found.held and not found.references:
            self.remove(found)
        return found

    def expired(self, keep_days: float) -> list[Entry]:
        """Return the entries that have been here for *keep_days* and more."""
        limit = time.time() - keep_days * 86400
        return [entry for entry in self.entries() if entry.moved_at <= limit]

    # ------------------------------------------------------------------------------------------------ internals

    def _read(self, name: str) -> Entry:
        path = self.directory / name
        if not is_directory(path):
            raise DataLoss(f"{path} is not a directory")
        document = decode_object(read_small(path / RECORD, _LIMIT), limit=_LIMIT, what=RECORD)
        origins = document.get("origins")
        moment = document.get("time")
        if not isinstance(origins, list) or not all(_is_inside(item) for item in origins):
            raise DataLoss(f"{path / RECORD} does not say where things came from")
        if not isinstance(moment, int):
            raise DataLoss(f"{path / RECORD} does not say when it was made")
        references = document.get("references")
        proof = document.get("proof")
        held = tuple(number for number in range(len(origins)) if os.path.lexists(path / str(number)))
        return Entry(
            name,
            path,
            float(moment),
            str(document.get("run") or ""),
            str(document.get("code") or ""),
            str(document.get("text") or ""),
            tuple(map(str, proof)) if isinstance(proof, list) else (),
            tuple(origins),
            {str(key): str(value) for key, value in references.items()} if isinstance(references, dict) else {},
            held,
        )

    def _make(self) -> None:
        for path in (self.directory.parent, self.directory):
            if path.is_symlink():
                raise DataLoss(f"{path}: a symbolic link stands where the quarantine belongs; remove it")
            if not path.is_dir():
                os.mkdir(path, 0o700)
                fsync_dir(path.parent)


def inode_of(path: Path) -> bytes:
    """Spell which inode *path* is."""
    return str(os.lstat(path).st_ino).encode()


def _is_inside(origin: object) -> bool:
    """Tell whether a path of a record stays in the data-root; the record may have been written by an enemy."""
    if not isinstance(origin, str) or not origin or origin.startswith("/") or "\0" in origin:
        return False
    return not {"", ".", ".."} & set(origin.split("/"))

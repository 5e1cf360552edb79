"""Taking back what nothing needs: each orphan with its proof, moved to quarantine by renames, deleted when its time is up.

Works from the files alone, so also on a data-root whose daemon does not start.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from lamella.errors import Conflict, LamellaError, NotFound
from lamella.insight.checks.mounts import check_mounts
from lamella.insight.fsck import require_root, shared
from lamella.insight.heal import alone
from lamella.insight.mending.records import add_references
from lamella.insight.orphans import Orphan, find_orphans, is_sure
from lamella.insight.quarantine import Entry, Quarantine
from lamella.insight.survey import Survey

KEEP_DAYS = 7.0


class Reclaimable(NamedTuple):
    """One orphan: what it is, why it is one, and what it takes."""

    code: str
    text: str
    proof: tuple[str, ...]
    paths: tuple[str, ...]
    bytes: int
    """On disk, hard links once."""
    entry: str = ""
    """The entry of the quarantine that it was moved to; empty if it was not."""
    failure: str = ""

    def to_document(self) -> dict[str, object]:
        """Give it as data."""
        return {**self._asdict(), "proof": list(self.proof), "paths": list(self.paths)}


class Reclaimed(NamedTuple):
    """What a run did, or would do."""

    orphans: tuple[Reclaimable, ...]
    expired: tuple[Entry, ...]
    """Entries of the quarantine that were, or would be, deleted."""
    freed: int
    """Bytes of these."""
    held: int
    """Bytes that are in the quarantine now."""
    doubtful: bool
    """Layer directories were left out, because some layer or container misses its own: check the store first."""

    def to_document(self) -> dict[str, object]:
        """Give it as data."""
        return {
            "orphans": [item.to_document() for item in self.orphans],
            "expired": [entry.to_document() for entry in self.expired],
            "freed": self.freed,
            "held": self.held,
            "doubtful": self.doubtful,
        }


def reclaim_store(
    root: Path, *, dry_run: bool = False, keep_days: float = KEEP_DAYS, now: bool = False, driver: str = ""
) -> Reclaimed:
    """Move every orphan of the data-root at *root* to quarantine, and delete what has been there *keep_days*.

    *now* deletes all of the quarantine, what was just moved there too; *dry_run* only tells.  Raises InUse while a
    dockerd runs there, unless it is only to be told; Unsupported for another engine's store.
    """
    from lamella.insight.foreign import require_docker

    root = require_root(root)
    require_docker(root)
    quarantine = Quarantine(root)
    if dry_run:
        with shared(root):
            survey = Survey(root, driver)
            found = [_weighed(survey, orphan) for orphan in find_orphans(survey)]
            found += [_weighed(survey, orphan) for orphan in _stale_mounts(survey)]
        expired = quarantine.entries() if now else quarantine.expired(keep_days)
        freed = sum(disk_usage(entry.path) for entry in expired)
        return Reclaimed(tuple(found), tuple(expired), freed, disk_usage(quarantine.directory), not is_sure(survey))
    run = f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{os.urandom(3).hex()}"
    done: list[Reclaimable] = []
    with alone(root):
        quarantine.sweep()
        survey = Survey(root, driver)
        sure = is_sure(survey)
        done += _unmount_stale(survey)
        # What stands on an orphan keeps it: taking one away may show the next.
        for _ in range(256):
            survey = Survey(root, survey.driver)
            orphans = [orphan for orphan in find_orphans(survey) if not _was_done(done, survey, orphan)]
            if not orphans:
                break
            done += [_move(quarantine, survey, orphan, run) for orphan in orphans]
        expired = quarantine.entries() if now else quarantine.expired(keep_days)
        freed = 0
        for entry in expired:
            size = disk_usage(entry.path)
            quarantine.remove(entry)
            freed += size
    return Reclaimed(tuple(done), tuple(expired), freed, disk_usage(quarantine.directory), not sure)


def list_quarantine(root: Path) -> list[tuple[Entry, int]]:
    """Return what is in the quarantine of *root*, oldest first, and the bytes of each entry."""
    return [(entry, disk_usage(entry.path)) for entry in Quarantine(require_root(root)).entries()]


def undo(root: Path, ids: Sequence[str] = (), *, driver: str = "") -> list[Entry]:
    """Put entries of the quarantine back, by the beginnings of their IDs, or all that the last run moved there.

    Raises NotFound if there is nothing, Conflict if a place is taken, InUse while a dockerd runs there.
    """
    root = require_root(root)
    quarantine = Quarantine(root)
    with alone(root):
        quarantine.sweep()
        entries = quarantine.entries()
        if ids:
            chosen = [quarantine.get(each) for each in ids]
        elif entries:
            last = entries[-1]
            chosen = [entry for entry in entries if entry.id == last.id or (last.run and entry.run == last.run)]
        else:
            raise NotFound("there is nothing in the quarantine")
        _require_places(root, chosen)  # all or nothing
        waiting = sorted(chosen, key=lambda entry: (entry.moved_at, entry.id), reverse=True)
        while waiting:
            # What was taken away last comes back first, but for what lay in something that is not back yet.
            ready = (entry for entry in waiting if all((root / origin).parent.is_dir() for origin in _held(entry)))
            entry = next(ready, waiting[0])
            waiting.remove(entry)
            if entry.references:
                survey = Survey(root, driver)
                if survey.references_fault not in {"", "missing"}:
                    raise Conflict("the references cannot be read: mend them first, with lamella fsck --heal")
                add_references(survey, dict(entry.references))
            quarantine.restore(entry)
    return chosen


def _held(entry: Entry) -> list[str]:
    return [entry.origins[number] for number in entry.held]


def _require_places(root: Path, chosen: Sequence[Entry]) -> None:
    """See that everything of these entries has a place to come back to.  Raises Conflict."""
    coming: dict[str, Path] = {}
    for entry in chosen:
        for number in entry.held:
            origin = entry.origins[number]
            if os.path.lexists(root / origin):
                raise Conflict(f"{root / origin} exists again: move it away to undo {entry.id}")
            if origin in coming:
                raise Conflict(f"{root / origin} was moved away twice: undo {coming[origin].parent.name} or {entry.id}")
            coming[origin] = entry.path / str(number)
    for entry in chosen:
        for origin in _held(entry):
            parent = Path(origin).parent
            above = next((place for place in (parent, *parent.parents) if str(place) in coming), None)
            place = coming[str(above)] / parent.relative_to(above) if above is not None else root / parent
            if not place.is_dir():
                raise Conflict(f"{root / parent}, where {Path(origin).name} belongs, does not exist any more")


def _was_done(done: list[Reclaimable], survey: Survey, orphan: Orphan) -> bool:
    paths = {survey.relative(path) for path in orphan.paths}
    return any(item.failure and paths & set(item.paths) for item in done)


def _weighed(survey: Survey, orphan: Orphan) -> Reclaimable:
    size = sum(disk_usage(path) for path in orphan.paths)
    return Reclaimable(
        orphan.code, orphan.text, orphan.proof, tuple(survey.relative(path) for path in orphan.paths), size
    )


def _move(quarantine: Quarantine, survey: Survey, orphan: Orphan, run: str) -> Reclaimable:
    item = _weighed(survey, orphan)
    try:
        entry = quarantine.put(orphan.code, orphan.text, orphan.paths, run=run, proof=orphan.proof)
    except (LamellaError, OSError) as error:
        return item._replace(failure=str(error))
    if not entry.held:
        quarantine.rest(entry)
        return item._replace(failure="it is no longer there")
    return item._replace(entry=entry.id)


def _stale_mounts(survey: Survey) -> list[Orphan]:
    proof = ("nobody is on record as using it", "no other mount namespace has it, and no process stands in it")
    return [Orphan(finding.code, finding.text, proof, (Path(finding.subject[0]),)) for finding in check_mounts(survey)]


def _unmount_stale(survey: Survey) -> list[Reclaimable]:
    from lamella.drivers.mountpoint import unmount

    done = []
    for orphan in _stale_mounts(survey):
        item = Reclaimable(
            orphan.code, orphan.text, orphan.proof, tuple(survey.relative(path) for path in orphan.paths), 0
        )
        try:
            unmount(orphan.paths[0])
        except OSError as error:
            item = item._replace(failure=str(error))
        done.append(item)
    return done


def disk_usage(path: Path) -> int:
    """Return the bytes that *path* and all below it take on disk, hard links once; nothing is followed."""
    total = 0
    seen: set[tuple[int, int]] = set()
    waiting = [os.fspath(path)]
    with contextlib.suppress(OSError):
        total += os.lstat(path).st_blocks * 512
    while waiting:
        with contextlib.suppress(OSError), os.scandir(waiting.pop()) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):
                    status = entry.stat(follow_symlinks=False)
                    if status.st_nlink > 1 and not entry.is_dir(follow_symlinks=False):
                        identity = (status.st_dev, status.st_ino)
                        if identity in seen:
                            continue
                        seen.add(identity)
                    total += status.st_blocks * 512
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
    return total

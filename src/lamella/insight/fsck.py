"""Checking a whole store: all rules over one look at the records, then the files of every layer.

The records are read under lamella's shared lock, if there is one, so that no command of ours changes them meanwhile.
Where a dockerd runs, what is found is looked at a second time, and only what is there both times is told.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from lamella.errors import NotFound
from lamella.insight.checks import containers, directories, images, layers, mounts, own, references
from lamella.insight.contents import SHOWN, Task, check_contents
from lamella.insight.findings import Finding, Severity
from lamella.insight.orphans import find_orphans
from lamella.insight.survey import Survey, find_driver
from lamella.linux.locks import locked
from lamella.linux.readahead import reading_ahead
from lamella.linux.workers import forked_map
from lamella.store.layerdb import TAR_SPLIT
from lamella.store.smallfiles import is_directory, list_names

_SETTLE = 0.25
"""Seconds between two looks at a data-root on which a dockerd works."""


class Report(NamedTuple):
    """What a check found."""

    root: Path
    kind: str
    driver: str
    layers: int
    """How many layers' files were looked at."""
    deep: bool
    findings: tuple[Finding, ...]

    @property
    def sound(self) -> bool:
        """Whether nothing worse than notes was found."""
        return all(finding.severity is Severity.NOTE for finding in self.findings)

    def to_document(self) -> dict[str, object]:
        """Give the report as data."""
        counts = {str(severity): 0 for severity in Severity}
        for finding in self.findings:
            counts[str(finding.severity)] += 1
        return {
            "root": str(self.root),
            "kind": self.kind,
            "driver": self.driver,
            "layers": self.layers,
            "deep": self.deep,
            "counts": counts,
            "findings": [finding.to_document() for finding in self.findings],
        }


def check_store(root: Path, *, deep: bool = False, driver: str = "", processes: int | None = None) -> Report:
    """Check the data-root at *root*; nothing is changed.

    *deep* reads every file of every layer.  *processes* is how many look at layers at once, by default one for each
    processor.  Raises NotFound if there is no data-root.
    """
    root = require_root(root)
    driver = driver or find_driver(root)
    with shared(root), reading_ahead(() if processes == 1 else _record_directories(root, driver)):
        survey = Survey(root, driver)
        found = check_records(survey)
    tasks = list(content_tasks(survey, deep=deep))
    found += check_files(survey, tasks, processes)
    if found and survey.around.busy:
        found = _confirmed(root, survey.driver, found)
    return Report(root, "docker", survey.driver, len(tasks), deep, in_order(found))


def require_root(root: Path) -> Path:
    """Return the real path of a data-root.  Raises NotFound if there is none."""
    resolved = Path(os.path.realpath(root))
    if not is_directory(resolved):
        raise NotFound(f"{root}: no data-root here")
    return resolved


@contextlib.contextmanager
def shared(root: Path) -> Iterator[None]:
    """Hold off lamella's writers, where there are any, for a look at the records."""
    lock = root / "lamella" / "lock"
    with contextlib.ExitStack() as stack:
        if lock.exists() and not lock.is_symlink() and not os.statvfs(root).f_flag & os.ST_RDONLY:
            stack.enter_context(locked(lock, shared=True))
        yield


def _record_directories(root: Path, driver: str) -> list[str]:
    """Return the directories of all layer and image records, in the order in which a survey reads them."""
    images = root / "image" / driver
    places = [root / driver] if driver == "overlay2" else []
    places.append(images / "layerdb" / "sha256")
    return [f"{place}/{name}" for place in places for name in list_names(place)] + [f"{images}/imagedb/content/sha256"]


def check_records(survey: Survey) -> list[Finding]:
    """Apply every rule that needs no more than the records."""
    checks = [*images.CHECKS, *references.CHECKS, *layers.CHECKS, *containers.CHECKS, *mounts.CHECKS, *own.CHECKS]
    if survey.driver == "overlay2":
        checks += directories.CHECKS
    found = [finding for check in checks for finding in check(survey)]
    return found + [
        Finding(orphan.code, str(orphan.paths[-1]), orphan.text, tuple(map(str, orphan.paths)))
        for orphan in find_orphans(survey)
    ]


def content_tasks(survey: Survey, *, deep: bool, but: frozenset[str] = frozenset()) -> Iterator[Task]:
    """Yield what is to be looked at of each layer whose record, tar-split and directory are there, largest first."""
    tasks: list[tuple[int, Task]] = []
    for layer in survey.layers.values():
        directory = survey.directory_of(layer.chain)
        if directory is None or not layer.tar_split or layer.chain in but or layer.cache_id is None:
            continue
        if survey.driver == "overlay2" and not directory.has("diff"):
            continue
        identity = survey.identities.get(layer.chain)
        tar_split = layer.path / TAR_SPLIT
        whole_tree = survey.driver != "overlay2"
        task = Task(
            layer.chain,
            survey.files_of(layer.cache_id),
            tar_split,
            None if whole_tree else layer.size,
            identity[1] if identity is not None else None,
            deep,
            whole_tree,
        )
        with contextlib.suppress(OSError):
            tasks.append((os.lstat(tar_split).st_size, task))
    yield from (task for _, task in sorted(tasks, key=lambda item: -item[0]))


def check_files(survey: Survey, tasks: list[Task], processes: int | None = None) -> list[Finding]:
    """Hold the files of layers against their tar-splits; what was removed meanwhile is not told of."""
    found: list[Finding] = []
    for task, troubles in forked_map(check_contents, tasks, processes):
        if not troubles or not _is_still_there(survey, task):
            continue
        for code, name, text in troubles:
            place = task.place_of(code, name)
            sentence = f"layer {task.name}: {name} {text}" if name else f"layer {task.name}: {text}"
            found.append(Finding(code, str(place), sentence, (task.name, name)))
    return found


def _is_still_there(survey: Survey, task: Task) -> bool:
    from lamella.store.layerdb import find_cache_id

    record = task.tar_split.parent
    return record.is_dir() and find_cache_id(record) == next(
        (layer.cache_id for layer in survey.layers.values() if layer.chain == task.name), None
    )


def _confirmed(root: Path, driver: str, found: list[Finding]) -> list[Finding]:
    """Keep what a second look finds too: whoever is at work has gone on meanwhile."""
    files = {
        "layer-file-missing",
        "layer-file-changed",
        "layer-file-extra",
        "layer-content-damaged",
        "layer-size-wrong",
    }
    time.sleep(_SETTLE)
    with shared(root):
        survey = Survey(root, driver)
        again = {finding.key for finding in check_records(survey)}
    return [
        finding
        for finding in found
        if finding.key in again
        or (finding.code in files | {"layer-unreadable"} and finding.subject[0] in survey.layers)
        or (finding.code == "layer-tarsplit-damaged" and finding.subject[0] in survey.layers)
    ]


def in_order(found: Iterable[Finding]) -> tuple[Finding, ...]:
    """Sort findings, the gravest first, each of them once."""
    ranks = list(Severity)
    unique = {(finding.key, finding.text): finding for finding in found}
    return tuple(
        sorted(unique.values(), key=lambda item: (ranks.index(item.severity), item.path, item.code, item.text))
    )


__all__ = ["SHOWN", "Report", "check_store"]

"""Keeping a store sound: checking it, mending it, taking back what nothing needs.

These work on a path rather than on an open store: the store may be too damaged to be opened, or another engine's.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

from lamella.insight.findings import CODES, Finding, Severity
from lamella.insight.fsck import Report
from lamella.insight.heal import Healed, Step
from lamella.insight.quarantine import Entry
from lamella.insight.reclaim import KEEP_DAYS, Reclaimable, Reclaimed, list_quarantine, reclaim_store, undo

if TYPE_CHECKING:
    from lamella.engine.registries import Registries
    from lamella.insight.sources import Connect

__all__ = [
    "CODES",
    "KEEP_DAYS",
    "Entry",
    "Finding",
    "Healed",
    "Reclaimable",
    "Reclaimed",
    "Report",
    "Severity",
    "Step",
    "check_store",
    "heal_store",
    "list_quarantine",
    "reclaim_store",
    "undo",
]


def check_store(root: Path | str, *, deep: bool = False, driver: str = "") -> Report:
    """Check the store at *root*, whichever engine's it is; nothing is changed, and dockerd may run on it.

    *deep* also reads every file of every layer.  Raises NotFound if there is no store.
    """
    from lamella.insight.foreign import check_any

    return check_any(Path(root), deep=deep, driver=driver)


def heal_store(
    root: Path | str,
    *,
    deep: bool = False,
    dry_run: bool = False,
    set_aside: bool = False,
    driver: str = "",
    registries: Registries | None = None,
) -> Healed:
    """Mend the data-root at *root* without loss, or with *dry_run* say what would be done.

    Layers are fetched again with *registries*, if given.  Images whose bytes cannot be had again stay as they are; with
    *set_aside* they go to quarantine.  Raises InUse while a dockerd runs there, Unsupported for another engine's store.
    """
    from lamella.insight.foreign import require_docker
    from lamella.insight.heal import heal_store as heal

    connect: Connect | None = None
    if registries is not None:
        from functools import partial

        from lamella.engine.registries import connected

        connect = cast("Connect", partial(connected, registries=registries))
    require_docker(Path(root))
    return heal(Path(root), deep=deep, dry_run=dry_run, set_aside=set_aside, connect=connect, driver=driver)

"""lamella's own files: operations that were begun, who holds what, and what is kept to be had again."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from lamella.errors import LamellaError
from lamella.insight.findings import Finding
from lamella.insight.survey import Survey
from lamella.linux.locks import is_locked
from lamella.model.digest import is_hex64
from lamella.model.documents import MANIFEST_LIMIT
from lamella.model.ids import is_cache_id
from lamella.store.smallfiles import list_names, read_small

_DEFERRED_LIMIT = 16 << 20
_CHAIN = re.compile(rb"sha256:[0-9a-f]{64}")


def check_transactions(survey: Survey) -> Iterator[Finding]:
    """Check that each operation that was begun is still in progress."""
    for path in survey.around.dead:
        yield Finding("transaction-dead", str(path), f"the process of operation {path.stem[:12]} is gone", (str(path),))
    for path in survey.around.damaged:
        text = f"the record of operation {path.stem[:12]} cannot be read"
        yield Finding("transaction-damaged", str(path), text, (str(path),))


def check_holders(survey: Survey) -> Iterator[Finding]:
    """Check that whoever is on record as using a mount exists."""
    place = survey.own / "mounts"
    for name in list_names(place):
        path = place / name
        if not is_cache_id(name) or any(is_locked(path / item) for item in list_names(path) if item != "holders"):
            continue
        for holder in list_names(path / "holders"):
            known = holder in survey.containers or any(holder in intent.containers for intent in survey.around.live)
            if is_hex64(holder) and not known and not survey.around.live:
                text = f"layer directory {name[:12]} is held for container {holder[:12]}, which does not exist"
                yield Finding("holder-stale", str(path / "holders" / holder), text, (name, holder))


def check_marker(survey: Survey) -> Iterator[Finding]:
    """Check that the last change of records ended well."""
    path = survey.own / "unclean"
    if os.path.lexists(path):  # whoever looks holds off the writers
        yield Finding("unclean", str(path), "a change of records did not end well", (str(path),))


def check_kept(survey: Survey) -> Iterator[Finding]:
    """Check that what is kept of manifests can be read and belongs to the image of its name."""
    from lamella.transports.manifests import document_type, parse_manifest

    place = survey.own / "manifests"
    for name in list_names(place):
        if not is_hex64(name) or f"sha256:{name}" not in survey.images:
            continue
        fault = ""
        try:
            raw = read_small(place / name, MANIFEST_LIMIT)
            manifest = parse_manifest(raw, "it", document_type(raw, "it", None))
            if manifest.config.digest != f"sha256:{name}":
                fault = "it is another image's"
        except FileNotFoundError:
            continue
        except (LamellaError, OSError) as error:
            fault = str(error)
        if fault:
            text = f"the manifest kept for image {name[:12]} is of no use: {fault}"
            yield Finding("own-file-damaged", str(place / name), text, (str(place / name),))


def check_deferred(survey: Survey) -> Iterator[Finding]:
    """Check that the list of layers to be looked at again can be read."""
    path = survey.own / "deferred"
    if not os.path.lexists(path):
        return
    fault = ""
    try:
        lines = read_small(path, _DEFERRED_LIMIT).split()
        if not all(_CHAIN.fullmatch(line) for line in lines):
            fault = "a line is no layer"
    except FileNotFoundError:
        return
    except (LamellaError, OSError) as error:
        fault = str(error)
    if fault:
        yield Finding("own-file-damaged", str(path), f"the list of layers to be looked at again: {fault}", (str(path),))


def check_quarantine(survey: Survey) -> Iterator[Finding]:
    """Check that each entry of the quarantine says where it came from."""
    from lamella.insight.quarantine import Quarantine

    for path in Quarantine(survey.root).damaged():
        text = f"{path.name} in the quarantine does not say where it came from"
        yield Finding("quarantine-damaged", str(path), text, (str(path),))


CHECKS = (check_transactions, check_holders, check_marker, check_kept, check_deferred, check_quarantine)

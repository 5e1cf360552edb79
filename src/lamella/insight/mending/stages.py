"""What is done about each kind of finding, and in which order: derive, find again, fetch, give up, tidy."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final

from lamella.insight.findings import Finding
from lamella.insight.mending import containers, directories, layers, records
from lamella.insight.mending.base import Bench, Hopeless, Plan, void
from lamella.insight.survey import Survey
from lamella.model.digest import ChainID, DiffID, Digest, ImageID

FILES: Final = frozenset({"layer-file-missing", "layer-file-changed", "layer-content-damaged"})
Mend = Callable[[Bench, Finding], Plan]
Scope = Callable[[], AbstractContextManager[None]]


def plan_stages(scope: Scope, give_up: Callable[[Mend], Mend], *, set_aside: bool) -> list[dict[str, Mend]]:
    """Return what is done about each code, in the order in which it is tried.

    *scope* holds the store lock for a block; *give_up* wraps what is the last resort; *set_aside* allows more of it.
    """

    def refetch(bench: Bench, finding: Finding) -> Plan:
        missing = finding.subject[1] if finding.code in {"image-layers-missing", "layer-parent-missing"} else ""
        return layers.refetch(bench, finding, scope, ChainID(DiffID(Digest(missing or finding.subject[0]))))

    def refetch_parent(bench: Bench, finding: Finding) -> Plan:
        parent = bench.survey.mounts[finding.subject[0]].parent
        if parent is None or parent in bench.survey.layers:
            raise Hopeless("its directories do not tell what it stands on")
        return layers.refetch(bench, finding, scope, parent)

    return [
        {
            "wrong-type": _wrong_type,
            "own-file-damaged": _aside,
            "transaction-damaged": _aside,
            "distribution-damaged": _aside,
            "draft-left": _orphan,
            "mount-stale": _unmount,
            "mount-point-left": _remove_mount_point,
        },
        {
            "layer-record-damaged": records.mend_record,
            "layer-directory-shared": _unshare,
            "image-config-damaged": records.mend_config,
        },
        dict.fromkeys((*FILES, "layer-directory-missing"), records.relocate),
        {"layer-tarsplit-damaged": records.mend_tar_split},
        {
            "link-damaged": directories.mend_link,
            "short-name-missing": directories.mend_short_name,
            "lower-wrong": directories.mend_lower,
            "committed-missing": directories.mend_committed,
            "committed-wrong": lambda bench, item: bench.plan_aside(item, [Path(item.path)]),
            "work-missing": directories.mend_work,
        },
        dict.fromkeys(FILES, records.mend_tar_split),
        dict.fromkeys(FILES - {"layer-content-damaged"}, directories.mend_files),
        {"image-layers-missing": _rebuild, "layer-parent-missing": _rebuild},
        {
            "image-config-damaged": layers.refetch_config,
            "layer-record-damaged": refetch,
            "layer-directory-missing": refetch,
            "layer-tarsplit-damaged": refetch,
            "image-layers-missing": refetch,
            "layer-parent-missing": refetch,
            **dict.fromkeys(FILES, refetch),
        },
        {"layer-file-extra": directories.drop_extra, "layer-size-wrong": records.mend_size},
        {
            "container-config-damaged": containers.mend_config,
            "container-hostconfig-damaged": containers.mend_host_config,
            "container-layer-unknown": containers.mend_layer,
            "container-parent-wrong": containers.mend_parent,
            "container-init-missing": containers.mend_init,
        },
        {"container-parent-wrong": refetch_parent},
        {
            "container-layer-missing": containers.plan_container_aside,
            "container-layer-unknown": containers.plan_container_aside,
        },
        {
            "references-damaged": records.mend_references,
            "references-missing": records.make_references,
            "image-metadata-damaged": records.mend_note,
            "image-parent-unknown": lambda bench, item: bench.plan_aside(item, [Path(item.path)]),
            "image-metadata-orphan": lambda bench, item: bench.plan_aside(item, [Path(item.path)]),
        },
        {
            "image-config-damaged": give_up(_image_aside),
            "image-layers-missing": give_up(_image_aside),
            "layer-record-damaged": give_up(_users_aside),
            "layer-directory-missing": give_up(_users_aside),
            "layer-parent-missing": give_up(_users_aside),
            **(
                dict.fromkeys((*FILES, "layer-tarsplit-damaged"), _users_aside) if set_aside else {}
            ),
        },
        dict.fromkeys(("layer-record-damaged", "layer-directory-missing"), give_up(_record_aside)),
        {"reference-unknown-image": records.drop_reference, "reference-malformed": records.drop_reference},
        dict.fromkeys(("directory-orphan", "short-name-left", "write-set-left", "removal-unfinished", "container-leftover", "mount-record-orphan", "layer-unused"), _orphan),
    ]  # fmt: skip


def _wrong_type(bench: Bench, finding: Finding) -> Plan:
    """Move what is of the wrong type away, unless more would go with it."""
    place, directory = Path(finding.subject[0]), finding.subject[1]
    if not directory and not os.path.lexists(place):
        raise Hopeless("if it is on a disk of its own, mount it; if it is lost, make an empty directory there")
    if not directory and place.is_symlink() and place != bench.survey.home / "l":  # these links can be made again
        raise Hopeless(
            "it is a link, and with it all that it leads to would go: put the directory itself there, or mount it there"
        )
    return bench.plan_aside(finding, [place])


def _aside(bench: Bench, finding: Finding) -> Plan:
    return bench.plan_aside(finding, [Path(path) for path in finding.subject])


def _orphan(bench: Bench, finding: Finding) -> Plan:
    orphan = bench.orphans.get((finding.code, finding.path))
    if orphan is None or not os.path.lexists(finding.path):
        raise Hopeless("it is no longer there")
    return bench.plan_aside(finding, orphan.paths, orphan.proof)


def _unmount(bench: Bench, finding: Finding) -> Plan:
    from lamella.drivers.mountpoint import unmount

    target = Path(finding.subject[0])
    return Plan(f"unmount {bench.survey.relative(target)}", lambda: void(unmount(target)))


def _remove_mount_point(bench: Bench, finding: Finding) -> Plan:
    target = Path(finding.subject[0])
    return Plan(f"remove {bench.survey.relative(target)}", lambda: os.rmdir(target))


def _unshare(bench: Bench, finding: Finding) -> Plan:
    """Find the claim that does not fit, and the directory it should have named."""
    failure = "both claims fit"
    for chain in finding.subject:
        try:
            return records.relocate(bench, finding._replace(subject=(chain,)))
        except Hopeless as error:
            failure = str(error)
    raise Hopeless(failure)


def _rebuild(bench: Bench, finding: Finding) -> Plan:
    for chain in finding.subject[1:]:
        return records.rebuild_record(bench, ChainID(DiffID(Digest(chain))))
    raise Hopeless("nothing is missing")


def _image_aside(bench: Bench, finding: Finding) -> Plan:
    return records.plan_image_aside(bench, finding, ImageID(Digest(finding.subject[0])))


def _users_aside(bench: Bench, finding: Finding) -> Plan:
    """Move the images that need a lost layer to quarantine, one at a time."""
    chain = ChainID(DiffID(Digest(finding.subject[0])))
    users = bench.survey.users_of(chain)
    if not users:
        raise Hopeless("no image needs it")
    stood_on = [mount.owner for mount in bench.survey.mounts.values()
                if mount.parent is not None and chain in _stack(bench.survey, mount.parent)]  # fmt: skip
    if stood_on:
        raise Hopeless(f"container {stood_on[0][:12]} stands on it; copy out what you need and remove the container")
    plans = [records.plan_image_aside(bench, finding, image) for image in users]

    def act() -> None:
        for plan in plans:
            plan.act()

    return Plan("; ".join(plan.text for plan in plans), act)


def _record_aside(bench: Bench, finding: Finding) -> Plan:
    """Move the record of a layer that nothing can be done about, and that nothing needs, to quarantine."""
    chain = ChainID(DiffID(Digest(finding.subject[0])))
    survey = bench.survey
    if survey.users_of(chain) or any(mount.parent is not None and chain in _stack(survey, mount.parent)
                                     for mount in survey.mounts.values()):  # fmt: skip
        raise Hopeless("images or containers need it")
    return bench.plan_aside(finding, [survey.records / chain[7:]])


def _stack(survey: Survey, top: ChainID) -> set[ChainID]:
    found: set[ChainID] = set()
    current: ChainID | None = top
    while current is not None and current not in found:
        found.add(current)
        current = survey.identities.get(current, (None, None))[0]
    return found

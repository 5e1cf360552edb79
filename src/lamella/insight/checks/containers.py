"""Containers: records parse and are complete, and each has a writable layer on the image layer it says."""

from __future__ import annotations

from collections.abc import Iterator

from lamella.insight.checks.directories import true_parent
from lamella.insight.findings import Finding
from lamella.insight.orphans import was_never_finished
from lamella.insight.survey import RawContainer, Survey
from lamella.model.digest import is_hex64
from lamella.model.ids import CacheID
from lamella.store.smallfiles import list_names


def check_records(survey: Survey) -> Iterator[Finding]:
    """Check that each container's record can be read, is its own, and has what dockerd needs to start at all."""
    for container in survey.containers.values():
        if was_never_finished(container):
            continue
        fault = _config_fault(survey, container)
        if fault:
            text = f"container {container.id[:12]}: {fault}"
            yield Finding("container-config-damaged", str(container.path / "config.v2.json"), text, (container.id,))
        fault = next((item.text for item in container.faults if item.file == "hostconfig.json"), "")
        if not fault and "hostconfig.json" not in container.names and not survey.around.may_be_new(container.path):
            fault = "hostconfig.json is missing"
        if fault:
            text = f"container {container.id[:12]}: {fault}"
            path = str(container.path / "hostconfig.json")
            yield Finding("container-hostconfig-damaged", path, text, (container.id,))


def _config_fault(survey: Survey, container: RawContainer) -> str:
    for item in container.faults:
        if item.file == "config.v2.json":
            return item.text
    config = container.config
    if config is None:
        return "" if survey.around.may_be_new(container.path) else "config.v2.json is missing"
    if config.get("ID", container.id) != container.id:
        return f"its record says it is {str(config['ID'])[:80]!r}"
    for key in ("Config", "NetworkSettings"):
        if not isinstance(config.get(key), dict):
            return f"its record has no {key}, without which dockerd does not start"
    if not isinstance(config.get("Driver"), str) or not config["Driver"]:
        return "its record names no storage driver"
    name = config.get("Name")
    if name is not None and not (isinstance(name, str) and name.startswith("/")):
        return f"its name is {str(name)[:80]!r}"
    return ""


def check_container_names(survey: Survey) -> Iterator[Finding]:
    """Check that no two containers have the same name."""
    seen: dict[str, str] = {}
    for container in survey.containers.values():
        name = container.text("Name")
        if name and name in seen:
            text = f"the containers {seen[name][:12]} and {container.id[:12]} are both called {name[1:]}"
            yield Finding("container-name-taken", str(container.path), text, (seen[name], container.id))
        elif name:
            seen[name] = container.id


def is_ours(survey: Survey, container: RawContainer) -> bool:
    """Tell whether a container belongs to the driver that is looked at, as far as its record tells."""
    return container.config is None or container.text("Driver") in {survey.driver, ""}


def check_layers(survey: Survey) -> Iterator[Finding]:
    """Check that each container has a writable layer, and an init layer if its record says so."""
    discarded = {owner for intent in survey.around.live for owner in (*intent.containers, *intent.discards)}
    for container in survey.containers.values():
        if was_never_finished(container) or not is_ours(survey, container) or container.id in discarded:
            continue
        who = f"container {container.id[:12]}"
        mount = survey.mounts.get(container.id)
        if mount is None:
            if survey.around.may_be_new(container.path):
                continue
            path = survey.layerdb / "mounts" / container.id
            yield Finding("container-layer-unknown", str(path), f"{who}: there is no record of its writable layer",
                          (container.id, ""))  # fmt: skip
            continue
        for fault in mount.faults:
            yield Finding("container-layer-unknown", str(mount.path / fault.file), f"{who}: {fault.text}",
                          (container.id, fault.file))  # fmt: skip
        if mount.mount_id is not None and not _has_files(survey, mount.mount_id):
            text = f"{who}: the directory {mount.mount_id[:12]} of its writable layer is missing"
            yield Finding("container-layer-missing", str(survey.files_of(mount.mount_id)), text, (container.id,))
        if mount.init_id is not None and not _has_files(survey, mount.init_id):
            text = f"{who}: the directory of its init layer is missing"
            yield Finding("container-init-missing", str(survey.files_of(mount.init_id)), text, (container.id,))


def check_init_is_known(survey: Survey) -> Iterator[Finding]:
    """Check that a writable layer that stands on an init layer says so in its record."""
    for mount in survey.mounts.values():
        if mount.init_id is not None or mount.mount_id is None or any(f.file == "init-id" for f in mount.faults):
            continue
        init = CacheID(f"{mount.mount_id}-init")
        if mount.owner in survey.containers and init in survey.directories:
            text = f"container {mount.owner[:12]}: its record does not name the init layer it stands on"
            yield Finding("container-layer-unknown", str(mount.path / "init-id"), text, (mount.owner, "init-id"))


def check_parents(survey: Survey) -> Iterator[Finding]:
    """Check that the image layer that a record names is the one that the directories stand on."""
    for mount in survey.mounts.values():
        if mount.owner not in survey.containers or mount.faults:
            continue
        if survey.driver != "overlay2" or mount.mount_id not in survey.directories:
            continue
        parent, known = true_parent(survey, mount)
        if known and parent != mount.parent:
            told = mount.parent or "no image layer"
            text = f"container {mount.owner[:12]}: its record names {told} below it, but it stands on {parent}"
            yield Finding("container-parent-wrong", str(mount.path / "parent"), text, (mount.owner,))
        elif mount.parent is not None and mount.parent not in survey.layers:
            text = f"container {mount.owner[:12]}: the image layer {mount.parent} below it is not in the store"
            yield Finding("container-parent-wrong", str(mount.path / "parent"), text, (mount.owner,))


def check_names(survey: Survey) -> Iterator[Finding]:
    """Check that nothing else lies among the containers and their mount records."""
    for place in (survey.root / "containers", survey.layerdb / "mounts"):
        for name in list_names(place):
            if not is_hex64(name):
                yield Finding("unknown-file", str(place / name), f"{name} is no container", (str(place / name),))
    for mount in survey.mounts.values():
        for name in sorted(mount.names - {"mount-id", "init-id", "parent"}):
            path = mount.path / name
            if not name.startswith(".tmp-"):
                yield Finding("unknown-file", str(path), f"{name} is no part of a mount record", (str(path),))


def _has_files(survey: Survey, name: CacheID) -> bool:
    directory = survey.directories.get(name)
    return directory is not None and (survey.driver != "overlay2" or "diff" in directory.names)


CHECKS = (check_records, check_container_names, check_layers, check_init_is_known, check_parents, check_names)

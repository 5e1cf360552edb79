"""Mending containers: their records from what is certain, their layers from the directories that are there.

A writable layer is somebody's data: it is never changed here, and moved to quarantine only where no container can use it.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import cast

from lamella.errors import LamellaError
from lamella.fs.atomic import fsync_dir, sync_filesystem, write_file
from lamella.insight.checks.directories import Stacks, true_parent
from lamella.insight.findings import Finding
from lamella.insight.mending.base import Bench, Hopeless, Plan
from lamella.insight.mending.records import make_layerdb
from lamella.insight.survey import RawContainer, Survey
from lamella.linux.libc import exchange
from lamella.model.digest import ChainID, ImageID
from lamella.model.documents import decode_object
from lamella.model.gojson import encode
from lamella.model.ids import CacheID, ContainerID, is_link_id, new_link_id, parse_container_name
from lamella.store.containerdb import CONFIG, HOST_CONFIG, new_record
from lamella.store.mountdb import RWLayer
from lamella.store.smallfiles import read_small

_LIMIT = 8 << 20
_NAME = re.compile(rb'"Name":"/([a-zA-Z0-9][a-zA-Z0-9_.-]{1,200})"')
_CREATED = re.compile(rb'"Created":"([0-9]{4}-[0-9T:.-]{8,30}Z)"')
_NO_TIME = "1970-01-01T00:00:00Z"


def mend_config(bench: Bench, finding: Finding) -> Plan:
    """Rebuild a container's record so that it is listed, can be started, and its files can be had."""
    survey = bench.survey
    container = survey.containers[finding.subject[0]]
    path = container.path / CONFIG
    other = _found_elsewhere(survey, container)
    if other is not None:
        text = f"take the record of container {container.id[:12]} from the directory of another"
        return Plan(text, lambda: _change_places(path, other))
    document = _completed(survey, container)
    if document is None:
        document = _rebuilt(survey, container)
    name = str(document["Name"]).lstrip("/")
    text = f"rebuild the record of container {container.id[:12]} as {name}, at rest"
    raw = encode(document, newline=True)
    return Plan(text, lambda: _keep(bench, finding, path, raw))


def _keep(bench: Bench, finding: Finding, path: Path, raw: bytes) -> None:
    """Write a document; the old one goes to quarantine, it may tell more to a person than to us."""
    bench.supersede(finding, path, raw, 0o600)


def _change_places(path: Path, other: Path) -> None:
    """Put a record in its place; what is there goes to where the record was."""
    if not os.path.lexists(path):
        os.rename(other, path)
    elif _owner_in(other) == path.parent.name:
        exchange(os.fspath(path), os.fspath(other))
    fsync_dir(path.parent)
    fsync_dir(other.parent)


def _owner_in(path: Path) -> str:
    try:
        return str(decode_object(read_small(path, _LIMIT), limit=_LIMIT, what=CONFIG).get("ID"))
    except (LamellaError, OSError):
        return ""


def _found_elsewhere(survey: Survey, container: RawContainer) -> Path | None:
    """Return where the container's own record is, if that is another's place, as when two files changed places."""
    for other in survey.containers.values():
        if other.id != container.id and other.config is not None and other.config.get("ID") == container.id:
            return other.path / CONFIG
    return None


def _completed(survey: Survey, container: RawContainer) -> dict[str, object] | None:
    """Return the container's own record with what it lacks; None if it has too little to go by."""
    config = container.config
    if config is None or config.get("ID", container.id) != container.id:
        return None
    if not isinstance(config.get("Config"), dict) and not isinstance(config.get("NetworkSettings"), dict):
        return None
    document = dict(config)
    fresh = _rebuilt(survey, container)
    for key in ("Config", "NetworkSettings"):
        if not isinstance(document.get(key), dict):
            document[key] = fresh[key]
    if not isinstance(document.get("Driver"), str) or not document["Driver"]:
        document["Driver"] = survey.driver
    name = document.get("Name")
    if name is not None and not (isinstance(name, str) and name.startswith("/")):
        document["Name"] = fresh["Name"]
    document.setdefault("Name", fresh["Name"])
    return document


def _rebuilt(survey: Survey, container: RawContainer) -> dict[str, object]:
    """Make a record from the image and from what can be read of the damaged one."""
    try:
        raw = read_small(container.path / CONFIG, _LIMIT)
    except (LamellaError, OSError):
        raw = b""
    image = _image_of(survey, container)
    config = survey.images[image].config if image is not None else None
    settings: dict[str, object] = {"Hostname": container.id[:12], "Env": [], "Cmd": None, "Image": image or ""}
    command: list[str] = []
    if config is not None:
        command = [*(config.config.entrypoint or ()), *(config.config.cmd or ())]
        settings = {
            "Hostname": container.id[:12],
            "User": config.config.user,
            "Env": list(config.config.env),
            "Cmd": list(config.config.cmd or ()) or None,
            "Entrypoint": list(config.config.entrypoint or ()) or None,
            "WorkingDir": config.config.working_dir,
            "Labels": dict(config.config.labels),
            "Image": image or "",
        }
    names = set(_NAME.findall(raw))
    created = _CREATED.findall(raw)
    record = new_record(
        ContainerID(container.id),
        name=_free_name(survey, container, names.pop().decode() if len(names) == 1 else ""),
        created=created[0].decode() if len(set(created)) == 1 else _NO_TIME,
        path=command[0] if command else "/bin/sh",
        args=command[1:],
        settings=settings,
        image=image or "",
        host_config={},
        driver=survey.driver,
        architecture=config.architecture if config is not None else "amd64",
    )
    return record.config


def _image_of(survey: Survey, container: RawContainer) -> ImageID | None:
    """Return the image a container was made from, if only one can be it."""
    mount = survey.mounts.get(container.id)
    if mount is None:
        return None
    found = [image for image, chains in survey.image_chains.items() if chains[-1:] == [mount.parent]]
    named = {value for entries in survey.references.values() for value in entries.values()}
    for images in (found, [image for image in found if image in named]):
        if len(images) == 1:
            return images[0]
    return None


def _free_name(survey: Survey, container: RawContainer, wanted: str) -> str:
    taken = {item.text("Name").lstrip("/") for item in survey.containers.values() if item.id != container.id}
    try:
        if wanted and wanted not in taken and parse_container_name(wanted):
            return wanted
    except LamellaError:
        pass
    return f"recovered_{container.id[:12]}"


def mend_host_config(bench: Bench, finding: Finding) -> Plan:
    """Write host settings that grant nothing; what the old ones granted is for a person to give again."""
    container = bench.survey.containers[finding.subject[0]]
    networks = (container.config or {}).get("NetworkSettings")
    names = list(networks.get("Networks") or ()) if isinstance(networks, dict) else []
    document: dict[str, object] = {
        "Binds": None,
        "NetworkMode": names[0] if len(names) == 1 else "none",
        "LogConfig": {"Type": "json-file", "Config": {}},
        "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0},
        "AutoRemove": False,
        "Privileged": False,
        "IpcMode": "private",
        "ShmSize": 64 << 20,
        "Runtime": "runc",
    }
    raw = encode(document, newline=True)
    text = f"give container {container.id[:12]} the most confined host settings"
    return Plan(text, lambda: _keep(bench, finding, container.path / HOST_CONFIG, raw))


# ---- layers ---------------------------------------------------------------------------------------------------------


def mend_layer(bench: Bench, finding: Finding) -> Plan:
    """Write a mount record again, from the directories that can only be this container's."""
    survey = bench.survey
    owner = finding.subject[0]
    mount = survey.mounts.get(owner)
    mount_id = mount.mount_id if mount is not None else None
    init_id = mount.init_id if mount is not None else None
    if mount_id is None and init_id is not None and init_id.endswith("-init"):
        mount_id = CacheID(init_id.removesuffix("-init"))
    if mount_id is None or mount_id not in survey.directories:
        mount_id = _only_candidate(survey, owner)
    if init_id is None or init_id not in survey.directories:
        init = CacheID(f"{mount_id}-init")
        init_id = init if init in survey.directories else None
    parent = _parent_of(survey, init_id or mount_id, mount.parent if mount is not None else None)
    rw = RWLayer(ContainerID(owner), mount_id, init_id, parent)
    text = f"write again that {mount_id[:12]} is the writable layer of container {owner[:12]}"
    return Plan(text, lambda: _write_mount(bench, finding, rw))


def _write_mount(bench: Bench, finding: Finding, rw: RWLayer) -> None:
    place = bench.survey.layerdb / "mounts"
    make_layerdb(bench.survey)
    place.mkdir(mode=0o755, exist_ok=True)
    path = place / rw.owner
    if not os.path.lexists(path):
        bench.make_directory(path, 0o755)
    for name, text in (("parent", rw.parent), ("init-id", rw.init_id), ("mount-id", rw.mount_id)):
        if text is not None:
            bench.replace(finding, path / name, text.encode(), 0o644)
        else:
            bench.aside_if_there(finding, path / name)


def _only_candidate(survey: Survey, owner: str) -> CacheID:
    """Return the one writable layer without an owner, where only one container lacks one."""
    lacking = [
        item.id
        for item in survey.containers.values()
        if (known := survey.mounts.get(item.id)) is None
        or known.mount_id is None
        or known.mount_id not in survey.directories
    ]
    image = survey.containers[owner].text("Image")
    chains = survey.image_chains.get(cast("ImageID", image))
    top = chains[-1] if chains else None
    fitting = []
    for directory in survey.directories.values():
        init = survey.directories.get(CacheID(f"{directory.name}-init"))
        if init is None or directory.name in survey.named or not directory.lower or not init.lower:
            continue
        if survey.resolve(directory.lower[0]) != init.name:
            continue
        below = survey.resolve(init.lower[0])
        if below is not None and top is not None and survey.by_directory.get(below) != top:
            continue
        fitting.append(directory.name)
    if len(fitting) != 1:
        raise Hopeless(f"{len(fitting) or 'no'} directories can be its writable layer")
    rivals = [item for item in lacking if item != owner and survey.containers[item].text("Image") == image]
    if rivals:
        raise Hopeless(f"container {rivals[0][:12]} lacks its writable layer too")
    return fitting[0]


def _parent_of(survey: Survey, name: CacheID, noted: ChainID | None) -> ChainID | None:
    directory = survey.directories.get(name)
    if directory is None or not directory.lower:
        return noted
    below = survey.resolve(directory.lower[0])
    return survey.by_directory.get(below, noted) if below is not None else noted


def mend_parent(bench: Bench, finding: Finding) -> Plan:
    """Write again which image layer a container stands on."""
    survey = bench.survey
    mount = survey.mounts[finding.subject[0]]
    parent, known = true_parent(survey, mount)
    if not known or parent is None or parent == mount.parent:
        raise Hopeless("its directories and its image do not tell")
    text = f"write again that container {mount.owner[:12]} stands on layer {parent[7:19]}"
    return Plan(text, lambda: bench.replace(finding, mount.path / "parent", parent.encode(), 0o644))


def mend_init(bench: Bench, finding: Finding) -> Plan:
    """Make a container's init layer again: its content is the same for every container of an image."""
    survey = bench.survey
    mount = survey.mounts[finding.subject[0]]
    init, top = mount.init_id, mount.mount_id
    above = survey.directories.get(top) if top is not None else None
    if init is None or survey.driver != "overlay2" or above is None:
        raise Hopeless("its writable layer is not there either")
    if init in survey.directories:
        return Plan(f"make the files of the init layer of container {mount.owner[:12]} again",
                    lambda: _fill_again(bench, finding, init))  # fmt: skip
    known = above.lower[0].removeprefix("l/") if above.lower else ""
    link = known if is_link_id(known) and survey.short_names.get(known, init) == init else new_link_id()
    stacks = Stacks(survey)
    layer = survey.layers.get(mount.parent) if mount.parent is not None else None
    lower: tuple[str, ...] = ()
    if layer is not None and layer.cache_id is not None:
        below, rest = stacks.true_link(layer.cache_id), stacks.lower_of(layer.cache_id)
        if below is None or rest is None:
            raise Hopeless("what is below it is not known")
        lower = (f"l/{below}", *rest)

    def act() -> None:
        entry = bench.quarantine.begin(finding.code, finding.text, [survey.home / init], run=bench.run)
        write_file(entry.path / "making", b"")
        draft = entry.path / "0"
        os.mkdir(draft, 0o710)
        os.chmod(draft, 0o710)
        _fill(survey, draft / "diff", lower)
        os.mkdir(draft / "work", 0o700)
        write_file(draft / "link", link.encode(), mode=0o644, sync=False)
        if lower:
            write_file(draft / "lower", ":".join(lower).encode(), mode=0o644, sync=False)
        write_file(draft / "committed", b"", mode=0o600, sync=False)
        sync_filesystem(draft)
        if not os.path.lexists(survey.home / "l" / link):
            os.symlink(f"../{init}/diff", survey.home / "l" / link)
        os.rename(draft, survey.home / init)
        fsync_dir(survey.home)
        bench.quarantine.rest(entry)

    return Plan(f"make the init layer of container {mount.owner[:12]} again", act)


def _fill_again(bench: Bench, finding: Finding, init: CacheID) -> None:
    directory = bench.survey.directories[init]
    bench.aside_if_there(finding, directory.path / "diff")
    draft = directory.path / ".tmp-diff1"
    _fill(bench.survey, draft, directory.lower or ())
    sync_filesystem(draft)
    os.rename(draft, directory.path / "diff")
    fsync_dir(directory.path)


def _fill(survey: Survey, diff: Path, lower: tuple[str, ...]) -> None:
    """Make the content of an init layer; directories that the image has get the image's owner and mode."""
    from lamella.store.initlayer import fill_init_layer

    os.mkdir(diff, 0o755)
    os.chmod(diff, 0o755)
    fill_init_layer(diff)
    below = [survey.home / found / "diff" for entry in lower if (found := survey.resolve(entry)) is not None]
    for name in ("dev", "dev/pts", "dev/shm", "proc", "sys", "etc"):
        for files in below:
            try:
                status = os.lstat(files / name)
            except OSError:
                continue
            if stat.S_ISDIR(status.st_mode):
                os.chown(diff / name, status.st_uid, status.st_gid)
                os.chmod(diff / name, stat.S_IMODE(status.st_mode))
            break


def plan_container_aside(bench: Bench, finding: Finding) -> Plan:
    """Plan to move a container that cannot be used to quarantine, with its mount record and its directories."""
    survey = bench.survey
    owner = finding.subject[0]
    mount = survey.mounts.get(owner)
    names = [name for name in (mount.mount_id, mount.init_id) if name is not None] if mount is not None else []
    if survey.around.in_mounts(*names):
        raise Hopeless("it is mounted")
    images = {layer.cache_id for layer in survey.layers.values()}
    others = {
        item for other in survey.mounts.values() if other.owner != owner for item in (other.mount_id, other.init_id)
    }
    paths: list[Path] = []
    for name in names:
        if name in survey.directories and name not in images and name not in others:
            paths += [survey.home / "l" / link for link, target in survey.short_names.items() if target == name]
            paths.append(survey.directories[name].path)
    if mount is not None:
        paths.append(mount.path)
    paths.append(survey.containers[owner].path)
    return bench.plan_aside(finding, paths)

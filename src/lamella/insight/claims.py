"""Whose each place of a store's root is: what the ledger's walk goes by.

A claim says to whom a path belongs with all below it that nobody else claims; a rule says it of the names in one
directory that no claim knows.  What a store's engine keeps beside images and containers is its own; what nobody knows
is unaccounted, with the reason.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from lamella.insight.surroundings import Surroundings
from lamella.model.digest import hex_of, is_hex64
from lamella.model.ids import is_cache_id
from lamella.readers.base import ContainerRecord, ImageRecord, StoredLayer, StoreReader
from lamella.store.smallfiles import list_names


class Owner(NamedTuple):
    """To whom something belongs: the ledger's section, the item in it, and which part of the item it is."""

    section: str
    item: str = ""
    part: str = ""

    def part_of(self, part: str) -> Owner:
        """Return the owner of a part of the item; what is unaccounted has its reason there already."""
        return self if self.section == "unaccounted" else self._replace(part=part)


Rule = Callable[[str], Owner | None]
"""Takes a name that is not claimed; None is: as the directory it is in."""
ENGINE = Owner("engine")

DOCKER_NAMES = frozenset(
    {"image", "containers", "network", "swarm", "plugins", "tmp", "runtimes", "trust", "builder", "engine-id", "rootfs",
     "containerd", "key.json", "volumes", "lost+found"}
)  # fmt: skip
_STORAGE = frozenset(
    {"storage.lock", "userns.lock", "defaultNetworkBackend", "libpod", "db.sql", "mounts", "tmp", "cache", "networks",
     "secrets", "volumes", "lost+found", "sigstore"}
)  # fmt: skip
_VOLUME_FILES = frozenset({"metadata.db", "backingFsBlockDev"})
DRIVER_NAMES = frozenset(
    {"aufs", "btrfs", "devicemapper", "fuse-overlayfs", "overlay", "overlay2", "vfs", "zfs", "windowsfilter"}
)
OTHER_DRIVER = " is another driver's: what Docker keeps with that is not looked at here"
PROBES = ("check-overlayfs-support", "metacopy-check", "opaque-bug-check", "userxattr-check", "backingFsBlockDev",
           "lamella-overlay-trial-", ".", "staging", "tempdirs", "compat")  # fmt: skip


class Place(NamedTuple):
    """One directory that is not one owner's."""

    names: dict[str, Owner]
    rules: list[Rule]

    def find(self, name: str) -> Owner | None:
        """Return to whom a name in it belongs, None if to whom the directory does."""
        owner = self.names.get(name)
        if owner is None:
            for rule in self.rules:
                return rule(name)
        return owner


class Claims:
    """All claims on one root."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.places: dict[str, Place] = {root: Place({}, [])}

    def place(self, directory: str) -> Place:
        """Return the directory as a place, opening all above it."""
        found = self.places.get(directory)
        if found is None:
            if not directory.startswith(f"{self.root}/"):
                return Place({}, [])  # elsewhere: nothing that this root's sum has in it
            self.place(os.path.dirname(directory))
            found = self.places[directory] = Place({}, [])
        return found

    def claim(self, path: str, owner: Owner) -> None:
        """Say whose *path* is."""
        directory, _, name = path.rpartition("/")
        self.place(directory).names[name] = owner

    def rule(self, directory: str, rule: Rule) -> None:
        """Say whose the other names in *directory* are."""
        self.place(directory).rules[:] = [rule]

    def unknown(self, directory: str, why: str, *, besides: frozenset[str] = frozenset()) -> None:
        """Say that the other names in *directory*, but *besides*, belong to nothing."""
        self.rule(
            directory, lambda name: ENGINE if name in besides else Owner("unaccounted", f"{directory}/{name}", why)
        )


def make_claims(
    reader: StoreReader, owners: Mapping[str, Owner], images: Mapping[str, Owner], directories: Mapping[str, Path]
) -> Claims:
    """Collect the claims of a store: *owners* by layer, *images* by image ID, *directories* as the reader has them."""
    claims = Claims(str(reader.root))
    homes: dict[str, None] = {}
    for path in directories.values():
        homes.setdefault(os.path.dirname(path))
    if reader.kind == "docker":
        _claim_docker(claims, reader, owners, images)
    elif reader.kind == "containers-storage":
        _claim_storage(claims, reader, owners, images)
    else:
        _claim_containerd(claims, reader)
    for home in homes:
        _claim_links(claims, home, directories, owners, reader)
        claims.rule(home, _directory_rule(home, reader))
    for layer in reader.layers().values():
        whole = directories.get(layer.directory_id)
        if whole is not None:
            claims.claim(str(whole), owners[layer.id])
    for container in reader.containers():
        _claim_container(claims, container)
    for volume in reader.volumes():
        claims.claim(str(volume.directory.parent), Owner("volumes", volume.name))
    return claims


def record_directory(reader: StoreReader, layer: str) -> str:
    """Return where Docker keeps an image layer's record."""
    return f"{reader.root}/image/{reader.driver}/layerdb/sha256/{hex_of(layer)}"


def _claim_docker(
    claims: Claims, reader: StoreReader, owners: Mapping[str, Owner], images: Mapping[str, Owner]
) -> None:
    root = claims.root
    image = f"{root}/image/{reader.driver}"
    claims.unknown(root, "Docker keeps nothing of this name here", besides=DOCKER_NAMES | {reader.driver})
    claims.unknown(f"{root}/containers", "no container's record is in it that can be read")
    claims.unknown(f"{root}/volumes", "no volume: there is no _data in it", besides=_VOLUME_FILES)
    for name in DRIVER_NAMES - {reader.driver}:
        claims.claim(f"{root}/{name}", Owner("unaccounted", f"{root}/{name}", f"{name}{OTHER_DRIVER}"))
    claims.claim(f"{root}/buildkit", Owner("build", "buildkit", "catalogue"))
    claims.unknown(f"{image}/layerdb/sha256", "the record of no layer: its removal is not finished, or it is damaged")
    claims.unknown(f"{image}/layerdb/tmp", "the record of a layer that is being made or was never finished")
    claims.unknown(f"{image}/layerdb/mounts", "the mount record of no container")
    claims.unknown(f"{image}/imagedb/content/sha256", "no image's config, or a damaged one")
    claims.unknown(f"{image}/imagedb/metadata/sha256", "metadata of an image that is not there")
    for layer in reader.layers().values():
        if layer.role == "image":
            claims.claim(record_directory(reader, layer.id), owners[layer.id].part_of("record"))
    for container in reader.containers():
        claims.claim(f"{image}/layerdb/mounts/{container.id}", Owner("containers", container.id, "records"))
    for place in (
        f"{image}/imagedb/content/sha256",
        f"{image}/imagedb/metadata/sha256",
        f"{root}/lamella/manifests",
        f"{root}/lamella/last-use",
    ):
        names = claims.place(place).names
        names.update((hex_of(identity), owner) for identity, owner in images.items())
    own = f"{root}/lamella"
    claims.claim(own, Owner("lamella"))
    claims.rule(own, lambda name: Owner("lamella", name))
    for part in ("manifests", "last-use"):
        claims.claim(f"{own}/{part}", Owner("lamella", part))
    claims.claim(f"{own}/cache-mounts", Owner("build", "cache mounts"))
    claims.rule(f"{own}/cache-mounts", lambda name: Owner("build", f"cache-mount {name}"))


def _claim_storage(
    claims: Claims, reader: StoreReader, owners: Mapping[str, Owner], images: Mapping[str, Owner]
) -> None:
    root, driver = claims.root, reader.driver
    known = _STORAGE | {driver, *(f"{driver}-{part}" for part in ("images", "layers", "containers"))}
    claims.unknown(root, "Podman keeps nothing of this name here", besides=known)
    claims.unknown(f"{root}/volumes", "no volume: there is no _data in it", besides=_VOLUME_FILES)
    for layer in reader.layers().values():
        claims.claim(f"{root}/{driver}-layers/{layer.id}.tar-split.gz", owners[layer.id].part_of("record"))
    for identity, owner in images.items():
        claims.claim(f"{root}/{driver}-images/{hex_of(identity)}", owner)
    for part, why in (("images", "no image"), ("containers", "no container")):
        place = f"{root}/{driver}-{part}"
        claims.rule(place, lambda name, place=place, why=why: _hex_rule(name, place, why))  # type: ignore[misc]


def _hex_rule(name: str, place: str, why: str) -> Owner | None:
    return Owner("unaccounted", f"{place}/{name}", f"{why} of this ID is in the catalogue") if is_hex64(name) else None


def _claim_containerd(claims: Claims, reader: StoreReader) -> None:
    root = claims.root
    base = root if "containerd" not in os.listdir(root) else f"{root}/containerd/daemon"

    def rule(name: str) -> Owner:
        if name.startswith("io.containerd.") or name in {"tmpmounts", "lost+found"}:
            return ENGINE
        return Owner("unaccounted", f"{base}/{name}", "containerd keeps nothing of this name here")

    claims.rule(base, rule)
    claims.claim(f"{base}/io.containerd.content.v1.content", Owner("blobs", "content"))
    if base != root:
        claims.claim(f"{root}/buildkit", Owner("build", "buildkit", "catalogue"))
        claims.unknown(root, "Docker keeps nothing of this name here", besides=DOCKER_NAMES | {reader.driver})
        claims.unknown(f"{root}/containers", "no container's record is in it that can be read")
        claims.unknown(f"{root}/volumes", "no volume: there is no _data in it", besides=_VOLUME_FILES)


def _claim_links(
    claims: Claims, home: str, directories: Mapping[str, Path], owners: Mapping[str, Owner], reader: StoreReader
) -> None:
    """Give each short name in ``l`` to the layer that it leads to."""
    links = f"{home}/l"
    if "l" not in list_names(home) or os.path.islink(links):
        return
    by_directory: dict[str, StoredLayer] = {layer.directory_id: layer for layer in reader.layers().values()}
    claims.claim(links, ENGINE)

    def rule(name: str) -> Owner:
        try:
            target = os.readlink(f"{links}/{name}").split("/")
        except OSError:
            target = []
        found = target[1] if len(target) == 3 and target[0] == ".." else ""
        layer = by_directory.get(found)
        if layer is not None:
            return owners[layer.id].part_of("short name")
        if found in directories:
            return Owner("unaccounted", f"{home}/{found}", "")
        return Owner("unaccounted", f"{links}/{name}", "a short name that leads to no layer")

    claims.rule(links, rule)


def _directory_rule(home: str, reader: StoreReader) -> Rule:
    around: list[Surroundings] = []

    def rule(name: str) -> Owner:
        if name.startswith(PROBES):
            return ENGINE
        path = f"{home}/{name}"
        if reader.kind != "docker":
            return Owner("unaccounted", path, "the engine's catalogue names no such layer")
        if not is_cache_id(name):
            return Owner("unaccounted", path, "no driver gives a name like this to anything")
        if not around:
            around.append(Surroundings(reader.root))
        if around[0].is_pooled(name.removesuffix("-init")):
            return Owner("unaccounted", path, "an operation in progress set it aside")
        if around[0].may_be_new(Path(path)):
            return Owner("unaccounted", path, "dockerd may be making it")
        return Owner("unaccounted", path, "no layer, container or build names it")

    return rule


def _claim_container(claims: Claims, container: ContainerRecord) -> None:
    log = None if container.log is None else str(container.log)
    if container.directory is not None:
        directory = str(container.directory)
        # Podman's is the part of what it keeps of a container that goes into it.
        whole = os.path.dirname(directory) if os.path.basename(directory) == "userdata" else directory
        claims.claim(whole, Owner("containers", container.id, "records"))
        logs = Owner("logs", container.id)
        starts = (f"{container.id}-json.log", "local-logs", "lamella.log")  # the last while it runs
        claims.rule(directory, lambda name: logs if name.startswith(starts) else None)
    if log is not None:
        claims.claim(log, Owner("logs", container.id))


def record_owner(image: ImageRecord, *, build: bool) -> Owner:
    """Return to whom an image's own files belong."""
    return Owner("build" if build else "images", image.id, "record")

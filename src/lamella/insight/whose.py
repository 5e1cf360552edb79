"""To whom a path inside a store belongs: layer, step, images, containers, volume, build cache, or nobody.

Only the records that the path leads to are read.  A path may be gone, as those in old logs are; what its name says
counts all the same.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path

import msgspec

from lamella.errors import LamellaError, NotFound
from lamella.insight.answer import Answer, LayerFacts, Named, StepFacts
from lamella.insight.claims import DOCKER_NAMES, DRIVER_NAMES, OTHER_DRIVER, PROBES
from lamella.insight.history import build_steps, plan_steps, step_of_layer
from lamella.insight.subject import container_subject, image_name, name_layer, open_stack
from lamella.model.digest import PREFIX, DiffID, chain_ids, is_hex64
from lamella.model.ids import is_cache_id, is_link_id
from lamella.readers.base import ContainerRecord, ImageRecord, StoredLayer, StoreReader
from lamella.store.smallfiles import is_directory, list_names

_OWN_PARTS = {
    "lamella": "lamella keeps its own records here",
    "buildkit": "BuildKit keeps its records and build cache here",
    "network": "Docker keeps its networks here",
    "plugins": "Docker keeps plugins here",
    "swarm": "Docker keeps its swarm's state here",
    "tmp": "Docker keeps temporary files here",
    "runtimes": "Docker keeps its runtimes' settings here",
    "trust": "Docker keeps keys here",
    "engine-id": "Docker keeps its engine's ID here",
}


def whose(reader: StoreReader, asked: str, rest: Sequence[str]) -> Answer:
    """Say whose the path with the names *rest* below the store's root is; *asked* is what the question was."""
    return _Question(reader, asked, [name for name in rest if name not in {"", "."}]).answer()


class _Question:
    """One path and one store."""

    def __init__(self, reader: StoreReader, asked: str, rest: list[str]) -> None:
        self._reader = reader
        self._asked = asked
        self._rest = rest
        self._path = reader.root.joinpath(*rest)

    def answer(self) -> Answer:
        rest = self._rest
        if not rest:
            return self._held("store", f"it is the root of a store ({self._reader.kind})", state="own")
        found = self._layer_directory()
        if found is not None:
            return found
        match rest:
            case ["containers", container, *_] if is_hex64(container):
                return self._container(container)
            case ["volumes", volume, *inside] if volume not in {"metadata.db", "backingFsBlockDev"}:
                return self._volume(volume, inside)
            case ["image", _, "imagedb", _, _, image, *_] if is_hex64(image):
                return self._image(PREFIX + image)
            case ["image", _, "layerdb", "sha256", chain, *_]:
                return self._record(chain)
            case ["image", _, "layerdb", "mounts", container, *_] if is_hex64(container):
                return self._container(container)
            case ["image", _, "layerdb", "tmp", _, *_]:
                return self._unfinished("the record of a layer in the making")
            case ["image", _, "repositories.json"]:
                return self._held("store", "it holds the names of all images", state="own")
            case ["image", _, "distribution", *_]:
                return self._held(
                    "store", "it notes which blob is which layer, for later pulls and pushes", state="own"
                )
            case [part, image, *_] if part.endswith("-images") and is_hex64(image):
                return self._image(PREFIX + image)
            case [part, name, *_] if part.endswith("-layers") and is_hex64(name.partition(".")[0]):
                return self._layer(self._reader.find_layer(name.partition(".")[0]), [])
            case [part, container, *_] if part.endswith("-containers") and is_hex64(container):
                return self._container(container)
            case [*_, "blobs", "sha256", blob]:
                return self._blob(blob)
            case ["lamella", "quarantine", *_]:
                return self._held(
                    "lamella", "it was moved to quarantine; 'lamella reclaim' can put it back", state="own"
                )
            case [part, *_] if part in _OWN_PARTS:
                holder = {"lamella": "lamella", "buildkit": "build-cache"}.get(part, "store")
                return self._held(holder, _OWN_PARTS[part], state="own")
            case ["containers", _, *_] if self._reader.kind == "docker":
                return self._stranger("Docker keeps only containers there")
            case [part, *_] if self._reader.kind == "docker" and part in DRIVER_NAMES - {self._reader.driver}:
                return self._held("store", f"{part}{OTHER_DRIVER}", state="own")
            case [part, *_] if self._reader.kind == "docker" and part not in DOCKER_NAMES | {self._reader.driver}:
                return self._stranger("Docker keeps nothing of this name there")
        return self._held("store", "it is one of the store's own records", state="own")

    # ------------------------------------------------------------------------------------------------ layers

    def _layer_directory(self) -> Answer | None:
        """Answer for a path in the directory of a layer, or None if it is in none."""
        reader, rest = self._reader, self._rest
        home = ["vfs", "dir"] if reader.driver == "vfs" else [reader.driver]
        if reader.kind == "containerd":
            return self._snapshot()
        if rest[: len(home)] != home:
            return None
        below = rest[len(home) :]
        if not below:
            return self._held("store", "the driver keeps the layers' directories here", state="own")
        if below[0] == "l" and reader.driver != "vfs":
            return self._short_name(below[1:])
        if not is_cache_id(below[0]):
            if below[0].startswith(PROBES):
                return self._held("store", "it is one of the driver's own files", state="own")
            return self._stranger("no driver gives a name like this to anything")
        return self._in_directory(below[0], below[1:])

    def _snapshot(self) -> Answer | None:
        for name, place in self._reader.layer_directories().items():
            if self._path.is_relative_to(place):
                return self._in_directory(name, list(self._path.relative_to(place).parts))
        names = list(self._rest)
        if "snapshots" in names[:-1] and any(name.startswith("io.containerd.snapshotter") for name in names):
            return self._nobody(f"there is no snapshot {names[names.index('snapshots') + 1]}")
        return None

    def _short_name(self, below: list[str]) -> Answer:
        if not below:
            return self._held("store", "the short names of the layers' directories, for mount options", state="own")
        place = self._reader.root / self._reader.driver / "l" / below[0]
        try:
            target = os.readlink(place).split("/")
        except OSError:
            return self._nobody("there is no such short name")
        if len(target) != 3 or target[0] != ".." or target[2] != "diff" or not is_cache_id(target[1]):
            return self._nobody(f"it is no short name of a layer: it leads to {'/'.join(target)!r}")
        if not is_link_id(below[0]) or not is_directory(self._reader.root / self._reader.driver / target[1]):
            return self._nobody(f"it is the short name of a directory that is gone, {target[1]}")
        return self._in_directory(target[1], ["diff", *below[1:]])

    def _in_directory(self, directory_id: str, below: list[str]) -> Answer:
        layer = self._reader.find_layer_by_directory(directory_id)
        if layer is None:
            return self._orphaned_directory(directory_id)
        if below and below[0] in {"merged", "rootfs"} and not layer.whole:
            return self._merged(layer, below[1:])
        part = [] if layer.whole else list(layer.directory.parts[-1:])
        inside = below[1:] if part and below[:1] == part else (below if not part else [])
        return self._layer(layer, inside)

    def _merged(self, layer: StoredLayer, names: list[str]) -> Answer:
        """Answer for a path that is seen through a mount: it is from whichever layer shows it."""
        if layer.role == "image":
            return self._of_image(layer, names)
        containers = [item for item in self._reader.containers() if layer.id in item.layers]
        if not containers:
            return self._layer(layer, [])
        return self.seen_in(containers[0], names)

    def _of_image(self, top: StoredLayer, names: Sequence[str]) -> Answer:
        """Answer for a path of an image that is mounted at its topmost layer's place, as Podman does."""
        layers: list[StoredLayer] = []
        layer: StoredLayer | None = top
        while layer is not None and layer not in layers:
            layers.insert(0, layer)
            layer = None if layer.parent is None else self._reader.find_layer(layer.parent)
        with open_stack(layers) as stack:
            found = stack.find(os.fsencode("/".join(names)))
        if found is None:
            return self._layer(top, [])
        place = os.path.join(layers[found.layer].directory, os.fsdecode(found.path)).rstrip("/")
        answer = self._layer(layers[found.layer], os.fsdecode(found.path).split("/") if found.path else [])
        return msgspec.structs.replace(answer, path=place)

    def seen_in(self, container: ContainerRecord, names: Sequence[str]) -> Answer:
        """Answer for a path as a container has it."""
        subject = container_subject(self._reader, container)
        layers = [place.layer for place in subject.places if place.layer is not None]
        wanted = os.fsencode("/".join(names))
        with open_stack(layers) as stack:
            path = stack.resolve(wanted)
            found = stack.find(path)
            number = 0 if found is None else stack.origin(found)
        if found is None:
            return msgspec.structs.replace(
                self._layer(layers[-1], []),
                reason=f"nothing is visible at /{os.fsdecode(path)} in container {container.name or container.id[:12]}",
                path=os.path.join(layers[-1].directory, os.fsdecode(path)),
                exists=False,
                seen_in=_named(container),
            )
        layer = layers[number]
        answer = self._layer(layer, os.fsdecode(found.path).split("/") if found.path else [])
        described = name_layer(subject, layers, number)
        step = answer.step
        if step is None and described.step is not None:
            step = StepFacts(container.image, described.step, described.number, described.instruction)
        owner = _named(container)
        return msgspec.structs.replace(
            answer,
            path=os.path.join(layer.directory, os.fsdecode(found.path)).rstrip("/"),
            reason=answer.reason if layer.role != "image" else f"seen in container {owner.names[0]}: {answer.reason}",
            step=step,
            exists=True,
            seen_in=owner,
        )

    def _layer(self, layer: StoredLayer | None, inside: list[str]) -> Answer:
        if layer is None:
            return self._nobody("no layer of this name is on record")
        facts = LayerFacts(
            layer.id, layer.role, layer.diff_id, layer.chain_id, layer.directory_id, os.fspath(layer.directory),
            layer.size,
        )  # fmt: skip
        containers = tuple(_named(item) for item in self._reader.containers() if layer.id in item.layers)
        images, position = find_users(layer, self._reader.images())
        step = self._step(images, position)
        if layer.role == "build" and not images:
            return self._held("build-cache", "a build left it to be used again", layer=facts, inside=inside)
        if layer.role in {"writable", "init"}:
            if not containers:
                return self._nobody(f"it is the {layer.role} layer of a container that does not exist", layer=facts)
            text = f"it is the {layer.role} layer of container {containers[0].names[0]}"
            return self._held("container", text, layer=facts, containers=containers, inside=inside)
        if not images and not containers:
            return self._nobody("it is a layer that no image and no container has", layer=facts)
        named = [image.names[0] for image in images if image.names]
        if images:
            who = f"layer {position} of image {named[0] if named else images[0].id[7:19]}"
            text = f"it is {'from ' if inside else ''}{who}" + (f" and {len(images) - 1} more" if images[1:] else "")
        else:
            text = f"no image has the layer, but container {containers[0].names[0]} stands on it"
        return self._held("layer", text, layer=facts, step=step, images=images, containers=containers, inside=inside)

    def _step(self, images: Sequence[Named], position: int) -> StepFacts | None:
        for image in images[:4]:
            try:
                record = self._reader.find_image(image.id)
                step = step_of_layer(plan_steps(record.config), position)
            except LamellaError:
                continue
            if step is not None:
                return StepFacts(image_name(record), step.number, position, step.instruction)
        return None

    # ------------------------------------------------------------------------------------------------ other things

    def _record(self, name: str) -> Answer:
        if not is_hex64(name):
            if name.endswith("-removing"):
                return self._unfinished("the record of a layer whose removal was begun")
            return self._held("store", "it is one of the store's own records", state="own")
        return self._layer(self._reader.find_layer(PREFIX + name), [])

    def _image(self, image_id: str) -> Answer:
        try:
            record = self._reader.find_image(image_id)
        except LamellaError as error:
            return self._nobody(f"it is of an image that cannot be read or does not exist: {error}")
        users = tuple(_named(item) for item in self._reader.containers() if item.image == record.id)
        text = f"it is a record of image {image_name(record)}"
        return self._held("image", text, images=(Named(record.id, record.names),), containers=users)

    def _container(self, container_id: str) -> Answer:
        try:
            record = self._reader.find_container(container_id)
        except NotFound:
            return self._nobody(f"there is no container {container_id[:12]}")
        name = record.name or record.id[:12]
        return self._held("container", f"it is kept for container {name}", containers=(_named(record),))

    def _volume(self, name: str, below: list[str]) -> Answer:
        users = tuple(_named(item) for item in self._reader.containers() if name in item.volumes)
        if not any(volume.name == name for volume in self._reader.volumes()):
            return self._nobody(f"there is no volume {name}", containers=users)
        text = f"it is volume {name}" + (f" of container {users[0].names[0]}" if users else ", which no container uses")
        inside = below[1:] if below[:1] == ["_data"] else []
        return self._held("volume", text, containers=users, volumes=(name,), inside=inside)

    def _blob(self, name: str) -> Answer:
        users = [
            image for image in self._reader.images()
            if any(blob is not None and blob.name == name for blob in self._reader.image_blobs(image))
        ]  # fmt: skip
        if not users:
            return self._held(
                "store", "it is a blob that the engine keeps: of no image that can be unpacked", state="own"
            )
        names = tuple(Named(image.id, image.names) for image in users)
        return self._held("image", f"it is a packed layer of image {image_name(users[0])}", images=names)

    # ------------------------------------------------------------------------------------------------ nobody

    def _orphaned_directory(self, directory_id: str) -> Answer:
        reader = self._reader
        if not is_directory(self._directory(directory_id)):
            return self._nobody(f"there is no directory {directory_id}, and no record names one", exists=False)
        if reader.kind != "docker":
            return self._nobody(f"none of {len(reader.layers())} layers on record is kept in {directory_id}")
        layerdb = reader.root / "image" / reader.driver / "layerdb"
        records, mounts = len(list_names(layerdb / "sha256")), len(list_names(layerdb / "mounts"))
        reason = (
            f"none of {records} layer records names {directory_id[:12]} as its cache ID, none of {mounts} containers "
            "has it as a layer, BuildKit does not know it"
        )
        return self._unfinished("a layer's directory", reason)

    def _directory(self, directory_id: str) -> Path:
        home = self._reader.root / ("vfs/dir" if self._reader.driver == "vfs" else self._reader.driver)
        return home / directory_id

    def _unfinished(self, what: str, reason: str = "") -> Answer:
        """Answer for what belongs to an operation in progress, or else to nobody."""
        if self._reader.kind == "docker":
            from lamella.insight.surroundings import Surroundings

            around = Surroundings(self._reader.root)
            name = next((name for name in self._rest if around.is_pooled(name)), None)
            if name is not None or around.may_be_new(self._path) or (around.busy and not reason):
                return self._held("store", f"it is {what}: an operation in progress may be making it", state="busy")
            directory = next((name for name in self._rest if is_cache_id(name) and len(name) > 24), "")
            if reason and directory and around.in_mounts(directory):
                reason += "; but it is mounted, so something still uses it"
        return self._nobody(reason or f"it is {what}, and no operation is in progress")

    def _stranger(self, reason: str) -> Answer:
        """Answer for what lies in the store, but belongs to no engine's layout."""
        return self._held("", f"it lies in the store's directory, but {reason}", state="unknown")

    def _nobody(
        self, reason: str, *, layer: LayerFacts | None = None, containers: tuple[Named, ...] = (), exists: bool = True
    ) -> Answer:
        answer = self._held("", reason, state="orphan", layer=layer, containers=containers)
        return answer if exists else msgspec.structs.replace(answer, exists=False)

    def _held(
        self,
        holder: str,
        reason: str,
        *,
        state: str = "held",
        inside: Sequence[str] = (),
        layer: LayerFacts | None = None,
        step: StepFacts | None = None,
        images: tuple[Named, ...] = (),
        containers: tuple[Named, ...] = (),
        volumes: tuple[str, ...] = (),
    ) -> Answer:
        return Answer(
            asked=self._asked,
            state=state,
            holder=holder,
            reason=reason,
            store=self._reader.kind,
            root=os.fspath(self._reader.root),
            path=os.fspath(self._path),
            inside="/" + "/".join(inside) if inside else "",
            exists=_exists(self._path),
            layer=layer,
            step=step,
            images=images,
            containers=containers,
            volumes=volumes,
            problems=tuple(self._reader.problems),
        )


def seen_in(reader: StoreReader, asked: str, container: ContainerRecord, names: Sequence[str]) -> Answer:
    """Say whose a path is as a container has it."""
    return _Question(reader, asked, []).seen_in(container, [name for name in names if name not in {"", "."}])


def find_users(layer: StoredLayer, images: Sequence[ImageRecord]) -> tuple[tuple[Named, ...], int]:
    """Return the images that have a layer, named ones first, and its number in them, 1 for the base, 0 for none.

    Steps of builds are told only if no other image has it.
    """
    if layer.diff_id is None or layer.chain_id is None:
        return (), 0
    base: tuple[DiffID, ...] = ()
    found: list[Named] = []
    for image in images:
        if base:
            if image.diff_ids[: len(base)] == base:
                found.append(Named(image.id, image.names))
            continue
        if layer.diff_id in image.diff_ids:
            chains = chain_ids(image.diff_ids)
            if layer.chain_id in chains:
                base = image.diff_ids[: chains.index(layer.chain_id) + 1]
                found.append(Named(image.id, image.names))
    steps = build_steps(images)
    shown = [item for item in found if item.id not in steps] or found
    return tuple(sorted(shown, key=lambda item: (not item.names, item.names, item.id))), len(base)


def _named(container: ContainerRecord) -> Named:
    return Named(container.id, (container.name or container.id[:12],), container.status)


def _exists(path: Path) -> bool:
    try:
        return stat.S_IFMT(os.lstat(path).st_mode) != 0
    except OSError:
        return False

"""Operations on a store for the crash tests: each small, each deterministic, each visible when it is done."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lamella.model.digest import ImageID
from lamella.model.ids import ContainerID
from lamella.model.reference import parse_tagged
from lamella.store.containerdb import new_record
from lamella.store.imagestore import ImageStore
from lamella.store.initlayer import fill_init_layer
from lamella.transports.loading import load
from lamella.transports.rootfs import import_filesystem
from tests.support.archives import docker20, image, layer_tar, packed_gzip

BASE = layer_tar({"etc": None, "etc/motd": b"hello\n"})
NEXT = layer_tar({"etc/.wh.motd": b"", "new": b"more\n"})
TOP = layer_tar({"top": b"top\n"})
OLD = image([BASE, TOP], "old:1", "moves:1")
NEW = image([BASE, NEXT, TOP], "new:1", "moves:1")
PLAIN = image([BASE, TOP], created="2020-01-01T00:00:00Z")
OWNER = ContainerID("c" * 64)

State = dict[str, Any]
Operation = Callable[[ImageStore, Path], object]


def visible(root: Path) -> State:
    store = ImageStore.open(root)
    return {
        "images": sorted(image.id for image in store.images.iter_images() if store.is_usable(image)),
        "tags": store.tags.read(),
        "layers": sorted(layer.chain_id for layer in store.layers.iter_layers()),
        "containers": sorted((record.id, record.name) for record in store.containers.iter_records()),
        "mounts": sorted(rw.owner for rw in store.rwlayers.iter_layers()),
    }


def load_new(store: ImageStore, archives: Path) -> None:
    load(store, archives / "new.tar")


def load_two_untagged(store: ImageStore, archives: Path) -> None:
    load(store, archives / "two.tar")


def import_one(store: ImageStore, archives: Path) -> None:
    moment = datetime(2024, 1, 1, tzinfo=UTC)
    import_filesystem(store, io.BytesIO(NEXT), reference=parse_tagged("imported"), created=moment)


def tag(store: ImageStore, archives: Path) -> None:
    store.tags.set(parse_tagged("more:1"), ImageID(OLD.id))  # type: ignore[arg-type]


def remove(store: ImageStore, archives: Path) -> None:
    with store.root.writing():
        image_id = store.resolve(OLD.id) if store.images.find(ImageID(OLD.id)) else None  # type: ignore[arg-type]
        if references := store.tags.references(ImageID(OLD.id)):  # type: ignore[arg-type]
            store.tags.remove(*references)
        if image_id is not None:
            store.delete_image(image_id)


def create(store: ImageStore, archives: Path) -> None:
    top = store.images.get(ImageID(OLD.id)).top  # type: ignore[arg-type]
    if store.containers.find(OWNER) is not None:
        return
    with store.root.transaction("create", ids=1) as tx:
        store.rwlayers.create(OWNER, top, tx=tx, init=fill_init_layer)
        store.containers.write(
            new_record(
                OWNER,
                name="one",
                created="2024-01-02T03:04:05Z",
                path="/bin/sh",
                args=[],
                settings={},
                image=OLD.id,
                host_config={},
                driver="overlay2",
            )
        )


def build(store: ImageStore, archives: Path) -> None:
    top = store.images.get(ImageID(OLD.id)).top  # type: ignore[arg-type]
    with store.root.transaction("build", ids=4) as tx:
        rw = store.rwlayers.create(OWNER, top, tx=tx, init=fill_init_layer)
        with store.rwlayers.mounted(rw) as merged:
            (merged / "made").write_text("here\n")
            os.utime(merged / "made", (1, 1))
        layer = store.layers.capture(rw, top, tx)
        store.rwlayers.remove(rw)
        made = image([BASE, TOP]).config.decode()
        diff_ids = ", ".join(f'"{item.diff_id}"' for item in store.layers.stack(layer.chain_id))
        start, _, rest = made.partition('"diff_ids": [')
        raw = f'{start}"diff_ids": [{diff_ids}]{rest.partition("]")[2]}'.encode()
        built = store.images.put(raw, tx=tx, built_locally=True)
        store.commit(tx, {"built:1": built})


def remove_container(store: ImageStore, archives: Path) -> None:
    if store.containers.path(OWNER).is_dir():
        store.delete_container(OWNER)


OPERATIONS: list[Operation] = [
    load_new,
    load_two_untagged,
    import_one,
    tag,
    remove,
    create,
    build,
    remove_container,
]
PREPARATIONS: dict[Operation, Operation] = {remove_container: create}


def prepare(operation: Operation, root: Path, archives: Path) -> None:
    """Make the store that an operation starts from."""
    load(ImageStore.open(root), archives / "old.tar")
    if operation in PREPARATIONS:
        PREPARATIONS[operation](ImageStore.open(root), archives)


def write_archives(place: Path) -> None:
    """Write the archives that the operations load."""
    docker20(place / "old.tar", OLD)
    docker20(place / "new.tar", NEW, compress=packed_gzip)
    docker20(place / "two.tar", image([NEXT]), image([NEXT, TOP], "two:1"))


def intermediate(operation: Operation, found: State, before: State, after: State) -> bool:
    """Allow what is documented: a removal goes tag, config, layers, each step whole."""
    if operation is not remove:
        return False
    untagged = {**before, "tags": after["tags"]}
    return found == untagged

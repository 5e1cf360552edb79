"""What the page asks for, as JSON documents: one function an address below ``api/``; ``docs/ui.md`` lists the shapes."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from lamella.engine.reading import (
    Holder,
    ImageRecord,
    Item,
    LayerFiles,
    StoredLayer,
    find_everywhere,
    list_items,
    plan_steps,
    read_layer_files,
)
from lamella.errors import InvalidArgument, NotFound
from lamella.ui.snapshot import Snapshot, Watch
from lamella.ui.stacks import Box, window

Document = dict[str, Any]

MOST_COLUMNS: Final = 200
MOST_NAMES: Final = 60
_KEPT_FILES: Final = 6
_LETTERS: Final = {
    "layer": "l",
    "loose": "l",
    "missing": "m",
    "image": "i",
    "init": "c",
    "writable": "c",
    "container": "c",
}


class Documents:
    """The store as documents; safe to be asked by several threads at once."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._files: dict[tuple[str, str, str], LayerFiles] = {}
        self._files_lock = threading.Lock()

    def version(self) -> str:
        """Return the stamp of the store as it is now."""
        return self._watch.now().stamp

    def store(self) -> Document:
        """Say what store it is and how much is in it."""
        now = self._watch.now()
        return {
            "version": now.stamp,
            "root": str(now.reader.root),
            "kind": now.reader.kind,
            "driver": now.reader.driver,
            "images": len(now.images) - len(now.hidden_steps),
            "build_steps": len(now.hidden_steps),
            "layers": sum(layer.role == "image" for layer in now.layers.values()),
            "containers": len(now.containers),
            "running": sum(container.status == "running" for container in now.containers.values()),
            "problems": now.reader.problems[:MOST_NAMES],
            "problem_count": len(now.reader.problems),
        }

    def stacks(self, start: int, end: int, wanted: str = "", *, steps: bool = False) -> Document:
        """Return the boxes in the columns from *start* up to *end*, and the size of the whole drawing."""
        if not 0 <= start <= end:
            raise InvalidArgument("'from' and 'to' are the first column and the one after the last")
        now = self._watch.now()
        layout = now.layout(wanted, steps=steps)
        end = min(end, start + MOST_COLUMNS)
        return {
            "version": now.stamp,
            "columns": len(layout.columns),
            "height": layout.height,
            "boxes": [_box(now, number, layout.boxes[number], wanted.lower()) for number in window(layout, start, end)],
        }

    def overview(self, wanted: str = "", *, steps: bool = False) -> Document:
        """Return all boxes as bare shapes: column, span, bottom, height, a letter for the kind, how many share it."""
        now = self._watch.now()
        layout = now.layout(wanted, steps=steps)
        return {
            "version": now.stamp,
            "columns": len(layout.columns),
            "height": layout.height,
            "boxes": [
                (box.column, box.span, box.bottom, box.height, _LETTERS[box.kind], len(now.holders.get(box.id, ())))
                for box in layout.boxes
            ],
        }

    def place(self, kind: str, identity: str, wanted: str = "", *, steps: bool = False) -> Document:
        """Say where in the drawing something is: the number and column of its first box, None if it is not drawn."""
        layout = self._watch.now().layout(wanted, steps=steps)
        kinds = {"layer", "missing", "init", "writable"} if kind == "layer" else {kind}
        for number, box in enumerate(layout.boxes):
            if box.id == identity and box.kind in kinds:
                return {"box": number, "column": box.column, "bottom": box.bottom}
        return {"box": None, "column": None, "bottom": None}

    def image(self, identity: str) -> Document:
        """Return an image with its settings and all its steps."""
        now = self._watch.now()
        image = now.image(identity)
        chain = now.chain(image)
        settings = image.config.config
        steps = [
            {
                "number": step.number,
                "instruction": step.instruction,
                "created": step.created,
                "comment": step.comment,
                "layer": None if step.layer is None or step.layer > len(chain) else chain[step.layer - 1].id,
                "size": None if step.layer is None or step.layer > len(chain) else chain[step.layer - 1].size,
            }
            for step in plan_steps(image.config)
        ]
        told = {step["layer"] for step in steps}
        steps += [
            {"number": None, "instruction": "", "created": "", "comment": "", "layer": block.id, "size": block.size}
            for block in chain
            if block.id not in told
        ]
        own = [block for block in chain if now.holders.get(block.id) == (image.id,)]
        return {
            "version": now.stamp,
            "id": image.id,
            "names": image.names,
            "digests": image.digests,
            "created": image.config.created,
            "author": image.config.author,
            "platform": "/".join(filter(None, (image.config.os, image.config.architecture, image.config.variant))),
            "size": sum(block.size or 0 for block in chain),
            "own": sum(block.size or 0 for block in own),
            "layers": len(chain),
            "missing": sum(block.kind == "missing" for block in chain),
            "settings": {
                "entrypoint": list(settings.entrypoint or ()),
                "cmd": list(settings.cmd or ()),
                "user": settings.user,
                "working_dir": settings.working_dir,
                "env": settings.env,
                "exposed_ports": settings.exposed_ports,
                "volumes": settings.volumes,
                "labels": settings.labels,
            },
            "steps": steps,
            "containers": [
                {"id": each.id, "name": each.name, "status": each.status}
                for each in now.containers.values()
                if each.image == image.id
            ],
        }

    def layer(self, identity: str, stack: str = "") -> Document:
        """Return a layer: where it is, what made it, who has it; of very many some, *stack* among them if it has it."""
        now = self._watch.now()
        layer = now.layers.get(identity)
        if layer is None and identity not in now.holders:
            raise NotFound(f"No such layer: {identity}")
        holders = now.holders.get(identity, ())
        step = now.steps.get(identity)
        containers = [each for each in now.containers.values() if identity in each.layers]
        return {
            "version": now.stamp,
            "id": identity,
            "role": "missing" if layer is None else layer.role,
            "number": now.depth(identity),
            "parent": None if layer is None else layer.parent,
            "directory": None if layer is None else str(layer.directory),
            "directory_id": None if layer is None else layer.directory_id,
            "present": layer is not None and not _gone(layer.directory),
            "chain_id": identity if layer is None else layer.chain_id,
            "diff_id": None if layer is None else layer.diff_id,
            "size": None if layer is None else layer.size,
            "step": None
            if step is None
            else {
                "number": step[0].number,
                "instruction": step[0].instruction,
                "created_by": step[0].created_by,
                "created": step[0].created,
                "image": step[1],
            },
            "images": [_named(now.images[image]) for image in _some(holders, stack)],
            "image_count": len(holders),
            "containers": [
                {"id": each.id, "name": each.name, "status": each.status}
                for each in map(now.container, _some([each.id for each in containers], stack))
            ],
            "container_count": len(containers),
        }

    def container(self, identity: str) -> Document:
        """Return a container with its layers."""
        now = self._watch.now()
        container = now.container(identity)
        layers = [now.layers.get(layer) for layer in container.layers]
        return {
            "version": now.stamp,
            "id": container.id,
            "name": container.name,
            "image": container.image,
            "image_name": container.image_name,
            "image_present": container.image in now.images,
            "created": container.created,
            "status": container.status,
            "pid": container.pid,
            "merged": None if container.merged is None else str(container.merged),
            "directory": None if container.directory is None else str(container.directory),
            "log": None if container.log is None else str(container.log),
            "volumes": container.volumes,
            "layers": [
                {
                    "id": layer.id,
                    "role": layer.role,
                    "size": layer.size,
                    "directory": str(layer.directory),
                    "label": self._step(now, layer),
                }
                for layer in reversed(layers)
                if layer is not None
            ],
        }

    def files(self, layer: str, stack: str, path: bytes) -> Document:
        """Return a directory of a layer by size, as the image or container *stack* has it."""
        read = self._read_files(layer, stack)
        parts = [part for part in path.split(b"/") if part]
        folder = read.root.find(parts)
        return {
            "layer": layer,
            "stack": stack,
            "number": read.number,
            "path": "/" + _shown(b"/".join(parts)),
            "size": folder.size,
            "hidden": folder.hidden,
            "wasted": None if read.compared is None else folder.wasted,
            "files": folder.files,
            "compared": read.compared,
            "problems": read.problems,
            "items": [_item(item, known=read.compared is not None) for item in list_items(folder)],
        }

    def find(self, path: bytes) -> Document:
        """Look a path up in every image and container."""
        if not path.strip(b"/ "):
            raise InvalidArgument("give a path, such as /etc/os-release")
        now = self._watch.now()
        found = find_everywhere(now.reader, path)
        return {
            "version": now.stamp,
            "path": "/" + _shown(path.strip(b"/")),
            "versions": [
                {
                    "path": "/" + _shown(version.path),
                    "kind": version.kind,
                    "size": version.status.st_size,
                    "mode": f"{version.status.st_mode & 0o7777:04o}",
                    "owner": f"{version.status.st_uid}:{version.status.st_gid}",
                    "modified": version.status.st_mtime,
                    "target": _shown(version.target),
                    "layer": version.layer.id,
                    "role": version.layer.role,
                    "file": str(version.layer.directory / os.fsdecode(version.path)).encode(errors="replace").decode(),
                    "step": self._step(now, version.layer),
                    "holders": _holders(now, version.holders),
                    "count": len(version.holders),
                }
                for version in found.versions
            ],
            "absent": _holders(now, found.absent),
            "absent_count": len(found.absent),
            "unreadable": [{**_holder(now, holder), "why": why} for holder, why in found.unreadable[:MOST_NAMES]],
        }

    # ------------------------------------------------------------------------------------------------ internals

    @staticmethod
    def _step(now: Snapshot, layer: StoredLayer) -> str:
        step = now.steps.get(layer.id)
        return step[0].instruction if step is not None else f"{layer.role} layer"

    def _read_files(self, layer: str, stack: str) -> LayerFiles:
        now = self._watch.now()
        # What a container writes goes on without a change of any record, so that is read anew each time.
        constant = stack not in now.containers and (layer in now.holders)
        key = (now.stamp, layer, stack)
        found = self._files.get(key) if constant else None
        if found is not None:
            return found
        with self._files_lock:
            found = self._files.get(key) if constant else None
            if found is None:
                found = read_layer_files(now.reader, layer, stack)
                if constant:
                    while len(self._files) >= _KEPT_FILES:
                        del self._files[next(iter(self._files))]
                    self._files[key] = found
            return found


def _box(now: Snapshot, number: int, box: Box, wanted: str) -> Document:
    document: Document = {
        "number": number,
        "kind": box.kind,
        "id": box.id,
        "column": box.column,
        "span": box.span,
        "bottom": box.bottom,
        "height": box.height,
        "below": box.below,
        "size": box.size,
        "label": "",
    }
    if box.kind in {"layer", "missing"}:
        step = now.steps.get(box.id)
        document["label"] = "" if step is None else step[0].instruction[:200]
        document["shared"] = len(now.holders.get(box.id, ()))
        document["gone"] = box.kind == "layer" and _gone(now.layers[box.id].directory)
    elif box.kind == "image":
        image = now.images[box.id]
        # Of several names the one that was looked for.
        names = [name for name in image.names if wanted in name.lower()] or image.names
        document["label"] = names[0] if names else ""
        document["more"] = max(0, len(image.names) - 1)
        document["size"] = sum(block.size or 0 for block in now.chain(image))
    elif box.kind == "container":
        container = now.containers[box.id]
        document["label"] = container.name
        document["status"] = container.status
    return document


def _item(item: Item, *, known: bool) -> Document:
    document: Document = {
        "name": _shown(item.name),
        "ref": quote(item.name),
        "kind": item.kind,
        "size": item.size,
        "hidden": item.hidden,
        "wasted": item.wasted if known else None,
        "files": item.files,
    }
    if item.fate:
        document.update(fate=item.fate, by=item.by)
    if item.items:
        document["items"] = [_item(each, known=known) for each in item.items]
    return document


def _gone(directory: Path) -> bool:
    """Say whether there is no such directory; one that may not be looked at is not gone."""
    try:
        return not directory.is_dir()
    except OSError:
        return False


def _some(identities: Sequence[str], wanted: str) -> Sequence[str]:
    """Return the first of them, and *wanted* for the last of these if it is further on."""
    found = identities[:MOST_NAMES]
    return found if wanted in found or wanted not in identities else [*found[:-1], wanted]


def _named(image: ImageRecord) -> Document:
    return {"id": image.id, "name": image.names[0] if image.names else ""}


def _holder(now: Snapshot, holder: Holder) -> Document:
    document: Document = {"kind": holder.kind, "id": holder.id, "name": holder.name}
    container = now.containers.get(holder.id)
    if container is not None:
        document["status"] = container.status
    return document


def _holders(now: Snapshot, holders: Sequence[Holder]) -> list[Document]:
    ordered = sorted(holders, key=lambda holder: (holder.kind, not holder.name, holder.name))
    return [_holder(now, holder) for holder in ordered[:MOST_NAMES]]


def _shown(name: bytes) -> str:
    return name.decode("utf-8", "replace")

"""A store with a busybox base image, and contexts to build in it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lamella.build.events import BuildEvent, Output
from lamella.build.executor import BuildOptions, BuildResult, build_image
from lamella.container.site import Site
from lamella.model.digest import ImageID
from lamella.model.imageconfig import ContainerSettings, History, encode_image_config
from lamella.store.imagestore import ImageStore
from tests.support.trees import Node, flatten

OLD = 1_600_000_000


def import_base(store: ImageStore, tar: Path, name: str = "base:latest", **settings: Any) -> ImageID:
    """Put a root file system into the store as an image of one layer."""
    created = "2020-01-01T00:00:00Z"
    with store.root.transaction("import") as tx:
        with tar.open("rb") as stream:
            layer = store.layers.register(stream, None, tx=tx)
        raw = encode_image_config(
            architecture="amd64",
            created=created,
            config=ContainerSettings(**settings),
            container_config=ContainerSettings(),
            history=[History(created=created, comment="Imported from -")],
            diff_ids=[layer.diff_id],
        )
        image = store.images.put(raw, tx=tx)
        store.commit(tx, {name: image})
    return image


def write_context(directory: Path, dockerfile: str, files: Mapping[str, object] | None = None) -> Path:
    """Write a context.

    A value is text, ``(text, mode)``, ``None`` for a directory, ``(None, mode)`` for one of that mode, ``-> target``
    for a symbolic link, ``= file`` for a hard link, ``|`` for a FIFO.
    """
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "Dockerfile").write_text(dockerfile)
    modes: dict[Path, int] = {}
    for name, value in (files or {}).items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if value is None:
            path.mkdir(exist_ok=True)
        elif isinstance(value, tuple) and value[0] is None:
            path.mkdir(exist_ok=True)
            modes[path] = value[1]
        elif value == "|":
            os.mkfifo(path)
        elif isinstance(value, bytes):
            path.write_bytes(value)
        elif isinstance(value, tuple):
            path.write_text(value[0])
            path.chmod(value[1])
        elif str(value).startswith("-> "):
            path.symlink_to(str(value)[3:])
        elif str(value).startswith("= "):
            os.link(directory / str(value)[2:], path)
        else:
            path.write_text(str(value))
    for path, mode in modes.items():
        path.chmod(mode)
    for parent, names, others in os.walk(directory, topdown=False):
        for name in [*names, *others]:
            os.utime(Path(parent, name), (OLD, OLD), follow_symlinks=False)
    return directory


class Builder:
    """One store to build in, and what the last build said."""

    def __init__(self, root: Path, *, driver: str | None = None) -> None:
        self.store = ImageStore.open(root, driver=driver)
        self.site = Site(self.store, root.parent / "state")
        self.events: list[BuildEvent] = []

    def build(self, context: Any, **options: Any) -> BuildResult:
        """Build and remember the events."""
        self.events.clear()
        return build_image(self.site, context, BuildOptions(**options), report=self.events.append)

    @property
    def lines(self) -> list[str]:
        """The lines that the classic builder would have printed."""
        return [str(event) for event in self.events if not isinstance(event, Output)]

    @property
    def output(self) -> bytes:
        """What RUN commands wrote."""
        return b"".join(event.data for event in self.events if isinstance(event, Output))

    @property
    def hits(self) -> int:
        """How many steps came from the cache."""
        return self.lines.count(" ---> Using cache")

    def layers(self, image: ImageID) -> list[dict[str, Node]]:
        """Flatten each layer of an image, base first; whiteouts are characters 0:0."""
        top = self.store.images.get(image).top
        return [
            flatten(self.store.root.path / "overlay2" / layer.cache_id / "diff")
            for layer in self.store.layers.stack(top)
        ]

    def top(self, image: ImageID) -> dict[str, Node]:
        """Flatten the last layer."""
        return self.layers(image)[-1]

    def text(self, image: ImageID, path: str) -> str:
        """Read a file of the image's merged tree."""
        top = self.store.images.get(image).top
        assert top is not None
        with self.store.root.driver.mounted_read_only(self.store.layers.get(top).cache_id) as merged:
            return (merged / path).read_text()

"""The library's front door: an open data-root, and every use case as one call.

What a call does is said here; how is left to the packages below.  A store object may be used by one thread at a time;
any number of processes may have the same data-root open, and see each other's changes.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from lamella.engine.images import Image
from lamella.errors import InvalidArgument, NotFound
from lamella.model.progress import Reporter, silent
from lamella.store.imagestore import ImageStore

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from lamella.build.events import BuildEvent
    from lamella.container.site import Site
    from lamella.engine.containers import Container
    from lamella.engine.options import ContainerOptions
    from lamella.engine.removal import Removed
    from lamella.model.ids import CacheID, ContainerID

DEFAULT_ROOT = Path("/var/lib/lamella")
STATE_ROOT = Path("/run/lamella")


class Loaded(NamedTuple):
    """One image that came in with an archive, and the names it was given."""

    image: Image
    references: list[str]


class PrunedImages(NamedTuple):
    """What pruning images did, in order, and the bytes it freed."""

    removed: list[Removed]
    reclaimed: int


class PrunedContainers(NamedTuple):
    """The containers that pruning removed, and the bytes it freed."""

    removed: Sequence[str]
    reclaimed: int


class Store:
    """An open data-root in Docker's layout: a context manager.

    ::

        with lamella.Store.open("/var/lib/lamella") as store:
            for image in store.images():
                print(image.short_id, image.tags, image.size)
            with store.image("ubuntu").mount() as root:
                print((root / "etc/os-release").read_text())

    Reading is safe at any time, also while dockerd runs on the data-root; changing it is then refused with InUse.
    Every change is durable on return, and a call that fails or is killed leaves nothing that the next one does not
    clear away.
    """

    def __init__(self, parts: ImageStore, *, runtime: str | None = None, state: Path | None = None) -> None:
        self.parts = parts
        """The parts below, for those who need more than this class offers; not covered by any promise."""
        self._runtime_name = runtime
        self._state = state
        self._site: Site | None = None

    @classmethod
    def open(
        cls,
        root: Path | str = DEFAULT_ROOT,
        *,
        driver: str | None = None,
        runtime: str | None = None,
        state: Path | str | None = None,
        create: bool = True,
    ) -> Store:
        """Open the store at *root*, making it if there is none and *create* allows.

        *driver* chooses the storage driver of a new store (``overlay2``, ``vfs``); *runtime* the OCI runtime, a name
        or a path, by default crun, else runc; *state* is the directory for what lives no longer than the machine is
        up, by default one below ``/run/lamella``.  Raises NotFound, or Unsupported if no driver works there.
        """
        parts = ImageStore.open(Path(root), driver=driver, create=create)
        return cls(parts, runtime=runtime, state=None if state is None else Path(state))

    def close(self) -> None:
        """Close the store; containers go on running."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def root(self) -> Path:
        """The data-root's real path."""
        return self.parts.root.path

    @property
    def driver(self) -> str:
        """The storage driver's name."""
        return self.parts.root.driver.name

    @property
    def state(self) -> Path:
        """The directory for what lives no longer than the machine is up: bundles, sockets, locks."""
        if self._state is None:
            from lamella.container.site import state_directory

            self._state = state_directory(self.root, STATE_ROOT)
        return self._state

    @property
    def site(self) -> Site:
        """The store and the runtime together, as the packages below want them; not covered by any promise."""
        if self._site is None:
            from lamella.container.site import Site

            self._site = Site(self.parts, self.state, runtime=self._runtime_name, exit_command=self._exit_command)
        return self._site

    def _exit_command(self, container: ContainerID) -> Sequence[str]:
        """Return the command line by which a monitor hands a container that ended back to lamella."""
        options = ["--root", str(self.root), "--state", str(self.state), "--storage-driver", self.driver]
        if self._runtime_name:
            options += ["--runtime", self._runtime_name]
        # -P: never import from the directory that the monitor happens to stand in.
        return [sys.executable, "-P", "-m", "lamella", *options, "container", "cleanup", container]

    @property
    def problems(self) -> list[str]:
        """What was found damaged in the data-root so far, a line each."""
        return self.parts.problems

    def layer_directory(self, layer: CacheID) -> Path:
        """Return the directory that holds a layer's own files."""
        data = self.parts.root.driver.metadata(layer)
        if data is not None:
            return Path(data["UpperDir"])
        with self.parts.root.driver.files(layer) as directory:
            return directory

    # ------------------------------------------------------------------------------------------------ images

    def image(self, name: str) -> Image:
        """Return the image that *name* names: a reference, or the beginning of an ID.  Raises NotFound."""
        stored = self.parts.images.get(self.parts.resolve(name))
        return Image(self, stored, self.parts.tags.references(stored.id))

    def find_image(self, name: str) -> Image | None:
        """Return the image that *name* names, or None if there is none."""
        try:
            return self.image(name)
        except NotFound:
            return None

    def images(self, *, all: bool = False, filters: Sequence[str] = ()) -> list[Image]:  # noqa: A002 - docker's word
        """Return the images, newest first; without *all* those that are only steps of others are left out.

        *filters* are ``key=value`` with the keys of ``docker images``; a ``reference`` pattern also narrows the names
        that each image shows.
        """
        parts = self.parts
        layers = {layer.chain_id: layer for layer in parts.layers.iter_layers()}
        names = parts.tags.by_image()
        stored = list(parts.iter_usable(layers))
        parents = {image.parent for image in stored}
        images = [Image(self, image, names.get(image.id, []), layers) for image in stored]
        if not all:
            images = [image for image in images if image.references or image.id not in parents]
        if filters:
            images = self._filtered(images, filters)
        return sorted(images, key=lambda image: image.created, reverse=True)

    def _filtered(self, images: Iterable[Image], filters: Sequence[str]) -> list[Image]:
        from lamella.engine.selection import image_test, matches_reference, reference_patterns

        passes = image_test(filters, self.image, time.time_ns())
        chosen = [image for image in images if passes(image)]
        patterns = reference_patterns(filters)
        if not patterns:
            return chosen
        for image in chosen:
            image.references = [
                reference
                for reference in image.references
                if any(matches_reference(p, reference.familiar_name(), reference.familiar()) for p in patterns)
            ]
        return [image for image in chosen if image.references]

    def remove_image(self, name: str, *, force: bool = False, prune: bool = True) -> list[Removed]:
        """Do what ``docker rmi`` does with *name*: take the name away, and the image with its last one.

        Returns what was untagged and deleted, in order.  Raises Conflict, with Docker's words, if a container or
        another image needs it, before anything is changed.
        """
        from lamella.engine.removal import remove_image
        from lamella.engine.shelf import StoreShelf

        with self.parts.root.writing():
            image = self.parts.resolve(name)
            return remove_image(StoreShelf(self), image, name, force=force, prune=prune)

    def prune_images(self, *, everything: bool = False, filters: Sequence[str] = ()) -> PrunedImages:
        """Remove the images without a tag; *everything* removes all that no container uses."""
        from lamella.engine.removal import prune_images
        from lamella.engine.selection import image_test
        from lamella.engine.shelf import StoreShelf
        from lamella.model.filters import parse_bool, parse_filters

        wanted = parse_filters(filters, ("dangling", "label", "until"))
        if parse_bool("dangling", wanted.get("dangling", [])) is False:
            everything = True
        rest = [word for word in filters if not word.startswith("dangling")]
        with self.parts.root.writing():
            sizes = {layer.chain_id: layer.size for layer in self.parts.layers.iter_layers()}
            passes = image_test(rest, self.image, time.time_ns())
            chosen = {image.id for image in self.images(all=True) if passes(image)}
            removed = prune_images(
                StoreShelf(self),
                [image.id for image in self.images(all=True)],
                everything=everything,
                keep=lambda image: image not in chosen,
            )
        freed = sum(size for chain, size in sizes.items() if any(step.deleted == chain for step in removed))
        return PrunedImages(removed, freed)

    # ------------------------------------------------------------------------------------------------ containers

    def container(self, name: str) -> Container:
        """Return the container of a name, an ID, or the beginning of one.  Raises NotFound."""
        from lamella.engine.containers import Container

        return Container(self, self.parts.containers.resolve(name))

    def find_container(self, name: str) -> Container | None:
        """Return the container that *name* names, or None if there is none."""
        try:
            return self.container(name)
        except NotFound:
            return None

    def containers(self, *, all: bool = False, filters: Sequence[str] = ()) -> list[Container]:  # noqa: A002
        """Return the running containers, newest first, or with *all* every one.

        *filters* are ``key=value`` with the keys of ``docker ps``; one on status or exit code implies *all*.
        """
        from lamella.engine.containers import Container

        containers = [Container(self, record) for record in self.parts.containers.iter_records()]
        if filters:
            from lamella.engine.selection import container_test, implies_all

            all = all or implies_all(filters)  # noqa: A001
            passes = container_test(filters, self.container, self._descendants)
            containers = [container for container in containers if passes(container)]
        if not all:
            containers = [container for container in containers if container.running]
        return sorted(containers, key=lambda container: container.created, reverse=True)

    def _descendants(self, name: str) -> set[str]:
        """Return the image's ID and those of the images whose layers begin with all of its own, as Docker counts them."""
        image = self.image(name)
        own = image.config.diff_ids
        return {image.id} | {
            other.id for other in self.images(all=True) if own and other.config.diff_ids[: len(own)] == own
        }

    def create_container(
        self,
        image: str,
        command: Sequence[str] = (),
        options: ContainerOptions | None = None,
        *,
        platform: str = "",
    ) -> Container:
        """Create a container from *image*, at rest; an empty *command* is the image's own.

        *platform* refuses an image made for another one.  Raises NotFound, AlreadyExists for a name that is taken,
        InvalidArgument for options that make no sense.
        """
        from lamella.engine.containers import create_container
        from lamella.engine.options import ContainerOptions

        return create_container(self, image, command, options or ContainerOptions(), platform=platform)

    def prune_containers(self, *, filters: Sequence[str] = ()) -> PrunedContainers:
        """Remove every container that does not run; *filters* are ``label`` and ``until``."""
        from lamella.engine.selection import parse_moment
        from lamella.model.filters import match_pairs, parse_filters

        wanted = parse_filters(filters, ("label", "until"))
        until = [parse_moment(text, time.time_ns()) for text in wanted.get("until", [])]
        removed: list[str] = []
        freed = 0
        for container in self.containers(all=True):
            if container.state in {"running", "paused", "restarting"}:
                continue
            if not match_pairs(wanted.get("label", []), container.labels):
                continue
            if any(container.created > moment for moment in until):
                continue
            size = container.sizes()[0]
            with contextlib.suppress(NotFound):
                container.remove(volumes=False)
                removed.append(container.id)
                freed += size
        return PrunedContainers(removed, freed)

    def cleanup(self, name: str) -> None:
        """Record the exit of a container that ended unattended and give back what it held; harmless if repeated."""
        from lamella.engine.containers import cleanup_container

        cleanup_container(self, name)

    # ------------------------------------------------------------------------------------------------ in and out

    def load(self, source: BinaryIO | Path | str, *, report: Reporter = silent) -> list[Loaded]:
        """Load the images of an archive of ``docker save``, or of an OCI layout (tar or directory), with their tags.

        Layers that the store has are not read again.  An archive that is damaged anywhere changes nothing.
        """
        from lamella.engine.transfer import load_images

        return load_images(self, Path(source) if isinstance(source, str) else source, report)

    def save(self, names: Sequence[str], sink: BinaryIO, *, report: Reporter = silent) -> None:
        """Write the images *names* and what they are called as one archive.

        It is an OCI layout with Docker's ``manifest.json``, so docker, podman, skopeo and containerd read it.  An
        image named by its ID goes without tags, one named by a repository with all of the repository's.
        """
        from lamella.engine.transfer import save_images

        save_images(self, names, sink, report)

    def import_image(
        self,
        source: BinaryIO | Path | str,
        reference: str | None = None,
        *,
        changes: Sequence[str] = (),
        message: str = "",
        platform: str = "",
        report: Reporter = silent,
    ) -> Image:
        """Make an image of one layer from the tar of a root file system, and name it *reference* if given.

        *changes* are Dockerfile instructions for its settings, such as ``CMD ["sh"]``; the tar may be compressed.
        """
        from lamella.engine.transfer import import_image

        stream = Path(source) if isinstance(source, str) else source
        if reference is not None and "@" in reference:
            raise InvalidArgument(f"{reference}: an image cannot be imported under a digest")
        return import_image(self, stream, reference, changes=changes, message=message, platform=platform, report=report)

    def build(
        self,
        context: Path | str | BinaryIO,
        *,
        tags: Sequence[str] = (),
        dockerfile: Path | bytes | None = None,
        build_args: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
        target: str = "",
        network: str = "host",
        platform: str = "",
        no_cache: bool = False,
        timestamp: int | None = None,
        report: Callable[[BuildEvent], None] | None = None,
    ) -> Image:
        """Build the Dockerfile of *context*, a directory or a stream of a tar or a Dockerfile, and name it *tags*.

        *dockerfile* is another file, or the text itself.  *timestamp*, seconds since the epoch, makes the result the
        same each time.  *report* is called with each step and what it prints; ``str()`` of an event is Docker's line.
        Raises BuildFailed with the exit code of the step that failed, InvalidArgument for a Dockerfile that cannot be
        read, naming the line; before any of it nothing is changed.
        """
        from lamella.engine.builds import build_image

        return build_image(
            self,
            Path(context) if isinstance(context, str) else context,
            tags=tags,
            dockerfile=dockerfile,
            build_args=build_args or {},
            labels=labels or {},
            target=target,
            network=network,
            platform=platform,
            no_cache=no_cache,
            timestamp=timestamp,
            report=report,
        )

    def info(self) -> dict[str, object]:
        """Count what is in the store and name what is wrong with it or with this machine."""
        from lamella.engine.machine import describe_store

        return describe_store(self)

"""The library's front door: an open data-root, and every use case as one call.

What a call does is said here; how is left to the packages below.  A store object may be used by one thread at a time;
any number of processes may have the same data-root open, and see each other's changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from lamella.engine.images import Image, find_image, get_image, list_images, prune_images, remove_image
from lamella.engine.opened import Opened
from lamella.errors import InvalidArgument
from lamella.model.progress import Reporter, silent
from lamella.store.imagestore import ImageStore

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from lamella.build.events import BuildEvent
    from lamella.build.request import RunLimits
    from lamella.engine.adopting import Adopted
    from lamella.engine.buildcache import PrunedBuildCache
    from lamella.engine.containers import Container
    from lamella.engine.ledger import Done, Ledger, Plan, Policy
    from lamella.engine.looking import Look
    from lamella.engine.options import ContainerOptions
    from lamella.engine.registries import PulledImage, PushedImage, Registries
    from lamella.engine.removal import Removed
    from lamella.engine.transfer import Loaded

DEFAULT_ROOT = Path("/var/lib/lamella")


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

    def __init__(self, opened: Opened) -> None:
        self._opened = opened

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
        return cls(Opened(parts, runtime=runtime, state=None if state is None else Path(state)))

    @property
    def parts(self) -> ImageStore:
        """The store below the library's objects."""
        return self._opened.parts

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
        return self._opened.root

    @property
    def driver(self) -> str:
        """The storage driver's name."""
        return self._opened.parts.root.driver.name

    @property
    def state(self) -> Path:
        """The directory for what lives no longer than the machine is up: bundles, sockets, locks."""
        return self._opened.state

    @property
    def problems(self) -> list[str]:
        """What was found damaged in the data-root so far, a line each."""
        return self._opened.parts.problems

    def look(self) -> Look:
        """Return the store for looking through it: explain, why, blame, image diff; as it is at that moment."""
        from lamella.engine.looking import Look
        from lamella.readers.docker import DockerReader

        return Look(DockerReader(self.root, self.driver))

    # ------------------------------------------------------------------------------------------------ images

    def image(self, name: str) -> Image:
        """Return the image that *name* names: a reference, or the beginning of an ID.  Raises NotFound."""
        return get_image(self._opened, name)

    def find_image(self, name: str) -> Image | None:
        """Return the image that *name* names, or None if there is none."""
        return find_image(self._opened, name)

    def images(self, *, all: bool = False, filters: Sequence[str] = ()) -> list[Image]:  # noqa: A002 - docker's word
        """Return the images, newest first; without *all* those that are only steps of others are left out.

        *filters* are ``key=value`` with the keys of ``docker images``; a ``reference`` pattern also narrows the names
        that each image shows.
        """
        return list_images(self._opened, steps=all, filters=filters)

    def remove_image(self, name: str, *, force: bool = False, prune: bool = True) -> list[Removed]:
        """Do what ``docker rmi`` does with *name*: take the name away, and the image with its last one.

        Returns what was untagged and deleted, in order.  Raises Conflict, with Docker's words, if a container or
        another image needs it, before anything is changed.
        """
        return remove_image(self._opened, name, force=force, prune=prune)

    def prune_images(self, *, everything: bool = False, filters: Sequence[str] = ()) -> PrunedImages:
        """Remove the images without a tag; *everything* removes all that no container uses."""
        return PrunedImages(*prune_images(self._opened, everything=everything, filters=filters))

    # ------------------------------------------------------------------------------------------------ containers

    def container(self, name: str) -> Container:
        """Return the container of a name, an ID, or the beginning of one.  Raises NotFound."""
        from lamella.engine.fleet import get_container

        return get_container(self._opened, name)

    def find_container(self, name: str) -> Container | None:
        """Return the container that *name* names, or None if there is none."""
        from lamella.engine.fleet import find_container

        return find_container(self._opened, name)

    def containers(self, *, all: bool = False, filters: Sequence[str] = ()) -> list[Container]:  # noqa: A002
        """Return the running containers, newest first, or with *all* every one.

        *filters* are ``key=value`` with the keys of ``docker ps``; one on status or exit code implies *all*.
        """
        from lamella.engine.fleet import list_containers

        return list_containers(self._opened, resting=all, filters=filters)

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
        from lamella.engine.fleet import create_container
        from lamella.engine.options import ContainerOptions

        return create_container(self._opened, image, command, options or ContainerOptions(), platform=platform)

    def prune_containers(self, *, filters: Sequence[str] = ()) -> PrunedContainers:
        """Remove every container that does not run; *filters* are ``label`` and ``until``."""
        from lamella.engine.fleet import prune_containers

        return PrunedContainers(*prune_containers(self._opened, filters))

    def cleanup(self, name: str) -> None:
        """Record the exit of a container that ended unattended and give back what it held; harmless if repeated."""
        from lamella.engine.fleet import cleanup_container

        cleanup_container(self._opened, name)

    # ------------------------------------------------------------------------------------------------ registries

    def pull(
        self, name: str, *, platform: str = "", registries: Registries | None = None, report: Reporter = silent
    ) -> PulledImage:
        """Pull the image *name* (``ubuntu``, ``host:5000/a/b:1``, ``a/b@sha256:…``), for *platform* or this machine.

        Layers that the store has under any image are not fetched, and two processes fetch one once.  What a pull that
        failed or was killed had verified is used by the next.  Raises NotFound, PermissionDenied, Unavailable;
        Unsupported for what is no image that can be run from this store.
        """
        from lamella.engine.registries import ANONYMOUS, pull_images

        return pull_images(
            self._opened,
            name,
            all_tags=False,
            platform=platform,
            registries=registries or ANONYMOUS,
            report=report,
        )[0]

    def pull_all_tags(
        self, name: str, *, platform: str = "", registries: Registries | None = None, report: Reporter = silent
    ) -> list[PulledImage]:
        """Pull every tag of the repository *name*, in the registry's order."""
        from lamella.engine.registries import ANONYMOUS, pull_images

        return pull_images(
            self._opened, name, all_tags=True, platform=platform, registries=registries or ANONYMOUS, report=report
        )

    def push(
        self,
        name: str,
        *,
        all_tags: bool = False,
        compression: str = "",
        registries: Registries | None = None,
        report: Reporter = silent,
    ) -> list[PushedImage]:
        """Push the image *name*, or with *all_tags* all of its repository, to where the name says.

        What the registry has, or can mount from another repository, is not sent.  An image that was pulled and not
        changed keeps its digest as long as the registry has its blobs; what must be sent is packed anew as
        *compression* says (``gzip``, ``zstd``, ``none``), by default as it came, else gzip.
        """
        from lamella.engine.registries import ANONYMOUS, push_images

        return push_images(
            self._opened,
            name,
            all_tags=all_tags,
            compression=compression,
            registries=registries or ANONYMOUS,
            report=report,
        )

    def push_index(
        self,
        name: str,
        images: Sequence[str],
        *,
        compression: str = "",
        registries: Registries | None = None,
        report: Reporter = silent,
    ) -> PushedImage:
        """Push *images* of this store, one for each platform, and an index of them under *name*.

        Whoever pulls *name* gets the image for its platform.  The images are pushed by their digests, as ``push`` does.
        """
        from lamella.engine.registries import ANONYMOUS, push_index

        return push_index(
            self._opened, name, images, compression=compression, registries=registries or ANONYMOUS, report=report
        )

    # ------------------------------------------------------------------------------------------------ in and out

    def load(self, source: BinaryIO | Path | str, *, report: Reporter = silent) -> list[Loaded]:
        """Load the images of an archive of ``docker save``, or of an OCI layout (tar or directory), with their tags.

        Layers that the store has are not read again.  An archive that is damaged anywhere changes nothing.
        """
        from lamella.engine.transfer import load_images

        return load_images(self._opened, Path(source) if isinstance(source, str) else source, report)

    def adopt(
        self,
        source: Path | str,
        names: Sequence[str] = (),
        *,
        dry_run: bool = False,
        hard_link: bool = False,
        report: Reporter = silent,
    ) -> Iterator[Adopted]:
        """Bring images and containers over from another engine's store, whose engine may be dead.

        *source* is a root of Docker, Podman, Buildah, CRI-O or containerd, which is only read; *names* are images and
        containers there, by default all, and then its volumes too.  Yields what became of each; one that is damaged is
        refused and the others come in.  *dry_run* changes nothing; *hard_link* makes equal files one in both stores.
        """
        from lamella.engine.adopting import adopt_from

        return adopt_from(self._opened, Path(source), names, dry_run=dry_run, hard_link=hard_link, report=report)

    def save(self, names: Sequence[str], sink: BinaryIO, *, report: Reporter = silent) -> None:
        """Write the images *names* and what they are called as one archive.

        It is an OCI layout with Docker's ``manifest.json``, so docker, podman, skopeo and containerd read it.  An
        image named by its ID goes without tags, one named by a repository with all of the repository's.
        """
        from lamella.engine.transfer import save_images

        save_images(self._opened, names, sink, report)

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
        return import_image(
            self._opened, stream, reference, changes=changes, message=message, platform=platform, report=report
        )

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
        no_cache_filter: Sequence[str] = (),
        jobs: int | None = None,
        secrets: Mapping[str, bytes] | None = None,
        ssh: Mapping[str, Path | str] | None = None,
        limits: RunLimits | None = None,
        outputs: Sequence[str] = (),
        stdout: BinaryIO | None = None,
        squash: bool = False,
        cache_from: Sequence[str] = (),
        cache_to: Sequence[str] = (),
        timestamp: int | None = None,
        pull: bool = False,
        registries: Registries | None = None,
        pull_report: Reporter = silent,
        report: Callable[[BuildEvent], None] | None = None,
    ) -> Image:
        """Build the Dockerfile of *context* and name the image *tags*.

        *context* is a directory, a stream of a tar or a Dockerfile, or a URL of such a file or a git repository.
        *dockerfile* is another file, or the text itself.  *timestamp*, seconds since the epoch, makes the result the
        same each time.  *secrets* and *ssh*, sockets of agents, are what ``RUN --mount`` may ask for by ID; *limits*
        are what commands may use.  *no_cache* takes no step from the cache, *no_cache_filter* none of these stages.
        Stages that do not need one another are built at once, *jobs* of them: 0 is any number, None as many as there
        are processors.  With *registries* base images that are not here are pulled, with *pull* all of them.
        *report* is called, by one thread at a time, with each step and what it prints; ``str()`` of an event is
        Docker's line, and its ``stage`` says what it is about.  An interrupt is raised as Cancelled.

        *outputs* are in buildx's grammar: a directory, ``-`` for a tar on *stdout*, or ``type=oci|docker|tar|local``
        with ``dest=``, ``type=image|registry`` with ``name=`` and ``push=``; the image is in the store in any case.
        *squash* puts one layer in place of all that the build makes on its base.  *cache_to* writes the build's steps
        for other stores, ``type=registry,ref=…``, ``type=local,dest=…`` or ``type=inline``, with ``mode=max`` those of
        all stages; *cache_from* takes steps from there (``src=`` for ``dest=``) or from the image of a name.  A cache
        that cannot be read is a warning among what *report* gets.

        Raises BuildFailed with the exit code of the step that failed, InvalidArgument for a Dockerfile that cannot be
        read, naming the line; before any of it nothing is changed.
        """
        from lamella.engine.builds import build_image, read_context

        return build_image(
            self._opened,
            read_context(context) if isinstance(context, str) else context,
            tags=tags,
            dockerfile=dockerfile,
            build_args=build_args or {},
            labels=labels or {},
            target=target,
            network=network,
            platform=platform,
            no_cache=no_cache,
            no_cache_filter=no_cache_filter,
            jobs=jobs,
            secrets=secrets or {},
            ssh={name: Path(socket) for name, socket in (ssh or {}).items()},
            limits=limits,
            outputs=outputs,
            stdout=stdout,
            squash=squash,
            cache_from=cache_from,
            cache_to=cache_to,
            timestamp=timestamp,
            pull=pull,
            registries=registries,
            pull_report=pull_report,
            report=report,
        )

    def prune_build_cache(self, *, everything: bool = False, filters: Sequence[str] = ()) -> PrunedBuildCache:
        """Remove the directories of ``RUN --mount=type=cache`` that no build uses.

        *everything* removes also the images of steps that no name, container or other image needs.  *filters* are
        ``until`` (not used since) and ``id``.
        """
        from lamella.engine.buildcache import prune_build_cache

        return prune_build_cache(self._opened, everything=everything, filters=filters)

    def ledger(self, *, recount: bool = False) -> Ledger:
        """Account for every block of the store on the disk; the sum is what ``du`` finds.

        Layers are measured once and remembered; *recount* measures all anew.
        """
        from lamella.engine.ledger import read_ledger

        return read_ledger(self.root, recount=recount, state=self.state)

    def collect_garbage(self, policy: Policy) -> tuple[Plan, Iterator[Done]]:
        """Plan the removal of what *policy* lets go, and carry it out as the second result is iterated.

        Each step is checked again under the store's lock; what changed meanwhile is left out, and `skipped` says why.
        """
        from lamella.engine.ledger import collect_garbage

        return collect_garbage(self._opened, policy)

    def pin(self, *names: str) -> list[str]:
        """Keep garbage collection off these images, by name or ID, and return all pins.  Raises NotFound."""
        from lamella.engine.ledger import pin_images

        return pin_images(self._opened, names)

    def unpin(self, *names: str) -> list[str]:
        """Take pins away and return those that are left.  Raises NotFound for what is not pinned."""
        from lamella.engine.ledger import unpin_images

        return unpin_images(self._opened, names)

    def info(self) -> dict[str, object]:
        """Count what is in the store and name what is wrong with it or with this machine."""
        from lamella.engine.machine import describe_store

        return describe_store(self._opened)

"""Registries as the library offers them: images pulled, pushed and copied, credentials kept.

What a registry says over HTTP is for ``transports.registry``, what a pull and a push do with it for ``transports``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from lamella.engine.images import Image, get_image
from lamella.errors import DataLoss, InvalidArgument, NotFound, PermissionDenied, Unauthorized, Unsupported
from lamella.model.progress import Reporter, silent
from lamella.model.reference import DEFAULT_DOMAIN, Reference, parse_reference, parse_tagged
from lamella.transports.registry.settings import RegistrySettings

if TYPE_CHECKING:
    from lamella.changeset.compression import Compression
    from lamella.engine.opened import Opened
    from lamella.model.platform import Platform
    from lamella.store.imagestore import ImageStore
    from lamella.transports.registry.client import RegistryClient
    from lamella.transports.registry.keychain import Keychain

__all__ = ["Registries", "RegistrySettings"]


class Registries(NamedTuple):
    """How registries are reached, and the files in which credentials for them are looked for, in order.

    The files are Docker's ``config.json`` and containers' ``auth.json``, with the credential helpers that they name;
    the first is the one that ``login`` writes.  Without any, every registry is asked anonymously.
    """

    settings: RegistrySettings = RegistrySettings()
    auth_files: tuple[Path, ...] = ()
    environment: Mapping[str, str] = MappingProxyType({})
    """What credential helpers are given, ``PATH`` and ``HOME`` above all."""

    def keychain(self) -> Keychain:
        """Read the credentials' files."""
        from lamella.transports.registry.keychain import Keychain

        return Keychain.from_files(self.auth_files, environment=self.environment)


ANONYMOUS = Registries()
MIRRORED = (DataLoss, InvalidArgument, NotFound, Unsupported)
"""What a mirror that serves nonsense leads to: the registry itself has the last word on it."""


class PulledImage(NamedTuple):
    """An image that was pulled, the name it was pulled by, the digest it was served under."""

    image: Image
    reference: str
    digest: str
    fresh: bool
    """Whether anything changed."""

    @property
    def full_reference(self) -> str:
        """The name in full, with its registry."""
        return str(parse_reference(self.reference))


class PushedImage(NamedTuple):
    """An image that was pushed: the name, and the digest and size of its manifest there."""

    reference: str
    digest: str
    size: int


class CopiedImage(NamedTuple):
    """What a copy was of: the digest and media type of its manifest or index."""

    digest: str
    media_type: str


@contextlib.contextmanager
def connected(reference: Reference, registries: Registries, *, actions: str = "pull") -> Iterator[RegistryClient]:
    """Hold a client for one repository."""
    from lamella.transports.registry.client import RegistryClient

    client = RegistryClient(reference, settings=registries.settings, keychain=registries.keychain(), actions=actions)
    try:
        yield client
    finally:
        client.close()


def chosen_platform(text: str) -> Platform | None:
    """Parse a platform that may have been left open."""
    from lamella.model.platform import parse_platform

    return parse_platform(text) if text else None


def pull_images(
    opened: Opened, name: str, *, all_tags: bool, platform: str, registries: Registries, report: Reporter
) -> list[PulledImage]:
    """Pull one image, or all tags of a repository; see ``Store.pull``."""
    from lamella.transports.pulling import pull

    reference = parse_reference(name)
    if all_tags and (reference.tag is not None or reference.digest is not None):
        raise InvalidArgument("tag can't be used with --all-tags/-a")
    wanted = chosen_platform(platform)
    with connected(reference, registries) as client:
        names = [reference.with_tag(tag) for tag in client.list_tags()] if all_tags else [parse_tagged(name)]
        found = []
        for each in names:
            attempt = partial(
                pull,
                opened.parts,
                client,
                each,
                platform=wanted,
                parallel=registries.settings.max_parallel,
                report=report,
            )
            try:
                pulled = attempt()
            except MIRRORED as error:
                if not client.drop_mirrors():
                    raise
                opened.parts.root.report(f"the mirrors of {each.domain} are left out: {error}")
                pulled = attempt()
            found.append(PulledImage(get_image(opened, pulled.id), each.familiar(), pulled.digest, fresh=pulled.fresh))
    return found


def push_reference(name: str, *, all_tags: bool = False) -> Reference:
    """Parse a name to push to.  Raises InvalidArgument if nothing can be pushed there."""
    from lamella.transports.pushing import check_pushed

    reference = parse_reference(name)
    check_pushed(reference, all_tags=all_tags)
    return reference


def push_images(
    opened: Opened, name: str, *, all_tags: bool, compression: str, registries: Registries, report: Reporter
) -> list[PushedImage]:
    """Push one image, or all tags of a repository; see ``Store.push``."""
    from lamella.transports.pushing import find_pushed, push

    reference = parse_reference(name)
    chosen = find_pushed(opened.parts, reference, all_tags=all_tags)
    with connected(reference, registries, actions="pull,push") as client:
        found = []
        for tagged, image in chosen:
            pushed = push(
                opened.parts,
                client,
                tagged,
                image,
                compression=parse_compression(compression),
                credentials=credentials_of(reference, registries),
                parallel=registries.settings.max_parallel,
                report=report,
            )
            found.append(PushedImage(tagged.familiar(), pushed.digest, pushed.size))
    return found


def push_index(
    opened: Opened, name: str, images: Sequence[str], *, compression: str, registries: Registries, report: Reporter
) -> PushedImage:
    """Push an index of several images; see ``Store.push_index``."""
    from lamella.transports.pushing import push_index as push

    push_reference(name)
    reference = parse_tagged(name)
    if not images:
        raise InvalidArgument("an index needs at least one image")
    chosen = [opened.parts.resolve(image) for image in images]
    with connected(reference, registries, actions="pull,push") as client:
        pushed = push(
            opened.parts,
            client,
            reference,
            chosen,
            compression=parse_compression(compression),
            credentials=credentials_of(reference, registries),
            parallel=registries.settings.max_parallel,
            report=report,
        )
    return PushedImage(reference.familiar(), pushed.digest, pushed.size)


def parse_compression(text: str) -> Compression | None:
    """Parse the name of a compression that lamella writes; None for no choice."""
    from lamella.changeset.compression import Compression

    if not text:
        return None
    if text not in {"gzip", "zstd", "none"}:
        raise InvalidArgument(f"invalid compression {text!r:.40}: choose gzip, zstd or none")
    return Compression(text)


def credentials_of(reference: Reference, registries: Registries) -> dict[str, str]:
    """Return what a registry knows us by, as the fields that Docker signs its notes on pushed blobs with."""
    found = registries.keychain().find(reference.domain, reference.path)
    if found is None:
        return {}
    fields = {
        "username": found.username,
        "password": found.password,
        "identitytoken": found.identity_token,
        "registrytoken": found.registry_token,
    }
    return {key: value for key, value in fields.items() if value}


def login(registry: str, username: str, password: str, registries: Registries) -> Path | None:
    """Try credentials on a registry and keep them if it takes them; return the file that now holds the secret.

    Raises PermissionDenied if the registry refuses them.
    """
    from lamella.transports.registry.client import RegistryClient
    from lamella.transports.registry.keychain import Credentials, Keychain

    host = registry_host(registry)
    credentials = Credentials(username, password)
    client = RegistryClient(
        Reference(host, "library/login"), settings=registries.settings, keychain=Keychain.of(host, credentials)
    )
    try:
        client.ping()
    except Unauthorized as error:
        reason = str(error).partition("; run: lamella login")[0]
        raise PermissionDenied(f"login attempt to {host} failed, unauthorized: {reason}") from error
    finally:
        client.close()
    return registries.keychain().store(host, credentials)


def logout(registry: str, registries: Registries) -> bool:
    """Forget the credentials for a registry; tell whether there were any."""
    return registries.keychain().erase(registry_host(registry))


def registry_host(text: str) -> str:
    """Return the host of a registry as ``login`` takes it: a name, a URL, or nothing for Docker Hub."""
    bare = text.removeprefix("https://").removeprefix("http://")
    host = bare.partition("/")[0]
    if host in {"", "docker.io", "index.docker.io", "registry-1.docker.io"}:
        return DEFAULT_DOMAIN
    return parse_reference(f"{host}/x").domain if host == "localhost" or "." in host or ":" in host else host


def copy_images(
    source: str,
    destination: str,
    *,
    store: Callable[[], ImageStore] | None,
    everything: bool,
    platform: str,
    compression: str,
    preserve: bool,
    registries: Registries,
    report: Reporter,
) -> CopiedImage:
    """Copy an image from one transport to another; see :func:`copy_image`."""
    from lamella.transports.copying import Copied, copy, parse_place

    def attempt(registries: Registries) -> Copied:
        return copy(
            source,
            destination,
            connect=lambda reference, actions: connected(reference, registries, actions=actions),
            store=store,
            everything=everything,
            platform=chosen_platform(platform),
            compression=parse_compression(compression),
            preserve=preserve,
            parallel=registries.settings.max_parallel,
            report=report,
        )

    try:
        copied = attempt(registries)
    except MIRRORED:
        origin = parse_place(source)
        if not registries.settings.mirrors or origin.transport != "docker" or origin.reference.domain != DEFAULT_DOMAIN:
            raise
        copied = attempt(registries._replace(settings=registries.settings._replace(mirrors=())))
    return CopiedImage(copied.digest, copied.media_type)


def copy_image(
    source: str,
    destination: str,
    *,
    root: Path | str | None = None,
    everything: bool = False,
    platform: str = "",
    compression: str = "",
    preserve: bool = False,
    registries: Registries = ANONYMOUS,
    report: Reporter = silent,
) -> CopiedImage:
    """Copy an image, packed as it is, between ``docker://``, ``oci:``, ``oci-archive:``, ``docker-archive:``, ``dir:``.

    A name without a transport is an image of the store at *root*.  *everything* copies an index with all its images,
    else one image is chosen, for *platform* or this machine.  Documents and blobs go over bit for bit wherever the
    destination can hold them; *preserve* keeps Docker's documents, and the digest, in an OCI layout too.
    """

    def opened() -> ImageStore:
        from lamella.store.imagestore import ImageStore

        return ImageStore.open(Path(root or ""))

    return copy_images(
        source,
        destination,
        store=None if root is None else opened,
        everything=everything,
        platform=platform,
        compression=compression,
        preserve=preserve,
        registries=registries,
        report=report,
    )

"""``cp`` between a container and the host: Docker's rules of what goes where, and the stream between.

The rules are the same both ways: a source that is a directory goes *into* a directory that exists unless it ends in
``/.``, and becomes one that does not; a file goes into a directory, or becomes or replaces a file.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, NamedTuple

from lamella.changeset.tario import open_tar
from lamella.container.packing import find_status, follow_last, write_archive
from lamella.container.roots import opened_container
from lamella.container.site import Site
from lamella.container.unpacking import Policy, extract_archive
from lamella.errors import Conflict, InvalidArgument, NotFound
from lamella.fs.rooted import Root
from lamella.model.ids import ContainerID
from lamella.store.pipes import reading_from

_BLOCK = 1 << 18


class _Target(NamedTuple):
    """Where a copy goes: the directory it is unpacked in, and the name it gets there; empty for a bare content."""

    base: bytes
    name: bytes
    contents: bool = False


def copy_out(
    site: Site, container: ContainerID, source: str, target: Path, *, archive: bool = False, follow: bool = False
) -> None:
    """Copy *source* of a container to *target* on the host.

    The files become the caller's, without set-id bits and device nodes; *archive* keeps all of that.  *follow* copies
    what a link *source* leads to.
    """
    record = site.store.containers.get(container)
    with opened_container(site, record) as root:
        path, is_directory = _find_source(root, _encode(source), follow=follow, what=f"{record.name}:{source}")
        # The host's own directories are the user's word: links in them are followed as in any other command.
        text = os.fsencode(target)
        goal = _plan(
            source=_encode(source),
            resolved=path,
            source_is_directory=is_directory,
            target=text,
            look=_host_status,
            what=os.fspath(target),
        )
        policy = Policy(owner=(os.geteuid(), os.getegid()), keep_owner=archive, devices=archive)
        with Root(Path(os.fsdecode(goal.base or b"/")), follow=True) as directory:
            _transfer(root, path, directory, b"", goal, policy)


def copy_in(
    site: Site, container: ContainerID, source: Path, target: str, *, archive: bool = False, follow: bool = False
) -> None:
    """Copy *source* of the host to *target* in a container; files become root's there unless *archive* is given."""
    record = site.store.containers.get(container)
    text = os.fsencode(source)
    trailing = _ends_in_directory(text)
    try:
        status = os.stat(text) if follow or trailing else os.lstat(text)
    except FileNotFoundError:
        raise NotFound(f"lstat {source}: no such file or directory") from None
    real = os.path.realpath(text) if follow or trailing else _real_parent(text)
    is_directory = stat.S_ISDIR(status.st_mode)
    with opened_container(site, record) as root, Root(Path("/")) as host:
        goal = _plan(
            source=text,
            resolved=real,
            source_is_directory=is_directory,
            target=_encode(target),
            look=lambda place: _container_status(root, place),
            what=f"{record.name}:{target}",
            resolve=lambda place: follow_last(root, place),
        )
        policy = Policy(owner=(0, 0), keep_owner=archive, devices=True)
        _transfer(host, real, root, goal.base, goal, policy)


def copy_out_tar(site: Site, container: ContainerID, source: str, sink: BinaryIO, *, follow: bool = False) -> None:
    """Write *source* of a container as a tar whose members begin with its last name."""
    record = site.store.containers.get(container)
    with opened_container(site, record) as root:
        path, _ = _find_source(root, _encode(source), follow=follow, what=f"{record.name}:{source}")
        name = b"." if _is_contents(_encode(source)) else os.path.basename(path.rstrip(b"/")) or b"."
        write_archive(root, path, name, sink)


def copy_in_tar(site: Site, container: ContainerID, stream: BinaryIO, target: str) -> None:
    """Unpack the tar *stream*, compressed or not, into the directory *target* of a container, owners kept."""
    from lamella.changeset.compression import open_decompressed

    record = site.store.containers.get(container)
    place = _encode(target)
    plain = open_decompressed(stream)
    with opened_container(site, record) as root:
        status = _container_status(root, place)
        if status is None:
            raise NotFound(f"Could not find the file {target} in container {record.name}")
        if not stat.S_ISDIR(status.st_mode):
            raise InvalidArgument(f"destination {record.name}:{target} must be a directory to extract a tar into")
        policy = Policy(owner=(0, 0), keep_owner=True, devices=True)
        extract_archive(open_tar(lambda: plain.read(_BLOCK)), root, place, policy, keep_top=True)


def _transfer(source: Root, path: bytes, target: Root, base: bytes, goal: _Target, policy: Policy) -> None:
    with reading_from(lambda sink: write_archive(source, path, goal.name, sink, contents=goal.contents)) as stream:
        extract_archive(open_tar(lambda: stream.read(_BLOCK)), target, base, policy)


def _plan(
    *,
    source: bytes,
    resolved: bytes,
    source_is_directory: bool,
    target: bytes,
    look: Callable[[bytes], os.stat_result | None],
    what: str,
    resolve: Callable[[bytes], bytes] | None = None,
) -> _Target:
    """Decide where a copy goes; *look* tells what a place of the destination's side is, links followed."""
    status = look(target)
    # A link that was followed gives its own name to the copy.
    own_name = os.path.basename(source.rstrip(b"/").removesuffix(b"/.").rstrip(b"/"))
    if own_name in (b"", b".", b".."):
        own_name = os.path.basename(resolved.rstrip(b"/")) or b"."
    if status is not None and stat.S_ISDIR(status.st_mode):
        if source_is_directory and _is_contents(source):
            return _Target(target, b"", contents=True)
        # The source's own root has no name to be put under: its content is what can be copied.
        return _Target(target, b"", contents=True) if own_name == b"." else _Target(target, own_name)
    if status is not None:
        if source_is_directory:
            raise Conflict(f"cannot copy a directory to the file {what}")
        if _ends_in_directory(target):
            raise InvalidArgument(f"{what} is not a directory")
        place = resolve(target) if resolve is not None else os.path.realpath(target)
        return _Target(*_split(place))
    if not source_is_directory and _ends_in_directory(target):
        raise NotFound(f"destination directory {what} does not exist")
    base, name = _split(target.rstrip(b"/").removesuffix(b"/.") or target)
    above = look(base)
    if above is None or not stat.S_ISDIR(above.st_mode):
        raise NotFound(f"the directory in which {what} would be made does not exist")
    return _Target(base, name)


def _find_source(root: Root, path: bytes, *, follow: bool, what: str) -> tuple[bytes, bool]:
    """Return where a source of the container is, and whether it is a directory."""
    trailing = _ends_in_directory(path)
    if follow or trailing:
        path = follow_last(root, path.rstrip(b"/").removesuffix(b"/.").rstrip(b"/") or b"/")
    status = find_status(root, path, follow=False)
    if status is None:
        raise NotFound(f"Could not find the file {what.partition(':')[2]} in container {what.partition(':')[0]}")
    is_directory = stat.S_ISDIR(status.st_mode)
    if trailing and not is_directory:
        raise InvalidArgument(f"{what} is not a directory")
    return path, is_directory


def _ends_in_directory(path: bytes) -> bool:
    return path.endswith((b"/", b"/.")) or path == b"."


def _is_contents(path: bytes) -> bool:
    return path.endswith(b"/.") or path == b"."


def _split(path: bytes) -> tuple[bytes, bytes]:
    base, _, name = path.rstrip(b"/").rpartition(b"/")
    if name in (b"", b".", b".."):
        raise InvalidArgument(f"{os.fsdecode(path)} names no file")
    return base or (b"/" if path.startswith(b"/") else b"."), name


def _real_parent(path: bytes) -> bytes:
    """Resolve all of a host path but its last name, which may be a link to be copied as one."""
    head, tail = os.path.split(path.rstrip(b"/") or b"/")
    return os.path.join(os.path.realpath(head or b"."), tail) if tail not in (b"", b"..") else os.path.realpath(path)


def _host_status(path: bytes) -> os.stat_result | None:
    try:
        return os.stat(path or b".")
    except (FileNotFoundError, NotADirectoryError):
        return None


def _container_status(root: Root, path: bytes) -> os.stat_result | None:
    return find_status(root, path or b"/", follow=True)


def _encode(path: str) -> bytes:
    if "\0" in path:
        raise InvalidArgument("a path cannot hold a null byte")
    raw = path.encode("utf-8", "surrogateescape")
    return raw if raw.startswith(b"/") else b"/" + raw

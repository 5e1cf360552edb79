"""Fetching a damaged or missing layer again: laid beside, verified, and put in its place by one step.

The directory of files changes places with the new one while everything else stays: the cache ID, the short name, and so
the ``lower`` of all that stands on it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from lamella.errors import LamellaError, Unavailable
from lamella.fs.atomic import fsync_dir, sync_filesystem, write_file
from lamella.insight.checks.directories import Stacks
from lamella.insight.findings import Finding
from lamella.insight.mending.base import Bench, Hopeless, Plan
from lamella.insight.mending.records import identify, new_write_set, publish_record
from lamella.insight.quarantine import MAKING, Entry, inode_of
from lamella.insight.sources import SILENT, BlobPlace
from lamella.insight.survey import Survey
from lamella.linux import libc
from lamella.model.digest import ChainID, DiffID, Digest, ImageID
from lamella.model.ids import CacheID, is_link_id, new_cache_id, new_link_id
from lamella.store.layerdb import TAR_SPLIT, find_cache_id

if TYPE_CHECKING:
    from lamella.changeset.apply import Applied

Locked = Callable[[], contextlib.AbstractContextManager[None]]


def refetch(bench: Bench, finding: Finding, locked: Locked, chain: ChainID) -> Plan:
    """Plan to fetch a layer again."""
    survey = bench.survey
    if survey.driver != "overlay2":
        raise Hopeless("layers of the vfs driver cannot be fetched one by one; remove the image and pull it again")
    layer = survey.layers.get(chain)
    parent, diff = identify(survey, layer) if layer is not None else survey.identities.get(chain) or (None, None)
    if diff is None:
        raise Hopeless("nothing says what the layer is")
    if bench.sources.connect is None:
        raise Hopeless("no registry may be asked")
    problems: list[str] = []
    first = next(bench.sources.of_layer(chain, diff, problems), None)
    if first is None and bench.sources.silent:
        raise Unavailable(problems[0])
    if first is None:
        raise Hopeless(problems[0] if problems else "nothing tells where it came from")

    def act() -> None:
        _fetch(bench, finding, locked, chain, parent, diff)

    text = f"fetch layer {chain[7:19]} again from {first.reference.familiar_name()}, verify it and swap it in"
    return Plan(text, act, slow=True)


def _fetch(
    bench: Bench, finding: Finding, locked: Locked, chain: ChainID, parent: ChainID | None, diff: DiffID
) -> None:
    survey = bench.survey
    target = _target(survey, chain)
    files = survey.home / target / "diff"
    with locked():
        entry = bench.quarantine.begin(finding.code, finding.text, [files], run=bench.run)
        write_file(entry.path / MAKING, b"")
    fresh = entry.path / "0"
    record = entry.path / TAR_SPLIT
    try:
        applied = _download(bench, chain, diff, fresh, record)
    except BaseException:
        with locked():
            bench.quarantine.remove(entry)
        raise
    write_file(entry.path / MAKING, inode_of(fresh))
    sync_filesystem(entry.path)
    with locked():
        if not _is_as_before(survey, chain):
            bench.quarantine.remove(entry)
            raise Hopeless("it was removed or stored anew meanwhile")
        _swap(bench, finding, entry, target, chain)
        _record(bench, entry, chain, parent, diff, target, applied.size)
        (entry.path / TAR_SPLIT).unlink(missing_ok=True)
        (entry.path / MAKING).unlink(missing_ok=True)
        bench.quarantine.rest(entry)


def _is_as_before(survey: Survey, chain: ChainID) -> bool:
    """Tell whether a layer's record is still the one that was looked at, or still not there."""
    layer = survey.layers.get(chain)
    record = survey.records / chain[7:]
    if layer is None:
        return not os.path.lexists(record)
    return os.path.lexists(record) and find_cache_id(record) == layer.cache_id


def _download(bench: Bench, chain: ChainID, diff: DiffID, fresh: Path, record: Path) -> Applied:
    """Unpack the layer from the first place that gives it."""
    from lamella.changeset.apply import apply_layer
    from lamella.fs.tree import remove_tree
    from lamella.store.pipes import reading_from

    problems: list[str] = []
    silent = False
    for place in bench.sources.of_layer(chain, diff, problems):
        remove_tree(fresh)
        os.mkdir(fresh, 0o755)
        os.chmod(fresh, 0o755)
        try:
            with _opened(bench, place) as write, reading_from(write) as stream, record.open("wb") as tar_split:
                os.fchmod(tar_split.fileno(), 0o644)
                applied = apply_layer(stream, fresh, tar_split=tar_split, expected=diff)
                tar_split.flush()
        except LamellaError as error:
            problems.append(str(error))
            silent = silent or isinstance(error, SILENT)
            continue
        os.chown(fresh, 0, 0)
        os.chmod(fresh, 0o755)
        return applied
    if silent or bench.sources.silent:
        raise Unavailable("; ".join(dict.fromkeys(problems)))
    raise Hopeless("; ".join(dict.fromkeys(problems)) or "nothing tells where it came from")


@contextlib.contextmanager
def _opened(bench: Bench, place: BlobPlace) -> Iterator[Callable[..., object]]:
    """Open a place as a function that writes the blob to a stream."""
    assert bench.sources.connect is not None  # noqa: S101 - planned only where there is one
    with bench.sources.connect(place.reference) as registry:
        size = place.size if place.size is not None else registry.has_blob(place.digest)
        if size is None:
            raise Hopeless(f"{place.reference.familiar_name()} does not have it any more")
        yield lambda sink: registry.read_blob(place.digest, size=size, sink=sink.write)


def _target(survey: Survey, chain: ChainID) -> CacheID:
    """Return the directory that a layer's files are to be in: the one it has, or is known by to what stands on it."""
    layer = survey.layers.get(chain)
    if layer is not None and layer.cache_id is not None and layer.cache_id not in survey.claimed_twice:
        return layer.cache_id
    for child, (below, _) in survey.identities.items():
        directory = survey.directory_of(child)
        if below == chain and directory is not None and directory.lower:
            known = survey.resolve(directory.lower[0])
            if known is not None and known not in survey.named:
                return known
    return new_cache_id()


def _swap(bench: Bench, finding: Finding, entry: Entry, target: CacheID, chain: ChainID) -> None:
    """Put the fresh files in place of the old ones, which are then the quarantine's."""
    home = bench.survey.home / target
    fresh = entry.path / "0"
    if not home.is_dir() or home.is_symlink():
        bench.aside_if_there(finding, home)
        _place_directory(bench, entry, target, chain)
    elif not os.path.lexists(home / "diff"):
        os.rename(fresh, home / "diff")
        fsync_dir(home)
    else:
        try:
            libc.exchange(os.fspath(fresh), os.fspath(home / "diff"))
        except OSError:  # a file system without it: a moment without files is better than damaged ones for ever
            os.rename(home / "diff", entry.path / "old")
            os.rename(fresh, home / "diff")
            os.rename(entry.path / "old", fresh)
        fsync_dir(home)
        fsync_dir(entry.path)


def _place_directory(bench: Bench, entry: Entry, target: CacheID, chain: ChainID) -> None:
    """Make the whole directory aside and put it in place by one rename."""
    stacks = Stacks(bench.survey)
    said = {link for link in stacks.links_to(target) if is_link_id(link)} or _said(bench, chain)
    link = next(iter(said)) if len(said) == 1 else new_link_id()
    draft = entry.path / "directory"
    os.mkdir(draft, 0o710)
    os.chmod(draft, 0o710)
    os.rename(entry.path / "0", draft / "diff")
    write_file(draft / "link", link.encode(), mode=0o644, sync=False)
    write_file(draft / "committed", b"", mode=0o600, sync=False)
    if bench.survey.identities[chain][0] is not None:
        os.mkdir(draft / "work", 0o700)
    lower = _lower(bench, stacks, chain)
    if lower:
        write_file(draft / "lower", ":".join(lower).encode(), mode=0o644, sync=False)
    sync_filesystem(draft)
    home = bench.survey.home
    if not home.is_dir():
        bench.make_directory(home, 0o710)
    if not (home / "l").is_dir():
        bench.make_directory(home / "l", 0o700)
    if not os.path.lexists(home / "l" / link):
        os.symlink(f"../{target}/diff", home / "l" / link)
    os.rename(draft, home / target)
    fsync_dir(home)


def _said(bench: Bench, chain: ChainID) -> set[str]:
    """Return the short names by which the layers above know a layer."""
    survey = bench.survey
    found = set()
    for child, (below, _) in survey.identities.items():
        directory = survey.directory_of(child)
        if below == chain and directory is not None and directory.lower:
            found.add(directory.lower[0].removeprefix("l/"))
    for mount in survey.mounts.values():
        name = mount.init_id or mount.mount_id
        directory = survey.directories.get(name) if name is not None else None
        if mount.parent == chain and directory is not None and directory.lower:
            found.add(directory.lower[0].removeprefix("l/"))
    return {link for link in found if is_link_id(link) and link not in survey.short_names}


def _lower(bench: Bench, stacks: Stacks, chain: ChainID) -> list[str]:
    """Return what the directory of a layer stands on, as far as it is known; the check tells what is not."""
    parent = bench.survey.identities[chain][0]
    below = bench.survey.directory_of(parent) if parent is not None else None
    if below is None:
        return []
    link, rest = stacks.true_link(below.name), stacks.lower_of(below.name)
    return [f"l/{link}", *rest] if link is not None and rest is not None else []


def _record(
    bench: Bench, entry: Entry, chain: ChainID, parent: ChainID | None, diff: DiffID, target: CacheID, size: int
) -> None:
    path = bench.survey.records / chain[7:]
    raw = (entry.path / TAR_SPLIT).read_bytes()
    if not os.path.lexists(path):
        draft = new_write_set(bench.survey)
        write_file(draft / TAR_SPLIT, raw, mode=0o644, sync=False)
        publish_record(bench.survey, draft, chain, parent, diff, target, size)
        return
    write_file(path / TAR_SPLIT, raw, mode=0o644)
    for name, text in (("size", str(size)), ("diff", diff), ("cache-id", target)):
        write_file(path / name, text.encode(), mode=0o644)
    if parent is not None:
        write_file(path / "parent", parent.encode(), mode=0o644)


def refetch_config(bench: Bench, finding: Finding) -> Plan:
    """Plan to fetch an image's config again; it is small, and its digest is the image's ID."""
    from lamella.model.documents import CONFIG_LIMIT
    from lamella.transports.manifests import Descriptor
    from lamella.transports.resolving import fetch_small

    image = ImageID(Digest(finding.subject[0]))
    connect = bench.sources.connect
    places = list(bench.sources.of_config(image))
    if connect is None or not places:
        raise Hopeless("nothing tells where it came from" if connect is not None else "no registry may be asked")

    def act() -> None:
        problems: list[str] = []
        silent = False
        for place in places:
            try:
                with connect(place.reference) as registry:
                    size = registry.has_blob(place.digest)
                    if size is None:
                        problems.append(f"{place.reference.familiar_name()} does not have it any more")
                        continue
                    raw = fetch_small(registry, Descriptor("", place.digest, size), CONFIG_LIMIT, "config")
            except LamellaError as error:
                problems.append(str(error))
                silent = silent or (isinstance(error, SILENT) and place.reference.digest is not None)
                continue
            bench.supersede(finding, bench.survey.images[image].path, raw, 0o600)
            return
        if silent:
            raise Unavailable("; ".join(dict.fromkeys(problems)))
        raise Hopeless("; ".join(dict.fromkeys(problems)))

    return Plan(f"fetch the config of image {image[7:19]} again from {places[0].reference.familiar_name()}", act)

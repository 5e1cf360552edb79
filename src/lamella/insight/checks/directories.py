"""Layer directories of the overlay2 driver: short names, what each layer stands on, and its marks.

Which short name a directory goes by is told by three places: its ``link`` file, the link in ``l/``, and the ``lower``
of what stands on it.  Where they disagree, the one that is alone is wrong.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from lamella.insight.findings import Finding
from lamella.insight.survey import RawDirectory, RawMount, Survey
from lamella.model.digest import ChainID
from lamella.model.ids import CacheID, is_cache_id, is_link_id
from lamella.store.smallfiles import list_names

FILES = frozenset({"diff", "link", "lower", "work", "merged", "committed"})
_PROBES = ("check-overlayfs-support", "metacopy-check", "opaque-bug-check", "userxattr-check", "backingFsBlockDev",
           "lamella-overlay-trial-")  # fmt: skip


def init_of(survey: Survey, mount: RawMount) -> CacheID | None:
    """Return the init layer of a container, also where its record forgot it."""
    if mount.init_id is not None or mount.mount_id is None:
        return mount.init_id
    init = CacheID(f"{mount.mount_id}-init")
    return init if init in survey.directories else None


def true_parent(survey: Survey, mount: RawMount) -> tuple[ChainID | None, bool]:
    """Return the image layer that a container stands on, and whether that is certain.

    Its record, its directories and its image tell; two of them outvote the third.
    """
    name = init_of(survey, mount) or mount.mount_id
    directory = survey.directories.get(name) if name is not None else None
    below = survey.resolve(directory.lower[0]) if directory is not None and directory.lower else None
    stands_on = survey.by_directory.get(below) if below is not None else None
    container = survey.containers.get(mount.owner)
    image = container.text("Image") if container is not None else ""
    chains = next((chains for known, chains in survey.image_chains.items() if known == image), None)
    noted = None if any(fault.file == "parent" for fault in mount.faults) else mount.parent
    if chains and chains[-1] in {noted, stands_on}:
        return chains[-1], True
    if noted == stands_on:
        return noted, noted is not None or directory is None or not directory.lower
    if stands_on is None and noted is not None:
        return noted, noted in survey.layers
    return stands_on, stands_on is not None and noted not in survey.layers


class Stacks:
    """What each directory should go by and stand on, by everything that tells."""

    def __init__(self, survey: Survey) -> None:
        self._survey = survey
        self._links_to: dict[CacheID, list[str]] = {}
        for link, name in survey.short_names.items():
            self._links_to.setdefault(name, []).append(link)
        self._said_above: dict[CacheID, set[str]] = {}
        self._collect_from_above()

    def _collect_from_above(self) -> None:
        for chain, children in self._survey.children.items():
            below = self._survey.directory_of(chain)
            for child in children:
                self._hear(below, self._survey.directory_of(child))
        for mount in self._survey.mounts.values():
            top = self._survey.directories.get(mount.mount_id) if mount.mount_id is not None else None
            below = self._survey.directory_of(mount.parent) if mount.parent is not None else None
            if mount.init_id is not None:
                init = self._survey.directories.get(mount.init_id)
                self._hear(init, top)
                top = init
            self._hear(below, top)

    def _hear(self, below: RawDirectory | None, above: RawDirectory | None) -> None:
        if below is not None and above is not None and above.lower:
            entry = above.lower[0]
            if entry.startswith("l/") and is_link_id(entry[2:]):
                self._said_above.setdefault(below.name, set()).add(entry[2:])

    def links_to(self, name: CacheID) -> list[str]:
        """Return the short names that lead to a directory."""
        return self._links_to.get(name, [])

    def said_above(self, name: CacheID) -> set[str]:
        """Return the short names by which those that stand on a directory know it."""
        return self._said_above.get(name, set())

    def true_link(self, name: CacheID) -> str | None:
        """Return the short name that a directory goes by, None if that is not certain."""
        directory = self._survey.directories.get(name)
        own = directory.link if directory is not None else None
        own = own if own is not None and is_link_id(own) else None
        leading = self.links_to(name)
        above = self.said_above(name)
        if own is not None and own in leading:
            return own
        for candidates in ([link for link in leading if link in above], leading):
            if len(candidates) == 1:
                return candidates[0]
        if own is not None and self._survey.short_names.get(own, name) == name and (not above or own in above):
            return own
        free = [link for link in above if self._survey.short_names.get(link, name) == name]
        if len(free) == 1:
            return free[0]
        if (
            own is not None
            and self._survey.short_names.get(own, name) == name
            and self._survey.by_link.get(own) == name
        ):
            return own
        return None

    def below(self, name: CacheID) -> tuple[CacheID | None, bool]:
        """Return the directory that a layer directory should stand on, and whether that is known."""
        survey = self._survey
        chain = survey.by_directory.get(name)
        if chain is not None:
            if chain not in survey.identities:
                return None, False
            return self._of_chain(survey.identities[chain][0])
        for mount in survey.mounts.values():
            init = init_of(survey, mount)
            if name == mount.mount_id and init is not None:
                return init, True
            if name in {mount.mount_id, init}:
                parent, known = true_parent(survey, mount)
                return self._of_chain(parent) if known else (None, False)
        return None, False

    def _of_chain(self, chain: ChainID | None) -> tuple[CacheID | None, bool]:
        if chain is None:
            return None, True
        layer = self._survey.layers.get(chain)
        if layer is None or layer.cache_id is None or layer.cache_id in self._survey.claimed_twice:
            return None, False
        return layer.cache_id, True

    def lower_of(self, name: CacheID) -> tuple[str, ...] | None:
        """Return the entries that a directory's ``lower`` should hold, none for a bottom layer; None if unknown."""
        entries: list[str] = []
        current, known = self.below(name)
        while known and current is not None:
            link = self.true_link(current)
            if link is None or len(entries) > 256:
                return None
            entries.append(f"l/{link}")
            current, known = self.below(current)
        return tuple(entries) if known else None


def check_links(survey: Survey) -> Iterator[Finding]:
    """Check that each directory in use has a short name that leads to it."""
    stacks = Stacks(survey)
    for directory in _in_use(survey):
        true = stacks.true_link(directory.name)
        path = directory.path / "link"
        if directory.link is None or not is_link_id(directory.link):
            what = "is missing" if directory.link is None else f"holds {directory.link[:64]!r}"
            text = f"the link file of layer directory {directory.name[:12]} {what}"
            yield Finding("link-damaged", str(path), text, (directory.name,))
        elif true is not None and true != directory.link:
            text = f"layer directory {directory.name[:12]} says it goes by {directory.link}, but it goes by {true}"
            yield Finding("link-damaged", str(path), text, (directory.name,))
        link = true or directory.link
        if link is not None and is_link_id(link) and survey.short_names.get(link) != directory.name:
            place = survey.home / "l" / link
            text = f"the short name {link} of layer directory {directory.name[:12]} does not lead to it"
            yield Finding("short-name-missing", str(place), text, (directory.name, link))


def check_lowers(survey: Survey) -> Iterator[Finding]:
    """Check that each directory in use stands on those that the records say, all the way down."""
    stacks = Stacks(survey)
    for directory in _in_use(survey):
        wanted = stacks.lower_of(directory.name)
        actual = directory.lower or ()
        if wanted is None or wanted == actual:
            continue
        if directory.lower is not None and len(wanted) == len(actual) and _is_buildkits(survey, wanted, actual):
            continue
        path = directory.path / "lower"
        if directory.lower is None:
            text = f"layer directory {directory.name[:12]} stands on nothing, but should on {len(wanted)} others"
        else:
            text = f"the lower of layer directory {directory.name[:12]} is not what its records say it stands on"
        yield Finding("lower-wrong", str(path), text, (directory.name,))


def _is_buildkits(survey: Survey, wanted: tuple[str, ...], actual: tuple[str, ...]) -> bool:
    """Tell whether all that differs leads to directories of BuildKit's, which may stand in for a layer's own."""
    for expected, entry in zip(wanted, actual, strict=True):
        if expected != entry:
            name = survey.resolve(entry)
            if name is None or name not in survey.directories or not survey.around.in_buildkit(name):
                return False
    return True


def check_marks(survey: Survey) -> Iterator[Finding]:
    """Check that what others stand on is marked read-only, what a container writes to is not, and can be mounted for writing."""
    stacks = Stacks(survey)
    stood_on = {below for directory in _in_use(survey) if (below := stacks.below(directory.name)[0]) is not None}
    writable = {mount.mount_id for mount in survey.mounts.values()}
    for directory in _in_use(survey):
        committed = "committed" in directory.names
        if directory.name in stood_on and not committed:
            text = f"layer directory {directory.name[:12]} has others on it, but is not marked as read-only"
            yield Finding("committed-missing", str(directory.path / "committed"), text, (directory.name,))
        if directory.name in writable and committed and directory.name not in stood_on:
            text = f"the writable layer {directory.name[:12]} is marked as read-only"
            yield Finding("committed-wrong", str(directory.path / "committed"), text, (directory.name,))
        needs_work = directory.name in writable or not committed
        if directory.lower and needs_work and "work" not in directory.names:
            text = f"layer directory {directory.name[:12]} has no work directory"
            yield Finding("work-missing", str(directory.path / "work"), text, (directory.name,))


def check_types(survey: Survey) -> Iterator[Finding]:
    """Check that each part of a directory is of its type, and so are the driver's own places."""
    for directory in survey.directories.values():
        for name in directory.wrong:
            path = directory.path / name
            text = f"{name} of layer directory {directory.name[:12]} is not of the type it should be"
            yield Finding("wrong-type", str(path), text, (str(path), directory.name, name))
    containers = survey.root / "containers"
    notes = survey.image_dir / "distribution"
    for place in (survey.home, survey.home / "l", survey.image_dir, survey.imagedb, survey.layerdb, survey.records,
                  survey.layerdb / "mounts", survey.layerdb / "tmp", containers,
                  *(survey.imagedb / kind / part for kind in ("content", "metadata") for part in ("", "sha256")),
                  *(notes / kind / part for kind in ("", "diffid-by-digest", "v2metadata-by-diffid")
                    for part in ("", "sha256") if kind or not part),
                  *(containers / name for name in survey.containers)):  # fmt: skip
        if place.is_symlink() or (place.exists() and not place.is_dir()):
            text = f"{survey.relative(place)} is not a directory of the data-root's own"
            yield Finding("wrong-type", str(place), text, (str(place), "", ""))
    if survey.mounts and not os.path.lexists(containers):
        text = f"containers is missing, and there are writable layers of {len(survey.mounts)} containers"
        yield Finding("wrong-type", str(containers), text, (str(containers), "", ""))


def check_names(survey: Survey) -> Iterator[Finding]:
    """Check that nothing else lies among the layer directories."""
    for name in list_names(survey.home):
        path = survey.home / name
        if name != "l" and not is_cache_id(name) and not name.startswith(_PROBES):
            yield Finding("unknown-file", str(path), f"{name} is no layer's directory", (str(path),))
    for directory in survey.directories.values():
        for name in sorted(directory.names - FILES):
            if not name.startswith(".tmp-"):
                path = directory.path / name
                yield Finding("unknown-file", str(path), f"{name} is no part of a layer's directory", (str(path),))
    for name in list_names(survey.home / "l"):
        if name not in survey.short_names:
            path = survey.home / "l" / name
            if is_link_id(name) and name in survey.by_link:
                continue  # told of as a short name that does not lead where it should
            yield Finding("unknown-file", str(path), f"{name} is no short name of a layer", (str(path),))


def _in_use(survey: Survey) -> Iterator[RawDirectory]:
    for directory in survey.directories.values():
        if directory.name in survey.named and survey.named[directory.name] != "a layer being removed":
            yield directory


CHECKS = (check_links, check_lowers, check_marks, check_types, check_names)

"""Mending layer directories: short names, ``lower``, marks, and what can be made again in a layer from its headers."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from lamella.changeset.whiteout import OPAQUE_XATTR
from lamella.fs.atomic import fsync_dir
from lamella.fs.rooted import Root
from lamella.insight.checks.directories import Stacks
from lamella.insight.contents import Task, check_contents
from lamella.insight.expectation import DIRECTORY, LINK, REGULAR, WHITEOUT, Expectation, Wanted, read_expectation
from lamella.insight.findings import Finding
from lamella.insight.mending.base import Bench, Hopeless, Plan
from lamella.model.digest import ChainID, DiffID, Digest
from lamella.model.ids import CacheID, is_link_id, new_link_id
from lamella.store.layerdb import TAR_SPLIT


def mend_link(bench: Bench, finding: Finding) -> Plan:
    """Write a directory's short name again."""
    name = CacheID(finding.subject[0])
    stacks = Stacks(bench.survey)
    link = stacks.true_link(name)
    if link is None:
        if stacks.said_above(name) or stacks.links_to(name):
            raise Hopeless("what it is called elsewhere contradicts itself")
        link = new_link_id()
    path = bench.survey.home / name / "link"
    return Plan(
        f"write {link} as the short name of {name[:12]}", lambda: bench.replace(finding, path, link.encode(), 0o644)
    )


def mend_short_name(bench: Bench, finding: Finding) -> Plan:
    """Make the link again that leads to a directory."""
    name, link = finding.subject
    if not is_link_id(link):
        raise Hopeless("its short name is not known")
    place = bench.survey.home / "l"

    def act() -> None:
        if not place.is_dir():
            bench.aside_if_there(finding, place)
            bench.make_directory(place, 0o700)
        bench.aside_if_there(finding, place / link)
        os.symlink(f"../{name}/diff", place / link)
        fsync_dir(place)

    return Plan(f"make the link l/{link} to {name[:12]}", act)


def mend_lower(bench: Bench, finding: Finding) -> Plan:
    """Write again what a directory stands on."""
    name = CacheID(finding.subject[0])
    entries = Stacks(bench.survey).lower_of(name)
    if entries is None:
        raise Hopeless("what is below it is not known")
    path = bench.survey.home / name / "lower"
    if not entries:
        return bench.plan_aside(finding, [path])
    text = f"write the {len(entries)} layers that {name[:12]} stands on"
    return Plan(text, lambda: bench.replace(finding, path, ":".join(entries).encode(), 0o644))


def mend_committed(bench: Bench, finding: Finding) -> Plan:
    """Mark a directory as read-only."""
    name = finding.subject[0]

    def act() -> None:
        path = bench.survey.home / name / "committed"
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        fsync_dir(path.parent)

    return Plan(f"mark {name[:12]} as read-only", act)


def mend_work(bench: Bench, finding: Finding) -> Plan:
    """Make the work directory that overlayfs needs."""
    path = bench.survey.home / finding.subject[0] / "work"
    return Plan(f"make {bench.survey.relative(path)}", lambda: bench.make_directory(path, 0o700))


# ---- files of a layer -----------------------------------------------------------------------------------------------


def mend_files(bench: Bench, finding: Finding) -> Plan:
    """Put right what the headers in the tar-split tell in full: owners, modes, links, directories, deletions.

    A file whose bytes are gone is not among it.
    """
    survey = bench.survey
    chain = ChainID(DiffID(Digest(finding.subject[0])))
    layer = survey.layers[chain]
    if layer.cache_id is None or survey.driver != "overlay2":
        raise Hopeless("the files of this driver are not put right one by one")
    files = survey.files_of(layer.cache_id)
    wanted = read_expectation(layer.path / TAR_SPLIT)
    _, diff = survey.identities.get(chain, (None, None))
    task = Task(chain, files, layer.path / TAR_SPLIT, layer.size, diff, deep=False)
    names = sorted({name for code, name, _ in check_contents(task, _EVERY) if code in _FILES})
    if not names or "" in names or wanted.irregular or not wanted.understood:
        raise Hopeless("too much of it is damaged to be put right file by file")
    for name in names:
        item = wanted.names.get(name)
        if item is None and name not in wanted.opaque:
            raise Hopeless(f"nothing tells what {name} was")
        if item is not None and item[0] == REGULAR and item[2] and not _has_bytes(files, name, item[2]):
            raise Hopeless(f"the bytes of {name} are gone")

    def act() -> None:
        with Root(files) as root:
            for name in names:
                _put_right(bench, finding, files, root, name, wanted)
        left = check_contents(task._replace(deep=True))
        if any(code in _FILES for code, _, _ in left):
            raise Hopeless(left[0][2])

    return Plan(f"put right {len(names)} names of layer {chain[7:19]} as its tar-split has them", act)


_FILES = frozenset({"layer-file-missing", "layer-file-changed"})
_EVERY = 1 << 62


def _has_bytes(files: Path, name: str, size: int) -> bool:
    try:
        status = os.lstat(files / name)
    except OSError:
        return False
    return stat.S_ISREG(status.st_mode) and status.st_size == size


def _put_right(bench: Bench, finding: Finding, files: Path, root: Root, name: str, wanted: Expectation) -> None:
    item = wanted.names.get(name)
    raw = os.fsencode(name)
    if item is not None:
        item = Wanted(*item)
        parent, last = root.open_parent(raw)
        try:
            if not _is_kind(parent, last, item):
                bench.aside_if_there(finding, files / name)
                _make(root, parent, last, item)
            if item.kind in {LINK, WHITEOUT}:
                return
            os.chown(last, item.owner[1], item.owner[2], dir_fd=parent, follow_symlinks=False)
            if item.kind != stat.S_IFLNK:
                os.chmod(f"/proc/self/fd/{parent}/{os.fsdecode(last)}", item.owner[0])
            if item.capability:
                os.setxattr(f"/proc/self/fd/{parent}/{os.fsdecode(last)}", "security.capability", item.capability)
        finally:
            os.close(parent)
    if name in wanted.opaque:
        fd = root.open(raw, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            os.setxattr(fd, OPAQUE_XATTR, b"y")
        finally:
            os.close(fd)


def _is_kind(parent: int, last: bytes, item: Wanted) -> bool:
    """Tell whether a name is already what is wanted but for its owner and mode."""
    try:
        status = os.stat(last, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return False
    kind = stat.S_IFMT(status.st_mode)
    if item.kind == stat.S_IFLNK:
        return kind == item.kind and os.readlink(last, dir_fd=parent) == os.fsencode(item.target)
    if item.kind == REGULAR:
        return kind == REGULAR and status.st_size == item.size
    return kind == item.kind and (kind == DIRECTORY or status.st_rdev == item.device)


def _make(root: Root, parent: int, last: bytes, item: Wanted) -> None:
    if item.kind == stat.S_IFLNK:
        os.symlink(os.fsencode(item.target), last, dir_fd=parent)
    elif item.kind == DIRECTORY:
        os.mkdir(last, 0o700, dir_fd=parent)
    elif item.kind == WHITEOUT:
        os.mknod(last, stat.S_IFCHR, os.makedev(0, 0), dir_fd=parent)
    elif item.kind == LINK:
        source, name = root.open_parent(os.fsencode(item.target))
        try:
            os.link(name, last, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)
        finally:
            os.close(source)
    elif item.kind == REGULAR:
        os.close(
            os.open(last, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=parent)
        )
    else:
        os.mknod(last, item.kind | 0o600, item.device, dir_fd=parent)


def drop_extra(bench: Bench, finding: Finding) -> Plan:
    """Move a file that a layer's tar does not have out of the layer."""
    chain, name = finding.subject
    layer = bench.survey.layers[ChainID(DiffID(Digest(chain)))]
    if layer.cache_id is None or not name:
        raise Hopeless("there are more of them than are told of; they follow once these are gone")
    path = bench.survey.files_of(layer.cache_id) / name
    if not os.path.lexists(path):
        raise Hopeless("it went with the directory it was in")
    return bench.plan_aside(finding, [path])

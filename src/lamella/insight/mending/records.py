"""Mending layer records, images' notes, references: all that can be worked out from other records or from the files."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from lamella.changeset.tarsplit import reassemble
from lamella.errors import InvalidArgument, LamellaError
from lamella.fs.atomic import fsync_dir
from lamella.fs.usage import layer_size
from lamella.insight.checks.images import find_parents
from lamella.insight.contents import Task, check_contents
from lamella.insight.findings import Finding
from lamella.insight.mending.base import Bench, Hopeless, Plan
from lamella.insight.survey import RawLayer, Survey
from lamella.linux.libc import exchange
from lamella.model.digest import ChainID, DiffID, Digest, ImageID, chain_id, digest_of
from lamella.model.gojson import encode
from lamella.model.ids import CacheID
from lamella.model.reference import parse_reference
from lamella.store.imagedb import CONFIG_LIMIT
from lamella.store.layerdb import TAR_SPLIT
from lamella.store.smallfiles import read_small

_PAIR = re.compile(rb'"([^"\\]{1,300})":"(sha256:[0-9a-f]{64})"')
_REPOSITORY = re.compile(rb'"([^"\\]{1,255})":\{')
_REFERENCES_LIMIT = 64 << 20


# ---- layers ---------------------------------------------------------------------------------------------------------


def identify(survey: Survey, layer: RawLayer) -> tuple[ChainID | None, DiffID]:
    """Work out what a layer with a damaged record is: its parent and its diff ID."""
    known = survey.identities.get(layer.chain)
    if known is not None:
        return known
    if layer.cache_id in survey.directories and layer.tar_split and layer.cache_id is not None:
        try:
            diff = reassemble(layer.path / TAR_SPLIT, survey.files_of(layer.cache_id), lambda _: None)
        except (LamellaError, OSError) as error:
            raise Hopeless(f"what the layer is cannot be worked out: {error}") from error
        for parent in (None, *survey.layers):
            if chain_id(parent, diff) == layer.chain:
                return parent, diff
    raise Hopeless("no image says what the layer is, and its files do not tell")


def mend_record(bench: Bench, finding: Finding) -> Plan:
    """Write the fields of a record that are missing or wrong."""
    chain, file = finding.subject[0], finding.subject[1]
    layer = bench.survey.layers[ChainID(DiffID(Digest(chain)))]
    if not file:
        return bench.plan_aside(finding, [layer.path])
    if file in {"diff", "parent"}:
        parent, diff = identify(bench.survey, layer)

        def write() -> None:
            bench.replace(finding, layer.path / "diff", diff.encode(), 0o644)
            if parent is not None:
                bench.replace(finding, layer.path / "parent", parent.encode(), 0o644)
            else:
                bench.aside_if_there(finding, layer.path / "parent")

        return Plan(f"write again which layer {chain[7:19]} is and what it stands on", write)
    if file == "size":
        return mend_size(bench, finding)
    if file == "cache-id":
        return relocate(bench, finding)
    raise Hopeless(f"{file} cannot be derived")


def mend_size(bench: Bench, finding: Finding) -> Plan:
    """Count a layer's files again."""
    layer = _layer(bench, finding)
    if layer.cache_id not in bench.survey.directories or layer.cache_id is None:
        raise Hopeless("its files are missing")
    if bench.survey.driver != "overlay2":
        from lamella.insight.expectation import read_expectation

        size = read_expectation(layer.path / TAR_SPLIT).tar_size
    else:
        size = layer_size(bench.survey.files_of(layer.cache_id))
    text = f"write the size of layer {layer.chain[7:19]} as {size}"
    return Plan(text, lambda: bench.replace(finding, layer.path / "size", str(size).encode(), 0o644))


def relocate(bench: Bench, finding: Finding) -> Plan:
    """Find the directory that holds a layer's files, and write it into the record."""
    layer = _layer(bench, finding)
    found = [name for name in _candidates(bench.survey, layer) if name != layer.cache_id and _holds(bench, layer, name)]
    if not found and layer.cache_id not in bench.survey.directories:
        # Its files may be damaged as well: what stands on it still says where it is.
        found = [name for name in _stood_on(bench.survey, layer) if name not in bench.survey.named]
    if len(found) != 1:
        raise Hopeless("no other directory holds its files" if not found else "several directories hold its files")
    text = f"write {found[0][:12]} as the directory of layer {layer.chain[7:19]}"
    return Plan(text, lambda: bench.replace(finding, layer.path / "cache-id", found[0].encode(), 0o644))


def _stood_on(survey: Survey, layer: RawLayer) -> set[CacheID]:
    """Return the directories that those stand on that should stand on a layer."""
    above = [survey.directory_of(child) for child in survey.children.get(layer.chain, ())]
    for mount in survey.mounts.values():
        name = mount.init_id or mount.mount_id
        if mount.parent == layer.chain and name is not None:
            above.append(survey.directories.get(name))
    entries = {directory.lower[0] for directory in above if directory is not None and directory.lower}
    return {name for entry in entries if (name := survey.resolve(entry)) in survey.directories and name is not None}


def _candidates(survey: Survey, layer: RawLayer) -> Iterator[CacheID]:
    """Yield the directories that may be a layer's."""
    seen = _stood_on(survey, layer)
    for name in survey.directories:
        if name not in survey.named:
            seen.add(name)
    for others in survey.layers.values():
        if others.cache_id is not None:
            seen.add(others.cache_id)
    yield from (name for name in seen if name in survey.directories)


def _holds(bench: Bench, layer: RawLayer, name: CacheID) -> bool:
    """Tell whether a directory gives a layer's tar, to the byte."""
    try:
        _, diff = identify(bench.survey, layer)
    except Hopeless:
        return False
    files = bench.survey.files_of(name)
    if not files.is_dir():
        return False
    whole = bench.survey.driver != "overlay2"
    task = Task(layer.chain, files, layer.path / TAR_SPLIT, None, diff, deep=True, whole_tree=whole)
    return layer.tar_split and not check_contents(task)


def mend_tar_split(bench: Bench, finding: Finding) -> Plan:
    """Find or make again the record of a layer's tar: one that gives, with its files, exactly the tar of its diff ID."""
    layer = _layer(bench, finding)
    _, diff = identify(bench.survey, layer)
    if layer.cache_id not in bench.survey.directories or layer.cache_id is None:
        raise Hopeless("its files are missing")
    files = bench.survey.files_of(layer.cache_id)
    for chain in bench.troubles:
        other = bench.survey.layers.get(ChainID(DiffID(Digest(chain))))
        if other is not None and other.chain != layer.chain and _gives(other.path / TAR_SPLIT, files, diff):
            raw = (other.path / TAR_SPLIT).read_bytes()
            text = f"take the tar-split of layer {layer.chain[7:19]} from the record of layer {other.chain[7:19]}"
            return Plan(text, partial(bench.replace, finding, layer.path / TAR_SPLIT, raw, 0o644))
    if bench.survey.driver == "overlay2" and _walk_digest(files, None) == diff:
        text = f"make the tar-split of layer {layer.chain[7:19]} again from its files, which give the same tar"

        def write() -> None:
            draft = layer.path / f".tmp-{TAR_SPLIT}1"
            with draft.open("wb") as stream:
                os.fchmod(stream.fileno(), 0o644)
                _walk_digest(files, stream)
                stream.flush()
                os.fsync(stream.fileno())
            if not (layer.path / TAR_SPLIT).is_file():
                bench.aside_if_there(finding, layer.path / TAR_SPLIT)
            os.rename(draft, layer.path / TAR_SPLIT)

        return Plan(text, write)
    raise Hopeless("its files alone do not give the tar it was stored from")


def _gives(tar_split: Path, files: Path, diff: DiffID) -> bool:
    try:
        reassemble(tar_split, files, lambda _: None, expected=diff)
    except (LamellaError, OSError):
        return False
    return True


def _walk_digest(files: Path, sink: object) -> DiffID | None:
    """Return the diff ID of the tar that lamella would write of a layer's files; None if it can write none."""
    import io
    from typing import BinaryIO, cast

    from lamella.changeset.diff import capture_layer

    try:
        return capture_layer(files, cast("BinaryIO", sink or io.BytesIO()), normalise=False).diff_id
    except (LamellaError, OSError):
        return None


def rebuild_record(bench: Bench, chain: ChainID) -> Plan:
    """Make the lost record of a layer again from a directory whose files give its tar."""
    survey = bench.survey
    identity = survey.identities.get(chain)
    if identity is None or survey.driver != "overlay2":
        raise Hopeless("no image says what the layer is")
    parent, diff = identity
    wanted: set[CacheID] = set()
    for child, (below, _) in survey.identities.items():
        directory = survey.directory_of(child)
        if below == chain and directory is not None and directory.lower:
            wanted.add(survey.resolve(directory.lower[0]) or CacheID(""))
    candidates = [name for name in survey.directories if name in wanted or name not in survey.named]
    for name in sorted(candidates, key=lambda name: name not in wanted):
        files = survey.files_of(name)
        if files.is_dir() and _walk_digest(files, None) == diff:
            return Plan(
                f"make the record of layer {chain[7:19]} again from the directory {name[:12]}, whose files give its tar",
                partial(_write_record, bench, chain, parent, diff, name),
            )
    raise Hopeless("no directory gives the layer's tar")


def _write_record(bench: Bench, chain: ChainID, parent: ChainID | None, diff: DiffID, name: CacheID) -> None:
    files = bench.survey.files_of(name)
    draft = new_write_set(bench.survey)
    with (draft / TAR_SPLIT).open("xb") as stream:
        os.fchmod(stream.fileno(), 0o644)
        _walk_digest(files, stream)
    publish_record(bench.survey, draft, chain, parent, diff, name, layer_size(files))


def new_write_set(survey: Survey) -> Path:
    """Make the directory in which a layer's record is written."""
    staging = survey.layerdb / "tmp"
    make_layerdb(survey)
    staging.mkdir(mode=0o755, exist_ok=True)
    draft = staging / f"write-set-{int.from_bytes(os.urandom(8), 'big')}"
    os.mkdir(draft, 0o700)
    return draft


def make_layerdb(survey: Survey) -> None:
    """Make the directory of all layer records, if it is gone."""
    for path, mode in ((survey.root / "image", 0o700), (survey.image_dir, 0o700), (survey.layerdb, 0o700)):
        if not os.path.lexists(path):
            Bench.make_directory(path, mode)


def publish_record(
    survey: Survey, draft: Path, chain: ChainID, parent: ChainID | None, diff: DiffID, name: CacheID, size: int
) -> None:
    """Finish a record that holds its tar-split already, and put it in its place."""
    from lamella.fs.atomic import sync_filesystem
    from lamella.store.layerdb import Layer, write_record

    write_record(draft, Layer(chain, diff, parent, name, size))
    sync_filesystem(draft)
    survey.records.mkdir(mode=0o755, exist_ok=True)
    os.rename(draft, survey.records / chain[7:])
    fsync_dir(survey.records)


def _layer(bench: Bench, finding: Finding) -> RawLayer:
    return bench.survey.layers[ChainID(DiffID(Digest(finding.subject[0])))]


# ---- images ---------------------------------------------------------------------------------------------------------


def mend_config(bench: Bench, finding: Finding) -> Plan:
    """Find an image's config under another name, as when two files changed places."""
    wanted = ImageID(Digest(finding.subject[0]))
    for image in bench.survey.images.values():
        try:
            raw = read_small(image.path, CONFIG_LIMIT)
        except (LamellaError, OSError):
            continue
        if image.id != wanted and digest_of(raw) == wanted:
            path = bench.survey.images[wanted].path
            text = f"take the config of image {wanted[7:19]} from the file of image {image.id[7:19]}"
            return Plan(text, partial(_change_places, wanted, path, image.path))
    raise Hopeless("its config is not under another name either")


def _change_places(wanted: ImageID, path: Path, other: Path) -> None:
    """Put a config in its place; what is there goes to where the config was."""
    if digest_of(read_small(other, CONFIG_LIMIT)) == wanted:
        exchange(os.fspath(path), os.fspath(other))
        fsync_dir(path.parent)


def mend_note(bench: Bench, finding: Finding) -> Plan:
    """Put right one note beside an image."""
    image, key = ImageID(Digest(finding.subject[0])), finding.subject[1]
    path = bench.survey.imagedb / "metadata" / "sha256" / image[7:] / key
    if key == "builtLocally":
        return Plan(
            f"note again that image {image[7:19]} was built here", lambda: bench.replace(finding, path, b"\x01", 0o600)
        )
    if key == "parent":
        parents = [other for other in bench.survey.images if _comes_from(bench.survey, image, other)]
        if len(parents) == 1:
            text = f"note again that image {image[7:19]} comes from {parents[0][7:19]}, the only one it can come from"
            return Plan(text, lambda: bench.replace(finding, path, parents[0].encode(), 0o600))
    return bench.plan_aside(finding, [path])


def _comes_from(survey: Survey, image: ImageID, other: ImageID) -> bool:
    """Tell whether *other* is what *image* was before its last step."""
    child, parent = survey.images[image].config, survey.images[other].config
    if child is None or parent is None or not child.history:
        return False
    return child.history[:-1] == parent.history and child.diff_ids[: len(parent.diff_ids)] == parent.diff_ids


def plan_image_aside(bench: Bench, finding: Finding, image: ImageID) -> Plan:
    """Plan to move an image to quarantine, with its notes and its names."""
    survey = bench.survey
    if users := [item.id[:12] for item in survey.containers.values() if item.text("Image") == image]:
        raise Hopeless(f"container {users[0]} is made from it")
    names = {key: value for entries in survey.references.values() for key, value in entries.items() if value == image}
    paths = [survey.imagedb / "metadata" / "sha256" / image[7:], survey.imagedb / "content" / "sha256" / image[7:]]

    def act() -> None:
        entry = bench.quarantine.begin(finding.code, finding.text, paths, run=bench.run, references=names)
        remove_references(survey, set(names))
        bench.quarantine.fill(entry)
        for child, parent in find_parents(survey).items():
            if parent == image and child != image:
                note = survey.imagedb / "metadata" / "sha256" / child[7:] / "parent"
                bench.aside_if_there(finding, note)

    called = f", called {', '.join(sorted(names))}," if names else ""
    return Plan(f"move image {image[7:19]}{called} to quarantine: pulling or building it again works then", act)


# ---- references -----------------------------------------------------------------------------------------------------


def mend_references(bench: Bench, finding: Finding) -> Plan:
    """Keep the references that can still be read for certain."""
    survey = bench.survey
    path = survey.image_dir / "repositories.json"
    kept = dict(_readable(survey, path))

    def act() -> None:
        bench.supersede(finding, path, encode_references(kept), 0o600)

    count = len(kept)
    lost = len(set(survey.images) - set(kept.values()))
    return Plan(f"keep the {count} references that can be read; {lost} images have no name then", act)


def _readable(survey: Survey, path: Path) -> Iterator[tuple[str, str]]:
    """Yield the references in a damaged file that stand under their repository and name an image that is here."""
    try:
        raw = read_small(path, _REFERENCES_LIMIT)
    except (LamellaError, OSError):
        return
    repositories = [(match.start(), match[1]) for match in _REPOSITORY.finditer(raw)]
    for match in _PAIR.finditer(raw):
        before = [name for start, name in repositories if start < match.start()]
        try:
            key, image = match[1].decode(), match[2].decode()
            reference = parse_reference(key)
        except (InvalidArgument, UnicodeDecodeError):
            continue
        if before and before[-1].decode("utf-8", "replace") == reference.familiar_name() and image in survey.images:
            yield key, image


def drop_reference(bench: Bench, finding: Finding) -> Plan:
    """Take one entry out of the references, and remember it."""
    repository, key = finding.subject
    image = bench.survey.references[repository][key]

    def act() -> None:
        bench.quarantine.put(finding.code, finding.text, [], run=bench.run, references={key: image})
        remove_references(bench.survey, {key})

    return Plan(f"remove the name {key}", act)


def make_references(bench: Bench, _finding: Finding) -> Plan:
    """Make the file of references that is missing."""
    return Plan("make an empty repositories.json", lambda: _write(bench.survey, {}))


def remove_references(survey: Survey, keys: set[str]) -> None:
    """Write the references without *keys*, as they lie on disk now."""
    current = Survey(survey.root, survey.driver)
    if current.references_fault:
        return
    kept = {
        repository: left
        for repository, entries in current.references.items()
        if (left := {key: image for key, image in entries.items() if key not in keys})
    }
    if kept != current.references:
        _write(survey, kept)


def encode_references(references: dict[str, str]) -> bytes:
    """Give the content of a file with these references alone."""
    table: dict[str, dict[str, str]] = {}
    for key, image in references.items():
        table.setdefault(parse_reference(key).familiar_name(), {})[key] = image
    return _encoded(table)


def add_references(survey: Survey, references: dict[str, str]) -> None:
    """Add references to those on disk, without moving any that is there."""
    table = {name: dict(entries) for name, entries in survey.references.items()}
    for key, image in references.items():
        try:
            table.setdefault(parse_reference(key).familiar_name(), {}).setdefault(key, image)
        except InvalidArgument:
            continue
    _write(survey, table)


def _write(survey: Survey, table: dict[str, dict[str, str]]) -> None:
    from lamella.fs.atomic import write_file

    write_file(survey.image_dir / "repositories.json", _encoded(table), mode=0o600)


def _encoded(table: dict[str, dict[str, str]]) -> bytes:
    return encode({"Repositories": {name: dict(sorted(table[name].items())) for name in sorted(table)}})

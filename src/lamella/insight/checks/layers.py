"""Layer records: they can be read, are what their name says, and lead to a directory of their own."""

from __future__ import annotations

from collections.abc import Iterator

from lamella.insight.findings import Finding
from lamella.insight.survey import LAYER_FILES, Survey
from lamella.model.digest import chain_id, is_hex64
from lamella.store.layerdb import TAR_SPLIT
from lamella.store.smallfiles import is_directory, list_names


def check_records(survey: Survey) -> Iterator[Finding]:
    """Check that each field of a record can be read, and the record's name is the chain ID of what it says."""
    for layer in survey.layers.values():
        if not is_directory(layer.path):
            text = f"layer {layer.chain}: its record is not a directory"
            yield Finding("layer-record-damaged", str(layer.path), text, (layer.chain, ""))
            continue
        for fault in layer.faults:
            text = f"layer {layer.chain}: {fault.text}"
            yield Finding("layer-record-damaged", str(layer.path / fault.file), text, (layer.chain, fault.file))
        readable = layer.diff is not None and not any(fault.file == "parent" for fault in layer.faults)
        if readable and not layer.fits and layer.diff is not None:
            actual = chain_id(layer.parent, layer.diff)
            text = f"layer {layer.chain}: diff and parent in its record belong to layer {actual}"
            yield Finding("layer-record-damaged", str(layer.path), text, (layer.chain, "diff"))


def check_parents(survey: Survey) -> Iterator[Finding]:
    """Check that the layer below each layer has a record."""
    for layer in survey.layers.values():
        if layer.fits and layer.parent is not None and layer.parent not in survey.layers:
            text = f"layer {layer.chain} stands on layer {layer.parent}, which is not in the store"
            yield Finding("layer-parent-missing", str(layer.path / "parent"), text, (layer.chain, layer.parent))


def check_directories(survey: Survey) -> Iterator[Finding]:
    """Check that each record leads to a directory with files, and no two to the same."""
    for layer in survey.layers.values():
        if layer.cache_id is None:
            continue
        directory = survey.directories.get(layer.cache_id)
        if directory is None or (survey.driver == "overlay2" and "diff" not in directory.names):
            path = survey.files_of(layer.cache_id)
            text = f"layer {layer.chain}: the directory of its files, {layer.cache_id[:12]}, is missing"
            yield Finding("layer-directory-missing", str(path), text, (layer.chain,))
    for cache_id, chains in survey.claimed_twice.items():
        text = f"the layers {' and '.join(chains)} both claim the directory {cache_id[:12]}"
        yield Finding("layer-directory-shared", str(survey.home / cache_id), text, tuple(chains))


def check_tar_splits(survey: Survey) -> Iterator[Finding]:
    """Check that each layer has the record from which its tar is made again."""
    for layer in survey.layers.values():
        if not layer.tar_split and is_directory(layer.path):
            text = f"layer {layer.chain}: {TAR_SPLIT} is missing"
            yield Finding("layer-tarsplit-damaged", str(layer.path / TAR_SPLIT), text, (layer.chain,))


def check_names(survey: Survey) -> Iterator[Finding]:
    """Check that nothing else lies among the records."""
    for layer in survey.layers.values():
        for name in sorted(layer.names - LAYER_FILES):
            if not name.startswith(".tmp-"):
                path = layer.path / name
                yield Finding("unknown-file", str(path), f"{name} is no part of a layer's record", (str(path),))
    for name in list_names(survey.records):
        if not is_hex64(name) and not name.endswith("-removing"):
            path = survey.records / name
            yield Finding("unknown-file", str(path), f"{name} is no layer's record", (str(path),))
    for name in list_names(survey.layerdb):
        if name not in {"sha256", "mounts", "tmp"}:
            path = survey.layerdb / name
            yield Finding("unknown-file", str(path), f"{name} is no part of the layer records", (str(path),))
    for name in list_names(survey.layerdb / "tmp"):
        if not name.startswith("write-set-"):
            path = survey.layerdb / "tmp" / name
            yield Finding("unknown-file", str(path), f"{name} is no layer's record in the making", (str(path),))


CHECKS = (check_records, check_parents, check_directories, check_tar_splits, check_names)

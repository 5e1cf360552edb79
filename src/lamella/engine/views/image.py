"""An image as ``docker image inspect`` and ``docker history`` show it, in their key order and spelling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from lamella.model.documents import CONFIG_LIMIT, decode_object
from lamella.model.gojson import ZERO_TIME
from lamella.model.imageconfig import ContainerSettings, History, settings_document
from lamella.model.reference import Reference
from lamella.store.imagedb import StoredImage

MISSING = "<missing>"
_TELLING_EMPTY = ("Env", "Labels", "OnBuild", "Volumes")


class ImageFacts(NamedTuple):
    """What the store knows of an image beside its config."""

    references: Sequence[Reference]
    size: int
    driver: str
    directories: Mapping[str, str] | None


def split_references(references: Sequence[Reference]) -> tuple[list[str], list[str]]:
    """Return the tags and the digests among *references*, in familiar spelling and sorted."""
    tags = sorted(reference.familiar() for reference in references if not reference.digest)
    digests = sorted(reference.familiar() for reference in references if reference.digest)
    return tags, digests


def image_document(image: StoredImage, facts: ImageFacts) -> dict[str, object]:
    """Build the document that ``inspect`` prints for *image*."""
    config = image.config
    raw = decode_object(image.raw, limit=CONFIG_LIMIT, what=f"config of {image.id}")
    tags, digests = split_references(facts.references)
    document: dict[str, object] = {
        "Id": image.id,
        "RepoTags": tags,
        "RepoDigests": digests,
        "Parent": image.parent or "",
        # Docker keeps a commit's message in the history alone.
        "Comment": config.comment or (config.history[-1].comment if config.history else ""),
        "Created": config.created or ZERO_TIME,
        "Container": config.container,
        "ContainerConfig": _settings(config.container_config or ContainerSettings(), raw.get("container_config")),
        "DockerVersion": config.docker_version,
        "Author": config.author,
        "Config": _settings(config.config, raw.get("config")),
        "Architecture": config.architecture,
    }
    if config.variant:
        document["Variant"] = config.variant
    document["Os"] = config.os
    if config.os_version:
        document["OsVersion"] = config.os_version
    document |= {
        "Size": facts.size,
        "VirtualSize": facts.size,
        "GraphDriver": {"Data": facts.directories, "Name": facts.driver},
        "RootFS": {"Type": "layers", **({"Layers": list(config.diff_ids)} if config.diff_ids else {})},
        "Metadata": {"LastTagTime": image.last_updated or ZERO_TIME},
    }
    return document


def _settings(settings: ContainerSettings, raw: object) -> dict[str, object]:
    """Return Docker's ``Config`` object; where the config says empty rather than nothing, Docker says so too."""
    document = settings_document(settings)
    if isinstance(raw, dict):
        document |= {key: raw[key] for key in _TELLING_EMPTY if key in raw and raw[key] in ({}, [])}
    return document


class HistoryStep(NamedTuple):
    """One line of an image's history: an instruction, and the layer it made if it made one."""

    image_id: str
    """The image that the step left behind if it is in this store, else ``<missing>``."""
    created: str
    created_by: str
    author: str
    comment: str
    size: int
    empty: bool
    tags: tuple[str, ...] = ()


def plan_history(
    history: Sequence[History], sizes: Sequence[int], lineage: Sequence[tuple[str, tuple[str, ...]]]
) -> list[HistoryStep]:
    """Join *history* with the layers' *sizes*, newest first.

    *lineage* holds the ID and tags of the image, then of its parent, and so on.  Docker gives the first line the
    image's ID and each further line the next ancestor's, until the chain of parents ends.
    """
    steps = []
    remaining = list(sizes)
    newest_first = list(reversed(history))
    for index, step in enumerate(newest_first):
        size = 0
        if not step.empty_layer:
            size = remaining.pop() if remaining else 0
        identity, tags = lineage[index] if index < len(lineage) else (MISSING, ())
        steps.append(
            HistoryStep(
                image_id=identity,
                created=step.created or "",
                created_by=step.created_by,
                author=step.author,
                comment=step.comment,
                size=size,
                empty=step.empty_layer,
                tags=tags,
            )
        )
    return steps

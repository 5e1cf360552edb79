"""Images: configs hash to their names and are understood, their layers are there, their notes make sense."""

from __future__ import annotations

from collections.abc import Iterator

from lamella.errors import InvalidArgument, LamellaError
from lamella.insight.findings import Finding
from lamella.insight.survey import Survey
from lamella.model.digest import Digest, ImageID, is_hex64, parse_digest
from lamella.model.gojson import parse_time
from lamella.store.smallfiles import is_directory, list_names, read_small

NOTES = ("parent", "lastUpdated", "builtLocally")


def check_configs(survey: Survey) -> Iterator[Finding]:
    """Check that each config's bytes hash to its name, and it is a config."""
    for image in survey.images.values():
        if image.config is None:
            yield Finding("image-config-damaged", str(image.path), f"image {image.id}: {image.fault}", (image.id,))


def check_layers_exist(survey: Survey) -> Iterator[Finding]:
    """Check that each layer that a config names has a record."""
    for image_id, chains in survey.image_chains.items():
        missing = [chain for chain in chains if chain not in survey.layers]
        if missing:
            text = f"image {image_id} needs layer {missing[0]}, which is not in the store"
            if len(missing) > 1:
                text += f", and {len(missing) - 1} more"
            yield Finding("image-layers-missing", str(survey.images[image_id].path), text, (image_id, *missing))


def check_notes(survey: Survey) -> Iterator[Finding]:
    """Check that each note beside an image can be read and belongs to an image."""
    metadata = survey.imagedb / "metadata" / "sha256"
    for name in list_names(metadata):
        path = metadata / name
        if not is_hex64(name) or not is_directory(path):
            yield Finding("unknown-file", str(path), f"{name} is no image's notes", (str(path),))
            continue
        image_id = ImageID(Digest(f"sha256:{name}"))
        if image_id not in survey.images:
            if is_directory(path) and not survey.around.may_be_new(path):
                yield Finding(
                    "image-metadata-orphan",
                    str(path),
                    f"there is no image {image_id} that these notes are for",
                    (name,),
                )
            continue
        for key in list_names(path):
            fault = _fault_of(path / key, key)
            if fault == "unknown":
                yield Finding("unknown-file", str(path / key), f"{key} is none of an image's notes", (str(path / key),))
            elif fault:
                yield Finding("image-metadata-damaged", str(path / key), f"image {image_id}: {fault}", (image_id, key))


def _fault_of(path: object, key: str) -> str:
    """Say what is wrong with one note; empty if nothing is."""
    if key.startswith(".tmp-"):
        return ""
    if key not in NOTES:
        return "unknown"
    raw = b""
    try:
        raw = read_small(str(path))
        if key == "parent":
            parse_digest(raw.decode("ascii", "replace"))
        elif key == "lastUpdated":
            parse_time(raw.decode("ascii", "replace").strip())
        elif raw != b"\x01":
            return f"builtLocally is {raw[:32]!r}, not the byte 1"
    except FileNotFoundError:
        return ""
    except InvalidArgument:
        return f"its {key} is {raw[:80]!r}"
    except (LamellaError, OSError) as error:
        return str(error)
    return ""


def find_parents(survey: Survey) -> dict[ImageID, ImageID]:
    """Return the parent that each image's notes name, where that can be read."""
    found: dict[ImageID, ImageID] = {}
    for image_id in survey.images:
        path = survey.imagedb / "metadata" / "sha256" / image_id[7:] / "parent"
        try:
            found[image_id] = ImageID(parse_digest(read_small(path).decode("ascii", "replace")))
        except (LamellaError, OSError):
            continue
    return found


def check_parents(survey: Survey) -> Iterator[Finding]:
    """Check that each parent that is noted exists, and none is its own ancestor."""
    parents = find_parents(survey)
    for image_id, parent in parents.items():
        path = survey.imagedb / "metadata" / "sha256" / image_id[7:] / "parent"
        if parent not in survey.images:
            text = f"image {image_id} is said to come from {parent}, which does not exist"
            yield Finding("image-parent-unknown", str(path), text, (image_id,))
            continue
        seen = {image_id}
        current: ImageID | None = parent
        while current is not None and current not in seen:
            seen.add(current)
            current = parents.get(current)
        if current == image_id:
            yield Finding(
                "image-parent-unknown", str(path), f"image {image_id} is said to be its own ancestor", (image_id,)
            )


def check_names(survey: Survey) -> Iterator[Finding]:
    """Check that nothing else lies among the configs."""
    content = survey.imagedb / "content" / "sha256"
    for name in list_names(content):
        if not is_hex64(name) and not name.startswith(".tmp-"):
            yield Finding("unknown-file", str(content / name), f"{name} is no image's config", (str(content / name),))


CHECKS = (check_configs, check_layers_exist, check_notes, check_parents, check_names)

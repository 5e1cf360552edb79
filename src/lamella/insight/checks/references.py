"""References and what is noted about registries: they parse, they agree, and they name what is there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from lamella.errors import InvalidArgument, LamellaError
from lamella.insight.findings import Finding
from lamella.insight.survey import Survey
from lamella.model.digest import is_hex64, parse_digest
from lamella.model.documents import decode_document
from lamella.model.reference import parse_reference
from lamella.store.smallfiles import list_names, read_small

_LIMIT = 256 << 10


def check_file(survey: Survey) -> Iterator[Finding]:
    """Check that ``repositories.json`` is there and has its shape."""
    path = survey.image_dir / "repositories.json"
    if survey.references_fault == "missing":
        if survey.images:
            yield Finding("references-missing", str(path), "there is no repositories.json: no image has a name")
    elif survey.references_fault:
        yield Finding("references-damaged", str(path), f"the references cannot be read: {survey.references_fault}")


def check_entries(survey: Survey) -> Iterator[Finding]:
    """Check that each reference is one, stands under its own repository and names an image that exists."""
    path = str(survey.image_dir / "repositories.json")
    for repository, entries in survey.references.items():
        for key, image in entries.items():
            if not _fits(repository, key, image):
                text = (
                    f"the entry {key!r:.200} under {repository!r:.200} is no reference of that repository to an image"
                )
                yield Finding("reference-malformed", path, text, (repository, key))
            elif image not in survey.images:
                yield Finding(
                    "reference-unknown-image", path, f"{key} stands for image {image}, which does not exist",
                    (repository, key),
                )  # fmt: skip


def _fits(repository: str, key: str, image: str) -> bool:
    if not key.startswith((f"{repository}:", f"{repository}@")):
        return False
    try:
        parse_digest(image)
        reference = parse_reference(key)
    except InvalidArgument:
        return False
    return reference.familiar_name() == repository


def check_distribution(survey: Survey) -> Iterator[Finding]:
    """Check that both directions of what is known about blobs can be read and do not contradict each other."""
    place = survey.image_dir / "distribution"
    by_digest = place / "diffid-by-digest" / "sha256"
    by_diff = place / "v2metadata-by-diffid" / "sha256"
    claimed: dict[str, set[str]] = {}
    for name in list_names(by_diff):
        if not is_hex64(name):
            continue
        try:
            for digest in _blobs_in(by_diff / name):
                claimed.setdefault(digest, set()).add(f"sha256:{name}")
        except FileNotFoundError:
            continue
        except (LamellaError, OSError) as error:
            text = f"the note on layer {name[:12]} cannot be read: {error}"
            yield Finding("distribution-damaged", str(by_diff / name), text, (str(by_diff / name),))
    for name in list_names(by_digest):
        if not is_hex64(name):
            continue
        try:
            diff = parse_digest(read_small(by_digest / name).decode("ascii", "replace").strip())
        except FileNotFoundError:
            continue
        except (LamellaError, OSError) as error:
            text = f"the note on blob {name[:12]} cannot be read: {error}"
            yield Finding("distribution-damaged", str(by_digest / name), text, (str(by_digest / name),))
            continue
        others = claimed.get(f"sha256:{name}", set()) - {diff}
        for other in sorted(others):
            text = f"blob {name[:12]} is noted to hold layer {diff[7:19]}, and elsewhere to hold layer {other[7:19]}"
            yield Finding("distribution-damaged", str(by_digest / name), text,
                          (str(by_digest / name), str(by_diff / other[7:])))  # fmt: skip
            break


def _blobs_in(path: Path) -> list[str]:
    document = decode_document(read_small(path, _LIMIT), limit=_LIMIT, what=path.name)
    if not isinstance(document, list):
        raise InvalidArgument(f"{path.name}: not a list")
    found: list[str] = []
    for entry in document:
        if not isinstance(entry, dict) or not isinstance(entry.get("SourceRepository"), str):
            raise InvalidArgument(f"{path.name}: an entry names no repository")
        parse_reference(entry["SourceRepository"])
        found.append(parse_digest(str(entry.get("Digest"))))
    return found


CHECKS = (check_file, check_entries, check_distribution)

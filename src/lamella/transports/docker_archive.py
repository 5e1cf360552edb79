"""Archives of ``docker save``, of 20.10 (a directory a layer) and of 25 and newer (an OCI layout with a manifest.json).

Both are read the same way: ``manifest.json`` names the config and the layers, whatever directories they are in.
The forms before 1.10, without it, are refused.
"""

from __future__ import annotations

from functools import partial

from lamella.errors import InvalidArgument
from lamella.model.digest import ImageID, parse_digest
from lamella.model.documents import CONFIG_LIMIT, MANIFEST_LIMIT, decode_document
from lamella.model.reference import Reference, parse_reference
from lamella.transports.archive import Members, read_member
from lamella.transports.plans import ImagePlan, LayerSource, plan_image

MANIFEST = "manifest.json"


def plan_images(members: Members) -> list[ImagePlan]:
    """Plan the load of every image that ``manifest.json`` lists.  Raises InvalidArgument naming what is wrong."""
    manifest = decode_document(read_member(members, MANIFEST, MANIFEST_LIMIT), limit=MANIFEST_LIMIT, what=MANIFEST)
    if not isinstance(manifest, list):
        raise InvalidArgument(f"{MANIFEST}: not a list of images")
    plans = [_plan(members, item, index) for index, item in enumerate(manifest)]
    known = {plan.id: plan for plan in plans}
    return [plan if _is_child(plan, known) else plan._replace(parent=None) for plan in plans]


def _plan(members: Members, item: object, index: int) -> ImagePlan:
    what = f"{MANIFEST}: image {index}"
    if not isinstance(item, dict):
        raise InvalidArgument(f"{what} is not an object")
    config = _text(item.get("Config"), f"{what}: Config")
    layers = tuple(
        LayerSource(partial(members.open, name), None, None)
        for name in (_text(name, f"{what}: Layers") for name in _list(item.get("Layers"), f"{what}: Layers"))
    )
    references = tuple(
        _reference(_text(name, f"{what}: RepoTags")) for name in _list(item.get("RepoTags"), f"{what}: RepoTags")
    )
    parent_text = item.get("Parent")
    parent = ImageID(parse_digest(_text(parent_text, f"{what}: Parent"))) if parent_text else None
    raw = read_member(members, config, CONFIG_LIMIT)
    return plan_image(raw, layers, references, parent=parent)


def _is_child(plan: ImagePlan, known: dict[ImageID, ImagePlan]) -> bool:
    """Tell whether the parent is in the archive too, and the image is one step of history ahead of it."""
    if plan.parent is None or plan.parent not in known:
        return False
    older = known[plan.parent].config
    return (
        plan.config.history[:-1] == older.history
        and len(plan.config.history) == len(older.history) + 1
        and plan.config.diff_ids[: len(older.diff_ids)] == older.diff_ids
    )


def _reference(text: str) -> Reference:
    reference = parse_reference(text)
    if reference.digest is not None or reference.tag is None:
        raise InvalidArgument(f"invalid tag {text!r:.200} in {MANIFEST}: it must be a name with a tag")
    return reference


def _list(value: object, what: str) -> list[object]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise InvalidArgument(f"{what} is not a list")
    return value


def _text(value: object, what: str) -> str:
    if not isinstance(value, str) or not value:
        raise InvalidArgument(f"{what} is not a name")
    return value

"""Garbage collection on a store: what the planner needs is read, and what it planned is done, each step checked anew.

A step is done only if nothing that the plan took into account has changed: the image still has just its names, no
container uses it, no image was made from it since and it was not used since.  A step that no longer fits is left out
and said so.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from lamella.errors import DataLoss, InvalidArgument
from lamella.insight.gc import Candidate, Done, Plan, Step, Stock, make_plan
from lamella.insight.ledger import Accounts, count
from lamella.insight.policy import NAME, Policy, is_pinned, parse_policy
from lamella.insight.summary import layer_sum, record_sum
from lamella.insight.usage import Remembered
from lamella.model.digest import ImageID, hex_of, parse_digest
from lamella.model.gojson import parse_time
from lamella.model.ids import short_id
from lamella.readers.docker import DockerReader
from lamella.store.imagestore import ImageStore
from lamella.store.lastuse import LastUse
from lamella.store.smallfiles import find_small

PINS = "pins"
_LIMIT = 1 << 20
_FILE = "file "
_RECORD = "record "


class Collection(NamedTuple):
    """A plan, and what it was made from."""

    plan: Plan
    stock: Stock
    tables: int
    """Bytes by which the table of names gets smaller."""


# ---------------------------------------------------------------------------------------------------- policy and pins


def read_policy(root: Path, file: Path | None) -> Policy:
    """Read the policy *file*, else the store's own one, else none.  Raises PolicyError, NotFound."""
    from lamella.errors import NotFound

    path = root / "lamella" / NAME if file is None else file
    raw = find_small(path, _LIMIT) if file is None or path.is_file() else None
    if raw is None:
        if file is not None:
            raise NotFound(f"{file}: no such policy file")
        return Policy()
    return parse_policy(raw, str(path))


def read_pins(root: Path) -> list[str]:
    """Return the names and IDs that were pinned by command."""
    raw = find_small(root / "lamella" / PINS, _LIMIT) or b""
    return [line for line in raw.decode("utf-8", "replace").splitlines() if line]


def change_pins(parts: ImageStore, add: Sequence[str] = (), remove: Sequence[str] = ()) -> list[str]:
    """Pin and unpin images, durable on return; return all pins.  Raises NotFound for what is not pinned."""
    from lamella.errors import NotFound
    from lamella.fs.atomic import write_file

    with parts.root.writing():
        pins = read_pins(parts.root.path)
        for pin in remove:
            if pin not in pins:
                raise NotFound(f"{pin} is not pinned")
            pins.remove(pin)
        pins += [pin for pin in dict.fromkeys(add) if pin not in pins]
        write_file(parts.root.lamella_dir / PINS, "".join(f"{pin}\n" for pin in pins).encode())
    return pins


# ---------------------------------------------------------------------------------------------------- planning


def plan_collection(reader: DockerReader, policy: Policy, memory: Path | None, *, now: int = 0) -> Collection:
    """Plan a garbage collection of the store that *reader* reads; nothing in it is changed.

    *memory* is where the sizes of layers are remembered, *now* the moment it is for, in nanoseconds since the epoch, 0
    for the present.  Raises InvalidArgument for a policy that selects nothing but dangling images.
    """
    if not policy.selects:
        raise InvalidArgument(
            f"there is no policy: write {reader.root}/lamella/{NAME}, or give --unused-for, --keep or --budget"
        )
    accounts = count(reader, Remembered(memory))
    policy = policy._replace(pins=(*policy.pins, *read_pins(reader.root)))
    stock = take_stock(accounts, now or time.time_ns())
    plan = make_plan(stock, policy)
    tables = _shrinking(reader, plan)
    return Collection(plan._replace(after=plan.after - tables), stock, tables)


def take_stock(accounts: Accounts, now: int) -> Stock:
    """Say what a store holds in the planner's terms."""
    holding = accounts.holding
    sizes: dict[str, int] = {layer: layer_sum(accounts, layer).bytes for layer in holding.holders}
    needed = set(holding.used_layers) | holding.built_on
    for stored in holding.layers.values():  # what stands on it may be a layer that no image has
        below = stored.parent
        if stored.id in holding.holders or below is None:
            continue
        while below is not None and below not in needed and below in holding.layers:
            needed.add(below)
            below = holding.layers[below].parent
    holds = {image.id: {*image.layers, f"{_RECORD}{image.id}"} for image in holding.images.values()}
    sizes.update((f"{_RECORD}{image}", record_sum(accounts, image).bytes) for image in holding.images)
    for number, shared in enumerate(accounts.shared_files()):
        thing = f"{_FILE}{number}"
        sizes[thing] = shared.bytes
        if shared.payer.item in holding.holders:
            sizes[shared.payer.item] -= shared.bytes
        for owner in shared.owners:
            if owner.item not in holding.holders:
                needed.add(thing)
            for image in holding.holders.get(owner.item, ()):
                holds[image].add(thing)
    arrived = _arrivals(accounts)
    images: dict[str, Candidate] = {}
    for record in holding.images.values():
        try:
            config = record.config
        except DataLoss:  # it may have a label that keeps it
            needed.update(holds[record.id])
            continue
        images[record.id] = Candidate(
            id=record.id,
            names=tuple(sorted((*record.names, *record.digests))),
            parent=record.parent,
            created=parse_time(config.created) if config.created else 0,
            last_used=min(arrived.get(record.id, 0), now),
            labels=config.config.labels,
            holds=frozenset(holds[record.id]),
        )
    return Stock(
        images=images,
        sizes=sizes,
        held=frozenset(needed),
        used={container.image: container.name or short_id(container.id) for container in holding.containers},
        total=accounts.total().bytes,
        now=now,
    )


def _arrivals(accounts: Accounts) -> dict[str, int]:
    """Return when each image was last used, as far as anything tells: lamella's stamp, Docker's last tag, its file."""
    root, driver = accounts.reader.root, accounts.reader.driver
    stamps = LastUse(root / "lamella").read()
    database = f"{root}/image/{driver}/imagedb"
    found: dict[str, int] = {}
    for image in accounts.holding.images:
        moments = [stamps.get(image, 0)]
        with suppress(OSError):
            moments.append(os.lstat(f"{database}/content/sha256/{hex_of(image)}").st_mtime_ns)
        with suppress(OSError):
            moments.append(os.lstat(f"{database}/metadata/sha256/{hex_of(image)}/lastUpdated").st_mtime_ns)
        found[image] = max(moments)
    return found


def _shrinking(reader: DockerReader, plan: Plan) -> int:
    """Return by how many bytes on the disk the table of names gets smaller."""
    from lamella.store.tags import shrunk_size

    path = reader.root / "image" / reader.driver / "repositories.json"
    gone = {image for step in plan.steps for image in step.removes}
    if not any(step.names for step in plan.steps):
        return 0
    try:
        unit = os.statvfs(reader.root).f_frsize
        size = shrunk_size(path, gone)
        return os.lstat(path).st_blocks * 512 - -(-size // unit) * unit
    except (OSError, InvalidArgument):
        return 0


# ---------------------------------------------------------------------------------------------------- doing it


def carry_out(parts: ImageStore, collection: Collection) -> Iterator[Done]:
    """Do a plan step by step and yield what became of each.  Raises InUse while a dockerd runs on the store."""
    stock = collection.stock
    removed: set[str] = set()
    freed: set[str] = set()
    for step in collection.plan.steps:
        images: list[str] = []
        skipped = ""
        layers: list[str] = []
        with parts.root.writing():
            for image in step.removes:
                skipped = _objection(parts, stock, image)
                if skipped:
                    break
                identity = ImageID(parse_digest(image))
                references = parts.tags.references(identity)
                if references:
                    parts.tags.remove(*references)
                layers += parts.delete_image(identity)
                images.append(image)
        removed.update(images)
        gone = set(layers) | {f"{_RECORD}{image}" for image in images} | _files_gone(stock, step, removed)
        size = sum(stock.sizes.get(thing, 0) for thing in gone - freed)
        freed |= gone
        yield Done(step, tuple(images), size, skipped)
    _forget_strangers(parts)


def _files_gone(stock: Stock, step: Step, removed: set[str]) -> set[str]:
    """Return the shared files whose last holder has gone."""
    mine = {thing for thing in step.frees if thing.startswith(_FILE)}
    for image in stock.images.values() if mine else ():
        if image.id not in removed:
            mine -= image.holds
    return mine


def _objection(parts: ImageStore, stock: Stock, image: str) -> str:
    """Return why an image of the plan has to stay now, empty if it may go."""
    identity = ImageID(parse_digest(image))
    planned = stock.images[image]
    shown = planned.names[0] if planned.names else short_id(image)
    if not parts.images.exists(identity):
        return f"{shown} is gone already"
    names = tuple(sorted(reference.familiar() for reference in parts.tags.references(identity)))
    if names != planned.names:
        return f"the names of {shown} have changed"
    for record in parts.containers.iter_records():
        if record.image == image:
            return f"container {record.name} uses {shown}"
    for child in parts.images.iter_children(identity):
        if parts.images.exists(child):
            return f"image {short_id(child)} was made from {shown}"
    if any(is_pinned(pin, image, names) for pin in read_pins(parts.root.path)):
        return f"{shown} was pinned"
    if parts.last_use.read_one(image) > planned.last_used:
        return f"{shown} was used meanwhile"
    return ""


def _forget_strangers(parts: ImageStore) -> None:
    """Remove the stamps of images that are not there: one used while it was removed leaves one."""
    with parts.root.writing():
        for image in parts.last_use.read():
            identity = ImageID(parse_digest(image))
            if not parts.images.exists(identity):
                parts.last_use.forget(identity)

"""Where the disk went, and what may go: the ledger of any store, and garbage collection of one of ours."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from lamella.engine.opened import STATE_ROOT
from lamella.errors import Unsupported
from lamella.insight.gc import Done, Plan
from lamella.insight.policy import Policy, parse_age
from lamella.insight.summary import Ledger
from lamella.readers.detect import open_reader

if TYPE_CHECKING:
    from lamella.engine.opened import Opened
    from lamella.insight.collect import Collection
    from lamella.readers.base import StoreReader
    from lamella.readers.docker import DockerReader

__all__ = [
    "Done",
    "Ledger",
    "Plan",
    "Policy",
    "SummaryRow",
    "parse_age",
    "plan_gc",
    "read_ledger",
    "summarize",
]


def read_ledger(root: Path, *, recount: bool = False, state: Path | None = None) -> Ledger:
    """Account for all that the store at *root*, of whatever engine, takes on the disk; see ``insight.ledger``.

    The store may be in use; nothing in it is changed, but what was measured of its layers is remembered: in its own
    ``lamella/`` if it has one, else in *state* for as long as the machine is up.  *recount* measures all anew.
    """
    from lamella.insight.ledger import count
    from lamella.insight.summary import make_ledger
    from lamella.insight.usage import Remembered

    reader = open_reader(root)
    return make_ledger(count(reader, Remembered(_memory(reader, state)), recount=recount))


def _memory(reader: StoreReader, state: Path | None) -> Path | None:
    """Return the file in which the sizes of layers are remembered: in the store if it is lamella's too."""
    from lamella.insight.ledger import own_memory

    own = own_memory(reader.root, reader.kind)
    if own is not None:
        return own
    from lamella.container.site import state_directory

    place = state_directory(reader.root, STATE_ROOT) if state is None else state
    try:
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError:
        return None
    return place / "usage"


class SummaryRow(NamedTuple):
    """A line of Docker's summary: sizes are the lengths of files, as Docker counts them."""

    type: str
    total: int
    active: int
    size: int
    reclaimable: int


def summarize(root: Path) -> Sequence[SummaryRow]:
    """Say what ``docker system df`` says of the store at *root*; image layers are not looked at, only their records.

    What of images is reclaimable are the layers that no container stands on, which Docker overstates.
    """
    from lamella.insight.ledger import LIVE, read_holding

    reader = open_reader(root)
    holding = read_holding(reader)
    sizes = {layer.id: layer.size or 0 for layer in holding.layers.values() if layer.role == "image"}
    shown = [
        image for image in holding.images.values() if image.names or image.digests or image.id not in holding.parents
    ]
    active = sum(image.id in holding.used_images for image in shown)
    total = sum(sizes.values())
    used = sum(size for layer, size in sizes.items() if layer in holding.used_layers)
    rows = [SummaryRow("Images", len(shown), active, total, total - used)]
    size = freed = 0
    for container in holding.containers:
        top = holding.layers.get(container.layers[-1]) if container.layers else None
        length = _length(top.directory) if top is not None and top.role == "writable" else 0
        size += length
        freed += 0 if container.status in LIVE else length
    running = sum(container.status in LIVE for container in holding.containers)
    rows.append(SummaryRow("Containers", len(holding.containers), running, size, freed))
    mounted = {name for container in holding.containers for name in container.volumes}
    volumes = {volume.name: _length(volume.directory) for volume in reader.volumes()}
    free = sum(length for name, length in volumes.items() if name not in mounted)
    rows.append(SummaryRow("Local Volumes", len(volumes), len(mounted & volumes.keys()), sum(volumes.values()), free))
    rows.append(
        _build_cache(reader.root, [layer.size or 0 for layer in holding.layers.values() if layer.role == "build"])
    )
    return rows


def _build_cache(root: Path, layers: Sequence[int]) -> SummaryRow:
    from lamella.store.cachemounts import CacheMounts

    caches = list(CacheMounts(root / "lamella").iter_mounts())
    busy = [cache for cache in caches if cache.in_use]
    size = sum(cache.size for cache in caches) + sum(layers)
    return SummaryRow(
        "Build Cache", len(caches) + len(layers), len(busy), size, size - sum(cache.size for cache in busy)
    )


def _length(directory: Path) -> int:
    from lamella.fs.usage import layer_size

    try:
        return layer_size(directory)
    except FileNotFoundError:
        return 0


# ---------------------------------------------------------------------------------------------------- garbage collection


def read_policy(root: Path, file: Path | None) -> Policy:
    """Read the policy *file*, else the store's own one.  Raises PolicyError, which names file and line."""
    from lamella.insight.collect import read_policy as read

    return read(root, file)


def plan_gc(root: Path, policy: Policy, *, state: Path | None = None) -> Plan:
    """Plan what *policy* wants removed of the store at *root*; nothing is changed."""
    return _plan(root, policy, state).plan


def _plan(root: Path, policy: Policy, state: Path | None) -> Collection:
    from lamella.insight.collect import plan_collection

    reader = _docker_reader(root)
    return plan_collection(reader, policy, _memory(reader, state))


def _docker_reader(root: Path) -> DockerReader:
    from lamella.readers.docker import DockerReader

    reader = open_reader(root)
    if not isinstance(reader, DockerReader):
        raise Unsupported(
            f"{root} is a store of {reader.kind}: lamella collects garbage in stores of Docker's layout only"
        )
    return reader


def collect_garbage(opened: Opened, policy: Policy) -> tuple[Plan, Iterator[Done]]:
    """Plan, and carry out as the result is iterated; what changed since the plan is left out and said so."""
    from lamella.insight.collect import carry_out

    collection = _plan(opened.root, policy, opened.state)
    return collection.plan, carry_out(opened.parts, collection)


def list_pins(root: Path) -> list[str]:
    """Return the pins of the store at *root*, in the order in which they were set."""
    from lamella.insight.collect import read_pins

    return read_pins(root)


def pin_images(opened: Opened, names: Sequence[str]) -> list[str]:
    """Pin images by what the user calls them: a name of one stays a name, whichever image bears it; an ID is an ID."""
    from lamella.insight.collect import change_pins

    return change_pins(opened.parts, add=[_pin_of(opened, name) for name in names])


def unpin_images(opened: Opened, names: Sequence[str]) -> list[str]:
    """Take pins away; what was pinned need not exist any more.  Raises NotFound for what is not pinned."""
    from lamella.errors import LamellaError
    from lamella.insight.collect import change_pins, read_pins

    pins = read_pins(opened.root)
    wanted = []
    for name in names:
        pin = name
        if name not in pins:
            try:
                pin = _pin_of(opened, name)
            except LamellaError:
                pin = name
        wanted.append(pin)
    return change_pins(opened.parts, remove=wanted)


def _pin_of(opened: Opened, name: str) -> str:
    from lamella.engine.removal import is_id_prefix
    from lamella.model.reference import parse_tagged

    image = opened.parts.resolve(name)
    return image if is_id_prefix(image, name) else parse_tagged(name).familiar()

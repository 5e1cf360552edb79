"""Which images to remove, in which order, and what each frees: the planner of garbage collections.

It knows images as holders of things with a size (layers, their own files, files that layers share): a thing is freed
with the last image that holds it, unless somebody else does.  Nothing here reads or changes a store.

An image goes only after all that were made from it.  Images without a name that others were made from follow the last
of these.  What the policy selects goes in any case; for the sake of a budget the least recently used go, and then each
one that turned out not to be needed for it stays after all, the most recently used first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from lamella.insight.policy import Policy, has_label, is_pinned
from lamella.model.ids import short_id


class Candidate(NamedTuple):
    """One image."""

    id: str
    names: tuple[str, ...] = ()
    """Its references, tags and digests."""
    parent: str = ""
    created: int = 0
    last_used: int = 0
    """When it was last used or came into the store; nanoseconds since the epoch, as `created`."""
    labels: Mapping[str, str] = {}
    holds: frozenset[str] = frozenset()
    """The things that it needs."""


class Stock(NamedTuple):
    """What a store holds, as far as planning cares."""

    images: Mapping[str, Candidate]
    sizes: Mapping[str, int]
    """Bytes on the disk of each thing."""
    held: frozenset[str] = frozenset()
    """Things that others than images need."""
    used: Mapping[str, str] = {}
    """Images that containers use, and the name of one."""
    total: int = 0
    """Bytes on the disk of everything in the store."""
    now: int = 0


class Step(NamedTuple):
    """The removal of one image, and of the nameless ones that it alone was made from."""

    image: str
    names: tuple[str, ...]
    reason: str
    removes: tuple[str, ...]
    """All images that go, in order."""
    frees: tuple[str, ...]
    """The things that go with them."""
    bytes: int
    last_used: int


class Done(NamedTuple):
    """What became of one step."""

    step: Step
    removed: Sequence[str]
    """Images."""
    bytes: int
    """What their removal freed."""
    skipped: str
    """Why something of the step was left out, else empty."""


class Kept(NamedTuple):
    """An image that stays although something else would let it go."""

    image: str
    names: tuple[str, ...]
    reason: str


class Plan(NamedTuple):
    """The steps in order, each with what it frees once those before it are done."""

    steps: tuple[Step, ...]
    kept: tuple[Kept, ...]
    before: int
    """Bytes of the store on the disk."""
    after: int
    budget: int | None

    @property
    def within_budget(self) -> bool:
        """Whether the budget is kept in the end."""
        return self.budget is None or self.after <= self.budget


def make_plan(stock: Stock, policy: Policy) -> Plan:
    """Plan what *policy* wants removed of *stock*."""
    planner = _Planner(stock, policy)
    planner.select()
    planner.fit_budget()
    return planner.plan()


class _Shelf:
    """Images and things as they are after some removals."""

    def __init__(self, stock: Stock) -> None:
        self.stock = stock
        self.left = dict.fromkeys(stock.images)
        self.children: dict[str, int] = {}
        self.holders: dict[str, int] = {}
        for image in stock.images.values():
            if image.parent in stock.images:
                self.children[image.parent] = self.children.get(image.parent, 0) + 1
            for thing in image.holds:
                self.holders[thing] = self.holders.get(thing, 0) + 1
        self.freed = 0

    def remove(self, image: str) -> list[str]:
        """Remove one image; return the things that go."""
        del self.left[image]
        self._count_child(image, -1)
        gone = []
        for thing in sorted(self.stock.images[image].holds):
            self.holders[thing] -= 1
            if not self.holders[thing] and thing not in self.stock.held:
                gone.append(thing)
                self.freed += self.stock.sizes.get(thing, 0)
        return gone

    def restore(self, image: str) -> None:
        """Take a removal back."""
        self.left[image] = None
        self._count_child(image, 1)
        for thing in self.stock.images[image].holds:
            if not self.holders[thing] and thing not in self.stock.held:
                self.freed -= self.stock.sizes.get(thing, 0)
            self.holders[thing] += 1

    def _count_child(self, image: str, change: int) -> None:
        parent = self.stock.images[image].parent
        if parent in self.stock.images:
            self.children[parent] += change


class _Planner:
    def __init__(self, stock: Stock, policy: Policy) -> None:
        self.stock = stock
        self.policy = policy
        self.shelf = _Shelf(stock)
        self.protected = _protected(stock, policy)
        self.newest = _newest(stock, policy)
        self.chosen: list[tuple[str, str]] = []
        """Images with the reason, in order."""
        self.removes: dict[str, list[str]] = {}
        self.order = _by_use(stock)

    def select(self) -> None:
        """Remove what the policy selects in any case."""
        for rank in range(3):
            for image in self.order:
                reason = self._selection(image, rank)
                if reason:
                    self._take(image, reason)

    def fit_budget(self) -> None:
        """Remove the least recently used until the budget is kept, then let stay what that did not need."""
        budget = self.policy.budget
        if budget is None:
            return
        first = len(self.chosen)
        for image in self.order:
            if self.stock.total - self.shelf.freed <= budget:
                break
            if self._is_free(image):
                self._take(image, "least recently used")
        if self.stock.total - self.shelf.freed > budget:
            return
        for image, _ in reversed(self.chosen[first:]):
            removed = self.removes[image]
            if any(ancestor not in self.shelf.left and ancestor not in removed for ancestor in self._ancestors(image)):
                continue
            for one in removed:
                self.shelf.restore(one)
            if self.stock.total - self.shelf.freed > budget:
                for one in removed:
                    self.shelf.remove(one)
                continue
            del self.removes[image]
        self.chosen = [item for item in self.chosen if item[0] in self.removes]

    def plan(self) -> Plan:
        """Go through what was chosen from the start, and count."""
        shelf = _Shelf(self.stock)
        steps = []
        for image, reason in self.chosen:
            before = shelf.freed
            removes = [image]
            frees = shelf.remove(image)
            while (parent := self._follower(shelf, removes[-1])) is not None:
                removes.append(parent)
                frees += shelf.remove(parent)
            found = self.stock.images[image]
            freed = shelf.freed - before
            steps.append(Step(image, found.names, reason, tuple(removes), tuple(frees), freed, found.last_used))
        return Plan(
            steps=tuple(steps),
            kept=tuple(self._kept(shelf)),
            before=self.stock.total,
            after=self.stock.total - shelf.freed,
            budget=self.policy.budget,
        )

    # ------------------------------------------------------------------------------------------------ internals

    def _selection(self, image: str, rank: int) -> str:
        found, policy = self.stock.images[image], self.policy
        if not self._is_free(image):
            return ""
        if rank == 0:
            return next((f"label {label}" for label in policy.drop_labels if has_label(label, found.labels)), "")
        if rank == 1:
            return "no name" if policy.dangling and not found.names else ""
        if policy.unused_for is not None:
            return "not used for long" if found.last_used < self.stock.now - policy.unused_for else ""
        if policy.keep is not None and policy.budget is None and found.names:
            return f"not among the newest {policy.keep}"
        return ""

    def _is_free(self, image: str) -> bool:
        if image not in self.shelf.left or image in self.protected or self.shelf.children.get(image):
            return False
        found = self.stock.images[image]
        return image not in self.newest and (bool(found.names) or self.policy.dangling)

    def _take(self, image: str, reason: str) -> None:
        removes = [image]
        self.shelf.remove(image)
        while (parent := self._follower(self.shelf, removes[-1])) is not None:
            removes.append(parent)
            self.shelf.remove(parent)
        self.chosen.append((image, reason))
        self.removes[image] = removes

    def _follower(self, shelf: _Shelf, image: str) -> str | None:
        """Return the image that goes with one that was just removed."""
        parent = self.stock.images[image].parent
        if parent not in shelf.left or parent in self.protected or shelf.children.get(parent):
            return None
        return None if self.stock.images[parent].names else parent

    def _ancestors(self, image: str) -> Iterable[str]:
        seen = {image}
        parent = self.stock.images[image].parent
        while parent in self.stock.images and parent not in seen:
            seen.add(parent)
            yield parent
            parent = self.stock.images[parent].parent

    def _kept(self, shelf: _Shelf) -> Iterable[Kept]:
        made_from: dict[str, str] = {}
        for image in shelf.left:
            made_from.setdefault(self.stock.images[image].parent, image)
        for image in self.order:
            found = self.stock.images[image]
            if image not in shelf.left or (not found.names and image in made_from):
                continue
            reason = self.protected.get(image) or self.newest.get(image, "")
            if not reason and image in made_from:
                child = self.stock.images[made_from[image]]
                reason = f"{(child.names or (short_id(child.id),))[0]} was made from it"
            if reason:
                yield Kept(image, found.names, reason)


def _protected(stock: Stock, policy: Policy) -> dict[str, str]:
    """Return the images that stay whatever selects them, each with the reason."""
    found: dict[str, str] = {}
    for image in stock.images.values():
        pin = next((pin for pin in policy.pins if is_pinned(pin, image.id, image.names)), None)
        label = next((label for label in policy.keep_labels if has_label(label, image.labels)), None)
        if image.id in stock.used:
            found[image.id] = f"container {stock.used[image.id]} uses it"
        elif pin is not None:
            found[image.id] = f"pinned by {pin}"
        elif label is not None:
            found[image.id] = f"label {label}"
        elif image.last_used > stock.now - policy.minimum_age:
            found[image.id] = "used or stored lately"
    return found


def _newest(stock: Stock, policy: Policy) -> dict[str, str]:
    """Return the images that are among the newest of one of their repositories."""
    if not policy.keep:
        return {}
    repositories: dict[str, list[Candidate]] = {}
    for image in stock.images.values():
        for name in image.names:
            repository = name.partition("@")[0] if "@" in name else name.rpartition(":")[0]
            of_it = repositories.setdefault(repository, [])
            if image not in of_it[-1:]:
                of_it.append(image)
    found: dict[str, str] = {}
    for repository, images in repositories.items():
        images.sort(key=lambda image: (image.created, image.last_used, image.id), reverse=True)
        for newest in list(dict.fromkeys(image.id for image in images))[: policy.keep]:
            found.setdefault(newest, f"among the newest {policy.keep} of {repository}")
    return found


def _by_use(stock: Stock) -> Sequence[str]:
    """Order images by last use, each after those that were made from it; using these is using it."""
    used = {image.id: image.last_used for image in stock.images.values()}
    depth: dict[str, int] = {}
    for image in stock.images.values():
        path = [image.id]
        while (parent := stock.images[path[-1]].parent) in stock.images and parent not in path:
            path.append(parent)
            used[parent] = max(used[parent], image.last_used)
        depth[image.id] = len(path)
    return sorted(stock.images, key=lambda image: (used[image], -depth[image], image))

"""``--filter`` for images and containers: which of them a list shows."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from lamella.errors import InvalidArgument, NotFound
from lamella.model.filters import match_pairs, parse_bool, parse_filters
from lamella.model.gojson import parse_time
from lamella.model.units import parse_duration

if TYPE_CHECKING:
    from lamella.model.reference import Reference

IMAGE_FILTERS = ("before", "dangling", "label", "reference", "since", "until")
CONTAINER_FILTERS = (
    "ancestor", "before", "exited", "expose", "health", "id", "is-task", "label", "name", "network", "publish", "since",
    "status", "volume",
)  # fmt: skip
STATES = ("created", "running", "paused", "restarting", "removing", "exited", "dead")
HEALTH = ("starting", "healthy", "unhealthy", "none")
_SECOND = 1_000_000_000


class ListedImage(Protocol):
    """What the filters look at of an image."""

    references: list[Reference]

    @property
    def created(self) -> int:
        """When it was made."""
        ...

    @property
    def labels(self) -> dict[str, str]:
        """Its labels."""
        ...


class ListedContainer(Protocol):
    """What the filters look at of a container."""

    @property
    def id(self) -> str:
        """Its ID."""
        ...

    @property
    def name(self) -> str:
        """Its name."""
        ...

    @property
    def created(self) -> int:
        """When it was created."""
        ...

    @property
    def state(self) -> str:
        """What it is now."""
        ...

    @property
    def exit_code(self) -> int:
        """How it ended."""
        ...

    @property
    def image_id(self) -> str:
        """Its image."""
        ...

    @property
    def labels(self) -> dict[str, str]:
        """Its labels."""
        ...

    @property
    def networks(self) -> list[str]:
        """Its networks."""
        ...

    @property
    def mounts(self) -> list[dict[str, object]]:
        """Its mounts."""
        ...


def parse_moment(text: str, now: int) -> int:
    """Read a point in time, in nanoseconds: RFC 3339, a date, seconds since the epoch, or a duration before *now*."""
    if re.fullmatch(r"[0-9]+(\.[0-9]{1,9})?", text, re.ASCII):
        seconds, _, fraction = text.partition(".")
        return int(seconds) * _SECOND + int(fraction.ljust(9, "0"))
    if re.fullmatch(r"\d{4}-\d\d-\d\d", text, re.ASCII):
        return parse_time(f"{text}T00:00:00Z")
    if re.match(r"\d{4}-\d\d-\d\dT", text, re.ASCII):
        return parse_time(text if re.search(r"(Z|[+-]\d\d:\d\d)$", text) else f"{text}Z")
    return now - parse_duration(text)


def image_test(filters: Sequence[str], find: Callable[[str], ListedImage], now: int) -> Callable[[ListedImage], bool]:
    """Return the test that *filters* ask of an image; ``reference`` is left to :func:`select_references`."""
    wanted = parse_filters(filters, IMAGE_FILTERS)
    dangling = parse_bool("dangling", wanted.get("dangling", []))
    before = [find(name).created for name in wanted.get("before", [])]
    since = [find(name).created for name in wanted.get("since", [])]
    until = [parse_moment(text, now) for text in wanted.get("until", [])]

    def passes(image: ListedImage) -> bool:
        return (
            (dangling is None or dangling == (not image.references))
            and match_pairs(wanted.get("label", []), image.labels)
            and all(image.created < moment for moment in before)
            and all(image.created > moment for moment in since)
            and all(image.created <= moment for moment in until)
        )

    return passes


def reference_patterns(filters: Sequence[str]) -> list[str]:
    """Return the values of ``reference``, each a pattern of a familiar name with or without a tag."""
    return parse_filters(filters, IMAGE_FILTERS).get("reference", [])


def matches_reference(pattern: str, name: str, familiar: str) -> bool:
    """Match *pattern* as Go's ``path.Match`` does: ``*`` and ``?`` do not cross a slash."""
    expression = _glob(pattern)
    return bool(expression.fullmatch(name) or expression.fullmatch(familiar))


def _glob(pattern: str) -> re.Pattern[str]:
    out = ""
    position = 0
    while position < len(pattern):
        character = pattern[position]
        position += 1
        if character == "*":
            out += "[^/]*"
        elif character == "?":
            out += "[^/]"
        elif character == "[" and (end := pattern.find("]", position + 1)) > 0:
            body = pattern[position:end].replace("\\", "\\\\").replace("[", "\\[")
            out += f"[{body}]"
            position = end + 1
        elif character == "\\" and position < len(pattern):
            out += re.escape(pattern[position])
            position += 1
        else:
            out += re.escape(character)
    try:
        return re.compile(out, re.DOTALL)
    except re.error:
        raise InvalidArgument(f"invalid filter 'reference={pattern}': syntax error in pattern") from None


def container_test(
    filters: Sequence[str], find: Callable[[str], ListedContainer], lineage: Callable[[str], set[str]]
) -> Callable[[ListedContainer], bool]:
    """Return the test that *filters* ask of a container; *lineage* gives an image's ID and those of its descendants."""
    wanted = parse_filters(filters, CONTAINER_FILTERS)
    for state in wanted.get("status", []):
        if state not in STATES:
            raise InvalidArgument(f"invalid filter 'status={state}'; use one of: {', '.join(STATES)}")
    for health in wanted.get("health", []):
        if health not in HEALTH:
            raise InvalidArgument(f"invalid filter 'health={health}'; use one of: {', '.join(HEALTH)}")
    # No container of lamella's has ports or a health: there is one answer for all.
    excluded = "publish" in wanted or "expose" in wanted or "none" not in wanted.get("health", ["none"])
    ancestors = _ancestors(wanted.get("ancestor", []), lineage)
    before = [find(name).created for name in wanted.get("before", [])]
    since = [find(name).created for name in wanted.get("since", [])]
    names = [_regular(text) for text in wanted.get("name", [])]
    identities = [_regular(text) for text in wanted.get("id", [])]
    exited = [_number(text) for text in wanted.get("exited", [])]

    def passes(container: ListedContainer) -> bool:
        state = container.state
        return (
            not excluded
            and ("status" not in wanted or state in wanted["status"])
            and match_pairs(wanted.get("label", []), container.labels)
            and all(container.created < moment for moment in before)
            and all(container.created > moment for moment in since)
            and (not names or any(p.search(container.name) or p.search(f"/{container.name}") for p in names))
            and (not identities or any(p.match(container.id) for p in identities))
            and (ancestors is None or container.image_id in ancestors)
            and (not exited or (state == "exited" and container.exit_code in exited))
            and ("network" not in wanted or any(name in container.networks for name in wanted["network"]))
            and ("volume" not in wanted or any(_has_mount(container.mounts, text) for text in wanted["volume"]))
        )

    return passes


def implies_all(filters: Sequence[str]) -> bool:
    """Tell whether a list with *filters* includes containers that do not run, asked or not."""
    wanted = parse_filters(filters, CONTAINER_FILTERS)
    return "status" in wanted or "exited" in wanted


def _ancestors(names: Sequence[str], lineage: Callable[[str], set[str]]) -> set[str] | None:
    if not names:
        return None
    found: set[str] = set()
    for name in names:
        try:
            found |= lineage(name)
        except NotFound:
            continue
    return found


def _has_mount(mounts: Sequence[Mapping[str, object]], text: str) -> bool:
    return any(text in {mount.get("Name"), mount.get("Source"), mount.get("Destination")} for mount in mounts)


def _regular(text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as error:
        raise InvalidArgument(f"invalid filter: {text!r} is not a regular expression: {error}") from error


def _number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise InvalidArgument(f"invalid filter 'exited={text}': give an exit code") from None

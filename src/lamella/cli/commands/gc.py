"""``gc plan`` and ``gc apply``: remove images by a policy; ``pin`` and ``unpin``: keep it off some."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from lamella.cli.command import Command
from lamella.cli.flags import Flag, UsageError, Values
from lamella.errors import InvalidArgument

if TYPE_CHECKING:
    from lamella.cli.context import Context
    from lamella.cli.output import Output
    from lamella.engine.ledger import Done, Plan, Policy


def run_plan(context: Context, flags: Values, _arguments: list[str]) -> int:
    """Show what would be removed; the exit code is 1 if a budget cannot be kept."""
    from lamella.cli.commands.df import as_document, state_of
    from lamella.engine.ledger import plan_gc

    plan = plan_gc(context.root, _policy(context, flags), state=state_of(context))
    if flags.on("json"):
        import json

        context.output.json(json.dumps(as_document(plan), indent=2, ensure_ascii=False))
    else:
        _show(context.output, plan, kept=True)
    return 0 if plan.within_budget else 1


def run_apply(context: Context, flags: Values, _arguments: list[str]) -> int:
    """Remove what the policy lets go; the exit code is 1 if something was left out or a budget is not kept."""
    from lamella.cli.commands.df import as_document
    from lamella.cli.output import confirm

    policy = _policy(context, flags)
    plan, steps = context.store().collect_garbage(policy)
    as_json = flags.on("json")
    if not as_json:
        _show(context.output, plan, kept=False)
    if plan.steps and not flags.on("force"):
        context.output.flush()
        if not confirm("Are you sure you want to continue? [y/N] ", input):
            return 0
    done: list[Done] = []
    for item in steps:
        done.append(item)
        if not as_json:
            _say(context.output, item)
            context.output.flush()
    freed = sum(item.bytes for item in done)
    if as_json:
        import json

        context.output.json(json.dumps({"freed": freed, "steps": as_document(done)}, indent=2, ensure_ascii=False))
    elif plan.steps:
        context.output.line(f"Freed {_size(freed)} ({freed} bytes)")
    return 1 if any(item.skipped for item in done) or not plan.within_budget else 0


def _show(output: Output, plan: Plan, *, kept: bool) -> None:
    from lamella.cli.output import columns_of
    from lamella.cli.times import ago

    if not plan.steps:
        output.line("Nothing to remove.")
    else:
        rows = [("IMAGE", "IMAGE ID", "LAST USED", "FREES", "WHY")]
        rows += [
            (output.cell(_shown(step.names)), _short(step.image), ago(step.last_used), _size(step.bytes), step.reason)
            for step in plan.steps
        ]
        for line in columns_of(rows):
            output.raw(line + "\n")
        output.line()
        output.line(f"{_size(plan.before)} on the disk, {_size(plan.after)} afterwards: "
                    f"{plan.before - plan.after} bytes freed")  # fmt: skip
    if not plan.within_budget:
        output.line(f"The budget of {_size(plan.budget or 0)} is not kept: the rest is in use or protected.")
    if kept and plan.kept:
        output.line()
        output.line("Kept:")
        for item in plan.kept:
            output.line(f"  {_shown(item.names)} {_short(item.image)}: {item.reason}")


def _say(output: Output, item: Done) -> None:
    name = _shown(item.step.names)
    if item.removed:
        more = f" and {len(item.removed) - 1} below it" if len(item.removed) > 1 else ""
        output.line(f"Removed {name} {_short(item.step.image)}{more}: {_size(item.bytes)}")
    if item.skipped:
        output.line(f"Left out: {item.skipped}")


def _shown(names: tuple[str, ...]) -> str:
    return names[0] if names else "<none>"


def _short(image: str) -> str:
    from lamella.model.ids import short_id

    return short_id(image)


def _size(size: int) -> str:
    from lamella.model.units import human_size

    return human_size(size)


def _policy(context: Context, flags: Values) -> Policy:
    from pathlib import Path

    from lamella.engine.ledger import parse_age, read_policy
    from lamella.model.units import parse_disk_size

    file = Path(flags.text("policy")) if flags.text("policy") else None
    policy = read_policy(context.root, file)
    policy = policy._replace(
        unused_for=_parsed(flags, "unused-for", parse_age, policy.unused_for),
        budget=_parsed(flags, "budget", parse_disk_size, policy.budget),
        minimum_age=_parsed(flags, "minimum-age", parse_age, policy.minimum_age) or 0,
    )
    if flags.text("keep"):
        keep = flags.number("keep")
        if keep is None or keep < 0:
            raise UsageError("--keep takes a number, 0 or more", code=1)
        policy = policy._replace(keep=keep)
    if flags.given("dangling"):
        policy = policy._replace(dangling=flags.on("dangling"))
    return policy._replace(
        pins=(*policy.pins, *flags.many("pin")),
        keep_labels=(*policy.keep_labels, *flags.many("keep-label")),
        drop_labels=(*policy.drop_labels, *flags.many("drop-label")),
    )


def _parsed(flags: Values, name: str, parse: Callable[[str], int], otherwise: int | None) -> int | None:
    if not flags.text(name):
        return otherwise
    try:
        return parse(flags.text(name))
    except InvalidArgument as error:
        raise UsageError(f"--{name}: {error}", code=1) from error


def run_pin(context: Context, _flags: Values, arguments: list[str]) -> int:
    """Pin images, or list the pins."""
    if arguments:
        context.store().pin(*arguments)
        return 0
    from lamella.engine.ledger import list_pins

    for pin in list_pins(context.root):
        context.output.line(pin)
    return 0


def run_unpin(context: Context, _flags: Values, arguments: list[str]) -> int:
    """Take pins away."""
    context.store().unpin(*arguments)
    return 0


_FLAGS = (
    Flag("budget", "Remove the least recently used images until the store takes no more (50GB, 20GiB)", kind="size"),
    Flag("dangling", "Remove images without a name that no image was made from", default="true"),
    Flag("drop-label", "Remove images with this label", kind="key[=value]", many=True),
    Flag("json", "Print it as JSON"),
    Flag("keep", "Keep the newest N images of each repository", kind="int"),
    Flag("keep-label", "Keep images with this label", kind="key[=value]", many=True),
    Flag("minimum-age", "Keep what was used or came in within this (default 1h)", kind="duration"),
    Flag("pin", "Keep images of this name, pattern or ID", kind="pattern", many=True),
    Flag("policy", "Read the policy from this file instead of lamella/gc.toml of the store", kind="file"),
    Flag("unused-for", "Remove images that were not used for so long (36h, 30d, 2w)", kind="duration"),
)
_NOTES = (
    "An image is used when a container is made or started from it or a build stands on it. Images of containers, pinned "
    "ones, and those that a kept image was made from stay. The bytes are those of the layers that only the removed "
    "images hold, in the order shown."
)

GC_PLAN = Command(usage="[OPTIONS]", run=run_plan, most=0, notes=_NOTES, flags=_FLAGS)
GC_APPLY = Command(
    usage="[OPTIONS]",
    run=run_apply,
    most=0,
    notes=f"{_NOTES} What changed since the plan was made is left out and named, and the exit code is then 1.",
    flags=(*_FLAGS[:3], Flag("force", "Do not prompt for confirmation", short="f"), *_FLAGS[3:]),
)
PIN = Command(
    usage="[IMAGE...]",
    run=run_pin,
    completes="image",
    notes="Without IMAGE the pins are listed. A name that is pinned stays pinned whichever image bears it.",
)
UNPIN = Command(usage="IMAGE [IMAGE...]", run=run_unpin, least=1, completes="image")

"""``reclaim``: what lies in the store without belonging to anything, taken away so that it can be had back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lamella.cli.command import Command
from lamella.cli.commands.fsck import need_root, print_data
from lamella.cli.flags import Flag, UsageError, Values

if TYPE_CHECKING:
    from lamella.cli.context import Context


def run(context: Context, flags: Values, arguments: list[str]) -> int:
    """Move orphans to quarantine, list it, or put things back."""
    need_root(context)
    if arguments and not flags.on("undo"):
        raise UsageError("IDs go with --undo", code=1)
    if flags.on("undo"):
        return _undo(context, flags, arguments)
    if flags.on("list"):
        return _list(context, flags)
    from lamella.engine.keeping import KEEP_DAYS, reclaim_store
    from lamella.model.units import human_size

    dry_run = flags.on("dry-run")
    keep = flags.number("keep")
    done = reclaim_store(
        context.root,
        dry_run=dry_run,
        now=flags.on("now"),
        keep_days=KEEP_DAYS if keep is None else keep,
        driver=context.options.text("storage-driver"),
    )
    if flags.on("json"):
        print_data(context, done.to_document())
        return 1 if any(item.failure for item in done.orphans) else 0
    for item in done.orphans:
        context.output.line(f"{item.text} ({human_size(item.bytes)})")
        for path in item.paths:
            context.output.line(f"    {path}")
        for reason in item.proof:
            context.output.line(f"    - {reason}")
        if item.failure:
            context.output.line(f"    not moved: {item.failure}")
        elif item.entry:
            context.output.line(f"    in quarantine as {item.entry}")
    if done.doubtful:
        context.warn("WARNING: some layer or container misses its directory: run 'lamella fsck --heal' before this")
    verb = "would be " if dry_run else ""
    moved = [item for item in done.orphans if not item.failure]
    total = human_size(sum(item.bytes for item in moved))
    if moved or not done.orphans:
        context.output.line(f"{len(moved)} orphans, {total}: {verb}moved to quarantine" if moved else "No orphans")
    if len(moved) < len(done.orphans):
        context.output.line(f"{len(done.orphans) - len(moved)} orphans could not be moved")
    if done.expired:
        context.output.line(f"{len(done.expired)} entries, {human_size(done.freed)}: {verb}deleted for good")
    return 1 if any(item.failure for item in done.orphans) else 0


def _undo(context: Context, flags: Values, ids: list[str]) -> int:
    from lamella.engine.keeping import undo

    entries = undo(context.root, ids, driver=context.options.text("storage-driver"))
    if flags.on("json"):
        print_data(context, [entry.to_document() for entry in entries])
        return 0
    for entry in entries:
        for number in entry.held:
            context.output.line(entry.origins[number])
        for key in entry.references:
            context.output.line(key)
    return 0


def _list(context: Context, flags: Values) -> int:
    from lamella.cli.times import ago
    from lamella.engine.keeping import list_quarantine
    from lamella.model.units import human_size

    found = list_quarantine(context.root)
    if flags.on("json"):
        print_data(context, [{**entry.to_document(), "bytes": size} for entry, size in found])
        return 0
    for entry, size in found:
        context.output.line(f"{entry.id}  {human_size(size)}  {ago(int(entry.moved_at * 1e9))}  {entry.text}")
    return 0


RECLAIM = Command(
    usage="[OPTIONS] [ID...]",
    run=run,
    notes=(
        "Orphans are layer directories, short names, records, drafts and mounts that nothing needs, each shown with its "
        "proof. They are moved to quarantine in the data root, and deleted by the first reclaim after --keep days. "
        "The data root's daemon must be stopped, but need not be able to start."
    ),
    flags=(
        Flag("dry-run", "Only list, change nothing"),
        Flag("json", "Print the result as JSON"),
        Flag("keep", "Days to keep what is in quarantine (default 7)", kind="int"),
        Flag("list", "List what is in quarantine"),
        Flag("now", "Delete at once what is in quarantine, and what is found"),
        Flag("undo", "Put back the entries ID, or all that the last run moved away"),
    ),
)

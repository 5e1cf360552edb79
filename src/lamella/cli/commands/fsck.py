"""``fsck``: is the store sound, and if not, what can be done about it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from lamella.cli.command import Command
from lamella.cli.flags import Flag, UsageError, Values
from lamella.errors import PermissionDenied

if TYPE_CHECKING:
    from lamella.cli.context import Context
    from lamella.engine.keeping import Finding, Healed, Report, Step

SOUND, MENDED, LEFT, FAILED = 0, 1, 4, 8


def need_root(context: Context) -> None:
    """Refuse to look at a store as somebody who could see half of it."""
    if os.geteuid() != 0:
        raise PermissionDenied(f"root is needed for the store at {context.root}; run it with sudo")


def print_data(context: Context, document: object) -> None:
    """Print a result as indented JSON."""
    import json

    context.output.json(json.dumps(document, indent=2))


def run(context: Context, flags: Values, _arguments: list[str]) -> int:
    """Check, mend if asked to, and say what was found."""
    need_root(context)
    if (flags.on("set-aside") or flags.on("dry-run") or flags.on("offline")) and not flags.on("heal"):
        raise UsageError("--dry-run, --offline and --set-aside go with --heal", code=1)
    if flags.on("heal"):
        return _heal(context, flags)
    from lamella.engine.keeping import check_store

    report = check_store(context.root, deep=flags.on("deep"), driver=context.options.text("storage-driver"))
    if flags.on("json"):
        print_data(context, report.to_document())
    else:
        for finding in report.findings:
            _say(context, finding)
        context.output.line(_summary(report))
    return SOUND if report.sound else LEFT


def _heal(context: Context, flags: Values) -> int:
    from lamella.cli.registries import read_registries
    from lamella.engine.keeping import heal_store

    healed = heal_store(
        context.root,
        deep=flags.on("deep"),
        dry_run=flags.on("dry-run"),
        set_aside=flags.on("set-aside"),
        driver=context.options.text("storage-driver"),
        registries=None if flags.on("offline") else read_registries(context),
    )
    if flags.on("json"):
        print_data(context, healed.to_document())
    else:
        _say_healed(context, healed, planned=flags.on("dry-run"))
    if healed.before.sound and not healed.steps:
        return SOUND
    return MENDED if healed.after.sound else LEFT


def _say_healed(context: Context, healed: Healed, *, planned: bool) -> None:
    from lamella.engine.keeping import Severity

    for step in healed.steps:
        context.output.line(_told(step, planned=planned))
    if planned:
        context.output.line(_summary(healed.before))
        return
    for finding in healed.after.findings:
        if finding.severity is not Severity.NOTE:
            _say(context, finding)
    context.output.line(_summary(healed.after))


def _told(step: Step, *, planned: bool) -> str:
    if step.failure:
        return f"cannot: {step.text}: {step.failure}"
    return f"{'would' if planned else 'did'}: {step.text} ({step.code})"


def _say(context: Context, finding: Finding) -> None:
    context.output.line(f"{finding.severity}: {finding.text} ({finding.code})")
    context.output.line(f"    {finding.path}")


def _summary(report: Report) -> str:
    from lamella.engine.keeping import Severity

    counts = dict.fromkeys(Severity, 0)
    for finding in report.findings:
        counts[finding.severity] += 1
    told = ", ".join(f"{count} {severity}{'s' if count != 1 else ''}" for severity, count in counts.items() if count)
    how = "read whole" if report.deep else "looked at"
    return f"{report.root}: {told or 'sound'}; {report.layers} layer{'s' if report.layers != 1 else ''} {how}"


FSCK = Command(
    usage="[OPTIONS]",
    run=run,
    most=0,
    failure=FAILED,
    notes=(
        "Any store can be checked, also one in use and those of Podman and containerd; only Docker's layout is mended, "
        "and not while a dockerd runs on it. What cannot be explained goes to quarantine, from where "
        "'lamella reclaim --undo' brings it back. "
        "The exit code is 0 if the store is sound, 1 if all that was found was mended, 4 if something is left, "
        "8 if the check could not be made."
    ),
    flags=(
        Flag("deep", "Read every file of every layer and hold it against its checksum"),
        Flag("dry-run", "With --heal: only say what would be done"),
        Flag("heal", "Mend what can be mended without loss"),
        Flag("json", "Print the findings, or what was done, as JSON"),
        Flag("offline", "With --heal: fetch nothing from registries"),
        Flag("set-aside", "With --heal: move images whose files are lost for good to quarantine"),
    ),
)

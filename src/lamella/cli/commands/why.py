"""``why``: to whom a path, an inode, a mount or a process belongs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lamella.cli.command import Command
from lamella.cli.flags import Flag, Values
from lamella.cli.output import shorten
from lamella.errors import LamellaError

if TYPE_CHECKING:
    from lamella.cli.context import Context
    from lamella.cli.output import Output
    from lamella.engine.looking import Answer

ORPHAN, UNKNOWN = 3, 4
_SHOWN = 10


def run(context: Context, flags: Values, arguments: list[str]) -> int:
    """Answer each question; the exit code is the gravest answer's, and at least 1 if one could not be answered."""
    from lamella.cli.main import describe
    from lamella.engine.looking import why

    named = context.options.given("root") or bool(context.environment.get("LAMELLA_ROOT"))
    answers: list[Answer] = []
    failures: list[str] = []
    for what in arguments:
        try:
            answers.append(why(what, context.root if named else None))
        except (LamellaError, OSError) as error:
            failures.append(describe(error))
    if flags.on("json"):
        from lamella.cli.documents import print_answer

        print_answer(context.output, answers)
    else:
        for number, answer in enumerate(answers):
            if number:
                context.output.line()
            _say(context.output, answer)
    context.output.flush()
    for failure in failures:
        context.warn(f"lamella: {failure}")
    codes = [{"orphan": ORPHAN, "unknown": UNKNOWN}.get(answer.state, 0) for answer in answers]
    return max([*codes, 1 if failures else 0])


def _say(output: Output, answer: Answer) -> None:
    heads = {"orphan": "nobody", "unknown": "unknown", "busy": "in progress"}
    head = heads.get(answer.state, answer.holder.replace("-", " "))
    output.line(f"{output.cell(shorten(answer.asked, 200))}: {head}")
    rows: list[tuple[str, str]] = [("reason", answer.reason)]
    if answer.process is not None:
        rows.append(("process", str(answer.process)))
    if answer.step is not None:
        rows.append(
            ("step", f"{' '.join(answer.step.instruction.split())}  (step {answer.step.number} of {answer.step.image})")
        )
    if answer.inside:
        rows.append(("inside", answer.inside))
    if answer.path:
        rows.append(("path", answer.path if answer.exists else f"{answer.path}  (not there now)"))
    layer = answer.layer
    if layer is not None:
        rows += [("diff ID", layer.diff_id or ""), ("chain ID", layer.chain_id or ""), ("cache ID", layer.cache_id)]
        rows.append(("directory", layer.directory))
    for word, things in (("image", answer.images), ("container", answer.containers)):
        rows += [(word, _named(thing.names, thing.id, thing.status)) for thing in things[:_SHOWN]]
        if len(things) > _SHOWN:
            rows.append((word, f"and {len(things) - _SHOWN} more"))
    rows += [("volume", name) for name in answer.volumes]
    if answer.root:
        rows.append(("store", f"{answer.root} ({answer.store})"))
    for name, value in rows:
        if value:
            output.raw(f"  {name:<9}  {output.cell(value)}\n")
    if answer.state == "orphan" and answer.store == "docker" and answer.exists:
        output.line("  'lamella reclaim' proves that nothing needs it and moves it to quarantine")


def _named(names: tuple[str, ...], identity: str, status: str) -> str:
    short = identity.removeprefix("sha256:")[:12]
    text = f"{', '.join(names)} ({short})" if names else short
    return f"{text}, {status}" if status else text


WHY = Command(
    usage="[OPTIONS] PATH|DEVICE:INODE|MOUNT|PID...",
    run=run,
    least=1,
    completes="file",
    notes=(
        "A question is a path below an engine's root or seen through a container's mount; DEVICE:INODE as "
        "'find -printf %D:%i' prints it, MAJOR:MINOR:INODE, or an audit record with dev= and inode=; a line or a mount "
        "point of the mount table; or the number of a process. Without --root the store is found from the path "
        "upwards, for inodes and processes among the engines' usual places.\n\n"
        "Exit codes: 0 it belongs to something, 3 it is an orphan that nobody needs, 4 it is in no store, "
        "1 the question could not be answered."
    ),
    flags=(Flag("json", "Print the answers as JSON, a list"),),
)

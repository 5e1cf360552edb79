"""``blame``: which layer, step and package files are from, and what an image carries without showing it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lamella.cli.command import Command
from lamella.cli.flags import Flag, UsageError, Values
from lamella.cli.output import shorten
from lamella.cli.usage import screen_width

if TYPE_CHECKING:
    from lamella.cli.context import Context
    from lamella.cli.output import Output
    from lamella.engine.looking import ImageBlame, PathBlame, Version

TOO_MUCH = 3


def run(context: Context, flags: Values, arguments: list[str]) -> int:
    """Blame the paths named, or the whole image."""
    from lamella.model.units import parse_disk_size

    limit = parse_disk_size(flags.text("fail-over")) if flags.given("fail-over") else None
    if limit is not None and len(arguments) > 1:
        raise UsageError("--fail-over is for a whole image: give no paths", code=1)
    look = context.look()
    name, *paths = arguments
    if paths:
        answers = look.blame(name, paths)
        if flags.on("json"):
            from lamella.cli.documents import print_answer

            print_answer(context.output, answers)
        else:
            for number, answer in enumerate(answers):
                if number:
                    context.output.line()
                _say(context.output, answer)
        for problem in dict.fromkeys(problem for answer in answers for problem in answer.problems):
            context.warn(f"lamella: {problem}")
        return 1 if any(answer.state == "absent" for answer in answers) else 0
    whole = look.blame_all(name, offenders=flags.number("top") or 0)
    if flags.on("json"):
        from lamella.cli.documents import print_answer

        print_answer(context.output, whole)
    else:
        _weigh(context.output, whole)
    for problem in whole.problems:
        context.warn(f"lamella: {problem}")
    if limit is not None and whole.wasted > limit:
        from lamella.model.units import human_size

        context.warn(f"lamella: {human_size(whole.wasted)} do not show, more than {human_size(limit)} allowed")
        return TOO_MUCH
    return 0


def _say(output: Output, answer: PathBlame) -> None:
    output.line(f"{output.cell(answer.path)}: {answer.state}{f', a {answer.kind}' if answer.kind else ''}")
    if answer.layer is not None:
        verb = "from" if answer.state == "present" else "deleted by"
        step = " ".join(answer.layer.instruction.split())
        output.raw(f"  {verb} layer {answer.layer.number}: {output.cell(step)}\n")
    if answer.package is not None:
        package = answer.package
        output.raw(f"  package {output.cell(package.name)} {output.cell(package.version)} ({package.manager})\n")
    for version in answer.versions:
        output.raw(f"  {version.layer:>3}  {_does(output, answer, version)}\n")
        output.raw(f"       {output.cell(version.path)}\n")


def _does(output: Output, answer: PathBlame, version: Version) -> str:
    from lamella.model.units import human_size

    words = {
        "adds": "adds it", "changes": "changes it", "deletes": "deletes it",
        "empties": "hides all below: opaque", "replaces": "puts something else there", "merges": "adds to it",
    }  # fmt: skip
    text = words[version.does]
    if version.at != answer.path:
        text += f" at {output.cell(version.at)}"
    if version.mode:
        text += f"  {version.mode} {version.owner}"
    if version.size is not None:
        text += f"  {human_size(version.size, precision=3)}"
    if version.target:
        text += f"  -> {output.cell(version.target)}"
    if version.metadata_only:
        text += "  (metadata only, its content is in the layer below)"
    if version.hidden_by is not None:
        text += f"  hidden by layer {version.hidden_by}"
    return text


def _weigh(output: Output, whole: ImageBlame) -> None:
    from lamella.model.units import human_size

    def spell(size: int) -> str:
        return human_size(size, precision=3)

    output.line(f"{whole.kind} {output.cell(whole.name)}: {spell(whole.size)} in {len(whole.layers)} layers")
    share = 100 * whole.wasted / whole.size if whole.size else 0
    output.line(
        f"  kept {spell(whole.kept)}, overwritten {spell(whole.overwritten)}, deleted but shipped "
        f"{spell(whole.deleted)}: {share:.1f} % of it do not show ({whole.hidden_files:,} files)"
    )
    output.line()
    width = max(20, min(screen_width(100), 140) - 53)
    output.line(f"{'LAYER':>5} {'SIZE':>9} {'KEPT':>9} {'OVERWRITTEN':>12} {'DELETED':>9}  STEP")
    for row in whole.layers:
        step = shorten(output.cell(" ".join(row.layer.instruction.split())), width)
        sizes = f"{spell(row.size):>9} {spell(row.kept):>9} {spell(row.overwritten):>12} {spell(row.deleted):>9}"
        output.raw(f"{row.layer.number:>5} {sizes}  {step}\n")
    if whole.offenders:
        output.line()
        output.line(f"{'SIZE':>9}  {'LAYER':>5}  {'':<21}  FILE")
        for file in whole.offenders:
            fate = f"{file.fate} by {file.by}"
            output.raw(f"{spell(file.size):>9}  {file.layer:>5}  {fate:<21}  {output.cell(file.path)}\n")


BLAME = Command(
    usage="[OPTIONS] IMAGE|CONTAINER [PATH...]",
    run=run,
    least=1,
    completes="image",
    notes=(
        "With paths: the layer and step that each is from, the package that owns it by the image's own records (dpkg, "
        "apk, rpm with SQLite, Python's dist-info), every lower version that it hides, and every whiteout or opaque "
        "directory that deletes it. Without: the whole image by bytes.\n\n"
        "Exit codes: 0, 1 if a path is in no layer, 3 if more than --fail-over does not show."
    ),
    flags=(
        Flag("fail-over", "Exit with 3 if more bytes than this do not show, such as 10MB or 10MiB", kind="string"),
        Flag("json", "Print the answer as JSON: a list of paths, or the image"),
        Flag("top", "How many of the largest files that do not show to name", kind="int", default="20"),
    ),
)

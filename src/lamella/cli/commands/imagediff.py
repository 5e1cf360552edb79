"""``image diff``: what differs between two images."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lamella.cli.command import Command
from lamella.cli.flags import Flag, Values

if TYPE_CHECKING:
    from lamella.cli.context import Context
    from lamella.cli.output import Output
    from lamella.engine.looking import ImageDifference

_LETTERS = {"added": "A", "changed": "C", "deleted": "D"}


def run(context: Context, flags: Values, arguments: list[str]) -> int:
    """Print a line a change; with --exit-code the code is 1 if there are any."""
    by_layer = flags.on("by-layer")
    found = context.look().image_diff(*arguments, by_layer=by_layer, content=flags.on("content"))
    if flags.on("json"):
        from lamella.cli.documents import print_answer

        print_answer(context.output, found)
    else:
        if by_layer:
            _layers(context.output, found)
        for file in found.files:
            why = f"  ({', '.join(file.differs)})" if file.differs else ""
            context.output.raw(f"{_LETTERS[file.change]} {context.output.cell(file.path)}{why}\n")
        for change in found.config:
            context.output.raw(
                f"S {context.output.cell(change.field)}: {_setting(context.output, change.old, change.new)}\n"
            )
    for problem in found.problems:
        context.warn(f"lamella: {problem}")
    differs = bool(found.files or found.config or any(layer.side != "both" for layer in found.layers))
    return 1 if differs and flags.on("exit-code") else 0


def _layers(output: Output, found: ImageDifference) -> None:
    from lamella.model.ids import short_id

    marks = {"both": "=", "old": "-", "new": "+"}
    for item in found.layers:
        step = " ".join(item.layer.instruction.split())
        identity = short_id(item.layer.diff_id) if item.layer.diff_id else item.layer.cache_id[:12]
        output.raw(f"{marks[item.side]} layer {item.layer.number} {identity}  {output.cell(step)}\n")
        for word, path in item.changes:
            output.raw(f"  {_LETTERS[word]} {output.cell(path)}\n")


def _setting(output: Output, old: object, new: object) -> str:
    import json

    before, after = (output.cell(json.dumps(value, ensure_ascii=False)) for value in (old, new))
    if old is None:
        return f"now {after}"
    return f"was {before}" if new is None else f"{before} -> {after}"


IMAGE_DIFF = Command(
    usage="[OPTIONS] IMAGE IMAGE",
    run=run,
    least=2,
    most=2,
    completes="image",
    notes=(
        "A for added, C for changed and D for deleted files, S for settings; containers can be given too. Files of "
        "layers that both have are the same; of the others type, mode, owner, length, time, target and attributes "
        "decide, and with --content the bytes: a new time alone is then no difference."
    ),
    flags=(
        Flag("by-layer", "Show the layers that differ and what each changes, instead of the sum"),
        Flag("content", "Compare the bytes of files of equal length"),
        Flag("exit-code", "Exit with 1 if there are differences"),
        Flag("json", "Print the differences as JSON"),
    ),
)

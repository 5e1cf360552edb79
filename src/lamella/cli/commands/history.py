"""``history``: the steps an image was made by, newest first."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lamella.cli.command import Command
from lamella.cli.common import FORMAT
from lamella.cli.flags import Flag, Values
from lamella.cli.output import Listing, Row, print_listing, shorten
from lamella.cli.times import ago, rfc3339

if TYPE_CHECKING:
    from lamella.cli.context import Context
    from lamella.engine.views.image import HistoryStep

HEADINGS = {
    "ID": "IMAGE",
    "CreatedSince": "CREATED",
    "CreatedAt": "CREATED AT",
    "CreatedBy": "CREATED BY",
    "Size": "SIZE",
    "Comment": "COMMENT",
}


def run(context: Context, flags: Values, arguments: list[str]) -> int:
    """Print one line a step."""
    human, whole = flags.on("human"), flags.on("no-trunc")
    rows = [_row(step, human=human, whole=whole) for step in context.store().image(arguments[0]).history()]
    columns = ["ID", "CreatedSince" if human else "CreatedAt", "CreatedBy", "Size", "Comment"]
    form = flags.text("format")
    print_listing(context.output, Listing(HEADINGS, columns), rows, form, quiet="ID" if flags.on("quiet") else "")
    return 0


def _row(step: HistoryStep, *, human: bool, whole: bool) -> Row:
    from lamella.model.gojson import parse_time
    from lamella.model.ids import short_id
    from lamella.model.units import human_size

    created = parse_time(step.created) if step.created else 0
    made_by = step.created_by.replace("\t", " ")
    return {
        "ID": step.image_id if whole or step.image_id.startswith("<") else short_id(step.image_id),
        "CreatedSince": ago(created) if human else rfc3339(created),
        "CreatedAt": rfc3339(created),
        "CreatedBy": made_by if whole else shorten(made_by, 45),
        "Size": human_size(step.size, precision=3) if human else str(step.size),
        "Comment": step.comment,
    }


HISTORY = Command(
    usage="[OPTIONS] IMAGE",
    run=run,
    least=1,
    most=1,
    completes="image",
    flags=(
        FORMAT,
        Flag("human", "Print sizes and dates in human readable format", short="H", default="true"),
        Flag("no-trunc", "Don't truncate output"),
        Flag("quiet", "Only show image IDs", short="q"),
    ),
)

"""``tag``: one more name for an image."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lamella.cli.command import Command
from lamella.cli.flags import Values

if TYPE_CHECKING:
    from lamella.cli.context import Context


def run(context: Context, _flags: Values, arguments: list[str]) -> int:
    """Give the first argument's image the second as a name."""
    from lamella.model.reference import parse_reference

    source, target = arguments
    parse_reference(target)
    context.store().image(source).tag(target)
    return 0


TAG = Command(usage="SOURCE_IMAGE[:TAG] TARGET_IMAGE[:TAG]", run=run, least=2, most=2, completes="image")

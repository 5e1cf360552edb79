"""The flags of ``build`` that say what becomes of the image, and where steps done elsewhere are found."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lamella.cli.flags import Flag, Values
from lamella.cli.output import Output
from lamella.errors import InvalidArgument

if TYPE_CHECKING:
    from lamella.cli.context import Context

OUTPUT_FLAGS = (
    Flag(
        "cache-from",
        'Images or caches to take steps from ("user/app:cache", "type=local,src=path/to/dir")',
        kind="stringArray",
        many=True,
    ),
    Flag(
        "cache-to",
        'Where to write the steps for others ("type=registry,ref=user/app:cache,mode=max")',
        kind="stringArray",
        many=True,
    ),
    Flag("load", 'Shorthand for "--output=type=docker": the image is in the store in any case'),
    Flag("output", 'Output destination ("type=local,dest=path")', short="o", kind="stringArray", many=True),
    Flag("push", 'Shorthand for "--output=type=registry"'),
    Flag("squash", "Squash newly built layers into a single new layer"),
)


def read_outputs(context: Context, flags: Values) -> Sequence[str]:
    """Collect the outputs; if one goes to standard output, what else would be printed there goes to standard error.

    Raises InvalidArgument for one that makes no sense, and for one that a terminal would have to show.
    """
    from lamella.engine.builds import writes_to_stdout

    shorthands = {"push": "type=registry", "load": "type=docker"}
    outputs = [*flags.many("output"), *(output for name, output in shorthands.items() if flags.on(name))]
    if writes_to_stdout(outputs):
        if sys.stdout.isatty():
            raise InvalidArgument("dest is required: an output is not written to the terminal")
        context.output = Output(sys.stderr.buffer)
    return outputs

"""``build --check``: findings with the lines they are about, as Docker shows them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from lamella.cli.flags import Values
from lamella.errors import LamellaError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lamella.cli.context import Context
    from lamella.engine.store import Store


def show_findings(
    context: Context,
    flags: Values,
    source: Path | str | BinaryIO,
    dockerfile: Path | bytes | None,
    build_args: Mapping[str, str],
) -> int:
    """Check and print; give 1 if anything was found.  Raises InvalidArgument, last, for what cannot be built at all."""
    from lamella.engine.checking import check_dockerfile

    checked = check_dockerfile(
        source,
        dockerfile=dockerfile,
        build_args=build_args,
        target=flags.text("target"),
        platform=flags.text("platform"),
        store=_known_images(context),
    )
    name = str(dockerfile) if isinstance(dockerfile, Path) else "Dockerfile"
    count = len(checked.findings)
    if count:
        found = "1 warning has been found!" if count == 1 else f"{count} warnings have been found!"
        context.output.line(f"Check complete, {found}")
    for finding in checked.findings:
        context.output.line(f"\nWARNING: {finding.rule} - {finding.url}\n{finding.message}")
        for line in checked.excerpt(finding, name).removesuffix("\n").split("\n"):
            context.output.line(line)
    if checked.error is not None:
        raise checked.error
    if not count:
        context.output.line("Check complete, no warnings found.")
    return 1 if count else 0


def _known_images(context: Context) -> Store | None:
    """Give the store if there is one that may be read: base images found there tell their variables."""
    if os.geteuid() != 0:
        return None
    from lamella.engine.store import Store

    try:
        return Store.open(context.root, create=False)
    except (LamellaError, OSError):
        return None

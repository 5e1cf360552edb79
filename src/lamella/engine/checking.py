"""Checking a Dockerfile without building it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from lamella.build.check import CheckedDockerfile
from lamella.build.dockerfile.rules import Finding

if TYPE_CHECKING:
    from lamella.engine.store import Store

__all__ = ["CheckedDockerfile", "Finding", "check_dockerfile"]


def check_dockerfile(
    context: Path | BinaryIO | str,
    *,
    dockerfile: Path | bytes | None = None,
    build_args: Mapping[str, str] | None = None,
    target: str = "",
    platform: str = "",
    store: Store | None = None,
) -> CheckedDockerfile:
    """Look for likely mistakes in a Dockerfile, by the rules and names of Docker's own linter; nothing is built.

    *context* is a directory, or a stream that holds a tar of one or a Dockerfile alone; *dockerfile* a file, the text
    itself, or None for the context's ``Dockerfile``.  All stages are checked, or those that *target* needs.  No store
    is needed; the variables of base images are known if *store* has these.  A file that cannot be built is not raised
    but told as `error`.  Raises NotFound and InvalidArgument for a context or a file that cannot be read.
    """
    from lamella.build.buildcheck import stored_settings
    from lamella.build.check import check_dockerfile as check
    from lamella.build.request import open_request

    with open_request(context, dockerfile) as (tree, text):
        return check(
            text,
            build_args=build_args,
            target=target,
            platform=platform,
            ignore=tree.ignore,
            find_settings=None if store is None else stored_settings(store.parts),
        )

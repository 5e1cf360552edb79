"""The linter within a build: findings are told at its end, or refuse it at its beginning if the file wants that."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lamella.build.arguments import CHECK
from lamella.errors import LamellaError

if TYPE_CHECKING:
    from lamella.build.check import CheckedDockerfile, FindSettings
    from lamella.build.dockerfile.rules import Finding
    from lamella.build.ignore import IgnoreRules
    from lamella.build.request import BuildOptions
    from lamella.model.imageconfig import ContainerSettings
    from lamella.store.imagestore import ImageStore


class BuildCheck:
    """Checks what one build is about to do, or has done."""

    def __init__(
        self, text: bytes, options: BuildOptions, stages: Sequence[int], ignore: IgnoreRules, store: ImageStore
    ) -> None:
        self._text = text
        self._options = options
        self._stages = stages
        self._ignore = ignore
        self._store = store

    def refuse(self) -> None:
        """Raise InvalidArgument if there are findings and ``check=error=true`` makes them errors."""
        if b"check" in self._text or CHECK in self._options.build_args:
            self._check().refuse()

    def findings(self) -> tuple[Finding, ...]:
        """Give the findings; at the end of a build all base images are known."""
        return self._check().findings

    def _check(self) -> CheckedDockerfile:
        from lamella.build.check import check_dockerfile

        return check_dockerfile(
            self._text,
            build_args=self._options.build_args,
            target=self._options.target,
            platform=self._options.platform,
            stages=self._stages,
            ignore=self._ignore,
            find_settings=stored_settings(self._store),
        )


def stored_settings(store: ImageStore) -> FindSettings:
    """Give the function that looks up the settings of the store's images."""

    def find(name: str) -> ContainerSettings | None:
        try:
            return store.images.get(store.resolve(name)).config.config
        except LamellaError:
            return None

    return find

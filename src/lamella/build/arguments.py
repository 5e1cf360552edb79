"""Build arguments: ARG before the first FROM, ARG in a stage, ``--build-arg``, and the predefined proxies."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

_PROXIES = ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "FTP_PROXY", "ftp_proxy", "NO_PROXY", "no_proxy",
            "ALL_PROXY", "all_proxy")  # fmt: skip
PREDEFINED = frozenset(_PROXIES)


class BuildArguments:
    """The arguments in force; `for_stage` begins a stage, which sees global ones only where its own ARG asks."""

    def __init__(self, given: Mapping[str, str]) -> None:
        self._given = dict(given)
        self._global: dict[str, str | None] = {}
        self._local: dict[str, str | None] = {}
        self._referenced: set[str] = set()

    def for_stage(self) -> BuildArguments:
        """Give the arguments with which a stage begins."""
        stage = BuildArguments(self._given)
        stage._global = self._global
        stage._referenced = self._referenced
        return stage

    def declare_global(self, name: str, default: str | None) -> None:
        """Take an ARG that stands before the first FROM."""
        self._global[name] = default
        self._referenced.add(name)

    def declare(self, name: str, default: str | None) -> None:
        """Take an ARG of this stage."""
        self._local[name] = default
        self._referenced.add(name)

    def global_values(self) -> dict[str, str]:
        """Give what FROM and the global ARGs may use."""
        return self._values(self._global)

    def values(self) -> dict[str, str]:
        """Give what this stage's instructions may use."""
        return self._values(self._local)

    def values_besides(self, environment: Iterable[str]) -> dict[str, str]:
        """Give what is not hidden by ENV."""
        hidden = {entry.partition("=")[0] for entry in environment}
        return {name: value for name, value in self.values().items() if name not in hidden}

    def is_recorded(self, name: str) -> bool:
        """Tell whether an argument counts for history and cache: proxies do only once an ARG names them."""
        return name in self._local or name not in PREDEFINED

    def unused(self) -> list[str]:
        """Name what was given and no ARG asked for."""
        return sorted(name for name in self._given if name not in self._referenced and name not in PREDEFINED)

    def _values(self, declared: Mapping[str, str | None]) -> dict[str, str]:
        found: dict[str, str] = {}
        for name in (*declared, *_PROXIES):
            value = self._given.get(name)
            if value is None:
                value = declared.get(name)
            if value is None:
                value = self._global.get(name)
            if value is not None:
                found[name] = value
        return found

"""Build arguments: ARG before the first FROM, ARG in a stage, ``--build-arg``, and those that need no ARG or no value."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from lamella.errors import InvalidArgument
from lamella.model.platform import Platform, host_platform

_PROXIES = ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "FTP_PROXY", "ftp_proxy", "NO_PROXY", "no_proxy",
            "ALL_PROXY", "all_proxy")  # fmt: skip
_PLATFORMS = frozenset({
    "BUILDPLATFORM", "BUILDOS", "BUILDOSVERSION", "BUILDARCH", "BUILDVARIANT", "TARGETPLATFORM", "TARGETOS",
    "TARGETOSVERSION", "TARGETARCH", "TARGETVARIANT", "TARGETSTAGE",
})  # fmt: skip
EPOCH = "SOURCE_DATE_EPOCH"
CHECK = "BUILDKIT_DOCKERFILE_CHECK"
PREDEFINED = frozenset(_PROXIES)


class BuildArguments:
    """The arguments in force; `for_stage` begins a stage, which sees global ones only where its own ARG asks.

    `given` are those of the command line.  `automatic` have a value that FROM sees at once, and a stage once it has an
    ARG without a default; see `automatic_arguments`.
    """

    def __init__(self, given: Mapping[str, str], automatic: Mapping[str, str] | None = None) -> None:
        self._given = dict(given)
        self._automatic = {name: self._given.get(name, value) for name, value in (automatic or {}).items()}
        self._global: dict[str, str | None] = {}
        self._local: dict[str, str | None] = {}
        self._referenced: set[str] = set()

    def for_stage(self, parent: BuildArguments | None = None) -> BuildArguments:
        """Give the arguments with which a stage begins: none, or those of the stage it stands on."""
        stage = BuildArguments(self._given)
        stage._automatic = self._automatic
        stage._global = self._global
        stage._referenced = self._referenced
        if parent is not None:
            stage._local = dict(parent._local)  # noqa: SLF001 - one class
        return stage

    def is_given(self, name: str) -> bool:
        """Tell whether the command line gives a value, so that no default matters."""
        return name in self._given

    def declare_global(self, name: str, default: str | None) -> None:
        """Take an ARG that stands before the first FROM; one without a default keeps the value so far."""
        self._global[name] = self._global.get(name) if default is None else default
        self._referenced.add(name)

    def declare(self, name: str, default: str | None) -> None:
        """Take an ARG of this stage; one without a default takes the global value, else keeps the value so far."""
        if default is None:
            default = self._global.get(name)
        if default is None:
            default = self._automatic.get(name)
        if default is None:
            default = self._local.get(name)
        self._local[name] = default
        self._referenced.add(name)

    def declared(self) -> set[str]:
        """Name what this stage's ARGs name, with a value or without."""
        return set(self._local)

    def declared_global(self) -> set[str]:
        """Name what FROM may use, with a value or without."""
        return {*self._global, *self._automatic}

    def global_values(self) -> dict[str, str]:
        """Give what FROM and the global ARGs may use."""
        return {**self._automatic, **self._values(self._global)}

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
        known = {*PREDEFINED, *_PLATFORMS, EPOCH, CHECK}
        return sorted(name for name in self._given if name not in self._referenced and name not in known)

    def _values(self, declared: Mapping[str, str | None]) -> dict[str, str]:
        found: dict[str, str] = {}
        for name in (*declared, *_PROXIES):
            value = self._given.get(name)
            if value is None:
                value = declared.get(name)
            if value is not None:
                found[name] = value
        return found


def given_epoch(given: Mapping[str, str]) -> int | None:
    """Give the time in seconds that ``--build-arg SOURCE_DATE_EPOCH`` sets; raises InvalidArgument for what is none."""
    text = given.get(EPOCH)
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) < 19):
        raise InvalidArgument(f"{EPOCH}={text[:100]} is not a number of seconds since the epoch")
    return int(text)


def automatic_arguments(target: Platform | None, stage: str, timestamp: int | None = None) -> dict[str, str]:
    """Give the arguments that say what is built where: for `target`, by default this machine, the stage so named.

    `timestamp` is ``SOURCE_DATE_EPOCH`` in seconds, if there is one.
    """
    host = host_platform()
    target = target or host
    found = {
        "BUILDPLATFORM": str(host),
        "BUILDOS": host.os,
        "BUILDOSVERSION": "",
        "BUILDARCH": host.architecture,
        "BUILDVARIANT": host.variant,
        "TARGETPLATFORM": str(target),
        "TARGETOS": target.os,
        "TARGETOSVERSION": "",
        "TARGETARCH": target.architecture,
        "TARGETVARIANT": target.variant,
        "TARGETSTAGE": stage or "default",
    }
    if timestamp is not None:
        found[EPOCH] = str(timestamp)
    return found

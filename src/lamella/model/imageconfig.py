"""Image configs: a typed view of any, and the bytes of those made here.

The bytes are the truth: an image's ID is their digest, and a config that came from elsewhere is never encoded again.
``ImageConfig`` shows the fields lamella understands; unknown ones stay in the bytes alone.  Key order and presence of
what is encoded are Docker's, to the byte.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, TypeVar

import msgspec

from lamella.errors import InvalidArgument
from lamella.model.digest import DiffID, parse_digest
from lamella.model.documents import CONFIG_LIMIT, decode_object, kind_of
from lamella.model.gojson import ZERO_TIME, encode, parse_time

_Form = TypeVar("_Form")
_Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]


class Healthcheck(msgspec.Struct, frozen=True, rename="pascal", omit_defaults=True):
    """How to probe a container; durations are nanoseconds, 0 means inherit or default."""

    test: tuple[str, ...] = ()
    interval: _Int64 = 0
    timeout: _Int64 = 0
    start_period: _Int64 = 0
    start_interval: _Int64 = 0
    retries: _Int64 = 0


class ContainerSettings(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """Docker's ``Config``: what an image asks of its containers, and what a container was created with.

    Fields stand in Docker's order.  ``cmd`` and ``entrypoint`` tell absent (None) from empty, because in a request
    the one inherits and the other does not.
    """

    hostname: str = ""
    domainname: str = ""
    user: str = ""
    attach_stdin: bool = False
    attach_stdout: bool = False
    attach_stderr: bool = False
    exposed_ports: tuple[str, ...] = ()
    tty: bool = False
    open_stdin: bool = False
    stdin_once: bool = False
    env: tuple[str, ...] = ()
    cmd: tuple[str, ...] | None = None
    healthcheck: Healthcheck | None = None
    args_escaped: bool = False
    image: str = ""
    volumes: tuple[str, ...] = ()
    working_dir: str = ""
    entrypoint: tuple[str, ...] | None = None
    network_disabled: bool = False
    mac_address: str = ""
    on_build: tuple[str, ...] = ()
    labels: dict[str, str] = {}
    stop_signal: str = ""
    stop_timeout: Annotated[int, msgspec.Meta(ge=-(2**31), le=2**31 - 1)] | None = None
    shell: tuple[str, ...] = ()


class History(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How one layer, or one change of settings, came about; times are as written."""

    created: str = ""
    created_by: str = ""
    author: str = ""
    comment: str = ""
    empty_layer: bool = False


class ImageConfig(
    msgspec.Struct, frozen=True, kw_only=True, rename={"os_version": "os.version", "os_features": "os.features"}
):
    """The view of one image config; ``config`` is empty settings where the document has none."""

    architecture: str = ""
    os: str = ""
    variant: str = ""
    os_version: str = ""
    os_features: tuple[str, ...] = ()
    created: str = ""
    author: str = ""
    comment: str = ""
    config: ContainerSettings = ContainerSettings()
    history: tuple[History, ...] = ()
    diff_ids: tuple[DiffID, ...] = ()
    container: str = ""
    container_config: ContainerSettings | None = None
    docker_version: str = ""


_OMITTED_WHEN_EMPTY = frozenset({
    "ExposedPorts", "Healthcheck", "ArgsEscaped", "NetworkDisabled", "MacAddress", "StopSignal", "StopTimeout", "Shell",
})  # fmt: skip
_SETS = frozenset({"ExposedPorts", "Volumes"})
_NULL_WHEN_EMPTY = frozenset({"Env", "Volumes", "OnBuild", "Labels"})
_STRING_LISTS = frozenset({"Cmd", "Entrypoint", "Shell"})
_SETTINGS_KEYS = ContainerSettings.__struct_encode_fields__
_SETTINGS_BY_CASE = {key.lower(): key for key in _SETTINGS_KEYS}
_TOP_KEYS = frozenset(ImageConfig.__struct_encode_fields__) - {"config", "container_config", "history", "diff_ids"}
_TOP_BY_CASE = {key: key for key in (*_TOP_KEYS, "config", "container_config", "history", "rootfs")}


def decode_image_config(raw: bytes) -> ImageConfig:
    """Check an image config and return its view.

    It must be a JSON object with a ``rootfs``; every known field must have its type; history may not promise more
    layers than there are diff IDs.  InvalidArgument names the field that is wrong.
    """
    what = "image config"
    document = decode_object(raw, limit=CONFIG_LIMIT, what=what)
    _refuse_misspelt(document, _TOP_BY_CASE, what)
    rootfs = document.get("rootfs")
    if rootfs is None:
        raise InvalidArgument(f"{what}: rootfs is missing")
    fields: dict[str, object] = {key: value for key in _TOP_KEYS if (value := document.get(key)) is not None}
    fields["diff_ids"] = _diff_ids(rootfs, what)
    fields["history"] = _history(document.get("history"), what)
    config = document.get("config")
    fields["config"] = ContainerSettings() if config is None else parse_settings(config, what=f"{what}: config")
    container_config = document.get("container_config")
    if container_config is not None:
        fields["container_config"] = parse_settings(container_config, what=f"{what}: container_config")
    view = convert(fields, ImageConfig, what)
    if view.created:
        _check_time(view.created, f"{what}: created")
    layers = sum(not entry.empty_layer for entry in view.history)
    if layers > len(view.diff_ids):
        raise InvalidArgument(f"{what}: history tells of {layers} layers, rootfs.diff_ids has {len(view.diff_ids)}")
    return view


def _diff_ids(rootfs: object, what: str) -> tuple[DiffID, ...]:
    if not isinstance(rootfs, dict):
        raise InvalidArgument(f"{what}: rootfs: expected an object, got {kind_of(rootfs)}")
    _refuse_misspelt(rootfs, {"type": "type", "diff_ids": "diff_ids"}, f"{what}: rootfs")
    kind = rootfs.get("type")
    if kind not in (None, "", "layers"):  # a tuple: what stands there may be unhashable
        raise InvalidArgument(f"{what}: rootfs.type: expected 'layers', got {kind!r:.64}")
    digests = rootfs.get("diff_ids")
    if digests is None:
        return ()
    if not isinstance(digests, list):
        raise InvalidArgument(f"{what}: rootfs.diff_ids: expected an array, got {kind_of(digests)}")
    found: list[DiffID] = []
    for index, digest in enumerate(digests):
        if not isinstance(digest, str):
            raise InvalidArgument(f"{what}: rootfs.diff_ids[{index}]: expected a string, got {kind_of(digest)}")
        try:
            found.append(DiffID(parse_digest(digest)))
        except InvalidArgument as error:
            raise InvalidArgument(f"{what}: rootfs.diff_ids[{index}]: {error}") from error
    return tuple(found)


def _history(entries: object, what: str) -> tuple[History, ...]:
    if entries is None:
        return ()
    if not isinstance(entries, list):
        raise InvalidArgument(f"{what}: history: expected an array, got {kind_of(entries)}")
    found: list[History] = []
    for index, entry in enumerate(entries):
        where = f"{what}: history[{index}]"
        if not isinstance(entry, dict):
            raise InvalidArgument(f"{where}: expected an object, got {kind_of(entry)}")
        view = convert(without_nulls(entry), History, where)
        if view.created:
            _check_time(view.created, f"{where}.created")
        found.append(view)
    return tuple(found)


def parse_settings(document: object, *, what: str = "config") -> ContainerSettings:
    """Check Docker's ``Config`` object; null counts as absent, unknown keys are left out of the view."""
    if not isinstance(document, dict):
        raise InvalidArgument(f"{what}: expected an object, got {kind_of(document)}")
    _refuse_misspelt(document, _SETTINGS_BY_CASE, what)
    fields = {key: value for key in _SETTINGS_KEYS if (value := document.get(key)) is not None}
    for key in _SETS & fields.keys():
        fields[key] = _parse_set(fields[key], f"{what}: {key}")
    for key in _STRING_LISTS & fields.keys():
        if isinstance(fields[key], str):  # ancient configs, and Docker still reads them
            fields[key] = (fields[key],)
    check = fields.get("Healthcheck")
    if isinstance(check, dict):
        fields["Healthcheck"] = without_nulls(check)
    return convert(fields, ContainerSettings, what)


def _parse_set(value: object, what: str) -> tuple[str, ...]:
    """Read a Go set, an object whose values are empty objects."""
    if not isinstance(value, dict):
        raise InvalidArgument(f"{what}: expected an object, got {kind_of(value)}")
    for key, item in value.items():
        if item is not None and not isinstance(item, dict):
            raise InvalidArgument(f"{what}[{key!r:.64}]: expected an object, got {kind_of(item)}")
    return tuple(sorted(value))


def _is_empty(key: str, value: object, *, sparse: bool) -> bool:
    """Tell whether a setting is as good as not given: a time of 0 is given, and so, but in OCI's eyes, is ``[]``."""
    if key == "StopTimeout":
        return value is None
    if key in {"Cmd", "Entrypoint"}:
        return value is None or (sparse and not value)
    return not value


def settings_document(settings: ContainerSettings, *, sparse: bool = False) -> dict[str, object]:
    """Return Docker's ``Config`` object in Docker's key order.

    As a rule what is empty stands there as ``""``, ``false`` or ``null``, as in all that dockerd writes; *sparse*
    leaves it out, as OCI builders do.
    """
    document: dict[str, object] = {}
    for key, value in zip(_SETTINGS_KEYS, msgspec.structs.astuple(settings), strict=True):
        if _is_empty(key, value, sparse=sparse):
            if not sparse and key not in _OMITTED_WHEN_EMPTY:
                document[key] = None if value is None or key in _NULL_WHEN_EMPTY else value
        elif key in _SETS:
            document[key] = {item: {} for item in sorted(value)}
        elif key == "Labels":
            document[key] = dict(sorted(value.items()))
        elif isinstance(value, Healthcheck):
            fields = msgspec.to_builtins(value)
            document[key] = {**fields, "Test": list(value.test)} if value.test else fields
        else:
            document[key] = list(value) if isinstance(value, tuple) else value
    return document


def history_document(entry: History) -> dict[str, object]:
    """Return one history entry in the key order of Docker 25 and OCI, empty fields left out."""
    return dict(msgspec.to_builtins(entry))


def encode_image_config(
    *,
    architecture: str,
    os: str = "linux",
    variant: str = "",
    os_version: str = "",
    os_features: Sequence[str] = (),
    created: str = "",
    author: str = "",
    comment: str = "",
    config: ContainerSettings | None = None,
    history: Sequence[History] = (),
    diff_ids: Sequence[DiffID] = (),
    container: str = "",
    container_config: ContainerSettings | None = None,
    docker_version: str = "",
    sparse: bool = False,
) -> bytes:
    """Write an image config as Docker does: keys sorted, empty ones left out.

    With *container_config* the result is one of dockerd's own making (commit, import, its classic builder), which
    always has ``created``; without it, one of BuildKit's.  *sparse* gives ``config`` OCI's shape, without the empty
    fields.  Times are given as text (``gojson.format_time``).
    """
    document: dict[str, object] = {"architecture": architecture}
    if author:
        document["author"] = author
    if comment:
        document["comment"] = comment
    if config is not None:
        document["config"] = settings_document(config, sparse=sparse)
    if container:
        document["container"] = container
    if container_config is not None:
        document["container_config"] = settings_document(container_config)
    if created or container_config is not None:
        document["created"] = created or ZERO_TIME
    if docker_version:
        document["docker_version"] = docker_version
    if history:
        document["history"] = [history_document(entry) for entry in history]
    document["os"] = os
    if os_features:
        document["os.features"] = list(os_features)
    if os_version:
        document["os.version"] = os_version
    document["rootfs"] = {"type": "layers", "diff_ids": list(diff_ids)} if diff_ids else {"type": "layers"}
    if variant:
        document["variant"] = variant
    return encode(document)


def without_nulls(document: Mapping[str, object]) -> dict[str, object]:
    """Drop null fields: to Go they are the same as absent."""
    return {key: value for key, value in document.items() if value is not None}


def convert(document: object, form: type[_Form], what: str) -> _Form:
    """Check *document* against the struct *form*; the refusal names *what* and the field."""
    try:
        return msgspec.convert(document, form, strict=True)
    except msgspec.ValidationError as error:
        reason, _, path = str(error).partition(" - at `$")
        field = path.rstrip("`").lstrip(".")
        message = reason[:1].lower() + reason[1:].replace("`", "")
        raise InvalidArgument(f"{what}: {field}: {message}" if field else f"{what}: {message}") from error


def _refuse_misspelt(document: Mapping[str, object], known: Mapping[str, str], what: str) -> None:
    """Refuse a key that differs from a known one by case alone: Go would read it, we would not."""
    for key in document:
        exact = known.get(key.lower())
        if exact is not None and exact != key:
            raise InvalidArgument(f"{what}: key {key!r:.64} must be spelled {exact!r}")


def _check_time(text: str, what: str) -> None:
    try:
        parse_time(text)
    except InvalidArgument as error:
        raise InvalidArgument(f"{what}: {error}") from error

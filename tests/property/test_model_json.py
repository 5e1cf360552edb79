# ruff: noqa: PT017 - both outcomes are right; a refusal must only say what it refuses
from __future__ import annotations

import contextlib
import json

from hypothesis import given, settings
from hypothesis import strategies as st

from lamella.errors import InvalidArgument
from lamella.model.documents import decode_document
from lamella.model.gojson import encode, format_time, parse_time
from lamella.model.imageconfig import decode_image_config, encode_image_config, parse_settings, settings_document

texts = st.text(alphabet=st.characters(exclude_categories=["Cs"]))
scalars = st.one_of(st.none(), st.booleans(), st.integers(-(10**19), 10**19), st.floats(-1e15, 1e15), texts)
documents = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(texts, inner, max_size=4)),
    max_leaves=20,
)


@settings(deadline=None)
@given(documents)
def test_what_is_encoded_is_decoded_alike(document: object) -> None:
    raw = encode(document)
    assert json.loads(raw) == document
    for byte in b"<>&\n":
        assert byte not in raw
    try:
        assert decode_document(raw, limit=1 << 20, what="x") == document
    except InvalidArgument as error:
        assert "number" in str(error)  # a long float: in bounds to write, not to read


@settings(deadline=None)
@given(st.text())
def test_any_text_can_be_encoded(text: str) -> None:
    assert isinstance(json.loads(encode(text)), str)


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_bytes_are_decoded_or_refused(raw: bytes) -> None:
    try:
        decode_document(raw, limit=100, what="x")
    except InvalidArgument as error:
        assert str(error).startswith("x: ")


@settings(deadline=None)
@given(st.integers(-62167219200 * 10**9, 253402300799 * 10**9 + 999999999))
def test_times_come_back(nanoseconds: int) -> None:
    assert parse_time(format_time(nanoseconds)) == nanoseconds


@settings(deadline=None)
@given(st.text(alphabet="0123456789-:TZ.+", max_size=40))
def test_any_text_is_a_time_or_refused(text: str) -> None:
    with contextlib.suppress(InvalidArgument):
        assert isinstance(parse_time(text), int)


keys = st.sampled_from(
    ["Hostname", "User", "Env", "Cmd", "Entrypoint", "Labels", "ExposedPorts", "Volumes", "Healthcheck", "StopTimeout",
     "Tty", "Shell", "OnBuild", "WorkingDir", "StopSignal", "Nonsense"]
)  # fmt: skip
loose = st.one_of(
    documents,
    st.lists(texts, max_size=3),
    st.dictionaries(texts, st.one_of(texts, st.just({})), max_size=3),
    st.dictionaries(
        st.sampled_from(["Test", "Interval", "Retries"]), st.one_of(st.integers(), st.lists(texts)), max_size=3
    ),
)


@settings(deadline=None)
@given(st.dictionaries(keys, loose))
def test_settings_are_read_and_come_back_or_are_refused(document: dict[str, object]) -> None:
    try:
        settings = parse_settings(document)
    except InvalidArgument as error:
        assert str(error).startswith("config: ")
        return
    assert parse_settings(settings_document(settings)) == settings
    assert parse_settings(json.loads(encode(settings_document(settings, sparse=True)))).env == settings.env
    raw = encode_image_config(architecture="amd64", config=settings, container_config=settings)
    view = decode_image_config(raw)
    assert (view.config, view.container_config) == (settings, settings)


top = st.sampled_from(
    ["architecture", "os", "created", "config", "history", "rootfs", "OS", "os.features", "container_config"]
)
histories = st.fixed_dictionaries(
    {},
    optional={
        "created": st.one_of(st.just("2020-01-01T00:00:00Z"), documents),
        "empty_layer": st.one_of(st.booleans(), documents),
    },
)


@settings(deadline=None)
@given(st.dictionaries(top, st.one_of(documents, st.just({}), st.lists(histories, max_size=3))))
def test_image_configs_are_read_or_refused(document: dict[str, object]) -> None:
    try:
        decode_image_config(encode(document))
    except InvalidArgument as error:
        assert str(error).startswith("image config: ")

# ruff: noqa: PT017 - both outcomes are right; a refusal must only say what it refuses
from __future__ import annotations

import re

from hypothesis import given, settings
from hypothesis import strategies as st

from lamella.errors import InvalidArgument
from lamella.model.digest import Digest
from lamella.model.reference import Reference, parse_reference

components = st.from_regex(r"[a-z0-9]{1,8}((\.|_|__|-{1,3})[a-z0-9]{1,5}){0,2}", fullmatch=True)
hosts = st.one_of(
    st.just("docker.io"),
    st.from_regex(r"localhost|[a-z0-9]{1,5}(\.[a-zA-Z0-9]{1,5}){1,3}(:[0-9]{1,5})?", fullmatch=True),
    st.from_regex(r"[a-z0-9]{1,6}:[0-9]{1,5}", fullmatch=True),
)
tags = st.one_of(st.none(), st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}", fullmatch=True))
digests = st.one_of(st.none(), st.from_regex(r"sha256:[0-9a-f]{64}", fullmatch=True).map(Digest))
references = st.builds(
    Reference, hosts, st.lists(components, min_size=1, max_size=4).map("/".join), tags, digests
).filter(lambda reference: not (reference.domain == "docker.io" and "/" not in reference.path))


@settings(deadline=None)
@given(references)
def test_what_is_written_is_read_back(reference: Reference) -> None:
    assert parse_reference(str(reference)) == reference


@settings(deadline=None)
@given(references)
def test_the_familiar_form_names_the_same(reference: Reference) -> None:
    first = reference.path.partition("/")[0]
    # Docker's own blind spots: names that read as a registry, or as an ID, once the registry is left out.
    if reference.domain == "docker.io" and ("." in first or first == "localhost"):
        return
    if re.fullmatch("[0-9a-f]{64}", reference.familiar_name()):
        return
    again = parse_reference(reference.familiar())
    assert again == (reference._replace(tag=None) if reference.digest else reference)


@settings(deadline=None)
@given(st.one_of(st.text(), st.text(alphabet="aA0.:/@_-[]é ", max_size=30)))
def test_any_text_is_either_a_stable_reference_or_refused(text: str) -> None:
    try:
        reference = parse_reference(text)
    except InvalidArgument as error:
        assert str(error)
    else:
        assert parse_reference(str(reference)) == reference

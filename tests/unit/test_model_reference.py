"""What is accepted and refused here was put to docker 28's command line, which gave these very words."""

from __future__ import annotations

import pytest

from lamella.errors import InvalidArgument
from lamella.model.digest import parse_digest
from lamella.model.reference import Reference, parse_reference, parse_tagged

HEX = "a" * 64
DIGEST = parse_digest("sha256:" + HEX)


@pytest.mark.parametrize(
    ("text", "normalised", "familiar"),
    [
        ("ubuntu", "docker.io/library/ubuntu", "ubuntu"),
        ("ubuntu:24.04", "docker.io/library/ubuntu:24.04", "ubuntu:24.04"),
        ("user/app", "docker.io/user/app", "user/app"),
        ("library/ubuntu", "docker.io/library/ubuntu", "ubuntu"),
        ("docker.io/ubuntu", "docker.io/library/ubuntu", "ubuntu"),
        ("index.docker.io/ubuntu:1", "docker.io/library/ubuntu:1", "ubuntu:1"),
        ("index.docker.io/library/a/b", "docker.io/library/a/b", "library/a/b"),
        ("localhost", "docker.io/library/localhost", "localhost"),
        ("localhost:1", "docker.io/library/localhost:1", "localhost:1"),
        ("localhost/x", "localhost/x", "localhost/x"),
        ("LOCALHOST/x", "LOCALHOST/x", "LOCALHOST/x"),
        ("localhost:5000/x:Y", "localhost:5000/x:Y", "localhost:5000/x:Y"),
        ("Foo/bar", "Foo/bar", "Foo/bar"),
        ("127.0.0.1:5000/a/bb:1", "127.0.0.1:5000/a/bb:1", "127.0.0.1:5000/a/bb:1"),
        ("[::1]:5000/x", "[::1]:5000/x", "[::1]:5000/x"),
        ("a__b", "docker.io/library/a__b", "a__b"),
        ("a---b", "docker.io/library/a---b", "a---b"),
        (f"x@sha256:{HEX}", f"docker.io/library/x@sha256:{HEX}", f"x@sha256:{HEX}"),
        (f"x:1@sha256:{HEX}", f"docker.io/library/x:1@sha256:{HEX}", f"x@sha256:{HEX}"),
        ("my-ubuntu:0.1", "docker.io/library/my-ubuntu:0.1", "my-ubuntu:0.1"),
        ("x:" + "b" * 128, "docker.io/library/x:" + "b" * 128, "x:" + "b" * 128),
    ],
)
def test_names_are_normalised_and_shortened(text: str, normalised: str, familiar: str) -> None:
    reference = parse_reference(text)
    assert str(reference) == normalised
    assert reference.familiar() == familiar


@pytest.mark.parametrize(
    "text",
    ["", "my-ubuntu:0,1", "a@sha256:aa", "foo_bar:50/x", "a:b:c", "ubuntu:", "é", " x", "x\n", "a//b", "/a", "a/", "a..b",
     "a___b", "a.-b", "-a", "a-", "a:.b", "a:-b", "a:" + "b" * 129, f"x@{HEX}", f"x@sha256:{HEX}:1", "a.b:x/c",
     "http://x/y", "a b", "x:ÿ", "_a", "a._b", "x@", "x@sha256", ":1", f"@sha256:{HEX}", "a.", "٣", "x:٣"],
)  # fmt: skip
def test_bad_formats_are_refused(text: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse_reference(text)
    assert str(caught.value) == "invalid reference format"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Foo", "invalid reference format: repository name (library/Foo) must be lowercase"),
        ("a/Foo:x", "invalid reference format: repository name (a/Foo) must be lowercase"),
        (HEX, f"invalid repository name ({HEX}), cannot specify 64-byte hexadecimal strings"),
        ("a" * 300, "repository name must not be more than 255 characters"),
        ("Foo_b/x", "repository name must be lowercase"),
    ],
)
def test_other_refusals_say_why(text: str, message: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse_reference(text)
    assert str(caught.value) == message


@pytest.mark.parametrize("text", [f"x@sha257:{HEX}", "x@sha256:" + "a" * 40, f"x@sha256:{HEX.upper()}"])
def test_only_sha256_digests_are_taken(text: str) -> None:
    with pytest.raises(InvalidArgument, match="digest"):
        parse_reference(text)


def test_latest_is_added_only_to_a_bare_name() -> None:
    assert parse_tagged("ubuntu").familiar() == "ubuntu:latest"
    assert parse_tagged("ubuntu:1").tag == "1"
    assert parse_tagged(f"ubuntu@{DIGEST}").tag is None


def test_a_reference_can_be_given_another_tag_or_digest() -> None:
    reference = parse_reference(f"a/b:1@{DIGEST}")
    assert reference.with_tag("2") == Reference("docker.io", "a/b", "2")
    assert reference.with_digest(DIGEST) == Reference("docker.io", "a/b", None, DIGEST)
    assert reference.repository().familiar() == "a/b"
    with pytest.raises(InvalidArgument, match="invalid tag format"):
        reference.with_tag("0,1")

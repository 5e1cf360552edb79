"""Readers that give only what was promised."""

from __future__ import annotations

import io

import pytest

from lamella.changeset.verify import VerifiedReader
from lamella.errors import DataLoss, DigestMismatch
from lamella.model.digest import digest_of


def test_right_bytes_pass() -> None:
    content = b"x" * 3000
    assert VerifiedReader(io.BytesIO(content), digest_of(content), 3000).read() == content
    assert VerifiedReader(io.BytesIO(content), digest_of(content)).read() == content
    assert VerifiedReader(io.BytesIO(b""), digest_of(b""), 0).read() == b""


def test_wrong_bytes_are_told_at_the_end() -> None:
    reader = VerifiedReader(io.BytesIO(b"abc"), digest_of(b"abd"), 3, what="blob 1")
    with pytest.raises(DigestMismatch, match="blob 1"):
        reader.read(3)


def test_too_few_bytes_are_told() -> None:
    with pytest.raises(DigestMismatch):
        VerifiedReader(io.BytesIO(b"ab"), digest_of(b"abc"), 3).read()
    with pytest.raises(DataLoss, match="1 of 3 bytes are missing"):
        VerifiedReader(io.BytesIO(b"ab"), digest_of(b"ab"), 3).read()


def test_too_many_bytes_are_told_and_not_given() -> None:
    source = io.BytesIO(b"abcdefgh")
    reader = VerifiedReader(source, digest_of(b"abc"), 3)
    with pytest.raises(DataLoss, match="longer than the 3 bytes"):
        reader.read()
    assert source.tell() == 4


def test_an_early_end_verifies_by_draining() -> None:
    reader = VerifiedReader(io.BytesIO(b"abc" * 1000), digest_of(b"other"))
    assert reader.read(1) == b"a"
    with pytest.raises(DigestMismatch):
        reader.drain()

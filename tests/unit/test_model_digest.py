from __future__ import annotations

import pytest

from lamella.errors import InvalidArgument
from lamella.model.digest import EMPTY_LAYER, chain_id, chain_ids, digest_of, hex_of, is_hex64, parse_digest


def test_the_empty_tar_is_1024_zero_bytes() -> None:
    assert digest_of(bytes(1024)) == EMPTY_LAYER


def test_chain_ids_are_dockers() -> None:
    assert chain_ids([EMPTY_LAYER] * 3) == [
        EMPTY_LAYER,
        "sha256:170b376f64fb30995c140276be3d71dfb256b308d86183ca3b22aa93a79ad548",
        "sha256:7800f80a93336d416612f372faa5f69eb67b353ce6ae9535fa0848f8784c74b1",
    ]
    assert chain_ids([]) == []


def test_chain_id_of_a_bottom_layer_is_its_diff_id() -> None:
    assert str(chain_id(None, EMPTY_LAYER)) == EMPTY_LAYER


def test_a_digest_is_parsed_and_taken_apart() -> None:
    text = "sha256:" + "0123456789abcdef" * 4
    assert parse_digest(text) == text
    assert hex_of(parse_digest(text)) == "0123456789abcdef" * 4
    assert is_hex64(hex_of(text))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "format"),
        ("sha256", "format"),
        (":" + "a" * 64, "format"),
        ("sha512:" + "a" * 128, "unsupported digest algorithm"),
        ("SHA256:" + "a" * 64, "unsupported digest algorithm"),
        ("sha256:" + "a" * 63, "length"),
        ("sha256:" + "A" * 64, "format"),
        ("sha256:" + "a" * 63 + "\n", "format"),
        ("sha256:" + "a" * 64 + "\n", "length"),
        ("sha256:" + "a" * 61 + "../", "format"),
        ("sha256:" + "٣" * 64, "format"),
    ],
)
def test_what_is_no_digest_is_refused(text: str, reason: str) -> None:
    with pytest.raises(InvalidArgument, match=reason):
        parse_digest(text)

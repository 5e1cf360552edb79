"""``--chmod``: octal modes, and symbolic ones as BuildKit reads them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamella.build.chmod import parse_chmod
from lamella.errors import InvalidArgument


@pytest.mark.parametrize(
    ("text", "mode", "directory", "expected"),
    [
        ("755", 0o600, False, 0o755),
        ("0644", 0o777, True, 0o644),
        ("4711", 0o600, False, 0o4711),
        ("u+x", 0o644, False, 0o744),
        ("+x", 0o644, False, 0o755),
        ("a=r", 0o755, False, 0o444),
        ("=r", 0o4755, False, 0o444),
        ("go-rwx", 0o755, True, 0o700),
        ("u=rwX,go=rX", 0o640, False, 0o644),  # X after = asks for nothing
        ("u=rw,go+X", 0o640, False, 0o640),
        ("a+X", 0o644, True, 0o755),
        ("a+X", 0o645, False, 0o755),
        ("g=u", 0o640, False, 0o660),
        ("g=u,o=g", 0o640, False, 0o666),
        ("u+s,g+s", 0o755, False, 0o6755),
        ("o+s", 0o755, False, 0o755),
        ("+t", 0o755, True, 0o1755),
        ("u-w+x", 0o644, False, 0o544),
        ("g=", 0o775, False, 0o705),
    ],
)
def test_a_mode_becomes_what_buildkit_makes_of_it(text: str, mode: int, directory: bool, expected: int) -> None:
    assert oct(parse_chmod(text).apply(mode, directory=directory)) == oct(expected)


@pytest.mark.parametrize("text", ["8", "79", "10000", "0x1ff", "rwx", "u", "u+q", "u+x,", ",u+x", "u+x g+x", "-1"])
def test_what_is_no_mode_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="invalid chmod parameter"):
        parse_chmod(text)


@given(st.from_regex(r"[augo]{0,2}[-+=][rwxXstugo]{0,4}(,[augo]?[-+=][rwx]{0,3}){0,2}", fullmatch=True),
       st.integers(0, 0o7777), st.booleans())  # fmt: skip
def test_a_symbolic_mode_gives_a_mode(text: str, mode: int, directory: bool) -> None:
    assert 0 <= parse_chmod(text).apply(mode, directory=directory) <= 0o7777

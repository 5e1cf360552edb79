"""The public names: one table, what it promises is there, and is documented."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest

import lamella


@pytest.mark.parametrize("name", dir(lamella))
def test_every_public_name_is_found_and_documented(name: str) -> None:
    value = getattr(lamella, name)
    if inspect.isclass(value):
        assert value.__doc__
        for attribute, member in vars(value).items():
            if not attribute.startswith("_") and (inspect.isfunction(member) or isinstance(member, property)):
                assert inspect.getdoc(member), f"{name}.{attribute}"


def test_the_table_says_the_same_to_type_checkers() -> None:
    tree = ast.parse(Path(lamella.__file__).read_text())
    guarded = next(node for node in tree.body if isinstance(node, ast.If))
    imported = {
        (str(item.asname), str(node.module))
        for node in guarded.body
        if isinstance(node, ast.ImportFrom)
        for item in node.names
    }
    assert imported == set(lamella._PUBLIC.items())


def test_other_names_are_no_attributes() -> None:
    with pytest.raises(AttributeError, match="nothing_of_the_kind"):
        _ = lamella.nothing_of_the_kind

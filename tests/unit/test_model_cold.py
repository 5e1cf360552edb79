"""What every command loads must stay cheap: these modules may not pull in the heavy ones."""

from __future__ import annotations

import sys

import pytest

from lamella.linux import spawn

HEAVY = ("dataclasses", "datetime", "msgspec", "json", "hashlib", "inspect", "decimal", "base64", "secrets", "logging")


@pytest.mark.parametrize(
    "module", ["digest", "ids", "reference", "gojson", "units", "documents", "progress", "filters", "platform"]
)
def test_small_modules_load_nothing_heavy(module: str) -> None:
    code = f"import sys, lamella.model.{module}; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = spawn.run([sys.executable, "-c", code], env={})
    assert done.stdout.decode().strip() == "[]", done.stderr.decode()


def test_templates_load_nothing_heavy() -> None:
    code = f"import sys, lamella.model.gotemplate; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = spawn.run([sys.executable, "-c", code], env={})
    assert done.stdout.decode().strip() == "[]", done.stderr.decode()

"""Layers written in both ways: by one process, and with another one making the small inodes."""

from __future__ import annotations

import pytest

from lamella.changeset import crew


@pytest.fixture(params=["alone", "helped"])
def helped(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Have the helper make the very first inode, or none."""
    helped: bool = request.param == "helped"
    monkeypatch.setattr(crew, "UNAIDED", 1 if helped else 1 << 62)
    monkeypatch.setattr(crew, "PATIENCE", 30.0)
    monkeypatch.setattr("lamella.changeset.inflow.Inflow.ahead", True)
    return helped

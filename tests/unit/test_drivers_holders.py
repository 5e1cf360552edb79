"""Counting the users of a mount while other processes come and go."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lamella.drivers.holders import Holders
from lamella.model.ids import new_cache_id


def test_a_count_that_its_last_user_takes_away_meanwhile_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer, real, calls = new_cache_id(), os.mkdir, []

    def mkdir(path: str | Path, mode: int = 0o777) -> None:
        calls.append(path)
        if Path(path).name == layer and calls.count(path) == 1:
            raise FileExistsError  # it was there, and is gone by the next look
        real(path, mode)

    monkeypatch.setattr(os, "mkdir", mkdir)
    holders = Holders(tmp_path / "mounts")
    with holders.hold(layer, "merged", lambda: tmp_path, lambda: None) as place:
        assert place == tmp_path
    assert holders.layers() == []

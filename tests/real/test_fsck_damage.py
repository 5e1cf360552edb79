"""Damage of many kinds, one at a time, to a store that dockerd and lamella wrote: each is found, and mended."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from lamella.engine.registries import Registries, connected
from lamella.insight.findings import CODES, Severity
from lamella.insight.fsck import Report, check_store
from lamella.insight.heal import heal_store
from lamella.insight.sources import Registry
from lamella.model.reference import Reference
from tests.support.checkedstores import CheckedStore, copy_store, make_store
from tests.support.damage import CASES, Damage, Place
from tests.support.dockerd import Dockerd
from tests.support.registry import RealRegistry

pytestmark = pytest.mark.xdist_group("fsck-damage")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, base_tar: Path) -> Generator[CheckedStore]:
    place = tmp_path_factory.mktemp("checked")
    with RealRegistry(place / "registry") as registry:
        yield make_store(place, base_tar, registry)


@contextlib.contextmanager
def connect(reference: Reference) -> Iterator[Registry]:
    with connected(reference, Registries()) as client:
        yield client


def told(report: Report) -> list[str]:
    return [f"{item.severity} {item.code} {item.path}: {item.text}" for item in report.findings
            if item.severity is not Severity.NOTE]  # fmt: skip


def test_the_store_is_sound_to_the_last_byte(store: CheckedStore) -> None:
    assert told(check_store(store.root, deep=True)) == []


@pytest.mark.parametrize("damage", CASES, ids=lambda damage: damage.name)
def test_damage_is_found_and_mended(store: CheckedStore, tmp_path: Path, damage: Damage) -> None:
    root = copy_store(store.root, tmp_path / "root")
    damage.inflict(Place(root, store))
    report = check_store(root, deep=damage.deep, processes=1)
    assert damage.codes & {finding.code for finding in report.findings}, told(report)
    assert not report.sound
    healed = heal_store(root, deep=damage.deep, connect=connect, processes=1)
    after = check_store(root, deep=True, processes=1)
    if damage.left:
        assert told(after) != []
        assert any(step.failure for step in healed.steps)
        if not damage.set_aside:
            return
        heal_store(root, deep=True, connect=connect, set_aside=True, processes=1)
        after = check_store(root, deep=True, processes=1)
    assert told(after) == [], healed.steps

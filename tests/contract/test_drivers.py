"""Both drivers, held to the one contract."""

from __future__ import annotations

from pathlib import Path

import pytest

from lamella.drivers import open_driver
from lamella.drivers.base import Driver
from lamella.testing.driver_contract import DriverContract


class TestOverlay2(DriverContract):
    @pytest.fixture
    def driver(self, store_root: Path) -> Driver:
        store_root.mkdir()
        return open_driver("overlay2", store_root, store_root / "lamella")


class TestVfs(DriverContract):
    @pytest.fixture
    def driver(self, store_root: Path) -> Driver:
        store_root.mkdir()
        return open_driver("vfs", store_root, store_root / "lamella")

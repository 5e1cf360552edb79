"""Fixtures that every suite shares: a small real root file system, a data root, and the census after each test."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.rootfs import make_busybox_rootfs, pack

if TYPE_CHECKING:
    from collections.abc import Generator

TOOLS = (
    "crun",
    "conmon",
    "runc",
    "busybox",
    "dockerd",
    "podman",
    "skopeo",
    "umoci",
    "ctr",
    "setfattr",
    "setcap",
    "chromium",
    "bzip2",
    "curl",
)


def tool_path(name: str) -> str | None:
    """Find *name* where administrators' programs are too; a user's PATH may lack /usr/sbin."""
    return shutil.which(name, path="/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/bin")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--screenshots",
        type=Path,
        default=Path(__file__).parent.parent / ".cache" / "screenshots",
        help="where pictures of the page are kept",
    )


@pytest.fixture(scope="module", autouse=True)
def left_sound(request: pytest.FixtureRequest) -> Generator[None]:
    """See that fsck has nothing to say to the stores that a module's commands left, unless it damages them on purpose."""
    from lamella.insight.fsck import check_store
    from tests.support.cli import Lamella

    known = set(Lamella.roots)
    yield
    if getattr(request.module, "DAMAGES_STORES", False):
        return
    told = [
        f"{finding.code} {finding.path}: {finding.text}"
        for root in sorted(Lamella.roots - known)
        if (root / "image").is_dir()
        for finding in check_store(root, processes=1).findings
        if finding.code != "unclean"  # whatever was killed on purpose
    ]
    assert told == []


@pytest.fixture(scope="session")
def screenshots(pytestconfig: pytest.Config) -> Path:
    """The directory that keeps pictures of the page, to be looked at."""
    place: Path = pytestconfig.getoption("--screenshots")
    return place


def pytest_report_header() -> list[str]:
    found = [name for name in TOOLS if tool_path(name)]
    missing = [name for name in TOOLS if not tool_path(name)]
    return [
        f"kernel {os.uname().release}, uid {os.getuid()}",
        f"tools: {', '.join(found)}; missing: {missing or 'none'}",
    ]


def pytest_sessionstart() -> None:
    """Refuse to run half the suite: a machine without root or a tool gets told, not skipped."""
    missing = [name for name in TOOLS if not tool_path(name)]
    if os.getuid() != 0 or missing:
        pytest.exit(f"the tests need root and these tools: {missing or 'all there'}; run `make test` as root", 3)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish() -> Generator[None]:
    """Let pytest clear the directories of earlier runs: it goes down by recursion, and some tests make deep trees."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(10_000)
    try:
        return (yield)
    finally:
        sys.setrecursionlimit(limit)


def mounts_below(path: Path) -> list[str]:
    """List the mount points below *path*, innermost first."""
    lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    targets = [line.split()[4] for line in lines]
    return [target for target in reversed(targets) if target == str(path) or target.startswith(f"{path}/")]


@pytest.fixture(scope="session")
def busybox_rootfs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root file system of static busybox: small, real, and able to run a shell."""
    return make_busybox_rootfs(tmp_path_factory.mktemp("busybox") / "rootfs")


@pytest.fixture(scope="session")
def base_tar(busybox_rootfs: Path) -> Path:
    """The busybox root file system as a plain tar, as `docker export` would write it."""
    target = busybox_rootfs.parent / "base.tar"
    pack(busybox_rootfs, target)
    return target


@pytest.fixture(scope="session")
def debian_tar() -> Path:
    """A real Debian root file system; `make test` builds it once into the cache."""
    path = Path(__file__).parent.parent / ".cache" / "debian.tar"
    if not path.exists():
        subprocess.run([str(path.parent.parent / "scripts" / "base-image.sh"), str(path)], check=True)
    return path


@pytest.fixture
def store_root(tmp_path: Path) -> Generator[Path]:
    """A path for a new data root; a mount left standing below it after the test is a failure."""
    root = tmp_path / "data-root"
    yield root
    leaked = mounts_below(tmp_path)
    for target in leaked:
        subprocess.run(["umount", "-l", target], check=False)
    assert not leaked, f"mounts left standing: {leaked}"

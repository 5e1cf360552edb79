"""What a command may not load before it is needed: start-up time is a feature, and this is its guard.

Each command runs in a fresh interpreter.  ``typing_extensions`` is hidden from it: msgspec takes it when some
development tool happens to have installed it, a plain installation has none.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

NEVER = frozenset(
    {"asyncio", "ssl", "http", "tarfile", "importlib.metadata", "logging", "argparse", "shtab", "unittest"}
)
NOT_TO_READ = NEVER | {"rich", "subprocess", "zstandard", "isal", "dataclasses", "socket", "tempfile", "urllib.request"}
NOT_TO_TAKE_FROM_THE_CACHE = NOT_TO_READ | {
    "queue",
    "lamella.build.check",
    "lamella.build.copyfiles",
    "lamella.build.outputs",
    "lamella.build.running",
    "lamella.build.runmounts",
    "lamella.changeset.apply",
    "lamella.cli.buildview",
    "lamella.container.volumes",
    "lamella.drivers.probe",
    "lamella.runtime",
    "lamella.store.distribution",
}
NOTHING_OF_OURS = NOT_TO_READ | {"msgspec", "json", "hashlib", "ctypes", "lamella.store", "lamella.engine"}

PROBE = """
import sys
sys.modules["typing_extensions"] = None
from lamella.cli.main import run
code = run(sys.argv[1:])
sys.stdout.flush()
sys.stderr.write(" ".join([str(code), *(name for name, module in sys.modules.items() if module is not None)]))
"""


def loaded_by(*arguments: str) -> set[str]:
    answer = subprocess.run(
        [sys.executable, "-c", PROBE, *arguments], capture_output=True, text=True, check=True, timeout=60
    )
    code, *modules = answer.stderr.split()
    assert code == "0"
    return set(modules)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, base_tar: Path) -> Path:
    root = tmp_path_factory.mktemp("cold") / "root"
    loaded_by("--root", str(root), "import", str(base_tar), "base:1")
    loaded_by("--root", str(root), "create", "--name", "rest", "base:1", "true")
    return root


@pytest.mark.parametrize("arguments", [["--version"], ["-v"], ["--help"], ["help"], ["image", "--help"]])
def test_version_and_help_load_next_to_nothing(arguments: list[str]) -> None:
    assert not loaded_by(*arguments) & NOTHING_OF_OURS


@pytest.mark.parametrize("name", ["run", "build", "load", "exec"])
def test_help_of_a_command_loads_nothing_that_it_would_need_to_run(name: str) -> None:
    assert not loaded_by(name, "--help") & NOTHING_OF_OURS


@pytest.mark.parametrize(
    "arguments",
    [
        ["images"],
        ["images", "-q", "--no-trunc"],
        ["inspect", "base:1"],
        ["inspect", "rest"],
        ["history", "base:1"],
        ["ps", "-a"],
        ["explain", "base:1"],
        ["explain", "rest"],
        ["images", "--format", "{{.Repository}}"],
        ["blame", "base:1", "/etc/passwd"],
        ["image", "diff", "base:1", "base:1"],
    ],
)
def test_reading_commands_load_no_heavy_module(store: Path, arguments: list[str]) -> None:
    assert not loaded_by("--root", str(store), *arguments) & NOT_TO_READ


@pytest.mark.parametrize(
    "arguments", [["tag", "base:1", "base:2"], ["save", "-o", "/dev/null", "base:1"], ["run", "--rm", "base:1", "true"]]
)
def test_no_command_loads_a_network_or_an_event_loop(store: Path, arguments: list[str]) -> None:
    assert not loaded_by("--root", str(store), *arguments) & (NEVER | {"rich"})


def test_a_build_that_is_all_cached_loads_nothing_that_carries_steps_out(store: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "Dockerfile").write_text("FROM base:1\nENV a=b\nCOPY file /file\nRUN true\nWORKDIR /srv\n")
    build = ["--root", str(store), "build", "-q", "--network", "none", "-t", "built", str(tmp_path)]
    loaded_by(*build)
    assert not loaded_by(*build) & NOT_TO_TAKE_FROM_THE_CACHE


def test_the_library_loads_nothing_until_asked() -> None:
    program = "import sys, lamella; print(sorted(m for m in sys.modules if m.startswith('lamella')), dir(lamella))"
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert answer.stdout.startswith("['lamella'] [")
    assert "'Store'" in answer.stdout

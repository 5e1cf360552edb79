"""The programs in the documentation do what it says they do."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest

from tests.conftest import mounts_below
from tests.support.registry import RealRegistry

DOCS = Path(__file__).parent.parent.parent / "docs"
_BLOCK = re.compile(r"^```(python|text)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("name", ["library.md"])
def test_programs_print_what_stands_below_them(name: str, tmp_path: Path, debian_tar: Path) -> None:
    blocks: list[tuple[str, str]] = _BLOCK.findall((DOCS / name).read_text())
    assert blocks
    assert [kind for kind, _ in blocks] == ["python", "text"] * (len(blocks) // 2)
    root = tmp_path / "store"
    with RealRegistry() as registry:
        places = {"/var/lib/lamella": root, "debian.tar": debian_tar, "localhost:5000": registry.host}
        places["oci:layout"] = f"oci:{tmp_path}/layout"
        run_programs(name, blocks, {old: str(new) for old, new in places.items()}, root)
    assert not mounts_below(tmp_path)


def run_programs(name: str, blocks: list[tuple[str, str]], places: dict[str, str], root: Path) -> None:
    space: dict[str, object] = {"__name__": name}

    def placed(text: str) -> str:
        for old, new in places.items():
            text = text.replace(old, new)
        return text

    try:
        for (_, program), (_, expected) in zip(blocks[::2], blocks[1::2], strict=True):
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                exec(compile(placed(program), name, "exec"), space)
            assert printed.getvalue() == placed(expected)
    finally:
        import lamella

        with lamella.Store.open(root) as store:
            for container in store.containers(all=True):
                container.remove(force=True)

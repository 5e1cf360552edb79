"""The programs in the documentation do what it says they do."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest

from tests.conftest import mounts_below

DOCS = Path(__file__).parent.parent.parent / "docs"
_BLOCK = re.compile(r"^```(python|text)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("name", ["library.md"])
def test_programs_print_what_stands_below_them(name: str, tmp_path: Path, debian_tar: Path) -> None:
    blocks: list[tuple[str, str]] = _BLOCK.findall((DOCS / name).read_text())
    assert blocks
    assert [kind for kind, _ in blocks] == ["python", "text"] * (len(blocks) // 2)
    space: dict[str, object] = {"__name__": name}
    root = tmp_path / "store"
    try:
        for (_, program), (_, expected) in zip(blocks[::2], blocks[1::2], strict=True):
            text = program.replace("/var/lib/lamella", str(root)).replace("debian.tar", str(debian_tar))
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                exec(compile(text, name, "exec"), space)
            assert printed.getvalue() == expected
    finally:
        import lamella

        with lamella.Store.open(root) as store:
            for container in store.containers(all=True):
                container.remove(force=True)
    assert not mounts_below(tmp_path)

"""Archives that ADD and a context on standard input unpack."""

from __future__ import annotations

import subprocess
from pathlib import Path

from lamella.build.unpack import unpack
from lamella.fs.rooted import Root


def test_holes_of_a_sparse_file_are_not_written(tmp_path: Path) -> None:
    with (tmp_path / "sparse").open("wb") as file:
        for offset, data in ((0, b"start"), (300 << 20, b"middle")):
            file.seek(offset)
            file.write(data)
        file.truncate(1 << 30)
    subprocess.run(["tar", "-C", tmp_path, "-S", "--format=posix", "-cf", tmp_path / "x.tar", "sparse"], check=True)
    (tmp_path / "out").mkdir()
    with (tmp_path / "x.tar").open("rb") as archive, Root(tmp_path / "out") as directory:
        unpack(archive, directory)
    with (tmp_path / "out/sparse").open("rb") as made, (tmp_path / "sparse").open("rb") as given:
        assert made.read(16) == given.read(16)
        for one in (made, given):
            one.seek((300 << 20) - 8)
        assert made.read(64) == given.read(64)
    status = (tmp_path / "out/sparse").stat()
    assert status.st_size == 1 << 30
    assert status.st_blocks * 512 < 1 << 20

"""What du finds: the judge of the ledger."""

from __future__ import annotations

import subprocess
from pathlib import Path


def du(root: Path) -> tuple[int, int]:
    """Return the bytes on the disk and the inodes of everything below *root* that is on its file system."""
    found = []
    for option in ("--block-size=1", "--inodes"):
        answer = subprocess.run(["du", "-sx", option, root], capture_output=True, text=True, check=True)
        found.append(int(answer.stdout.split()[0]))
    return found[0], found[1]

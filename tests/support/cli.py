"""The command line as a user runs it: a process of its own, on a data root of the test's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

LAMELLA = Path(sys.executable).parent / "lamella"


class Lamella:
    """``lamella --root ROOT``, run as a process."""

    roots: ClassVar[set[Path]] = set()
    """Every data root that was named in this process."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.roots.add(Path(root))

    def try_run(self, *arguments: str, stdin: bytes | None = None) -> subprocess.CompletedProcess[str]:
        """Run a command and return code and output, whatever the code."""
        answer = subprocess.run(
            [LAMELLA, "--root", self.root, *arguments],
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            check=False,
            timeout=300,
        )
        return subprocess.CompletedProcess(
            answer.args,
            answer.returncode,
            answer.stdout.decode(errors="surrogateescape"),
            answer.stderr.decode(errors="surrogateescape"),
        )

    def run(self, *arguments: str, stdin: bytes | None = None) -> str:
        """Run a command that must succeed and return its standard output, stripped."""
        answer = self.try_run(*arguments, stdin=stdin)
        assert answer.returncode == 0, f"lamella {' '.join(arguments)}: {answer.returncode}: {answer.stderr}"
        return answer.stdout.strip()

    def inspect(self, name: str) -> dict[str, Any]:
        """Return ``lamella inspect`` of one object."""
        documents: list[dict[str, Any]] = json.loads(self.run("inspect", name))
        return documents[0]

    def on_terminal(self, *arguments: str, typed: str) -> tuple[int, str]:
        """Run a command on a terminal of its own, type *typed*, and return its code and all that the screen got."""
        controller, terminal = os.openpty()
        with subprocess.Popen(
            [LAMELLA, "--root", self.root, *arguments],
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            start_new_session=True,
        ) as process:
            os.close(terminal)
            os.write(controller, typed.encode())
            screen = b""
            while True:
                try:
                    piece = os.read(controller, 65536)
                except OSError:  # EIO: the last holder of the terminal's other end is gone
                    break
                if not piece:
                    break
                screen += piece
            code = process.wait(60)
        os.close(controller)
        return code, screen.decode(errors="replace")

"""Small real root file systems for tests."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

BUSYBOX = Path("/bin/busybox")


def make_busybox_rootfs(root: Path) -> Path:
    """Make a runnable root file system of static busybox at *root* and return it."""
    for name in ("bin", "dev", "etc", "home", "proc", "root", "sys", "tmp", "usr/bin", "var/lib"):
        (root / name).mkdir(parents=True)
    (root / "tmp").chmod(0o1777)
    shutil.copy(BUSYBOX, root / "bin/busybox")
    (root / "bin/busybox").chmod(0o755)
    applets = subprocess.run([BUSYBOX, "--list"], check=True, capture_output=True, text=True).stdout.split()
    for applet in applets:
        if applet != "busybox":
            os.symlink("busybox", root / "bin" / applet)
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\nalice:x:1000:1000::/home/alice:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\nalice:x:1000:\nwheel:x:10:alice\n")
    (root / "etc/issue").write_text("busybox for tests\n")
    return root


def pack(root: Path, target: Path) -> None:
    """Write *root* as a plain tar to *target* with GNU tar, an independent writer."""
    subprocess.run(
        ["tar", "--numeric-owner", "--sort=name", "--mtime=@1600000000", "-C", str(root), "-cf", str(target), "."],
        check=True,
    )

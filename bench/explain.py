"""``python -m bench.explain``: what it takes to see through a large store: 1,000 images on 3,000 layers.

The store is generated as dockerd would have left it, with ``--files`` files in all (2,000,000 by default), below
``--directory``; ``--keep`` leaves it there to be used again.  Times are wall time of the whole command, medians of
``--rounds``; the first ``explain`` of an image, which counts its files, is told apart.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from lamella.fs.tree import remove_tree

REPOSITORY = Path(__file__).parent.parent
FAMILIES, BRANCHES, LEAVES = 10, 10, 10
BASE, MIDDLE, OWN = 10, 9, 2
PLACES = ("usr/bin", "usr/lib/python3/dist-packages", "usr/share/doc", "etc", "var/lib/dpkg/info", "opt/app", "srv")


class Record(NamedTuple):
    """One generated layer."""

    diff_id: str
    chain: str
    cache_id: str


class Generator:
    """Writes one store."""

    def __init__(self, root: Path, files: int) -> None:
        self.root = root
        self.image_dir = root / "image" / "overlay2"
        self.layers = 0
        self.images: dict[str, str] = {}
        total = FAMILIES * (BASE + BRANCHES * (MIDDLE + LEAVES * OWN))
        self.per_layer = max(1, files // total)
        for name in ("imagedb/content/sha256", "imagedb/metadata/sha256", "layerdb/sha256", "layerdb/mounts"):
            (self.image_dir / name).mkdir(parents=True)
        for name in ("overlay2/l", "containers", "lamella"):
            (root / name).mkdir(parents=True)

    def run(self) -> None:
        """Write families of images: a common base, branches of it, leaves of these."""
        for family in range(FAMILIES):
            base = self.grow([], BASE, f"base{family}")
            for branch in range(BRANCHES):
                middle = self.grow(base, MIDDLE, f"mid{branch}")
                for leaf in range(LEAVES):
                    self.image(self.grow(middle, OWN, f"leaf{leaf}"), f"team{family}/app{branch}:{leaf}")
        repositories: dict[str, dict[str, str]] = {}
        for name, image in self.images.items():
            repositories.setdefault(name.partition(":")[0], {})[name] = image
        (self.image_dir / "repositories.json").write_text(json.dumps({"Repositories": repositories}))

    def grow(self, below: list[Record], count: int, name: str) -> list[Record]:
        """Put *count* new layers on *below*."""
        stack = list(below)
        for _ in range(count):
            stack.append(self.layer(stack[-1] if stack else None, name))
        return stack

    def layer(self, parent: Record | None, name: str) -> Record:
        """Write one layer: its directory and its record."""
        number = self.layers
        self.layers += 1
        diff_id = f"sha256:{hashlib.sha256(f'layer {number}'.encode()).hexdigest()}"
        chain = diff_id
        if parent is not None:
            chain = f"sha256:{hashlib.sha256(f'{parent.chain} {diff_id}'.encode()).hexdigest()}"
        cache_id = hashlib.sha256(f"directory {number}".encode()).hexdigest()
        place = self.root / "overlay2" / cache_id
        diff = place / "diff"
        for directory in PLACES:
            os.makedirs(diff / directory)
        size = 0
        for index in range(self.per_layer):
            # One in ten is a file that layers below have too, the others are new.
            unique = "shared" if index % 10 == 0 else f"{name}-{number}"
            path = f"{diff}/{PLACES[index % len(PLACES)]}/{unique}-{index}"
            fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
            if index % 50 == 0:
                size += os.write(fd, b"x" * 100)
            os.close(fd)
        link = hashlib.sha256(cache_id.encode()).hexdigest()[:26].translate(str.maketrans("0189abcdef", "ABCDEFGHIJ"))
        (place / "link").write_text(link)
        os.symlink(f"../{cache_id}/diff", self.root / "overlay2" / "l" / link)
        if parent is not None:
            (place / "work").mkdir()
            above = self.root / "overlay2" / parent.cache_id
            (above / "committed").touch()
            lower = above / "lower"
            rest = f":{lower.read_text()}" if lower.exists() else ""
            (place / "lower").write_text(f"l/{(above / 'link').read_text()}{rest}")
        record = self.image_dir / "layerdb" / "sha256" / chain[7:]
        record.mkdir()
        (record / "diff").write_text(diff_id)
        (record / "size").write_text(str(size))
        (record / "cache-id").write_text(cache_id)
        if parent is not None:
            (record / "parent").write_text(parent.chain)
        return Record(diff_id, chain, cache_id)

    def image(self, stack: list[Record], name: str) -> None:
        """Write one image: its config, and note its name."""
        history: list[dict[str, object]] = []
        for number, layer in enumerate(stack):
            made_by = f"RUN /bin/sh -c apt-get install --yes package-{number} && make {layer.cache_id[:8]} # buildkit"
            history.append({"created": "2026-01-02T03:04:05Z", "created_by": made_by, "comment": "buildkit.v0"})
            if number % 4 == 0:
                history.append(
                    {"created": "2026-01-02T03:04:05Z", "created_by": f"ENV A{number}=b", "empty_layer": True}
                )
        environment = ["PATH=/usr/local/bin:/usr/bin:/bin", *(f"VARIABLE_{number}=value" for number in range(12))]
        config = {
            "architecture": "amd64",
            "config": {"Env": environment, "Cmd": ["/usr/bin/app"], "Labels": {"name": name}},
            "created": "2026-01-02T03:04:05Z",
            "history": history,
            "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in stack]},
        }
        raw = json.dumps(config).encode()
        digest = hashlib.sha256(raw).hexdigest()
        (self.image_dir / "imagedb" / "content" / "sha256" / digest).write_bytes(raw)
        self.images[name] = f"sha256:{digest}"


def generate(root: Path, files: int) -> None:
    """Write the store at *root*, which must not exist."""
    root.mkdir(mode=0o710, parents=True)
    Generator(root, files).run()
    os.sync()


def timed(command: list[str]) -> float:
    """Run a command that must succeed, and return its seconds."""
    start = time.perf_counter()
    answer = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    seconds = time.perf_counter() - start
    if answer.returncode:
        sys.exit(f"{' '.join(command)}: {answer.stderr.decode(errors='replace')}")
    return seconds


def measure(root: Path, rounds: int, lamella: str) -> None:
    """Time each command and print a line for it."""
    directories = sorted(name for name in os.listdir(root / "overlay2") if name != "l")
    base = [lamella, "--root", str(root)]

    def file_of(number: int) -> str:
        directory = root / "overlay2" / directories[number * 7 % len(directories)] / "diff" / "usr/bin"
        return str(directory / min(os.listdir(directory)))

    commands: dict[str, tuple[int, Callable[[int], list[str]]]] = {
        "images": (150, lambda _: [*base, "images"]),
        "explain, first time": (200, lambda number: [*base, "explain", f"team{number % 10}/app{number % 7}:3"]),
        "explain": (200, lambda _: [*base, "explain", "team5/app5:5"]),
        "why DIRECTORY": (
            150,
            lambda number: [lamella, "why", f"{root}/overlay2/{directories[number * 7 % len(directories)]}"],
        ),
        "why FILE": (150, lambda number: [lamella, "why", file_of(number)]),
        "blame PATH": (
            150,
            lambda number: [*base, "blame", f"team{number % 10}/app{number % 9}:7", "/usr/bin/shared-0"],
        ),
        "blame IMAGE": (0, lambda number: [*base, "blame", f"team{number % 10}/app{number % 9}:7"]),
        "image diff": (
            0,
            lambda number: [*base, "image", "diff", f"team{number % 10}/app2:1", f"team{number % 10}/app3:4"],
        ),
    }
    timed(commands["explain"][1](0))
    for name, (target, command) in commands.items():
        times = [timed(command(number)) * 1000 for number in range(rounds)]
        goal = f", target {target} ms" if target else ""
        print(f"{name:<20} {statistics.median(times):6.0f} ms (from {min(times):.0f} to {max(times):.0f}{goal})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=2_000_000)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--directory", type=Path, default=Path("/var/tmp"))
    parser.add_argument("--lamella", default=str(REPOSITORY / ".cache/venv/bin/lamella"), help="the command to time")
    parser.add_argument("--keep", type=Path, help="use the store at this path, and generate it there if there is none")
    arguments = parser.parse_args()
    place = Path(tempfile.mkdtemp(prefix="bench-explain-", dir=arguments.directory))
    root = arguments.keep or place / "root"
    try:
        if not root.exists():
            start = time.perf_counter()
            generate(root, arguments.files)
            print(f"generated in {time.perf_counter() - start:.0f} s")
        # What an earlier run counted would make the first time no first time.
        (root / "lamella" / "counts").unlink(missing_ok=True)
        measure(root, arguments.rounds, arguments.lamella)
    finally:
        remove_tree(place)


if __name__ == "__main__":
    main()

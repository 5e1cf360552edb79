"""``python -m bench.explain``: what it takes to see through a large store: 1,000 images on 3,000 layers.

The store is made by lamella itself from layer tars, with ``--files`` files in all (2,000,000 by default), below
``--directory``, which should lie on a file system on which nothing was deleted lately; ``--keep`` leaves the store there
to be used again.  Times are wall time of the whole command, medians of ``--rounds``.  What a first run has to count is
told apart, and for ``fsck`` and ``df`` with a cold cache, beside bare walks of the same tree.  In the end a dockerd is
started on the same store and asked the same.
"""

from __future__ import annotations

import argparse
import io
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent
sys.path.insert(0, str(REPOSITORY))

from tests.support.dockerd import DOCKER, Dockerd  # noqa: E402 - the daemon that the tests start, too

from bench import engines  # noqa: E402
from bench.engines import LAMELLA  # noqa: E402
from lamella.changeset.tarheader import format_header  # noqa: E402
from lamella.changeset.tario import Entry, Kind  # noqa: E402
from lamella.fs.tree import remove_tree  # noqa: E402
from lamella.model.digest import ImageID  # noqa: E402
from lamella.model.imageconfig import ContainerSettings, History, encode_image_config  # noqa: E402
from lamella.store.imagestore import ImageStore  # noqa: E402
from lamella.store.layerdb import Layer  # noqa: E402
from lamella.store.transactions import Transaction  # noqa: E402

FAMILIES, BRANCHES, LEAVES = 10, 10, 10
BASE, MIDDLE, OWN = 10, 9, 2
PLACES = ("usr/bin", "usr/lib/python3/dist-packages", "usr/share/doc", "etc", "var/lib/dpkg/info", "opt/app", "srv")
MOMENT = "2026-01-02T03:04:05Z"
ENV = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "DOCKER_BUILDKIT": "0"}


class Generator:
    """Fills one store."""

    def __init__(self, store: ImageStore, files: int) -> None:
        self.store = store
        self.layers = 0
        self.images: dict[str, ImageID] = {}
        total = FAMILIES * (BASE + BRANCHES * (MIDDLE + LEAVES * OWN))
        self.per_layer = max(1, files // total)

    def run(self) -> None:
        """Write families of images: a common base, branches of it, leaves of these."""
        for family in range(FAMILIES):
            with self.store.root.transaction("bench") as tx:
                base = self.grow([], BASE, f"base{family}", tx)
            for branch in range(BRANCHES):
                with self.store.root.transaction("bench") as tx:
                    middle = self.grow(base, MIDDLE, f"mid{branch}", tx)
                    for leaf in range(LEAVES):
                        self.image(self.grow(middle, OWN, f"leaf{leaf}", tx), f"team{family}/app{branch}:{leaf}", tx)
        self.store.tags.set_many(self.images)

    def grow(self, below: list[Layer], count: int, name: str, tx: Transaction) -> list[Layer]:
        """Put *count* new layers on *below*."""
        stack = list(below)
        for _ in range(count):
            tar = self.tar(f"{name}-{self.layers}")
            stack.append(self.store.layers.register(tar, stack[-1].chain_id if stack else None, tx=tx))
            self.layers += 1
        return stack

    def tar(self, name: str) -> io.BytesIO:
        """Write a layer: its directories and, one in ten, files that layers below have too; one in fifty has content."""
        parents = {str(above) for place in PLACES for above in (Path(place), *Path(place).parents)} - {"."}
        parts = [format_header(Entry(f"{place}/".encode(), Kind.DIRECTORY, mode=0o755)) for place in sorted(parents)]
        for index in range(self.per_layer):
            path = f"{PLACES[index % len(PLACES)]}/{'shared' if index % 10 == 0 else name}-{index}"
            size = 0 if index % 50 else 100
            parts.append(format_header(Entry(path.encode(), Kind.REGULAR, mode=0o644, size=size)))
            if size:
                parts.append(b"x" * size + bytes(512 - size))
        return io.BytesIO(b"".join([*parts, bytes(1024)]))

    def image(self, stack: list[Layer], name: str, tx: Transaction) -> None:
        """Write one image: its config, and note its name."""
        history: list[History] = []
        for number, layer in enumerate(stack):
            made_by = f"RUN /bin/sh -c apt-get install --yes package-{number} && make {layer.cache_id[:8]} # buildkit"
            history.append(History(created=MOMENT, created_by=made_by, comment="buildkit.dockerfile.v0"))
            if number % 4 == 0:
                history.append(History(created=MOMENT, created_by=f"ENV A{number}=b", empty_layer=True))
        raw = encode_image_config(
            architecture="amd64",
            created=MOMENT,
            config=ContainerSettings(
                env=("PATH=/usr/local/bin:/usr/bin:/bin", *(f"VARIABLE_{number}=value" for number in range(12))),
                cmd=("/usr/bin/app",),
                labels={"name": name},
            ),
            history=history,
            diff_ids=[layer.diff_id for layer in stack],
        )
        self.images[name] = self.store.images.put(raw, tx=tx)


def generate(root: Path, files: int) -> None:
    """Make the store at *root*, which must not exist."""
    Generator(ImageStore.open(root, driver="overlay2"), files).run()
    os.sync()


# -------------------------------------------------------------------------------------------------------------- walks


def walk(directory: str) -> int:
    """Look at everything below one directory, and nothing more; return how much there is."""
    found = 0
    waiting = [directory]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                entry.stat(follow_symlinks=False)
                found += 1
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
    return found


def parallel_walk(root: Path) -> int:
    """Look at everything below the layers' directory in as many processes as there are processors."""
    directories = [entry.path for entry in os.scandir(root / "overlay2")]
    with ProcessPoolExecutor() as pool:
        return sum(pool.map(walk, directories, chunksize=max(1, len(directories) // 64)))


def forget() -> None:
    """Have the kernel forget what it knows of files and directories."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3")


def clock(action: Callable[[], object]) -> float:
    """Return the milliseconds that *action* takes."""
    start = time.perf_counter()
    action()
    return (time.perf_counter() - start) * 1000


# ------------------------------------------------------------------------------------------------------------ measures


def run(*command: str | Path) -> float:
    """Return the milliseconds of a command that must succeed."""
    return engines.timed([str(word) for word in command], env=ENV).seconds * 1000


def show(name: str, times: list[float], target: int = 0) -> None:
    """Print one line of the table."""
    goal = f", target {target} ms" if target else ""
    print(
        f"{name:<26} {statistics.median(times):8.0f} ms (from {min(times):.0f} to {max(times):.0f}{goal})", flush=True
    )


def measure_looks(root: Path, rounds: int, lamella: Path) -> None:
    """Time the commands that look at one thing, with a warm cache."""
    directories = sorted(name for name in os.listdir(root / "overlay2") if name != "l")
    ours = partial(run, lamella, "--root", root)

    def directory(number: int) -> Path:
        return root / "overlay2" / directories[number * 7 % len(directories)]

    def file_of(number: int) -> Path:
        place = directory(number) / "diff" / "usr/bin"
        return place / min(os.listdir(place))

    commands: dict[str, tuple[int, Callable[[int], float]]] = {
        "images": (150, lambda _: ours("images")),
        "explain, first time": (200, lambda number: ours("explain", f"team{number % 10}/app{number % 7}:3")),
        "explain": (200, lambda _: ours("explain", "team5/app5:5")),
        "why DIRECTORY": (150, lambda number: run(lamella, "why", directory(number))),
        "why FILE": (150, lambda number: run(lamella, "why", file_of(number))),
        "blame PATH": (150, lambda n: ours("blame", f"team{n % 10}/app{n % 9}:7", "/usr/bin/shared-0")),
        "blame IMAGE": (0, lambda n: ours("blame", f"team{n % 10}/app{n % 9}:7")),
        "image diff": (0, lambda n: ours("image", "diff", f"team{n % 10}/app2:1", f"team{n % 10}/app3:4")),
    }
    commands["explain"][1](0)
    for name, (target, command) in commands.items():
        show(name, [command(number) for number in range(rounds)], target)


def measure_inode(root: Path, lamella: Path) -> None:
    """Time the search for an inode, which has to walk."""
    directories = sorted(name for name in os.listdir(root / "overlay2") if name != "l")
    times = []
    for name in directories[:: len(directories) // 3][:3]:
        status = os.stat(root / "overlay2" / name / "diff" / "srv")
        device = f"{os.major(status.st_dev)}:{os.minor(status.st_dev)}"
        times.append(run(lamella, "--root", root, "why", f"{device}:{status.st_ino}"))
    show("why DEVICE:INODE", times)


def measure_ledger(root: Path, rounds: int, lamella: Path) -> None:
    """Time the ledger: the first, which measures every layer once, and those after it, beside ``du``."""
    first = run(lamella, "--root", root, "df")
    show("df, first time", [first])
    du = [run("du", "-s", root) for _ in range(2)][-1]
    show("df", [run(lamella, "--root", root, "df") for _ in range(rounds)], 500)
    show("system df", [run(lamella, "--root", root, "system", "df") for _ in range(rounds)])
    show("du -s ROOT, warm", [du])


def measure_check(root: Path, lamella: Path, rounds: int) -> None:
    """Time a first fsck with a cold cache in turn with bare walks of the tree, then both with a warm one."""
    for state, prepare in (("cold", forget), ("warm", lambda: None)):
        walks: list[float] = []
        checks: list[float] = []
        for _ in range(rounds):
            prepare()
            walks.append(clock(partial(parallel_walk, root)))
            prepare()
            checks.append(run(lamella, "--root", root, "fsck"))
        show(f"parallel walk, {state}", walks)
        show(f"fsck, {state}", checks)
        ratio = statistics.median(checks) / statistics.median(walks)
        print(f"{'':26} {ratio:8.2f} of the walk{' (target 1.5)' if state == 'cold' else ''}", flush=True)


def measure_docker(root: Path, rounds: int) -> None:
    """Ask a dockerd on the same store."""
    start = time.perf_counter()
    with Dockerd(root) as dockerd:
        show("dockerd's start", [(time.perf_counter() - start) * 1000])
        docker = partial(run, DOCKER, "--host", f"unix://{dockerd.state}/socket")
        show("docker images", [docker("images") for _ in range(rounds)])
        show("docker system df", [docker("system", "df") for _ in range(max(2, rounds // 3))])


def main() -> None:
    """Make the store if it is not there, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=2_000_000)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--directory", type=Path, default=Path("/var/tmp"))
    parser.add_argument("--lamella", type=Path, default=LAMELLA, help="the command to time")
    parser.add_argument("--keep", type=Path, help="use the store at this path, and generate it there if there is none")
    arguments = parser.parse_args()
    place = Path(tempfile.mkdtemp(prefix="bench-explain-", dir=arguments.directory))
    root = arguments.keep or place / "root"
    try:
        if not root.exists():
            print(f"generated in {clock(partial(generate, root, arguments.files)) / 1000:.0f} s", flush=True)
        # What an earlier run counted would make the first time no first time.
        for name in ("counts", "usage"):
            (root / "lamella" / name).unlink(missing_ok=True)
        time.sleep(60)  # only then is a layer's size on disk believed to stay
        measure_looks(root, arguments.rounds, arguments.lamella)
        measure_inode(root, arguments.lamella)
        measure_ledger(root, arguments.rounds, arguments.lamella)
        measure_check(root, arguments.lamella, max(2, arguments.rounds // 3))
        measure_docker(root, arguments.rounds)
    finally:
        remove_tree(place)


if __name__ == "__main__":
    main()

"""``python -m bench.pull [ROUNDS] [IMAGE…]``: one registry, four images, lamella, dockerd and podman in turn, cold.

Each pull goes into a store that is new, in an order that turns from round to round; a daemon's start is not counted.
No store is removed before the end: for minutes ext4 looks at every inode that was deleted lately before it gives out a
new one, which would cost whoever comes next seconds (``recently_deleted`` in a profile).  That takes some 40 GB.
Beside them stands the floor, the same layers by ``curl | decompress | tar x`` one after another, and what each part of
the work costs alone: the network, inflating, hashing, writing, and the one sync that only lamella's pull ends with.
"""

from __future__ import annotations

import hashlib
import http.client
import io
import os
import random
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

REPOSITORY = Path(__file__).parent.parent
sys.path.insert(0, str(REPOSITORY))

from tests.support.dockerd import DOCKER, Dockerd  # noqa: E402 - the daemon and the registry that the tests start, too
from tests.support.registry import RealRegistry, put_blob  # noqa: E402
from tests.support.served import manifest_of  # noqa: E402

from bench import engines  # noqa: E402
from bench.engines import LAMELLA  # noqa: E402

ENV = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "XDG_RUNTIME_DIR": "/run"}
UNPACK = f"{sys.executable} -m isal.igzip -d"
TARGETS = {"dockerd": 0.5, "podman": 0.3}


class Timing(NamedTuple):
    """One pull: wall seconds, processor seconds, peak memory and bytes written, the last two in MB."""

    seconds: float
    busy: float
    peak: float
    written: float


class Image(NamedTuple):
    """An image in the registry."""

    name: str
    layers: list[Path]


# ------------------------------------------------------------------------------------------------------------- images


def tar_of(path: Path, files: Callable[[tarfile.TarFile], None]) -> Path:
    """Write one layer and pack it as docker does."""
    with tarfile.open(path, "w") as archive:
        files(archive)
    subprocess.run(["gzip", "-f", "-n", "-6", str(path)], check=True)
    return path.with_name(path.name + ".gz")


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    info.mtime = 1_600_000_000
    archive.addfile(info, io.BytesIO(content))


def mixed(count: int, source: random.Random) -> bytes:
    """Make bytes that pack about as well as programs do."""
    words = [source.randbytes(source.randint(2, 9)) for _ in range(3000)]
    parts: list[bytes] = []
    size = 0
    while size < count:
        part = source.randbytes(4096) if source.random() < 0.25 else b"".join(source.choices(words, k=1500))
        parts.append(part)
        size += len(part)
    return b"".join(parts)[:count]


def files_layer(path: Path, count: int, size: int, source: random.Random) -> Path:
    """Make a layer of *count* files of *size* bytes."""

    def fill(archive: tarfile.TarFile) -> None:
        for number in range(count):
            add(archive, f"srv/{path.name}/f{number}", mixed(size, source))

    return tar_of(path, fill)


def make_layers(place: Path, kind: str) -> list[Path]:
    """Make the packed layers of one of the four images."""
    source = random.Random(kind)
    match kind:
        case "debian":
            with open(REPOSITORY / ".cache/debian.tar", "rb") as raw, open(place / "debian.gz", "wb") as packed:
                subprocess.run(["gzip", "-n", "-6"], stdin=raw, stdout=packed, check=True)
            return [place / "debian.gz"]
        case "small-files":

            def many(archive: tarfile.TarFile) -> None:
                for number in range(30_000):  # directory by directory, as a walk gives them
                    add(archive, f"usr/d{number // 100}/f{number}", mixed(source.randint(200, 6000), source))

            return [tar_of(place / "small", many)]
        case "40-layers":
            return [files_layer(place / f"l{layer}", 25, 20_000, source) for layer in range(40)]
        case "8x100MB":
            return [files_layer(place / f"l{layer}", 10, 10 << 20, source) for layer in range(8)]
        case _:
            sys.exit(f"no image {kind}; there are debian, small-files, 40-layers, 8x100MB")


def publish(registry: RealRegistry, kind: str, layers: list[Path]) -> Image:
    """Put an image into the registry, past every engine."""
    from tests.support.archives import config_of

    plain = [subprocess.run(["gzip", "-dc", str(layer)], check=True, capture_output=True).stdout for layer in layers]
    config = config_of(plain)
    del plain
    blobs = [layer.read_bytes() for layer in layers]
    repository = kind.lower()
    for blob in (config, *blobs):
        put_blob(registry.host, repository, blob)
    manifest, media_type = manifest_of(config, blobs, docker=True)
    connection = http.client.HTTPConnection(registry.host)
    connection.request("PUT", f"/v2/{repository}/manifests/1", manifest, {"Content-Type": media_type})
    assert connection.getresponse().status == 201
    connection.close()
    return Image(f"{registry.host}/{repository}:1", layers)


def make_image(registry: RealRegistry, kind: str, place: Path) -> Image:
    """Make one of the images and put it into the registry."""
    return publish(registry, kind, make_layers(place, kind))


def in_a_child(make: Callable[[], Image]) -> Image:
    """Call *make* in a process of its own: the high-water mark of a command begins with what its parent holds."""
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        code = 1
        try:
            image = make()
            os.write(writing, "\n".join([image.name, *map(str, image.layers)]).encode())
            code = 0
        finally:
            os._exit(code)
    os.close(writing)
    with open(reading, encoding="utf-8") as answer:
        name, *layers = answer.read().split("\n")
    if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]):
        sys.exit("the image could not be made")
    return Image(name, [Path(layer) for layer in layers])


# ------------------------------------------------------------------------------------------------------------ engines


def timed(command: list[str]) -> Timing:
    """Run a command, which must succeed, and measure it and its children."""
    found = engines.timed(command, env=ENV)
    return Timing(found.seconds, found.busy, found.peak_kb / 1024, 0)


def disk_written(path: Path) -> float:
    """Read how many MB the disk under *path* has been given to write, all programs together."""
    device = os.stat(path).st_dev
    fields = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/stat").read_text().split()
    return int(fields[6]) * 512 / 1e6


def pull_lamella(image: Image, place: Path) -> Timing:
    return timed([str(LAMELLA), "--root", str(place / "store"), "pull", "-q", image.name])


def pull_podman(image: Image, place: Path) -> Timing:
    with tempfile.TemporaryDirectory(prefix="p-") as run:
        root = ["podman", "--root", str(place / "store"), "--runroot", run, "--storage-driver", "overlay"]
        return timed([*root, "pull", "-q", "--tls-verify=false", image.name])


def pull_docker(image: Image, place: Path) -> Timing:
    with Dockerd(place / "store") as docker:
        daemon = int((docker.state / "pid").read_text())
        before = daemon_use(daemon)
        client = timed([DOCKER, "--host", f"unix://{docker.state}/socket", "pull", "-q", image.name])
        after = daemon_use(daemon)
    return client._replace(busy=client.busy + after.busy - before.busy, peak=after.peak)


def daemon_use(pid: int) -> Timing:
    """Read what a daemon and its ended children have used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    busy = sum(int(field) for field in fields[11:15]) / os.sysconf("SC_CLK_TCK")
    status = Path(f"/proc/{pid}/status").read_text()
    peak = int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) / 1024
    return Timing(0, busy, peak, 0)


def floor(image: Image, place: Path) -> Timing:
    """Fetch, inflate and unpack with nothing verified, recorded or synced."""
    steps = []
    for number, layer in enumerate(image.layers):
        url = blob_url(image, layer)
        steps.append(f"mkdir {place}/{number} && curl -s {url} | {UNPACK} | tar x -C {place}/{number}")
    return timed(["sh", "-c", " && ".join(steps)])


def blob_url(image: Image, layer: Path) -> str:
    host, _, rest = image.name.partition("/")
    with layer.open("rb") as raw:
        digest = hashlib.file_digest(raw, "sha256").hexdigest()
    return f"http://{host}/v2/{rest.rpartition(':')[0]}/blobs/sha256:{digest}"


def parts(image: Image, place: Path) -> dict[str, float]:
    """Measure each part of the work alone, in seconds."""
    urls = [blob_url(image, layer) for layer in image.layers]
    plain = [place / f"{number}.tar" for number in range(len(image.layers))]

    def lasting(command: str) -> float:
        start = time.perf_counter()
        subprocess.run(["sh", "-c", command], check=True, env=ENV, stdout=subprocess.DEVNULL)
        return time.perf_counter() - start

    from isal import igzip_lib

    found = {"network": lasting(" && ".join(f"curl -s {url} -o /dev/null" for url in urls))}
    start = time.perf_counter()
    for layer in image.layers:
        unpacker = igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)
        with layer.open("rb") as packed:
            while piece := packed.read(256 << 10):
                unpacker.decompress(piece)
    found["inflate"] = time.perf_counter() - start
    for layer, target in zip(image.layers, plain, strict=True):
        subprocess.run(["sh", "-c", f"gzip -dc {layer} > {target}"], check=True)
    start = time.perf_counter()
    for path in (*image.layers, *plain):
        with path.open("rb") as raw:
            hashlib.file_digest(raw, "sha256")
    found["hash"] = time.perf_counter() - start
    os.sync()
    (place / "tree").mkdir()
    found["write"] = lasting(" && ".join(f"tar x -f {path} -C {place}/tree" for path in plain))
    start = time.perf_counter()
    os.sync()
    found["sync"] = time.perf_counter() - start
    return found


PULLS: dict[str, Callable[[Image, Path], Timing]] = {
    "lamella": pull_lamella,
    "dockerd": pull_docker,
    "podman": pull_podman,
    "floor": floor,
}


def measure(image: Image, rounds: int, scratch: Path) -> dict[str, list[Timing]]:
    """Pull an image by each engine in turn, each time into a store that is new."""
    timings: dict[str, list[Timing]] = {name: [] for name in PULLS}
    names = list(PULLS)
    for number in range(rounds):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            place = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=scratch))
            os.sync()
            before = disk_written(scratch)
            timing = PULLS[name](image, place)
            os.sync()  # what an engine left in memory is written sooner or later, unless it is removed
            timings[name].append(timing._replace(written=disk_written(scratch) - before))
    return timings


def show(kind: str, image: Image, timings: dict[str, list[Timing]], alone: dict[str, float]) -> None:
    """Print one image's table."""
    size = sum(layer.stat().st_size for layer in image.layers) / 1e6
    print(f"\n{kind}: {len(image.layers)} layer(s), {size:.0f} MB packed, {len(timings['lamella'])} rounds, medians")
    ours = statistics.median(timing.seconds for timing in timings["lamella"])
    print(f"  {'':8} {'wall':>8} {'cpu':>8} {'peak':>8} {'written':>9}   lamella is")
    for name, found in timings.items():
        wall, busy, peak, written = (statistics.median(column) for column in zip(*found, strict=True))
        target = f" (target {TARGETS[name]})" if name in TARGETS else ""
        ratio = "" if name == "lamella" else f"{ours / wall:.2f} of it{target}"
        print(f"  {name:8} {wall:7.2f}s {busy:7.2f}s {peak:5.0f} MB {written:6.0f} MB   {ratio}")
    print("  alone:   " + ", ".join(f"{name} {seconds:.2f}s" for name, seconds in alone.items()))


def main() -> None:
    """Run the rounds and print the tables."""
    words = sys.argv[1:]
    rounds = int(words.pop(0)) if words and words[0].isdecimal() else 5
    kinds = words or ["debian", "small-files", "40-layers", "8x100MB"]
    with tempfile.TemporaryDirectory(prefix="lamella-pull-") as directory, RealRegistry() as registry:
        for kind in kinds:
            place = Path(directory, kind)
            (place / "layers").mkdir(parents=True)
            image = in_a_child(partial(make_image, registry, kind, place / "layers"))
            (place / "parts").mkdir()
            alone = parts(image, place / "parts")
            measure(image, 1, place)  # warm the page cache and each program's own files
            show(kind, image, measure(image, rounds, place), alone)


if __name__ == "__main__":
    main()

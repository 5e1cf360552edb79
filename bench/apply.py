"""Unpacking a layer, by lamella and by tar: time, processor time, memory.

Give it layer tars, packed or not::

    python -m bench.apply debian.tar.gz --rounds 3 --directory /var/tmp

Each round unpacks into new directories of the same file system, by turns, after a sync.  The memory is the peak of the
unpacking process; with ``--large`` a layer of one 2 GiB file is made and measured too.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from lamella.changeset.apply import apply_layer
from lamella.changeset.tarheader import format_header
from lamella.changeset.tario import Entry, Kind
from lamella.changeset.tarsplit import reassemble
from lamella.fs.tree import remove_tree

LARGE = 2 << 30


def child(archive: Path, target: Path, record: Path) -> int:
    """Unpack once and say what it took; runs in a process of its own, so that its peak of memory is its own."""
    started = time.perf_counter()
    with archive.open("rb") as stream, record.open("wb") as tar_split:
        result = apply_layer(stream, target, tar_split=tar_split)
    seconds = time.perf_counter() - started
    used = resource.getrusage(resource.RUSAGE_SELF)
    started = time.perf_counter()
    reassemble(record, target, lambda _: None, expected=result.diff_id)
    again = time.perf_counter() - started
    print(seconds, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024, again, result.entries)
    return 0


def measure(archive: Path, rounds: int, directory: Path) -> None:
    ours: list[float] = []
    theirs: list[float] = []
    cpu = memory = again = 0.0
    entries = ""
    # Nothing is removed in between: ext4 makes new inodes slowly for half a minute after others were deleted.
    place = Path(tempfile.mkdtemp(prefix="bench-", dir=directory))
    try:
        for turn in range(rounds):
            (target := place / f"lamella-{turn}").mkdir()
            (other_target := place / f"tar-{turn}").mkdir()
            os.sync()
            line = subprocess.run(
                [sys.executable, "-m", "bench.apply", "--child", str(target), str(archive)],
                check=True,
                capture_output=True,
                text=True,
            ).stdout.split()
            ours.append(float(line[0]))
            cpu, memory, again, entries = float(line[1]), float(line[2]), float(line[3]), line[4]
            os.sync()
            started = time.perf_counter()
            subprocess.run(["tar", "--numeric-owner", "-xf", str(archive), "-C", str(other_target)], check=True)
            theirs.append(time.perf_counter() - started)
    finally:
        remove_tree(place)
    mine, other = statistics.median(ours), statistics.median(theirs)
    print(f"{archive.name}: {entries} members, {archive.stat().st_size / 1e6:.0f} MB")
    print(f"  lamella {mine:.2f} s (processor {cpu:.2f} s, peak {memory:.0f} MiB), made again in {again:.2f} s")
    print(f"  tar     {other:.2f} s; ratio {mine / other:.2f}")


def make_large(path: Path) -> None:
    """Write a layer of one file that neither packs nor repeats within a window."""
    noise = os.urandom(1 << 20)
    with path.open("wb") as out:
        out.write(format_header(Entry(b"large", Kind.REGULAR, size=LARGE)))
        for turn in range(LARGE >> 20):
            cut = turn * 509 % len(noise)
            out.write(noise[cut:] + noise[:cut])
        out.write(bytes(1024))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("archives", nargs="*", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--directory", type=Path, default=Path("/var/tmp"))
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child is not None:
        return child(options.archives[0], options.child, options.child.with_suffix(".record"))
    for archive in options.archives:
        measure(archive.resolve(), options.rounds, options.directory)
    if options.large:
        with tempfile.TemporaryDirectory(prefix="bench-", dir=options.directory) as place:
            large = Path(place, "large.tar")
            make_large(large)
            measure(large, 1, options.directory)
    return 0


if __name__ == "__main__":
    sys.exit(main())

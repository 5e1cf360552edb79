"""A value that is another one as soon as a store has changed, for a few status calls: what a watcher compares."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Final

_FRESH: Final = 50_000_000
"""Nanoseconds within which a second change may leave the same time as the first."""


def store_stamp(root: Path, kind: str, driver: str, live: Iterable[int] = ()) -> str:
    """Return the stamp of the store at *root*; files in layers do not count, names, records and states do.

    *live* are the processes of running containers: one that is gone changes the stamp, though no file may say so.
    """
    places = {"docker": _docker, "containers-storage": _storage}.get(kind, _containerd)(os.fspath(root), driver)
    digest = sha256()
    newest = 0
    for place in places:
        try:
            status = os.lstat(place)
        except OSError:
            digest.update(b"-\n")
            continue
        newest = max(newest, status.st_mtime_ns)
        digest.update(b"%d %d %d\n" % (status.st_ino, status.st_mtime_ns, status.st_size))
    for pid in live:
        digest.update(b"%d %d\n" % (pid, os.path.exists(f"/proc/{pid}")))
    if 0 <= time.time_ns() - newest < _FRESH:
        digest.update(b"fresh")  # the next stamp differs, in case a change follows within the clock's tick
    return digest.hexdigest()[:16]


def _docker(root: str, driver: str) -> Iterator[str]:
    image = f"{root}/image/{driver}"
    yield f"{image}/repositories.json"
    yield f"{image}/imagedb/content/sha256"
    yield f"{image}/layerdb/sha256"
    yield f"{image}/layerdb/mounts"
    yield f"{root}/volumes"
    yield f"{root}/buildkit/containerdmeta.db"
    yield from _below(f"{root}/containers", ("config.v2.json",))


def _storage(root: str, driver: str) -> Iterator[str]:
    for part in ("images", "layers", "containers"):
        yield f"{root}/{driver}-{part}/{part}.json"
        yield f"{root}/{driver}-{part}/volatile-{part}.json"
    yield f"{root}/volumes"
    yield f"{root}/db.sql"
    yield f"{root}/db.sql-wal"


def _containerd(root: str, driver: str) -> Iterator[str]:
    for base in (root, f"{root}/containerd/daemon"):
        yield f"{base}/io.containerd.metadata.v1.bolt/meta.db"
        yield f"{base}/io.containerd.snapshotter.v1.{driver}/metadata.db"
    yield f"{root}/volumes"
    yield from _below(f"{root}/containers", ("config.v2.json",))


def _below(directory: str, names: Sequence[str]) -> Iterator[str]:
    """Yield the directory, and what each directory in it has by these names."""
    yield directory
    try:
        entries = sorted(os.listdir(directory))
    except OSError:
        return
    for entry in entries:
        for name in names:
            yield f"{directory}/{entry}/{name}"

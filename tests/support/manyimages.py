"""A data root of very many images, written by hand: records and small directories, as no engine would make in time."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import NamedTuple

from lamella.model.digest import ChainID, DiffID, chain_id


class Layered(NamedTuple):
    """A layer that was written."""

    chain: ChainID
    diffs: tuple[DiffID, ...]
    steps: tuple[str, ...]


class ManyImages:
    """The root, while it is being filled."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._names: dict[str, dict[str, str]] = {}
        for place in ("imagedb/content/sha256", "imagedb/metadata/sha256", "layerdb/sha256", "layerdb/mounts"):
            (root / "image/overlay2" / place).mkdir(parents=True)
        (root / "containers").mkdir()

    def layer(self, below: Layered | None, step: str, files: dict[str, bytes], *, size: int | None = None) -> Layered:
        """Write a layer; its diff ID is made up."""
        seed = f"{below.chain if below else ''} {step}".encode("utf-8", "surrogateescape")
        diff = DiffID("sha256:" + hashlib.sha256(seed).hexdigest())  # type: ignore[arg-type]
        chain = chain_id(below.chain if below else None, diff)
        cache = hashlib.sha256(chain.encode()).hexdigest()
        directory = self.root / "overlay2" / cache / "diff"
        directory.mkdir(parents=True)
        for name, content in files.items():
            path = directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        record = self.root / "image/overlay2/layerdb/sha256" / chain.removeprefix("sha256:")
        record.mkdir()
        (record / "cache-id").write_text(cache)
        (record / "diff").write_text(diff)
        (record / "size").write_text(str(sum(map(len, files.values())) if size is None else size))
        if below is not None:
            (record / "parent").write_text(below.chain)
        return Layered(chain, (*(below.diffs if below else ()), diff), (*(below.steps if below else ()), step))

    def image(self, top: Layered, name: str, **changes: object) -> str:
        """Write an image that ends with a layer and return its ID."""
        config = {
            "architecture": "amd64",
            "config": {"Cmd": ["sh"]},
            "created": "2024-01-02T03:04:05Z",
            "history": [{"created": "2024-01-02T03:04:05Z", "created_by": step} for step in top.steps],
            "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": top.diffs},
            "author": name,
            **changes,
        }
        raw = json.dumps(config).encode()
        identity = hashlib.sha256(raw).hexdigest()
        (self.root / "image/overlay2/imagedb/content/sha256" / identity).write_bytes(raw)
        if name:
            self._names.setdefault(name.partition(":")[0], {})[name] = f"sha256:{identity}"
        return f"sha256:{identity}"

    def close(self) -> Path:
        """Write the names and return the root."""
        document = {"Repositories": self._names}
        (self.root / "image/overlay2/repositories.json").write_text(json.dumps(document))
        return self.root


def make_many(root: Path, *, images: int = 1000) -> Path:
    """Write *images* images on three times as many layers: ten bases, a hundred runtimes, the rest their own."""
    many = ManyImages(root)
    bases = [
        many.layer(None, f"ADD base{number}.tar /", {"etc/os-release": f"base {number}\n".encode(), "bin/sh": b"#" * 4000}, size=70_000_000 + number)
        for number in range(min(10, max(1, images // 10)))
    ]  # fmt: skip
    runtimes = [
        many.layer(
            bases[number % len(bases)], f"RUN install runtime{number}", {"usr/lib/runtime": b"r" * 900}, size=20_000_000
        )
        for number in range(max(1, images // 10))
    ]
    for number in range(images):
        top = runtimes[number % len(runtimes)]
        for step in ("COPY requirements /srv", "RUN install requirements", "COPY . /srv/app")[: 2 + number % 3]:
            top = many.layer(
                top, f"{step} # {number}", {f"srv/{len(top.steps)}": b"x" * (number % 50)}, size=1000 * number
            )
        many.image(top, f"team{number % 17}/service-{number:04}:1.{number % 7}")
    return many.close()

"""Image archives made by the standard library, as an independent writer, and a census of a data-root."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import stat
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

OCI = "application/vnd.oci.image"


def digest(raw: bytes) -> str:
    return "sha256:" + hashlib.sha256(raw).hexdigest()


def add(archive: tarfile.TarFile, name: str, content: bytes, *, mode: int = 0o644) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    info.mode = mode
    info.mtime = 1_600_000_000
    archive.addfile(info, io.BytesIO(content))


def layer_tar(files: Mapping[str, bytes | str | None]) -> bytes:
    """Make a layer: bytes are a file, text is a symbolic link's target, None is a directory."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in files.items():
            if isinstance(content, bytes):
                add(archive, name, content)
                continue
            info = tarfile.TarInfo(name)
            info.mtime = 1_600_000_000
            info.type = tarfile.DIRTYPE if content is None else tarfile.SYMTYPE
            info.mode = 0o755
            info.linkname = content or ""
            archive.addfile(info)
    return buffer.getvalue()


def config_of(layers: Sequence[bytes], **changes: Any) -> bytes:
    document: dict[str, Any] = {
        "architecture": "amd64",
        "config": {"Cmd": ["sh"], "Env": ["PATH=/bin"]},
        "created": "2024-01-02T03:04:05Z",
        "history": [{"created": "2024-01-02T03:04:05Z", "created_by": f"layer {n}"} for n in range(len(layers))],
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [digest(layer) for layer in layers]},
    }
    document.update(changes)
    return json.dumps(document).encode()


class Made(NamedTuple):
    """An image in parts: its config, its layers' plain tars, its tags."""

    config: bytes
    layers: list[bytes]
    tags: list[str]

    @property
    def id(self) -> str:
        return digest(self.config)


def image(layers: Sequence[bytes], *tags: str, **changes: Any) -> Made:
    return Made(config_of(layers, **changes), list(layers), list(tags))


def docker20(path: Path, *images: Made, manifest: object = None, compress: Any = bytes) -> Path:
    """Write an archive as docker 20.10 saves it: a directory a layer, the same layer again as a link."""
    with tarfile.open(path, "w") as archive:
        listed = []
        at: dict[str, str] = {}
        for item in images:
            names: list[str] = []
            for layer in item.layers:
                directory = hashlib.sha256(f"{item.id} {len(names)}".encode()).hexdigest()
                add(archive, f"{directory}/VERSION", b"1.0")
                add(archive, f"{directory}/json", b"{}")
                name = f"{directory}/layer.tar"
                if digest(layer) in at:
                    info = tarfile.TarInfo(name)
                    info.type = tarfile.SYMTYPE
                    info.linkname = f"../{at[digest(layer)]}"
                    archive.addfile(info)
                else:
                    add(archive, name, compress(layer))
                    at[digest(layer)] = name
                names.append(name)
            add(archive, f"{item.id[7:]}.json", item.config)
            listed.append({"Config": f"{item.id[7:]}.json", "RepoTags": item.tags or None, "Layers": names})
        add(archive, "manifest.json", json.dumps(listed if manifest is None else manifest).encode() + b"\n")
    return path


def oci_blobs(
    *images: Made, pack: Any = None, media: str = "tar", nest: int = 0, platform: dict[str, str] | None = None
) -> tuple[dict[str, bytes], bytes]:
    """Make the blobs and the index of a layout."""
    blobs: dict[str, bytes] = {}

    def put(raw: bytes, kind: str) -> dict[str, Any]:
        blobs[digest(raw)[7:]] = raw
        return {"mediaType": kind, "digest": digest(raw), "size": len(raw)}

    top = []
    for item in images:
        layers = [put(pack(layer) if pack else layer, f"{OCI}.layer.v1.{media}") for layer in item.layers]
        manifest = {
            "schemaVersion": 2,
            "mediaType": f"{OCI}.manifest.v1+json",
            "config": put(item.config, f"{OCI}.config.v1+json"),
            "layers": layers,
        }
        descriptor = put(json.dumps(manifest).encode(), f"{OCI}.manifest.v1+json")
        if platform is not None:
            descriptor["platform"] = platform
        for _ in range(nest):
            index = {"schemaVersion": 2, "mediaType": f"{OCI}.index.v1+json", "manifests": [descriptor]}
            descriptor = put(json.dumps(index).encode(), f"{OCI}.index.v1+json")
        for tag in item.tags or [""]:
            named = {"annotations": {"io.containerd.image.name": tag}} if tag else {}
            top.append({**descriptor, **named})
    return blobs, json.dumps({"schemaVersion": 2, "manifests": top}).encode()


def oci_directory(path: Path, blobs: Mapping[str, bytes], index: bytes) -> Path:
    (path / "blobs/sha256").mkdir(parents=True)
    for name, raw in blobs.items():
        (path / "blobs/sha256" / name).write_bytes(raw)
    (path / "index.json").write_bytes(index)
    (path / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    return path


def oci_tar(path: Path, blobs: Mapping[str, bytes], index: bytes) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, raw in blobs.items():
            add(archive, f"blobs/sha256/{name}", raw)
        add(archive, "index.json", index)
        add(archive, "oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
    return path


def packed_gzip(raw: bytes) -> bytes:
    return gzip.compress(raw, mtime=0)


def listing(root: Path) -> dict[str, tuple[Any, ...]]:
    """List everything in a data-root but lamella's own directory and empty directories of the skeleton."""
    found: dict[str, tuple[Any, ...]] = {}
    for directory, names, files in os.walk(root):
        for name in names + files:
            path = Path(directory, name)
            relative = str(path.relative_to(root))
            if relative.partition("/")[0] == "lamella":
                continue
            at = path.lstat()
            content = ""
            if stat.S_ISREG(at.st_mode):
                content = hashlib.sha256(path.read_bytes()).hexdigest()
            elif stat.S_ISLNK(at.st_mode):
                content = os.readlink(path)
            found[relative] = (oct(at.st_mode), at.st_uid, at.st_gid, at.st_rdev, content)
    return found


def leaks(root: Path) -> list[str]:
    """Name everything in a data-root that nothing refers to, or that marks something unfinished."""
    found: list[str] = []
    layerdb = root / "image/overlay2/layerdb"

    def names(path: Path) -> list[str]:
        return sorted(os.listdir(path)) if path.is_dir() else []

    live: set[str] = set()
    for name in names(layerdb / "sha256"):
        if len(name) != 64:
            found.append(f"layerdb/{name}")
            continue
        live.add((layerdb / "sha256" / name / "cache-id").read_text())
    for name in names(layerdb / "mounts"):
        for key in ("mount-id", "init-id"):
            path = layerdb / "mounts" / name / key
            if path.exists():
                live.add(path.read_text())
        if not (root / "containers" / name / "config.v2.json").exists():
            found.append(f"mounts/{name}")
    found += [f"containers/{name}" for name in names(root / "containers") if not (layerdb / "mounts" / name).exists()]
    links = set()
    for name in names(root / "overlay2"):
        if name == "l":
            continue
        if name not in live:
            found.append(f"overlay2/{name}")
        if (root / "overlay2" / name / "link").exists():
            links.add((root / "overlay2" / name / "link").read_text())
    found += [f"l/{name}" for name in names(root / "overlay2/l") if name not in links]
    found += [f"missing overlay2/{name}" for name in sorted(live) if not (root / "overlay2" / name / "diff").is_dir()]
    found += [f"write-set {name}" for name in names(layerdb / "tmp")]
    for part in ("tx", "wip", "locks", "mounts"):
        found += [f"lamella/{part}/{name}" for name in names(root / "lamella" / part)]
    for directory, _, files in os.walk(root / "image"):
        found += [f"{directory}/{name}" for name in files if name.startswith(".tmp-")]
    mounted = Path("/proc/self/mountinfo").read_text(encoding="utf-8")
    found += [f"mount {line.split()[4]}" for line in mounted.splitlines() if line.split()[4].startswith(f"{root}/")]
    return found

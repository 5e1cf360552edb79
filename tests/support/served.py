"""Images served by the misbehaving registry, properly unless a test says otherwise."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lamella.model.reference import Reference, parse_tagged
from lamella.transports.registry.client import RegistryClient
from lamella.transports.registry.keychain import Keychain
from lamella.transports.registry.settings import RegistrySettings
from tests.support.archives import Made, digest, packed_gzip
from tests.support.registry import FaultServer, document, whole

OCI = "application/vnd.oci.image"
DOCKER = "application/vnd.docker"
PATIENT = RegistrySettings(backoff=0.01, retry_time=5, stall_time=1, connect_time=2)


class Served(NamedTuple):
    """What lies on the server: the manifest, and the packed layers base first."""

    manifest: bytes
    media_type: str
    blobs: list[bytes]

    @property
    def digest(self) -> str:
        return digest(self.manifest)

    def paths(self, repository: str = "a") -> list[str]:
        return [f"/v2/{repository}/blobs/{digest(blob)}" for blob in self.blobs]


def manifest_of(
    config: bytes, blobs: Sequence[bytes], /, *, docker: bool = False, suffix: str = "+gzip", **changes: Any
) -> tuple[bytes, str]:
    kind = f"{DOCKER}.distribution.manifest.v2+json" if docker else f"{OCI}.manifest.v1+json"
    layer = f"{DOCKER}.image.rootfs.diff.tar{suffix.replace('+', '.')}" if docker else f"{OCI}.layer.v1.tar{suffix}"
    content: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": kind,
        "config": {
            "mediaType": f"{DOCKER}.container.image.v1+json" if docker else f"{OCI}.config.v1+json",
            "size": len(config),
            "digest": digest(config),
        },
        "layers": [{"mediaType": layer, "size": len(blob), "digest": digest(blob)} for blob in blobs],
    }
    content.update(changes)
    return json.dumps(content, indent=1).encode(), kind


def serve(
    server: FaultServer,
    made: Made,
    *tags: str,
    repository: str = "a",
    pack: Callable[[bytes], bytes] = packed_gzip,
    **options: Any,
) -> Served:
    """Put an image on the server under *tags*."""
    blobs = [pack(layer) for layer in made.layers]
    manifest, kind = manifest_of(made.config, blobs, **options)
    for name in (*(tags or ("1",)), digest(manifest)):
        server.on(f"/v2/{repository}/manifests/{name}", document(manifest, kind))
    for blob in (made.config, *blobs):
        server.on(f"/v2/{repository}/blobs/{digest(blob)}", whole(blob))
    return Served(manifest, kind, blobs)


def serve_index(server: FaultServer, entries: Sequence[tuple[Served, str]], tag: str, repository: str = "a") -> bytes:
    """Put an index on the server; each entry comes with its platform."""
    listed = []
    for served, platform in entries:
        system, architecture, *variant = platform.split("/")
        where = {"os": system, "architecture": architecture, **({"variant": variant[0]} if variant else {})}
        listed.append(
            {
                "mediaType": served.media_type,
                "size": len(served.manifest),
                "digest": served.digest,
                "platform": where,
            }
        )
    index = json.dumps({"schemaVersion": 2, "mediaType": f"{OCI}.index.v1+json", "manifests": listed}).encode()
    for name in (tag, digest(index)):
        server.on(f"/v2/{repository}/manifests/{name}", document(index, f"{OCI}.index.v1+json"))
    return index


def client_of(
    server: FaultServer, repository: str = "a", *, settings: RegistrySettings = PATIENT, actions: str = "pull"
) -> RegistryClient:
    reference = parse_tagged(f"{server.host}/{repository}:1")
    return RegistryClient(reference, settings=settings, keychain=Keychain(), actions=actions)


def name(server: FaultServer, rest: str = "a:1") -> Reference:
    return parse_tagged(f"{server.host}/{rest}")


class ChildPull(NamedTuple):
    """How a pull in a process of its own ended: the error's class, its text, and the most memory it ever had."""

    error: str
    text: str
    peak: int


_CHILD = """
import json, sys
import lamella
from lamella.engine.registries import Registries, RegistrySettings
root, name, settings = sys.argv[1:]
error = None
try:
    with lamella.Store.open(root) as store:
        store.pull(name, registries=Registries(RegistrySettings(**json.loads(settings))))
except lamella.LamellaError as problem:
    error = problem
# Of this program alone: what getrusage tells was the parent's too.
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(json.dumps([type(error).__name__ if error else "", str(error or ""), int(status["VmHWM"].split()[0]) << 10]))
"""


def pull_in_child(root: Path, name: str, settings: RegistrySettings = PATIENT) -> ChildPull:
    """Pull in a process of its own; what is no LamellaError is the test's failure."""
    given = {key: getattr(settings, key) for key in ("backoff", "retry_time", "stall_time", "connect_time")}
    command = [sys.executable, "-c", _CHILD, str(root), name, json.dumps(given)]
    answer = subprocess.run(command, capture_output=True, check=False, text=True, timeout=120)
    assert answer.returncode == 0, answer.stderr
    return ChildPull(*json.loads(answer.stdout))

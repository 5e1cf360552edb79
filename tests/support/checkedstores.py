"""A store that dockerd and lamella wrote in turn, with all that a store may hold, to be damaged in copies."""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tests.support.archives import Made, image, layer_tar, packed_gzip
from tests.support.cli import Lamella
from tests.support.dockerd import Dockerd
from tests.support.registry import RealRegistry, put_blob
from tests.support.served import manifest_of

DOCKERFILE = """\
FROM base:1
ENV author=jlz
RUN echo x1 > /tmp/test && rm /etc/issue && ln /tmp/test /tmp/other && chown 1000:10 /tmp/test
RUN rm -r /home && mkdir /home && echo new > /home/file && ln -s /home/file /pointer && mkfifo /pipe
COPY hello /opt/hello
ENTRYPOINT ["/bin/cat", "/tmp/test"]
"""


def push_image(host: str, repository: str, tag: str, made: Made) -> None:
    """Put an image into a plain registry."""
    import http.client

    blobs = [packed_gzip(layer) for layer in made.layers]
    for blob in (made.config, *blobs):
        put_blob(host, repository, blob)
    manifest, kind = manifest_of(made.config, blobs, docker=True)
    connection = http.client.HTTPConnection(host, timeout=20)
    try:
        connection.request("PUT", f"/v2/{repository}/manifests/{tag}", manifest, {"Content-Type": kind})
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 201, answer.status
    finally:
        connection.close()


def pulled_image(name: str) -> Made:
    """Make an image of three small layers whose files differ from one *name* to the next."""
    base = layer_tar({"etc": None, "etc/motd": f"hello from {name}\n".encode(), "bin": None, "bin/tool": b"t" * 5000,
                      "lib": "usr/lib", "usr": None, "usr/lib": None, "usr/lib/so": name.encode() * 100})  # fmt: skip
    middle = layer_tar({"etc/.wh.motd": b"", "etc/issue": name.encode(), "usr/share": None, "usr/share/doc": b"doc\n"})
    top = layer_tar(
        {"usr/share/.wh..wh..opq": b"", "usr/share/new": b"new\n", "var": None, "var/data": name.encode() * 300}
    )
    return image([base, middle, top])


class CheckedStore(NamedTuple):
    """The store, and the registry that part of it came from."""

    root: Path
    registry: RealRegistry
    lamella_image: str
    docker_image: str


def make_store(place: Path, base_tar: Path, registry: RealRegistry) -> CheckedStore:
    """Make the store below *place*: images pulled, built and committed by both, containers of both."""
    for name in ("one", "two"):
        push_image(registry.host, name, "1", pulled_image(name))
    lamella = Lamella(place / "root")
    context = place / "context"
    context.mkdir(parents=True)
    (context / "Dockerfile").write_text(DOCKERFILE)
    (context / "hello").write_text("hello\n")
    lamella.run("import", str(base_tar), "base:1")
    lamella.run("build", "-t", "app:1", str(context))
    lamella.run("pull", "-q", f"{registry.host}/one:1")
    lamella.run("create", "--name", "made-by-lamella", "app:1")
    lamella.run("run", "--name", "ran-by-lamella", "app:1")
    with Dockerd(lamella.root) as docker:
        docker.run("pull", "-q", f"{registry.host}/two:1")
        docker.run("run", "--network", "none", "--name", "docker-ran", "app:1")
        docker.run("run", "--network", "none", "--name", "writer", "--entrypoint", "/bin/touch", "app:1", "/made")
        docker.run("commit", "writer", "committed:1")
        docker.run("create", "--name", "of-two", f"{registry.host}/two:1", "sh")
        # lamella's own build of the rest is dockerd's cache: the last step makes this image another one.
        (context / "Dockerfile").write_text(DOCKERFILE + "RUN echo y > /y\n")
        sent = io.BytesIO()
        with tarfile.open(fileobj=sent, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            for name in ("Dockerfile", "hello"):
                tar.add(context / name, name)
        docker.run("build", "--network", "none", "-t", "built:1", "-", stdin=sent.getvalue())
    return CheckedStore(lamella.root, registry, f"{registry.host}/one:1", f"{registry.host}/two:1")


def copy_store(source: Path, target: Path) -> Path:
    """Copy a data-root, sharing blocks where the file system can."""
    subprocess.run(["rm", "-rf", target], check=True)
    subprocess.run(["cp", "-a", "--reflink=auto", source, target], check=True)
    return target


def documents(text: str) -> dict[str, object]:
    """Parse what a command printed as JSON."""
    found: dict[str, object] = json.loads(text)
    return found


Damage = Callable[[Path], None]
